"""Numbers about picture and sound that selection can use. Nothing is thrown away because of them."""

from __future__ import annotations

import cv2
import numpy as np

from prep.stages.geometry import MEAN_FACE, POSE

SHARPNESS_SIDE = 128
_SILENCE = -100.0
_WINDOW = 400  # 25 ms
SILENT_BELOW = -70.0
"""RMS level (dBFS) under which a clip counts as silent: 16-bit silence with dither lies under -90."""


def sharpness(rgb: np.ndarray) -> float:
    """Variance of the Laplacian of the luma, the crop scaled to 128x128 first so that crop sizes compare.

    Pech-Pacheco et al., ICPR 2000. Blurred faces lie under 50, crisp ones over 300.

    Args:
        rgb: uint8 [S, S, 3].
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if grey.shape[0] != SHARPNESS_SIDE:
        grey = cv2.resize(grey, (SHARPNESS_SIDE, SHARPNESS_SIDE), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def brightness(rgb: np.ndarray) -> float:
    """Mean luma of the face, 0..255: of the part of the crop that ``crop/1`` gives the face box."""
    side = rgb.shape[0]
    face = rgb[: round(side / 1.4), round(side * 0.4 / 2.8) : round(side * 2.4 / 2.8)]
    return float(cv2.cvtColor(np.ascontiguousarray(face), cv2.COLOR_RGB2GRAY).mean())


def loudness_dbfs(pcm: np.ndarray) -> float:
    """RMS level of int16 samples in dB under full scale; -100 for digital silence."""
    if len(pcm) == 0:
        return _SILENCE
    rms = float(np.sqrt(np.mean(np.square(pcm.astype(np.float64) / 32768))))
    return max(_SILENCE, 20 * np.log10(max(rms, 1e-12)))


def snr_db(pcm: np.ndarray) -> float:
    """Speech over background: 95th against 10th percentile of the level of 25 ms windows, in dB, at most 60.

    An estimate without a clean reference; music and noise lower it, pauses are needed for it to mean anything.
    """
    n_windows = len(pcm) // _WINDOW
    if n_windows < 4:
        return 0.0
    windows = pcm[: n_windows * _WINDOW].reshape(n_windows, _WINDOW).astype(np.float64) / 32768
    levels = 10 * np.log10(np.maximum((windows**2).mean(axis=1), 1e-10))
    high, low = np.percentile(levels, [95, 10])
    return float(min(60.0, high - low))


# Depth of the pose points of an average head, in distances of the outer eye corners, towards the camera positive and
# zero at the outer eye corners; from anthropometric tables (Farkas 1994), to a few hundredths.
_DEPTH = np.array(
    [
        *[0.03, 0.13, 0.20, 0.24, 0.25, 0.25, 0.24, 0.20, 0.13, 0.03],  # brows 17-26
        *[0.23, 0.33, 0.43, 0.52],  # bridge and tip of the nose 27-30
        *[0.25, 0.31, 0.35, 0.31, 0.25],  # nose base 31-35
        *[0.00, 0.06, 0.08, 0.07, 0.09, 0.07],  # right eye 36-41
        *[0.07, 0.08, 0.06, 0.00, 0.07, 0.09],  # left eye 42-47
    ]
)


def head_pose(landmarks: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll in degrees of faces [T, 68, 2], float64 [T, 3], by weak-perspective least squares.

    The two rows of the affine camera that carries the mean head's points 17-47 onto the picture are made orthonormal;
    the rotation they span is read as pitch (positive: down), then yaw (positive: the face turns to the picture's
    right), then roll (positive: clockwise in the picture), in this order, so that a tilted head does not nod.
    """
    head = np.column_stack([MEAN_FACE[POSE], -_DEPTH])  # x right, y down, z away from the camera
    head = head - head.mean(axis=0)
    pose = landmarks[:, POSE].astype(np.float64)
    pose = pose - pose.mean(axis=1, keepdims=True)
    cameras = np.einsum("kn,tnd->tdk", np.linalg.pinv(head), pose)  # [T, 2, 3]
    u, _, vt = np.linalg.svd(cameras, full_matrices=False)
    rows = u @ vt
    third = np.cross(rows[:, 0], rows[:, 1])
    yaw = np.arctan2(third[:, 0], np.hypot(rows[:, 0, 0], rows[:, 1, 0]))
    pitch = np.arctan2(third[:, 1], third[:, 2])
    roll = np.arctan2(rows[:, 1, 0], rows[:, 0, 0])
    return np.degrees(np.stack([yaw, pitch, roll], axis=1))
