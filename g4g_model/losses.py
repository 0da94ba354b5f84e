"""The terms of the loss, each a pure function. Terms, weights and switches meet in :mod:`g4g_model.trainable`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from g4g_model.networks.alignment import statistics

IGNORED = 2
"""Frames: windows of a clip so near to each other share most of their sound and are no negatives [O]."""

VGG_LAYERS = (1, 6, 11, 20, 29)
VGG_FACTORS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""relu1_1 ... relu5_1 of VGG19 and their weights, as in pix2pixHD (Wang et al. 2018) [P: VGG19; O: layers]."""

_VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)  # channels; 0: pooling
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0..1


def masked_l1(drawn: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over n of the mean of |drawn - truth| [n, C, h, w] over ``mask`` [n, 1, h, w] in 0..1 and channels.

    Every picture counts alike, however large its mask (an empty one gives 0), so that the mean over parts of a batch
    is that of the batch.
    """
    total = (mask * (drawn - truth).abs()).sum((1, 2, 3)) / drawn.shape[1]
    return (total / mask.sum((1, 2, 3)).clamp(min=1e-6)).mean()


def reconstruction(
    faces: Sequence[torch.Tensor],
    truth: torch.Tensor,
    regions: Mapping[str, torch.Tensor],
    weights: Mapping[str, float],
) -> torch.Tensor:
    """Weighted sum over regions, mean over scales, of the masked L1 [P: multi-scale mask supervision].

    Args:
        faces: [n, 3, s, s] at one or more sizes.
        truth: [n, 3, S, S]; averaged down to the sizes of ``faces``, as the regions are.
        regions: masks [n, 1, S, S] in 0..1 by name.
        weights: by the same names.
    """
    total = truth.new_zeros(())
    for face in faces:
        factor = truth.shape[-1] // face.shape[-1]
        target = functional.avg_pool2d(truth, factor)
        for name, weight in weights.items():
            total = total + weight * masked_l1(face, target, functional.avg_pool2d(regions[name], factor))
    return total / len(faces)


def perception(
    vgg: Callable[[torch.Tensor], Sequence[torch.Tensor]],
    drawn: torch.Tensor,
    truth: torch.Tensor,
    mask: torch.Tensor,
    scales: Sequence[int] = (1, 2),
) -> torch.Tensor:
    """Masked L1 of VGG19 features of whole pictures, mean over scales [P; O: scales, layers].

    Args:
        vgg: gives the features of :data:`VGG_LAYERS`, see :class:`VGGFeatures`.
        drawn, truth: [n, 3, S, S] in [-1, 1].
        mask: [n, 1, S, S] of 0 and 1; a feature counts where a pixel underneath does.
        scales: factors by which the pictures are averaged down.
    """
    total = drawn.new_zeros(())
    for scale in scales:
        pictures = [functional.avg_pool2d(x, scale) for x in (drawn, truth)]
        with torch.no_grad():
            wanted = vgg(pictures[1])
        for factor, found, target in zip(VGG_FACTORS, vgg(pictures[0]), wanted, strict=True):
            cells = functional.adaptive_max_pool2d(mask, found.shape[-2:])
            total = total + factor * masked_l1(found, target, cells)
    return total / len(scales)


class VGGFeatures(nn.Module):
    """VGG19's convolutions up to relu5_1, not trained.

    Args:
        state: ``features.N.weight`` and ``.bias``, as torchvision names them; other entries are not read.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in _VGG19:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(before, width, 3, 1, 1), nn.ReLU()]
            before = width
        self.layers = nn.Sequential(*layers)
        names = self.layers.state_dict()
        self.layers.load_state_dict({name: state[f"features.{name}"] for name in names})
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1))

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Features at :data:`VGG_LAYERS` of pictures [n, 3, s, s] in [-1, 1]; s of 16 or more."""
        x, found = ((pictures + 1) / 2 - self.mean) / self.deviation, []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in VGG_LAYERS:
                found.append(x)
        return found


def attribute(drawn: Sequence[torch.Tensor], references: Sequence[torch.Tensor], clips: int) -> torch.Tensor:
    """Distance of channel statistics (mu, sigma) of aligned features, mean over scales [P; O: form].

    The cosine of an identity network, where one takes part, is a term of its own.

    Args:
        drawn: features [B T, C, h, w] of drawn frames, a scale each.
        references: features [B K, C, h, w] of their references.
        clips: B.
    """
    total = drawn[0].new_zeros(())
    for ours, theirs in zip(drawn, references, strict=True):
        for found, known in zip(statistics(ours), statistics(theirs), strict=True):
            wanted = known.view(clips, -1, *known.shape[1:]).mean(1, keepdim=True)
            total = total + (found.view(clips, -1, *found.shape[1:]) - wanted).abs().mean()
    return total / len(drawn)


def lsgan_discriminator(real: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """((D(real) - 1)^2 + D(drawn)^2) / 2 (Mao et al. 2017) [P]."""
    return ((real - 1).square().mean() + drawn.square().mean()) / 2


def lsgan_generator(drawn: torch.Tensor) -> torch.Tensor:
    """(D(drawn) - 1)^2 / 2."""
    return (drawn - 1).square().mean() / 2


def feature_matching(real: Sequence[torch.Tensor], drawn: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean L1 of the discriminator's features, real ones without gradient (Wang et al. 2018)."""
    distances = [(ours - theirs.detach()).abs().mean() for theirs, ours in zip(real, drawn, strict=True)]
    return torch.stack(distances).mean()


def too_near(starts: torch.Tensor) -> torch.Tensor:
    """bool [B W, B W]: pairs of windows of one clip within :data:`IGNORED` frames; the diagonal is none of them.

    Args:
        starts: int64 [B, W], first frame of each window in its clip.
    """
    clips, windows = starts.shape
    near = (starts[:, :, None] - starts[:, None, :]).abs() <= IGNORED
    full = torch.zeros(clips, windows, clips, windows, dtype=torch.bool, device=starts.device)
    for clip in range(clips):
        full[clip, :, clip] = near[clip]
    out = full.reshape(clips * windows, clips * windows)
    return out & ~torch.eye(len(out), dtype=torch.bool, device=out.device)


def diagonal(matrix: torch.Tensor, ignored: torch.Tensor, anchors: torch.Tensor | None = None) -> torch.Tensor:
    """Symmetric cross entropy of the matrix of mouths (rows) and sounds (columns) against its diagonal [P].

    Entries off the diagonal inside a clip are the hard negatives, those across clips the easy ones.

    Args:
        matrix: [n, n], similarities over temperature.
        ignored: bool [n, n]: entries that are neither.
        anchors: int64 [m], windows whose row and column count; ``None``: all.
    """
    masked = matrix.masked_fill(ignored, -1e4)
    wanted = torch.arange(len(matrix), device=matrix.device) if anchors is None else anchors
    rows: torch.Tensor = functional.cross_entropy(masked[wanted], wanted)
    return (rows + functional.cross_entropy(masked.T[wanted], wanted)) / 2


def pairwise(cosines: torch.Tensor, wrong: torch.Tensor, anchors: torch.Tensor | None = None) -> torch.Tensor:
    """SyncNet-style pairs: cross entropy of each mouth with its own sound, and with one other of its clip.

    Args:
        cosines: [n, n], mouths by sounds, -1..1; mapped to chances 0..1.
        wrong: int64 [n], the column of each row's other sound.
        anchors: see :func:`diagonal`.
    """
    rows = torch.arange(len(cosines), device=cosines.device) if anchors is None else anchors
    chances = ((torch.stack([cosines[rows, rows], cosines[rows, wrong[rows]]]) + 1) / 2).clamp(1e-6, 1 - 1e-6)
    return -(chances[0].log().mean() + (1 - chances[1]).log().mean()) / 2
