"""LPIPS through the package ``lpips``: learned perceptual distance of face and mouth."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from evaluation.metrics.base import FACE, SIDE, Block, Context, Mean, Measured, Metric, values_of
from g4g_core import weights
from g4g_core.errors import MissingDependency
from g4g_core.resize import resize

_BATCH = 8
TRUNKS = {"alex": "alexnet", "vgg": "vgg16"}
"""The trunk's entry in the weights registry; the linear heads are ``lpips-<net>``."""


class Lpips:
    """LPIPS v0.1 (Zhang et al., CVPR 2018).

    Args:
        net: ``alex`` or ``vgg``; their scales differ.
        network: ready to use; ``None`` loads the registry's weights for trunk and heads.
        device: of torch.

    Raises:
        MissingDependency: the package ``lpips`` is not installed.
        WeightsError: weights are missing.
    """

    def __init__(self, net: str = "alex", network: Any = None, device: str = "cpu") -> None:
        self._device = device
        self._network = (network if network is not None else _load(net)).eval().to(device)

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """float64 [n]: distances of uint8 [n, H, W, 3] RGB, scaled to -1 ... 1 for the network."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(a), _BATCH):
                x, y = (self._tensor(pictures[start : start + _BATCH]) for pictures in (a, b))
                found.append(self._network(x, y).reshape(-1).double().cpu().numpy())
        return np.concatenate(found) if found else np.zeros(0)

    def _tensor(self, pictures: np.ndarray) -> Any:
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(pictures)).to(self._device)
        return tensor.permute(0, 3, 1, 2).float() / 127.5 - 1


def _load(net: str) -> Any:
    heads, trunk = weights.path(f"lpips-{net}"), weights.path(TRUNKS[net])
    import torch

    network = untrained(net)
    state = torch.load(trunk, map_location="cpu", weights_only=True)
    # the package cuts torchvision's "features" into slices and keeps each layer's number
    slices = {name.split(".")[1]: name.split(".")[0] for name, _ in network.net.named_parameters()}
    features = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    named = {f"{slices[key.split('.')[0]]}.{key}": value for key, value in features.items()}
    network.net.load_state_dict(named, strict=True)
    linear = torch.load(heads, map_location="cpu", weights_only=True)
    missing, unexpected = network.load_state_dict(linear, strict=False)
    if unexpected or any(name.startswith("lin") and not name.startswith("lins") for name in missing):
        raise RuntimeError(f"the heads of LPIPS do not fit: {unexpected} {missing}")
    return network


def untrained(net: str) -> Any:
    """The package's network with no weights of anybody's. Raises MissingDependency."""
    try:
        import lpips
    except ModuleNotFoundError as error:
        raise MissingDependency(f"LPIPS needs the Python package {error.name}", f"pip install {error.name}") from error
    return lpips.LPIPS(net=net, version="0.1", pretrained=False, pnet_rand=True, verbose=False)


def mouth_box(mask: np.ndarray) -> tuple[slice, slice] | None:
    """The smallest square around a region bool [S, S], 64 px or more, inside the picture; ``None``: it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    size = mask.shape[0]
    side = min(size, max(64, rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))
    top = int(np.clip((rows[0] + rows[-1] + 1 - side) // 2, 0, size - side))
    left = int(np.clip((columns[0] + columns[-1] + 1 - side) // 2, 0, size - side))
    return slice(top, top + side), slice(left, left + side)


FACE_LPIPS = Metric(
    id="lpips-alex@face", name="LPIPS face", unit="", better="lower", kind="clip", full_reference=True,
    weights=("lpips-alex", "alexnet"),
    definition="Learned perceptual distance (AlexNet, v0.1) of the face box from the clip's, both at 256 px, five "
    "frames a second.",
)  # fmt: skip
MOUTH_LPIPS = Metric(
    id="lpips-alex@mouth", name="LPIPS mouth", unit="", better="lower", kind="clip", full_reference=True,
    weights=("lpips-alex", "alexnet"),
    definition="Learned perceptual distance (AlexNet, v0.1) of the square around the clip's own mouth region, at "
    "128 px, five frames a second.",
)  # fmt: skip
_MOUTH_SIDE = 128


class LpipsMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "lpips"
    metrics = (FACE_LPIPS, MOUTH_LPIPS)
    packages = (("lpips", "pip install lpips"),)

    def start(self, context: Context) -> _Session:
        return _Session(context)


@functools.cache
def _network() -> Lpips:
    return Lpips()


class _Session:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._face, self._mouth = Mean(), Mean()

    def add(self, block: Block) -> None:
        if self._context.is_truth:
            return
        mouths = block.mouth256
        pairs: tuple[list[tuple[np.ndarray, np.ndarray]], ...] = ([], [])
        for frame in block.sampled():
            both = block.output256[frame], block.truth256[frame]
            pairs[0].append(tuple(_cut(picture, FACE, SIDE) for picture in both))  # type: ignore[arg-type]
            box = mouth_box(mouths[frame])
            if box is not None:
                pairs[1].append(tuple(_cut(picture, box, _MOUTH_SIDE) for picture in both))  # type: ignore[arg-type]
        for mean, found in zip((self._face, self._mouth), pairs, strict=True):
            if found:
                mean.add(_network().distance(np.stack([a for a, _ in found]), np.stack([b for _, b in found])))

    def result(self) -> Measured:
        return values_of({FACE_LPIPS: self._face.value, MOUTH_LPIPS: self._mouth.value}, self._context)


def _cut(picture: np.ndarray, box: tuple[slice, slice], size: int) -> np.ndarray:
    return resize(np.ascontiguousarray(picture[box])[None], size)[0]
