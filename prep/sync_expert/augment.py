"""What happens to mouths and sounds before an expert learns from them, so that few people stand for many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from prep.sync_expert.design import INPUT
from prep.sync_expert.mouths import PATCH


def augmented_mouths(patches: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Mouth pictures uint8 [T, 64, 64] as float32 [T, 48, 48] about 0..1: moved, turned, mirrored, blurred, relit.

    All frames are treated alike, but for a trembling of the place as landmarks have it.
    """
    count = len(patches)
    pictures = torch.from_numpy(patches).float().div(255).unsqueeze(1)
    places = torch.from_numpy(_places(count, rng))
    grid = functional.affine_grid(places, [count, 1, INPUT, INPUT], align_corners=False)
    x = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)[:, 0]
    if rng.random() < 0.4:  # a small face, enlarged
        side = int(rng.integers(14, 40))
        small = functional.interpolate(x[None], (side, side), mode="bilinear", antialias=True)
        x = functional.interpolate(small, (INPUT, INPUT), mode="bilinear")[0]
    x = x.clamp(1e-3, 1) ** math.exp(0.3 * rng.normal())
    x = x * math.exp(0.2 * rng.normal()) + 0.1 * rng.normal()
    if rng.random() < 0.5:
        noise = rng.normal(size=tuple(x.shape)).astype(np.float32)
        x = x + torch.from_numpy(noise) * (0.03 * rng.random())
    return x


def _places(count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [count, 2, 3]: where in a mouth picture (-1..1) the pixels of the input lie."""
    angle = math.radians(4 * rng.normal())
    side = INPUT / PATCH * math.exp(0.07 * rng.normal())
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[mirror * math.cos(angle), -math.sin(angle)], [mirror * math.sin(angle), math.cos(angle)]])
    places = np.zeros((count, 2, 3), np.float32)
    places[:, :, :2] = side * turn
    places[:, :, 2] = 0.05 * rng.normal(size=2) + 0.004 * rng.normal(size=(count, 2))
    return places


def augmented_sound(mel: np.ndarray, others: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Spectrogram [n, bands] (mean 0, deviation 1) with another voice, room and background.

    Args:
        others: spectrograms of other clips, one of which may sound below.
    """
    count, bands = mel.shape
    if rng.random() < 0.7:  # a longer or shorter vocal tract
        mel = resampled(mel.T, np.arange(bands) * math.exp(0.06 * rng.normal())).T
    if rng.random() < 0.5:
        other = others[int(rng.integers(len(others)))]
        start = int(rng.integers(0, max(1, len(other) - count + 1)))
        other = np.resize(other[start : start + count], mel.shape)
        mel = np.logaddexp(1.5 * mel, 1.5 * other - rng.uniform(2, 6)) / 1.5
    mel = mel + 0.06 * np.cumsum(rng.normal(size=bands)) + 0.2 * rng.normal()
    mel = mel * math.exp(0.1 * rng.normal())
    if rng.random() < 0.5:
        width = int(rng.integers(1, 6))
        low = int(rng.integers(0, bands - width))
        mel[:, low : low + width] = 0
    return np.asarray(mel + 0.1 * rng.random() * rng.normal(size=mel.shape), np.float32)


def resampled(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Linear interpolation of values [n, ...] at fractional ``places`` [m] along the first axis; ends are held."""
    last = len(values) - 1
    places = np.clip(places, 0, last)
    low = np.minimum(np.floor(places).astype(int), max(0, last - 1))
    part = (places - low).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(values[low] * (1 - part) + values[np.minimum(low + 1, last)] * part)
