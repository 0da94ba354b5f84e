"""What pass 1 knows of a clip, and what a process keeps while it works on one."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from prep.landmarks import Refiner
from prep.records import Rejection
from prep.shards.sample import json_bytes
from prep.stages import segments
from prep.stages.crop import CropTrack, crop_track
from prep.stages.frames import Frame
from prep.stages.probe import Probe
from prep.stages.sync import UNMEASURED, SyncReading
from prep.stages.tracking import Landmarker, Track


@dataclasses.dataclass
class Timings:
    """Seconds per stage of one clip."""

    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: collections.defaultdict(float))
    _last: float = dataclasses.field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on ``stage``."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now


class FrameCache:
    """Decoded frames of one clip, kept for pass 2 while they fit.

    Args:
        limit: bytes; a clip that needs more is decoded twice.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._frames: dict[int, Frame] | None = {}

    def add(self, index: int, frame: Frame) -> None:
        """Keep the frame that stands at clip frame ``index``."""
        if self._frames is None:
            return
        if frame is not self._frames.get(index - 1):
            self._left -= frame.y.nbytes + frame.u.nbytes + frame.v.nbytes
        if self._left < 0:
            self._frames = None
        else:
            self._frames[index] = frame

    @property
    def frames(self) -> Mapping[int, Frame] | None:
        """All frames by clip frame, or ``None`` where they did not fit."""
        return self._frames


@dataclasses.dataclass(frozen=True)
class Backends:
    """The networks and predictors of one process, loaded once."""

    landmarker: Landmarker
    refiner: Refiner | None = None


@dataclasses.dataclass(frozen=True)
class Shot:
    """One face through one shot, ready to be cut into samples.

    Attributes:
        number: index of the shot in the clip's keys.
        track: where the face is.
        crop: its crop squares.
        segments: clip frames [start, stop) of each sample.
        sync: how well mouth and sound fit.
    """

    number: int
    track: Track
    crop: CropTrack
    segments: list[tuple[int, int]]
    sync: SyncReading = UNMEASURED


@dataclasses.dataclass(frozen=True)
class TrackedClip:
    """What pass 1 found.

    Attributes:
        probe: the header's facts.
        n_frames: 25 fps frames that picture and sound have in common.
        pts: int64 [n_frames], presentation stamp of the source frame that stands at each clip frame.
        pcm: int16 [640 n_frames].
        mel: float32 [n, 80] of the whole clip.
        shots: faces to cut out.
        partial: stretches that give no sample.
        facts: trims and decode errors, as the manifest names them.
    """

    probe: Probe
    n_frames: int
    pts: np.ndarray
    pcm: np.ndarray
    mel: np.ndarray
    shots: list[Shot]
    partial: list[Rejection]
    facts: dict[str, Any]

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """(shot position, segment position) of all samples, in order."""
        return [(s, k) for s, shot in enumerate(self.shots) for k in range(len(shot.segments))]

    def parts(self, part_frames: int) -> list[list[tuple[int, int]]]:
        """The samples in parts of about ``part_frames`` frames, for encoding on several workers."""
        parts: list[list[tuple[int, int]]] = []
        size = part_frames
        for shot, segment in self.pieces:
            start, stop = self.shots[shot].segments[segment]
            if not parts or size + stop - start > part_frames:
                parts.append([])
                size = 0
            parts[-1].append((shot, segment))
            size += stop - start
        return parts


def save_tracks(clip: TrackedClip) -> bytes:
    """``clip`` as an ``.npz`` file without pickles, for pass 2 on other workers."""
    arrays: dict[str, np.ndarray] = {"pts": clip.pts, "pcm": clip.pcm, "mel": clip.mel}
    for shot in clip.shots:
        arrays[f"landmarks{shot.number}"] = shot.track.landmarks
        arrays[f"interpolated{shot.number}"] = shot.track.interpolated
        arrays[f"start{shot.number}"] = np.array(shot.track.start)
    facts = {
        "probe": dataclasses.asdict(clip.probe),
        "n_frames": clip.n_frames,
        "n_shots": len(clip.shots),
        "facts": clip.facts,
        "sync": [dataclasses.asdict(shot.sync) for shot in clip.shots],
    }
    arrays["json"] = np.frombuffer(json_bytes(facts), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def load_tracks(data: bytes) -> TrackedClip:
    """What :func:`save_tracks` wrote; ``partial`` is not part of it."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        facts = json.loads(arrays["json"].tobytes())
        shots = []
        for number in range(facts["n_shots"]):
            track = Track(int(arrays[f"start{number}"]), arrays[f"landmarks{number}"], arrays[f"interpolated{number}"])
            sync = facts["sync"][number]
            sync["per_frame"] = tuple(sync["per_frame"]) if sync["per_frame"] is not None else None
            shots.append(
                Shot(
                    number,
                    track,
                    crop_track(track.landmarks),
                    segments.cut(track.start, track.stop),
                    SyncReading(**sync),
                )
            )
        return TrackedClip(
            Probe(**facts["probe"]),
            facts["n_frames"],
            arrays["pts"],
            arrays["pcm"],
            arrays["mel"],
            shots,
            [],
            facts["facts"],
        )
