"""A small data set of people made of noise, and small networks to try on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import synthetic_shards
from synthetic_shards import SyntheticClip, write_dataset

from prep.shards.sample import Sample
from prep.stages.geometry import MEAN_FACE

CLIPS = (
    SyntheticClip("a/00", "anna", "train", ((0, 30), (30, 25)), 55),
    SyntheticClip("b/00", "ben", "train", ((5, 40),), 60),
    SyntheticClip("b/01", "ben", "train", ((0, 12),), 12),
    SyntheticClip("c/00", "cleo", "train", ((0, 45),), 45),
    SyntheticClip("d/00", "dora", "test", ((0, 60),), 60),
)

SMALL: dict[str, Any] = {
    "size": 64, "channels": (8, 8, 16), "embedding": 16, "clips": 2, "windows": 6, "settle": 0, "mirror": False,
    "weights": {"perception": 0.0},
}  # fmt: skip

Edit = Callable[[Sample], Sample]


def write_people(root: Path, *, size: int = 64, edit: Edit = lambda sample: sample) -> Path:
    """The data set of :data:`CLIPS`, faces in the middle of every picture, each sample changed by ``edit``."""
    plain = synthetic_shards.clip_samples

    def samples(clip: SyntheticClip, side: int) -> Iterator[tuple[Sample, dict[str, Any]]]:
        for sample, row in plain(clip, side):
            rng = np.random.default_rng(sum(sample.key.encode()))
            face = MEAN_FACE * (0.3 * size) + (0.5 * size, 0.35 * size)
            points = (face + rng.normal(0, 0.01 * size, (len(sample.landmarks), 68, 2))).astype(np.float32)
            yield edit(dataclasses.replace(sample, landmarks=points, landmarks_raw=points)), row

    synthetic_shards.clip_samples = samples
    try:
        return write_dataset(root, CLIPS, size=size)
    finally:
        synthetic_shards.clip_samples = plain
