"""Fine-grained alignment: pictures with sketches inside the picture, mouths with sounds between the two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from g4g_model.config import FRAMES
from g4g_model.networks.layers import SLOPE, Pyramid, convolution, exactly

_EPSILON = 1e-5


def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [n, C, 1, 1] of every channel of features [n, C, H, W]."""
    x = x.float()
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square().mean((2, 3), keepdim=True)  # several times faster than torch.var_mean
    return mean, torch.sqrt(variance + _EPSILON)


def adain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """sigma(y) (x - mu(x)) / sigma(x) + mu(y), channel by channel (Huang and Belongie 2017) [P].

    Args:
        x: features [n, C, H, W] that are normalised.
        y: features [n, C, h, w] whose statistics they get.
    """
    (mean_x, deviation_x), (mean_y, deviation_y) = statistics(x), statistics(y)
    return deviation_y * (x - mean_x) / deviation_x + mean_y


class AdaINResidual(nn.Module):
    """Residual block whose two normalisations take their statistics from the sketch [P]; x itself is kept [O]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, 1, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        inner = self.first(functional.leaky_relu(adain(x, y), SLOPE))
        out: torch.Tensor = x + self.second(functional.leaky_relu(adain(inner, y), SLOPE))
        return out


class IntraAlignment(nn.Module):
    """Aligns features of pictures F_v with features of sketches F_l at every scale.

    [P] residual blocks with AdaIN. [O] the statistics are those of a learned encoder of the sketches, for a raw sketch
    is nearly empty; its features are also concatenated, because statistics forget where a point lies.
    """

    def __init__(self, channels: Sequence[int], finest: int) -> None:
        super().__init__()
        self.sketches = Pyramid(1, channels, finest)
        self.mixes = nn.ModuleList([nn.Conv2d(2 * width, width, 1) for width in channels])
        self.blocks = nn.ModuleList([AdaINResidual(width) for width in channels])

    def forward(self, features: Sequence[torch.Tensor], sketches: torch.Tensor) -> list[torch.Tensor]:
        """Aligned features, of the shapes of ``features``; ``sketches`` are [n, 1, S, S] in 0..1."""
        levels = zip(features, self.sketches(sketches), self.mixes, self.blocks, strict=True)
        return [block(mix(torch.cat([seen, drawn], 1)), drawn) for seen, drawn, mix, block in levels]


class AudioEncoder(nn.Module):
    """a_j: what is heard around a frame. The deformation is driven by it, and the matrix compares its direction."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(1, 16), convolution(16, 32, 2), convolution(32, 64, 2), convolution(64, 64, 2), nn.Flatten(),
            nn.Linear(64 * 10 * 2, embedding),
        )  # fmt: skip

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """[n, embedding] of mel windows [n, 1, 80, 16] in [-4, 4]."""
        out: torch.Tensor = self.layers(mel / 4)
        return out


class MouthEncoder(nn.Module):
    """E_m: v_i of a stack of five mouth pictures [P]; it also sees their differences [O].

    Light and contrast of a stack drop out. The temperature of the matrix is learned with it.

    Args:
        temperature: it begins with; ``None``: what mouths and sounds are compared by has none.
    """

    def __init__(self, size: int, embedding: int, temperature: float | None = 0.07) -> None:
        super().__init__()
        width, layers, before = 32, [], 3 * (2 * FRAMES - 1)
        for _ in range(int(math.log2(size // 4))):
            layers.append(convolution(before, width, 2))
            before, width = width, min(2 * width, 256)
        features = before * (size // 2 ** len(layers)) ** 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, embedding))
        self.log_scale = None if temperature is None else nn.Parameter(torch.tensor(math.log(1 / temperature)))

    @property
    def scale(self) -> torch.Tensor:
        """1 / tau, where there is one."""
        assert self.log_scale is not None
        return self.log_scale.exp().clamp(max=50.0)

    def forward(self, stacks: torch.Tensor) -> torch.Tensor:
        """Unit vectors [n, embedding] of stacks [n, 5, 3, P, P] in [-1, 1]."""
        flat = stacks.flatten(1)
        flat = flat - flat.mean(1, keepdim=True)
        # the standard deviation: torch.std is slow over several axes, and its gradient too
        spread = torch.linalg.vector_norm(flat, dim=1, keepdim=True) / math.sqrt(flat.shape[1])
        x = (flat / (spread + 0.02)).view_as(stacks)
        motion = 2.0 * (x[:, 1:] - x[:, :-1])  # differences are smaller than pictures
        return functional.normalize(self.layers(torch.cat([x, motion], 1).flatten(1, 2)), dim=1)


def mouth_pictures(pictures: torch.Tensor, places: torch.Tensor, size: int) -> torch.Tensor:
    """Mouths cut out of faces, with gradient: the one cut for real and for generated ones.

    Args:
        pictures: [n, 3, S, S].
        places: [n, 2, 3] from :func:`prep.sync_expert.mouths.mouth_squares`; they follow from the pose points alone.
        size: P, px.

    Returns:
        [n, 3, P, P].
    """
    with exactly(pictures.device):
        grid = functional.affine_grid(places, [len(pictures), 3, size, size], align_corners=False)
        return functional.grid_sample(pictures.float(), grid, padding_mode="border", align_corners=False)
