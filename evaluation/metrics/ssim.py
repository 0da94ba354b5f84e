"""SSIM of a region, as scikit-image computes it, several times faster."""

from __future__ import annotations

import cv2
import numpy as np

from evaluation.metrics.base import FACE, Block, Context, Mean, Measured, Metric, values_of
from g4g_core.errors import UsageError

_SIGMA, _RADIUS = 1.5, 5
_K1, _K2 = 0.01, 0.03
_TAPS = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
_TAPS /= _TAPS.sum()


def ssim_map(a: np.ndarray, b: np.ndarray, data_range: float = 255.0) -> np.ndarray:
    """Structural similarity of every pixel (Wang et al., IEEE TIP 13(4), 2004, eq. 13).

    Gaussian window of sigma 1.5 cut at 5 px, population covariance, edges mirrored: the map of
    ``skimage.metrics.structural_similarity(a, b, data_range=..., channel_axis=-1, gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False, full=True)``.

    Args:
        a, b: [H, W, C] or [H, W], uint8 or float in 0 ... ``data_range``.

    Returns:
        float64 of the same shape, at most 1.

    Raises:
        UsageError: different shapes, or a side under 11 px.
    """
    if a.shape != b.shape or min(a.shape[:2]) < 2 * _RADIUS + 1:
        raise UsageError(f"SSIM compares pictures of one size and 11 px or more, not {a.shape} with {b.shape}")
    flat = a.ndim == 2
    found = np.empty(a.shape)
    room = np.empty((6, *a.shape[:2]))
    for channel in (np.s_[:, :],) if flat else (np.s_[:, :, c] for c in range(a.shape[2])):
        found[channel] = _similarity(a[channel], b[channel], data_range, room)
    return found


def _similarity(a: np.ndarray, b: np.ndarray, data_range: float, room: np.ndarray) -> np.ndarray:
    """One channel. Everything is written into ``room``, float64 [6, H, W], which stays in the cache: new arrays for
    every step, of all channels at once, took 2.6 times as long."""
    x, y, mean_x, mean_y, energy, product = room
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    x[:], y[:] = a, b
    _blur(x, mean_x)
    _blur(y, mean_y)
    np.multiply(x, y, out=product)
    x *= x
    y *= y
    x += y
    _blur(x, energy)  # of the two variances only their sum counts
    covariance, means = _blur(product, x), np.multiply(mean_x, mean_y, out=product)
    mean_x *= mean_x
    mean_y *= mean_y
    squares = np.add(mean_x, mean_y, out=mean_x)
    energy -= squares
    covariance -= means
    energy += c2
    squares += c1
    squares *= energy
    means *= 2
    means += c1
    covariance *= 2
    covariance += c2
    covariance *= means
    covariance /= squares
    return covariance


def ssim(a: np.ndarray, b: np.ndarray, data_range: float = 255.0) -> float:
    """Mean SSIM over a picture without the 5 px at its edges, as scikit-image has it; see :func:`ssim_map`."""
    inside = ssim_map(a, b, data_range)[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
    return float(inside.mean())


def _blur(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    cv2.sepFilter2D(values, cv2.CV_64F, _TAPS, _TAPS, dst=out, borderType=cv2.BORDER_REFLECT)
    return out


FACE_SSIM = Metric(
    id="ssim@face", name="SSIM face", unit="", better="higher", kind="clip", full_reference=True,
    definition="Structural similarity of the face box with the clip, RGB at 256 px (Gaussian window, sigma 1.5).",
)  # fmt: skip
MOUTH_SSIM = Metric(
    id="ssim@mouth", name="SSIM mouth", unit="", better="higher", kind="clip", full_reference=True,
    definition="Structural similarity with the clip, averaged over its own mouth region (nose base to chin), RGB "
    "at 256 px (Gaussian window, sigma 1.5).",
)  # fmt: skip


class SsimMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "ssim"
    metrics = (FACE_SSIM, MOUTH_SSIM)
    packages: tuple[tuple[str, str], ...] = ()

    def start(self, context: Context) -> _Session:
        return _Session(context)


class _Session:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._face, self._mouth = Mean(), Mean()

    def add(self, block: Block) -> None:
        if self._context.is_truth:
            return
        for frame in np.flatnonzero(block.scored):
            mouth = block.mouth256[frame]
            box = _around(mouth)
            similar = np.full(block.output256[frame].shape, np.nan)
            similar[box] = ssim_map(block.output256[frame][box], block.truth256[frame][box])
            self._face.add(similar[FACE])
            self._mouth.add(similar[mouth])

    def result(self) -> Measured:
        return values_of({FACE_SSIM: self._face.value, MOUTH_SSIM: self._mouth.value}, self._context)


def _around(mouth: np.ndarray) -> tuple[slice, slice]:
    """The smallest box that holds face and mouth with all that their pixels' windows reach, half of the picture."""
    wanted = mouth.copy()
    wanted[FACE] = True
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    across, down = (slice(max(0, int(found[0]) - _RADIUS), int(found[-1]) + _RADIUS + 1) for found in (columns, rows))
    return down, across
