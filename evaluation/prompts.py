"""What a model is shown: a shot cut into prompts that hold nothing of its target."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from evaluation.shots import Shot, ShotReader
from g4g_core.protocols import ERASED, FPS, ClipPrompt
from g4g_core.references import Stretch, allowed_references, choose_references, seed_of, stretches
from prep.records import SAMPLES_PER_FRAME

PROMPT_VERSION = 1
"""Counts changes of what prompts hold; part of every cached output's key."""


@dataclasses.dataclass(frozen=True, eq=False)
class Speech:
    """The sound a shot is to speak: its own (``reconstruction``) or another's (``cross``).

    Attributes:
        mel: float32 [n, 80], columns from ``mel_start`` on.
        mel_start: clip column of ``mel[0]``, in the clip the sound is from.
        frame_start: frame of that clip that belongs to frame 0 of the shot.
        pcm: int16 [640 T]: from frame 0 of the shot on.
    """

    mel: np.ndarray
    mel_start: int
    frame_start: int
    pcm: np.ndarray


def scored_frames(shot: Shot, n_frames: int) -> np.ndarray:
    """bool [n_frames]: the frames on which pictures are compared."""
    scored = np.zeros(shot.n_frames, bool)
    for part in stretches(shot.bounds):
        scored[part.scored : part.scored_stop] = True
    return scored[:n_frames]


def has_references(shot: Shot) -> bool:
    """Whether every prompt of the shot has frames to refer to."""
    return all(len(_allowed(shot, part)) for part in stretches(shot.bounds))


def _allowed(shot: Shot, part: Stretch) -> np.ndarray:
    return allowed_references(shot.bounds, part.segment, part.scored, part.scored_stop)


def prompts(reader: ShotReader, speech: Speech, seed: int) -> Iterator[ClipPrompt]:
    """The prompts of a shot in order; together they span as many frames as ``speech`` does, from the start.

    Args:
        seed: the protocol's. References follow from it, the shot's key and the place in the shot: they are the same
            for every model.

    Raises:
        ValueError: the shot has no references, see :func:`has_references`.
    """
    shot, n_frames = reader.shot, len(speech.pcm) // SAMPLES_PER_FRAME
    landmarks = reader.landmarks
    for part in stretches(shot.bounds):
        stop = min(part.stop, n_frames)
        if stop <= part.start:
            return
        own = seed_of(seed, shot.key, part.start)
        chosen = choose_references(_allowed(shot, part), np.random.Generator(np.random.Philox(own)))
        target = reader.frames(np.arange(part.start, stop))
        source = target.pictures.copy()
        source[target.erase > 0] = ERASED
        yield ClipPrompt(
            source=source,
            erase=target.erase,
            pose=target.pose.copy(),
            references=reader.pictures(chosen),
            reference_landmarks=landmarks[chosen],
            mel=speech.mel.copy(),  # a model that scribbles on its prompt must not change the next
            mel_start=speech.mel_start,
            frame_start=speech.frame_start + part.start,
            pcm=speech.pcm[SAMPLES_PER_FRAME * part.start : SAMPLES_PER_FRAME * stop].copy(),
            fps=FPS,
            seed=own,
        )
