"""Which window a training run sees when: a pure function of (seed, epoch, position)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from prep.shards.rows import Row, Rows, Segment
from prep.shards.schema import MEL_WINDOW

References = Callable[[Segment, int, int, np.random.Generator], np.ndarray]
"""Chooses reference frames: (segment, first frame, number of frames, generator) -> int [K], frames of the segment.

A pure function: all its chance comes from the generator.
"""


def another_window(segment: Segment, start: int, frames: int, generator: np.random.Generator) -> np.ndarray:
    """Wav2Lip's kind of reference: ``frames`` frames in a row from another place of the same segment.

    They do not overlap frames ``start`` ... ``start + frames - 1`` where the segment has room for that; else they
    start elsewhere; a segment of just ``frames`` frames has only itself to offer.
    """
    starts = np.arange(segment.n_frames - frames + 1)
    apart = starts[np.abs(starts - start) >= frames]
    if not len(apart):
        apart = starts[starts != start] if len(starts) > 1 else starts
    return int(apart[generator.integers(len(apart))]) + np.arange(frames)


@dataclasses.dataclass(frozen=True)
class Starts:
    """First frames that a window of a segment may have: ``first`` ... ``last``, both included; none if last < first."""

    first: np.ndarray
    last: np.ndarray


def window_starts(columns: Mapping[str, Any], frames: int, mel_offset: int) -> Starts:
    """Where windows of ``frames`` frames fit, per row: inside the segment, and each frame with its mel window.

    A mel window must lie in the stored columns. Only at the end of the clip may it lie beyond them: there the clip's
    last columns stand in for it (see :func:`prep.stages.mel.mel_window`).

    Args:
        columns: ``frame_start``, ``n_frames``, ``mel_start``, ``n_mel`` and ``clip_frames``, numbers or int64 [n].

    Returns:
        int64 [n] each, frames of the segment.
    """
    n = columns
    clip_frame, n_frames = n["frame_start"], n["n_frames"]
    mel_first, mel_last = n["mel_start"], n["mel_start"] + n["n_mel"]
    # frame f looks at columns floor(16 (f + offset) / 5) ... + 15
    first = np.maximum(0, -(-5 * mel_first // 16) - clip_frame - mel_offset)
    last_frame = (5 * (mel_last - MEL_WINDOW + 1) - 1) // 16 - mel_offset - clip_frame
    cut_by_clip = mel_last < (clip_frame + n_frames) * 16 // 5 + MEL_WINDOW
    to_the_end = cut_by_clip | (mel_last > mel_start_of(n["clip_frames"]))
    last = np.where(to_the_end, n_frames, np.minimum(n_frames, last_frame + 1)) - frames
    return Starts(first, np.where(n["n_mel"] >= MEL_WINDOW, last, -1))


def mel_start_of(frames: np.ndarray) -> np.ndarray:
    """:func:`prep.stages.mel.mel_start` of an array of clip frames."""
    return np.asarray(frames * 16 // 5)


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """A window before anything is read: its sample, and frames of that segment.

    ``indices`` int64 [T] are consecutive, ``references`` int64 [K].
    """

    position: int
    row: Row
    indices: np.ndarray
    references: np.ndarray


class Order:
    """The windows of an epoch: ``windows_per_visit`` windows of every sample, samples in random order.

    Chance comes from Philox, a counter-based generator: position p of epoch e has its own counter, so that no
    process needs to know what another has drawn (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    Args:
        rows: samples. Those in which no window fits are left out and counted in ``too_short``.
        frames: T, frames of a window.
        windows_per_visit: windows of a sample that follow each other in the order.
        references: chooses the reference frames.
        mel_offset: see :func:`prep.stages.mel.mel_window`.
        seed: 0 ... 2**64 - 1.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        frames: int,
        windows_per_visit: int,
        references: References,
        mel_offset: int,
        seed: int,
    ) -> None:
        starts = window_starts(rows.numbers, frames, mel_offset)
        fits = starts.last >= starts.first
        self.rows = rows.select(fits)
        self.too_short = int(np.count_nonzero(~fits))
        self.frames = frames
        self.windows_per_visit = windows_per_visit
        self.seed = seed
        self._first, self._last = starts.first[fits], starts.last[fits]
        self._references = references
        self._permutation: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Windows in an epoch."""
        return len(self.rows) * self.windows_per_visit

    def draw(self, epoch: int, position: int) -> Draw:
        """The window at ``position`` (0 ... len - 1) of ``epoch``."""
        number = int(self.permutation(epoch)[position // self.windows_per_visit])
        row = self.rows[number]
        generator = np.random.Generator(np.random.Philox(key=self._key(epoch), counter=[0, 0, position, 1]))
        start = int(generator.integers(self._first[number], self._last[number], endpoint=True))
        references = np.asarray(self._references(row, start, self.frames, generator), dtype=np.int64)
        return Draw(position, row, start + np.arange(self.frames), references)

    def permutation(self, epoch: int) -> np.ndarray:
        """int64 [samples]: the order in which ``epoch`` visits the rows."""
        if self._permutation is None or self._permutation[0] != epoch:
            # sorting raw words rather than Generator.permutation, whose stream numpy may change between versions
            words = np.random.Philox(key=self._key(epoch)).random_raw(len(self.rows))
            self._permutation = epoch, np.argsort(words, kind="stable")
        return self._permutation[1]

    def _key(self, epoch: int) -> np.ndarray:
        return np.array([self.seed, epoch], dtype=np.uint64)
