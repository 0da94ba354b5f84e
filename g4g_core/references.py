"""How a shot becomes prompts, and which frames may serve as references: one rule for training, harness and dubbing."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

APART = 25
"""Frames by which a reference in the window's own segment stays away from it: one second."""

SHORTEST = 20
"""Frames under which a shot of one segment has no references at all."""

COUNT = 5
"""References a model is given."""


def gap_of(n_frames: int) -> int:
    """Frames between a half of a one-segment shot and its references, which lie in the other half."""
    return min(APART, n_frames // 4)


def allowed_references(segments: Sequence[tuple[int, int]], segment: int, start: int, stop: int) -> np.ndarray:
    """The frames that may be references for the window [start, stop).

    They lie outside the window's segment, or at least :data:`APART` frames from every frame of the window. A shot of
    one segment has two halves, each of which refers to the other with a gap of :func:`gap_of` frames; under
    :data:`SHORTEST` frames it has none.

    Args:
        segments: (first frame, number of frames) of the shot's segments, ascending, in any common count of frames.
        segment: position of the window's segment in ``segments``.
        start, stop: the window, in the same count.

    Returns:
        int64 [n], ascending; empty where there are none.
    """
    first, count = segments[segment]
    frames = np.concatenate([np.arange(begin, begin + n, dtype=np.int64) for begin, n in segments])
    distance = np.maximum(start - frames, frames - (stop - 1))
    if len(segments) > 1:
        return np.asarray(frames[(frames < first) | (frames >= first + count) | (distance >= APART)])
    if count < SHORTEST:
        return np.zeros(0, np.int64)
    middle = first + count // 2
    other = frames >= middle if start + stop - 1 < 2 * middle else frames < middle
    return np.asarray(frames[other & (distance >= gap_of(count))])


def choose_references(allowed: np.ndarray, generator: np.random.Generator, count: int = COUNT) -> np.ndarray:
    """int64 [count]: references drawn from ``allowed``, each once where there are enough; chance is ``generator``'s.

    Raises:
        ValueError: nothing is allowed.
    """
    if not len(allowed):
        raise ValueError("there is no frame to refer to")
    return np.asarray(generator.choice(allowed, count, replace=len(allowed) < count), np.int64)


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A part of a shot that is one prompt: frames [start, stop), of which [scored, scored_stop) count."""

    segment: int
    start: int
    stop: int
    scored: int
    scored_stop: int


def stretches(segments: Sequence[tuple[int, int]]) -> list[Stretch]:
    """The prompts of a shot: its segments, or the two halves of its only one.

    Around the middle of a one-segment shot lies the gap that keeps each half from its references. Its frames are drawn
    all the same, so that sound and picture stay whole for the sync metrics, but no frame of it is compared.

    Args:
        segments: as :func:`allowed_references`.
    """
    if len(segments) > 1:
        return [Stretch(i, start, start + n, start, start + n) for i, (start, n) in enumerate(segments)]
    ((first, count),) = segments
    gap, middle, stop = gap_of(count), first + count // 2, first + count
    return [
        Stretch(0, first, middle, first, middle - (gap + 1) // 2),
        Stretch(0, middle, stop, middle + gap // 2, stop),
    ]


def seed_of(seed: int, *parts: object) -> int:
    """A seed of 0 ... 2**63 - 1 for one place, from the protocol's."""
    text = " ".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
