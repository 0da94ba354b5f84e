"""dlib's face recognition network, read from dlib's own file and computed with NumPy.

dlib's packages on PyPI are built without BLAS, so their network takes a tenth of a second for a face: six times as
long as the products of matrices here, which give the same 128 numbers to 1e-6.

The network is that of ``dnn_face_recognition_ex.cpp`` in dlib's examples: residual blocks of two convolutions, each
followed by the affine map that is left of a batch normalisation.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from g4g_core.errors import WeightsError

SIDE = 150
"""Of the chip that is looked at, px."""

_MEAN = np.array([122.782, 117.001, 104.298], np.float32)
_BLOCKS = [(32, 3), (64, 4), (128, 3), (256, 3)]
"""(channels, blocks) of each level. The first block of a level halves the picture; so does the end of the last."""


@dataclasses.dataclass(frozen=True)
class _Conv:
    """A convolution with its affine map folded in: ``weight`` float32 [out, in * k * k], ``bias`` float32 [out]."""

    weight: np.ndarray
    bias: np.ndarray
    kernel: int
    stride: int = 1
    padding: int = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float32 [in, H, W] to [out, H', W'], by unfolding and one product."""
        edge = self.padding
        if edge:
            padded = np.zeros((len(x), x.shape[1] + 2 * edge, x.shape[2] + 2 * edge), np.float32)
            padded[:, edge:-edge, edge:-edge] = x
            x = padded
        windows = np.lib.stride_tricks.sliding_window_view(x, (self.kernel, self.kernel), axis=(1, 2))
        windows = windows[:, :: self.stride, :: self.stride]
        height, width = windows.shape[1:3]
        y = self.weight @ windows.transpose(0, 3, 4, 1, 2).reshape(-1, height * width)
        y += self.bias[:, None]
        return np.asarray(y.reshape(-1, height, width))


class FaceNetwork:
    """128 numbers of a face.

    Args:
        data: bytes of ``dlib_face_recognition_resnet_model_v1.dat``.

    Raises:
        WeightsError: they are of something else.
    """

    def __init__(self, data: bytes) -> None:
        tensors = _Tensors(data)
        self._first = tensors.conv(3, 32, 7, stride=2)
        self._blocks: list[tuple[_Conv, _Conv]] = []
        channels = 32
        for out, count in _BLOCKS:
            for number in range(count):
                halves = out != 32 and number == 0
                first = tensors.conv(channels, out, 3, stride=2) if halves else tensors.conv(out, out, 3, padding=1)
                self._blocks.append((first, tensors.conv(out, out, 3, padding=1)))
                channels = out
        self._blocks.append((tensors.conv(256, 256, 3, stride=2), tensors.conv(256, 256, 3, padding=1)))
        self._last = tensors.connected(256, 128)

    def __call__(self, chip: np.ndarray) -> np.ndarray:
        """float32 [128] of uint8 [150, 150, 3] RGB, as :func:`dlib.get_face_chip` cuts it with padding 0.25."""
        x = np.ascontiguousarray(((chip.astype(np.float32) - _MEAN) / np.float32(256)).transpose(2, 0, 1))
        x = _largest_of_3x3(_relu(self._first(x)))
        for first, second in self._blocks:
            y = second(_relu(first(x)))
            x = _relu(_sum(y, _mean_of_2x2(x) if first.stride == 2 else x))
        return np.asarray(x.mean(axis=(1, 2)) @ self._last)


class _Tensors:
    """The weights in dlib's file, in the order in which a picture meets them.

    Each stands behind the name of its layer: a tensor's version, its four sizes, and its floats. What lies between (the
    training's settings, gradients of no size) is passed over.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def conv(self, channels: int, out: int, kernel: int, *, stride: int = 1, padding: int = 0) -> _Conv:
        self._find("con_4")
        packed = self._floats(out * channels * kernel**2 + out)
        self._find("affine_")
        gain, shift = self._floats(2 * out).reshape(2, out)
        weight, bias = packed[:-out].reshape(out, -1), packed[-out:]
        return _Conv(weight * gain[:, None], bias * gain + shift, kernel, stride, padding)

    def connected(self, channels: int, out: int) -> np.ndarray:
        """float32 [channels, out]."""
        self._find("fc_2")
        if (self._integer(), self._integer()) != (out, channels):
            raise _foreign()
        return self._floats(channels * out).reshape(channels, out)

    def _find(self, layer: str) -> None:
        name = bytes([1, len(layer)]) + layer.encode()
        place = self._data.find(name, self._at)
        if place < 0:
            raise _foreign()
        self._at = place + len(name)

    def _floats(self, count: int) -> np.ndarray:
        version, sizes = self._integer(), [self._integer() for _ in range(4)]
        if version != 2 or math.prod(sizes) != count or self._at + 4 * count > len(self._data):
            raise _foreign()
        found = np.frombuffer(self._data, "<f4", count, self._at)
        self._at += 4 * count
        return found

    def _integer(self) -> int:
        """As dlib writes a whole number: a byte with the number of bytes that follow, lowest first."""
        if self._at >= len(self._data):
            raise _foreign()
        start, count = self._at + 1, self._data[self._at] & 15
        self._at = start + count
        return int.from_bytes(self._data[start : self._at], "little")


def _foreign() -> WeightsError:
    return WeightsError("the weights of dlib-resnet are not those of dlib's face recognition network, version 1")


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0, out=x)


def _largest_of_3x3(x: np.ndarray) -> np.ndarray:
    """[n, H, W] to [n, (H - 1) // 2, (W - 1) // 2]: windows start at every second pixel, and none hangs over."""
    height, width = ((side - 3) // 2 * 2 + 1 for side in x.shape[1:])
    rows = np.maximum(np.maximum(x[:, :height:2], x[:, 1 : height + 1 : 2]), x[:, 2 : height + 2 : 2])
    left, middle, right = rows[:, :, :width:2], rows[:, :, 1 : width + 1 : 2], rows[:, :, 2 : width + 2 : 2]
    return np.asarray(np.maximum(np.maximum(left, middle), right))


def _mean_of_2x2(x: np.ndarray) -> np.ndarray:
    """[n, H, W] to [n, H // 2, W // 2]."""
    height, width = (side // 2 * 2 for side in x.shape[1:])
    rows = x[:, :height:2, :width] + x[:, 1:height:2, :width]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) / np.float32(4))


def _sum(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum of [n, H, W], of which one may have fewer channels or pixels: what it lacks is 0."""
    if x.shape == y.shape:
        return x + y
    total = np.zeros(np.maximum(x.shape, y.shape), np.float32)
    for part in (x, y):
        total[tuple(map(slice, part.shape))] += part
    return total
