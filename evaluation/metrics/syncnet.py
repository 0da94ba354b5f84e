"""SyncNet v2 (Chung and Zisserman, "Out of time", 2016): what it sees in faces and hears in speech.

The network is that of the package ``syncnet-python``; it runs differently from ``SyncNetInstance.evaluate`` and gives
the same features but for float noise. Batch normalisation is folded into the convolutions. The lip network, whose first
layer spans 5 frames and all others 1, runs over the clip as it is instead of over stacked windows, and pixels lie
channels-last, which is how frames lie in memory anyway.
"""

from __future__ import annotations

import copy
import importlib.util
import pathlib
from typing import Any

import numpy as np

from evaluation.metrics.networks import Precision, dtype_of, faithful
from g4g_core import weights
from g4g_core.errors import MissingDependency, UsageError
from prep.records import SAMPLE_RATE

SIDE = 224
"""Frames are this many pixels wide and high."""

WINDOW = 5
"""Frames that the lip network sees at once."""

FEATURES = 1024

_STEP = 160  # samples from one MFCC to the next
_STEP_SAMPLES = 400  # samples that an MFCC is made of
_STEPS_PER_FRAME = 4
_STEPS_PER_WINDOW = WINDOW * _STEPS_PER_FRAME
_CEPSTRA = 13
_BLOCK = 6000  # MFCCs at a time
_PREEMPHASIS = 0.97
_BATCH = {"cpu": 8, "cuda": 64}  # windows; on a processor more of them fall out of its cache


class SyncNet:
    """SyncNet v2, ready to run.

    Args:
        network: ``syncnet_python``'s ``S`` with weights (it is copied); ``None`` loads the registry's ``syncnet-v2``.
        device: of torch.
        precision: of weights and activations; features are float32 always.

    Raises:
        MissingDependency: ``syncnet-python`` is not installed.
        WeightsError: the weights are not there, or another file.
        UsageError: an unknown precision.
    """

    def __init__(self, network: Any = None, *, device: str = "cpu", precision: Precision = "fp32") -> None:
        import torch

        self._device = torch.device(device)
        self._dtype = dtype_of(precision)
        self.batch = _BATCH.get(self._device.type, _BATCH["cpu"])
        network = copy.deepcopy(network if network is not None else trained()).eval()
        self._lips, self._lips_head, self._sound, self._sound_head = (
            _folded(part).to(self._device, self._dtype)
            for part in (network.netcnnlip, network.netfclip, network.netcnnaud, network.netfcaud)
        )
        self._lips.to(memory_format=torch.channels_last_3d)
        self._sound.to(memory_format=torch.channels_last)

    def see(self, frames_bgr: np.ndarray) -> np.ndarray:
        """Features of every window of 5 frames.

        Args:
            frames_bgr: uint8 [T, 224, 224, 3], 25 a second, BGR as cv2 reads them. Values are used as they are, 0..255.

        Returns:
            float32 [T - 4, 1024], not of unit length.
        """
        lips = LipStream(self)
        for start in range(0, len(frames_bgr), self.batch):
            lips.add(frames_bgr[start : start + self.batch])
        return lips.features()

    def hear(self, pcm: np.ndarray) -> np.ndarray:
        """Features of the speech of every window of 5 frames: of 20 MFCCs, beginning at every fourth.

        Args:
            pcm: int16 [n] at 16 kHz. Values are used as they are: the energies' logarithms depend on the scale.

        Returns:
            float32 [m, 1024], not of unit length.

        Raises:
            UsageError: sound of another type or shape.
        """
        if pcm.dtype != np.int16 or pcm.ndim != 1:
            raise UsageError(f"SyncNet hears int16 [n], not {pcm.dtype} {list(pcm.shape)}")
        import torch

        steps = mfcc(pcm)
        if len(steps) < _STEPS_PER_WINDOW:
            return np.zeros((0, FEATURES), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(steps, _STEPS_PER_WINDOW, axis=0)[::_STEPS_PER_FRAME]
        found = []
        with faithful():
            for start in range(0, len(windows), 2 * self.batch):
                some = torch.from_numpy(windows[start : start + 2 * self.batch, None].astype(np.float32))
                some = some.to(self._device, self._dtype).contiguous(memory_format=torch.channels_last)
                found.append(self._sound_head(self._sound(some).flatten(1)).float().cpu().numpy())
        return np.concatenate(found)

    def see_at_once(self, frames_bgr: np.ndarray) -> np.ndarray:
        """As :meth:`see`, in one go: for a few frames (memory grows by 5 MB a frame)."""
        import torch

        with faithful():
            # the frames' own memory, seen as [1, 3, T, 224, 224], is what torch calls channels-last
            clip = torch.from_numpy(frames_bgr).to(self._device).permute(3, 0, 1, 2)[None].to(self._dtype)
            windows = self._lips(clip)[0, :, :, 0, 0].T
            return np.asarray(self._lips_head(windows).float().cpu().numpy())


class LipStream:
    """Lip features of a clip whose frames come piece by piece.

    Windows are computed in the same batches however the frames come, so that features do not depend on it. Memory: the
    features (4 kB a frame), the frames that wait for a full batch, and one batch's activations (about 5 MB a window).
    """

    def __init__(self, syncnet: SyncNet) -> None:
        self._syncnet = syncnet
        self._waiting = np.zeros((0, SIDE, SIDE, 3), np.uint8)  # its first 4 frames belong to the last window as well
        self._found: list[np.ndarray] = []

    def add(self, frames_bgr: np.ndarray) -> None:
        """The next frames, uint8 [n, 224, 224, 3] BGR. Raises UsageError for another type or shape."""
        if frames_bgr.dtype != np.uint8 or frames_bgr.ndim != 4 or frames_bgr.shape[1:] != (SIDE, SIDE, 3):
            raise UsageError(
                f"SyncNet sees uint8 [T, {SIDE}, {SIDE}, 3], not {frames_bgr.dtype} {list(frames_bgr.shape)}"
            )
        self._waiting = np.concatenate([self._waiting, frames_bgr])
        while len(self._waiting) >= self._syncnet.batch + WINDOW - 1:
            self._compute(self._syncnet.batch)

    def features(self) -> np.ndarray:
        """Of all windows so far: float32 [T - 4, 1024]."""
        if len(self._waiting) >= WINDOW:
            self._compute(len(self._waiting) - WINDOW + 1)
        return np.concatenate([np.zeros((0, FEATURES), np.float32), *self._found])

    def _compute(self, windows: int) -> None:
        self._found.append(self._syncnet.see_at_once(self._waiting[: windows + WINDOW - 1]))
        self._waiting = self._waiting[windows:]


def mfcc(pcm: np.ndarray) -> np.ndarray:
    """``python_speech_features.mfcc`` of the whole sound with its defaults, a minute at a time.

    Args:
        pcm: int16 [n] at 16 kHz.

    Returns:
        float64 [steps, 13], a row every 10 ms: every sample is in a row, the last one is filled up with zeros.
    """
    from python_speech_features import mfcc as mfcc_of  # type: ignore[import-untyped]

    steps = 1 + max(0, -(-(len(pcm) - _STEP_SAMPLES) // _STEP))
    signal = pcm.astype(np.float64)
    signal[1:] -= _PREEMPHASIS * pcm[:-1]
    found = [np.zeros((0, _CEPSTRA))]
    for first in range(0, steps if len(pcm) else 0, _BLOCK):
        last = min(first + _BLOCK, steps) - 1
        block = signal[first * _STEP : last * _STEP + _STEP_SAMPLES]
        found.append(mfcc_of(block, SAMPLE_RATE, preemph=0))
    return np.concatenate(found)


def untrained() -> Any:
    """The package's network with random weights. Raises MissingDependency where the package is not installed.

    Its module is loaded by itself: importing the package takes 6 seconds, scenedetect and an ffmpeg binary.
    """
    package = importlib.util.find_spec("syncnet_python")
    if package is None or not package.submodule_search_locations:
        raise MissingDependency("LSE needs the Python package syncnet-python", "pip install 'g4g[lse]'")
    file = pathlib.Path(next(iter(package.submodule_search_locations))) / "SyncNetModel.py"
    spec = importlib.util.spec_from_file_location("syncnet_python_network", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.S(num_layers_in_fc_layers=FEATURES)


def trained() -> Any:
    """The package's network with the registry's weights. Raises MissingDependency or WeightsError."""
    network = untrained()
    file = weights.path("syncnet-v2")
    import torch

    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), strict=True)
    return network


def _folded(layers: Any) -> Any:
    """The same layers without batch normalisation: it is folded into the convolution or matrix before it."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    kept: list[Any] = []
    for layer in layers:
        if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
            kept[-1] = fuse_conv_bn_eval(kept[-1], layer)
        elif isinstance(layer, nn.BatchNorm1d):
            kept[-1] = fuse_linear_bn_eval(kept[-1], layer)
        else:
            kept.append(layer)
    return nn.Sequential(*kept)
