"""The two passes over one clip: track it, then cut and encode its samples. What a worker does; where, it does not know.

Pass 1 reads the clip once and finds its shots, faces, sound and mel. Pass 2 reads it again (from memory where it is
short) and writes tar blocks. Both are functions of (file, spec, configuration) alone.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import av
import numpy as np

from prep.config import BuildConfig
from prep.landmarks import Refiner
from prep.media import describe, explain_failure, open_media
from prep.records import FPS, SAMPLES_PER_FRAME, ClipSpec, CropHint, Reason, Rejection
from prep.shards import schema
from prep.shards.sample import Sample, TarAppender, json_bytes
from prep.stages import encode, quality, segments
from prep.stages.crop import CROP_VERSION, CropTrack, crop_track, smooth_landmarks
from prep.stages.decode import DecodeLog, GridFrame, decode_audio, frames_at, trim_to_shorter, video_frames
from prep.stages.frames import Frame
from prep.stages.geometry import transform
from prep.stages.masks import mask_planes
from prep.stages.mel import mel_spectrogram, segment_columns
from prep.stages.probe import Probe, probe
from prep.stages.shots import with_cuts
from prep.stages.sync import SyncReading
from prep.stages.tracking import (
    Landmarker,
    ShotTracker,
    Track,
    choose,
    split_long_gaps,
    uncovered,
)

_HINT_MARGIN = 0.15


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
    """

    number: int
    track: Track
    crop: CropTrack
    segments: list[tuple[int, int]]


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


def track_clip(
    url: str,
    spec: ClipSpec,
    config: BuildConfig,
    backends: Backends,
    timings: Timings,
    cache: FrameCache,
) -> TrackedClip | Rejection:
    """Pass 1: sound, shots and faces of one clip.

    Args:
        url: where the video lies.
        cache: filled with the clip's frames for pass 2.
    """
    try:
        with open_media(url) as container:
            probed = probe(container, time_range=spec.time_range, min_frames=config.min_frames)
        if isinstance(probed, Rejection):
            return probed
        timings.lap("probe")
        end = probed.start + probed.duration if spec.time_range is not None else None
        with open_media(url) as container:
            audio = decode_audio(container, probed, probed.start, end)
    except Exception as error:
        if _is_media_error(error):
            return explain_failure(url, error)
        raise
    timings.lap("audio")
    if len(audio.pcm) and quality.loudness_dbfs(audio.pcm) < quality.SILENT_BELOW:
        level = quality.loudness_dbfs(audio.pcm)
        return Rejection("audio", Reason.SILENT_AUDIO, f"the sound has a level of {level:.0f} dBFS")
    hint = _scaled_hint(spec, probed)
    log = DecodeLog()
    pts: list[int] = []
    tracked: list[_TrackedShot] = []
    try:
        with open_media(url) as container:
            frames = _timed(
                _recorded(video_frames(container, probed, log, whole=spec.time_range is None), pts, cache), timings
            )
            tracked = list(_track_shots(with_cuts(frames), hint, config, backends, timings))
    except Exception as error:
        if _is_media_error(error):
            return Rejection("decode", Reason.UNREADABLE, f"decoding broke off: {describe(error)}")
        raise
    trim = trim_to_shorter(len(pts), len(audio.pcm), max_mismatch=config.max_mismatch, min_frames=config.min_frames)
    if isinstance(trim, Rejection):
        return _prefer_truncation(trim, probed, len(pts), log)
    shots, partial = _finish_shots(tracked, trim.n_frames, hint, config)
    missing = probed.estimated_frames - len(pts)
    if missing > FPS:
        why = log.stopped or "the file ends before its header says"
        partial.append(Rejection("decode", Reason.TRUNCATED, why, len(pts), missing))
    pcm = audio.pcm[: trim.n_frames * SAMPLES_PER_FRAME]
    mel = mel_spectrogram(pcm)
    timings.lap("mel")
    if not shots:
        return _whole_clip(partial)
    facts = {
        "trimmed_video": round(trim.video, 3),
        "trimmed_audio": round(trim.audio, 3),
        "trimmed_audio_head": round(audio.head_trimmed, 3),
        "padded_audio": round(audio.head_padded, 3),
        "decode_errors": log.errors + audio.errors,
    }
    return TrackedClip(probed, trim.n_frames, np.array(pts[: trim.n_frames], np.int64), pcm, mel, shots, partial, facts)


def _is_media_error(error: Exception) -> bool:
    return isinstance(error, (av.error.FFmpegError, OSError, EOFError))


def _timed(frames: Iterable[GridFrame], timings: Timings) -> Iterator[GridFrame]:
    """Books the time that the decoder takes."""
    timings.lap("tracking")
    for frame in frames:
        timings.lap("decode")
        yield frame
        timings.lap("tracking")


def _recorded(frames: Iterable[GridFrame], pts: list[int], cache: FrameCache) -> Iterator[GridFrame]:
    for item in frames:
        pts.append(item.pts)
        cache.add(item.index, item.frame)
        yield item


@dataclasses.dataclass
class _TrackedShot:
    start: int
    stop: int
    tracks: list[Track]
    seen_any: bool


def _track_shots(
    frames: Iterable[tuple[GridFrame, bool]],
    hint: CropHint | None,
    config: BuildConfig,
    backends: Backends,
    timings: Timings,
) -> Iterator[_TrackedShot]:
    """Follow the faces of every shot; with an annotated box those in and around it, and the box decides."""
    policy = "all" if hint is not None else config.faces
    region = _around(hint) if hint is not None else None
    tracker: ShotTracker | None = None
    start = stop = 0
    last_pts: int | None = None
    for item, starts_shot in frames:
        if starts_shot:
            if tracker is not None:
                yield _TrackedShot(start, item.index, tracker.finish(), tracker.seen_any)
            tracker = ShotTracker(backends.landmarker, policy, backends.refiner, config.batch_size, region)
            start, last_pts = item.index, None
        assert tracker is not None  # the first frame starts a shot
        tracker.push(item, repeated=item.pts == last_pts)
        last_pts, stop = item.pts, item.index + 1
    if tracker is not None:
        yield _TrackedShot(start, stop, tracker.finish(), tracker.seen_any)
    timings.lap("tracking")


def _finish_shots(
    tracked: list[_TrackedShot], n_frames: int, hint: CropHint | None, config: BuildConfig
) -> tuple[list[Shot], list[Rejection]]:
    """Choose faces, cut them into segments, and say of every stretch without a sample why it has none."""
    shots: list[Shot] = []
    partial: list[Rejection] = []
    for shot in tracked:
        span = (shot.start, min(shot.stop, n_frames))
        if span[1] <= span[0]:
            continue
        tracks = [piece for track in shot.tracks for piece in split_long_gaps(_until(track, n_frames))]
        if hint is not None:
            inside = [track for track in tracks if _inside_hint(track, hint)]
            if tracks and not inside:
                detail = "no face inside the annotated box"
                partial.append(Rejection("tracking", Reason.NO_FACE, detail, span[0], span[1] - span[0]))
                continue
            tracks = inside
        chosen = choose(tracks, config.faces)
        partial += uncovered(span, chosen, seen_any=shot.seen_any)
        for track in chosen:
            refusal = segments.too_short(track.start, track.stop, min_frames=config.min_frames, shot=span)
            crop = crop_track(track.landmarks)
            face_px = 2 * float(np.median(crop.half))
            if refusal is None and face_px < config.min_face:
                detail = f"the face box is {face_px:.0f} px wide, under {config.min_face:g}"
                refusal = Rejection("tracking", Reason.FACE_TOO_SMALL, detail, track.start, track.stop - track.start)
            if refusal is not None:
                partial.append(refusal)
                continue
            shots.append(Shot(len(shots), track, crop, segments.cut(track.start, track.stop)))
    return shots, sorted(partial, key=lambda rejection: (rejection.frame_start or 0, rejection.reason.value))


def _until(track: Track, n_frames: int) -> Track:
    keep = max(0, min(track.stop, n_frames) - track.start)
    return Track(track.start, track.landmarks[:keep], track.interpolated[:keep])


def _scaled_hint(spec: ClipSpec, probed: Probe) -> CropHint | None:
    """The annotated box in pixels of this file: annotations speak of the height that their authors downloaded."""
    hint = spec.crop_hint
    if hint is None or hint.listed_height <= 0:
        return hint
    factor = probed.height / hint.listed_height
    return CropHint(hint.x * factor, hint.y * factor, hint.width * factor, hint.height * factor, probed.height)


def _around(hint: CropHint) -> tuple[float, float, float, float]:
    """The annotated box with a margin, for detectors want to see a little more than the face."""
    x, y = _HINT_MARGIN * hint.width, _HINT_MARGIN * hint.height
    return hint.x - x, hint.y - y, hint.x + hint.width + x, hint.y + hint.height + y


def _inside_hint(track: Track, hint: CropHint) -> bool:
    """Whether the face's centre lies inside the annotated box on most frames."""
    if not len(track.landmarks):
        return False
    centre = track.landmarks[:, 30, :]
    inside = (
        (centre[:, 0] >= hint.x)
        & (centre[:, 0] <= hint.x + hint.width)
        & (centre[:, 1] >= hint.y)
        & (centre[:, 1] <= hint.y + hint.height)
    )
    return bool(inside.mean() > 0.5)


def _prefer_truncation(refusal: Rejection, probed: Probe, n_frames: int, log: DecodeLog) -> Rejection:
    """A file that breaks off is truncated, not merely shorter than its sound."""
    if probed.estimated_frames - n_frames > FPS and log.errors:
        detail = f"{n_frames} of {probed.estimated_frames} frames can be decoded, then the file is damaged"
        return Rejection("decode", Reason.TRUNCATED, detail)
    return refusal


def _whole_clip(partial: list[Rejection]) -> Rejection:
    """The reason that speaks for most of a clip that gave nothing."""
    frames: collections.Counter[Reason] = collections.Counter()
    for rejection in partial:
        frames[rejection.reason] += rejection.n_frames or 0
    reason = max(frames, key=lambda reason: (frames[reason], reason.value))
    first = next(rejection for rejection in partial if rejection.reason is reason)
    return dataclasses.replace(first, frame_start=None, n_frames=None)


def encode_part(
    url: str,
    spec: ClipSpec,
    clip: TrackedClip,
    pieces: list[tuple[int, int]],
    content_sha256: str,
    config: BuildConfig,
    cache: Mapping[int, Frame] | None,
    stream: BinaryIO,
    timings: Timings,
) -> list[dict[str, Any]]:
    """Pass 2: write the samples of one part as tar blocks to ``stream``; returns their index rows."""
    appender = TarAppender(stream)
    rows = []
    with _FrameSource(url, clip, pieces, cache) as source:
        for shot_position, segment in pieces:
            shot = clip.shots[shot_position]
            start, stop = shot.segments[segment]
            frames = source.frames(start, stop)
            sample, row = _sample(spec, clip, shot, segment, frames, content_sha256, config, timings)
            rows.append({**row, **appender.add_sample(sample)})
            timings.lap("write")
    return rows


class _FrameSource:
    """Frames of ascending segments: from memory, or decoded once from the first one on."""

    def __init__(
        self, url: str, clip: TrackedClip, pieces: list[tuple[int, int]], cache: Mapping[int, Frame] | None
    ) -> None:
        self._url, self._clip, self._cache = url, clip, cache
        self._first = min(clip.shots[shot].segments[segment][0] for shot, segment in pieces)
        self._last = max(clip.shots[shot].segments[segment][1] for shot, segment in pieces)
        self._container: Any = None
        self._decoded: Iterator[tuple[int, Frame]] | None = None
        self._kept: dict[int, Frame] = {}

    def __enter__(self) -> _FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:
            self._container.__exit__(None, None, None)

    def frames(self, start: int, stop: int) -> Iterator[Frame]:
        """Frames [start, stop) of the clip."""
        for index in range(start, stop):
            yield self._cache[index] if self._cache is not None else self._decode_to(index)

    def _decode_to(self, index: int) -> Frame:
        if index in self._kept:
            return self._kept[index]
        if self._decoded is None or any(kept > index for kept in self._kept):
            self._start_decoding(index)
        assert self._decoded is not None
        for position, frame in self._decoded:
            self._kept = {position: frame}
            if position == index:
                return frame
        raise LookupError(f"frame {index} does not come again in the second pass")

    def _start_decoding(self, index: int) -> None:
        """Begin a pass at ``index``: faces of one shot (policy ``all``) are read one after the other."""
        if self._container is not None:
            self._container.__exit__(None, None, None)
        self._container = open_media(self._url)
        container = self._container.__enter__()
        pts = self._clip.pts[index : self._last]
        found = frames_at(container, self._clip.probe, pts, DecodeLog())
        self._decoded = ((index + position, frame) for position, frame in found)
        self._kept = {}


def _sample(
    spec: ClipSpec,
    clip: TrackedClip,
    shot: Shot,
    segment: int,
    frames: Iterator[Frame],
    content_sha256: str,
    config: BuildConfig,
    timings: Timings,
) -> tuple[Sample, dict[str, Any]]:
    """One segment as a sample, and its index row without the byte columns."""
    start, stop = shot.segments[segment]
    n = stop - start
    rows = slice(start - shot.track.start, stop - shot.track.start)
    affines = np.round(shot.crop.affine(config.size)[rows], 5)
    raw = transform(affines, shot.track.landmarks[rows])
    smooth = transform(affines, smooth_landmarks(shot.track.landmarks)[rows])
    raw, smooth = (np.round(points, 3).astype(np.float32) for points in (raw, smooth))
    interpolated = np.flatnonzero(shot.track.interpolated[rows]).tolist()
    pose = np.round(quality.head_pose(smooth), 1)
    pcm = clip.pcm[start * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME]
    mel_first, mel_last = segment_columns(start, n, len(clip.mel))
    timings.lap("geometry")

    pictures, sharp, bright = [], [], []
    for offset, frame in enumerate(frames):
        timings.lap("decode")
        at = rows.start + offset
        rgb = frame.crop_rgb(float(shot.crop.x[at]), float(shot.crop.y[at]), float(shot.crop.side[at]), config.size)
        timings.lap("crop")
        pictures.append(encode.jpeg(rgb))
        timings.lap("jpeg")
        if offset % 5 == 0:
            sharp.append(quality.sharpness(rgb))
            bright.append(quality.brightness(rgb))
            timings.lap("quality")
    masks = [encode.png(plane) for plane in mask_planes(smooth, config.size)]
    timings.lap("masks")
    sync = SyncReading()
    key = schema.sample_key(spec.source, spec.clip, shot.number, segment)
    numbers = {
        "face_px": round(2 * float(np.median(shot.crop.half[rows])), 2),
        "sharpness": round(float(np.mean(sharp)), 2),
        "brightness": round(float(np.mean(bright)), 2),
        "yaw": round(float(pose[:, 0].mean()), 2),
        "pitch": round(float(pose[:, 1].mean()), 2),
        "roll": round(float(pose[:, 2].mean()), 2),
        "yaw_max_abs": round(float(np.abs(pose[:, 0]).max()), 2),
        "n_interpolated": len(interpolated),
        "loudness_dbfs": round(quality.loudness_dbfs(pcm), 2),
        "snr_db": round(quality.snr_db(pcm), 2),
    }
    place = {
        "key": key,
        "source": spec.source,
        "clip": spec.clip,
        "shot": shot.number,
        "segment": segment,
        "identity": spec.identity,
        "video_id": spec.video_id,
        "split": spec.split,
        "subset": spec.subset,
        "path": spec.path,
        "content_sha256": content_sha256,
        "licence": spec.licence,
        "redistributable": spec.redistributable,
        "text": spec.text,
        "frame_start": start,
        "n_frames": n,
        "mel_start": mel_first,
        "n_mel": mel_last - mel_first,
        "sample_start": start * SAMPLES_PER_FRAME,
        "clip_frames": clip.n_frames,
        "duration": round(n / FPS, 2),
        "size": config.size,
    }
    meta = {
        **place,
        "schema_version": schema.SCHEMA_VERSION,
        "crop": CROP_VERSION,
        "fps": FPS,
        "landmarks": config.landmarks,
        "words": _words_inside(spec, start, stop),
        "time_range": list(spec.time_range) if spec.time_range is not None else None,
        "frame_size": [clip.probe.width, clip.probe.height],
        "source_fps": round(clip.probe.fps, 4),
        "affines": affines.tolist(),
        "pose": pose.tolist(),
        "quality": numbers,
        "sync": dataclasses.asdict(sync),
        "flags": {"interpolated": interpolated, "leading_frames_dropped": shot.segments[0][0] - shot.track.start},
    }
    row = {
        **place,
        **numbers,
        "av_offset": sync.offset,
        "av_confidence": sync.confidence,
        "sync_reason": sync.reason,
    }
    timings.lap("geometry")
    return Sample(key, meta, pictures, masks, smooth, raw, clip.mel[mel_first:mel_last], pcm), row


def _words_inside(spec: ClipSpec, start: int, stop: int) -> list[dict[str, Any]]:
    """Words that are heard in frames [start, stop), their times still counted from the clip's start."""
    return [
        {"text": word.text, "start": word.start, "end": word.end, "score": word.score}
        for word in spec.words
        if word.end > start / FPS and word.start < stop / FPS
    ]


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
            shots.append(Shot(number, track, crop_track(track.landmarks), segments.cut(track.start, track.stop)))
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
