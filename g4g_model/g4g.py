"""G4G assembled: alignment, deformation, fusion (arXiv 2402.18122; [P] the paper, [O] our reading)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from g4g_core.references import COUNT
from g4g_model.config import G4GConfig
from g4g_model.inputs import Inputs
from g4g_model.networks.alignment import AudioEncoder, IntraAlignment
from g4g_model.networks.deformation import Decoder, Deformation, posed
from g4g_model.networks.fusion import DeformationFusion, hard_edge
from g4g_model.networks.layers import Pyramid, flattened


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """What the network gives for B T frames.

    Attributes:
        faces: [B T, 3, s, s] in [-1, 1] at s = S/4, S/2, S: decoded faces; at S alone where masks are single.
        picture: [B T, 3, S, S] in [-1, 1]: the last of them joined to the source.
    """

    faces: list[torch.Tensor]
    picture: torch.Tensor


class G4G(nn.Module):
    """Draws the erased lower faces of T frames from their pose, references of the same person, and speech.

    Every frame is drawn by itself: what a window holds besides does not change it.
    """

    def __init__(self, config: G4GConfig) -> None:
        super().__init__()
        finest = config.strides[0]
        self.strides = config.strides
        self.pictures = Pyramid(3, config.channels, finest)
        self.intra = IntraAlignment(config.channels, finest) if config.intra else None
        self.audio = AudioEncoder(config.embedding)
        self.deformation = Deformation(config.channels, config.embedding, COUNT)
        self.decoder = Decoder(config.channels, config.strides, COUNT, small=config.masks == "multi")
        self.fusion = DeformationFusion() if config.fusion else None

    def forward(self, inputs: Inputs) -> Drawn:
        """See :class:`Drawn`."""
        batch, shown = inputs.references.shape[:2]
        source, erase = flattened(inputs.source), flattened(inputs.erase)
        seen = self.aligned(source, flattened(inputs.source_sketch))
        # a person's references are the same for all frames of a window: they are encoded once
        known = self.aligned(flattened(inputs.references), flattened(inputs.reference_sketch))
        known = [features.view(batch, shown, *features.shape[1:]) for features in known]
        masks, sound = masks_of(erase, self.strides), self.audio(flattened(inputs.mel))
        moved = self.deformation(seen, known, inputs.poses, masks, sound)
        pictures = posed(inputs.references, inputs.poses).view(len(source), shown, *source.shape[1:])
        faces = self.decoder(moved, pictures)
        if self.fusion is None:
            return Drawn(faces, hard_edge(faces[-1], source, erase))
        return Drawn(faces, self.fusion(faces[-1], source, erase))

    def aligned(self, pictures: torch.Tensor, sketches: torch.Tensor) -> list[torch.Tensor]:
        """Features of pictures [n, 3, S, S], aligned with their sketches, at three scales, fine to coarse."""
        features: list[torch.Tensor] = self.pictures(pictures)
        return features if self.intra is None else self.intra(features, sketches)


def masks_of(erase: torch.Tensor, strides: Sequence[int]) -> list[torch.Tensor]:
    """``erase`` [n, 1, S, S] at every scale: 1 where a pixel underneath is erased [P: multi-scale masks]."""
    return [functional.max_pool2d(erase, stride) for stride in strides]
