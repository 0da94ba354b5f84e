"""Wav2Lip's visual quality discriminator (``models/wav2lip.py`` of Rudrabha/Wav2Lip): is a lower face a real one?"""

from __future__ import annotations

import torch
from torch import nn

from baselines.wav2lip.config import Wav2LipConfig
from baselines.wav2lip.layers import Row, stack, to_point
from baselines.wav2lip.pixels import lower_half

_FACE = [
    [Row(32, kernel=7)],
    [Row(64, kernel=5, stride=(1, 2)), Row(64, kernel=5)],
    [Row(128, kernel=5, stride=2), Row(128, kernel=5)],
    [Row(256, kernel=5, stride=2), Row(256, kernel=5)],
    [Row(512, stride=2), Row(512)],
    [Row(512, stride=2), Row(512)],
]


class Discriminator(nn.Module):
    """The network; parameters are named as in ``visual_quality_disc.pth``."""

    def __init__(self, config: Wav2LipConfig) -> None:
        super().__init__()
        self.config = config
        levels = [*_FACE[: config.halvings + 1], to_point(512, config.core)]
        inputs = [3, *(config.channels(rows[-1].channels) for rows in levels[:-1])]
        self.face_encoder_blocks = nn.ModuleList(
            stack(config, rows, channels, norm=False) for rows, channels in zip(levels, inputs, strict=True)
        )
        self.binary_pred = nn.Sequential(nn.Conv2d(config.channels(512), 1, 1), nn.Sigmoid())

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """How real each picture's lower half looks.

        Args:
            pictures: [B, 3, T, S, S], whole faces, BGR in 0..1.

        Returns:
            [B, T], probabilities (the public code gives [T B, 1], frame by frame).
        """
        x = lower_half(pictures).transpose(1, 2).flatten(0, 1)
        for block in self.face_encoder_blocks:
            x = block(x)
        return self.binary_pred(x).view(len(pictures), -1)
