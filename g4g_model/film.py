"""Writing a dubbed video: the source's pixels and time stamps, H.264 and AAC, picture and sound side by side."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from g4g_core.errors import SourceError, UsageError
from g4g_model.speech import SoundTrack
from prep.media import describe
from prep.stages.decode import TimedFrame
from prep.stages.frames import Frame, from_av
from prep.stages.probe import Probe

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Suffixes of finished videos and FFmpeg's names of them."""

_AS_IT_IS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}
_THREADS = 4
"""Of the encoder; on any machine, for x264's bytes depend on their number."""
_OPTIONS = {"preset": "fast", "x264-params": "mbtree=0"}
"""Without macroblock trees: x264's code for them reads memory that nobody wrote, so that the same frames are encoded
differently from run to run (seen at 160x160)."""

_AAC_BLOCK = 1024
_LIMITED = 1
"""AVCOL_RANGE_MPEG: luma of 16 to 235."""


class Film:
    """One video that is being written: frames in order of time, the sound keeps up with them.

    Args:
        file: where to, seekable.
        suffix: one of :data:`FORMATS`.
        source: the video that the frames are of.
        sound: what is heard.
        crf: x264's constant quality, 0 (best) to 51.
        lossless: every sample of the frames is kept (``crf`` does not count).
    """

    def __init__(
        self, file: BinaryIO, suffix: str, source: Source, sound: SoundTrack, *, crf: float, lossless: bool
    ) -> None:
        self._source, self._sound = source, sound
        self._container = av.open(file, "w", format=FORMATS[suffix])
        options = {**_OPTIONS, "qp": "0"} if lossless else {**_OPTIONS, "crf": f"{crf:g}"}
        video = self._container.add_stream("libx264", rate=source.rate, options=options)
        video.width, video.height, video.pix_fmt = source.width, source.height, source.pixels
        video.thread_count = _THREADS
        video.codec_context.time_base = source.time_base
        if source.aspect != 1:
            video.codec_context.sample_aspect_ratio = source.aspect
        for name, value in source.colour.items():
            setattr(video.codec_context, name, value)
        self._video = video
        audio = self._container.add_stream("aac", rate=sound.rate, layout=sound.layout)
        audio.bit_rate = min(96_000, 4 * sound.rate) * sound.channels
        self._audio = audio
        self._heard = 0  # samples of sound so far
        self._lengths: dict[int, int] = {}  # ticks that frames are shown, of those that the encoder still holds

    def add(self, timed: TimedFrame, redrawn: Frame | None, pts: int) -> None:
        """The next frame.

        Args:
            timed: as decoded.
            redrawn: what is shown instead, or ``None`` to pass it through.
            pts: when, in ticks of the source's time base from the film's beginning; larger than the last.
        """
        picture = self._source.untouched(timed) if redrawn is None else self._source.picture(redrawn)
        picture.pts, picture.time_base = pts, self._source.time_base
        picture.pict_type = av.video.frame.PictureType.NONE  # the encoder's own choice, not the decoder's
        self._lengths[pts] = int(timed.picture.duration or 0)
        self._write(picture)
        self._sound_until(float(pts * self._source.time_base))

    def finish(self, seconds: float) -> None:
        """Write what is still waiting, and sound up to the film's end."""
        self._write(None)
        self._sound_until(seconds, last=True)
        self._container.mux(self._audio.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Let go of the encoder after a failure; what was written is not a video."""
        with contextlib.suppress(av.error.FFmpegError, OSError):  # the first error is the one to show
            self._container.close()

    def _write(self, picture: Any) -> None:
        for packet in self._video.encode(picture):
            # the encoder forgets how long a frame is shown, and a muxer would guess it of the last
            length = self._lengths.pop(packet.pts or 0, 0)
            if length > 0 and packet.time_base == self._source.time_base:
                packet.duration = length
            self._container.mux(packet)

    def _sound_until(self, seconds: float, last: bool = False) -> None:
        due = round(seconds * self._sound.rate)
        while self._heard + _AAC_BLOCK <= due or (last and self._heard < due):
            count = min(_AAC_BLOCK, due - self._heard)
            samples = np.ascontiguousarray(self._sound.read(count))
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._sound.layout)
            frame.sample_rate, frame.pts = self._sound.rate, self._heard
            frame.time_base = Fraction(1, self._sound.rate)
            self._container.mux(self._audio.encode(frame))
            self._heard += count


class Source:
    """How the frames of a video are kept: size, pixels, clock and colours, from its first frame.

    Frames are written upright, as a player shows them, with their own pixels: 8-bit planar YUV as it is, other formats
    as 4:2:0. H.264 has no 4:2:0 of odd size, and a quarter turn no 4:2:2: such frames become 4:4:4. Pixels that are
    not square stay so, and the file says it. RGB and grey become YUV of limited range, by BT.709 from 720 lines on and
    by BT.601 below, and the file says that too.

    Args:
        first: the first frame.
        time_base: of the stream.
    """

    def __init__(self, probed: Probe, first: Any, time_base: Fraction | None) -> None:
        self.rotation = probed.rotation
        self.turned = probed.rotation in (90, 270)
        self.coded = (first.width, first.height)
        self.width, self.height = (first.height, first.width) if self.turned else self.coded
        self.time_base = time_base or 1 / Fraction(probed.fps).limit_denominator(1001)
        self.rate = Fraction(probed.fps).limit_denominator(1001)
        self.aspect = Fraction(probed.pixel_aspect).limit_denominator(1000)
        self.aspect = 1 / self.aspect if self.turned else self.aspect
        self.pixels = _pixels(first.format.name, self.width, self.height, self.turned)
        self.colour = _colours(first)
        # prep's frame pixels are square, those of the file may not be: from a pixel of the file to prep's
        fx, fy = probed.width / self.width, probed.height / self.height
        self.to_square = np.array([[fx, 0, 0.5 * fx - 0.5], [0, fy, 0.5 * fy - 0.5], [0, 0, 1]])

    def frame(self, timed: TimedFrame) -> Frame:
        """The upright frame in the file's own pixels, to be redrawn.

        Raises:
            SourceError: the size changes within the video.
        """
        return from_av(self._formatted(timed), self.rotation, 1.0)

    def picture(self, frame: Frame) -> Any:
        """A frame for the encoder."""
        picture = av.VideoFrame(frame.width, frame.height, self.pixels)
        for target, plane in zip(picture.planes, (frame.y, frame.u, frame.v), strict=True):
            rows = np.zeros((target.height, target.line_size), np.uint8)
            rows[:, : target.width] = plane
            target.update(rows.tobytes())
        return picture

    def untouched(self, timed: TimedFrame) -> Any:
        """A frame for the encoder, as it was filmed."""
        if self.rotation:
            return self.picture(self.frame(timed))
        return self._formatted(timed)

    def _formatted(self, timed: TimedFrame) -> Any:
        picture = timed.picture
        if (picture.width, picture.height) != self.coded:
            raise SourceError(
                f"the video's frames change from {self.coded[0]}x{self.coded[1]} to {picture.width}x{picture.height}"
                f" at {timed.time:.2f} s",
                "Cut it there, and dub the parts.",
            )
        if picture.format.name == self.pixels:
            return picture
        if _is_yuv(picture):
            return picture.reformat(format=self.pixels)
        space, number = _matrix(picture)
        made = picture.reformat(format=self.pixels, dst_color_range="MPEG", dst_colorspace=space)
        made.color_range, made.colorspace = _LIMITED, number
        return made


def _is_yuv(picture: Any) -> bool:
    """Whether a picture has luma and chroma: not RGB, no palette, not grey."""
    return not picture.format.is_rgb and len(picture.format.components) > 2


def _matrix(picture: Any) -> tuple[str, int]:
    """By what a picture becomes YUV where nothing else is said: PyAV's name, and AVColorSpace."""
    return ("ITU709", 1) if picture.height >= 720 else ("ITU601", 6)


def _colours(first: Any) -> dict[str, int]:
    """What the finished file says of its colours: what its source says, and of RGB and grey how they became YUV."""
    unsaid = {"color_range": 0, "colorspace": 2, "color_primaries": 2, "color_trc": 2}  # AVCOL_*_UNSPECIFIED
    said = {name: int(getattr(first, name)) for name in unsaid if hasattr(first, name)}
    if not _is_yuv(first):
        said |= {"color_range": _LIMITED, "colorspace": _matrix(first)[1]}
    return {name: value for name, value in said.items() if value != unsaid[name]}


def _pixels(name: str, width: int, height: int, turned: bool) -> str:
    kept = name if name in _AS_IT_IS else "yuv420p"
    full = "yuvj444p" if kept.startswith("yuvj") else "yuv444p"
    if "420" in kept and (width % 2 or height % 2):
        return full
    if "422" in kept and (width % 2 or turned):
        return full
    return kept


def check_suffix(out: Path) -> str:
    """The suffix of a video that can be written. Raises UsageError."""
    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{out}: a video is written as {', '.join(FORMATS)}", "Give --out one of these suffixes.")
    return suffix


def failure(error: Exception, out: Path) -> SourceError:
    """What went wrong in FFmpeg while ``out`` was being written."""
    return SourceError(f"{out}: the video cannot be written: {describe(error)}")
