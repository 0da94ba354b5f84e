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


class _Motion:
    """:func:`motion_energy` and :func:`flicker` of mouths that come in blocks."""

    def __init__(self) -> None:
        self.energy, self.flicker = Mean(), Mean()
        self._tail: np.ndarray | None = None  # the last two frames: the next block's differences begin there

    def add(self, patches: np.ndarray) -> None:
        before = 0 if self._tail is None else len(self._tail)
        frames = patches.astype(np.float32)
        if self._tail is not None:
            frames = np.concatenate([self._tail, frames])
        self.energy.add(np.square(np.diff(frames[max(0, before - 1) :], axis=0)))
        self.flicker.add(np.abs(np.diff(frames, n=2, axis=0)))
        self._tail = frames[-2:].copy()


class _Session:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._output, self._truth = _Motion(), _Motion()

    def add(self, block: Block) -> None:
        if not self._context.is_truth:
            self._output.add(central(mouth_patches(block.output, block.landmarks)))
            self._truth.add(central(mouth_patches(block.truth, block.landmarks)))

    def result(self) -> Measured:
        pairs = {
            MOTION: (self._output.energy.value, self._truth.energy.value),
            FLICKER: (self._output.flicker.value, self._truth.flicker.value),
        }
        found = {metric: output / real if output is not None and real and real > _FLOOR else None
                 for metric, (output, real) in pairs.items()}  # fmt: skip
        return values_of(found, self._context)
