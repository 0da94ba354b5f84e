"""How the redrawn mouth moves: its energy and its flicker, as ratios to the clip's own."""

from __future__ import annotations

import numpy as np

from evaluation.metrics.base import Block, Context, Mean, Measured, Metric, values_of
from prep.sync_expert.infer import central
from prep.sync_expert.mouths import mouth_patches

_FLOOR = 1e-6


def motion_energy(patches: np.ndarray) -> float:
    """Mean squared change from frame to frame of mouth pictures [T, h, w], which are steadied by the pose; levels^2."""
    return float(np.square(np.diff(patches.astype(np.float32), axis=0)).mean())


def flicker(patches: np.ndarray) -> float:
    """Mean absolute second difference over time of mouth pictures [T, h, w], in levels.

    A mouth in motion is nearly linear over three frames; what jumps to and fro is not.
    """
    return float(np.abs(np.diff(patches.astype(np.float32), n=2, axis=0)).mean())


MOTION = Metric(
    id="motion@mouth", name="Mouth motion", unit="x", better=1.0, kind="clip", full_reference=True,
    definition="Energy of the mouth's motion (mean squared change between frames of the mouth, steadied by the pose) "
    "over the clip's own: 0 is frozen, 1 moves as the truth does.",
)  # fmt: skip
FLICKER = Metric(
    id="flicker@mouth", name="Flicker", unit="x", better=1.0, kind="clip", full_reference=True,
    definition="Mean absolute second difference over time of the mouth, steadied by the pose, over the clip's "
    "own: above 1 it flickers more than footage, below 1 it is smoother.",
)  # fmt: skip


class TemporalMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "temporal"
    metrics = (MOTION, FLICKER)
    packages: tuple[tuple[str, str], ...] = ()

    def start(self, context: Context) -> _Session:
        return _Session(context)


class _Session:
    """Compares within runs of scored frames: across a gap, or from one prompt to the next, no model could be smooth."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._output, self._truth = (Mean(), Mean()), (Mean(), Mean())

    def add(self, block: Block) -> None:
        if self._context.is_truth:
            return
        for pictures, means in ((block.output, self._output), (block.truth, self._truth)):
            mouths = central(mouth_patches(pictures, block.landmarks)).astype(np.float32)
            for run in _runs(block.scored):
                means[0].add(np.square(np.diff(mouths[run], axis=0)))
                means[1].add(np.abs(np.diff(mouths[run], n=2, axis=0)))

    def result(self) -> Measured:
        found: dict[Metric, float | None] = {}
        for metric, output, truth in zip((MOTION, FLICKER), self._output, self._truth, strict=True):
            known = output.value is not None and truth.value is not None and truth.value > _FLOOR
            found[metric] = output.value / truth.value if known else None  # type: ignore[operator]
        return values_of(found, self._context)


def _runs(scored: np.ndarray) -> list[slice]:
    """The stretches of consecutive scored frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], scored.astype(np.int8), [0]])))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
