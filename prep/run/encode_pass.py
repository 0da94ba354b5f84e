"""Pass 2: read a clip again (from memory where it is short), cut the crops and write tar blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from prep.config import BuildConfig
from prep.media import open_media
from prep.records import FPS, SAMPLES_PER_FRAME, ClipSpec
from prep.run.tracked import Shot, Timings, TrackedClip
from prep.shards import schema
from prep.shards.sample import Sample, TarAppender
from prep.stages import encode, quality
from prep.stages.crop import CROP_VERSION, smooth_landmarks
from prep.stages.decode import DecodeLog, frames_at
from prep.stages.frames import Frame
from prep.stages.geometry import transform
from prep.stages.masks import mask_planes
from prep.stages.mel import segment_columns


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
    sync = shot.sync.part(rows.start, rows.stop)
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
        "role": spec.role,
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
        "words": _words_inside(spec, start, stop, clip.facts["audio_shift"] / FPS),
        "time_range": list(spec.time_range) if spec.time_range is not None else None,
        "frame_size": [clip.probe.width, clip.probe.height],
        "source_fps": round(clip.probe.fps, 4),
        "affines": affines.tolist(),
        "pose": pose.tolist(),
        "quality": numbers,
        "sync": dataclasses.asdict(sync),
        "audio_shift": clip.facts["audio_shift"],
        "flags": {"interpolated": interpolated, "leading_frames_dropped": shot.segments[0][0] - shot.track.start},
    }
    row = {
        **place,
        **numbers,
        "av_offset": sync.offset,
        "av_confidence": sync.confidence,
        "sync_score": sync.score,
        "sync_reason": sync.reason,
    }
    timings.lap("geometry")
    return Sample(key, meta, pictures, masks, smooth, raw, clip.mel[mel_first:mel_last], pcm), row


def _words_inside(spec: ClipSpec, start: int, stop: int, delay: float) -> list[dict[str, Any]]:
    """Words that are heard in frames [start, stop), their times still counted from the clip's start.

    ``delay``: seconds by which the sound, and the words with it, were delayed.
    """
    heard = [(word, round(word.start + delay, 3), round(word.end + delay, 3)) for word in spec.words]
    return [
        {"text": word.text, "start": begin, "end": end, "score": word.score}
        for word, begin, end in heard
        if end > start / FPS and begin < stop / FPS
    ]
