"""Wav2Lip answering prompts: what its network is shown, where its drawing goes, and what is seen elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from baselines.redraw import FEATHER, redraw  # noqa: E402
from baselines.trained import About, write  # noqa: E402
from baselines.wav2lip.box import boxes_of, cut_out, outside  # noqa: E402
from baselines.wav2lip.config import Wav2LipConfig  # noqa: E402
from baselines.wav2lip.generator import Generator  # noqa: E402
from baselines.wav2lip.model import CHUNK, WAV2LIP, WAV2LIP_GAN, Wav2LipGenerator  # noqa: E402
from g4g_core.protocols import ERASED, POSE_POINTS, ClipPrompt  # noqa: E402
from prep.stages.geometry import MEAN_FACE  # noqa: E402
from prep.stages.masks import erase_region  # noqa: E402

SIZE, FRAMES = 256, CHUNK + 3
CONFIG = Wav2LipConfig(size=64, width=0.0625, mel_offset=-1)


def waves(seed: int, count: int) -> np.ndarray:
    """uint8 [count, S, S, 3]: smooth colours that tell every place from every other."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    planes = [np.sin(x / rng.uniform(15, 30) + y / rng.uniform(15, 30)) for _ in range(3 * count)]
    return np.asarray(127 + 100 * np.stack(planes, -1), np.uint8).reshape(SIZE, SIZE, count, 3).transpose(2, 0, 1, 3)


def faces(count: int, seed: int) -> np.ndarray:
    """float32 [count, 68, 2]: heads that sway a little, in the place of ``crop/1``."""
    rng = np.random.default_rng(seed)
    shifts = np.cumsum(rng.normal(0, 0.7, (count, 1, 2)), axis=0)
    return np.asarray(MEAN_FACE * 94.3 + (127.5, 51.3) + shifts, np.float32)


@pytest.fixture(scope="module")
def prompt() -> ClipPrompt:
    points, reference_points = faces(FRAMES, 1), faces(5, 2) + np.float32([6, -3])
    source, erase = waves(3, FRAMES), np.stack([erase_region(p, SIZE) for p in points])
    source[erase > 0] = ERASED
    mel = np.random.default_rng(4).uniform(-4, 4, (140, 80)).astype(np.float32)
    return ClipPrompt(
        source, erase, points[:, POSE_POINTS].copy(), waves(5, 5), reference_points, mel, 16, 10,
        np.zeros(640 * FRAMES, np.int16), 25, 0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    network = Generator(CONFIG)
    for weight in network.parameters():
        if weight.ndim == 4:
            torch.nn.init.kaiming_normal_(weight)  # torch's own start lets the sound die away before it is drawn
    path = tmp_path_factory.mktemp("run") / "wav2lip.safetensors"
    write(path, About("wav2lip", CONFIG), network.state_dict())
    return str(path)


class Spy(torch.nn.Module):
    """Draws one colour, and notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.mel: list[Any] = []
        self.faces: list[Any] = []

    def forward(self, mel: Any, faces: Any) -> Any:
        self.mel.append(mel)
        self.faces.append(faces)
        drawn = torch.empty(len(faces), 3, 64, 64)
        drawn[:, 0], drawn[:, 1], drawn[:, 2] = 0.0, 0.2, 1.0  # blue, green, red
        return drawn


def spied(prompt: ClipPrompt, config: Wav2LipConfig = CONFIG) -> tuple[np.ndarray, Any, Any]:
    spy = Spy()
    made = Wav2LipGenerator(About("wav2lip", config), spy).generate(prompt)
    return made, torch.cat(spy.mel).numpy(), torch.cat(spy.faces).numpy()


def stills(prompt: ClipPrompt) -> np.ndarray:
    donor, pose = prompt.references[0], prompt.reference_landmarks[0][POSE_POINTS]
    frames = (prompt.source, prompt.erase, prompt.pose)
    return np.stack([redraw(*frame, donor, pose) for frame in zip(*frames, strict=True)])


def test_the_network_is_shown_the_upper_half_of_the_target_and_the_first_reference(prompt: ClipPrompt) -> None:
    _, _, shown = spied(prompt)
    assert shown.shape == (FRAMES, 6, 64, 64) and shown.dtype == np.float32

    whole = np.where(prompt.erase[..., None] > 0, stills(prompt), prompt.source)
    target = cut_out(whole, boxes_of(prompt.pose, SIZE), 64)[..., ::-1].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(shown[:, :3, :32], target[:, :, :32], atol=1e-6)
    assert not shown[:, :3, 32:].any()

    own_box = boxes_of(prompt.reference_landmarks[:1, POSE_POINTS], SIZE)
    reference = cut_out(prompt.references[:1], own_box, 64)[0, ..., ::-1].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(shown[:, 3:], np.repeat(reference[None], FRAMES, 0), atol=1e-6)


@pytest.mark.parametrize("offset", [0, -1])
def test_the_network_hears_the_window_of_each_frame_at_its_offset(prompt: ClipPrompt, offset: int) -> None:
    _, mel, _ = spied(prompt, CONFIG.model_copy(update={"mel_offset": offset}))
    assert mel.shape == (FRAMES, 1, 80, 16)
    for t in range(FRAMES):
        first = int(3.2 * (prompt.frame_start + t + offset)) - prompt.mel_start
        np.testing.assert_array_equal(mel[t, 0], prompt.mel[first : first + 16].T)


def test_what_it_draws_is_seen_in_erase_and_the_source_away_from_it(prompt: ClipPrompt) -> None:
    made, _, _ = spied(prompt)
    boxes, erase = boxes_of(prompt.pose, SIZE), prompt.erase
    left = outside(erase, boxes)
    reach = FEATHER * SIZE + 2
    for t in range(FRAMES):
        far = cv2.distanceTransform(1 - erase[t], cv2.DIST_L2, 5) > reach
        np.testing.assert_array_equal(made[t][far], prompt.source[t][far])
        ours = (erase[t] > 0) & (cv2.distanceTransform(1 - left[t], cv2.DIST_L2, 5) > reach)
        assert ours.sum() > 0.6 * erase[t].sum()
        assert (made[t][ours] == (255, 51, 0)).all()  # red, green, blue


def test_what_of_erase_no_box_holds_is_the_reference_warped_to_the_pose(prompt: ClipPrompt) -> None:
    made, _, _ = spied(prompt)
    boxes = boxes_of(prompt.pose, SIZE)
    left = outside(prompt.erase, boxes) > 0
    assert left.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(made[left], stills(prompt)[left])

    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    beside = outside(np.stack([cv2.dilate(plane, cross) for plane in prompt.erase]), boxes) > left
    np.testing.assert_array_equal(made[beside], stills(prompt)[beside])  # where the ring begins, outside the box too
    assert (made[beside] != prompt.source[beside]).mean() > 0.9


def test_edges_are_soft(prompt: ClipPrompt) -> None:
    """Down through the chin: drawing, fade, reference; up through the nose base: drawing, fade, source."""
    flat = dataclasses.replace(
        prompt,
        source=np.where(prompt.erase[..., None] > 0, ERASED, 0).astype(np.uint8).repeat(3, -1),
        references=np.zeros_like(prompt.references),
    )
    column = spied(flat)[0][0, :, 128, 0].astype(int)
    assert column.max() == 255 and column[0] == column[-1] == 0
    assert np.abs(np.diff(column)).max() < 0.2 * 255


def test_nothing_is_read_from_under_erase_and_every_grey_goes(prompt: ClipPrompt, checkpoint: str) -> None:
    model = WAV2LIP.open(checkpoint)
    made = model.generate(prompt)
    source = prompt.source.copy()
    source[prompt.erase > 0] = 7

    np.testing.assert_array_equal(model.generate(dataclasses.replace(prompt, source=source)), made)
    assert made.shape == prompt.source.shape and made.dtype == np.uint8
    assert (made[prompt.erase > 0] == ERASED).all(-1).mean() < 0.01


def test_an_answer_is_the_same_twice_and_the_prompt_stays_as_it_was(prompt: ClipPrompt, checkpoint: str) -> None:
    before = prompt.digest()
    made = [WAV2LIP.open(checkpoint).generate(prompt) for _ in range(2)]
    np.testing.assert_array_equal(*made)
    assert prompt.digest() == before


def test_speech_drives_the_drawing_and_other_references_do_not(prompt: ClipPrompt, checkpoint: str) -> None:
    model = WAV2LIP.open(checkpoint)
    made = model.generate(prompt)
    inside = prompt.erase > 0
    other = model.generate(dataclasses.replace(prompt, mel=-prompt.mel))
    assert (made != other)[inside].mean() > 0.1
    np.testing.assert_array_equal(made[:, :40], other[:, :40])

    swapped = dataclasses.replace(
        prompt,
        references=prompt.references[[0, 2, 1, 4, 3]],
        reference_landmarks=prompt.reference_landmarks[[0, 2, 1, 4, 3]],
    )
    np.testing.assert_array_equal(model.generate(swapped), made)


def test_speech_that_begins_at_the_first_frame_and_ends_early_is_answered(prompt: ClipPrompt, checkpoint: str) -> None:
    early = dataclasses.replace(prompt, mel=prompt.mel[:20], mel_start=0, frame_start=0)
    assert WAV2LIP.open(checkpoint).generate(early).shape == prompt.source.shape


@pytest.mark.parametrize("size", [64, 128])
def test_prompts_of_other_sizes_are_answered(prompt: ClipPrompt, checkpoint: str, size: int) -> None:
    factor = SIZE // size
    points = (np.concatenate([prompt.reference_landmarks] * 2)[:FRAMES] + 0.5) / factor - 0.5
    erase = np.stack([erase_region(p, size) for p in points])
    small = dataclasses.replace(
        prompt,
        source=prompt.source[: len(points), ::factor, ::factor].copy(),
        erase=erase,
        pose=points[:, POSE_POINTS],
        references=prompt.references[:, ::factor, ::factor],
        reference_landmarks=points[:5],
    )
    made = WAV2LIP.open(checkpoint).generate(small)
    assert made.shape == small.source.shape
    far = np.stack([cv2.distanceTransform(1 - plane, cv2.DIST_L2, 5) > FEATHER * size + 2 for plane in erase])
    np.testing.assert_array_equal(made[far], small.source[far])


def test_both_kinds_say_what_the_harness_asks(checkpoint: str) -> None:
    assert [kind.name for kind in (WAV2LIP, WAV2LIP_GAN)] == ["wav2lip", "wav2lip-gan"]
    assert not any(kind.needs_checkpoint or kind.needs_weights for kind in (WAV2LIP, WAV2LIP_GAN))
    print_of = WAV2LIP.fingerprint(checkpoint)
    copy = Path(checkpoint).with_name("copy.safetensors")
    copy.write_bytes(Path(checkpoint).read_bytes())
    assert print_of == WAV2LIP.fingerprint(str(copy)) and print_of.startswith("wav2lip/1 ")
