"""The geometry of a face: its points, its canonical shape, and where that shape stands in a frame.

Everything that decides where a crop or an ``erase`` mask lies is a function of the pose points 17-47 alone (brows,
nose, eyes). The jaw (0-16) and the mouth (48-67) move with speech: a crop that followed them would tell a model what
the mouth does.
"""

from __future__ import annotations

import numpy as np

N_POINTS = 68
JAW = slice(0, 17)
POSE = slice(17, 48)
NOSE_TIP = 30
NOSE_BASE = slice(31, 36)
RIGHT_EYE_CORNER, LEFT_EYE_CORNER = 36, 45
RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)
MOUTH = slice(48, 68)
OUTER_LIP = slice(48, 60)

MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36]
    + [41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
)
"""int [68]: the point that each one is in a mirrored picture."""

# Mean face of the 68 iBUG points, symmetrised: the Procrustes mean of dlib's fits on frontal frames. The origin is
# the middle between the outer eye corners, the unit their distance, y points down.
_POINTS = [
    *[(-0.810, 0.026), (-0.798, 0.244), (-0.771, 0.462), (-0.732, 0.675), (-0.659, 0.880), (-0.547, 1.063)],
    *[(-0.392, 1.214), (-0.210, 1.329), (0.000, 1.363), (0.210, 1.329), (0.392, 1.214), (0.547, 1.063)],
    *[(0.659, 0.880), (0.732, 0.675), (0.771, 0.462), (0.798, 0.244), (0.810, 0.026)],
    *[(-0.660, -0.166), (-0.558, -0.261), (-0.415, -0.287), (-0.270, -0.265), (-0.131, -0.206)],
    *[(0.131, -0.206), (0.270, -0.265), (0.415, -0.287), (0.558, -0.261), (0.660, -0.166)],
    *[(0.000, -0.036), (0.000, 0.101), (0.000, 0.237), (0.000, 0.379)],
    *[(-0.163, 0.495), (-0.085, 0.524), (0.000, 0.547), (0.085, 0.524), (0.163, 0.495)],
    *[(-0.500, 0.000), (-0.411, -0.047), (-0.306, -0.048), (-0.214, 0.016), (-0.312, 0.038), (-0.417, 0.039)],
    *[(0.214, 0.016), (0.306, -0.048), (0.411, -0.047), (0.500, 0.000), (0.417, 0.039), (0.312, 0.038)],
    *[(-0.299, 0.814), (-0.196, 0.737), (-0.082, 0.697), (0.000, 0.718), (0.082, 0.697), (0.196, 0.737)],
    *[(0.299, 0.814), (0.199, 0.927), (0.089, 0.976), (0.000, 0.986), (-0.089, 0.976), (-0.199, 0.927)],
    *[(-0.248, 0.815), (-0.083, 0.778), (0.000, 0.786), (0.083, 0.778), (0.248, 0.815)],
    *[(0.084, 0.856), (0.000, 0.866), (-0.084, 0.856)],
]
MEAN_FACE = np.array(_POINTS, dtype=np.float64)
"""float64 [68, 2], in distances of the outer eye corners."""

_POSE_MEAN = MEAN_FACE[POSE]


def canonical_to_frame(points: np.ndarray) -> np.ndarray:
    """The similarity that carries the canonical face onto each face, by least squares over the pose points.

    Args:
        points: float [..., 68, 2] frame pixels. Only 17-47 are read.

    Returns:
        float64 [..., 2, 3]: ``A @ (x, y, 1)`` takes canonical coordinates (unit: distance of the outer eye corners)
        to frame pixels; a rotation with one scale, no shear (Umeyama 1991 without reflection).
    """
    return similarity(_POSE_MEAN, np.asarray(points)[..., POSE, :])


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift that carry points onto others by least squares (Umeyama 1991, no reflection).

    Args:
        points, target: float [..., N, 2]; leading axes broadcast.

    Returns:
        float64 [..., 2, 3]: ``A @ (x, y, 1)`` takes ``points`` to ``target``.
    """
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    start, goal = points.mean(axis=-2), target.mean(axis=-2)
    z, w = ((array - centre[..., None, :]) @ (1, 1j) for array, centre in ((points, start), (target, goal)))
    k = (w * z.conj()).sum(axis=-1) / (np.abs(z) ** 2).sum(axis=-1)
    matrix = np.empty((*k.shape, 2, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = k.real
    matrix[..., 1, 0] = k.imag
    matrix[..., 0, 1] = -k.imag
    matrix[..., 2] = goal - np.einsum("...ij,...j->...i", matrix[..., :2], start)
    return matrix


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply affine matrices [..., 2, 3] to points [..., N, 2] (or [N, 2])."""
    return np.asarray(points @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2])


def scale_of(matrix: np.ndarray) -> np.ndarray:
    """Pixels per canonical unit of similarities [..., 2, 3]."""
    return np.hypot(matrix[..., 0, 0], matrix[..., 1, 0])


def interocular(points: np.ndarray) -> np.ndarray:
    """Distance of the outer eye corners (36, 45) of points [..., 68, 2]."""
    return np.asarray(np.linalg.norm(points[..., LEFT_EYE_CORNER, :] - points[..., RIGHT_EYE_CORNER, :], axis=-1))


def square(centre: np.ndarray, half: np.ndarray | float) -> np.ndarray:
    """Boxes [..., 4] (x0, y0, x1, y1) of centres [..., 2] and half sides [...]."""
    extent = np.asarray(half)[..., None]
    return np.concatenate([centre - extent, centre + extent], axis=-1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))
