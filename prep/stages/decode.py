"""Video to 25 fps and audio to 16 kHz mono, both by presentation time, on one clock."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np

from prep.records import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, Reason, Rejection
from prep.stages.frames import Frame, from_av
from prep.stages.probe import Probe, stream_start

MAX_GAP = 5.0
"""Seconds without a frame (or without sound) after which timestamps are taken for broken."""

_SEEK_MARGIN = 1.0
_AUDIO_JUMP = 1 / FPS  # drift between sound and its stamps that is let pass: one frame
_TIE = 1e-6
_END_TOLERANCE = 0.005  # containers that count in milliseconds round the last frame's end


@dataclasses.dataclass
class DecodeLog:
    """What went wrong while decoding one stream. Filled as the frames are read."""

    errors: int = 0
    stopped: str = ""


@dataclasses.dataclass(frozen=True)
class TimedFrame:
    """A decoded frame and when it is shown.

    Attributes:
        time: seconds in the container's time.
        pts: presentation stamp in the stream's time base, or a running number where the stream has none.
        picture: the decoder's frame.
    """

    time: float
    pts: int
    picture: Any


@dataclasses.dataclass(frozen=True)
class GridFrame:
    """The source frame that stands at 25 fps clip frame ``index``."""

    index: int
    pts: int
    frame: Frame


def source_frames(container: Any, probed: Probe, log: DecodeLog, *, start: float | None = None) -> Iterator[TimedFrame]:
    """Frames of the video stream in presentation order, from about a second before ``start`` on.

    Packets that cannot be decoded are counted in ``log`` and skipped; frames that go back in time are dropped. A
    frame without a stamp follows the one before at the source's rate.
    """
    stream = container.streams[probed.video_index]
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    base = float(stream.time_base) if stream.time_base else 1 / probed.fps
    expected, last_time = stream_start(stream), -math.inf
    for picture in _decoded_from(container, stream, start, log):
        pts = picture.pts if picture.pts is not None else round(expected / base)
        time = pts * base
        expected = time + 1 / probed.fps
        if time <= last_time:
            continue
        if time > last_time + MAX_GAP and last_time > -math.inf:
            log.stopped = f"the video's timestamps jump by {time - last_time:.1f} s at {last_time:.2f} s"
            return
        last_time = time
        yield TimedFrame(time, pts, picture)


def _decoded_from(container: Any, stream: Any, start: float | None, log: DecodeLog) -> Iterator[Any]:
    """Frames of one stream from ``start`` or earlier on; the whole stream where that is ``None`` or near its beginning.

    Some containers cannot be entered where one likes (MPEG-PS has no index, a file may have a single keyframe): where
    the first frame comes too late, carries no stamp, or could need frames before it, the file is read from its
    beginning instead.
    """
    if start is None or start - stream_start(stream) <= _SEEK_MARGIN:
        return _decoded(container, stream, log)
    _seek(container, stream, start - _SEEK_MARGIN, log)
    frames = _decoded(container, stream, log)
    first = next(frames, None)
    log.errors, log.stopped = 0, ""  # what breaks between the entry and a keyframe is no fault of the file
    if first is None or first.pts is None or first.time > start or not getattr(first, "key_frame", True):
        _rewind(container, log)
        return _decoded(container, stream, log)
    return itertools.chain([first], frames)


def _seek(container: Any, stream: Any, seconds: float, log: DecodeLog) -> None:
    try:
        container.seek(math.floor(seconds / stream.time_base), stream=stream, backward=True)
    except (av.error.FFmpegError, OSError):
        log.errors += 1  # a container that cannot be entered in the middle is read from where it stands


def _rewind(container: Any, log: DecodeLog) -> None:
    try:
        container.seek(min(0, container.start_time or 0))  # MPEG-TS loses its head when asked for its exact start
    except (av.error.FFmpegError, OSError):
        log.errors += 1


def _decoded(container: Any, stream: Any, log: DecodeLog) -> Iterator[Any]:
    """Frames of one stream, whatever single packets do."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except IndexError:
            return  # PyAV, at the end of a file in which damage made a new stream appear; ours is flushed by then
        except (av.error.FFmpegError, OSError) as error:
            log.errors += 1
            log.stopped = f"reading broke off: {type(error).__name__}"
            return
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            log.errors += 1


def on_grid(
    frames: Iterable[TimedFrame], probed: Probe, *, start: float | None = None, end: float | None = None
) -> Iterator[tuple[int, TimedFrame]]:
    """(index, frame) for every 25 fps clip frame: the source frame shown nearest to ``origin + index / 25``.

    The origin is ``start``, or the first frame's time. No frame is taken more than 40 ms before its time: in a
    variable rate a long stand-still is a frame that is held, not one that comes early. The last frame is shown for
    one frame of the source. The clip ends with the last whole 40 ms that frames cover, or at ``end``.
    """
    previous: TimedFrame | None = None
    origin, index = 0.0, 0
    limit = math.inf
    for current in frames:
        if previous is None:
            origin = current.time if start is None else start
            limit = math.inf if end is None else math.floor((end - origin) * FPS + _END_TOLERANCE * FPS)
        else:
            middle = max((previous.time + current.time) / 2, current.time - 1 / FPS) + _TIE
            while origin + index / FPS <= middle and index < limit:
                yield index, previous
                index += 1
        if index >= limit:
            return
        previous = current
    if previous is not None:
        shown_until = previous.time + 1 / probed.fps
        while origin + (index + 1) / FPS <= shown_until + _END_TOLERANCE and index < limit:
            yield index, previous
            index += 1


def video_frames(container: Any, probed: Probe, log: DecodeLog, *, whole: bool = True) -> Iterator[GridFrame]:
    """The clip's upright frames on the 25 fps grid (first decode pass).

    Args:
        whole: the clip is the whole file, not a time range of it.
    """
    end = probed.start + probed.duration if not whole else None
    start = None if whole else probed.start
    last: tuple[int, Frame] | None = None
    for index, timed in on_grid(source_frames(container, probed, log, start=start), probed, start=start, end=end):
        if last is None or last[0] != timed.pts:
            last = (timed.pts, from_av(timed.picture, probed.rotation, probed.pixel_aspect))
        yield GridFrame(index, timed.pts, last[1])


def frames_at(container: Any, probed: Probe, pts: np.ndarray, log: DecodeLog) -> Iterator[tuple[int, Frame]]:
    """(position in ``pts``, frame) for known presentation stamps (second decode pass).

    Args:
        pts: int64 [n], ascending, repeats allowed, as :class:`GridFrame` gave them.

    Raises:
        LookupError: a stamp does not come again: the file changed, or cannot be entered near it.
    """
    stream = container.streams[probed.video_index]
    start = float(int(pts[0]) * stream.time_base) if stream.time_base else None
    position = 0
    for timed in source_frames(container, probed, log, start=start):
        if timed.pts > pts[position]:
            break
        if timed.pts < pts[position]:
            continue
        frame = from_av(timed.picture, probed.rotation, probed.pixel_aspect)
        while position < len(pts) and pts[position] == timed.pts:
            yield position, frame
            position += 1
        if position == len(pts):
            return
    raise LookupError(f"no frame with time stamp {int(pts[position])} in the second pass")


@dataclasses.dataclass(frozen=True)
class Audio:
    """Sound of a clip on the video's clock.

    Attributes:
        pcm: int16 [n], 16 kHz mono; sample 640 f is the start of clip frame f.
        head_trimmed: seconds of sound before the first frame, cut off.
        head_padded: seconds of silence put before sound that starts late.
        errors: packets that could not be decoded.
    """

    pcm: np.ndarray
    head_trimmed: float
    head_padded: float
    errors: int


def decode_audio(container: Any, probed: Probe, origin: float, end: float | None = None) -> Audio:
    """Decode the audio stream to 16 kHz mono int16, its first sample at ``origin`` seconds of container time.

    Sound that starts late is preceded by silence, gaps in it are filled with silence, so that sample 640 f always
    belongs to clip frame f.
    """
    stream = container.streams[probed.audio_index]
    log = DecodeLog()
    pieces: list[np.ndarray] = []
    n_samples = 0  # after the origin, so far
    head_trimmed = head_padded = 0.0
    first = True
    for start, run in _audio_runs(_decoded_from(container, stream, origin, log), log):
        position = round((start - origin) * SAMPLE_RATE)
        if end is not None and start >= end:
            break
        if first and len(run):
            head_trimmed = max(0.0, -position / SAMPLE_RATE)
            head_padded = max(0.0, position / SAMPLE_RATE)
        elif position - n_samples > MAX_GAP * SAMPLE_RATE:
            break
        first = first and not len(run)
        if position > n_samples:
            pieces.append(np.zeros(position - n_samples, np.int16))
            n_samples = position
        kept = run[n_samples - position :]
        pieces.append(kept)
        n_samples += len(kept)
        if end is not None and n_samples >= (end - origin) * SAMPLE_RATE:
            break
    pcm = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
    if end is not None:
        pcm = pcm[: round((end - origin) * SAMPLE_RATE)]
    return Audio(pcm, head_trimmed, head_padded, log.errors)


def _audio_runs(frames: Iterable[Any], log: DecodeLog) -> Iterator[tuple[float, np.ndarray]]:
    """(start in seconds, int16 samples at 16 kHz) pieces; a new resampler begins where time stamps jump."""
    resampler: Any = None
    start = expected = 0.0
    done = 0  # 16 kHz samples given since the resampler began
    for frame in frames:
        if not frame.sample_rate or not frame.samples:
            continue
        time = frame.time if frame.time is not None else expected
        if resampler is None or abs(time - expected) > _AUDIO_JUMP:
            if resampler is not None:
                tail = _resample(resampler, None, log)
                yield start + done / SAMPLE_RATE, tail
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            start, done, expected = time, 0, time
        expected += frame.samples / frame.sample_rate
        frame.pts = None  # positions are counted here; the resampler must not second-guess them
        piece = _resample(resampler, frame, log)
        yield start + done / SAMPLE_RATE, piece
        done += len(piece)
    if resampler is not None:
        yield start + done / SAMPLE_RATE, _resample(resampler, None, log)


def _resample(resampler: Any, frame: Any, log: DecodeLog) -> np.ndarray:
    try:
        pieces = [out.to_ndarray().reshape(-1) for out in resampler.resample(frame)]
    except (av.error.FFmpegError, ValueError):
        log.errors += 1  # a stream that changes its layout half-way (broken packets do)
        return np.zeros(0, np.int16)
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


@dataclasses.dataclass(frozen=True)
class Trim:
    """Frames that picture and sound have in common, and seconds cut from the end of each."""

    n_frames: int
    video: float
    audio: float


def trim_to_shorter(video_frames: int, audio_samples: int, *, max_mismatch: float, min_frames: int) -> Trim | Rejection:
    """Cut both streams to the shorter one.

    Args:
        video_frames: 25 fps frames.
        audio_samples: 16 kHz samples from the first frame on.
        max_mismatch: seconds by which their lengths may differ.
        min_frames: frames that must remain.
    """
    audio_frames = audio_samples // SAMPLES_PER_FRAME
    difference = video_frames / FPS - audio_samples / SAMPLE_RATE
    if audio_samples == 0:
        return Rejection("decode", Reason.NO_AUDIO, "the audio stream holds no sound that can be decoded")
    if abs(difference) > max_mismatch:
        longer, shorter = ("video", "audio") if difference > 0 else ("audio", "video")
        return Rejection(
            "decode",
            Reason.AV_DURATION_MISMATCH,
            f"the {longer} is {abs(difference):.2f} s longer than the {shorter} (limit {max_mismatch:g} s)",
        )
    n_frames = min(video_frames, audio_frames)
    if n_frames < min_frames:
        return Rejection("decode", Reason.TOO_SHORT, f"{n_frames} frames of picture and sound, under {min_frames}")
    return Trim(n_frames, (video_frames - n_frames) / FPS, max(0.0, audio_samples / SAMPLE_RATE - n_frames / FPS))
