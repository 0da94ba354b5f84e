"""``crop/1``: where the face is cut from a frame. FID, LSE and every model depend on it, hence the version."""

from __future__ import annotations

import dataclasses

import numpy as np

from prep.records import FPS
from prep.stages.geometry import canonical_to_frame, scale_of, transform

CROP_VERSION = "crop/1"

FACE_CENTRE = np.array([[0.0, 0.42]])
FACE_HALF = 0.97
"""Face box around the canonical face: a square of half side b that spans S3FD's box in height, from half-way between
brows and hairline (-0.55) to just under the chin (1.39). Unit: distance of the outer eye corners."""

SIDE = 2.8
LEFT, TOP = 1.4, 1.0
"""SyncNet's crop (``run_pipeline.py``, crop_scale 0.4): from (cx - 1.4 b, cy - b) to (cx + 1.4 b, cy + 1.8 b)."""

MAX_DRIFT = 0.2
"""Change of the face's size within a shot above which b follows it."""

_CENTRE_WINDOW = 13  # frames, as SyncNet's median filter
_SIZE_WINDOW = 2 * FPS + 1
_DECIMALS = 3


@dataclasses.dataclass(frozen=True)
class CropTrack:
    """The crop squares of one track.

    Attributes:
        x, y: float64 [T], left and top edge in frame pixels (0 is the left edge of the first pixel).
        side: float64 [T], px.
        half: float64 [T], half side b of the face box, px.
    """

    x: np.ndarray
    y: np.ndarray
    side: np.ndarray
    half: np.ndarray

    def affine(self, size: int) -> np.ndarray:
        """float64 [T, 2, 3], frame to crop pixels, centres of pixels at whole numbers in both."""
        scale = size / self.side
        matrix = np.zeros((len(scale), 2, 3))
        matrix[:, 0, 0] = matrix[:, 1, 1] = scale
        matrix[:, 0, 2] = (0.5 - self.x) * scale - 0.5
        matrix[:, 1, 2] = (0.5 - self.y) * scale - 0.5
        return matrix


def crop_track(landmarks: np.ndarray) -> CropTrack:
    """The crop of every frame of a track.

    The face box follows from the similarity that carries the mean face onto points 17-47. Its half side b is the
    track's median; where the size drifts by more than 20 %, b is low-passed over 2 s instead. The centre is low-passed
    over 13 frames. Points 0-16 and 48-67 are never read.

    Args:
        landmarks: float [T, 68, 2], frame pixels, as fitted.
    """
    matrices = canonical_to_frame(landmarks)
    centre = low_pass(transform(matrices, FACE_CENTRE)[:, 0, :], _CENTRE_WINDOW)
    half = low_pass(scale_of(matrices)[:, None] * FACE_HALF, _SIZE_WINDOW)[:, 0]
    typical = float(np.median(half))
    if np.ptp(half) <= MAX_DRIFT * typical:
        half = np.full_like(half, typical)
    half = np.round(half, _DECIMALS)
    return CropTrack(
        x=np.round(centre[:, 0] - LEFT * half, _DECIMALS),
        y=np.round(centre[:, 1] - TOP * half, _DECIMALS),
        side=np.round(SIDE * half, _DECIMALS),
        half=half,
    )


def low_pass(values: np.ndarray, window: int) -> np.ndarray:
    """Zero-phase Hann-weighted mean over ``window`` frames (odd) of values [T, D].

    The ends are continued by point reflection, which keeps a steady movement steady. Tracks shorter than the window
    are filtered with the longest odd window that fits.
    """
    window = min(window, len(values) - 1 + len(values) % 2)
    if window < 3:
        return values.astype(np.float64)
    weights = np.hanning(window + 2)[1:-1]
    weights /= weights.sum()
    reach = window // 2
    head = 2 * values[0] - values[reach:0:-1]
    tail = 2 * values[-1] - values[-2 : -reach - 2 : -1]
    padded = np.concatenate([head, values, tail]).astype(np.float64)
    stacked = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0)
    return np.asarray((stacked * weights).sum(axis=-1))


_SMOOTH = np.array([-3.0, 12.0, 17.0, 12.0, -3.0]) / 35.0


def smooth_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Savitzky-Golay filter of 5 frames and second order, point by point: float32 [T, 68, 2].

    Zero phase; it takes out the fit's jitter and keeps the peak of a mouth opening of 120 ms or more. Every point is
    filtered on its own, so that pose points stay free of what the mouth does.
    """
    if len(landmarks) < 5:
        return landmarks.astype(np.float32)
    padded = np.concatenate(
        [2 * landmarks[:1] - landmarks[2:0:-1], landmarks, 2 * landmarks[-1:] - landmarks[-2:-4:-1]]
    ).astype(np.float64)
    smooth = sum(weight * padded[i : i + len(landmarks)] for i, weight in enumerate(_SMOOTH))
    return np.asarray(smooth, dtype=np.float32)
