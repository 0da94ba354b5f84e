"""Tells drawn lower faces from real ones, patch by patch."""

from __future__ import annotations

import torch
from torch import nn

from g4g_model.networks.layers import SLOPE


class PatchDiscriminator(nn.Module):
    """A score for every patch of the lower half of the picture [P: LSGAN on the lower face; O: which part]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.layers = nn.ModuleList()
        before = 3
        for after in widths:
            self.layers.append(nn.Sequential(nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(SLOPE)))
            before = after
        self.layers.append(nn.Conv2d(before, 1, 3, 1, 1))

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Features of every layer for pictures [n, 3, S, S]; the last are the scores [n, 1, S/16, S/8]."""
        x, found = pictures[..., pictures.shape[-2] // 2 :, :], []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found
