"""The Inception v3 of FID (Szegedy et al. 2016; weights of 2015-12-05 as ``pytorch-fid`` ported them), for speed.

The same features as ``pytorch_fid.inception.InceptionV3`` but for float noise, in half the time on a processor. What
differs from its modules, all of it exact in real numbers:

- batch normalisation is folded into the convolutions, and pixels lie channels-last;
- the 1x1 convolutions that a block applies to the same input are one matrix product;
- where a branch averages its neighbourhood and then applies a 1x1 convolution, the convolution comes first: both are
  linear, the mean's weights add up to 1, and fewer channels are left to average.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from g4g_core.errors import WeightsError

if TYPE_CHECKING:
    import torch

INPUT = 299
"""Pictures are resized to this side."""

FEATURES = 2048

_NORM_EPSILON = 1e-3
_NOT_NEEDED = ("fc.weight", "fc.bias")  # the classifier


@dataclasses.dataclass(frozen=True)
class _Block:
    """A block of branches, by the names of their layers without ``branch``.

    Attributes:
        heads: 1x1 convolutions of the block's input.
        tails: what follows each head; layers that stand in a tuple have the same input, and their outputs follow each
            other.
        pool: the branch that pools. ``mean`` and ``max`` cover 3x3 and are followed by a 1x1 convolution; ``shrink`` is
            a maximum at every other pixel, and the last convolution of every tail keeps every other pixel, too.
        headless: a branch that is one convolution of the block's input, or "".
    """

    heads: tuple[str, ...]
    tails: tuple[tuple[str | tuple[str, ...], ...], ...]
    pool: Literal["mean", "max", "shrink"]
    headless: str = ""


_A = _Block(("1x1", "5x5_1", "3x3dbl_1"), ((), ("5x5_2",), ("3x3dbl_2", "3x3dbl_3")), "mean")
_B = _Block(("3x3dbl_1",), (("3x3dbl_2", "3x3dbl_3"),), "shrink", "3x3")
_C = _Block(
    ("1x1", "7x7_1", "7x7dbl_1"),
    ((), ("7x7_2", "7x7_3"), ("7x7dbl_2", "7x7dbl_3", "7x7dbl_4", "7x7dbl_5")),
    "mean",
)
_D = _Block(("3x3_1", "7x7x3_1"), (("3x3_2",), ("7x7x3_2", "7x7x3_3", "7x7x3_4")), "shrink")
_E = _Block(
    ("1x1", "3x3_1", "3x3dbl_1"),
    ((), (("3x3_2a", "3x3_2b"),), ("3x3dbl_2", ("3x3dbl_3a", "3x3dbl_3b"))),
    "mean",
)
_BLOCKS = {
    **{"Mixed_5b": _A, "Mixed_5c": _A, "Mixed_5d": _A, "Mixed_6a": _B},
    **{"Mixed_6b": _C, "Mixed_6c": _C, "Mixed_6d": _C, "Mixed_6e": _C},
    **{"Mixed_7a": _D, "Mixed_7b": _E, "Mixed_7c": dataclasses.replace(_E, pool="max")},
}


class InceptionNetwork:
    """The network without its classifier.

    Args:
        state: the state of torchvision's ``Inception3`` without auxiliary classifier, as ``pytorch-fid`` loads it.

    Raises:
        WeightsError: a tensor of the network is missing, or there is one that is not of the network.
    """

    def __init__(self, state: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> None:
        weights = _Weights(state, device, dtype)
        self._stem = [
            weights.conv("Conv2d_1a_3x3", stride=2),
            weights.conv("Conv2d_2a_3x3", pad=False),
            weights.conv("Conv2d_2b_3x3"),
        ]
        self._neck = [weights.conv("Conv2d_3b_1x1"), weights.conv("Conv2d_4a_3x3", pad=False)]
        self._blocks = [_Mixed(weights, name, block) for name, block in _BLOCKS.items()]
        weights.check_all_used()

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features [n, 2048] of pictures [n, 3, 299, 299], -1 ... 1, channels-last, of the network's type."""
        from torch.nn.functional import max_pool2d

        x = pictures
        for *layers, last in (self._stem, self._neck):
            for layer in layers:
                x = layer(x)
            x = max_pool2d(last.sums(x), 3, 2).relu_()  # a ReLU of fewer pixels: it may follow the maximum
        for block in self._blocks:
            x = block(x)
        return x.mean((2, 3))


class _Mixed:
    """One block at work: see :class:`_Block`."""

    def __init__(self, weights: _Weights, name: str, block: _Block) -> None:
        def conv(layer: str, stride: int = 1) -> _Conv:
            return weights.conv(f"{name}.branch{layer}", stride=stride)

        heads = [f"{name}.branch{head}" for head in block.heads]
        if block.pool == "mean":
            heads.append(f"{name}.branch_pool")
        self._heads = weights.conv(*heads)
        self._pool = block.pool
        self._after_max = conv("_pool") if block.pool == "max" else None
        last = 2 if block.pool == "shrink" else 1
        self._headless = conv(block.headless, last) if block.headless else None
        self._tails = [
            [
                [
                    conv(layer, last if place == len(tail) - 1 else 1)
                    for layer in ((layers,) if isinstance(layers, str) else layers)
                ]
                for place, layers in enumerate(tail)
            ]
            for tail in block.tails
        ]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        heads = list(self._heads.apart(x))
        pooled = self._pooled(heads.pop() if self._pool == "mean" else x)
        found = [self._headless(x)] if self._headless else []
        for head, tail in zip(heads, self._tails, strict=True):
            outputs = [head.relu()]
            for layers in tail:
                outputs = [layer(outputs[0]) for layer in layers]
            found += outputs
        return torch.cat([*found, pooled], dim=1)

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn.functional import avg_pool2d, max_pool2d

        if self._pool == "mean":
            x = x.contiguous(memory_format=torch.channels_last)
            return avg_pool2d(x, 3, 1, 1, count_include_pad=False).relu_()
        if self._after_max is not None:
            return self._after_max(max_pool2d(x, 3, 1, 1))
        return max_pool2d(x, 3, 2)


class _Conv:
    """Convolutions of the same input as one, normalisation folded in."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, sizes: list[int], stride: int, pad: bool) -> None:
        self._weight, self._bias, self._sizes, self._stride = weight, bias, sizes, stride
        self._padding = tuple(side // 2 for side in weight.shape[2:]) if pad else (0, 0)
        self._is_matrix = weight.shape[2:] == (1, 1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.sums(x).relu_()

    def sums(self, x: torch.Tensor) -> torch.Tensor:
        """The output before the ReLU."""
        from torch.nn.functional import conv2d, linear

        if self._is_matrix:  # as a convolution torch runs it picture by picture on one thread
            return linear(x.permute(0, 2, 3, 1), self._weight.flatten(1), self._bias).permute(0, 3, 1, 2)
        return conv2d(x, self._weight, self._bias, self._stride, self._padding)

    def apart(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """:meth:`sums` of each."""
        import torch

        return torch.split(self.sums(x), self._sizes, dim=1)


class _Weights:
    """Convolutions from the tensors of a state; every tensor must be used."""

    def __init__(self, state: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> None:
        self._left = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        self._device, self._dtype = device, dtype

    def conv(self, *names: str, stride: int = 1, pad: bool = True) -> _Conv:
        """The layers called ``names`` as one; ``pad`` keeps the size, but not at a stride of 2."""
        import torch

        weights, biases = zip(*(self._folded(name) for name in names), strict=True)
        weight = torch.cat(weights).to(self._device, self._dtype).contiguous(memory_format=torch.channels_last)
        bias = torch.cat(biases).to(self._device, self._dtype)
        return _Conv(weight, bias, [len(part) for part in biases], stride, pad and stride == 1)

    def check_all_used(self) -> None:
        if surplus := sorted(set(self._left) - set(_NOT_NEEDED)):
            raise WeightsError(f"these are no weights of FID's Inception: there is also {surplus[0]}")

    def _folded(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """float64 weight and bias of a convolution with its normalisation."""
        weight, scale, shift, mean, variance = (
            self._take(f"{name}.{tensor}")
            for tensor in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        )
        scale = scale / (variance + _NORM_EPSILON).sqrt()
        return weight * scale[:, None, None, None], shift - mean * scale

    def _take(self, name: str) -> torch.Tensor:
        if name not in self._left:
            raise WeightsError(f"these are no weights of FID's Inception: there is no {name}")
        return self._left.pop(name).detach().double()
