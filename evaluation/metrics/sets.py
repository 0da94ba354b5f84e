"""Metrics over sets of frames: from features of outputs and clips to one number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from evaluation.metrics import identity, inception
from evaluation.metrics.frechet import frechet_distance, kid


@dataclasses.dataclass(frozen=True)
class SetStatistic:
    """How a set metric follows from features.

    Attributes:
        features: their name in the cells.
        measure: (features of outputs, features of clips) -> value; float [n, d] each.
        scale: by which the value is multiplied.
        needs: frames under which the number compares with no other paper's.
    """

    features: str
    measure: Callable[[np.ndarray, np.ndarray], float]
    scale: float
    needs: int

    def __call__(self, output: np.ndarray, truth: np.ndarray) -> float:
        return self.scale * self.measure(output, truth)


SET_STATISTICS = {
    inception.FID.id: SetStatistic(inception.FEATURES_NAME, frechet_distance, 1.0, 2048),
    inception.KID.id: SetStatistic(inception.FEATURES_NAME, kid, inception.KID_SCALE, 2),
    identity.FFD.id: SetStatistic(identity.FEATURES, frechet_distance, identity.FFD_SCALE, 128),
}
"""By metric id."""
