"""What the two experts look like: their front ends and towers, as plain numbers that training and inference share."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from g4g_core.registry import unknown
from prep.records import FPS, SAMPLE_RATE

COLUMNS_PER_SECOND = 100
COLUMNS_PER_FRAME = COLUMNS_PER_SECOND // FPS
HOP = SAMPLE_RATE // COLUMNS_PER_SECOND

INPUT = 48
"""Side of the middle of a mouth picture that the towers see, px."""

DIMENSIONS = 64
"""Length of an embedding; embeddings have norm 1."""


@dataclasses.dataclass(frozen=True)
class Conv:
    """One convolution with ReLU: ``channels`` out, a (square) kernel, its stride and zero padding."""

    channels: int
    kernel: int
    stride: int

    @property
    def padding(self) -> int:
        return self.kernel // 2


@dataclasses.dataclass(frozen=True)
class FrontEnd:
    """A log-mel spectrogram: ``bands`` triangles from ``low`` to ``high`` Hz, Hann windows of ``window`` samples."""

    bands: int
    window: int
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Design:
    """An expert.

    Attributes:
        name: as registered.
        frames: video frames of a window, an odd number; it hears the same time.
        front: what it hears.
        sees: ``motion``: differences of neighbouring frames; ``both``: the frames beside them. Differences are linear,
            so that at inference either is one kernel over the frames.
        visual, audio: convolutions; a linear layer to :data:`DIMENSIONS` follows.
        pool: side of the means that are taken after the last visual convolution.
    """

    name: str
    frames: int
    front: FrontEnd
    sees: Literal["motion", "both"]
    visual: tuple[Conv, ...]
    audio: tuple[Conv, ...]
    pool: int = 1

    def middles(self, count: int) -> np.ndarray:
        """Frames of ``count`` around which a window fits."""
        reach = self.frames // 2
        return np.arange(reach, count - reach)

    @property
    def columns(self) -> int:
        """Audio columns of a window."""
        return COLUMNS_PER_FRAME * self.frames

    @property
    def visual_features(self) -> int:
        """Inputs of the visual linear layer."""
        side = INPUT
        for layer in self.visual:
            side = -(-side // layer.stride)
        return int(self.visual[-1].channels * (side // self.pool) ** 2)

    @property
    def audio_features(self) -> int:
        """Inputs of the linear layer that hears."""
        length = self.columns
        for layer in self.audio:
            length = -(-length // layer.stride)
        return int(self.audio[-1].channels * length)


SYNC_A = Design(
    name="sync-a",
    frames=9,
    front=FrontEnd(bands=40, window=400, low=60.0, high=7600.0),
    sees="motion",
    visual=(Conv(32, 5, 2), Conv(48, 3, 2), Conv(64, 3, 2), Conv(96, 3, 2)),
    audio=(Conv(64, 5, 1), Conv(96, 3, 2), Conv(96, 3, 2)),
)
"""May be a training loss."""

SYNC_B = Design(
    name="sync-b",
    frames=7,
    front=FrontEnd(bands=64, window=512, low=50.0, high=7000.0),
    sees="both",
    visual=(Conv(32, 5, 2), Conv(48, 3, 2), Conv(64, 3, 2), Conv(96, 3, 1)),
    audio=(Conv(64, 5, 1), Conv(96, 3, 2), Conv(96, 3, 2)),
    pool=2,
)
"""The judge."""

DESIGNS = {design.name: design for design in (SYNC_A, SYNC_B)}


def design_of(name: str) -> Design:
    """The design called ``name``. Raises UsageError for another name."""
    if name not in DESIGNS:
        raise unknown("sync expert", name, list(DESIGNS))
    return DESIGNS[name]
