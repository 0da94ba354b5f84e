"""Videos, sounds and spectrograms as browsers play and show them."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from g4g_core.errors import MissingDependency
from prep.records import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from prep.stages.mel import BANDS, MAX_ABS

KEYFRAME_EVERY = 5
"""Frames: a browser that steps decodes at most so many to show one."""

QUALITY = 18
"""x264's constant rate factor: 18 is near what the eye tells from the original."""

_CODEC = "libx264"
_AUDIO_BLOCK = 1024  # samples of a frame of AAC
_MOST_COLUMNS = 4


@dataclasses.dataclass(frozen=True)
class Grid:
    """Views of one shot side by side in one picture, so that they cannot drift apart when they are played.

    Attributes:
        views: how many.
        side: of each, px; even.
    """

    views: int
    side: int

    @property
    def columns(self) -> int:
        return min(_MOST_COLUMNS, math.ceil(math.sqrt(self.views)))

    @property
    def rows(self) -> int:
        return math.ceil(self.views / self.columns)

    def joined(self, pictures: list[np.ndarray]) -> np.ndarray:
        """uint8 [n, rows * side, columns * side, 3] of ``views`` blocks uint8 [n, s, s, 3], s at most ``side``."""
        out = np.zeros((len(pictures[0]), self.rows * self.side, self.columns * self.side, 3), np.uint8)
        for number, block in enumerate(pictures):
            top, left = self.side * (number // self.columns), self.side * (number % self.columns)
            out[:, top : top + block.shape[1], left : left + block.shape[2]] = block
        return out


def encode_video(blocks: Iterable[np.ndarray], pcm: np.ndarray | None = None) -> bytes:
    """H.264 in MP4, yuv420p, 25 fps, no B frames, a keyframe every :data:`KEYFRAME_EVERY`; equal input, equal bytes.

    Args:
        blocks: uint8 [n, H, W, 3] RGB, all of one size, H and W even.
        pcm: int16 [640 T], 16 kHz mono, as AAC beside it.

    Raises:
        MissingDependency: this PyAV was built without x264.
    """
    if _CODEC not in av.codecs_available:
        raise MissingDependency("this PyAV cannot write H.264", "Install the wheel: pip install --force-reinstall av")
    with tempfile.TemporaryDirectory(prefix="g4g-video-") as folder:
        path = Path(folder) / "video.mp4"  # a file: the index moves to its front when all is written
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(str(path), "w", format="mp4", container_options=options) as container:
            _write(container, blocks, pcm)
        return path.read_bytes()


def _write(container: Any, blocks: Iterable[np.ndarray], pcm: np.ndarray | None) -> None:
    picture = container.add_stream(_CODEC, rate=FPS, options=_video_options())
    sound = None if pcm is None else _Sound(container, pcm)
    count = 0
    for block in blocks:
        for rgb in block:
            if count == 0:
                picture.height, picture.width = rgb.shape[:2]
                picture.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts = count
            count += 1
            container.mux(picture.encode(frame))
            if sound is not None:
                sound.write_until(SAMPLES_PER_FRAME * count)
    container.mux(picture.encode())
    if sound is not None:
        sound.close()


def _video_options() -> dict[str, str]:
    return {
        "crf": str(QUALITY), "preset": "veryfast", "g": str(KEYFRAME_EVERY), "keyint_min": str(KEYFRAME_EVERY),
        "bf": "0", "sc_threshold": "0", "threads": "1", "flags": "+bitexact",
    }  # fmt: skip


class _Sound:
    """AAC, written alongside the picture so that a player finds both near each other in the file."""

    def __init__(self, container: Any, pcm: np.ndarray) -> None:
        self._container, self._pcm, self._done = container, pcm, 0
        self._stream = container.add_stream("aac", rate=SAMPLE_RATE, options={"b": "64k", "flags": "+bitexact"})
        self._stream.layout = "mono"

    def write_until(self, sample: int) -> None:
        while self._done + _AUDIO_BLOCK <= min(sample, len(self._pcm)):
            self._write(_AUDIO_BLOCK)

    def _write(self, count: int) -> None:
        samples = self._pcm[self._done : self._done + count].astype(np.float32) / 32768.0
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, self._done, Fraction(1, SAMPLE_RATE)
        self._container.mux(self._stream.encode(frame))
        self._done += count

    def close(self) -> None:
        self.write_until(len(self._pcm))
        if self._done < len(self._pcm):
            self._write(len(self._pcm) - self._done)
        self._container.mux(self._stream.encode())


def mel_png(mel: np.ndarray) -> bytes:
    """A mel spectrogram as a grey PNG: a pixel a column and band, low bands at the bottom, loud is white.

    Args:
        mel: float [n, 80] in [-4, 4].
    """
    import cv2

    grey = np.clip((mel + MAX_ABS) / (2 * MAX_ABS) * 255, 0, 255).round().astype(np.uint8)
    return bytes(cv2.imencode(".png", np.ascontiguousarray(grey.T[::-1]))[1])


def mel_of_frames(mel: np.ndarray, first_column: int, begin: int, end: int) -> np.ndarray:
    """float [n, 80]: columns ``begin`` to ``end`` of a clip; silent where ``mel``, from ``first_column`` on, ends."""
    out = np.full((end - begin, BANDS), -MAX_ABS, np.float32)
    start, stop = max(begin, first_column), min(end, first_column + len(mel))
    if stop > start:
        out[start - begin : stop - begin] = mel[start - first_column : stop - first_column]
    return out
