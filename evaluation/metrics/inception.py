"""Features of pictures for FID and KID: the last pooling layer of FID's Inception, equal to ``pytorch-fid``'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.metrics.inception_network import FEATURES, INPUT, InceptionNetwork
from evaluation.metrics.networks import Precision, dtype_of, faithful
from g4g_core import weights
from g4g_core.errors import UsageError

if TYPE_CHECKING:
    import torch

_BATCH = {"cpu": 8, "cuda": 64}  # pictures; on a processor more of them fall out of its cache


class Inception:
    """FID's Inception, ready to run.

    Args:
        network: ``pytorch_fid.inception.fid_inception_v3()`` or its like with weights; ``None`` loads the registry's
            ``inception-fid``.
        device: of torch.
        precision: of weights and activations; features are float32 always.

    Raises:
        WeightsError: the weights are not there, or those of another network.
        UsageError: an unknown precision.
    """

    def __init__(
        self, network: torch.nn.Module | None = None, *, device: str = "cpu", precision: Precision = "fp32"
    ) -> None:
        import torch

        self._device, self._dtype = torch.device(device), dtype_of(precision)
        self._batch = _BATCH.get(self._device.type, _BATCH["cpu"])
        state = network.state_dict() if network is not None else _pretrained()
        self._network = InceptionNetwork(state, self._device, self._dtype)

    def features(self, rgb: np.ndarray) -> np.ndarray:
        """Of pictures resized to 299 px (bilinear, half-pixel centres, no smoothing when they shrink), scaled to -1 ... 1.

        Args:
            rgb: uint8 [n, H, W, 3].

        Returns:
            float32 [n, 2048], 0 or more. A picture's features do not depend on the others but for float noise.

        Raises:
            UsageError: pictures of another type or shape.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[3] != 3:
            raise UsageError(f"Inception sees uint8 [n, H, W, 3] RGB, not {rgb.dtype} {list(rgb.shape)}")
        found = [np.zeros((0, FEATURES), np.float32)]
        with faithful():
            for start in range(0, len(rgb), self._batch):
                pictures = self._prepared(rgb[start : start + self._batch])
                found.append(self._network(pictures).float().cpu().numpy())
        return np.concatenate(found)

    def _prepared(self, rgb: np.ndarray) -> Any:
        """Tensor [n, 3, 299, 299], -1 ... 1, channels-last."""
        import torch
        from torch.nn.functional import interpolate

        pictures = torch.from_numpy(np.ascontiguousarray(rgb)).to(self._device).permute(0, 3, 1, 2).float() / 255
        pictures = 2 * interpolate(pictures, size=(INPUT, INPUT), mode="bilinear", align_corners=False) - 1
        return pictures.to(self._dtype, memory_format=torch.channels_last)


def _pretrained() -> Mapping[str, torch.Tensor]:
    file = weights.path("inception-fid")
    import torch

    state: Mapping[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state
