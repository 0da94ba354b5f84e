"""Wav2Lip's generator (``models/wav2lip.py`` of Rudrabha/Wav2Lip): two faces and a sound in, the face that speaks out.

A U-Net whose bottleneck is the sound: the face encoder's features join the decoder at every size.
"""

from __future__ import annotations

import torch
from torch import nn

from baselines.wav2lip.config import Wav2LipConfig
from baselines.wav2lip.layers import Row, audio_encoder, kept, stack, to_point

FACE_CHANNELS = 6
"""The target with its lower half erased, and a reference: 3 channels each, see :mod:`baselines.wav2lip.pixels`."""

_ENCODER = [
    [Row(16, kernel=7)],
    [Row(32, stride=2), *kept(32, 2)],
    [Row(64, stride=2), *kept(64, 3)],
    [Row(128, stride=2), *kept(128, 2)],
    [Row(256, stride=2), *kept(256, 2)],
    [Row(512, stride=2), *kept(512, 1)],
]
_DECODER = [(512, 2), (384, 2), (256, 2), (128, 2), (64, 2)]
"""(channels, residual convolutions) of the steps that double the size, coarse to fine."""


class Generator(nn.Module):
    """The network; parameters are named as in ``wav2lip.pth``."""

    def __init__(self, config: Wav2LipConfig) -> None:
        super().__init__()
        self.config = config
        downward = [*_ENCODER[: config.halvings + 1], to_point(512, config.core)]
        upward = [
            [Row(512, kernel=1)],
            [Row(512, kernel=config.core, padding=0, transposed=True), *kept(512, 1)],
            *[
                [Row(channels, stride=2, transposed=True), *kept(channels, count)]
                for channels, count in _DECODER[-config.halvings :]
            ],
        ]
        skips = [config.channels(rows[-1].channels) for rows in downward]
        inputs = [FACE_CHANNELS, *skips[:-1]]
        self.face_encoder_blocks = nn.ModuleList(
            stack(config, rows, channels) for rows, channels in zip(downward, inputs, strict=True)
        )
        self.audio_encoder = audio_encoder(config, last=1)
        joined, blocks = config.channels(512), []
        for rows, skip in zip(upward, reversed(skips), strict=True):
            blocks.append(stack(config, rows, joined))
            joined = config.channels(rows[-1].channels) + skip
        self.face_decoder_blocks = nn.ModuleList(blocks)
        last = config.channels(32)
        self.output_block = nn.Sequential(*stack(config, [Row(32)], joined), nn.Conv2d(last, 3, 1), nn.Sigmoid())

    def forward(self, mel: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        """Draw the whole face.

        Args:
            mel: [B, 1, 80, 16], or [B, T, 1, 80, 16], in [-4, 4].
            faces: [B, 6, S, S], or [B, 6, T, S, S], BGR in 0..1.

        Returns:
            [B, 3, S, S], or [B, 3, T, S, S], BGR in 0..1.
        """
        if faces.ndim == 5:
            count = faces.shape[2]
            drawn = self(mel.flatten(0, 1), faces.transpose(1, 2).flatten(0, 1))
            return drawn.unflatten(0, (-1, count)).transpose(1, 2)
        skips = []
        for block in self.face_encoder_blocks:
            faces = block(faces)
            skips.append(faces)
        x = self.audio_encoder(mel)
        for block in self.face_decoder_blocks:
            x = torch.cat([block(x), skips.pop()], dim=1)
        return self.output_block(x)
