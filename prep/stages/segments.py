"""How a track is cut into samples."""

from __future__ import annotations

from prep.records import Reason, Rejection

MAX_FRAMES = 125
ALIGN = 5
"""Segments start at multiples of 5 clip frames: 5 frames are exactly 16 mel columns."""


def cut(start: int, stop: int) -> list[tuple[int, int]]:
    """Clip frames [start, stop) of a track as segments [(start, stop), ...].

    n frames make ceil(n / 125) nearly equal segments of at most 129 frames, each starting at a multiple of 5. Up to 4
    leading frames fall away.
    """
    first = -(-start // ALIGN) * ALIGN
    n = stop - first
    if n <= 0:
        return []
    count = -(-n // MAX_FRAMES)
    edges = [first + round(i * n / count / ALIGN) * ALIGN for i in range(count)] + [stop]
    return list(zip(edges[:-1], edges[1:], strict=True))


def too_short(start: int, stop: int, *, min_frames: int, shot: tuple[int, int]) -> Rejection | None:
    """Why a track gives no sample, if it is under ``min_frames`` after alignment."""
    first = -(-start // ALIGN) * ALIGN
    if stop - first >= min_frames:
        return None
    whole = (start, stop) == shot
    reason = Reason.SCENE_CUT_TOO_SHORT if whole else Reason.FACE_LOST
    what = "the shot" if whole else "the stretch with a face"
    return Rejection("segments", reason, f"{what} has {stop - start} frames, under {min_frames}", start, stop - start)
