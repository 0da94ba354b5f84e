"""Deformation fusion: where the drawn face and the source's pixels meet."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from g4g_model.networks.layers import SLOPE

_RESIDUAL = 0.25  # of the range of pixels: it mends a seam, it does not draw


def reach_of(size: int) -> int:
    """Width of the ring around ``erase`` in pictures of this size, px [O]."""
    return max(1, size // 32)


def dilated(erase: torch.Tensor) -> torch.Tensor:
    """``erase`` [n, 1, S, S] of 0 and 1, grown by :func:`reach_of` on every side."""
    reach = reach_of(erase.shape[-1])
    rows = functional.max_pool2d(erase, (2 * reach + 1, 1), 1, (reach, 0))  # an axis at a time: the same, for less work
    return functional.max_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach))


def softened(erase: torch.Tensor) -> torch.Tensor:
    """``erase`` with an edge that falls from 1 to 0 over the ring."""
    reach = reach_of(erase.shape[-1])
    padded = functional.pad(dilated(erase), [reach] * 4, mode="replicate")
    return functional.avg_pool2d(functional.avg_pool2d(padded, (2 * reach + 1, 1), 1), (1, 2 * reach + 1), 1)


class DeformationFusion(nn.Module):
    """Joins the face to the source in the ring dilated(erase) - erase [P; O: where and form].

    Inside ``erase`` the face is taken; in the ring, where real pixels and drawn face both exist, ``alpha face +
    (1 - alpha) source + residual``; outside, the source exactly.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4 * 7, width, 3, 1, 1), nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, width, 3, 1, 1), nn.LeakyReLU(SLOPE), nn.Conv2d(width, 4 * 4, 3, 1, 1),
            nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, face: torch.Tensor, source: torch.Tensor, erase: torch.Tensor) -> torch.Tensor:
        """The picture [n, 3, S, S] in [-1, 1] of ``face``, ``source`` and ``erase`` [n, 1, S, S]."""
        found = self.layers(torch.cat([face, source, softened(erase)], 1))
        alpha, residual = torch.sigmoid(found[:, :1]), _RESIDUAL * torch.tanh(found[:, 1:])
        mixed = (alpha * face + (1 - alpha) * source + residual).clamp(-1, 1)
        return hard_edge(torch.where(erase > 0, face, mixed), source, dilated(erase))


def hard_edge(face: torch.Tensor, source: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``face`` where ``mask`` is 1, the source's values as they are elsewhere."""
    return torch.where(mask > 0, face, source)
