"""How Wav2Lip holds pictures: BGR in 0..1, three channels first, the lower half of the target erased to 0."""

from __future__ import annotations

import numpy as np
import torch

from baselines.wav2lip.config import FRAMES


def pictures_in(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [..., s, s, 3] RGB as float32 [..., 3, s, s] BGR in 0..1."""
    turned = np.ascontiguousarray(np.moveaxis(pictures[..., ::-1], -1, -3))
    return torch.from_numpy(turned).float() / 255


def pictures_out(pictures: torch.Tensor) -> np.ndarray:
    """float [..., 3, s, s] BGR in 0..1 as uint8 [..., s, s, 3] RGB; the inverse of :func:`pictures_in`.

    Rounded; the public script cuts the fraction off, which darkens by half a level on average.
    """
    levels = (pictures.detach() * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(np.moveaxis(levels, -3, -1)[..., ::-1])


def lower_half(pictures: torch.Tensor) -> torch.Tensor:
    """Rows S/2 to S of pictures [..., S, S]."""
    return pictures[..., pictures.shape[-2] // 2 :, :]


def generator_faces(targets: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """What the generator sees of faces: targets without their lower half, then references, along the channels.

    Args:
        targets: [B, 3, S, S], or [B, 3, T, S, S].
        references: the same shape.

    Returns:
        [B, 6, S, S], or [B, 6, T, S, S].
    """
    shown = targets.clone()
    lower_half(shown).zero_()
    return torch.cat([shown, references], dim=1)


def expert_faces(pictures: torch.Tensor) -> torch.Tensor:
    """What the expert sees of five pictures [B, 3, 5, S, S]: their lower halves [B, 15, S/2, S], frame after frame."""
    if pictures.shape[2] != FRAMES:
        raise ValueError(f"the expert sees {FRAMES} frames, not {pictures.shape[2]}")
    return lower_half(pictures).transpose(1, 2).flatten(1, 2)
