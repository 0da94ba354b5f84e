"""The towers in torch, as they are trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from prep.sync_expert.design import DIMENSIONS, Conv, Design

_MOTION = 2.0
"""Differences of frames are several times smaller than frames."""


class Towers(nn.Module):
    """An expert while it is trained: convolutions with batch normalisation, dropout, a learned temperature.

    Args:
        design: front ends and towers.
        dropout: before the linear layers.
        temperature: of the similarities at the start; the network may sharpen it down to 0.02.
    """

    def __init__(self, design: Design, dropout: float = 0.2, temperature: float = 0.07) -> None:
        super().__init__()
        self.design = design
        channels = design.frames - 1 + (design.frames if design.sees == "both" else 0)
        pool: list[nn.Module] = [nn.AvgPool2d(design.pool)] if design.pool > 1 else []
        self.visual = nn.Sequential(
            *_layers(nn.Conv2d, nn.BatchNorm2d, channels, design.visual),
            *pool, nn.Flatten(), nn.Dropout(dropout), nn.Linear(design.visual_features, DIMENSIONS),
        )  # fmt: skip
        self.audio = nn.Sequential(
            *_layers(nn.Conv1d, nn.BatchNorm1d, design.front.bands, design.audio),
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(design.audio_features, DIMENSIONS),
        )  # fmt: skip
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    @property
    def scale(self) -> torch.Tensor:
        """Factor of similarities, 1 / temperature."""
        return self.log_scale.exp().clamp(max=50.0)

    def see(self, windows: torch.Tensor) -> torch.Tensor:
        """Unit vectors [n, 64] of picture windows [n, frames, 48, 48] in 0..1."""
        mean = windows.mean((1, 2, 3), keepdim=True)
        x = (windows - mean) / (windows.std((1, 2, 3), keepdim=True, unbiased=False) + 0.02)
        motion = _MOTION * (x[:, 1:] - x[:, :-1])
        x = torch.cat([x, motion], dim=1) if self.design.sees == "both" else motion
        return functional.normalize(self.visual(x), dim=1)

    def hear(self, windows: torch.Tensor) -> torch.Tensor:
        """Unit vectors [n, 64] of sound windows [n, bands, columns]."""
        return functional.normalize(self.audio(windows), dim=1)

    def weights(self) -> dict[str, np.ndarray]:
        """What :class:`prep.sync_expert.infer.Expert` reads: normalisation and motion folded into the kernels."""
        found: dict[str, Any] = {}
        for tower, layers in (("visual", self.visual), ("audio", self.audio)):
            blocks = [block for block in layers if isinstance(block, nn.Sequential)]
            for number, block in enumerate(blocks):
                weight, bias = _folded(block)
                if tower == "visual" and number == 0:
                    weight = _over_frames(weight, self.design.frames)
                found[f"{tower}.{number}.weight"], found[f"{tower}.{number}.bias"] = weight, bias
            out = layers[-1]
            found[f"{tower}.out.weight"], found[f"{tower}.out.bias"] = out.weight, out.bias
        return {name: tensor.detach().cpu().float().contiguous().numpy() for name, tensor in found.items()}


def _layers(conv: type[nn.Module], norm: type[nn.Module], channels: int, layers: Sequence[Conv]) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for layer in layers:
        convolution = conv(channels, layer.channels, layer.kernel, layer.stride, layer.padding, bias=False)
        blocks.append(nn.Sequential(convolution, norm(layer.channels), nn.ReLU(inplace=True)))
        channels = layer.channels
    return blocks


def _folded(block: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution followed by batch normalisation."""
    convolution, norm = block[0], block[1]
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = convolution.weight * factor.reshape(-1, *[1] * (convolution.weight.ndim - 1))
    return weight, norm.bias - norm.running_mean * factor


def _over_frames(weight: torch.Tensor, frames: int) -> torch.Tensor:
    """A kernel over (frames and) their differences as one over the frames: x[t + 1] - x[t] is linear in them."""
    given = weight.shape[1] - (frames - 1)  # channels that are frames: all or none
    motion = _MOTION * weight[:, given:]
    plain = weight[:, :given].clone() if given else weight.new_zeros(len(weight), frames, *weight.shape[2:])
    plain[:, 1:] += motion
    plain[:, :-1] -= motion
    return plain
