"""What a media file says it holds, before anything is decoded in earnest."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import av

from prep.media import MAX_SIDE, describe
from prep.records import FPS, Reason, Rejection

_DEFAULT_RATE = 25.0


@dataclasses.dataclass(frozen=True)
class Probe:
    """The streams that prep uses of a container.

    Attributes:
        width, height: of the upright frame with square pixels, px.
        rotation: clockwise degrees by which decoded frames are turned to stand upright.
        pixel_aspect: width of a decoded pixel over its height.
        fps: average frame rate of the source.
        start: container time of clip frame 0 in seconds: of the first frame, or of the time range.
        duration: of the clip in seconds, as the header (or the annotation's time range) has it.
        video_index, audio_index: positions in ``container.streams``; audio -1 where there is none and none is needed.
    """

    width: int
    height: int
    rotation: int
    pixel_aspect: float
    fps: float
    start: float
    duration: float
    video_index: int
    audio_index: int

    @property
    def estimated_frames(self) -> int:
        """Frames at 25 fps that the clip will have, from the header."""
        return max(0, math.floor(self.duration * FPS + 0.5))


def probe(
    container: Any, *, time_range: tuple[float, float] | None = None, min_frames: int = 1, silent: bool = False
) -> Probe | Rejection:
    """Read the headers of an open container.

    Args:
        container: an open ``av.container.InputContainer``; its position is undefined afterwards.
        time_range: (start, end) of the clip in seconds, or ``None`` for the whole file.
        min_frames: 25 fps frames under which the clip is refused as too short.
        silent: a video without sound is welcome too.
    """
    video = _video_stream(container)
    if video is None:
        return Rejection("probe", Reason.NO_VIDEO, "no video stream")
    audio = next((stream for stream in container.streams.audio if stream.codec_context is not None), None)
    if audio is None and not silent:
        return Rejection("probe", Reason.NO_AUDIO, "no audio stream: was it downloaded without sound?")
    first = _first_frame(container, video)
    if isinstance(first, Rejection):
        return first
    if not (0 < first.width <= MAX_SIDE and 0 < first.height <= MAX_SIDE):
        return Rejection("probe", Reason.UNREADABLE, f"frame size {first.width}x{first.height} is not credible")
    rotation = -round(first.rotation / 90) * 90 % 360
    aspect = float(video.sample_aspect_ratio or 1)
    aspect = aspect if 0.2 < aspect < 5 else 1.0
    width, height = max(1, round(first.width * aspect)), first.height
    if rotation in (90, 270):
        width, height = height, width
    fps = float(video.average_rate or video.guessed_rate or _DEFAULT_RATE)
    fps = fps if 1 <= fps <= 240 else _DEFAULT_RATE
    duration = _duration(container, video, fps)
    if time_range is not None:
        start, end = time_range
        if start >= duration or end <= start:
            return Rejection(
                "probe",
                Reason.INTERVAL_OUTSIDE_VIDEO,
                f"the annotation wants {start:.2f}-{end:.2f} s of a video of {duration:.2f} s",
            )
        duration = min(end, duration) - start
    origin = float(first.time) if first.time is not None else stream_start(video)
    if time_range is not None:
        origin = stream_start(video) + time_range[0]
    sound = -1 if audio is None else audio.index
    result = Probe(width, height, rotation, aspect, fps, origin, duration, video.index, sound)
    if result.estimated_frames < min_frames:
        return Rejection("probe", Reason.TOO_SHORT, f"{duration:.2f} s are under {min_frames} frames of 40 ms")
    return result


def _video_stream(container: Any) -> Any:
    """The first real video stream: cover pictures do not count."""
    for stream in container.streams.video:
        if stream.codec_context is None or av.stream.Disposition.attached_pic in stream.disposition:
            continue
        return stream
    return None


def _first_frame(container: Any, video: Any) -> Any:
    """The first frame that decodes, or why there is none."""
    video.thread_type = "NONE"
    video.codec_context.thread_count = 1
    failure = "no packet of the video stream holds a picture"
    try:
        for number, packet in enumerate(container.demux(video)):
            try:
                for frame in packet.decode():
                    return frame
            except av.error.FFmpegError as error:
                failure = describe(error)
            if number > 500:
                break
    except (av.error.FFmpegError, OSError, IndexError) as error:  # IndexError: see prep.stages.decode
        failure = describe(error)
    return Rejection("probe", Reason.UNREADABLE, f"no frame can be decoded: {failure}")


def stream_start(stream: Any) -> float:
    """Container time at which a stream begins, in seconds."""
    return float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0


def _duration(container: Any, video: Any, fps: float) -> float:
    """Seconds of video, by the best of the header's claims."""
    if video.duration is not None and video.time_base:
        return float(video.duration * video.time_base)
    if container.duration is not None:
        return float(container.duration / av.time_base)
    return float(video.frames / fps)
