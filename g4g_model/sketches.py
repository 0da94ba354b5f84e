"""Sketches: landmarks drawn as lines, the form in which the network is told of them."""

from __future__ import annotations

import cv2
import numpy as np

_POSE_LINES = (
    (range(17, 22), False), (range(22, 27), False), (range(27, 31), False), (range(31, 36), False),
    (range(36, 42), True), (range(42, 48), True),
)  # fmt: skip
_ALL_LINES = (*_POSE_LINES, (range(17), False), (range(48, 60), True), (range(60, 68), True))
_SUBPIXEL_BITS = 4


def face_sketch(points: np.ndarray, size: int) -> np.ndarray:
    """All 68 points (iBUG) as lines: jaw, brows, nose, eyes, lips.

    Args:
        points: float [68, 2], pixels of the picture (centres at whole numbers).
        size: side of the picture, px.

    Returns:
        uint8 [size, size], 255 on the lines; smooth edges.
    """
    return _drawn(points, _ALL_LINES, size)


def pose_sketch(points: np.ndarray, size: int) -> np.ndarray:
    """Points 17-47, float [31, 2], as lines: brows, nose, eyes. They do not move with speech."""
    return _drawn(np.concatenate([np.zeros((17, 2)), points]), _POSE_LINES, size)


def _drawn(points: np.ndarray, lines: tuple[tuple[range, bool], ...], size: int) -> np.ndarray:
    picture = np.zeros((size, size), np.uint8)
    fixed = np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    thickness = max(1, round(size / 128))
    for numbers, closed in lines:
        cv2.polylines(picture, [fixed[list(numbers)]], closed, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    return picture
