"""G4G's networks: what they give, what they may change, and that their formulas are what they say."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import g4g_people
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_core.protocols import TrainingData  # noqa: E402
from g4g_core.references import COUNT  # noqa: E402
from g4g_model.config import PRESETS, VARIANTS, G4GConfig  # noqa: E402
from g4g_model.g4g import G4G, masks_of  # noqa: E402
from g4g_model.inputs import Inputs, poses_between  # noqa: E402
from g4g_model.networks.alignment import AudioEncoder, MouthEncoder, adain, mouth_pictures, statistics  # noqa: E402
from g4g_model.networks.deformation import posed, warp  # noqa: E402
from g4g_model.networks.discriminator import PatchDiscriminator  # noqa: E402
from g4g_model.networks.fusion import DeformationFusion, dilated, reach_of, softened  # noqa: E402
from g4g_model.networks.layers import flattened  # noqa: E402
from g4g_model.parts import Parts  # noqa: E402
from g4g_model.trainable import G4GKind  # noqa: E402
from prep.stages.geometry import MEAN_FACE, POSE, canonical_to_frame, transform  # noqa: E402
from prep.sync_expert.mouths import (  # noqa: E402
    CENTRE_Y,
    SIDE,
    mouth_squares,
)

SMALL: dict[str, Any] = {"size": 64, "channels": (8, 16, 24), "embedding": 16, "clips": 2, "windows": 6, "settle": 0}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return g4g_people.write_people(tmp_path_factory.mktemp("people"))


def noise(*shape: int, seed: int = 0, low: float = -1.0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, 1, shape).astype(np.float32))


def some_inputs(size: int = 64, batch: int = 2, frames: int = 3) -> Inputs:
    erase = torch.zeros(batch, frames, 1, size, size)
    erase[..., size // 2 :, size // 4 : -size // 4] = 1
    source = noise(batch, frames, 3, size, size)
    return Inputs(
        source=torch.where(erase > 0, torch.zeros(()), source),
        erase=erase,
        references=noise(batch, 5, 3, size, size, seed=1),
        source_sketch=noise(batch, frames, 1, size, size, seed=2, low=0),
        reference_sketch=noise(batch, 5, 1, size, size, seed=3, low=0),
        poses=torch.eye(2, 3) + 0.1 * noise(batch, frames, 5, 2, 3, seed=5),
        mel=4 * noise(batch, frames, 1, 80, 16, seed=4),
    )


def network(name: str = "g4g", **fields: Any) -> G4G:
    """A small one whose motions are not all none, as they are at first."""
    torch.manual_seed(0)
    made = G4G(VARIANTS[name](**{**SMALL, **fields}))
    with torch.no_grad():
        for motion in made.deformation.motions:
            motion.weight.normal_(0, 0.3)
    return made


@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_faces_come_at_a_quarter_half_and_full_size_in_range(size: int) -> None:
    drawn = network(size=size)(some_inputs(size, 1, 2))

    assert [tuple(face.shape) for face in drawn.faces] == [(2, 3, s, s) for s in (size // 4, size // 2, size)]
    for picture in (*drawn.faces, drawn.picture):
        assert picture.isfinite().all() and picture.abs().max() <= 1


def test_features_are_at_a_quarter_an_eighth_and_a_sixteenth_and_twice_that_for_64_px() -> None:
    for size, strides in ((64, (2, 4, 8)), (96, (4, 8, 16)), (256, (4, 8, 16))):
        made = network(size=size)
        features = made.aligned(noise(1, 3, size, size), noise(1, 1, size, size))
        assert [f.shape[-1] for f in features] == [size // stride for stride in strides]


def test_under_a_single_mask_a_face_is_drawn_at_full_size_alone() -> None:
    assert [face.shape[-1] for face in network("g4g-single-mask")(some_inputs()).faces] == [64]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_of_every_variant_learns_from_its_losses(name: str, people: Path) -> None:
    """From the second step on: motion begins as none, with weights of nought before which nothing learns."""
    trainee = G4GKind(name).open(VARIANTS[name](**g4g_people.SMALL), TrainingData(str(people)), seed=0)
    learned = {key: value for key, value in trainee.module.named_parameters() if value.requires_grad}
    optimizer = torch.optim.SGD(learned.values(), lr=1e-3)
    for step in range(2):
        optimizer.zero_grad()
        trainee.losses(trainee.batch(np.random.default_rng([0, step])))["total"].backward()
        optimizer.step()
        trainee.after_step()

    for parameter, value in learned.items():
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.abs().max() > 0, parameter


@pytest.mark.parametrize("name", VARIANTS)
def test_no_batch_normalisation_anywhere(name: str) -> None:
    parts = Parts(VARIANTS[name](**SMALL))
    assert not [module for module in parts.modules() if "BatchNorm" in type(module).__name__]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_configurations(preset: str) -> None:
    config = G4GConfig.model_validate(PRESETS[preset]["model"])
    assert config.size == {"tiny": 64, "g4g-128": 128, "g4g-256": 256}[preset]


def test_a_frame_does_not_depend_on_the_others_of_its_window() -> None:
    made, inputs = network(), some_inputs()
    changed = dataclasses.replace(inputs, source=inputs.source.clone(), mel=inputs.mel.clone())
    changed.source[:, 1:] += 0.1
    changed.mel[:, 1:] *= -1
    before, after = (made(x).picture.unflatten(0, (2, 3)) for x in (inputs, changed))

    torch.testing.assert_close(before[:, 0], after[:, 0], rtol=0, atol=1e-5)
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-2


def test_speech_moves_only_what_is_erased_and_its_ring() -> None:
    made, inputs = network(), some_inputs()
    other = dataclasses.replace(inputs, mel=-inputs.mel)
    difference = (made(inputs).picture - made(other).picture).abs().amax(1, keepdim=True)
    ring = dilated(inputs.erase.flatten(0, 1))

    assert difference[ring > 0].max() > 1e-3
    assert difference[ring == 0].max() == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_outside_the_ring_the_source_is_kept_bit_for_bit(name: str) -> None:
    inputs = some_inputs()
    picture, source, erase = network(name)(inputs).picture, inputs.source.flatten(0, 1), inputs.erase.flatten(0, 1)
    outside = (erase if name == "g4g-no-fusion" else dilated(erase)).expand_as(source) == 0

    assert torch.equal(picture[outside], source[outside])
    assert not torch.equal(picture[~outside], source[~outside])


def test_fusion_takes_the_face_inside_mixes_in_the_ring_and_keeps_the_rest() -> None:
    torch.manual_seed(0)
    fusion = DeformationFusion()
    erase = torch.zeros(1, 1, 64, 64)
    erase[..., 30:50, 20:40] = 1
    face, source = noise(1, 3, 64, 64), noise(1, 3, 64, 64, seed=1)
    picture = fusion(face, source, erase)
    inside, outside = erase.expand_as(face) > 0, dilated(erase).expand_as(face) == 0
    ring = ~inside & ~outside

    assert torch.equal(picture[inside], face[inside]) and torch.equal(picture[outside], source[outside])
    assert (picture[ring] != face[ring]).any() and (picture[ring] != source[ring]).any()
    assert dilated(erase).sum() == (20 + 2 * reach_of(64)) ** 2
    soft = softened(erase)
    assert soft.min() == 0 and soft[..., 40, 30] == 1 and 0 < soft[..., 29, 30] < 1


def test_masks_of_scales_hold_every_pixel_that_touches_the_erased() -> None:
    erase = torch.zeros(1, 1, 16, 16)
    erase[..., 9, 4] = 1
    half, quarter = masks_of(erase, (2, 4))
    assert half.sum() == 1 and half[0, 0, 4, 2] == 1
    assert quarter.sum() == 1 and quarter[0, 0, 2, 1] == 1


def test_a_warp_is_an_affine_map_of_every_channel_by_itself() -> None:
    features = noise(2, 3, 5, 7)
    motion = torch.cat([noise(2, 3, 1, seed=1, low=0.4), math.pi * noise(2, 3, 1, seed=2), noise(2, 3, 2, seed=3)], -1)
    found = warp(features, motion).numpy()

    for n in range(2):
        for c in range(3):
            expected = warped_by_hand(features[n, c].numpy(), motion[n, c].numpy())
            np.testing.assert_allclose(found[n, c], expected, atol=1e-5)


def warped_by_hand(plane: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Bilinear, with repeated edges, one pixel after the other; coordinates -1..1 from edge to edge."""
    height, width = plane.shape
    scale, angle, right, down = motion.astype(np.float64)
    out = np.zeros_like(plane)
    for i in range(height):
        for j in range(width):
            x, y = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
            from_x = scale * (math.cos(angle) * x - math.sin(angle) * y) + right
            from_y = scale * (math.sin(angle) * x + math.cos(angle) * y) + down
            column = min(max(((from_x + 1) * width - 1) / 2, 0), width - 1)
            row = min(max(((from_y + 1) * height - 1) / 2, 0), height - 1)
            left, top = min(int(column), width - 2), min(int(row), height - 2)
            u, v = column - left, row - top
            upper = (1 - u) * plane[top, left] + u * plane[top, left + 1]
            lower = (1 - u) * plane[top + 1, left] + u * plane[top + 1, left + 1]
            out[i, j] = (1 - v) * upper + v * lower
    return out


def test_no_motion_is_no_change_and_a_network_begins_with_it() -> None:
    features = noise(1, 2, 6, 6)
    none = torch.tensor([1.0, 0, 0, 0]).expand(1, 2, 4)
    torch.testing.assert_close(warp(features, none), features)

    begun = G4G(G4GConfig(**SMALL)).deformation
    raw = begun.motions[0](noise(1, 32)).view(1, -1, 4)
    torch.testing.assert_close(begun._motion(raw)[0, 0], none[0, 0])
    shown = noise(1, 5, SMALL["channels"][0], 6, 6)
    torch.testing.assert_close(begun.joins[0](shown.flatten(1, 2)), shown.mean(1))


def placed(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    """The mean face's points, float [68, 2] px."""
    cosine, sine = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    return transform(np.array([[cosine, -sine, x], [sine, cosine, y]]), MEAN_FACE)


def test_a_posed_reference_stands_as_the_frame_does() -> None:
    """A soft blob on the nose of two references is found on the nose of three frames, wherever their heads are."""
    size = 64
    shown = [placed(20, 0, 31, 20), placed(26, 12, 28, 22)]
    frames = [placed(20, 0, 31, 20), placed(24, -15, 33, 18), placed(17, 8, 35, 25)]
    y, x = np.mgrid[:size, :size]
    blobs = np.stack([np.exp(-((x - f[30, 0]) ** 2 + (y - f[30, 1]) ** 2) / 18) for f in shown]).astype(np.float32)
    poses = poses_between(np.stack(frames)[:, POSE], np.stack(shown)[:, POSE], size)
    moved = posed(torch.from_numpy(blobs)[None, :, None], torch.from_numpy(poses)[None]).numpy()

    assert moved.shape == (3, 2, size, size)
    for frame, pair in zip(frames, moved, strict=True):
        for blob in pair:
            found = (blob * x).sum() / blob.sum(), (blob * y).sum() / blob.sum()
            np.testing.assert_allclose(found, frame[30], atol=0.1)
    np.testing.assert_allclose(moved[0, 0], blobs[0], atol=1e-4)  # the same pose: as it was


def test_poses_of_references_change_what_is_drawn_where_it_is_redrawn_and_nowhere_else() -> None:
    inputs, drawing = some_inputs(), network()
    other = dataclasses.replace(inputs, poses=inputs.poses + 0.2)
    found, changed = drawing(inputs).picture, drawing(other).picture
    ring = dilated(flattened(inputs.erase)).expand_as(found) > 0
    assert (found - changed)[ring].abs().max() > 1e-3 and torch.equal(found[~ring], changed[~ring])


@pytest.mark.parametrize("part", range(COUNT + 1))
def test_a_face_is_a_mixture_of_the_posed_references_and_of_what_is_drawn(part: int) -> None:
    """With one part turned up, it is that part alone: a reference in the frame's pose, or the drawing."""
    inputs, drawing = some_inputs(), network()
    seen: dict[str, Any] = {}
    drawing.decoder.heads["1"].register_forward_hook(lambda *call: seen.update(drawn=torch.tanh(call[2])))
    with torch.no_grad():
        drawing.decoder.mixture[1].weight.zero_()
        drawing.decoder.mixture[1].bias.zero_()
        even = drawing(inputs).faces[-1]
        drawing.decoder.mixture[1].bias[4 * part : 4 * part + 4] = 50
        face = drawing(inputs).faces[-1]
        shown = posed(inputs.references, inputs.poses).unflatten(1, (COUNT, 3))
        parts = torch.cat([shown, seen["drawn"][:, None]], 1)
    torch.testing.assert_close(face, parts[:, part], atol=1e-5, rtol=0)
    torch.testing.assert_close(even, parts.mean(1), atol=1e-5, rtol=0)


def test_adain_is_its_formula() -> None:
    x, y = noise(2, 3, 4, 5).numpy(), 3 * noise(2, 3, 6, 6, seed=1).numpy()
    found = adain(torch.from_numpy(x), torch.from_numpy(y)).numpy()

    def over(a: np.ndarray, how: Any) -> np.ndarray:
        return np.asarray(how(a, axis=(2, 3), keepdims=True))

    expected = over(y, np.std) * (x - over(x, np.mean)) / over(x, np.std) + over(y, np.mean)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    mean, deviation = statistics(torch.from_numpy(found))
    np.testing.assert_allclose(mean.numpy(), over(y, np.mean), atol=1e-4)
    np.testing.assert_allclose(deviation.numpy(), over(y, np.std), atol=1e-3)


def test_sketches_change_what_is_drawn_and_without_intra_nothing() -> None:
    inputs = some_inputs()
    other = dataclasses.replace(inputs, reference_sketch=inputs.reference_sketch.flip(-1))
    with_intra, without = network(), network("g4g-no-intra")

    assert (with_intra(inputs).picture - with_intra(other).picture).abs().max() > 1e-3
    assert torch.equal(without(inputs).picture, without(other).picture)


def test_a_mouth_is_cut_where_the_pose_says() -> None:
    points = np.stack([MEAN_FACE * 30 + (40, 24), MEAN_FACE @ [[0.9, 0.4], [-0.4, 0.9]] * 28 + (50, 30)])
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    picture = torch.stack([columns, rows, columns + rows]).expand(2, 3, 96, 96)
    mouths = mouth_pictures(picture, torch.from_numpy(mouth_squares(points[:, 17:48], 96)), 7)

    for mouth, matrix in zip(mouths, canonical_to_frame(points), strict=True):
        for row, column in ((3, 3), (1, 2), (5, 3)):  # of 7: the middle is 3
            at = matrix @ (SIDE * (column - 3) / 7, CENTRE_Y + SIDE * (row - 3) / 7, 1)
            np.testing.assert_allclose(mouth[:2, row, column].numpy(), at, atol=1e-3)


def test_a_mouth_is_a_unit_vector_whatever_the_light() -> None:
    torch.manual_seed(0)
    encoder, stacks = MouthEncoder(32, 16), noise(3, 5, 3, 32, 32)
    seen = encoder(stacks)

    torch.testing.assert_close(seen.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(encoder(0.8 * stacks + 0.3), seen, atol=2e-2, rtol=0)
    assert float(encoder.scale.detach()) == pytest.approx(1 / 0.07)
    assert AudioEncoder(16)(noise(3, 1, 80, 16)).shape == (3, 16)


def test_the_discriminator_looks_at_patches_of_the_lower_half() -> None:
    torch.manual_seed(0)
    judge, picture = PatchDiscriminator(8), noise(1, 3, 64, 64)
    scores = judge(picture)[-1]
    picture[:, :, :32] = 0
    assert scores.shape == (1, 1, 4, 8)
    assert torch.equal(judge(picture)[-1], scores)
    picture[:, :, -1, -1] += 1
    moved = (judge(picture)[-1] - scores).abs()[0, 0]
    assert moved[-1, -1] > 0 and moved[0, 0] == 0
