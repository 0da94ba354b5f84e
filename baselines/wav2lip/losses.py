"""The terms of Wav2Lip's losses, each a pure function, and the watch over an expert that learns nothing."""

from __future__ import annotations

import math

import torch
from torch import nn

CHANCE = math.log(2)
"""Cross entropy of an expert that finds every pair as likely right as wrong: 0.693."""

_LOWEST, _FLATTEST = -100.0, 1e-12
_NEAR = 0.02
_DECAY = 0.95


def cross_entropy(chances: torch.Tensor, truth: torch.Tensor | float) -> torch.Tensor:
    """Binary cross entropy of chances 0..1 against 0 or 1, a scalar: value and gradient of ``torch.nn.BCELoss``.

    The public code has that: logarithms are cut at -100, and the gradient, (x - y) / max(x (1 - x), 1e-12), is largest
    where they are. Always in 32 bits. What torch would stop at goes on: a cosine of 1.0000001 counts as 1, and NaN
    gives NaN, which the training loop tells with its samples.
    """
    chances = chances.float()
    with torch.no_grad():
        sure = chances.clamp(0, 1)
        loss = -(truth * sure.log().clamp(min=_LOWEST) + (1 - truth) * (1 - sure).log().clamp(min=_LOWEST))
        slope = (sure - truth) / (sure * (1 - sure)).clamp(min=_FLATTEST)
    return (loss + slope * (chances - chances.detach())).mean()


def sync_loss(sounds: torch.Tensor, faces: torch.Tensor, fits: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Cross entropy of the cosines of embeddings [n, C] of length 1, read as chances that the two belong together.

    The embeddings have no negative part, so that cosines lie in 0..1 (``cosine_loss`` of ``color_syncnet_train.py``).
    """
    return cross_entropy((sounds.float() * faces.float()).sum(1), fits)


class Plateau(nn.Module):
    """Counts the steps in a row that an expert's loss has not gone below ln 2, where "stuck at 0.69" lies.

    A loss above it, as at the start, counts too: such an expert is no better than chance either. What is known are
    buffers, so that a resumed run counts on.

    Args:
        patience: steps that are too many.

    Attributes:
        patience: the same; it may be set before training.
    """

    level: torch.Tensor
    steps: torch.Tensor

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.patience = patience

    @torch.no_grad()
    def update(self, loss: torch.Tensor) -> bool:
        """Take the loss of a step; true at the step at which training begins to count as stuck.

        The losses are averaged over some 20 steps, so that a lucky batch does not count.
        """
        fresh = self.level == 0
        self.level.lerp_(loss.float(), 1.0 if fresh else 1 - _DECAY)
        learned = float(self.level) < CHANCE - _NEAR
        self.steps.copy_(torch.zeros_like(self.steps) if learned else self.steps + 1)
        return int(self.steps) == self.patience

    @property
    def stuck(self) -> bool:
        """Whether the loss has not been below for too many steps, up to now."""
        return int(self.steps) >= self.patience
