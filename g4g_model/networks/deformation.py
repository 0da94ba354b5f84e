"""Multi-scale perceptual network: reference features move to where the speech wants them, and are drawn as a face."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from g4g_model.networks.layers import SLOPE, Residual, exactly, trunk

_CELLS = 4
"""Side of the grid that features are pooled to: means over all of a picture would not tell where a face lies [O]."""


def warp(features: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """Warp every channel by its own scale, rotation and translation (DINet's AdaAT) [P; O: form].

    A channel at (x, y) of -1..1 is taken from ``scale R(rotation) (x, y) + translation``, bilinearly; edges repeat.

    Args:
        features: [n, C, H, W].
        motion: [n, C, 4]: scale, rotation (radians), translation x and y (half sides).
    """
    n, channels, height, width = features.shape
    scale, angle = motion[..., 0], motion[..., 1]
    cosine, sine = scale * torch.cos(angle), scale * torch.sin(angle)
    rows = torch.stack([cosine, -sine, motion[..., 2], sine, cosine, motion[..., 3]], -1).float()
    with exactly(features.device):
        grid = functional.affine_grid(rows.reshape(n * channels, 2, 3), [n * channels, 1, height, width], False)
        moved = functional.grid_sample(
            features.float().reshape(n * channels, 1, height, width), grid, padding_mode="border", align_corners=False
        )
    return moved.reshape(n, channels, height, width)


def posed(features: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
    """References brought into the pose of every frame, bilinearly; edges repeat [O].

    Args:
        features: [B, K, C, h, w].
        poses: [B, T, K, 2, 3], see :func:`g4g_model.inputs.poses_between`.

    Returns:
        [B T, K C, h, w].
    """
    batch, frames, shown = poses.shape[:3]
    repeated = features[:, None].expand(-1, frames, *features.shape[1:]).flatten(0, 2)
    with exactly(features.device):
        grid = functional.affine_grid(poses.flatten(0, 2).float(), list(repeated.shape), align_corners=False)
        moved = functional.grid_sample(repeated.float(), grid, padding_mode="border", align_corners=False)
    return moved.view(batch * frames, shown * features.shape[2], *features.shape[3:])


class Deformation(nn.Module):
    """Predicts motion from sound and pooled features, and warps the references at three scales [P; O: form].

    Before that they are brought into the pose of the frame by its points [O]: how the head stands is known, and only
    what the mouth does has to be predicted. The references begin joined as their mean, the motion as none: scale 1,
    rotation 0, translation 0.
    """

    def __init__(self, channels: Sequence[int], embedding: int, references: int) -> None:
        super().__init__()
        self.joins = nn.ModuleList([_mean_of(references, width) for width in channels])
        hidden = 2 * embedding
        self.shared = nn.Sequential(
            nn.Linear(embedding + 2 * channels[-1] * _CELLS**2, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, hidden),
            nn.LeakyReLU(SLOPE),
        )  # fmt: skip
        self.motions = nn.ModuleList()
        for width in channels:
            motion = nn.Linear(hidden, 4 * width)
            nn.init.zeros_(motion.weight)
            nn.init.zeros_(motion.bias)
            self.motions.append(motion)

    def forward(
        self,
        source: Sequence[torch.Tensor],
        references: Sequence[torch.Tensor],
        poses: torch.Tensor,
        masks: Sequence[torch.Tensor],
        sound: torch.Tensor,
    ) -> list[torch.Tensor]:
        """F' = M warp(F_ref) + (1 - M) F_src at every scale.

        Args:
            source: aligned features [B T, C, h, w] of the source.
            references: aligned features [B, K, C, h, w].
            poses: [B, T, K, 2, 3], see :func:`posed`.
            masks: erase masks [B T, 1, h, w].
            sound: a_j [B T, embedding].
        """
        joined = [join(posed(f, poses)) for join, f in zip(self.joins, references, strict=True)]
        pooled = torch.cat(
            [sound, *(functional.adaptive_avg_pool2d(f[-1], _CELLS).flatten(1) for f in (source, joined))], 1
        )
        hidden = self.shared(pooled)
        scales = zip(self.motions, joined, source, masks, strict=True)
        return [
            mask * warp(shown, self._motion(motion(hidden).view(*shown.shape[:2], 4))) + (1 - mask) * seen
            for motion, shown, seen, mask in scales
        ]

    @staticmethod
    def _motion(raw: torch.Tensor) -> torch.Tensor:
        """Scale in 0..2, rotation in -pi..pi, translation in -1..1, as DINet bounds them."""
        scale = 2 * torch.sigmoid(raw[..., :1])
        return torch.cat([scale, math.pi * torch.tanh(raw[..., 1:2]), torch.tanh(raw[..., 2:])], -1)


def _mean_of(references: int, channels: int) -> nn.Conv2d:
    """[n, K C, h, w] to [n, C, h, w]: at first the mean over K."""
    join = nn.Conv2d(references * channels, channels, 1)
    with torch.no_grad():
        join.weight.copy_(torch.eye(channels).repeat(1, references)[..., None, None] / references)
    assert join.bias is not None
    nn.init.zeros_(join.bias)
    return join


class Decoder(nn.Module):
    """Draws a face at S/4, S/2 and S, or at S alone, from features at three scales [P].

    At full size every pixel is a mixture of what is drawn and of the references in the frame's pose [O]: what a person
    looks like is copied, what the mouth does is drawn. A decoder that draws all of it gives people who look like nobody
    it has learned from the skin of others. The mixture begins with nearly equal parts.

    Args:
        small: also at S/4 and S/2; for networks that are supervised there, for nothing else looks at them.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], references: int, small: bool) -> None:
        super().__init__()
        self.bottom = Residual(channels[-1])
        self.steps = nn.ModuleList()
        self.heads = nn.ModuleDict()
        width, stride = channels[-1], strides[-1]
        skips = dict(zip(strides[:-1], channels[:-1], strict=True))
        while stride > 2:
            stride //= 2
            after = skips.get(stride, max(8, width // 16 * 8))  # multiples of 8, as groups of norms are
            self.steps.append(nn.Sequential(trunk(width + skips.get(stride, 0), after), Residual(after)))
            if small and stride in (4, 2):
                self.heads[str(stride)] = nn.Conv2d(after, 3, 3, 1, 1)
            width = after
        # full size in one step from half of it: four pixels a cell
        self.heads["1"] = nn.Sequential(nn.Conv2d(width, 12, 3, 1, 1), nn.PixelShuffle(2))
        self.mixture = nn.Sequential(
            trunk(width + 12 * references, width), nn.Conv2d(width, 4 * (references + 1), 3, 1, 1), nn.PixelShuffle(2)
        )
        self._strides = tuple(strides)

    def forward(self, features: Sequence[torch.Tensor], shown: torch.Tensor) -> list[torch.Tensor]:
        """Faces [n, 3, s, s] in [-1, 1], the last of them at s = S, those at s = S/4 and S/2 before it.

        Args:
            features: [n, C, h, w], fine to coarse.
            shown: [n, K, 3, S, S] in [-1, 1], the references in the poses of the n frames.
        """
        skips = dict(zip(self._strides[:-1], features[:-1], strict=True))
        x, stride, faces = self.bottom(features[-1]), self._strides[-1], []
        for step in self.steps:
            stride //= 2
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = step(torch.cat([x, skips[stride]], 1) if stride in skips else x)
            if str(stride) in self.heads:
                faces.append(torch.tanh(self.heads[str(stride)](x)))
        seen = functional.pixel_unshuffle(shown.flatten(1, 2), 2)
        parts = torch.softmax(self.mixture(torch.cat([x, seen], 1)).float(), 1)[:, :, None]
        drawn = torch.tanh(self.heads["1"](x))[:, None]
        return [*faces, (parts * torch.cat([shown, drawn.to(shown.dtype)], 1)).sum(1)]
