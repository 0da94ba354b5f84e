"""The blocks of DINet: convolutions with batch norm and ReLU, in one dimension for sound and in two for pictures."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def block(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU; stride 2 halves the size."""
    return nn.Sequential(nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.BatchNorm2d(after), nn.ReLU())


def block_1d(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """The same for sound."""
    return nn.Sequential(nn.Conv1d(before, after, kernel, stride, kernel // 2), nn.BatchNorm1d(after), nn.ReLU())


class Residual(nn.Module):
    """x + two convolutions of it, each after batch norm and ReLU; for pictures, or for sound in one dimension."""

    def __init__(self, channels: int, dimensions: int = 2) -> None:
        super().__init__()
        norm, conv = (nn.BatchNorm1d, nn.Conv1d) if dimensions == 1 else (nn.BatchNorm2d, nn.Conv2d)
        parts: list[nn.Module] = []
        for _ in range(2):
            parts += [norm(channels), nn.ReLU(), conv(channels, channels, 3, padding=1)]
        self.body = nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        return x + self.body(x)


class Doubled(nn.Module):
    """Nearest neighbours to twice the size, then a :func:`block`."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = block(before, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, C, h, w] to [n, C', 2 h, 2 w]."""
        out: torch.Tensor = self.body(functional.interpolate(x, scale_factor=2))
        return out
