"""How the redrawn mouth moves: its energy and its flicker, as ratios to the clip's own."""

from __future__ import annotations

import numpy as np

from evaluation.metrics.base import Block, Context, Measured, Metric, values_of
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
    """Keeps the mouths of the shot, 2.3 kB a frame each: the last ones of a block belong with the next."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._output: list[np.ndarray] = []
        self._truth: list[np.ndarray] = []

    def add(self, block: Block) -> None:
        if not self._context.is_truth:
            self._output.append(central(mouth_patches(block.output, block.landmarks)))
            self._truth.append(central(mouth_patches(block.truth, block.landmarks)))

    def result(self) -> Measured:
        found: dict[Metric, float | None] = {MOTION: None, FLICKER: None}
        if self._output:
            output, truth = np.concatenate(self._output), np.concatenate(self._truth)
            for metric, measure, shortest in ((MOTION, motion_energy, 2), (FLICKER, flicker, 3)):
                if len(truth) >= shortest and (real := measure(truth)) > _FLOOR:
                    found[metric] = measure(output) / real
        return values_of(found, self._context)
