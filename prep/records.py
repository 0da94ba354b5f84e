"""The records that cross boundaries inside ``prep``: what to process, and why something was not."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

FPS = 25
"""Frames per second of everything in a shard."""

SAMPLE_RATE = 16_000
"""Audio samples per second of everything in a shard."""

SAMPLES_PER_FRAME = SAMPLE_RATE // FPS

SPLITS = ("train", "val", "test")


class Reason(str, enum.Enum):
    """Why a clip, or a part of one, is not in a shard. The values are stable: they stand in manifests."""

    # found by a source, before any file is opened
    SOURCE_MISSING = "source_missing"
    NO_ANNOTATION = "no_annotation"
    INTERVAL_OUTSIDE_VIDEO = "interval_outside_video"
    NOT_IN_SPLIT_LIST = "not_in_split_list"
    # found by the probe
    NO_VIDEO = "no_video"
    NO_AUDIO = "no_audio"
    SILENT_AUDIO = "silent_audio"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    TOO_SHORT = "too_short"
    AV_DURATION_MISMATCH = "av_duration_mismatch"
    # found while tracking
    NO_FACE = "no_face"
    FACE_TOO_SMALL = "face_too_small"
    FACE_LOST = "face_lost"
    SCENE_CUT_TOO_SHORT = "scene_cut_too_short"
    # found by the runner
    TIMEOUT = "timeout"
    CRASHED = "crashed"


@dataclasses.dataclass(frozen=True)
class Rejection:
    """One reason why a clip (or a stretch of it) gave no sample.

    Attributes:
        stage: the stage that decided, e.g. ``probe``.
        reason: a member of :class:`Reason`.
        detail: one human-readable line with the numbers behind the decision.
        frame_start, n_frames: the stretch of the clip that it concerns, in 25 fps clip frames;
            ``None`` where the whole clip is meant.
    """

    stage: str
    reason: Reason
    detail: str
    frame_start: int | None = None
    n_frames: int | None = None


@dataclasses.dataclass(frozen=True)
class Word:
    """A spoken word with its times in seconds from the start of the clip."""

    text: str
    start: float
    end: float
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class CropHint:
    """Where an annotation says the face is: a square in pixels of a video of ``listed_height``.

    The box is scaled by actual/listed height before use. ``listed_height`` is 0 where the annotation
    gives none; the box is then taken as it is.
    """

    x: float
    y: float
    width: float
    height: float
    listed_height: int


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """What to process: one clip of one source, as its lists and annotations name it.

    Attributes:
        source: the source's name in every table, e.g. ``lrs2``, ``hdtf``, ``grid``.
        clip: id of the clip inside its source (see :func:`prep.sources.naming.clip_id`).
        identity: id of the person, disjoint over splits.
        path: POSIX path of the video relative to the source's root. Never absolute.
        split: ``train``, ``val`` or ``test``; ``None`` until it has been drawn.
        subset: the part of the source a clip comes from (LRS2: ``main`` or ``pretrain``), else "".
        role: what the clip is for, as the column ``role`` of an identity CSV says, else "".
        video_id: id of the original upload, where the source knows it; disjoint over splits too.
        time_range: (start, end) in seconds inside the file, or ``None`` for the whole file.
        crop_hint: where the annotation says the face is, or ``None``.
        text: transcript, or ``None``.
        words: transcript with times in seconds from the clip's start.
        licence: one line: under which terms the footage is, as far as the source knows.
        redistributable: whether frames of it may be passed on (media in reports).
        absent: why there is nothing to process, where the source already knows.
    """

    source: str
    clip: str
    identity: str
    path: str
    split: str | None = None
    subset: str = ""
    role: str = ""
    video_id: str | None = None
    time_range: tuple[float, float] | None = None
    crop_hint: CropHint | None = None
    text: str | None = None
    words: tuple[Word, ...] = ()
    licence: str = "unknown"
    redistributable: bool = False
    absent: Rejection | None = None

    @property
    def uid(self) -> str:
        """``source/clip``: unique inside a data set."""
        return f"{self.source}/{self.clip}"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that :meth:`from_json` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClipSpec:
        values = dict(data)
        if values.get("time_range") is not None:
            values["time_range"] = (float(values["time_range"][0]), float(values["time_range"][1]))
        if values.get("crop_hint") is not None:
            values["crop_hint"] = CropHint(**values["crop_hint"])
        if values.get("absent") is not None:
            values["absent"] = rejection_from_json(values["absent"])
        values["words"] = tuple(Word(**word) for word in values.get("words") or ())
        return cls(**values)


def rejection_from_json(data: Mapping[str, Any]) -> Rejection:
    """The :class:`Rejection` that ``dataclasses.asdict`` made ``data`` from."""
    return Rejection(**{**data, "reason": Reason(data["reason"])})
