"""The units of evaluation: shots of a data set, and what is read of them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from g4g_core.errors import DatasetError, UsageError
from g4g_core.protocols import POSE_POINTS
from prep.shards.access import SampleReader
from prep.shards.index import Dataset, Selection, read_committed, read_selection
from prep.shards.rows import Row, Rows
from prep.shards.schema import MaskBit

ABOUT = (
    "video_id", "shot", "role", "path", "licence", "redistributable", "text", "face_px", "sharpness", "brightness",
    "yaw", "pitch", "yaw_max_abs", "av_offset", "sync_score", "content_sha256",
)  # fmt: skip
"""Columns of the index that describe a shot: the first segment's words, the mean of all segments' numbers
(of the largest yaw: the largest)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shot:
    """One shot of one clip, as the harness hands it around: plain values only.

    Attributes:
        key: ``<source>-<clip>-<shot>``, unique in a data set.
        shard: stem of the shard that holds it.
        shard_sha256: of the shard's tar.
        segments: (key, first 25 fps clip frame, frames) of its samples, ascending and without gaps.
        size: side of the stored crops, px.
        fingerprint: of its stored bytes.
        about: :data:`ABOUT` and ``duration`` (seconds).
    """

    key: str
    source: str
    clip: str
    identity: str
    split: str
    shard: str
    shard_sha256: str
    segments: tuple[tuple[str, int, int], ...]
    size: int
    fingerprint: str
    about: Mapping[str, Any]

    @property
    def n_frames(self) -> int:
        return sum(count for _, _, count in self.segments)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """(first frame, frames) of the segments, counted from the start of the shot."""
        origin = self.segments[0][1]
        return [(start - origin, count) for _, start, count in self.segments]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Shot:
        segments = tuple((str(key), int(start), int(count)) for key, start, count in data["segments"])
        return cls(**{**data, "segments": segments})


def shots_of(
    dataset: Dataset, split: str, *, selection: Selection | None = None, limit: int | None = None
) -> list[Shot]:
    """The shots of a split, or of several (``train,test``), sorted by (source, key).

    Args:
        split: a name, or names between commas: for roles of people that cut across splits.
        selection: keys of samples; a shot is taken whole where one of its samples is named.
        limit: at most so many shots of every source, chosen by a hash of their keys, so that a smaller number is
            always a part of a larger one.

    Raises:
        DatasetError: no such split, a shard that is not whole, or nothing selected.
        UsageError: a limit under 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves nothing to score", "Give 1 or more.")
    wanted = read_selection(selection) if selection is not None else None
    found: list[Shot] = []
    shards = [(name.strip(), shard) for name in split.split(",") for shard in dataset.committed(name.strip())]
    for name, shard in shards:
        columns = list(dict.fromkeys(
            ("key", "source", "clip", "shot", "segment", "identity", "frame_start", "n_frames", "size", *ABOUT)
        ))  # fmt: skip
        rows = shard.table(columns).to_pylist()
        groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault((row["source"], row["clip"], row["shot"]), []).append(row)
        for members in groups.values():
            if wanted is None or any(row["key"] in wanted for row in members):
                found.append(_shot(sorted(members, key=_by_segment), shard.stem, shard.marker["sha256"], name))
    if not found:
        raise DatasetError(f"the split {split!r} of {dataset.root} holds no shot to score", "Choose another --split.")
    found.sort(key=lambda shot: (shot.source, shot.key))
    return found if limit is None else _limited(found, limit)


def _by_segment(row: Mapping[str, Any]) -> int:
    return int(row["segment"])


def _shot(rows: Sequence[Mapping[str, Any]], stem: str, digest: str, split: str) -> Shot:
    first = rows[0]
    key = f"{first['source']}-{first['clip']}-{first['shot']:03d}"
    about: dict[str, Any] = {}
    for name in ABOUT:
        values = [row[name] for row in rows]
        numbers = [value for value in values if isinstance(value, float)]
        combine = np.max if name == "yaw_max_abs" else np.mean
        about[name] = round(float(combine(numbers)), 4) if numbers else values[0]
    frames = sum(row["n_frames"] for row in rows)
    about["duration"] = round(frames / 25, 2)
    keys = tuple((row["key"], row["frame_start"], row["n_frames"]) for row in rows)
    return Shot(
        key=key,
        source=first["source"],
        clip=first["clip"],
        identity=first["identity"],
        split=split,
        shard=stem,
        shard_sha256=digest,
        segments=keys,
        size=first["size"],
        fingerprint=hashlib.sha256(f"{digest} {keys}".encode()).hexdigest(),
        about=about,
    )


def _limited(shots: Sequence[Shot], limit: int) -> list[Shot]:
    chosen: list[Shot] = []
    for source in sorted({shot.source for shot in shots}):
        of_source = [shot for shot in shots if shot.source == source]
        of_source.sort(key=lambda shot: hashlib.sha256(shot.key.encode()).hexdigest())
        chosen += sorted(of_source[:limit], key=lambda shot: shot.key)
    return chosen


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """What is stored of some frames.

    Attributes:
        pictures: uint8 [n, S, S, 3] RGB.
        masks: uint8 [n, S, S] of :class:`prep.shards.schema.MaskBit`.
        landmarks: float32 [n, 68, 2], smoothed, pixels of ``pictures``.
    """

    pictures: np.ndarray
    masks: np.ndarray
    landmarks: np.ndarray

    @property
    def erase(self) -> np.ndarray:
        """uint8 [n, S, S] of 0 and 1."""
        return np.asarray((self.masks & MaskBit.ERASE) > 0, np.uint8)

    @property
    def pose(self) -> np.ndarray:
        """float32 [n, 31, 2]: points 17-47."""
        return self.landmarks[:, POSE_POINTS]


class ShotReader:
    """Reads one shot of a data set, in parts.

    Args:
        root: of the data set.
        shot: one of it.

    Raises:
        DatasetError: the shard is not there or not whole.
    """

    def __init__(self, root: str, shot: Shot) -> None:
        self.shot = shot
        dataset, rows = _open(root, shot.shard_sha256), _rows(root, shot.shard, shot.shard_sha256)
        keys = {key: position for position, key in enumerate(rows.sample_keys())}
        try:
            self._rows: list[Row] = [rows[keys[key]] for key, _, _ in shot.segments]
        except KeyError as error:
            raise DatasetError(f"{shot.shard} holds no sample {error}", "Evaluate again: it has changed.") from error
        self._samples = SampleReader(dataset)
        self._points = [self._samples.landmarks(row) for row in self._rows]

    @property
    def landmarks(self) -> np.ndarray:
        """float32 [T, 68, 2] of the whole shot."""
        return np.concatenate(self._points)

    def frames(self, indices: np.ndarray) -> Frames:
        """Frames of the shot by number, in any order."""
        pictures = np.empty((len(indices), self.shot.size, self.shot.size, 3), np.uint8)
        masks = np.empty((len(indices), self.shot.size, self.shot.size), np.uint8)
        for row, (first, count) in zip(self._rows, self.shot.bounds, strict=True):
            here = np.flatnonzero((indices >= first) & (indices < first + count))
            if len(here):
                pictures[here] = self._samples.frames(row, indices[here] - first)
                masks[here] = self._samples.masks(row, indices[here] - first)
        return Frames(pictures, masks, self.landmarks[indices])

    def pictures(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S, 3]: as :meth:`frames`, without the masks."""
        out = np.empty((len(indices), self.shot.size, self.shot.size, 3), np.uint8)
        for row, (first, count) in zip(self._rows, self.shot.bounds, strict=True):
            here = np.flatnonzero((indices >= first) & (indices < first + count))
            if len(here):
                out[here] = self._samples.frames(row, indices[here] - first)
        return out

    def pcm(self) -> np.ndarray:
        """int16 [640 T]."""
        return np.concatenate([self._samples.pcm(row) for row in self._rows])

    def mel(self) -> tuple[np.ndarray, int]:
        """float32 [n, 80], the columns of the clip stored with this shot, and the clip column of the first."""
        first = self._rows[0].mel_start
        last = max(row.mel_start + row.n_mel for row in self._rows)
        mel = np.zeros((last - first, 80), np.float32)
        for row in self._rows:
            mel[row.mel_start - first : row.mel_start - first + row.n_mel] = self._samples.mel(row)
        return mel, first

    @property
    def frame_start(self) -> int:
        """The clip frame at which the shot begins."""
        return self._rows[0].frame_start

    def meta(self, segment: int) -> dict[str, Any]:
        """The JSON member of a segment: affines, size of the frames, time range."""
        return self._samples.meta(self._rows[segment])

    def close(self) -> None:
        self._samples.close()

    def __enter__(self) -> ShotReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@functools.lru_cache(maxsize=8)
def _open(root: str, sha256: str) -> Dataset:
    return Dataset.open(root)


@functools.lru_cache(maxsize=8)
def _rows(root: str, stem: str, sha256: str) -> Rows:
    """The rows of a shard, by its content: workers of a cluster outlive a data set that is built anew."""
    shard = read_committed(root, stem)
    if shard.marker["sha256"] != sha256:
        raise DatasetError(f"{stem} of {root} has changed since the evaluation began", "Run the command again.")
    return Rows.of_shard(shard)
