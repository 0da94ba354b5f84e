"""PSNR of a region, from the squared error of all its pixels in a shot."""

from __future__ import annotations

import numpy as np

from evaluation.metrics.base import FACE, Block, Context, Mean, Measured, Metric, values_of
from g4g_core.errors import UsageError

PEAK = 255.0
IDENTICAL_DB = 100.0
"""What a table shows where a region is the clip's own to the last bit, for a mean must stay finite."""


def psnr(a: np.ndarray, b: np.ndarray, data_range: float = PEAK) -> float:
    """Peak signal-to-noise ratio, 10 log10(data_range^2 / MSE), in dB.

    Differences are taken in float: on uint8 they would wrap, which is how the field's best-known script comes by its
    floor of 27.9 dB. Black against white is 0 dB; equal pictures give infinity.

    Args:
        a, b: arrays of one shape, uint8 or float, in 0 ... ``data_range``.

    Raises:
        UsageError: arrays of different shapes, or empty ones.
    """
    if a.shape != b.shape or a.size == 0:
        raise UsageError(f"PSNR compares pictures of one size, not {list(a.shape)} with {list(b.shape)}")
    return _decibels(float(squared_error(a, b).mean()), data_range)


def squared_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32, of the shape of ``a`` and ``b``."""
    difference = a.astype(np.float32) - b.astype(np.float32)
    return np.asarray(difference * difference)


def _decibels(error: float, data_range: float) -> float:
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


FACE_PSNR = Metric(
    id="psnr@face", name="PSNR face", unit="dB", better="higher", kind="clip", full_reference=True,
    definition="Peak signal-to-noise ratio of the face box against the clip, RGB at 256 px; from the mean squared "
    "error over the scored frames of a shot; 100 where nothing differs.",
)  # fmt: skip
MOUTH_PSNR = Metric(
    id="psnr@mouth", name="PSNR mouth", unit="dB", better="higher", kind="clip", full_reference=True,
    definition="Peak signal-to-noise ratio of the clip's own mouth region (nose base to chin), RGB at 256 px; "
    "from the mean squared error over the scored frames of a shot; 100 where nothing differs.",
)  # fmt: skip


class PsnrMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "psnr"
    metrics = (FACE_PSNR, MOUTH_PSNR)
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
            error = squared_error(block.output256[frame], block.truth256[frame])
            self._face.add(error[FACE])
            self._mouth.add(error[block.mouth256[frame]])

    def result(self) -> Measured:
        pairs = {FACE_PSNR: self._face.value, MOUTH_PSNR: self._mouth.value}
        return values_of(
            {metric: None if e is None else min(IDENTICAL_DB, _decibels(e, PEAK)) for metric, e in pairs.items()},
            self._context,
        )
