"""Numbers about picture, sound and pose."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from prep.records import SAMPLE_RATE
from prep.stages.geometry import MEAN_FACE, N_POINTS, POSE
from prep.stages.quality import _DEPTH, brightness, head_pose, loudness_dbfs, sharpness, snr_db


def face_picture(side: int = 256) -> np.ndarray:
    import skimage.data

    return cv2.resize(skimage.data.astronaut()[0:220, 110:330], (side, side), interpolation=cv2.INTER_AREA)


def test_blur_lowers_sharpness() -> None:
    picture = face_picture()
    values = [sharpness(picture if sigma == 0 else cv2.GaussianBlur(picture, (0, 0), sigma)) for sigma in (0, 2, 4, 8)]
    assert values[0] > 2 * values[1] > 4 * values[2] > 8 * values[3] > 0


def test_sharpness_compares_between_crop_sizes() -> None:
    big = face_picture(512)
    small = cv2.resize(big, (256, 256), interpolation=cv2.INTER_AREA)
    assert sharpness(big) == pytest.approx(sharpness(small), rel=0.05)


def test_brightness_is_the_luma_of_the_face_box_alone() -> None:
    crop = np.full((280, 280, 3), 10, np.uint8)
    crop[:200, 40:240] = 130  # the face box in SyncNet's crop: centre (1.4 b, b), half side b = 100
    assert brightness(crop) == pytest.approx(130)


def test_loudness_of_a_full_scale_sine_is_minus_three_decibels() -> None:
    at = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    sine = 32_767 * np.sin(2 * np.pi * 440 * at)
    assert loudness_dbfs(sine.astype(np.int16)) == pytest.approx(-3.01, abs=0.02)
    assert loudness_dbfs((sine / 100).astype(np.int16)) == pytest.approx(-43.01, abs=0.2)
    assert loudness_dbfs(np.zeros(100, np.int16)) == -100
    assert loudness_dbfs(np.zeros(0, np.int16)) == -100


def test_snr_is_the_distance_of_speech_and_pauses() -> None:
    rng = np.random.default_rng(0)
    at = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    speech = rng.normal(0, 8000, len(at)) * (np.sin(2 * np.pi * at) > 0)
    for noise, expected in ((800.0, 20.0), (80.0, 40.0)):
        pcm = (speech + rng.normal(0, noise, len(at))).clip(-32_768, 32_767).astype(np.int16)
        assert snr_db(pcm) == pytest.approx(expected, abs=2)
    assert snr_db(np.zeros(SAMPLE_RATE, np.int16)) == 0
    assert snr_db(np.ones(100, np.int16)) == 0


def turned_head(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """[1, 68, 2] of the mean head, turned: x right, y down, depth towards the camera."""
    points = np.zeros((N_POINTS, 3))
    points[:, :2] = MEAN_FACE
    points[POSE, 2] = _DEPTH
    a, b, c = np.radians([yaw, pitch, roll])
    x, y, depth = points.T
    y, depth = y * np.cos(b) + depth * np.sin(b), depth * np.cos(b) - y * np.sin(b)  # the nose goes down
    x, depth = x * np.cos(a) + depth * np.sin(a), depth * np.cos(a) - x * np.sin(a)  # the nose goes right
    x, y = x * np.cos(c) - y * np.sin(c), x * np.sin(c) + y * np.cos(c)
    return np.stack([x, y], axis=1)[None] * 85 + (300, 200)


@pytest.mark.parametrize("angle", [-40, -15, 0, 10, 35])
@pytest.mark.parametrize("axis", ["yaw", "pitch", "roll"])
def test_a_turn_about_one_axis_is_read_with_its_sign_and_size(axis: str, angle: float) -> None:
    expected = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, axis: angle}
    assert head_pose(turned_head(**{axis: angle}))[0] == pytest.approx(list(expected.values()), abs=0.5)


@pytest.mark.parametrize("angles", [(20, -10, 15), (-35, 12, 30), (30, 0, -40), (0, 20, 25)])
def test_turns_about_three_axes_are_told_apart(angles: tuple[float, float, float]) -> None:
    yaw, pitch, roll = angles
    assert head_pose(turned_head(yaw=yaw, pitch=pitch, roll=roll))[0] == pytest.approx(angles, abs=0.5)


def test_pose_does_not_depend_on_place_size_mouth_or_jaw() -> None:
    head = turned_head(yaw=18, pitch=7)
    moved = head * 3.1 + (500, -80)
    moved[:, [*range(17), *range(48, 68)]] += np.random.default_rng(0).normal(0, 40, (37, 2))
    assert head_pose(moved) == pytest.approx(head_pose(head), abs=1e-6)


def test_a_rendered_head_looks_at_the_camera(tracked_sample: tuple) -> None:
    pose = head_pose(tracked_sample[0].shots[0].track.landmarks)
    assert np.abs(np.median(pose, axis=0)).max() < 20
