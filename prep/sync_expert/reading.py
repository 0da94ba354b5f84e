"""From embeddings to numbers: AV offset, distance, confidence and a curve, for one expert or several together.

As in SyncNet (Chung and Zisserman, "Out of time: automated lip sync in the wild", 2016; ``SyncNetInstance.evaluate``):
every window of picture is compared with the windows of sound up to ``MAX_SHIFT`` frames earlier and later; the shift
with the least mean distance is the offset, and how far it stands below the median of all shifts is the confidence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

MAX_SHIFT = 15
"""Frames by which sound may lie apart, each way."""

MIN_WINDOWS = 5
"""Windows that a shift must have in common to be compared at all."""

MIN_FRAMES = 20
"""Frames under which nothing is read: hardly two syllables."""

IN_SYNC = 4
"""Frames: natural offsets of footage lie within; see :attr:`Reading.score`."""

_DECIMALS = 4


@dataclasses.dataclass(frozen=True)
class Reading:
    """How well the picture and the sound of one face go together.

    Distances are Euclidean, of unit vectors: 0 (the same) to 2; unrelated ones lie about 1.4 apart.

    Attributes:
        offset: frames of 40 ms by which the sound leads (> 0) or lags (< 0), -15 ... 15.
        confidence: median of :attr:`curve` less its minimum: how sure the offset is.
        distance: the minimum of :attr:`curve`.
        distance_at_0: mean distance as the clip is.
        score: median of :attr:`curve` less its minimum within ``IN_SYNC`` frames of 0: how well the clip is in sync
            as it is. Sound of another clip may fit somewhere by chance, but seldom near 0.
        windows: windows of picture that were compared.
        at_edge: the offset is the largest that is looked for: there may be a better one beyond.
        curve: float32 [31], mean distance at each offset -15 ... 15; NaN where too few windows overlap.
        per_frame: float32 [windows], distance of each window at :attr:`offset`; NaN where it has no partner.
    """

    offset: int
    confidence: float
    distance: float
    distance_at_0: float
    score: float
    windows: int
    at_edge: bool
    curve: np.ndarray
    per_frame: np.ndarray


def read(seen: Sequence[np.ndarray], heard: Sequence[np.ndarray]) -> Reading | None:
    """Compare picture and sound.

    Args:
        seen: float32 [n, 64] of each expert: embeddings of windows of picture, a window a frame.
        heard: float32 [m, 64] of each expert: of windows of sound. Lengths differ between experts whose windows
            differ; windows are counted by their middles.

    Returns:
        ``None`` where fewer than ``MIN_WINDOWS`` windows overlap at offset 0.
    """
    bands = _common([_band(v, a) for v, a in zip(seen, heard, strict=True)])
    enough = (~np.isnan(bands)).sum(axis=0) >= MIN_WINDOWS
    if not enough[MAX_SHIFT]:
        return None
    curve = np.full(2 * MAX_SHIFT + 1, np.nan)
    curve[enough] = np.nanmean(bands[:, enough], axis=0)
    best = int(np.nanargmin(curve))
    median = float(np.nanmedian(curve))
    near = curve[MAX_SHIFT - IN_SYNC : MAX_SHIFT + IN_SYNC + 1]
    tried = np.flatnonzero(enough)
    return Reading(
        offset=best - MAX_SHIFT,
        confidence=round(median - float(curve[best]), _DECIMALS),
        distance=round(float(curve[best]), _DECIMALS),
        distance_at_0=round(float(curve[MAX_SHIFT]), _DECIMALS),
        score=round(median - float(np.nanmin(near)), _DECIMALS),
        windows=len(bands),
        at_edge=best in (tried[0], tried[-1]),
        curve=np.round(curve, _DECIMALS).astype(np.float32),
        per_frame=np.round(bands[:, best], _DECIMALS).astype(np.float32),
    )


def _band(seen: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """float64 [n, 31]: distance of picture i to the sound that an offset of -15 ... 15 says belongs to it.

    Sound that leads by k frames lies k windows earlier: picture i belongs to sound i - k.
    """
    similar = seen.astype(np.float64) @ heard.astype(np.float64).T
    distances = np.sqrt(np.maximum(0.0, 2.0 - 2.0 * similar))
    n, m = distances.shape
    band = np.full((n, 2 * MAX_SHIFT + 1), np.nan)
    for column, offset in enumerate(range(-MAX_SHIFT, MAX_SHIFT + 1)):
        rows = np.arange(max(0, offset), min(n, m + offset))
        band[rows, column] = distances[rows, rows - offset]
    return band


def _common(bands: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of experts' bands; a longer window has fewer of them, whose middles match those of the shorter ones."""
    shortest = min(len(band) for band in bands)
    cut = [band[(len(band) - shortest) // 2 :][:shortest] for band in bands]
    return np.asarray(np.mean(cut, axis=0))
