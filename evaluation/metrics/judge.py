"""Lip sync as the embedded expert ``sync-b`` sees it: always there, never called LSE."""

from __future__ import annotations

import numpy as np

from evaluation.metrics.base import Block, Context, Measured, Metric
from evaluation.shots import Shot
from prep.sync_expert.infer import compare, load
from prep.sync_expert.judge import JUDGE, LEARNED_FROM, learned_clips
from prep.sync_expert.mouths import mouth_patches

_BY = "by the embedded expert sync-b on mouths cut by the clip's own eye points"
DISTANCE = Metric(
    id="sync_d@judge", name="Sync-D (judge)", unit="", better="lower", kind="clip", near_truth=True, by_judge=True,
    definition=f"Least mean distance of picture and sound over shifts of up to 15 frames, {_BY}. "
    "Unrelated picture and sound lie near 1.41, the best of 31 shifts lower: the controls show how much.",
)  # fmt: skip
CONFIDENCE = Metric(
    id="sync_c@judge", name="Sync-C (judge)", unit="", better="higher", kind="clip", near_truth=True, by_judge=True,
    definition="Median less minimum of the mean distances of picture and sound over all shifts: how clearly one "
    f"fits, {_BY}. All shifts take part, so that real speech at another time scores, too.",
)  # fmt: skip
SCORE = Metric(
    id="sync_score@judge", name="Sync (judge)", unit="", better="higher", kind="clip", near_truth=True, by_judge=True,
    definition="1.414 minus the smallest mean distance of picture and sound over shifts of -4 to 4 frames: how well "
    f"the clip is in sync as it is, {_BY}. Even without any sync it is above 0; the controls show how far. "
    f"sync-b learned from {LEARNED_FROM}, and no model may be trained against it unmarked.",
)  # fmt: skip
OFFSET = Metric(
    id="sync_offset@judge", name="Offset (judge)", unit="frames", better=0.0, kind="clip", by_judge=True,
    definition=f"AV offset in frames of 40 ms, above 0: the sound leads; {_BY}.",
)  # fmt: skip


def has_met(shot: Shot) -> bool:
    """Whether the judge learned from a shot's file, or, by the role that its data set gives it, from its person."""
    return shot.about.get("role") == JUDGE or shot.about.get("content_sha256") in learned_clips()


class JudgeMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "judge"
    metrics = (SCORE, CONFIDENCE, DISTANCE, OFFSET)
    packages: tuple[tuple[str, str], ...] = ()

    def start(self, context: Context) -> _Session:
        return _Session(context)


class _Session:
    """Keeps the mouths of the shot (4 kB a frame): the sound is levelled over all of it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._mouths: list[np.ndarray] = []

    def add(self, block: Block) -> None:
        self._mouths.append(mouth_patches(block.output, block.landmarks))

    def result(self) -> Measured:
        mouths = np.concatenate(self._mouths)
        expert = load(JUDGE)
        reading = compare([expert], mouths, self._context.pcm[: 640 * len(mouths)])
        if reading is None:
            why = ("too_few_frames", f"{len(mouths)} frames are too few for a reading")
            return Measured(missing={metric.id: why for metric in JudgeMeasure.metrics})
        values = {
            SCORE.id: reading.score,
            CONFIDENCE.id: reading.confidence,
            DISTANCE.id: reading.distance,
            OFFSET.id: float(reading.offset),
        }
        by_frame = np.full(len(mouths), np.nan)
        by_frame[expert.design.middles(len(mouths))] = reading.per_window
        curves = {"judge": _known(reading.curve), "judge_frames": _known(by_frame)}
        return Measured(values=values, curves=curves, flags=("judge_offset_at_edge",) if reading.at_edge else ())


def _known(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in values]
