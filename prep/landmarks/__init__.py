"""Landmark backends: one file each, one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Refiner(Protocol):
    """A backend that replaces the tracker's own landmarks, many frames at a time."""

    name: str
    weights: tuple[str, ...]
    batch_size: int

    def fit(self, frames: Sequence[np.ndarray], boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [N, 68, 2] frame pixels, float32 [N] scores) of one face a frame.

        Args:
            frames: N uint8 RGB [H, W, 3].
            boxes: float [N, 4], S3FD-like face boxes in frame pixels.
        """
        ...


def weights_of(backend: str) -> tuple[str, ...]:
    """Names of the weights in the registry that a run with ``backend`` reads."""
    tracker = ("dlib-68", "dlib-mmod")
    return (*tracker, "2dfan4") if backend == "fan" else tracker


def fan_boxes(landmarks: np.ndarray) -> np.ndarray:
    """float64 [N, 4]: S3FD-like boxes of faces [N, 68, 2], from points 17-47 (see :mod:`prep.stages.crop`)."""
    from prep.stages.crop import FACE_CENTRE, FACE_HALF
    from prep.stages.geometry import canonical_to_frame, scale_of, square, transform

    matrices = canonical_to_frame(landmarks)
    return square(transform(matrices, FACE_CENTRE)[:, 0, :], scale_of(matrices) * FACE_HALF)
