"""The experts at work: embeddings of pictures and sound, with NumPy alone: torch takes longer to import than a clip."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from g4g_core.errors import WeightsError
from prep.sync_expert.audio import audio_windows, spectrogram
from prep.sync_expert.design import DIMENSIONS, INPUT, Conv, Design, design_of
from prep.sync_expert.mouths import PATCH
from prep.sync_expert.reading import Compared, Reading, read

_BATCH = 32  # windows at a time: an unfolded one takes half a megabyte, and fewer are no faster
_FLAT = 0.02  # contrast below which a window is not stretched further


class Expert:
    """An expert and its weights.

    Args:
        design: front ends and towers.
        weights: float32 arrays by name: ``visual.0.weight`` [out, in, k, k], ``visual.0.bias`` [out], ... ,
            ``visual.out.weight`` [64, features], ``visual.out.bias``; likewise ``audio`` with kernels [out, in, k].

    Raises:
        WeightsError: weights that do not fit the design.
    """

    def __init__(self, design: Design, weights: Mapping[str, np.ndarray]) -> None:
        self.design = design
        expected = shapes(design)
        found = {name: tuple(array.shape) for name, array in weights.items()}
        if found != expected:
            wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            raise WeightsError(
                f"these are no weights of {design.name}: {wrong[0]} is {found.get(wrong[0])}, "
                f"not {expected.get(wrong[0])}",
                "Name weights that 'g4g-model train' made of this expert.",
            )
        self.weights = {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}

    def see(self, patches: np.ndarray, middles: np.ndarray | None = None) -> np.ndarray:
        """Embeddings of mouth pictures.

        Args:
            patches: uint8 [T, 64, 64], see :mod:`prep.sync_expert.mouths`.
            middles: int [n], frames on which windows of ``design.frames`` frames are centred; ``None`` is every frame
                around which a window fits.

        Returns:
            float32 [n, 64] of norm 1.
        """
        design = self.design
        if middles is None:
            middles = design.middles(len(patches))
        if not len(middles):
            return np.zeros((0, DIMENSIONS), np.float32)
        inner = central(patches)
        windows = np.lib.stride_tricks.sliding_window_view(inner, design.frames, axis=0).transpose(0, 3, 1, 2)
        firsts = np.asarray(middles) - design.frames // 2
        parts = [
            self._visual(normalised(windows[firsts[start : start + _BATCH]] * np.float32(1 / 255)))
            for start in range(0, len(firsts), _BATCH)
        ]
        return _unit(np.concatenate(parts))

    def hear(self, pcm: np.ndarray) -> np.ndarray:
        """Embeddings of sound.

        Args:
            pcm: int16 [n], 16 kHz mono, of a clip or shot.

        Returns:
            float32 [max(0, n // 640 - frames + 1), 64] of norm 1: a window a frame, the first one centred on frame
            ``design.frames // 2``.
        """
        windows = audio_windows(spectrogram(pcm, self.design.front), self.design)
        if not len(windows):
            return np.zeros((0, DIMENSIONS), np.float32)
        parts = [self._audio(windows[start : start + _BATCH]) for start in range(0, len(windows), _BATCH)]
        return _unit(np.concatenate(parts))

    def _visual(self, x: np.ndarray) -> np.ndarray:
        for number, layer in enumerate(self.design.visual):
            x = _conv2d(x, *self._layer("visual", number), layer)
        if self.design.pool > 1:
            n, channels, height, width = x.shape
            pool = self.design.pool
            x = x.reshape(n, channels, height // pool, pool, width // pool, pool).mean(axis=(3, 5))
        return self._out("visual", x)

    def _audio(self, x: np.ndarray) -> np.ndarray:
        for number, layer in enumerate(self.design.audio):
            x = _conv1d(x, *self._layer("audio", number), layer)
        return self._out("audio", x)

    def _layer(self, tower: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        return self.weights[f"{tower}.{number}.weight"], self.weights[f"{tower}.{number}.bias"]

    def _out(self, tower: str, x: np.ndarray) -> np.ndarray:
        weight, bias = self.weights[f"{tower}.out.weight"], self.weights[f"{tower}.out.bias"]
        return np.asarray(x.reshape(len(x), -1) @ weight.T + bias)


def central(patches: np.ndarray) -> np.ndarray:
    """The middle [T, 48, 48] of mouth pictures [T, 64, 64]: the margin is for augmentation."""
    edge = (PATCH - INPUT) // 2
    return patches[:, edge : edge + INPUT, edge : edge + INPUT]


def normalised(windows: np.ndarray) -> np.ndarray:
    """Windows [n, frames, H, W] with mean 0 and standard deviation 1 each: light and contrast drop out."""
    mean = windows.mean(axis=(1, 2, 3), keepdims=True)
    deviation = windows.std(axis=(1, 2, 3), keepdims=True)
    return np.asarray((windows - mean) / (deviation + np.float32(_FLAT)), np.float32)


def shapes(design: Design) -> dict[str, tuple[int, ...]]:
    """The weights of a design, by name."""
    found: dict[str, tuple[int, ...]] = {}
    for tower, layers, channels, features, kernel_dims in (
        ("visual", design.visual, design.frames, design.visual_features, 2),
        ("audio", design.audio, design.front.bands, design.audio_features, 1),
    ):
        for number, layer in enumerate(layers):
            found[f"{tower}.{number}.weight"] = (layer.channels, channels, *[layer.kernel] * kernel_dims)
            found[f"{tower}.{number}.bias"] = (layer.channels,)
            channels = layer.channels
        found[f"{tower}.out.weight"] = (DIMENSIONS, features)
        found[f"{tower}.out.bias"] = (DIMENSIONS,)
    return found


def compare(experts: Sequence[Expert], patches: np.ndarray, pcm: np.ndarray) -> Reading | None:
    """The reading of experts together, over every frame around which the longest of their windows fits.

    Args:
        patches: uint8 [T, 64, 64].
        pcm: int16, 16 kHz mono, beginning with frame 0.
    """
    longest = max(experts, key=lambda expert: expert.design.frames)
    middles = longest.design.middles(len(patches))
    return read(
        [
            Compared(expert.see(patches, middles), expert.hear(pcm), middles - expert.design.frames // 2)
            for expert in experts
        ]
    )


def load(name: str, path: str | None = None) -> Expert:
    """An expert with the weights of this package, or with those of a safetensors file.

    Args:
        name: ``sync-a`` or ``sync-b``.
        path: weights that ``g4g-model train`` made, instead of those that ship.

    Raises:
        UsageError: no such expert.
        WeightsError: the file is missing, or holds other weights.
    """
    return _embedded(name) if path is None else _from_file(name, path)


@functools.cache
def fingerprint(name: str) -> str:
    """SHA-256 of the weights of this package, 64 hex digits. Raises as :func:`load`."""
    try:
        return hashlib.sha256(_file(name).read_bytes()).hexdigest()
    except OSError as error:
        raise _unreadable(name, str(_file(name)), error) from error


def _file(name: str) -> Any:
    return importlib.resources.files("prep.sync_expert") / "data" / f"{design_of(name).name}.safetensors"


@functools.cache
def _embedded(name: str) -> Expert:
    with importlib.resources.as_file(_file(name)) as path:
        return _from_file(name, str(path))


def _from_file(name: str, path: str) -> Expert:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        weights = load_file(path)
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: a type that NumPy has not, such as bfloat16
        raise _unreadable(name, path, error) from error
    return Expert(design_of(name), weights)


def _unreadable(name: str, path: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"the weights of {name} cannot be read: {path} ({error})", "Train them: g4g-model train --model " + name
    )


def _conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, layer: Conv) -> np.ndarray:
    """ReLU of a convolution: [n, in, H, W] to [n, out, H / stride, W / stride], by unfolding and one product."""
    edge = layer.padding
    padded = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    kernel = (layer.kernel, layer.kernel)
    view = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[:, :, :: layer.stride, :: layer.stride]
    n, channels, height, width = view.shape[:4]
    columns = view.transpose(0, 1, 4, 5, 2, 3).reshape(n, channels * layer.kernel**2, height * width)
    y = weight.reshape(len(weight), -1) @ columns
    y += bias[:, None]
    return np.maximum(y, 0, out=y).reshape(n, len(weight), height, width)


def _conv1d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, layer: Conv) -> np.ndarray:
    """ReLU of a convolution: [n, in, L] to [n, out, L / stride]."""
    padded = np.pad(x, ((0, 0), (0, 0), (layer.padding, layer.padding)))
    view = np.lib.stride_tricks.sliding_window_view(padded, layer.kernel, axis=2)[:, :, :: layer.stride]
    n, channels, length = view.shape[:3]
    columns = view.transpose(0, 1, 3, 2).reshape(n, channels * layer.kernel, length)
    y = weight.reshape(len(weight), -1) @ columns
    y += bias[:, None]
    return np.maximum(y, 0, out=y)


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-6), np.float32)
