"""Wav2Lip's lip-sync expert (``models/syncnet.py`` of Rudrabha/Wav2Lip): do five lower faces belong to a sound?"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from baselines.wav2lip.config import FRAMES, Wav2LipConfig
from baselines.wav2lip.layers import Row, audio_encoder, kept, stack, to_point

_FACE = [
    [Row(32, kernel=7)],
    [Row(64, kernel=5, stride=(1, 2), padding=1), *kept(64, 2)],
    [Row(128, stride=2), *kept(128, 3)],
    [Row(256, stride=2), *kept(256, 2)],
    [Row(512, stride=2), *kept(512, 2)],
    [Row(512, stride=2)],
]


class SyncExpert(nn.Module):
    """The network; parameters are named as in ``lipsync_expert.pth``."""

    def __init__(self, config: Wav2LipConfig) -> None:
        super().__init__()
        self.config = config
        rows = [row for level in _FACE[: config.halvings + 1] for row in level]
        self.face_encoder = stack(config, [*rows, *to_point(512, config.core)], 3 * FRAMES)
        self.audio_encoder = audio_encoder(config, last=2)

    def forward(self, mel: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of sounds and faces, of length 1.

        Both networks end in a ReLU, so no embedding has a negative part, and cosines lie in 0..1.

        Args:
            mel: [B, 1, 80, 16] in [-4, 4], the window of the first of the five frames.
            faces: [B, 15, S/2, S] from :func:`baselines.wav2lip.pixels.expert_faces`.

        Returns:
            ([B, C], [B, C]): sounds, faces; C = 512 times the width.
        """
        sounds, seen = self.audio_encoder(mel).flatten(1), self.face_encoder(faces).flatten(1)
        return F.normalize(sounds, dim=1), F.normalize(seen, dim=1)
