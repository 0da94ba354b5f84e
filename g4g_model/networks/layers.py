"""Blocks that all networks share. No batch normalisation: batches are small, and ranks must not differ."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

SLOPE = 0.2


def convolution(before: int, after: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, group normalisation in groups of 8 channels at most, leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.GroupNorm(max(1, after // 8), after),
        nn.LeakyReLU(SLOPE),
    )  # fmt: skip


def trunk(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """Convolution and leaky ReLU, for what pictures are made of: a norm would take a face's colour and light away."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.LeakyReLU(SLOPE))


class Residual(nn.Module):
    """x + two convolutions of it, normalised inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(channels, channels), nn.Conv2d(channels, channels, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = functional.leaky_relu(x + self.body(x), SLOPE)
        return out


class Pyramid(nn.Module):
    """Encoder with features at three scales.

    Pixels are first stacked into channels: few channels at full size cost more than all that follows.

    Args:
        before: channels of the pictures.
        channels: of the features, fine to coarse.
        finest: stride of the finest features, 2 or 4.
    """

    def __init__(self, before: int, channels: Sequence[int], finest: int) -> None:
        super().__init__()
        self.stacked = nn.PixelUnshuffle(finest)
        self.levels = nn.ModuleList()
        width = before * finest**2
        for number, after in enumerate(channels):
            self.levels.append(nn.Sequential(trunk(width, after, 2 if number else 1), Residual(after)))
            width = after

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Features of pictures [n, C, S, S], fine to coarse."""
        x, features = self.stacked(pictures), []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


def exactly(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """A context in which mixed precision is off: places in bf16 would be a quarter of a pixel off at 256 px."""
    if not torch.amp.is_autocast_available(device.type):  # such as ``meta``, on which costs are counted
        return contextlib.nullcontext()
    off: contextlib.AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
    return off


def flattened(x: torch.Tensor) -> torch.Tensor:
    """[B, T, ...] as [B T, ...]."""
    return x.flatten(0, 1)
