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
        stopped: why sound that goes on was read no further; empty where it was read to its end.
    """

    pcm: np.ndarray
    head_trimmed: float
    head_padded: float
    errors: int
    stopped: str = ""


def decode_audio(container: Any, probed: Probe, origin: float, end: float | None = None) -> Audio:
    """Decode the audio stream to 16 kHz mono int16, its first sample at ``origin`` seconds of container time.

    Sound that starts late is preceded by silence, gaps in it are filled with silence, so that sample 640 f always
    belongs to clip frame f.
    """
    stream = container.streams[probed.audio_index]
    log = DecodeLog()
    runs = sound_runs(container, stream, origin, log, rate=SAMPLE_RATE, layout="mono", sample_format="s16")
    limit = math.inf if end is None else (end - origin) * SAMPLE_RATE
    first = next(runs, None)
    head = 0.0 if first is None else first[0] / SAMPLE_RATE
    pieces: list[np.ndarray] = []
    n_samples = 0
    whole = runs if first is None else itertools.chain([first], runs)
    for piece in on_clock(itertools.takewhile(lambda run: run[0] < limit, whole)):
        pieces.append(piece[0])
        n_samples += len(piece[0])
        if n_samples >= limit:
            break
    pcm = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
    if end is not None:
        pcm = pcm[: round(limit)]
    return Audio(pcm, max(0.0, -head), max(0.0, head), log.errors, log.stopped)


def on_clock(runs: Iterable[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    """[channels, n] blocks that follow each other from sample 0 on: silence in gaps, what overlaps is left out.

    Args:
        runs: see :func:`sound_runs`.
    """
    given = 0
    for position, run in runs:
        if position > given:
            yield np.zeros((len(run), position - given), run.dtype)
            given = position
        kept = run[:, given - position :]
        given += kept.shape[1]
        yield kept


def sound_runs(
    container: Any, stream: Any, origin: float, log: DecodeLog, *, rate: int, layout: str, sample_format: str
) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample counted from ``origin``, samples [channels, n]) of a stream of sound, piece by piece.

    A new resampler begins where time stamps jump, and where the stream changes its rate, layout or format. After a gap
    of more than :data:`MAX_GAP` the sound has ended, whoever listens; ``log`` says so.

    Args:
        rate, layout, sample_format: of the samples that are given; a format is planar, or its layout mono.
    """
    resampler: Any = None
    kind: tuple[Any, ...] = ()
    expected, reached = 0.0, origin
    begun = done = 0  # sample at which the resampler began, and samples it has given
    for frame in _decoded_from(container, stream, origin, log):
        if not frame.sample_rate or not frame.samples:
            continue
        time = float(frame.time) if frame.time is not None else expected
        jumps = resampler is None or abs(time - expected) > _AUDIO_JUMP
        if resampler is not None and time - reached > MAX_GAP:
            log.stopped = f"the sound's timestamps jump by {time - reached:.1f} s at {reached:.2f} s"
            break
        if jumps or kind != _kind(frame):
            if resampler is not None:
                yield from _placed(begun + done, _resample(resampler, None, log))
            resampler, kind = av.AudioResampler(format=sample_format, layout=layout, rate=rate), _kind(frame)
            expected = time if jumps else expected
            begun, done = round((expected - origin) * rate), 0
        expected += frame.samples / frame.sample_rate
        reached = max(reached, expected)
        frame.pts = None  # positions are counted here; the resampler must not second-guess them
        piece = _resample(resampler, frame, log)
        yield from _placed(begun + done, piece)
        done += piece.shape[1]
    if resampler is not None:
        yield from _placed(begun + done, _resample(resampler, None, log))


def _kind(frame: Any) -> tuple[Any, ...]:
    """What a resampler is made for."""
    return frame.layout.name, frame.sample_rate, frame.format.name


def _placed(position: int, samples: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    if samples.shape[1]:
        yield position, samples


def _resample(resampler: Any, frame: Any, log: DecodeLog) -> np.ndarray:
    """[channels, n]; a resampler keeps what it cannot give yet."""
    try:
        pieces = [out.to_ndarray() for out in resampler.resample(frame)]
    except (av.error.FFmpegError, ValueError):
        log.errors += 1  # a layout that is none (broken packets have it)
        return np.zeros((1, 0), np.int16)
    return np.concatenate(pieces, axis=1) if pieces else np.zeros((1, 0), np.int16)


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
