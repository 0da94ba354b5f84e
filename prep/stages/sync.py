"""The sync columns of a sample, and the interface of what fills them."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

NOT_MEASURED = "no sync expert in this version"
"""Why the columns are empty until an estimator is there."""


@dataclasses.dataclass(frozen=True)
class SyncReading:
    """How well mouth and sound of one track fit.

    Attributes:
        offset: frames of 40 ms by which the audio leads (> 0) or lags; ``None`` where it could not be measured.
        confidence: the estimator's own scale, larger is surer.
        per_frame: confidence per frame of the track, ``None`` where there is none.
        estimator: name and version of the estimator.
        reason: why there is no offset; empty where there is one.
    """

    offset: float | None = None
    confidence: float | None = None
    per_frame: tuple[float, ...] | None = None
    estimator: str = ""
    reason: str = NOT_MEASURED


class SyncEstimator(Protocol):
    """Measures the AV offset of one track."""

    name: str

    def estimate(self, crops: np.ndarray, landmarks: np.ndarray, pcm: np.ndarray) -> SyncReading:
        """Read one track.

        Args:
            crops: uint8 [T, S, S, 3] RGB face crops at 25 fps.
            landmarks: float32 [T, 68, 2] crop pixels; an estimator aligns mouths by the eye points.
            pcm: int16 [640 T], 16 kHz mono.
        """
        ...
