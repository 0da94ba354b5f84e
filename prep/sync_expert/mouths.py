"""What the sync experts see: small grey pictures of the mouth, placed by the pose points of the face.

The picture's place follows from points 17-47 (brows, nose, eyes) alone. The mouth moves inside it, and nothing that a
model redraws decides where it lies; an output is never searched for a face again.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from prep.stages.geometry import N_POINTS, POSE, canonical_to_frame, scale_of

PATCH = 64
"""Side of a mouth picture, px."""

SIDE = 1.4
CENTRE_Y = 0.9
"""Side and centre of the square in canonical units (distance of the outer eye corners; y from the middle between
them): from under the eyes to just below the chin."""

_FINE = 2 * PATCH


def mouth_patch(grey: np.ndarray, to_frame: np.ndarray) -> np.ndarray:
    """One mouth picture.

    Args:
        grey: uint8 [H, W].
        to_frame: float [2, 3], from :func:`prep.stages.geometry.canonical_to_frame`.

    Returns:
        uint8 [64, 64]; where the square leaves the picture, its edge is repeated.
    """
    step = SIDE / _FINE
    grid = np.array([[step, 0.0, (step - SIDE) / 2], [0.0, step, CENTRE_Y + (step - SIDE) / 2]])
    matrix = np.hstack([to_frame[:, :2] @ grid[:, :2], to_frame[:, :2] @ grid[:, 2:] + to_frame[:, 2:]])
    shrink = math.floor(float(scale_of(to_frame)) * step)
    if shrink >= 2:  # a large face: average whole pixels first, or linear sampling would skip most of them
        grey, matrix = _shrunk(grey, matrix, shrink)
    fine = cv2.warpAffine(
        grey, matrix, (_FINE, _FINE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(cv2.resize(fine, (PATCH, PATCH), interpolation=cv2.INTER_AREA))


def mouth_patches(crops: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Mouth pictures of face crops.

    Args:
        crops: uint8 [T, S, S, 3] RGB, any S.
        landmarks: float [T, 68, 2] crop pixels; only 17-47 are read.

    Returns:
        uint8 [T, 64, 64].
    """
    matrices = canonical_to_frame(landmarks)
    patches = [mouth_patch(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), m) for crop, m in zip(crops, matrices, strict=True)]
    return np.stack(patches) if patches else np.zeros((0, PATCH, PATCH), np.uint8)


def mouth_squares(pose: np.ndarray, size: int, part: float = 1.0) -> np.ndarray:
    """Where the mouth is looked for, from pose points alone, as ``affine_grid`` wants it.

    Args:
        pose: float [n, 31, 2], points 17-47, pixels of pictures of ``size`` px.
        part: of the square's side that is wanted, around its centre.

    Returns:
        float32 [n, 2, 3]: the square that :func:`mouth_patch` cuts.
    """
    points = np.zeros((len(pose), N_POINTS, 2))
    points[:, POSE] = pose
    matrix = canonical_to_frame(points)
    linear, centre = matrix[..., :2], matrix[..., :2] @ np.array([0.0, CENTRE_Y]) + matrix[..., 2]
    squares = np.concatenate([linear * (part * SIDE / size), ((2 * centre + 1) / size - 1)[..., None]], -1)
    return np.asarray(squares, np.float32)


def _shrunk(grey: np.ndarray, matrix: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of ``grey`` that ``matrix`` reaches, ``factor`` times smaller, and the matrix into it."""
    corners = np.array([[0, 0, 1], [_FINE, 0, 1], [0, _FINE, 1], [_FINE, _FINE, 1]]) @ matrix.T
    height, width = grey.shape
    left, top = (max(0, math.floor(low) - factor) for low in corners.min(axis=0))
    right, bottom = (math.ceil(high) + factor + 1 for high in corners.max(axis=0))
    part = grey[min(top, height - 1) : max(1, bottom), min(left, width - 1) : max(1, right)]
    left, top = min(left, width - 1), min(top, height - 1)
    columns, rows = max(1, part.shape[1] // factor), max(1, part.shape[0] // factor)
    part = part[: rows * factor, : columns * factor]
    small = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    scaled = matrix / factor
    scaled[:, 2] += (0.5 - np.array([left, top])) / factor - 0.5
    return small, scaled
