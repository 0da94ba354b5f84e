"""The rows that no prompt could make: the clip itself, and the clip with its own mouth at the wrong time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from baselines.redraw import redraw
from evaluation.shots import ShotReader


def ground_truth(reader: ShotReader, n_frames: int) -> Iterator[np.ndarray]:
    """The first ``n_frames`` frames as stored, in blocks of uint8 [n, S, S, 3]."""
    for start, count in reader.shot.bounds:
        if start < n_frames:
            yield reader.pictures(np.arange(start, min(start + count, n_frames)))


def shuffled(reader: ShotReader, n_frames: int) -> Iterator[np.ndarray]:
    """Every frame with the mouth of half a shot later (or earlier), warped to its pose as ``still`` warps.

    It moves as much as the truth and shows the right person, but says something else.
    """
    shot = reader.shot
    for start, count in shot.bounds:
        frames = np.arange(start, min(start + count, n_frames))
        if not len(frames):
            return
        other = (frames + shot.n_frames // 2) % shot.n_frames
        here, there = reader.frames(frames), reader.frames(other)
        rows = zip(here.pictures, here.erase, here.pose, there.pictures, there.pose, strict=True)
        yield np.stack([redraw(*row) for row in rows])
