"""How baselines are judged on the way, in the figures and pictures that G4G is judged by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from g4g_model.losses import masked_l1


def mouth_figures(shown: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """Figures of what was drawn in some windows, each counting alike.

    Args:
        shown: drawn and true pictures [n, 3, S, S] in 0..1, and where the mouths are [n, 1, S, S] in 0..1, a window
            each.

    Returns:
        ``mouth_psnr``, dB; ``mouth_l1``, 0..2 (of values in [-1, 1], as G4G has it); ``score``: the former, which
        decides which checkpoint is best.
    """
    errors, psnr = [], []
    for drawn, truth, mask in shown:
        errors.append(2 * float(masked_l1(drawn, truth, mask)))
        square = float((mask * (drawn - truth).square()).sum() / (3 * mask.sum()).clamp(min=1e-6))
        psnr.append(-10 * np.log10(max(square, 1e-10)))
    return {
        "mouth_psnr": float(np.mean(psnr)), "mouth_l1": float(np.mean(errors)), "score": float(np.mean(psnr)),
    }  # fmt: skip


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """uint8 [H, W, 3] of rows of pictures uint8 [s, s, 3]: source, drawn, true, reference; and after the first three
    twice the difference of drawn and true."""
    return np.concatenate([np.concatenate([*row[:3], _apart(row[1], row[2]), *row[3:]], axis=1) for row in rows])


def _apart(drawn: np.ndarray, truth: np.ndarray) -> np.ndarray:
    twice = 2 * np.abs(drawn.astype(np.int16) - truth)
    return np.asarray(np.minimum(twice, 255), np.uint8)
