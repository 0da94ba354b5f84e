"""Expert ``sync-a`` in torch, frozen: its reading of generated pictures has a gradient, so that it can be a loss.

The judge, ``sync-b``, is not offered: what trains a model must not judge it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from g4g_core.protocols import Speech
from g4g_core.provenance import file_sha256
from prep.sync_expert.audio import audio_windows, spectrogram
from prep.sync_expert.design import INPUT
from prep.sync_expert.infer import Expert, fingerprint, load
from prep.sync_expert.mouths import PATCH, mouth_squares

_NAME = "sync-a"
_GREY = (0.299, 0.587, 0.114)  # of OpenCV's COLOR_RGB2GRAY
_FLAT = 0.02


class FrozenExpert(nn.Module):
    """See :class:`g4g_core.protocols.SyncExpert`.

    Args:
        expert: its weights.
        sha256: of them.
    """

    def __init__(self, expert: Expert, sha256: str) -> None:
        super().__init__()
        self.sha256, self.frames = sha256, expert.design.frames
        self._design = expert.design
        for name, array in expert.weights.items():
            self.register_buffer(name.replace(".", "_"), torch.from_numpy(array))

    def prepare(self, pose: np.ndarray, size: int, speech: Speech, start: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 [frames, 2, 3], where the mouths lie; float32 [bands, columns], what is heard meanwhile."""
        windows = audio_windows(spectrogram(speech.pcm, self._design.front), self._design)
        return mouth_squares(pose, size, INPUT / PATCH), np.ascontiguousarray(windows[start], np.float32)

    def loss(self, pictures: torch.Tensor, places: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        """1 - cosine of what is seen and heard, mean over n."""
        weights = pictures.new_tensor(_GREY).view(1, 1, 3, 1, 1)
        grey = ((pictures + 1) / 2 * weights).sum(2)
        grid = functional.affine_grid(places.flatten(0, 1), [grey.shape[0] * grey.shape[1], 1, INPUT, INPUT], False)
        mouths = functional.grid_sample(grey.flatten(0, 1)[:, None], grid, padding_mode="border", align_corners=False)
        return (1 - (self.see(mouths.view(*grey.shape[:2], INPUT, INPUT)) * self.hear(heard)).sum(1)).mean()

    def see(self, windows: torch.Tensor) -> torch.Tensor:
        """Unit vectors [n, 64] of windows of mouths [n, frames, 48, 48] in 0..1, see :mod:`prep.sync_expert.mouths`."""
        mean = windows.mean((1, 2, 3), keepdim=True)
        x = (windows - mean) / (windows.std((1, 2, 3), keepdim=True, unbiased=False) + _FLAT)
        for number, layer in enumerate(self._design.visual):
            x = functional.relu(functional.conv2d(x, *self._weights("visual", number), layer.stride, layer.padding))
        if self._design.pool > 1:
            x = functional.avg_pool2d(x, self._design.pool)
        return functional.normalize(functional.linear(x.flatten(1), *self._weights("visual", "out")), dim=1)

    def hear(self, x: torch.Tensor) -> torch.Tensor:
        """Unit vectors [n, 64] of windows of sound [n, bands, columns]."""
        for number, layer in enumerate(self._design.audio):
            x = functional.relu(functional.conv1d(x, *self._weights("audio", number), layer.stride, layer.padding))
        return functional.normalize(functional.linear(x.flatten(1), *self._weights("audio", "out")), dim=1)

    def _weights(self, tower: str, layer: int | str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.get_buffer(f"{tower}_{layer}_weight"), self.get_buffer(f"{tower}_{layer}_bias")


class SyncAExpert:
    """The entry point of ``sync-a`` among ``g4g.sync_experts``."""

    def open(self, checkpoint: str | None = None) -> FrozenExpert:
        """The expert with its weights.

        Args:
            checkpoint: what ``g4g-model train --model sync-a`` exported, or the folder of that run; ``None``: the
                weights of this package.

        Raises:
            WeightsError: they cannot be read, or are of something else.
        """
        if checkpoint is None:
            return FrozenExpert(load(_NAME), fingerprint(_NAME))
        place = Path(checkpoint)
        file = str(place / f"{_NAME}.safetensors" if place.is_dir() else place)
        return FrozenExpert(load(_NAME, file), file_sha256(file))


SYNC_A_EXPERT = SyncAExpert()
