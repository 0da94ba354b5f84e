"""DINet's network (``models/DINet.py`` of MRzzm/DINet), at any width, for square pictures and mel windows."""

from __future__ import annotations

import math

import torch
from torch import nn

from baselines.dinet.config import DINetConfig
from baselines.dinet.layers import Doubled, Residual, block, block_1d
from g4g_core.references import COUNT
from g4g_model.networks.deformation import warp
from prep.stages.mel import BANDS


class AdaAT(nn.Module):
    """Moves every channel of the reference features by a scale, a rotation and a translation of its own.

    The bounds are the public ones: scale 0..2, rotation -pi..pi, translation -1..1 (half sides). Ours: the motion
    begins as none, and where a channel is taken from beyond the picture, its edge repeats (the public code: zeros).
    """

    def __init__(self, code: int, channels: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(code, code), nn.ReLU())
        self.motion = nn.Linear(code, 4 * channels)
        nn.init.zeros_(self.motion.weight)
        nn.init.zeros_(self.motion.bias)

    def forward(self, features: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Features [n, C, h, w] moved by what code [n, c] asks for."""
        raw = self.motion(self.shared(code)).view(*features.shape[:2], 4)
        scale, angle = 2 * torch.sigmoid(raw[..., :1]), math.pi * torch.tanh(raw[..., 1:2])
        return warp(features, torch.cat([scale, angle, torch.tanh(raw[..., 2:])], -1))


class DINet(nn.Module):
    """Draws the whole picture from the hidden source, references and speech."""

    def __init__(self, config: DINetConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        self.source_encoder = _encoder(config, 3)
        self.reference_encoder = _encoder(config, 3 * COUNT)
        width = c(128)
        self.alignment_encoder = nn.Sequential(
            block(2 * c(256), width), block(width, width, 11), block(width, width, 11), block(width, width, stride=2),
            block(width, width, 7), block(width, width, 7), block(width, width, stride=2),
            block(width, width), block(width, width, stride=2),
            block(width, width), block(width, width, stride=2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.audio_encoder = nn.Sequential(
            block_1d(BANDS, width, 5), Residual(width, 1), block_1d(width, width, stride=2), Residual(width, 1),
            block_1d(width, width, stride=2), block_1d(width, width),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        )  # fmt: skip
        self.before_motion, self.after_motion = (nn.Sequential(*(Residual(c(256)) for _ in range(4))) for _ in range(2))
        self.motion = AdaAT(2 * width, c(256))
        self.decoder = nn.Sequential(
            block(2 * c(256), width), Doubled(width, width), Residual(width), Doubled(width, width),
            nn.Conv2d(width, 3, 7, padding=3), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, source: torch.Tensor, references: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        """Draw T frames of each of B clips.

        The references of a clip are the same for all of its frames, so that what depends on them alone is computed
        once a clip (the public training draws five for every frame).

        Args:
            source: [B, T, 3, S, S] RGB in 0..1, black where it is hidden.
            references: [B, K, 3, S, S] RGB in 0..1, K = 5.
            mel: [B, T, 1, 80, 16] in [-4, 4].

        Returns:
            [B, T, 3, S, S] RGB in 0..1.
        """
        frames = source.shape[1]
        seen = self.source_encoder(source.flatten(0, 1))
        known = self.reference_encoder(references.flatten(1, 2))
        pose = self.alignment_encoder(torch.cat([seen, known.repeat_interleave(frames, 0)], 1))
        code = torch.cat([pose, self.audio_encoder(mel.flatten(0, 1)[:, 0])], 1)
        moved = self.motion(self.before_motion(known).repeat_interleave(frames, 0), code)
        drawn: torch.Tensor = self.decoder(torch.cat([seen, self.after_motion(moved)], 1))
        return drawn.unflatten(0, (-1, frames))


def _encoder(config: DINetConfig, before: int) -> nn.Sequential:
    """Pictures [n, C, S, S] to features [n, 256 times the width, S/4, S/4]."""
    c = config.channels
    return nn.Sequential(block(before, c(64), 7), block(c(64), c(128), stride=2), block(c(128), c(256), stride=2))
