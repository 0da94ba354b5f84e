"""An expert as a judge of finished pictures: face crops and sound in, numbers per clip and per frame out."""

from __future__ import annotations

import functools
import importlib.resources

import numpy as np

from g4g_core.errors import UsageError
from prep.records import SAMPLES_PER_FRAME
from prep.sync_expert.infer import compare, load
from prep.sync_expert.mouths import mouth_patches
from prep.sync_expert.reading import Reading

JUDGE = "sync-b"
"""The expert that no model of this project is trained against."""

LEARNED_FROM = "3.5 minutes of 28 people: generated clips (MoChaBench), four speakers of GRID, six people of the sample"
"""What its weights learned from; see docs/sync-expert.md."""


@functools.cache
def learned_clips() -> frozenset[str]:
    """SHA-256 of the files that its weights learned from. The sample's, which is rendered anew, go by their role."""
    place = importlib.resources.files("prep.sync_expert") / "data" / f"{JUDGE}.clips.txt"
    return frozenset(place.read_text("ascii").split())


def judge(
    crops: np.ndarray, landmarks: np.ndarray, pcm: np.ndarray, expert: str = JUDGE, weights: str | None = None
) -> Reading | None:
    """How well the mouths of face crops fit a sound.

    The mouths are cut by points 17-47 of the landmarks that come with the crops, those of the shard: nothing is
    detected again, so that a redrawn mouth cannot decide where it is looked at.

    Args:
        crops: uint8 [T, S, S, 3] RGB at 25 fps, any S.
        landmarks: float [T, 68, 2], pixels of ``crops`` (centres of pixels at whole numbers).
        pcm: int16, 16 kHz mono; sample 0 belongs to the start of frame 0. What lies beyond 640 T is not heard.
        expert: ``sync-a`` or ``sync-b``.
        weights: a safetensors file instead of the weights of this package.

    Returns:
        ``None`` where there are too few frames, see :func:`prep.sync_expert.reading.read`.

    Raises:
        UsageError: arrays of other shapes or types, points that are no numbers, or fewer than 640 samples a frame.
    """
    if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8 or crops.shape[1] != crops.shape[2]:
        raise UsageError(f"crops are {crops.dtype} {list(crops.shape)}, uint8 [T, S, S, 3] is needed")
    if landmarks.shape != (len(crops), 68, 2):
        raise UsageError(f"landmarks are {list(landmarks.shape)}, [{len(crops)}, 68, 2] is needed")
    if not np.isfinite(landmarks).all():
        raise UsageError("landmarks hold NaN or infinity", "Interpolate where no face was found.")
    needed = SAMPLES_PER_FRAME * len(crops)
    if pcm.ndim != 1 or pcm.dtype != np.int16 or len(pcm) < needed:
        raise UsageError(f"the sound is {pcm.dtype} {list(pcm.shape)}, int16 [{needed}] or more is needed")
    found = load(expert, weights)
    return compare([found], mouth_patches(crops, landmarks), pcm[:needed])
