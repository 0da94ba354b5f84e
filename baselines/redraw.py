"""A mouth from one picture, put into the erased region of another by the points that do not speak."""

from __future__ import annotations

import math

import cv2
import numpy as np

FEATHER = 0.04
"""Width of the soft edge outside the erased region, in sides of the picture."""


def redraw(
    source: np.ndarray, erase: np.ndarray, pose: np.ndarray, donor: np.ndarray, donor_pose: np.ndarray
) -> np.ndarray:
    """``source`` with its erased region taken from ``donor``, warped so that the pose points meet.

    The warp is the affine map that carries the donor's points 17-47 onto the source's by least squares. Inside
    ``erase`` the donor alone is seen; in a ring around it the two fade into each other; elsewhere the source stays.

    Args:
        source: uint8 [S, S, 3].
        erase: uint8 [S, S] of 0 and 1.
        pose: float [31, 2], points 17-47 of ``source``, pixels.
        donor: uint8 [S, S, 3].
        donor_pose: float [31, 2], points 17-47 of ``donor``, pixels.

    Returns:
        uint8 [S, S, 3].
    """
    size = source.shape[0]
    known = np.concatenate([donor_pose, np.ones((len(donor_pose), 1))], axis=1).astype(np.float64)
    matrix, *_ = np.linalg.lstsq(known, pose.astype(np.float64), rcond=None)
    warped = cv2.warpAffine(donor, matrix.T, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    redrawn = source.copy()
    box = _around(erase, FEATHER * size)
    outside = cv2.distanceTransform(1 - erase[box], cv2.DIST_L2, 5)
    alpha = np.clip(1.0 - (outside - 1.0) / (FEATHER * size), 0.0, 1.0)[..., None]
    alpha[erase[box] > 0] = 1.0
    redrawn[box] = np.rint(alpha * warped[box] + (1.0 - alpha) * source[box])
    return redrawn


def _around(erase: np.ndarray, ring: float) -> tuple[slice, slice]:
    """The box outside which nothing is seen of the donor."""
    x, y, width, height = cv2.boundingRect(erase)
    edge = math.ceil(ring) + 1
    return slice(max(0, y - edge), y + height + edge), slice(max(0, x - edge), x + width + edge)
