"""What the network is shown: the same in training and for prompts, and nothing of the target's mouth."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_people import SMALL, write_people  # noqa: E402

from g4g_core.errors import DatasetError  # noqa: E402
from g4g_core.protocols import ERASED, ClipPrompt  # noqa: E402
from g4g_core.references import allowed_references  # noqa: E402
from g4g_core.resize import resize  # noqa: E402
from g4g_model import data  # noqa: E402
from g4g_model.config import VARIANTS, G4GConfig  # noqa: E402
from g4g_model.data import Batches, G4GBatch  # noqa: E402
from g4g_model.g4g import G4G  # noqa: E402
from g4g_model.inputs import (  # noqa: E402
    Inputs,
    erase_at,
    heard,
    inputs_of,
    pictures_in,
    pictures_out,
    points_at,
)
from g4g_model.networks.alignment import mouth_pictures  # noqa: E402
from g4g_model.sketches import face_sketch, pose_sketch  # noqa: E402
from prep.config import BuildConfig  # noqa: E402
from prep.records import ClipSpec  # noqa: E402
from prep.run.encode_pass import _sample as encoded  # noqa: E402
from prep.run.tracked import Timings  # noqa: E402
from prep.shards.access import SampleReader  # noqa: E402
from prep.shards.index import Dataset  # noqa: E402
from prep.shards.sample import Sample  # noqa: E402
from prep.shards.schema import MaskBit  # noqa: E402
from prep.stages.crop import crop_track  # noqa: E402
from prep.stages.encode import jpeg, png  # noqa: E402
from prep.stages.geometry import JAW, MEAN_FACE, MOUTH, POSE  # noqa: E402
from prep.stages.mel import mel_window  # noqa: E402
from prep.sync_expert.mouths import mouth_squares  # noqa: E402

CONFIG = G4GConfig(**{**SMALL, "clips": 3})


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


def batches(root: Path, **fields: Any) -> Batches:
    return Batches(Dataset.open(root), ("train",), CONFIG.model_copy(update=fields))


def same(one: Inputs, other: Inputs) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Inputs))


# ---------------------------------------------------------------- sketches


def test_a_pose_sketch_shows_brows_nose_and_eyes_and_a_face_sketch_all() -> None:
    points = MEAN_FACE * 40 + (64, 40)
    pose, face = pose_sketch(points[POSE], 128), face_sketch(points, 128)

    for number in range(68):
        x, y = np.round(points[number]).astype(int)
        assert face[y - 1 : y + 2, x - 1 : x + 2].max() > 100, number
        assert (pose[y - 1 : y + 2, x - 1 : x + 2].max() > 100) == (17 <= number < 48), number
    assert 0.01 < (face > 0).mean() < 0.15
    np.testing.assert_array_equal(face, face_sketch(points, 128))


# ---------------------------------------------------------------- inputs


def test_pictures_survive_the_way_in_and_out() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    inside = pictures_in(every)
    assert inside.min() == -1 and inside.max() == 1 and inside.shape == (1, 3, 16, 16)
    np.testing.assert_array_equal(pictures_out(inside), every)


@pytest.mark.parametrize("size", [64, 96, 128])
def test_no_erased_pixel_reaches_a_resized_source(size: int) -> None:
    rng = np.random.default_rng(0)
    source, erase = rng.integers(0, 256, (2, 96, 96, 3), np.uint8), np.zeros((2, 96, 96), np.uint8)
    erase[:, 48:88, 24:72] = 1
    given: dict[str, Any] = {
        "erase": erase, "pose": MEAN_FACE[None, POSE].repeat(2, 0) * 30 + 40, "references": source,
        "reference_landmarks": MEAN_FACE[None].repeat(2, 0) * 30 + 40, "mel": np.zeros((2, 1, 80, 16), np.float32),
    }  # fmt: skip
    other = source.copy()
    other[erase > 0] = rng.integers(0, 256, (int(erase.sum()), 3), np.uint8)
    one, two = (inputs_of(source=s, size=size, **given) for s in (source, other))

    assert same(one, two)
    grey = torch.tensor(ERASED / 127.5 - 1)
    inside = one.erase.expand_as(one.source) > 0
    assert torch.allclose(one.source[inside], grey, atol=1e-6)
    shown = pictures_in(resize(np.where(erase[..., None] > 0, np.uint8(ERASED), source), size))[None]
    assert torch.equal(one.source[~inside], shown[~inside])
    assert one.erase.mean() < 1.2 * erase.mean() + 0.02


def test_sketches_of_inputs_are_those_of_the_points_at_the_network_s_size() -> None:
    points = MEAN_FACE[None].repeat(2, 0).astype(np.float32) * 30 + [[[48, 30]], [[45, 33]]]
    pictures = np.zeros((2, 96, 96, 3), np.uint8)
    found = inputs_of(
        source=pictures, erase=pictures[..., 0], pose=points[:, POSE], references=pictures, reference_landmarks=points,
        mel=np.zeros((2, 1, 80, 16), np.float32), size=64,
    )  # fmt: skip
    smaller = points_at(points, 96, 64)
    for number in range(2):
        pose, face = pose_sketch(smaller[number, POSE], 64), face_sketch(smaller[number], 64)
        np.testing.assert_allclose(255 * found.source_sketch[0, number, 0].numpy(), pose, atol=1e-4)
        np.testing.assert_allclose(255 * found.reference_sketch[0, number, 0].numpy(), face, atol=1e-4)


def test_points_scale_with_the_centres_of_pixels() -> None:
    np.testing.assert_allclose(points_at(np.array([[[0.5, 0.5], [-0.5, 3.5]]]), 4, 2), [[[0, 0], [-0.5, 1.5]]])
    assert erase_at(np.eye(4, dtype=np.uint8)[None], 2).tolist() == [[[1, 0], [0, 1]]]


@pytest.mark.parametrize("first", [0, 16, 17])
def test_a_mel_window_is_that_of_its_frame_or_the_first_there_is(first: int) -> None:
    mel = np.random.default_rng(0).normal(size=(100, 80)).astype(np.float32)
    frames = np.arange(0, 30)
    windows = heard(mel, first, frames, -2)

    assert windows.shape == (30, 1, 80, 16)
    for frame, window in zip(frames, windows, strict=True):
        begin = int(3.2 * (frame - 2)) if frame >= 2 else -1
        if begin >= first:
            expected = mel_window(mel, int(frame), -2, first_column=first)
            np.testing.assert_array_equal(window[0], expected.T)
    np.testing.assert_array_equal(windows[0], windows[1])
    assert np.array_equal(windows[0, 0], mel[:16].T) or first % 16


# ---------------------------------------------------------------- batches


def test_a_batch_is_a_function_of_its_generator(people: Path) -> None:
    one, two = (batches(people).draw(np.random.default_rng([3, 7])) for _ in range(2))
    other = batches(people).draw(np.random.default_rng([3, 8]))

    assert one.keys == two.keys and same(one.inputs, two.inputs)
    for name in ("truth", "places", "starts", "sounds", "stacks", "wrong"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not same(one.inputs, other.inputs)


def test_a_batch_has_the_shapes_it_says(people: Path) -> None:
    batch = batches(people).draw(np.random.default_rng(0))
    inputs = batch.inputs

    assert inputs.source.shape == batch.truth.shape == (3, 5, 3, 64, 64)
    assert inputs.references.shape == (3, 5, 3, 64, 64) and inputs.reference_sketch.shape == (3, 5, 1, 64, 64)
    assert inputs.mel.shape == (3, 5, 1, 80, 16) and inputs.mel.abs().max() <= 4
    assert batch.stacks.shape == (3, 6, 5, 3, 32, 32) and batch.sounds.shape == (3, 7, 1, 80, 16)
    assert len(set(batch.keys)) == 3
    for name, mask in batch.regions.items():
        assert mask.shape == (3, 5, 1, 64, 64) and 0 < mask.mean() < 1, name
    apart = (batch.starts - batch.starts.gather(1, batch.wrong)).abs()
    assert (apart > 2).all() and (batch.wrong > 0).all()


def test_truth_and_source_are_the_same_frames_but_for_the_erased(people: Path) -> None:
    batch = batches(people).draw(np.random.default_rng(1))
    erased = batch.inputs.erase.expand_as(batch.truth) > 0
    assert torch.equal(batch.inputs.source[~erased], batch.truth[~erased])
    assert not torch.equal(batch.inputs.source[erased], batch.truth[erased])


def test_windows_of_the_matrix_are_true_mouths_and_what_is_heard_during_them(people: Path) -> None:
    batch, reader = batches(people).draw(np.random.default_rng(2)), SampleReader(Dataset.open(people))
    rows = {row.key: row for row in Dataset.open(people).rows("train")}
    for number, key in enumerate(batch.keys):
        row, landmarks = rows[key], reader.landmarks(rows[key])
        for window, start in enumerate(batch.starts[number].tolist()):
            clip_frame = row.frame_start + start
            sound = mel_window(reader.mel(row), clip_frame, 0, first_column=row.mel_start).T
            np.testing.assert_array_equal(batch.sounds[number, window, 0].numpy(), sound)
            if window:
                frames = np.arange(start, start + 5)
                places = torch.from_numpy(mouth_squares(landmarks[frames, POSE], 64))
                mouths = mouth_pictures(pictures_in(reader.frames(row, frames)), places, 32)
                torch.testing.assert_close(batch.stacks[number, window - 1], mouths)
        own = torch.from_numpy(mouth_squares(landmarks[batch.starts[number, 0] + np.arange(5)][:, POSE], 64))
        assert torch.equal(batch.places[number], own)


@pytest.mark.parametrize("room", [3 * 48 * 48 * 3, 1 << 30])
def test_frames_that_are_kept_are_those_of_the_shards_and_are_kept_within_bounds(
    people: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(data, "_KEPT_BYTES", room)
    reader = SampleReader(Dataset.open(people))
    rows = Dataset.open(people).rows("train")
    read: list[int] = []
    plain = reader.frames
    monkeypatch.setattr(reader, "frames", lambda row, numbers: read.extend(numbers) or plain(row, numbers))
    small = data._Small(reader)
    for row, numbers in ((rows[0], [0, 1, 2]), (rows[1], [2, 0]), (rows[0], [1, 4, 0, 2]), (rows[0], [4, 4])):
        for size in (48, 32):
            found = small.frames(row, numbers, size)
            np.testing.assert_array_equal(found, resize(plain(row, numbers), size))
            found[:] = 0  # who is given frames may write on them
        assert sum(picture.nbytes for picture in small._kept.values()) <= room
    assert (len(read) == 2 * 6) is (room > 10**6)


def test_references_follow_the_one_rule_also_across_segments(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[np.ndarray] = []
    plain = data.choose_references
    monkeypatch.setattr(data, "choose_references", lambda allowed, rng: drawn.append(plain(allowed, rng)) or drawn[-1])
    rows = {row.key: row for row in Dataset.open(people).rows("train")}
    reader, seen_segments = SampleReader(Dataset.open(people)), set()
    for seed in range(6):
        drawn.clear()
        batch = batches(people).draw(np.random.default_rng(seed))
        for number, key in enumerate(batch.keys):
            row = rows[key]
            shot = sorted((r for r in rows.values() if r.clip == row.clip), key=lambda r: r.frame_start)
            first = row.frame_start + int(batch.starts[number, 0])
            bounds = [(r.frame_start, r.n_frames) for r in shot]
            allowed = allowed_references(bounds, shot.index(row), first, first + 5)
            assert set(drawn[number].tolist()) <= set(allowed.tolist())
            for frame, picture in zip(drawn[number], batch.inputs.references[number], strict=True):
                home = next(r for r in shot if 0 <= frame - r.frame_start < r.n_frames)
                seen_segments.add((key, home.key))
                stored = reader.frames(home, [int(frame) - home.frame_start])
                np.testing.assert_array_equal(pictures_out(picture[None]), stored)
    assert any(one != other for one, other in seen_segments)


def test_samples_that_are_too_short_are_left_out_and_counted(people: Path) -> None:
    made = batches(people)
    assert len(made) == 4 and made.left_out == 1
    with pytest.raises(DatasetError, match="a batch needs 9"):
        batches(people, clips=9)


def test_prompts_and_training_show_the_network_the_same(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of the harness's kind, made of what is stored, becomes bit for bit what a batch holds."""
    monkeypatch.setattr(data, "choose_references", lambda allowed, rng: allowed[:5])
    batch = batches(people, clips=2, size=96).draw(np.random.default_rng(5))
    reader = SampleReader(Dataset.open(people))
    rows = {row.key: row for row in Dataset.open(people).rows("train")}
    for number, key in enumerate(batch.keys):
        row, start = rows[key], int(batch.starts[number, 0])
        shot = sorted((r for r in rows.values() if r.clip == row.clip), key=lambda r: r.frame_start)
        bounds, clip_frame = [(r.frame_start, r.n_frames) for r in shot], row.frame_start + start
        chosen = allowed_references(bounds, shot.index(row), clip_frame, clip_frame + 5)[:5]
        pictures = np.concatenate([reader.frames(r, range(r.n_frames)) for r in shot])
        points = np.concatenate([reader.landmarks(r) for r in shot])
        erase = np.asarray((reader.masks(row, range(start, start + 5)) & MaskBit.ERASE) > 0, np.uint8)
        source = reader.frames(row, range(start, start + 5))
        source[erase > 0] = ERASED
        origin = shot[0].frame_start
        prompt = ClipPrompt(
            source=source, erase=erase, pose=reader.landmarks(row)[start : start + 5, POSE],
            references=pictures[chosen - origin], reference_landmarks=points[chosen - origin],
            mel=reader.mel(row), mel_start=row.mel_start, frame_start=clip_frame, pcm=np.zeros(3200, np.int16), fps=25,
            seed=0,
        )  # fmt: skip
        shown = shown_by(prompt, 96, CONFIG.mel_offset)
        for field in dataclasses.fields(Inputs):
            assert torch.equal(getattr(shown, field.name)[0], getattr(batch.inputs, field.name)[number]), field.name


def shown_by(prompt: ClipPrompt, size: int, offset: int) -> Inputs:
    """What the generator shows its network of a prompt."""
    from g4g_model.checkpoint import About
    from g4g_model.g4g import Drawn
    from g4g_model.generator import G4GGenerator

    shown: list[Inputs] = []

    def network(inputs: Inputs) -> Any:
        shown.append(inputs)
        return Drawn([], inputs.source[0])

    about = About("g4g", CONFIG.model_copy(update={"size": size, "mel_offset": offset}), (), ())
    G4GGenerator(about, network).generate(prompt)  # type: ignore[arg-type]
    return shown[0]


# ---------------------------------------------------------------- nothing of the target


def hide(sample: Sample, window: range) -> Sample:
    """A sample whose target mouths in ``window`` are other people's: pixels, jaw and mouth points, masks of them."""
    rng = np.random.default_rng(9)
    frames, masks, points = list(sample.frames), list(sample.masks), sample.landmarks.copy()
    for frame in range(len(frames)):
        pixels = cv2.imdecode(np.frombuffer(frames[frame], np.uint8), cv2.IMREAD_COLOR_RGB)
        plane = cv2.imdecode(np.frombuffer(masks[frame], np.uint8), cv2.IMREAD_UNCHANGED)
        if frame in window:
            hidden = (plane & MaskBit.ERASE) > 0
            pixels[hidden] = rng.integers(0, 256, (int(hidden.sum()), 3), np.uint8)
            plane = np.where(hidden, np.uint8(MaskBit.ERASE), plane & MaskBit.ERASE).astype(np.uint8)
            points[frame, JAW] += 5
            points[frame, MOUTH] -= 7
        frames[frame], masks[frame] = jpeg(pixels), png(plane)
    return dataclasses.replace(sample, frames=frames, masks=masks, landmarks=points)


def test_a_batch_shows_the_same_whatever_the_target_s_mouth_does(people: Path, tmp_path: Path) -> None:
    alone = {"clips": 1}  # another clip of a batch may refer to this one's window
    first: G4GBatch = batches(people, **alone).draw(np.random.default_rng(4))
    (key,), start = first.keys, int(first.starts[0, 0])
    write_people(tmp_path / "as it is", edit=lambda sample: hide(sample, range(0)))
    write_people(
        tmp_path / "other mouths",
        edit=lambda sample: hide(sample, range(start, start + 5) if sample.key == key else range(0)),
    )
    plain, changed = (
        batches(tmp_path / name, **alone).draw(np.random.default_rng(4)) for name in ("as it is", "other mouths")
    )

    assert not torch.equal(plain.truth, changed.truth)
    assert not torch.equal(plain.regions["lips"], changed.regions["lips"])
    assert same(plain.inputs, changed.inputs)
    assert torch.equal(plain.places, changed.places)


class Swapped:
    """A frame whose crop has the mouth of another where ``where`` says; what it is besides is its own."""

    def __init__(self, frame: Any, other: Any, where: np.ndarray) -> None:
        self._frame, self._other, self._where = frame, other, where

    def crop_rgb(self, *place: Any) -> np.ndarray:
        own, other = self._frame.crop_rgb(*place), self._other.crop_rgb(*place)
        return np.where(self._where[..., None] > 0, other, own)


@pytest.mark.parametrize("name", ["g4g", "g4g-no-fusion"])
def test_what_is_drawn_does_not_change_with_the_target_s_mouth(tracked_sample: Any, name: str) -> None:
    """After landmarks: other pixels in ``lower_face`` and ``erase``, other points 0-16 and 48-67; then prep's code."""
    clip, frames = tracked_sample
    shot = clip.shots[0]
    track, config, spec = shot.track, BuildConfig(size=64), ClipSpec("hdtf", "x", "someone", "x.mp4")
    start, stop = shot.segments[0]

    def sample(of: Any, pictures: Any) -> tuple[Sample, dict[str, Any]]:
        return encoded(spec, of, of.shots[0], 0, iter(pictures), "0" * 64, config, Timings())

    own = [frames[index] for index in range(start, stop)]
    before, row = sample(clip, own)
    points = track.landmarks.copy()
    points[:, JAW], points[:, MOUTH] = points[::-1, JAW], points[::-1, MOUTH] + 3
    moved = dataclasses.replace(shot, track=dataclasses.replace(track, landmarks=points), crop=crop_track(points))
    planes = [cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_UNCHANGED) for mask in before.masks]
    both = MaskBit.LOWER_FACE | MaskBit.ERASE
    others = [
        Swapped(one, other, (plane & both) == both) for one, other, plane in zip(own, own[::-1], planes, strict=True)
    ]
    after, _ = sample(dataclasses.replace(clip, shots=[moved, *clip.shots[1:]]), others)

    torch.manual_seed(0)
    network = G4G(VARIANTS[name](**SMALL))
    pictures = [drawn_from(network, target, before, row) for target in (before, after)]
    assert any(a != b for a, b in zip(before.frames, after.frames, strict=True))
    assert not np.array_equal(before.landmarks[:, MOUTH], after.landmarks[:, MOUTH])
    assert torch.equal(*pictures)


def drawn_from(network: G4G, target: Sample, shown: Sample, row: dict[str, Any]) -> Any:
    """The picture of five frames of ``target`` with references of ``shown``."""
    window, known = list(range(40, 45)), [0, 2, 4, 6, 8]

    def pixels(members: list[bytes], numbers: list[int]) -> np.ndarray:
        flags = cv2.IMREAD_COLOR_RGB
        return np.stack([cv2.imdecode(np.frombuffer(members[n], np.uint8), flags) for n in numbers])

    masks = [cv2.imdecode(np.frombuffer(target.masks[n], np.uint8), cv2.IMREAD_UNCHANGED) for n in window]
    inputs = inputs_of(
        source=pixels(target.frames, window),
        erase=np.asarray((np.stack(masks) & MaskBit.ERASE) > 0, np.uint8),
        pose=target.landmarks[window][:, POSE],
        references=pixels(shown.frames, known),
        reference_landmarks=shown.landmarks[known],
        mel=heard(target.mel, row["mel_start"], row["frame_start"] + np.array(window), -2),
        size=64,
    )
    return network(inputs).picture


def test_every_array_of_a_batch_but_the_inputs_is_for_losses() -> None:
    """The network's own signature takes ``Inputs`` and nothing else."""
    assert {f.name for f in dataclasses.fields(G4GBatch)} & {f.name for f in dataclasses.fields(Inputs)} == set()
    assert list(itertools.islice(G4G.forward.__annotations__, 1)) == ["inputs"]
