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
        score: 1.4142 (the square root of 2) less the minimum of :attr:`curve` within ``IN_SYNC`` frames of 0: how well
            the clip is in sync as it is. Sound of another clip may fit somewhere by chance, but seldom near 0.
        windows: windows of picture that were compared.
        at_edge: the offset is the largest that is looked for: there may be a better one beyond.
        curve: float32 [31], mean distance at each offset -15 ... 15; NaN where too few windows overlap.
        per_window: float32 [windows], distance of each window at :attr:`offset`; NaN where it has no partner.
    """

    offset: int
    confidence: float
    distance: float
    distance_at_0: float
    score: float
    windows: int
    at_edge: bool
    curve: np.ndarray
    per_window: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Compared:
    """What one expert saw and heard.

    Attributes:
        seen: float32 [n, 64], embeddings of windows of picture.
        heard: float32 [m, 64], of windows of sound, a window a frame.
        place: int64 [n], the window of sound that belongs to each window of picture as the clip is. It may lie
            outside 0 ... m - 1: then there is no such sound.
    """

    seen: np.ndarray
    heard: np.ndarray
    place: np.ndarray


def read(experts: Sequence[Compared]) -> Reading | None:
    """The reading of one expert, or of several together, whose windows of picture have the same middles.

    Returns:
        ``None`` where fewer than ``MIN_WINDOWS`` windows have sound at offset 0.
    """
    band = np.mean([_band(expert) for expert in experts], axis=0)
    enough = (~np.isnan(band)).sum(axis=0) >= MIN_WINDOWS
    if not enough[MAX_SHIFT]:
        return None
    curve = np.full(2 * MAX_SHIFT + 1, np.nan)
    curve[enough] = np.nanmean(band[:, enough], axis=0)
    best = int(np.nanargmin(curve))
    near = curve[MAX_SHIFT - IN_SYNC : MAX_SHIFT + IN_SYNC + 1]
    tried = np.flatnonzero(enough)
    return Reading(
        offset=best - MAX_SHIFT,
        confidence=round(float(np.nanmedian(curve) - curve[best]), _DECIMALS),
        distance=round(float(curve[best]), _DECIMALS),
        distance_at_0=round(float(curve[MAX_SHIFT]), _DECIMALS),
        score=round(2**0.5 - float(np.nanmin(near)), _DECIMALS),
        windows=len(band),
        at_edge=best in (tried[0], tried[-1]),
        curve=np.round(curve, _DECIMALS).astype(np.float32),
        per_window=np.round(band[:, best], _DECIMALS).astype(np.float32),
    )


def _band(expert: Compared) -> np.ndarray:
    """float64 [n, 31]: distance of picture i to the sound that an offset of -15 ... 15 says belongs to it.

    Sound that leads by k frames lies k windows earlier.
    """
    seen, heard = expert.seen.astype(np.float64), expert.heard.astype(np.float64)
    band = np.full((len(seen), 2 * MAX_SHIFT + 1), np.nan)
    for column, offset in enumerate(range(-MAX_SHIFT, MAX_SHIFT + 1)):
        partner = expert.place - offset
        rows = np.flatnonzero((partner >= 0) & (partner < len(heard)))
        similar = np.einsum("nd,nd->n", seen[rows], heard[partner[rows]])
        band[rows, column] = np.sqrt(np.maximum(0.0, 2.0 - 2.0 * similar))
    return band
