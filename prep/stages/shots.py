"""Where one camera take ends and the next begins."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from prep.stages.decode import GridFrame
from prep.stages.frames import Frame

THUMBNAIL = 32
MIN_CHANGE = 14.0
"""Mean absolute change of the thumbnail (0..255) under which a frame never starts a shot."""
MIN_RATIO = 3.0
"""How far a cut must stand out from the changes around it: moving cameras change every frame."""
_NEIGHBOURS = 2


def thumbnail(frame: Frame) -> np.ndarray:
    """float32 [32, 32, 3] YUV of a frame, for comparing neighbours."""
    planes = []
    for plane in (frame.y, frame.u, frame.v):
        step = (max(1, plane.shape[0] // (2 * THUMBNAIL)), max(1, plane.shape[1] // (2 * THUMBNAIL)))
        coarse = np.ascontiguousarray(plane[:: step[0], :: step[1]])
        planes.append(cv2.resize(coarse, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA))
    return cv2.merge(planes).astype(np.float32)


def change(previous: np.ndarray, current: np.ndarray) -> float:
    """How different two thumbnails are: mean absolute luma change plus that of the colours."""
    difference = np.abs(current - previous).mean(axis=(0, 1))
    return float(difference[0] + difference[1] + difference[2])


def starts_shot(changes: list[float], position: int) -> bool:
    """Whether the frame at ``position`` starts a shot, given the changes of the distinct frames around it."""
    around = [
        changes[i]
        for i in range(max(0, position - _NEIGHBOURS), min(len(changes), position + _NEIGHBOURS + 1))
        if i != position
    ]
    typical = sum(around) / len(around) if around else 0.0
    return changes[position] >= MIN_CHANGE and changes[position] >= MIN_RATIO * (typical + 1.0)


def with_cuts(frames: Iterable[GridFrame]) -> Iterator[tuple[GridFrame, bool]]:
    """(frame, whether it starts a shot), with two frames of delay. The first frame starts one.

    Frames that the 25 fps grid repeats are not compared with themselves: a stand-still before a cut would make
    every change look large.
    """
    waiting: collections.deque[tuple[GridFrame, int | None]] = collections.deque()
    changes: list[float] = []
    first_kept = 0  # position in the clip of changes[0]
    last_thumbnail: np.ndarray | None = None
    last_pts: int | None = None

    def is_cut(position: int | None) -> bool:
        return position is not None and (position == 0 or starts_shot(changes, position - first_kept))

    distinct = 0
    for item in frames:
        if item.pts == last_pts:
            waiting.append((item, None))
        else:
            current = thumbnail(item.frame)
            changes.append(0.0 if last_thumbnail is None else change(last_thumbnail, current))
            waiting.append((item, distinct))
            distinct += 1
            last_thumbnail, last_pts = current, item.pts
        while waiting and (waiting[0][1] is None or waiting[0][1] < distinct - _NEIGHBOURS):
            head, position = waiting.popleft()
            yield head, is_cut(position)
        while len(changes) > 4 * _NEIGHBOURS + 4:
            changes.pop(0)
            first_kept += 1
    while waiting:
        head, position = waiting.popleft()
        yield head, is_cut(position)
