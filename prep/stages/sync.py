"""How well the mouth and the sound of a face go together: the sync columns of a sample, and what fills them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from g4g_core.errors import WeightsError
from prep.records import SAMPLES_PER_FRAME
from prep.sync_expert import infer
from prep.sync_expert.reading import Compared, read

EXPERTS = ("sync-a", "sync-b")
"""Their mean decides: they agree on what is there, and err apart."""

SURE = 0.08
"""Confidence from which an offset is believed: of unseen footage in sync, 95 % of the clips lie above."""

_CURVE_DECIMALS = 2
_LONG = 75  # frames


@dataclasses.dataclass(frozen=True)
class SyncReading:
    """How well mouth and sound of one track fit.

    Attributes:
        offset: frames of 40 ms by which the audio leads (> 0) or lags; ``None`` where it could not be measured.
        confidence: how sure the offset is, see :class:`prep.sync_expert.reading.Reading`.
        score: how well picture and sound fit as they are, offsets up to 4 frames forgiven; larger is better.
        per_frame: distance of mouth and sound per frame of the track at ``offset``, 0..2; ``None`` where there is none.
        at_edge: the offset is the largest that is looked for: the true one may lie beyond.
        estimator: names of the experts; empty where nothing was measured.
        reason: why there is no offset; empty where there is one.
    """

    offset: int | None = None
    confidence: float | None = None
    score: float | None = None
    per_frame: tuple[float, ...] | None = None
    at_edge: bool = False
    estimator: str = ""
    reason: str = ""

    def part(self, start: int, stop: int) -> SyncReading:
        """The same reading with the curve of rows [start, stop) of the track."""
        return self if self.per_frame is None else dataclasses.replace(self, per_frame=self.per_frame[start:stop])


UNMEASURED = SyncReading(reason="not compared yet")


@dataclasses.dataclass(frozen=True, eq=False)
class HeardClip:
    """The sound of a clip as the experts hear it; heard once, compared with every face.

    Attributes:
        embeddings: by expert, float32 [windows, 64], a window a frame.
    """

    embeddings: dict[str, np.ndarray]


def hear(pcm: np.ndarray) -> HeardClip:
    """Listen to a clip.

    Args:
        pcm: int16 [640 T], 16 kHz mono.

    Raises:
        WeightsError: the experts' weights are not where they belong.
    """
    return HeardClip({expert.design.name: expert.hear(pcm) for expert in _experts()})


def measure(mouths: np.ndarray, start: int, heard: HeardClip) -> SyncReading:
    """Compare a face with the sound of its clip.

    Every second or third window of picture is compared: neighbours share most of their frames, and say the same.

    Args:
        mouths: uint8 [T, 64, 64], see :mod:`prep.sync_expert.mouths`; clip frame ``start`` and those after it.
        heard: the whole clip.
    """
    frames = len(mouths)
    step = 2 if frames < _LONG else 3
    longest = max((expert.design for expert in _experts()), key=lambda design: design.frames)
    middles = longest.middles(frames)[::step]
    compared = [
        Compared(
            expert.see(mouths, middles),
            heard.embeddings[expert.design.name],
            start + middles - expert.design.frames // 2,
        )
        for expert in _experts()
    ]
    reading = read(compared)
    if reading is None:
        return SyncReading(reason=f"{frames} frames are too few to compare mouth and sound")
    known = np.isfinite(reading.per_window)  # at the clip's ends the offset's partner may lie outside
    curve = np.interp(np.arange(frames), middles[known], reading.per_window[known])
    per_frame = tuple(round(float(value), _CURVE_DECIMALS) for value in curve)
    return SyncReading(
        reading.offset, reading.confidence, reading.score, per_frame, reading.at_edge, "+".join(EXPERTS)
    )


def shifted(pcm: np.ndarray, frames: int) -> np.ndarray:
    """``pcm`` delayed by whole frames (< 0: advanced), of the same length; silence where it has nothing.

    Delaying by the offset brings sound that leads into sync.
    """
    shift = frames * SAMPLES_PER_FRAME
    if shift == 0:
        return pcm
    out = np.zeros_like(pcm)
    if shift > 0:
        out[shift:] = pcm[:-shift]
    else:
        out[:shift] = pcm[-shift:]
    return out


@functools.cache
def _experts() -> tuple[infer.Expert, ...]:
    return tuple(infer.load(name) for name in EXPERTS)


def check_installed() -> None:
    """Raises WeightsError when the experts' weights are not in this installation."""
    try:
        _experts()
    except WeightsError as error:
        raise WeightsError(error.what, "Install g4g again: these weights are part of the package.") from error
