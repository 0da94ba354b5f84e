"""Pass 1: read a clip once and find its shots, faces, sound and mel.

A function of (file, spec, configuration) alone; where it runs, it does not know.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator

import av
import numpy as np

from g4g_core.errors import StorageError
from prep.config import BuildConfig
from prep.media import describe, explain_failure, open_media
from prep.records import FPS, SAMPLES_PER_FRAME, ClipSpec, CropHint, Reason, Rejection
from prep.run.tracked import Backends, FrameCache, Shot, Timings, TrackedClip
from prep.stages import quality, segments
from prep.stages.crop import crop_track
from prep.stages.decode import DecodeLog, GridFrame, decode_audio, trim_to_shorter, video_frames
from prep.stages.mel import mel_spectrogram
from prep.stages.probe import Probe, probe
from prep.stages.shots import with_cuts
from prep.stages.sync import SURE, HeardClip, hear, measure, shifted
from prep.stages.tracking import ShotTracker, Track, choose, split_long_gaps, uncovered

_HINT_MARGIN = 0.15


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
    except StorageError as error:
        return Rejection("probe", Reason.SOURCE_MISSING, error.what)
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
    tracked: list[TrackedShot] = []
    try:
        with open_media(url) as container:
            frames = _timed(
                _recorded(video_frames(container, probed, log, whole=spec.time_range is None), pts, cache), timings
            )
            tracked = list(track_shots(with_cuts(frames), hint, config, backends, timings))
    except Exception as error:
        if _is_media_error(error):
            return Rejection("decode", Reason.UNREADABLE, f"decoding broke off: {describe(error)}")
        raise
    trim = trim_to_shorter(len(pts), len(audio.pcm), max_mismatch=config.max_mismatch, min_frames=config.min_frames)
    if isinstance(trim, Rejection):
        return _prefer_truncation(trim, probed, len(pts), log)
    pcm = audio.pcm[: trim.n_frames * SAMPLES_PER_FRAME]
    heard = hear(pcm) if any(shot.tracks for shot in tracked) else None
    shots, partial = finish_shots(tracked, trim.n_frames, hint, config, heard)
    partial += _cut_off(spec, probed, len(pts), log)
    shots, pcm, shift = _compared(shots, pcm, heard, config.fix_offset)
    timings.lap("sync")
    mel = mel_spectrogram(pcm)
    timings.lap("mel")
    if not shots:
        return _whole_clip(partial)
    facts = {
        "trimmed_video": round(trim.video, 3),
        "trimmed_audio": round(trim.audio, 3),
        "trimmed_audio_head": round(audio.head_trimmed, 3),
        "padded_audio": round(audio.head_padded, 3),
        "audio_shift": shift,
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
class TrackedShot:
    """A shot as the tracker leaves it.

    Attributes:
        start, stop: first frame and the one after the last.
        tracks: faces in it, not yet chosen from.
        seen_any: a face was seen in it, followed or not.
    """

    start: int
    stop: int
    tracks: list[Track]
    seen_any: bool


def track_shots(
    frames: Iterable[tuple[GridFrame, bool]],
    hint: CropHint | None,
    config: BuildConfig,
    backends: Backends,
    timings: Timings,
) -> Iterator[TrackedShot]:
    """Follow the faces of every shot; with an annotated box those in and around it, and the box decides."""
    policy = "all" if hint is not None else config.faces
    batch_size = backends.refiner.batch_size if backends.refiner is not None else 1
    region = _around(hint) if hint is not None else None
    tracker: ShotTracker | None = None
    start = stop = 0
    last_pts: int | None = None
    for item, starts_shot in frames:
        if starts_shot:
            if tracker is not None:
                yield TrackedShot(start, item.index, tracker.finish(), tracker.seen_any)
            tracker = ShotTracker(backends.landmarker, policy, backends.refiner, batch_size, region)
            start, last_pts = item.index, None
        assert tracker is not None  # the first frame starts a shot
        tracker.push(item, repeated=item.pts == last_pts)
        last_pts, stop = item.pts, item.index + 1
    if tracker is not None:
        yield TrackedShot(start, stop, tracker.finish(), tracker.seen_any)
    timings.lap("tracking")


def finish_shots(
    tracked: list[TrackedShot],
    n_frames: int,
    hint: CropHint | None,
    config: BuildConfig,
    heard: HeardClip | None = None,
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
        chosen = choose(tracks, config.faces, lambda track: _fit(track, heard, config.fix_offset))
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


def _fit(track: Track, heard: HeardClip | None, any_offset: bool) -> float:
    """How well a face fits the sound; faces that are seen too shortly to tell come last.

    Weighted by the square root of its length: a short one fits well by chance. ``any_offset``: sound that is far out of
    sync, and will be shifted, counts as much as sound in sync.
    """
    if heard is None:
        return -math.inf
    reading = measure(track.mouths, track.start, heard)
    fit = reading.confidence if any_offset else reading.score
    return -math.inf if fit is None else fit * math.sqrt(len(track.landmarks))


def _compared(
    shots: list[Shot], pcm: np.ndarray, heard: HeardClip | None, fix_offset: bool
) -> tuple[list[Shot], np.ndarray, int]:
    """Shots with their sync readings, the sound, and by how many frames it was delayed to be in sync."""
    if heard is None:
        return shots, pcm, 0
    shots = _in_sync(shots, heard)
    shift = _clip_offset(shots) if fix_offset else 0
    if shift:
        pcm = shifted(pcm, shift)
        shots = _in_sync(shots, hear(pcm))
    return [dataclasses.replace(shot, track=shot.track.without_mouths()) for shot in shots], pcm, shift


def _in_sync(shots: list[Shot], heard: HeardClip) -> list[Shot]:
    return [dataclasses.replace(shot, sync=measure(shot.track.mouths, shot.track.start, heard)) for shot in shots]


def _clip_offset(shots: list[Shot]) -> int:
    """The offset of most frames of a clip, from the shots that are sure of theirs; 0 where none is."""
    frames: collections.Counter[int] = collections.Counter()
    for shot in shots:
        found = shot.sync
        if found.offset is not None and found.confidence is not None and found.confidence >= SURE and not found.at_edge:
            frames[found.offset] += len(shot.track.landmarks)
    return max(frames, key=lambda offset: (frames[offset], -abs(offset)), default=0)


def _until(track: Track, n_frames: int) -> Track:
    keep = max(0, min(track.stop, n_frames) - track.start)
    return track.part(0, keep)


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


def _cut_off(spec: ClipSpec, probed: Probe, n_decoded: int, log: DecodeLog) -> list[Rejection]:
    """What is asked for after the video's end: a download that was cut short, or a file that breaks off."""
    found = []
    if spec.time_range is not None:
        beyond = spec.time_range[1] - spec.time_range[0] - probed.duration
        if round(beyond * FPS) >= 1:
            detail = f"the video ends {beyond:.2f} s before the annotated interval does"
            where = probed.estimated_frames, round(beyond * FPS)
            found.append(Rejection("probe", Reason.INTERVAL_OUTSIDE_VIDEO, detail, *where))
    missing = probed.estimated_frames - n_decoded
    if missing > FPS:
        why = log.stopped or "the file ends before its header says"
        found.append(Rejection("decode", Reason.TRUNCATED, why, n_decoded, missing))
    return found


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
