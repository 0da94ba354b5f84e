"""Mouth masks as bit planes, and the region that a model must redraw."""

from __future__ import annotations

import cv2
import numpy as np

from prep.shards.schema import MaskBit
from prep.stages.geometry import (
    LEFT_EYE,
    NOSE_BASE,
    NOSE_TIP,
    OUTER_LIP,
    RIGHT_EYE,
    canonical_to_frame,
    scale_of,
    transform,
)

BLOCK = 8
"""JPEG spreads a pixel over its 8x8 block (4:4:4): an erased region ends where blocks end."""

MAX_ERASE = 0.40
"""Part of the crop that ``erase`` may take: a face that grows within a shot of constant crop size would exceed it."""

_SUBPIXEL_BITS = 4
_LIP_MARGIN = 0.05  # of the outer eye corners' distance

_SIDE = [
    *[(0.42, 0.52), (0.58, 0.66), (0.62, 0.90), (0.70, 1.08), (0.77, 1.28), (0.77, 1.38)],
    *[(0.71, 1.48), (0.59, 1.60), (0.42, 1.68), (0.20, 1.74)],
]
ERASE_TEMPLATE = np.array([(-x, y) for x, y in _SIDE] + _SIDE[::-1])
"""Lower face of the canonical face: sides and chin around every place where the mouth region of more than about 0.2 %
of frames falls, on people of the clips that may be redistributed. Its upper edge is the nose base."""


def mask_planes(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Bit planes (:class:`prep.shards.schema.MaskBit`) of every frame of a track.

    Args:
        landmarks: float [T, 68, 2], crop pixels, smoothed.
        size: side of the crop, px.

    Returns:
        uint8 [T, size, size].
    """
    planes = np.zeros((len(landmarks), size, size), np.uint8)
    for plane, points, matrix in zip(planes, landmarks, canonical_to_frame(landmarks), strict=True):
        _draw_mouth(plane, points, float(scale_of(matrix)))
        plane |= _erase(points, matrix, size) * np.uint8(MaskBit.ERASE)
    return planes


def mouth_regions(points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lips, mouth and lower face of one frame, uint8 [size, size] of 0 and 1, each inside the next.

    They show what the mouth does: for losses and metrics only, never for a model's input.

    Args:
        points: float [68, 2], crop pixels.
    """
    plane = np.zeros((size, size), np.uint8)
    _draw_mouth(plane, points, float(scale_of(canonical_to_frame(points))))
    lips, mouth, lower_face = ((plane & bit) // bit for bit in (MaskBit.LIPS, MaskBit.MOUTH, MaskBit.LOWER_FACE))
    return lips, mouth, lower_face


def _draw_mouth(plane: np.ndarray, points: np.ndarray, unit: float) -> None:
    """Paint the three nested regions into an empty plane, the largest first, ``unit`` pixels between the eyes."""
    lips = np.zeros_like(plane)
    _fill(lips, points[OUTER_LIP], 1)
    reach = max(1, round(_LIP_MARGIN * unit))
    lips = cv2.dilate(lips, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    nose, chin = points[NOSE_BASE], points[6:11]
    mouth = _hull(np.concatenate([nose, points[OUTER_LIP], chin]))
    outer = MaskBit.LOWER_FACE
    _fill(plane, _hull(np.concatenate([points[2:15], nose])), outer)
    _fill(plane, mouth, outer | MaskBit.MOUTH)
    plane[lips > 0] = outer | MaskBit.MOUTH | MaskBit.LIPS


def erase_region(points: np.ndarray, size: int) -> np.ndarray:
    """What a model must redraw, uint8 [size, size] of 0 and 1, whole 8x8 blocks.

    The template's sides and chin are placed by the similarity from points 17-47 and its upper edge by the nose base
    (31-35), so that the region is the same whatever the mouth and the jaw do. Blocks that hold a brow,
    the bridge or tip of the nose (17-30) or an eye (36-47) stay: a model needs them to see the pose.

    Args:
        points: float [68, 2], crop pixels. Only 17-47 are read.
    """
    return _erase(points, canonical_to_frame(points), size)


def _erase(points: np.ndarray, to_crop: np.ndarray, size: int) -> np.ndarray:
    outline = transform(to_crop, ERASE_TEMPLATE)
    nose = points[NOSE_BASE].astype(np.float64)
    blocks = -(-size // BLOCK)
    region = np.zeros((blocks * BLOCK, blocks * BLOCK), np.uint8)
    _fill(region[:size, :size], np.concatenate([outline, nose[::-1]]), 1)
    _fill(region[:size, :size], _hull(nose), 1)
    touched = region.reshape(blocks, BLOCK, blocks * BLOCK).max(axis=1).reshape(blocks, blocks, BLOCK).max(axis=2)
    kept = np.concatenate([points[17 : NOSE_TIP + 1], points[RIGHT_EYE], points[LEFT_EYE]])
    # a point belongs to the pixel that it lies on, whichever way a reader rounds
    low, high = np.floor(kept).astype(int) // BLOCK, np.ceil(kept).astype(int) // BLOCK
    columns = np.concatenate([low[:, 0], high[:, 0], low[:, 0], high[:, 0]])
    rows = np.concatenate([low[:, 1], high[:, 1], high[:, 1], low[:, 1]])
    inside = (rows >= 0) & (rows < blocks) & (columns >= 0) & (columns < blocks)
    touched[rows[inside], columns[inside]] = 0
    below = np.cumsum(touched.sum(axis=1, dtype=int))
    touched[below > MAX_ERASE * touched.size] = 0  # the lowest rows, under the chin, go first
    full = cv2.resize(touched, (blocks * BLOCK, blocks * BLOCK), interpolation=cv2.INTER_NEAREST)
    return np.asarray(full[:size, :size])


def _hull(points: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.convexHull(points.astype(np.float32))[:, 0, :])


def _fill(mask: np.ndarray, polygon: np.ndarray, value: int) -> None:
    """Fill a polygon, edges included, at a sixteenth of a pixel."""
    fixed = np.round(polygon * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], (int(value),), shift=_SUBPIXEL_BITS)
