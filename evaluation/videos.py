"""Pictures as video files: outputs kept without loss, and finished videos of others read on the 25 fps clock."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np

from g4g_core.errors import SourceError
from g4g_core.resize import resize
from prep.media import CONTAINERS, describe, explain_failure, open_media
from prep.records import FPS, SAMPLE_RATE, Rejection
from prep.stages.decode import DecodeLog, video_frames
from prep.stages.frames import Frame
from prep.stages.probe import probe

Picture = TypeVar("Picture")
SUFFIX = ".avi"
_CODEC, _PIXELS = "utvideo", "gbrp"
"""Written and read back in a quarter of FFV1's time, in files a quarter larger. Matroska has no name for it."""


def write_lossless(path: Path, pictures: Iterable[np.ndarray]) -> int:
    """Write pictures as Ut Video in AVI, 25 fps, RGB: bit for bit what :func:`read_lossless` gives back.

    The file appears when it is whole. Equal pictures give equal bytes.

    Args:
        pictures: blocks of uint8 [n, H, W, 3] RGB, all of one size.

    Returns:
        The number of frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")
    count = 0
    try:
        with av.open(str(temporary), "w", format="avi", container_options={"fflags": "+bitexact"}) as container:
            stream: Any = None
            for block in pictures:
                for picture in block:
                    if stream is None:
                        stream = container.add_stream(_CODEC, rate=FPS, options={"threads": "1", "pred": "median"})
                        stream.height, stream.width = picture.shape[:2]
                        stream.pix_fmt = _PIXELS
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                    frame.pts = count
                    count += 1
                    container.mux(stream.encode(frame))
            if stream is not None:
                container.mux(stream.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


class UnreadableOutput(Exception):
    """A file of :func:`write_lossless` that is gone, or that something has damaged since: it is made again."""


def read_lossless(path: Path) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] RGB frames of a file of :func:`write_lossless`.

    A flipped bit can pass unseen, since the format has no check sums.

    Raises:
        UnreadableOutput: the file is gone, or is no video that can be decoded.
    """
    try:
        with open_media(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise UnreadableOutput(f"{path}: {describe(error)}") from error


def blocks(frames: Iterator[np.ndarray], sizes: Iterable[int]) -> Iterator[np.ndarray]:
    """Frames in blocks of these sizes: uint8 [n, H, W, 3]. Raises EOFError when they run out."""
    for size in sizes:
        block = [frame for _, frame in zip(range(size), frames, strict=False)]
        if len(block) < size:
            raise EOFError("the video ends early")
        yield np.stack(block)


def frames_of(path: Path) -> Iterator[Frame]:
    """Upright frames of any video on the 25 fps clock, as prep takes them.

    Raises:
        SourceError: the file is missing, or is no video that can be decoded.
    """
    try:
        with open_media(str(path)) as container:
            found = probe(container, silent=True)
        if isinstance(found, Rejection):
            raise SourceError(f"{path}: {found.detail}")
        with open_media(str(path)) as container:
            for item in video_frames(container, found, DecodeLog()):
                yield item.frame
    except (av.error.FFmpegError, OSError, EOFError) as error:
        detail = explain_failure(str(path), error).detail if not Path(path).is_file() else describe(error)
        raise SourceError(f"{path}: {detail}") from error


def read_sound(path: Path) -> np.ndarray:
    """int16 [n], 16 kHz mono: the first sound stream of any media file, from its beginning.

    Raises:
        SourceError: the file is missing, holds no sound, or cannot be decoded.
    """
    try:
        with av.open(str(path), options={"format_whitelist": f"{CONTAINERS},wav,mp3,flac,aac"}) as container:
            if not container.streams.audio:
                raise SourceError(f"{path} holds no sound")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            pieces = [
                piece.to_ndarray().reshape(-1)
                for frame in container.decode(audio=0)
                for piece in resampler.resample(frame)
            ]
            pieces += [piece.to_ndarray().reshape(-1) for piece in resampler.resample(None)]
    except (av.error.FFmpegError, OSError, EOFError) as error:
        raise SourceError(f"{path}: {describe(error)}") from error
    return np.concatenate([np.zeros(0, np.int16), *pieces])


def square_pictures(path: Path, size: int) -> Iterator[np.ndarray]:
    """uint8 [size, size, 3] RGB frames of a video of whole crops, resized.

    Raises:
        SourceError: as :func:`frames_of`, or the video is not square.
    """
    for frame in frames_of(path):
        if abs(frame.width - frame.height) > 1:
            raise SourceError(f"{path}: {frame.width}x{frame.height} is no whole crop", "Videos of crops are square.")
        picture = frame.rgb()
        side = min(picture.shape[:2])
        yield resize(picture[None, :side, :side], size)[0]


def cut_out(path: Path, to: Path, part: tuple[float, float, float, float]) -> Path:
    """Write a part of every frame of a video, on the 25 fps clock and without loss.

    Args:
        part: left, top, right, bottom as shares of the frame, rounded to whole pixels.

    Returns:
        ``to``.

    Raises:
        SourceError: as :func:`frames_of`.
    """

    def parts() -> Iterator[np.ndarray]:
        for frame in frames_of(path):
            picture = frame.rgb()
            height, width = picture.shape[:2]
            left, right = (round(part[side] * width) for side in (0, 2))
            top, bottom = (round(part[side] * height) for side in (1, 3))
            yield picture[None, top:bottom, left:right]

    write_lossless(to, parts())
    return to


def fitted(frames: Iterator[Picture], count: int, tolerance: int) -> Iterator[Picture]:
    """Exactly ``count`` frames: up to ``tolerance`` missing ones repeat the last, as many too many are left out.

    Raises:
        SourceError: the video is shorter or longer by more than that, or empty.
    """
    last: Picture | None = None
    given = extra = 0
    for frame in frames:
        if given < count:
            yield frame
            last, given = frame, given + 1
        else:
            extra += 1
    if last is None or count - given > tolerance or extra > tolerance:
        raise SourceError(
            f"the video has {given + extra} frames at 25 fps where {count} were due",
            f"Up to {tolerance} more or fewer are accepted.",
        )
    for _ in range(count - given):
        yield last
