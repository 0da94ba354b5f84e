"""What a build says of sync, and does about it: the columns, ``--fix-offset``, the face that speaks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from building import Footage, build, footage_of, manifest, samples, write_clip

from prep.records import SAMPLES_PER_FRAME
from prep.run.runners import close_guard
from prep.shards.index import Dataset
from prep.shards.sample import read_npy, read_wav
from prep.stages.mel import mel_spectrogram
from prep.stages.sync import SURE, shifted

WIDTH, HEIGHT = 640, 320


@pytest.fixture(scope="module", autouse=True)
def one_child() -> Iterator[None]:
    yield
    close_guard()


def late(footage: Footage, frames: int) -> Footage:
    """The sound delayed by whole frames."""
    return footage[0], shifted(footage[1], frames)


@pytest.fixture(scope="module")
def delayed(tmp_path_factory: pytest.TempPathFactory, sample_hdtf_clips: list[Path]) -> Path:
    """One clip as it is, one whose sound lags by 6 frames, one whose sound leads by 4."""
    root = tmp_path_factory.mktemp("delayed")
    for (name, frames), clip in zip({"plain": 0, "lags": 6, "leads": -4}.items(), sample_hdtf_clips, strict=True):
        write_clip(root / f"{name}.mp4", late(footage_of(clip), frames))
    return root


def offsets(out: Path) -> dict[str, float]:
    dataset = Dataset.open(str(out))
    table = [row for split in dataset.splits for row in dataset.table(split).to_pylist()]
    return {row["clip"]: row["av_offset"] for row in table}


def test_every_sample_says_how_its_mouth_and_sound_fit(tmp_path: Path, delayed: Path) -> None:
    build(delayed, tmp_path / "out", shard_mb=50)
    found = offsets(tmp_path / "out")
    assert found["plain"] == pytest.approx(0, abs=1)
    assert found["lags"] == pytest.approx(-6, abs=1)
    assert found["leads"] == pytest.approx(4, abs=1)
    for members in samples(tmp_path / "out").values():
        meta = json.loads(members["json"])
        assert len(meta["sync"]["per_frame"]) == meta["n_frames"]
        assert meta["sync"]["estimator"] == "sync-a+sync-b"
        assert all(0 <= value <= 2 for value in meta["sync"]["per_frame"])
        assert meta["sync"]["confidence"] > SURE
        assert meta["audio_shift"] == 0
    assert {row["audio_shift"] for row in manifest(tmp_path / "out").values()} == {0}


def test_fix_offset_shifts_sound_and_mel_together_and_says_by_how_much(tmp_path: Path, delayed: Path) -> None:
    build(delayed, tmp_path / "as-is", shard_mb=50)
    build(delayed, tmp_path / "fixed", shard_mb=50, fix_offset=True)
    before, after = offsets(tmp_path / "as-is"), offsets(tmp_path / "fixed")
    for clip, row in manifest(tmp_path / "fixed").items():
        shift = row["audio_shift"]
        assert shift == before[clip]
        assert after[clip] == pytest.approx(0, abs=1)
        was, now = segments_of(tmp_path / "as-is", clip), segments_of(tmp_path / "fixed", clip)
        assert {json.loads(members["json"])["audio_shift"] for members in now} == {shift}
        pcm = sound_of(now)
        assert np.array_equal(pcm, shifted(sound_of(was), shift))
        assert np.allclose(mel_spectrogram(pcm)[:40], read_npy(now[0]["mel.npy"])[:40], atol=1e-5)


def segments_of(out: Path, clip: str) -> list[dict[str, bytes]]:
    return [members for _, members in sorted(samples(out).items()) if json.loads(members["json"])["clip"] == clip]


def sound_of(segments: list[dict[str, bytes]]) -> np.ndarray:
    return np.concatenate([read_wav(members["wav"]) for members in segments])


def test_a_clip_too_short_to_compare_has_a_reason_and_no_offset(
    tmp_path: Path, sample_hdtf_clips: list[Path]
) -> None:
    write_clip(tmp_path / "in" / "short.mp4", footage_of(sample_hdtf_clips[0]), 0, 12)
    build(tmp_path / "in", tmp_path / "out")
    (members,) = samples(tmp_path / "out").values()
    reading = json.loads(members["json"])["sync"]
    assert (reading["offset"], reading["per_frame"]) == (None, None)
    assert reading["reason"] == "12 frames are too few to compare mouth and sound"


def side_by_side(left: Footage, right: Footage, sound: np.ndarray) -> Footage:
    """Two people in one frame, the left one larger."""
    n = min(len(left[0]), len(right[0]), len(sound) // SAMPLES_PER_FRAME)
    pictures = np.full((n, HEIGHT, WIDTH, 3), 70, np.uint8)
    for index in range(n):
        pictures[index, :320, :320] = cv2.resize(left[0][index], (320, 320), interpolation=cv2.INTER_AREA)
        pictures[index, 30:290, 350:610] = cv2.resize(right[0][index], (260, 260), interpolation=cv2.INTER_AREA)
    return pictures, sound[: n * SAMPLES_PER_FRAME]


@pytest.mark.parametrize("speaker", [0, 1])
def test_of_two_faces_the_one_that_speaks_is_taken(
    tmp_path: Path, sample_hdtf_clips: list[Path], speaker: int
) -> None:
    people = [footage_of(clip) for clip in sample_hdtf_clips[:2]]
    write_clip(tmp_path / "in" / "two.mp4", side_by_side(*people, people[speaker][1]))
    build(tmp_path / "in", tmp_path / "speaking", faces="speaking")
    noses = [_nose_in_frame(members) for members in samples(tmp_path / "speaking").values()]
    assert noses
    assert all((x < 320) == (speaker == 0) for x in noses), noses


def _nose_in_frame(members: dict[str, bytes]) -> float:
    meta = json.loads(members["json"])
    scale, shift = meta["affines"][0][0][0], meta["affines"][0][0][2]
    return float((read_npy(members["landmarks.npy"])[0, 30, 0] - shift) / scale)
