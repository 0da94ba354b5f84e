"""From arrays to what DINet sees: the one way for training and for prompts."""

from __future__ import annotations

import numpy as np
import torch

from g4g_core.resize import resize
from g4g_model.inputs import erase_at


def pictures_in(pictures: np.ndarray, size: int) -> torch.Tensor:
    """uint8 [n, s, s, 3] RGB as float32 [n, 3, S, S] in 0..1."""
    turned = np.ascontiguousarray(np.moveaxis(resize(pictures, size), -1, -3))
    return torch.from_numpy(turned).float() / 255


def pictures_out(pictures: torch.Tensor) -> np.ndarray:
    """float [..., 3, S, S] in 0..1 as uint8 [..., S, S, 3]; the inverse of :func:`pictures_in`."""
    levels = (pictures.detach() * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(np.moveaxis(levels, -3, -1))


def source_in(source: np.ndarray, erase: np.ndarray, size: int) -> torch.Tensor:
    """float32 [T, 3, S, S] in 0..1 of pictures uint8 [T, s, s, 3], black where ``erase`` [T, s, s] is 1.

    What lies under ``erase`` is not read.
    """
    shown = np.where(erase[..., None] > 0, np.uint8(0), source)
    return pictures_in(shown, size) * torch.from_numpy(1 - erase_at(erase, size).astype(np.float32))[:, None]
