"""The terms of Wav2Lip's losses, each a pure function, and the watch over an expert that learns nothing."""

from __future__ import annotations

import math

import torch
from torch import nn

CHANCE = math.log(2)
"""Cross entropy of an expert that finds every pair as likely right as wrong: 0.693."""

_EDGE = 1e-6
_NEAR = 0.02
_DECAY = 0.95


def cross_entropy(chances: torch.Tensor, truth: torch.Tensor | float) -> torch.Tensor:
    """Binary cross entropy of chances 0..1 against 0 or 1, a scalar; ``torch.nn.BCELoss`` away from the ends.

    Chances are kept 1e-6 from 0 and 1, where torch cuts the logarithm at -100 instead. Always in 32 bits.
    """
    sure = chances.float().clamp(_EDGE, 1 - _EDGE)
    return -(truth * sure.log() + (1 - truth) * (1 - sure).log()).mean()


def sync_loss(sounds: torch.Tensor, faces: torch.Tensor, fits: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Cross entropy of the cosines of embeddings [n, C] of length 1, read as chances that the two belong together.

    The embeddings have no negative part, so that cosines lie in 0..1 (``cosine_loss`` of ``color_syncnet_train.py``).
    """
    return cross_entropy((sounds.float() * faces.float()).sum(1), fits)


class Plateau(nn.Module):
    """Counts the steps that an expert's loss has lain near ln 2, where "stuck at 0.69" lies.

    What it knows are buffers, so that a resumed run counts on.

    Args:
        patience: steps in a row that are too many.
    """

    level: torch.Tensor
    steps: torch.Tensor

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._patience = patience

    @torch.no_grad()
    def update(self, loss: torch.Tensor) -> bool:
        """Take the loss of a step; true at the step at which training begins to count as stuck.

        The losses are averaged over some 20 steps, so that neither a lucky batch nor the way down through 0.69 counts.
        """
        fresh = self.level == 0
        self.level.lerp_(loss.float(), 1.0 if fresh else 1 - _DECAY)
        near = abs(float(self.level) - CHANCE) < _NEAR
        self.steps.copy_(self.steps + 1 if near else torch.zeros_like(self.steps))
        return int(self.steps) == self._patience

    @property
    def stuck(self) -> bool:
        """Whether the loss has lain there for too many steps, and still does."""
        return int(self.steps) >= self._patience
