"""Videos whose every frame says when it is shown, and sound that clicks at known times."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from prep.media import open_media
from prep.records import SAMPLE_RATE
from prep.stages.decode import DecodeLog, GridFrame, video_frames
from prep.stages.frames import Frame
from prep.stages.probe import Probe, probe

WIDTH, HEIGHT = 320, 64
SPEED = 60.0
"""Pixels a second that the bar moves: 2.4 in a frame of 40 ms."""
_BAR = 12.0
_FIRST = 24.0
_TICKS = 90_000


def bar_picture(seconds: float) -> np.ndarray:
    """uint8 [64, 320, 3]: a bright bar whose place says the time, good for 4.5 s."""
    left = _FIRST + SPEED * seconds
    edges = np.arange(WIDTH)
    covered = np.clip(np.minimum(edges + 1, left + _BAR) - np.maximum(edges, left), 0, 1)
    row = np.round(40 + 180 * covered).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def bar_time(frame: Frame) -> float:
    """The time that :func:`bar_picture` wrote into a frame, to about 2 ms; frames may be widened."""
    row = frame.y[frame.height // 4 : -frame.height // 4].mean(axis=0).astype(np.float64)
    light = np.maximum(0, row - row.min() - 0.25 * np.ptp(row))
    centre = ((np.arange(len(row)) + 0.5) * light).sum() / light.sum() * WIDTH / frame.width
    return float((centre - _BAR / 2 - _FIRST) / SPEED)


def clicks(seconds: float, times: Iterable[float], rate: int = SAMPLE_RATE) -> np.ndarray:
    """int16 [n] near-silence with a 1.5 ms burst of 2.5 kHz around every time."""
    pcm = np.random.default_rng(0).normal(0, 20, round(seconds * rate))
    at = np.arange(len(pcm)) / rate
    for time in times:
        pcm += 20_000 * np.exp(-(((at - time) / 0.0006) ** 2)) * np.cos(2 * np.pi * 2500 * (at - time))
    return pcm.astype(np.int16)


def click_times(pcm: np.ndarray, rate: int = SAMPLE_RATE) -> list[float]:
    """Where :func:`clicks` are in int16 samples, seconds."""
    level = np.abs(pcm.astype(np.float64))
    found = []
    while level.size and level.max() > 4000:
        place = int(level.argmax())
        found.append(place / rate)
        level[max(0, place - rate // 20) : place + rate // 20] = 0
    return sorted(found)


def write_media(
    path: Path,
    frame_times: Sequence[float],
    picture: Callable[[float], np.ndarray] = bar_picture,
    *,
    rate: Fraction | int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    gop: int = 12,
    b_frames: int = 2,
    audio: np.ndarray | None = None,
    audio_codec: str = "aac",
    audio_rate: int = SAMPLE_RATE,
    audio_start: float = 0.0,
    video_start: float = 0.0,
    pixel_aspect: Fraction | None = None,
    container_options: Mapping[str, str] | None = None,
    own_clock: bool = True,
) -> Path:
    """Encode pictures shown at ``frame_times`` (+ ``video_start``) and int16 ``audio`` from ``audio_start`` on.

    Args:
        picture: uint8 RGB [H, W, 3] of a time.
        own_clock: stamps count in 1/90000 s; else in frames of ``rate`` (containers like AVI know nothing else).
    """
    first = picture(frame_times[0])
    tick = Fraction(1, _TICKS) if own_clock else 1 / Fraction(rate)
    with av.open(str(path), "w", container_options=dict(container_options or {})) as container:
        video = container.add_stream(codec, rate=rate, options=dict(options or {}))
        video.height, video.width = first.shape[:2]
        video.pix_fmt = pix_fmt
        video.thread_count = 1
        video.gop_size, video.max_b_frames = gop, b_frames
        if codec.startswith("mpeg"):
            video.bit_rate = 3_000_000
        video.codec_context.time_base = tick
        if pixel_aspect is not None:
            video.codec_context.sample_aspect_ratio = pixel_aspect
        sound: Any = None
        if audio is not None:
            sound = container.add_stream(audio_codec, rate=audio_rate, layout="mono")
        packets = []
        for time in frame_times:
            shown = av.VideoFrame.from_ndarray(picture(time), format="rgb24")
            shown.pts = round((time + video_start) / tick)
            shown.time_base = tick
            packets += video.encode(shown)
        packets += video.encode(None)
        if audio is not None:
            packets += _encoded_audio(sound, audio, audio_rate, audio_start)
        packets.sort(key=lambda packet: float((packet.dts or 0) * packet.time_base))
        for packet in packets:
            container.mux(packet)
    return path


def _encoded_audio(sound: Any, audio: np.ndarray, rate: int, start: float) -> list[Any]:
    resampler = av.AudioResampler(
        format=sound.codec_context.format, layout="mono", rate=rate, frame_size=sound.codec_context.frame_size or 1024
    )
    samples = av.AudioFrame.from_ndarray(audio[None], format="s16", layout="mono")
    samples.sample_rate, samples.pts = rate, 0
    packets = []
    for piece in [*resampler.resample(samples), *resampler.resample(None)]:
        piece.pts = (piece.pts or 0) + round(start * rate)
        piece.time_base = Fraction(1, rate)
        packets += sound.encode(piece)
    return packets + list(sound.encode(None))


def turn_by_metadata(path: Path, clockwise: int) -> None:
    """Write a display matrix into the video track of an MP4, as phones do (ISO/IEC 14496-12, 8.3.2)."""
    one, angle = 1 << 16, clockwise % 360
    a, b, c, d = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[angle]
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version 0: flags, times and ids, then layer, volume
    struct.pack_into(">9i", data, place, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))


def probed(path: Path, time_range: tuple[float, float] | None = None) -> Probe:
    """The probe of a file that must be fine."""
    with open_media(str(path)) as container:
        found = probe(container, time_range=time_range)
    assert isinstance(found, Probe), found
    return found


def first_pass(path: Path, facts: Probe, *, whole: bool = True) -> tuple[list[GridFrame], DecodeLog]:
    """All frames on the 25 fps grid."""
    log = DecodeLog()
    with open_media(str(path)) as container:
        return list(video_frames(container, facts, log, whole=whole)), log
