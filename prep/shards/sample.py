"""A sample in memory, its members as bytes, and the tar blocks that hold them."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
import wave
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prep.records import SAMPLE_RATE
from prep.shards import schema

BLOCK = tarfile.BLOCKSIZE
END_OF_TAR = bytes(2 * BLOCK)


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a shard holds of one segment of a shot of T frames.

    Attributes:
        key: unique name, see :func:`prep.shards.schema.sample_key`.
        meta: what goes into the JSON member: plain values only, floats already rounded.
        frames: T encoded face crops (RGB JPEG bytes).
        masks: T encoded mask planes (8-bit grey PNG bytes).
        landmarks: float32 [T, 68, 2], crop pixels, smoothed.
        landmarks_raw: float32 [T, 68, 2], crop pixels, as fitted.
        mel: float32 [n_mel, 80].
        pcm: int16 [640 T], 16 kHz mono.
    """

    key: str
    meta: Mapping[str, Any]
    frames: Sequence[bytes]
    masks: Sequence[bytes]
    landmarks: np.ndarray
    landmarks_raw: np.ndarray
    mel: np.ndarray
    pcm: np.ndarray


def members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """(suffix, bytes) of every member of ``sample``, in the order of the tar."""
    yield schema.JSON, json_bytes(sample.meta)
    yield schema.LANDMARKS, npy_bytes(sample.landmarks.astype(np.float32))
    yield schema.LANDMARKS_RAW, npy_bytes(sample.landmarks_raw.astype(np.float32))
    yield schema.MEL, npy_bytes(sample.mel.astype(np.float32))
    yield schema.WAV, wav_bytes(sample.pcm)
    for index, (frame, mask) in enumerate(zip(sample.frames, sample.masks, strict=True)):
        yield schema.frame_suffix(index), frame
        yield schema.mask_suffix(index), mask


class TarAppender:
    """Appends members to a binary stream as a reproducible tar, and remembers where their bytes lie.

    Headers carry neither time nor owner, so equal members give equal bytes anywhere. The stream holds no
    end-of-archive mark until :meth:`finish`, so that parts can be joined by concatenation.
    """

    def __init__(self, stream: io.BufferedIOBase | Any, position: int = 0) -> None:
        self._stream = stream
        self.position = position

    def add(self, name: str, data: bytes) -> tuple[int, int]:
        """Append one member; returns (offset of its first data byte, its size)."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        # GNU format: clip names may be longer than the 100 bytes of a plain header
        header = info.tobuf(format=tarfile.GNU_FORMAT, encoding="utf-8", errors="strict")
        padding = bytes(-len(data) % BLOCK)
        self._stream.write(header + data + padding)
        offset = self.position + len(header)
        self.position = offset + len(data) + len(padding)
        return offset, len(data)

    def add_sample(self, sample: Sample) -> dict[str, list[Any]]:
        """Append all members of ``sample``; returns the index columns ``members``, ``offsets``, ``sizes``."""
        suffixes, offsets, sizes = [], [], []
        for suffix, data in members(sample):
            offset, size = self.add(f"{sample.key}.{suffix}", data)
            suffixes.append(suffix)
            offsets.append(offset)
            sizes.append(size)
        return {"members": suffixes, "offsets": offsets, "sizes": sizes}

    def add_blocks(self, blocks: Iterable[bytes]) -> int:
        """Append whole tar blocks made elsewhere (without end mark); returns where they start."""
        start = self.position
        for block in blocks:
            self._stream.write(block)
            self.position += len(block)
        if self.position % BLOCK:
            raise ValueError(f"a tar part of {self.position - start} bytes is not a whole number of blocks")
        return start

    def finish(self) -> int:
        """Write the end-of-archive mark; returns the size of the tar in bytes."""
        self._stream.write(END_OF_TAR)
        self.position += len(END_OF_TAR)
        return self.position


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Canonical JSON: sorted keys, no spaces, no NaN or infinity (``ValueError``)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def npy_bytes(array: np.ndarray) -> bytes:
    """``array`` as an uncompressed ``.npy`` file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def read_npy(data: bytes) -> np.ndarray:
    """The array of a ``.npy`` file; never unpickles."""
    return np.asarray(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))


def wav_bytes(pcm: np.ndarray) -> bytes:
    """int16 [n] at 16 kHz as a mono WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(SAMPLE_RATE)
        stream.writeframes(np.ascontiguousarray(pcm, dtype="<i2").tobytes())
    return buffer.getvalue()


def read_wav(data: bytes) -> np.ndarray:
    """int16 [n] of a mono 16 kHz WAV file; ``ValueError`` for any other WAV."""
    with wave.open(io.BytesIO(data), "rb") as stream:
        if (stream.getnchannels(), stream.getsampwidth(), stream.getframerate()) != (1, 2, SAMPLE_RATE):
            raise ValueError("expected a mono 16-bit WAV of 16 kHz")
        return np.frombuffer(stream.readframes(stream.getnframes()), dtype="<i2")
