"""What the three networks are made of: rows of a table, and the convolution that each row stands for.

Names of modules and their order are those of the public code (``models/conv.py`` of Rudrabha/Wav2Lip), so that its
checkpoints fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from baselines.wav2lip.config import Wav2LipConfig

_SLOPE = 0.01


@dataclasses.dataclass(frozen=True)
class Row:
    """One convolution.

    Attributes:
        channels: it gives, before the width factor.
        kernel, stride: sides; a pair is (height, width).
        padding: ``None``: half the kernel, which keeps the size at stride 1.
        residual: its input is added before the activation.
        transposed: it enlarges, at stride 2 to exactly twice the size.
    """

    channels: int
    kernel: int = 3
    stride: int | tuple[int, int] = 1
    padding: int | None = None
    residual: bool = False
    transposed: bool = False


def kept(channels: int, count: int) -> list[Row]:
    """``count`` residual 3x3 convolutions."""
    return [Row(channels, residual=True)] * count


def to_point(channels: int, side: int) -> list[Row]:
    """From ``side`` x ``side`` to 1x1, and a linear map of that."""
    return [Row(channels, kernel=side, padding=0), Row(channels, kernel=1)]


class ConvBlock(nn.Module):
    """Convolution, batch norm and ReLU; without the norm, a leaky ReLU (slope 0.01)."""

    def __init__(self, row: Row, channels_in: int, channels_out: int, *, norm: bool = True) -> None:
        super().__init__()
        padding = row.kernel // 2 if row.padding is None else row.padding
        conv: nn.Module
        if row.transposed:
            more = 1 if row.stride == 2 else 0
            conv = nn.ConvTranspose2d(channels_in, channels_out, row.kernel, row.stride, padding, more)
        else:
            conv = nn.Conv2d(channels_in, channels_out, row.kernel, row.stride, padding)
        self.conv_block = nn.Sequential(conv, *([nn.BatchNorm2d(channels_out)] if norm else []))
        self.residual, self.norm = row.residual, norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        out = self.conv_block(x)
        if self.residual:
            out = out + x
        return F.relu(out) if self.norm else F.leaky_relu(out, _SLOPE)


def stack(config: Wav2LipConfig, rows: Iterable[Row], channels_in: int, *, norm: bool = True) -> nn.Sequential:
    """The rows one after the other. ``channels_in`` is as it is: the width factor is not applied to it."""
    blocks = []
    for row in rows:
        channels_out = config.channels(row.channels)
        blocks.append(ConvBlock(row, channels_in, channels_out, norm=norm))
        channels_in = channels_out
    return nn.Sequential(*blocks)


def audio_encoder(config: Wav2LipConfig, last: int) -> nn.Sequential:
    """Mel windows [B, 1, 80, 16] to [B, C, 1, 1], C = 512 times the width.

    Args:
        last: residual convolutions at 256 channels; the generator has 1, the expert 2.
    """
    rows = [
        *[Row(32), *kept(32, 2)],
        *[Row(64, stride=(3, 1)), *kept(64, 2)],  # 27 x 16
        *[Row(128, stride=3), *kept(128, 2)],  # 9 x 6
        *[Row(256, stride=(3, 2)), *kept(256, last)],  # 3 x 3
        *to_point(512, 3),
    ]
    return stack(config, rows, 1)
