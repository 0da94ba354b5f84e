"""``crop/1``: where it lies, what it depends on, and the way back to the frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from prep.stages.crop import FACE_CENTRE, FACE_HALF, crop_track, low_pass, smooth_landmarks
from prep.stages.encode import jpeg
from prep.stages.frames import Frame
from prep.stages.geometry import (
    JAW,
    MEAN_FACE,
    MOUTH,
    POSE,
    canonical_to_frame,
    interocular,
    overlap,
    scale_of,
    square,
    transform,
)
from prep.stages.masks import erase_region

MOVING = [*range(17), *range(48, 68)]


def similarity(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    a = np.radians(degrees)
    return np.array([[scale * np.cos(a), -scale * np.sin(a), x], [scale * np.sin(a), scale * np.cos(a), y]])


def heads(n: int, scale: np.ndarray | float = 80.0, jitter: float = 0.0) -> np.ndarray:
    """[n, 68, 2]: a head that sways slowly."""
    rng = np.random.default_rng(0)
    scales = np.broadcast_to(np.asarray(scale, dtype=np.float64), (n,))
    faces = []
    for f in range(n):
        place = similarity(scales[f], 5 * np.sin(f / 30), 250 + 20 * np.sin(f / 25), 180 + 9 * np.cos(f / 18))
        faces.append(transform(place, MEAN_FACE) + rng.normal(0, jitter, (68, 2)))
    return np.stack(faces)


def with_other_mouths(landmarks: np.ndarray) -> np.ndarray:
    """Jaw and mouth of other frames, and then moved far away."""
    other = landmarks.copy()
    other[:, MOVING] = np.roll(landmarks, 7, axis=0)[:, MOVING] * 1.3 + (40, -25)
    return other


# ---- geometry


def test_the_similarity_of_a_placed_face_is_found_again() -> None:
    for place in (similarity(80, 0, 10, 20), similarity(23.5, 31, -60, 400), similarity(300, -170, 0, 0)):
        assert np.abs(canonical_to_frame(transform(place, MEAN_FACE)) - place).max() < 1e-9


def test_the_similarity_reads_the_pose_points_alone() -> None:
    faces = heads(20, jitter=1.0)
    assert np.array_equal(canonical_to_frame(faces), canonical_to_frame(with_other_mouths(faces)))
    moved = faces.copy()
    moved[:, POSE] += 1
    assert not np.array_equal(canonical_to_frame(faces), canonical_to_frame(moved))


def test_the_unit_of_the_mean_face_is_the_distance_of_the_outer_eye_corners() -> None:
    assert interocular(MEAN_FACE) == pytest.approx(1.0)
    assert scale_of(similarity(37.0, 12, 5, 6)) == pytest.approx(37.0)
    assert MEAN_FACE[[36, 45]].mean(axis=0) == pytest.approx([0, 0])


def test_overlap_is_intersection_over_union() -> None:
    a = square(np.array([0.0, 0.0]), 1.0)
    assert overlap(a, a) == 1
    assert overlap(a, square(np.array([1.0, 0.0]), 1.0)) == pytest.approx(1 / 3)
    assert overlap(a, square(np.array([5.0, 0.0]), 1.0)) == 0


# ---- where the crop lies


def test_the_crop_is_syncnets_around_the_face_box() -> None:
    face = transform(similarity(100, 0, 300, 200), MEAN_FACE)
    track = crop_track(np.stack([face] * 30))
    b = 100 * FACE_HALF
    centre = np.array([300, 200]) + 100 * FACE_CENTRE[0]
    assert track.half == pytest.approx(np.full(30, b), abs=1e-3)
    assert track.side == pytest.approx(2.8 * track.half, abs=1e-3)
    assert track.x == pytest.approx(np.full(30, centre[0] - 1.4 * b), abs=2e-3)
    assert track.y == pytest.approx(np.full(30, centre[1] - b), abs=2e-3)
    assert track.y + track.side == pytest.approx(np.full(30, centre[1] + 1.8 * b), abs=5e-3)


def test_the_face_box_spans_from_above_the_brows_to_just_under_the_chin() -> None:
    top, bottom = FACE_CENTRE[0, 1] - FACE_HALF, FACE_CENTRE[0, 1] + FACE_HALF
    brows, chin = MEAN_FACE[17:27, 1].min(), MEAN_FACE[8, 1]
    assert brows - 0.35 < top < brows - 0.2
    assert chin < bottom < chin + 0.05
    assert np.ptp(MEAN_FACE[JAW, 0]) / 2 < FACE_HALF


def test_jaw_and_mouth_never_move_the_crop_the_erased_region_or_a_byte() -> None:
    faces = heads(60, jitter=0.7)
    others = with_other_mouths(faces)
    ours, theirs = crop_track(faces), crop_track(others)
    for name in ("x", "y", "side", "half"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    picture = textured_frame()
    for row in (0, 20, 59):
        a, b = (
            jpeg(picture.crop_rgb(float(t.x[row]), float(t.y[row]), float(t.side[row]), 128)) for t in (ours, theirs)
        )
        assert a == b
        affine = ours.affine(128)[row]
        regions = [erase_region(transform(affine, points[row]), 128) for points in (faces, others)]
        assert regions[0].any()
        assert np.array_equal(*regions)


def test_smoothing_keeps_pose_points_free_of_the_mouth() -> None:
    faces = heads(40, jitter=0.7)
    a, b = smooth_landmarks(faces), smooth_landmarks(with_other_mouths(faces))
    assert np.array_equal(a[:, POSE], b[:, POSE])
    assert not np.array_equal(a[:, MOUTH], b[:, MOUTH])


def test_the_size_is_constant_while_the_face_keeps_its_size() -> None:
    scale = 80 * (1 + 0.06 * np.sin(np.arange(200) / 30))
    half = crop_track(heads(200, scale, jitter=0.8)).half
    assert np.unique(half).size == 1
    assert half[0] == pytest.approx(80 * FACE_HALF, rel=0.02)


def test_the_size_follows_a_face_that_comes_nearer_slowly_and_without_delay() -> None:
    scale = np.linspace(60, 120, 250)
    half = crop_track(heads(250, scale, jitter=0.8)).half
    assert np.abs(half / (scale * FACE_HALF) - 1).max() < 0.05
    assert np.abs(np.diff(half, 2)).max() < 0.05  # no jitter of single frames


def test_a_sudden_zoom_is_passed_over_two_seconds() -> None:
    scale = np.where(np.arange(200) < 100, 60.0, 100.0)
    half = crop_track(heads(200, scale)).half
    assert np.abs(np.diff(half)).max() < 0.08 * 40
    assert half[40] == pytest.approx(60 * FACE_HALF, rel=0.01)
    assert half[160] == pytest.approx(100 * FACE_HALF, rel=0.01)


def test_the_centre_does_not_shake_with_the_fit() -> None:
    calm, shaking = crop_track(heads(150)), crop_track(heads(150, jitter=1.5))
    assert np.abs(np.diff(shaking.x - calm.x)).max() < 0.25
    assert np.abs(shaking.x - calm.x).max() < 1.5


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 12, 13, 14, 51, 60])
def test_filters_keep_length_and_steady_movement_for_any_length(n: int) -> None:
    line = np.linspace(0, 1, n)[:, None] * np.array([[3.0, -7.0]]) + (10, 20)
    for window in (13, 51):
        assert low_pass(line, window) == pytest.approx(line, abs=1e-9)
    faces = line[:, None, :] + MEAN_FACE * 50
    assert smooth_landmarks(faces) == pytest.approx(faces, abs=1e-3)
    assert len(crop_track(faces).x) == n


def test_filters_have_no_delay() -> None:
    pulse = np.zeros((61, 1))
    pulse[30] = 1
    answer = low_pass(pulse, 13)[:, 0]
    assert answer == pytest.approx(answer[::-1])
    assert answer.argmax() == 30
    assert answer.sum() == pytest.approx(1)


def test_smoothing_keeps_a_quick_mouth_opening_and_halves_the_noise() -> None:
    n = 100
    opening = 12 * np.exp(-(((np.arange(n) - 50) / 3.0) ** 2))
    clean = np.stack([MEAN_FACE * 100] * n)
    clean[:, 57, 1] += opening
    noisy = clean + np.random.default_rng(0).normal(0, 1, clean.shape)
    assert smooth_landmarks(clean)[50, 57, 1] - clean[0, 57, 1] == pytest.approx(12, rel=0.08)
    assert (smooth_landmarks(noisy) - clean)[:, 0].std() < 0.75


# ---- to the crop and back


def textured_frame(width: int = 512, height: int = 384) -> Frame:
    """Smooth content: nothing finer than about 12 px."""
    noise = np.random.default_rng(0).normal(0, 1, (3, height, width)).astype(np.float32)
    planes = []
    for plane, shrink in zip(noise, (1, 2, 2), strict=True):
        soft = cv2.GaussianBlur(plane, (0, 0), 5)
        soft = 128 + 35 * soft / soft.std()
        planes.append(np.clip(soft, 20, 235).astype(np.uint8)[::shrink, ::shrink].copy())
    planes[1:] = [(128 + (plane.astype(float) - 128) * 0.4).astype(np.uint8) for plane in planes[1:]]
    return Frame(*planes, full_range=True, matrix="bt601")


def test_the_affine_takes_frame_pixels_to_crop_pixels() -> None:
    track = crop_track(heads(10))
    for size in (64, 256, 512):
        affine = track.affine(size)
        corners = np.stack([np.stack([track.x, track.y], 1), np.stack([track.x, track.y], 1) + track.side[:, None]], 1)
        # a pixel's centre is at a whole number: its left edge lies half a pixel before
        assert transform(affine, corners - 0.5) == pytest.approx(
            np.broadcast_to([[-0.5, -0.5], [size - 0.5, size - 0.5]], (10, 2, 2)), abs=1e-6
        )


@pytest.mark.parametrize(
    ("scale", "limit", "typical"),
    [(28.0, 5, 0.8), (62.0, 7, 1.0), (96.0, 9, 1.4), (120.0, 9, 1.3)],
    ids=["enlarged 3 x", "enlarged", "shrunk a little", "shrunk"],
)
def test_an_unmodified_crop_is_pasted_back_without_a_trace(scale: float, limit: float, typical: float) -> None:
    """Bounds in levels of 255 for content of 12 px and coarser, after a JPEG of quality 95 and two resamplings."""
    frame = textured_frame()
    track = crop_track(transform(similarity(scale, 3, 251.3, 140.8), MEAN_FACE)[None])
    crop = frame.crop_rgb(float(track.x[0]), float(track.y[0]), float(track.side[0]), 256)
    stored = cv2.imdecode(np.frombuffer(jpeg(crop), np.uint8), cv2.IMREAD_COLOR_RGB)
    affine = np.round(track.affine(256)[0], 5)
    back = cv2.warpAffine(
        stored,
        affine,
        (frame.width, frame.height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    y, x = np.mgrid[: frame.height, : frame.width]
    inside = transform(affine, np.stack([x, y], axis=-1).reshape(-1, 2).astype(float)).reshape(*x.shape, 2)
    kept = ((inside > 2) & (inside < 253)).all(axis=-1)
    difference = np.abs(back.astype(int) - frame.rgb())[kept]
    assert kept.sum() > 4000
    assert difference.max() <= limit
    assert difference.mean() <= typical


def test_a_crop_that_reaches_outside_repeats_the_edge_of_the_frame() -> None:
    frame = textured_frame()
    for side in (300.0, 120.0):  # shrunk and enlarged to 200
        crop = frame.crop_rgb(-side / 2, -side / 2, side, 200).astype(int)
        assert np.abs(crop[:90, :90] - crop[0, 0]).max() <= 1
        assert np.abs(crop[:90, 120:] - crop[0, 120:]).max() <= 1
        assert np.abs(crop[150, 110:] - crop[150, 100]).max() > 10  # inside there is a picture
