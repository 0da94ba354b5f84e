"""Features of pictures for FID and KID: the last pooling layer of FID's Inception, equal to ``pytorch-fid``'s."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.metrics.base import Block, Context, Measured, Metric
from evaluation.metrics.inception_network import FEATURES, INPUT, InceptionNetwork
from evaluation.metrics.networks import Precision, best_device, dtype_of, faithful
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
        """Of pictures resized to 299 px (bilinear, half-pixel centres, no smoothing when they shrink), as -1 ... 1.

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
        pictures = interpolate(pictures, size=(INPUT, INPUT), mode="bilinear", align_corners=False).mul_(2).sub_(1)
        return pictures.to(self._dtype, memory_format=torch.channels_last)


def _pretrained() -> Mapping[str, torch.Tensor]:
    file = weights.path("inception-fid")
    import torch

    state: Mapping[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


FID = Metric(
    id="fid@face256", name="FID", unit="", better="lower", kind="set", needs_clip=True, weights=("inception-fid",),
    definition="Frechet distance of Inception features (pytorch-fid's), face boxes at 256 px after the shards' JPEG, "
    "all scored frames. Biased by the number of frames: compare only at equal numbers; under 2048, not with papers.",
)  # fmt: skip
KID = Metric(
    id="kid@face256", name="KID", unit="", better="lower", kind="set", needs_clip=True, weights=("inception-fid",),
    definition="Squared maximum mean discrepancy of FID's features under a cubic kernel, without bias in the number "
    "of frames. Times 1000.",
)  # fmt: skip
KID_SCALE = 1000.0
FEATURES_NAME = "inception2048"


class InceptionMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "inception"
    metrics = (FID, KID)
    packages: tuple[tuple[str, str], ...] = ()

    def start(self, context: Context) -> _Session:
        return _Session(pretrained(context.precision))


@functools.lru_cache(maxsize=2)
def pretrained(precision: Precision) -> Inception:
    """With the registry's weights, once a process, on the GPU where there is one. Raises as :class:`Inception`."""
    return Inception(device=best_device(), precision=precision)


class _Session:
    def __init__(self, inception: Inception) -> None:
        self._inception = inception
        self._found: list[np.ndarray] = []

    def add(self, block: Block) -> None:
        scored = np.flatnonzero(block.scored)
        for start in range(0, len(scored), _FACES):  # a few faces in memory at a time
            self._found.append(self._inception.features(block.stored_faces(scored[start : start + _FACES])))

    def result(self) -> Measured:
        features = np.concatenate([np.zeros((0, FEATURES), np.float32), *self._found])
        if not len(features):
            return Measured(missing={metric.id: ("no_frames", "no frame was scored") for metric in (FID, KID)})
        return Measured(features={FEATURES_NAME: features})


_FACES = 32
