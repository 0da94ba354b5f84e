"""Shots, faces followed through them, and what happens where a face is not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from prep.config import BuildConfig
from prep.landmarks.dlib import DlibLandmarks
from prep.records import CropHint, Reason
from prep.run.track_pass import TrackedShot, finish_shots
from prep.run.tracked import TrackedClip
from prep.stages.decode import GridFrame
from prep.stages.detection import Ladder, box_of_landmarks
from prep.stages.frames import Frame
from prep.stages.geometry import MEAN_FACE, interocular
from prep.stages.shots import with_cuts
from prep.stages.tracking import MAX_GAP, ShotTracker, Track, choose, split_long_gaps, uncovered
from tests.prep.synthetic_media import first_pass, probed

Tracked = tuple[TrackedClip, dict[int, Frame]]


@pytest.fixture(scope="module")
def landmarker() -> DlibLandmarks:
    return DlibLandmarks()


@pytest.fixture(scope="module")
def others(sample_hdtf_clips: list[Path]) -> list[Frame]:
    """Frames of another person than ``tracked_sample``, 512 px."""
    path = sample_hdtf_clips[1]
    return [item.frame for item in first_pass(path, probed(path))[0][:60]]


def numbered(frames: Iterable[Frame]) -> list[GridFrame]:
    return [GridFrame(index, index * 512, frame) for index, frame in enumerate(frames)]


def follow(frames: Sequence[Frame], landmarker: DlibLandmarks, policy: str = "largest") -> list[Track]:
    tracker = ShotTracker(landmarker, policy)
    for item in numbered(frames):
        tracker.push(item)
    return tracker.finish()


def blank(frame: Frame) -> Frame:
    return dataclasses.replace(frame, y=np.full_like(frame.y, 90))


# ---- shots


def cuts(frames: Iterable[GridFrame]) -> list[int]:
    return [item.index for item, starts in with_cuts(frames) if starts]


def test_a_cut_to_another_person_is_found_at_its_frame(tracked_sample: Tracked, others: list[Frame]) -> None:
    first = [tracked_sample[1][i] for i in range(40)]
    assert cuts(numbered(first[:23] + others[:30])) == [0, 23]
    assert cuts(numbered(first[:11] + others[:9] + first[11:30])) == [0, 11, 20]


def test_frames_come_out_once_and_in_order(tracked_sample: Tracked, others: list[Frame]) -> None:
    frames = numbered([tracked_sample[1][i] for i in range(5)] + others[:4])
    assert [item for item, _ in with_cuts(frames)] == frames
    assert list(with_cuts([])) == []


def test_a_talking_head_is_one_shot(tracked_sample: Tracked) -> None:
    assert cuts(numbered(tracked_sample[1].values())) == [0]


def test_a_cut_is_found_where_the_grid_repeats_frames(tracked_sample: Tracked, others: list[Frame]) -> None:
    """15 fps on the 25 fps grid: the cut is at the first showing of the new picture."""
    pictures = [tracked_sample[1][i] for i in range(12)] + others[:12]
    source = [round(index * 15 / 25) for index in range(40)]
    frames = [GridFrame(index, number * 6000, pictures[number]) for index, number in enumerate(source) if number < 24]
    assert cuts(frames) == [0, source.index(12)]


def test_a_moving_camera_and_a_fade_are_no_cuts(tracked_sample: Tracked) -> None:
    frame = tracked_sample[1][0]
    panned = [dataclasses.replace(frame, y=np.roll(frame.y, 25 * i, axis=1)) for i in range(30)]
    faded = [dataclasses.replace(frame, y=(frame.y * (1 - i / 25)).astype(np.uint8)) for i in range(25)]
    assert cuts(numbered(panned)) == [0]
    assert cuts(numbered(faded)) == [0]


# ---- one face


def test_tracked_landmarks_are_those_of_detecting_every_frame(
    tracked_sample: Tracked, landmarker: DlibLandmarks
) -> None:
    clip, frames = tracked_sample
    track = clip.shots[0].track
    assert (track.start, track.stop) == (0, clip.n_frames)
    assert not track.interpolated.any()
    errors = []
    for index in range(1, clip.n_frames, 3):
        found = Ladder().climb(frames[index], rungs=1)
        assert found
        reference = landmarker.fit_one(frames[index], found[0].box)
        distance = np.linalg.norm(track.landmarks[index] - reference, axis=1).mean()
        errors.append(distance / interocular(reference))
    assert np.mean(errors) <= 0.015
    assert np.percentile(errors, 95) <= 0.03


def test_a_small_clip_is_tracked_through_all_its_frames(
    sample_lrs2_clips: list[Path], landmarker: DlibLandmarks
) -> None:
    """160 px: the predictor rounds to whole pixels of a patch, not of the frame."""
    path = sample_lrs2_clips[0]
    frames = [item.frame for item in first_pass(path, probed(path))[0]][:40]
    (track,) = follow(frames, landmarker)
    assert (track.start, track.stop) == (0, 40)
    fractions = np.abs(track.landmarks - np.round(track.landmarks))
    assert (fractions > 0.1).mean() > 0.5


def test_the_box_of_landmarks_is_where_the_detector_draws_it(tracked_sample: Tracked) -> None:
    clip, frames = tracked_sample
    for index in (3, 50, 90):
        detected = Ladder().climb(frames[index], rungs=1)[0]
        drawn = box_of_landmarks(clip.shots[0].track.landmarks[index])
        assert np.abs(drawn - detected.box).max() <= 0.2 * detected.side


@pytest.mark.parametrize("gap", [1, MAX_GAP])
def test_a_short_gap_is_interpolated_and_flagged(gap: int, tracked_sample: Tracked, landmarker: DlibLandmarks) -> None:
    whole = [tracked_sample[1][i] for i in range(45)]
    frames = whole[:20] + [blank(whole[0])] * gap + whole[20 + gap :]
    (track,) = follow(frames, landmarker)
    assert (track.start, track.stop) == (0, 45)
    assert np.flatnonzero(track.interpolated).tolist() == list(range(20, 20 + gap))
    before, after = track.landmarks[19], track.landmarks[20 + gap]
    for step in range(gap):
        share = (step + 1) / (gap + 1)
        assert track.landmarks[20 + step] == pytest.approx(before + share * (after - before), abs=1e-2)
    assert [(piece.start, piece.stop) for piece in split_long_gaps(track)] == [(0, 45)]


def test_a_long_gap_ends_the_track_and_the_face_is_found_again(
    tracked_sample: Tracked, landmarker: DlibLandmarks
) -> None:
    whole = [tracked_sample[1][i] for i in range(70)]
    frames = whole[:20] + [blank(whole[0])] * 12 + whole[32:]
    pieces = [piece for track in follow(frames, landmarker) for piece in split_long_gaps(track)]
    assert (pieces[0].start, pieces[0].stop) == (0, 20)
    assert 32 <= pieces[1].start <= 37
    assert pieces[1].stop == 70
    assert not any(piece.interpolated.any() for piece in pieces)


def test_another_face_at_another_place_is_another_track(
    tracked_sample: Tracked, others: list[Frame], landmarker: DlibLandmarks
) -> None:
    """A cut that nobody found: the face jumps."""
    first = [beside(tracked_sample[1][i], None) for i in range(20)]
    second = [beside(None, frame) for frame in others[:30]]
    tracks = follow(first + second, landmarker)
    assert tracks[0].stop == 20
    assert tracks[-1].landmarks[:, 30, 0].min() > 512


def test_nothing_to_follow_gives_no_track_and_says_so(tracked_sample: Tracked, landmarker: DlibLandmarks) -> None:
    tracker = ShotTracker(landmarker)
    for item in numbered([blank(tracked_sample[1][0])] * 12):
        tracker.push(item)
    assert tracker.finish() == []
    assert not tracker.seen_any


def test_repeated_frames_repeat_the_landmarks(tracked_sample: Tracked, landmarker: DlibLandmarks) -> None:
    tracker = ShotTracker(landmarker)
    for index in range(12):
        frame = tracked_sample[1][index // 2]
        tracker.push(GridFrame(index, index // 2, frame), repeated=index % 2 == 1)
    (track,) = tracker.finish()
    assert np.array_equal(track.landmarks[::2], track.landmarks[1::2])
    assert not np.array_equal(track.landmarks[0], track.landmarks[2])


# ---- several faces


def beside(left: Frame | None, right: Frame | None, scale: float = 1.0) -> Frame:
    """Two 512 px frames side by side, the right one smaller; ``None`` is an empty half."""
    y = np.full((512, 1024), 90, np.uint8)
    if left is not None:
        y[:, :512] = left.y
    if right is not None:
        small = cv2.resize(right.y, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        y[: small.shape[0], 512 : 512 + small.shape[1]] = small
    grey = np.full((256, 512), 128, np.uint8)
    some = left or right
    assert some is not None
    return Frame(y, grey, grey, some.full_range, some.matrix)


def test_all_gives_both_faces_and_largest_the_larger(
    tracked_sample: Tracked, others: list[Frame], landmarker: DlibLandmarks
) -> None:
    frames = [beside(tracked_sample[1][i], others[i], 0.75) for i in range(30)]
    both = choose(follow(frames, landmarker, "all"), "all")
    assert [(track.start, track.stop) for track in both] == [(0, 30)] * 2
    assert both[0].landmarks[:, 30, 0].max() < 512 < both[1].landmarks[:, 30, 0].min()
    (largest,) = choose(follow(frames, landmarker, "largest"), "largest")
    assert largest.landmarks[:, 30, 0].max() < 512
    assert largest.face_side == pytest.approx(both[0].face_side, rel=0.02)
    mirrored = [beside(others[i], tracked_sample[1][i], 0.75) for i in range(30)]
    (left,) = choose(follow(mirrored, landmarker, "largest"), "largest")
    assert left.landmarks[:, 30, 0].max() < 512


def placed(start: int, n: int, scale: float, x: float = 200.0) -> Track:
    return Track(start, np.stack([MEAN_FACE * scale + (x, 150)] * n).astype(np.float32), np.zeros(n, bool))


def test_where_the_largest_face_is_absent_the_next_one_may_stand_in() -> None:
    large, medium, small = placed(0, 50, 100), placed(60, 40, 80), placed(60, 40, 40)
    assert choose([small, large], "largest") == [large]
    assert choose([medium, large], "largest") == [large, medium]
    assert choose([placed(30, 40, 80), large], "largest") == [large]


def test_all_gives_faces_from_left_to_right() -> None:
    right, left = placed(0, 20, 50, 400), placed(0, 20, 50, 100)
    assert choose([right, left], "all") == [left, right]


def test_stretches_without_a_face_are_named() -> None:
    lost = uncovered((10, 100), [placed(20, 30, 50), placed(60, 40, 50)], seen_any=True)
    assert [(item.reason, item.frame_start, item.n_frames) for item in lost] == [
        (Reason.FACE_LOST, 10, 10),
        (Reason.FACE_LOST, 50, 10),
    ]
    (never,) = uncovered((0, 40), [], seen_any=False)
    assert (never.reason, never.frame_start, never.n_frames) == (Reason.NO_FACE, 0, 40)


def finish(tracks: list[Track], stop: int, hint: CropHint | None = None, **config: Any) -> tuple[list[Any], list[Any]]:
    return finish_shots([TrackedShot(0, stop, tracks, True)], stop, hint, BuildConfig(**config))


def test_an_annotated_box_decides_which_face_is_meant() -> None:
    large, small = placed(0, 50, 60, 150), placed(0, 50, 45, 500)
    box = CropHint(400, 50, 220, 220, 0)
    shots, _ = finish([large, small], 50, box)
    assert [shot.track.landmarks[0, 30, 0] for shot in shots] == pytest.approx([500], abs=1)
    shots, partial = finish([large], 50, box)
    assert shots == []
    assert (partial[0].reason, partial[0].n_frames) == (Reason.NO_FACE, 50)


def test_a_face_that_is_too_small_is_a_reason() -> None:
    shots, partial = finish([placed(0, 50, 10)], 50, min_face=24)
    assert shots == []
    assert partial[0].reason is Reason.FACE_TOO_SMALL


def test_a_track_ends_where_the_sound_ends() -> None:
    track = placed(0, 80, 60)
    shots, _ = finish_shots([TrackedShot(0, 80, [track], True)], 52, None, BuildConfig())
    assert shots[0].track.stop == 52
    assert shots[0].segments == [(0, 52)]


def test_a_long_gap_cuts_a_track_in_two() -> None:
    track = placed(5, 40, 60)
    track.interpolated[10:17] = True
    assert [(piece.start, piece.stop) for piece in split_long_gaps(track)] == [(5, 15), (22, 45)]


def test_a_short_face_that_fits_the_sound_by_chance_does_not_take_the_shot_from_the_speaker() -> None:
    speaker, passer_by = placed(0, 500, 100.0), placed(240, 40, 60.0)
    fits = {500: 0.45 * 500**0.5, 40: 0.47 * 40**0.5}
    assert choose([passer_by, speaker], "speaking", lambda track: fits[len(track.landmarks)])[0] is speaker


def test_while_the_speaker_is_absent_the_next_face_is_taken_where_it_is_long_enough() -> None:
    speaker, listener = placed(100, 100, 60.0), placed(0, 210, 100.0)
    fits = {100: 5.0, 210: 1.0}
    chosen = choose([listener, speaker], "speaking", lambda track: fits[len(track.landmarks)])
    assert [(track.start, track.stop) for track in chosen] == [(0, 100), (100, 200)]
