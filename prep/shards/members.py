"""The members of a sample as arrays."""

from __future__ import annotations

import functools
import io
import json
import math
import wave
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg

from g4g_core.errors import DatasetError
from prep.records import SAMPLES_PER_FRAME
from prep.shards import schema
from prep.shards.rows import Row
from prep.shards.sample import read_npy, read_wav

Bytes = bytes | memoryview

_ERASE = np.uint8(schema.MaskBit.ERASE)
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_DECODE_ERRORS = (
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    MemoryError,
    RecursionError,
    wave.Error,
    cv2.error,
)


class CorruptSample(DatasetError):
    """A member of a sample that is not what the index says: ``key``, ``member`` and ``detail`` tell which and why."""

    def __init__(self, key: str, member: str, detail: str) -> None:
        super().__init__(f"{key}.{member}: {detail}", "'g4g-prep verify --deep' finds all such members.")
        self.key, self.member, self.detail = key, member, detail

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.member, self.detail)  # crosses process borders in data loaders


class MemberDecoder:
    """Decodes members of one sample that are in memory.

    Every method raises :class:`CorruptSample` for a member that is not there, cannot be decoded, or has another shape
    than the index says. ``size`` is the side S of the pictures given back, in pixels; ``None``: as stored.

    Args:
        row: the sample's row of the index.
        members: bytes by suffix.
    """

    def __init__(self, row: Row, members: Mapping[str, Bytes]) -> None:
        self._row = row
        self._members = members

    def frames(self, indices: Sequence[int] | np.ndarray, size: int | None = None) -> np.ndarray:
        """uint8 [n, S, S, 3] RGB: the crops of these frames of the segment."""
        side = size or self._row.size
        out = np.empty((len(indices), side, side, 3), np.uint8)
        for index, target in zip(indices, out, strict=True):
            self._decode(schema.frame_suffix(int(index)), decode_frame, self._row.size, target)
        return out

    def masks(self, indices: Sequence[int] | np.ndarray, size: int | None = None) -> np.ndarray:
        """uint8 [n, S, S] of :class:`schema.MaskBit`: the mask planes of these frames of the segment."""
        side = size or self._row.size
        out = np.empty((len(indices), side, side), np.uint8)
        for index, target in zip(indices, out, strict=True):
            self._decode(schema.mask_suffix(int(index)), decode_mask, self._row.size, target)
        return out

    def landmarks(self, *, raw: bool = False) -> np.ndarray:
        """float32 [T, 68, 2], pixels of the stored crop; smoothed, or ``raw``: as fitted."""
        suffix = schema.LANDMARKS_RAW if raw else schema.LANDMARKS
        return np.asarray(self._decode(suffix, decode_array, (self._row.n_frames, 68, 2)))

    def mel(self) -> np.ndarray:
        """float32 [n_mel, 80]: clip columns from ``row.mel_start`` on."""
        return np.asarray(self._decode(schema.MEL, decode_array, (self._row.n_mel, schema.MEL_BANDS)))

    def pcm(self) -> np.ndarray:
        """int16 [640 T], 16 kHz mono."""
        return np.asarray(self._decode(schema.WAV, decode_wav, SAMPLES_PER_FRAME * self._row.n_frames))

    def meta(self) -> dict[str, Any]:
        """What the JSON member holds."""
        return dict(self._decode(schema.JSON, decode_json))

    def _decode(self, suffix: str, decode: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return decode(self._members[suffix], *arguments)
        except KeyError as error:
            raise CorruptSample(self._row.key, suffix, "is missing") from error
        except _DECODE_ERRORS as error:
            raise CorruptSample(self._row.key, suffix, str(error)) from error


def decode_frame(data: Bytes, stored: int, out: np.ndarray) -> None:
    """Decode an RGB JPEG of side ``stored`` into ``out``, uint8 [S, S, 3] RGB.

    Where S is smaller than ``stored``, the JPEG decoder itself shrinks by eighths (it then computes smaller blocks,
    without aliasing) to the first size that is not under S; the rest is bilinear, which at such factors leaves out no
    pixel. Raises ValueError for anything that is no such JPEG.
    """
    if data[:2] != _JPEG_START or data[-2:] != _JPEG_END:
        raise ValueError("not a whole JPEG")  # the decoder would fill what is missing with grey and say nothing
    side = out.shape[0]
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    if (height, width) != (stored, stored):
        raise ValueError(f"a picture of {width}x{height} where {stored}x{stored} was due")
    if side == stored:
        simplejpeg.decode_jpeg(data, "RGB", buffer=out)
        return
    image = simplejpeg.decode_jpeg(data, "RGB", min_height=min(side, stored), min_width=min(side, stored), min_factor=1)
    if image.shape[0] == side:
        out[:] = image
    else:
        cv2.resize(image, (side, side), dst=out, interpolation=cv2.INTER_LINEAR)


def decode_mask(data: Bytes, stored: int, out: np.ndarray) -> None:
    """Decode an 8-bit grey PNG of side ``stored`` into ``out``, uint8 [S, S] of :class:`schema.MaskBit`.

    Resized by nearest neighbour (pixel centres). When shrinking, ``ERASE`` first grows by the reach of the filter that
    shrinks the crop (one and a half of the new pixels): a model must not see a trace of what it has to redraw.
    Raises ValueError for anything that is no such PNG.
    """
    if data[:8] != _PNG_START or data[-8:] != _PNG_END:
        raise ValueError("not a whole PNG")
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ValueError("the PNG cannot be decoded")
    mask: np.ndarray = np.asarray(decoded)
    if mask.shape != (stored, stored) or mask.dtype != np.uint8:
        raise ValueError(f"a plane of {mask.shape} {mask.dtype} where {(stored, stored)} uint8 was due")
    side = out.shape[0]
    if side < stored:
        reach = math.ceil(1.5 * stored / side)  # what an averaged or interpolated pixel of decode_frame draws on
        erased = cv2.dilate(mask & _ERASE, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
        mask = mask | np.asarray(erased, np.uint8)
    if side != stored:
        mask = np.asarray(cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    out[:] = mask


def decode_array(data: Bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array of an ``.npy`` file. Raises ValueError when it is broken or of another shape or type."""
    header = _npy_header(shape)
    if data[: len(header)] == header and len(data) == len(header) + 4 * math.prod(shape):
        return np.array(np.frombuffer(data, "<f4", offset=len(header)).reshape(shape))
    array = read_npy(bytes(data))
    if array.shape != shape or array.dtype != np.float32:
        raise ValueError(f"{array.dtype} {list(array.shape)} where float32 {list(shape)} was due")
    return array


@functools.lru_cache(4096)
def _npy_header(shape: tuple[int, ...]) -> bytes:
    """As the writer makes it: to parse a header costs more than to read what it describes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def decode_wav(data: Bytes, n_samples: int) -> np.ndarray:
    """int16 [n_samples] of a mono 16 kHz WAV file. Raises ValueError or wave.Error for anything else."""
    pcm = read_wav(bytes(data))
    if len(pcm) != n_samples:
        raise ValueError(f"{len(pcm)} samples where {n_samples} were due")
    return pcm


def decode_json(data: Bytes) -> dict[str, Any]:
    """The object of a JSON file. Raises ValueError for anything else."""
    value = json.loads(bytes(data))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
