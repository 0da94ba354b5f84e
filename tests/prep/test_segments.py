"""Tracks cut into samples, and the sound that goes with each."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import numpy as np
import pytest

from prep.config import BuildConfig
from prep.records import ClipSpec, Reason, Word
from prep.run.encode_pass import _words_inside, encode_part
from prep.run.tracked import Shot, Timings, TrackedClip, load_tracks, save_tracks
from prep.shards.sample import read_npy, read_wav
from prep.stages.crop import crop_track
from prep.stages.frames import Frame
from prep.stages.geometry import MEAN_FACE, transform
from prep.stages.mel import mel_spectrogram
from prep.stages.probe import Probe
from prep.stages.segments import cut, too_short
from prep.stages.tracking import Track


def test_segments_of_any_shot_are_aligned_nearly_equal_and_lose_at_most_four_frames() -> None:
    for n in range(1, 2001):
        for start in (0, 1, 2, 3, 4, 7):
            stop = start + n
            pieces = cut(start, stop)
            if not pieces:
                assert n <= 4
                continue
            lengths = [b - a for a, b in pieces]
            assert all(a % 5 == 0 for a, _ in pieces)
            assert 0 <= pieces[0][0] - start <= 4
            assert pieces[-1][1] == stop
            assert all(left[1] == right[0] for left, right in zip(pieces, pieces[1:], strict=False))
            assert max(lengths) <= 129
            assert min(lengths) >= min(25, n - 4)
            assert min(lengths) >= 25 or len(lengths) == 1
            assert max(lengths) - min(lengths) <= 10
            assert len(lengths) == -(-(stop - pieces[0][0]) // 125)


def test_where_a_shot_is_cut_does_not_depend_on_how_far_into_the_clip_it_lies() -> None:
    for start in (5, 500, 12_345):
        assert [(a - start, b - start) for a, b in cut(start, start + 777)] == cut(0, 777)


@pytest.mark.parametrize(
    ("track", "shot", "reason"),
    [
        ((0, 10), (0, 10), None),
        ((0, 9), (0, 9), Reason.SCENE_CUT_TOO_SHORT),
        ((1, 13), (0, 80), Reason.FACE_LOST),  # 4 leading frames fall away
        ((1, 15), (0, 80), None),
    ],
)
def test_what_is_too_short_after_alignment_has_a_reason(
    track: tuple[int, int], shot: tuple[int, int], reason: Reason | None
) -> None:
    found = too_short(*track, min_frames=10, shot=shot)
    assert (found.reason if found else None) is reason


# ---- what a sample holds

CLIP_FRAMES = 330
SPEC = ClipSpec(
    "folder", "a", "someone", "a.mp4", split="train", words=(Word("EARLY", 0.1, 0.4), Word("LATE", 5.9, 6.3))
)


def face(frame: int) -> np.ndarray:
    """A face that sways and talks, in the frame."""
    points = MEAN_FACE.copy()
    points[[57, 58, 56, 8], 1] += 0.1 * abs(np.sin(frame / 3))
    angle = 0.1 * np.sin(frame / 20)
    scale = 22.0
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([[70 + 6 * np.sin(frame / 15)], [40 + 4 * np.cos(frame / 11)]])
    return transform(np.hstack([matrix, shift]), points)


def tracked(starts: list[tuple[int, int]]) -> TrackedClip:
    """A clip with shots at the given frames; its sound is noise, so that every stretch is another."""
    pcm = np.random.default_rng(0).normal(0, 2000, 640 * CLIP_FRAMES).astype(np.int16)
    shots = []
    for number, (start, stop) in enumerate(starts):
        landmarks = np.stack([face(f) for f in range(start, stop)]).astype(np.float32)
        unseen = np.zeros(stop - start, bool)
        unseen[6:8] = True
        track = Track(start, landmarks, unseen)
        shots.append(Shot(number, track, crop_track(landmarks), cut(start, stop)))
    facts = Probe(160, 120, 0, 1.0, 25.0, 0.0, CLIP_FRAMES / 25, 0, 1)
    return TrackedClip(
        facts,
        CLIP_FRAMES,
        np.arange(CLIP_FRAMES),
        pcm,
        mel_spectrogram(pcm),
        shots,
        [],
        {"decode_errors": 0, "audio_shift": 0},
    )


def pictures() -> dict[int, Frame]:
    """Frames whose brightness is their number."""
    grey = np.full((60, 80), 128, np.uint8)
    levels = [np.full((120, 160), 20 + f % 200, np.uint8) for f in range(CLIP_FRAMES)]
    return {f: Frame(level, grey, grey, True, "bt601") for f, level in enumerate(levels)}


def samples(clip: TrackedClip, pieces: list[tuple[int, int]]) -> list[tuple[dict[str, Any], dict[str, bytes]]]:
    """(index row, members by suffix) of every sample of a part."""
    stream = io.BytesIO()
    rows = encode_part("", SPEC, clip, pieces, "0" * 64, BuildConfig(size=64), pictures(), stream, Timings())
    data = stream.getvalue()
    found = []
    for row in rows:
        members = {
            suffix: data[offset : offset + size]
            for suffix, offset, size in zip(row["members"], row["offsets"], row["sizes"], strict=True)
        }
        found.append((row, members))
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as tar:
        assert [m.name for m in tar] == [f"{row['key']}.{suffix}" for row, members in found for suffix in members]
    return found


@pytest.fixture(scope="module")
def clip() -> TrackedClip:
    return tracked([(0, 23), (23, 61), (66, 97), (99, 126), (127, 330)])


@pytest.fixture(scope="module")
def made(clip: TrackedClip) -> list[tuple[dict[str, Any], dict[str, bytes]]]:
    return samples(clip, clip.pieces)


def test_mel_and_wav_of_every_segment_are_those_of_the_whole_clip(
    clip: TrackedClip, made: list[tuple[dict[str, Any], dict[str, bytes]]]
) -> None:
    assert [row["frame_start"] for row, _ in made] == [0, 25, 70, 100, 130, 230]
    for row, members in made:
        start, n = row["frame_start"], row["n_frames"]
        meta = json.loads(members["json"])
        assert (
            (meta["mel_start"], meta["sample_start"])
            == (row["mel_start"], row["sample_start"])
            == (
                max(0, 16 * start // 5 - 16),
                640 * start,
            )
        )
        mel = read_npy(members["mel.npy"])
        assert len(mel) == row["n_mel"] == min(len(clip.mel), (start + n) * 16 // 5 + 16) - row["mel_start"]
        assert np.array_equal(mel, clip.mel[row["mel_start"] : row["mel_start"] + len(mel)])
        wav = read_wav(members["wav"])
        assert np.array_equal(wav, clip.pcm[640 * start : 640 * (start + n)])


def test_landmarks_map_back_to_the_frame(
    clip: TrackedClip, made: list[tuple[dict[str, Any], dict[str, bytes]]]
) -> None:
    for row, members in made:
        meta = json.loads(members["json"])
        affines = np.array(meta["affines"])
        inverse = np.linalg.inv(affines[:, :, :2])
        points = read_npy(members["landmarks_raw.npy"]).astype(np.float64) - affines[:, None, :, 2]
        back = np.einsum("tij,tnj->tni", inverse, points)
        track = clip.shots[row["shot"]].track
        first = row["frame_start"] - track.start
        expected = track.landmarks[first : first + row["n_frames"]]
        assert np.abs(back - expected).max() <= 0.01  # 0.5 px is promised
        smooth = read_npy(members["landmarks.npy"])
        assert np.abs(smooth - read_npy(members["landmarks_raw.npy"])).max() < 2


def test_a_sample_shows_its_own_frames_and_lists_those_that_are_interpolated(
    clip: TrackedClip, made: list[tuple[dict[str, Any], dict[str, bytes]]]
) -> None:
    import cv2

    for row, members in made:
        for offset in (0, row["n_frames"] - 1):
            data = np.frombuffer(members[f"{offset:04d}.jpg"], np.uint8)
            level = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).mean()
            assert level == pytest.approx(20 + (row["frame_start"] + offset) % 200, abs=1)
        track = clip.shots[row["shot"]].track
        unseen = [frame - row["frame_start"] for frame in (track.start + 6, track.start + 7)]
        listed = json.loads(members["json"])["flags"]["interpolated"]
        assert listed == [frame for frame in unseen if 0 <= frame < row["n_frames"]]


def test_words_go_with_the_segment_in_which_they_are_heard(made: list[tuple[dict[str, Any], dict[str, bytes]]]) -> None:
    for row, members in made:
        heard = [word["text"] for word in json.loads(members["json"])["words"]]
        start, stop = row["frame_start"] / 25, (row["frame_start"] + row["n_frames"]) / 25
        assert ("EARLY" in heard) == (start < 0.4)
        assert ("LATE" in heard) == (stop > 5.9 and start < 6.3)


def test_words_move_with_a_sound_that_was_shifted() -> None:
    spec = ClipSpec("toy", "a", "p", "a.mp4", words=(Word("HELLO", 1.0, 1.4, 0.9),))
    moved = [{"text": "HELLO", "start": 1.24, "end": 1.64, "score": 0.9}]
    assert _words_inside(spec, 25, 50, 0.24) == moved
    assert _words_inside(spec, 0, 30, 0.24) == []


def test_parts_of_a_clip_from_saved_tracks_give_the_bytes_of_the_whole(
    clip: TrackedClip, made: list[tuple[dict[str, Any], dict[str, bytes]]]
) -> None:
    loaded = load_tracks(save_tracks(clip))
    parts = loaded.parts(100)
    assert len(parts) > 2
    assert [piece for part in parts for piece in part] == clip.pieces
    again = [sample for part in parts for sample in samples(loaded, part)]
    assert [members for _, members in again] == [members for _, members in made]
