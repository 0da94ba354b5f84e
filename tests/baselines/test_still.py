"""``still`` and the warp under it: the reference's mouth in the frame's pose, and nothing left grey."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.redraw import FEATHER, redraw
from baselines.still import STILL
from g4g_core.protocols import ERASED, POSE_POINTS, ClipPrompt
from prep.stages.geometry import MEAN_FACE, canonical_to_frame, transform
from prep.stages.masks import erase_region

SIZE = 256
FACE = (MEAN_FACE * 60 + (128, 105)).astype(np.float32)


def picture(seed: int) -> np.ndarray:
    """Smooth colours that tell every place from every other."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    waves = [np.sin(x / rng.uniform(9, 20) + y / rng.uniform(9, 20)) for _ in range(3)]
    return np.asarray(127 + 100 * np.stack(waves, axis=-1), np.uint8)


def moved(points: np.ndarray, angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray((points - 128) @ turn.T + 128 + shift, np.float32)


def prompt_of(
    frames: np.ndarray, points: np.ndarray, reference: np.ndarray, reference_points: np.ndarray
) -> ClipPrompt:
    erase = np.stack([erase_region(p, SIZE) for p in points])
    source = frames.copy()
    source[erase > 0] = ERASED
    n = len(frames)
    return ClipPrompt(
        source, erase, points[:, POSE_POINTS], np.repeat(reference[None], 5, axis=0),
        np.repeat(reference_points[None], 5, axis=0), np.zeros((100, 80), np.float32), 0, 0,
        np.zeros(640 * n, np.int16), 25, 0,
    )  # fmt: skip


def test_a_frame_that_is_its_own_reference_comes_back(  # the warp is the identity then
) -> None:
    frame = picture(0)
    out = STILL.open(None).generate(prompt_of(frame[None], FACE[None], frame, FACE))

    assert np.abs(out[0].astype(int) - frame).max() <= 1


def test_the_mouth_follows_the_pose() -> None:
    """The same head turned, shifted and nearer: what the reference shows at its mouth stands at the new mouth."""
    import cv2

    reference = picture(1)
    points = moved(FACE, 0.15, 1.1, (7, -4))
    matrix = canonical_to_frame(points) @ np.vstack([_inverse(canonical_to_frame(FACE)), [0, 0, 1]])
    expected = cv2.warpAffine(reference, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)

    out = STILL.open(None).generate(prompt_of(picture(2)[None], points[None], reference, FACE))[0]

    inside = erase_region(points, SIZE) > 0
    assert np.abs(out[inside].astype(int) - expected[inside]).mean() < 2
    mouth = transform(canonical_to_frame(points), MEAN_FACE[48:68])
    assert inside[mouth[:, 1].astype(int), mouth[:, 0].astype(int)].all()


def _inverse(matrix: np.ndarray) -> np.ndarray:
    turned = np.linalg.inv(matrix[:, :2])
    return np.hstack([turned, -turned @ matrix[:, 2:]])


def test_nothing_of_the_erased_region_stays_grey_and_far_from_it_nothing_changes() -> None:
    frame, erase = picture(3), erase_region(FACE, SIZE)
    source = frame.copy()
    source[erase > 0] = ERASED

    out = redraw(source, erase, FACE[POSE_POINTS], picture(4), moved(FACE, -0.1, 0.9, (3, 3))[POSE_POINTS])

    assert not (out[erase > 0] == ERASED).all(axis=-1).mean() > 0.01
    import cv2

    far = cv2.distanceTransform(1 - erase, cv2.DIST_L2, 5) > FEATHER * SIZE + 2
    assert (out[far] == frame[far]).all()


@pytest.mark.parametrize("corner", [(-60, -60), (60, 60)])
def test_a_face_at_the_edge_is_filled_too(corner: tuple[int, int]) -> None:
    points = moved(FACE, 0, 1, corner)
    erase = erase_region(points, SIZE)
    source = picture(5)
    source[erase > 0] = ERASED

    out = redraw(source, erase, points[POSE_POINTS], picture(6), FACE[POSE_POINTS])

    assert erase.any() and not (out[erase > 0] == ERASED).all(axis=-1).mean() > 0.01


def test_it_says_what_the_harness_asks() -> None:
    assert STILL.fingerprint(None) == STILL.fingerprint(None) and not STILL.needs_checkpoint
    generator = STILL.open(None)
    assert (generator.trained_against, generator.losses_off, generator.native_size) == ((), (), None)
    assert generator.preset is None
