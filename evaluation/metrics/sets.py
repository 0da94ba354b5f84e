"""Metrics over sets of frames: from features of outputs and clips to one number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from evaluation.metrics import identity
def frechet_distance(x,y):
    m=x.mean(0)-y.mean(0)
    a=np.cov(x.T.astype(np.float64));b=np.cov(y.T.astype(np.float64))
    return float(m@m+np.trace(a)+np.trace(b)-2*np.sqrt(np.maximum(np.linalg.eigvals(a@b).real,0)).sum())



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
    identity.FFD.id: SetStatistic(identity.FEATURES, frechet_distance, identity.FFD_SCALE, 128),
}
"""By metric id."""
