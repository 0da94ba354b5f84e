"""What a G4G network is made of, what it is trained by, and the variants for ablations.

Marks, here and in all of this package: [P] the paper (arXiv 2402.18122) says so; [O] our reading of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from g4g_core.config import Config, NetworkConfig
from g4g_core.errors import UsageError

FRAMES = 5
"""T: frames of a training window, and of a stack that the mouth encoder sees [P]."""

Size = Literal[64, 96, 128, 256]


class LossWeights(Config):
    """Factors of the terms of the loss; 0 leaves a term out."""

    reconstruction: float = pydantic.Field(default=10.0, ge=0, description="masked L1 over scales and regions")
    perception: float = pydantic.Field(
        default=2.0, ge=0, description="VGG19 features; off where its weights are missing"
    )
    attribute: float = pydantic.Field(
        default=0.5, ge=0, description="statistics of aligned features, output and references"
    )
    gan: float = pydantic.Field(default=0.2, ge=0, description="LSGAN; the discriminator learns with factor 1")
    features: float = pydantic.Field(default=1.0, ge=0, description="feature matching in the discriminator")
    sync: float = pydantic.Field(default=0.3, ge=0, description="generated mouths in the matrix of mouths and sounds")
    alignment: float = pydantic.Field(
        default=1.0, ge=0, description="real mouths in that matrix; all that E_m learns from"
    )
    expert: float = pydantic.Field(default=0.3, ge=0, description="generated mouths, as a sync expert reads them")
    identity: float = pydantic.Field(default=0.5, ge=0, description="1 - cosine of output and references")


class RegionWeights(Config):
    """Weights of the regions of the masked L1: more on the lips than on the mouth than on the lower face [P]."""

    lips: float = pydantic.Field(default=1.0, ge=0)
    mouth: float = pydantic.Field(default=0.6, ge=0)
    lower_face: float = pydantic.Field(default=0.4, ge=0)
    erase: float = pydantic.Field(
        default=0.4, ge=0, description="all that is redrawn; cheeks and neck lie in no other region"
    )


class Stage(Config):
    """A part of the training at a smaller size, before the others."""

    size: Size = pydantic.Field(description="side of the pictures, px; smaller than that of the network")
    steps: int = pydantic.Field(ge=1, description="optimiser steps")


class G4GConfig(NetworkConfig):
    """A network, its switches and its loss."""

    size: Size = pydantic.Field(default=256, description="S: side of the pictures the network works at, px")
    channels: tuple[int, int, int] = pydantic.Field(
        default=(64, 128, 256), description="of the features at the three scales, fine to coarse; multiples of 8"
    )
    embedding: int = pydantic.Field(default=256, ge=8, description="length of mouth and audio features")
    mel_offset: int = pydantic.Field(
        default=-2, ge=-5, le=0, description="frames; -2: the sound two frames to either side"
    )
    intra: bool = pydantic.Field(default=True, description="AdaIN alignment of pictures with sketches")
    inter: bool = pydantic.Field(default=True, description="alignment of mouths with sounds, and lip sync through it")
    pairs: Literal["diagonal", "pairwise"] = pydantic.Field(
        default="diagonal", description="contrast of mouths and sounds"
    )
    masks: Literal["multi", "single"] = pydantic.Field(
        default="multi", description="supervision over scales and regions"
    )
    fusion: bool = pydantic.Field(default=True, description="deformation fusion in the ring; else a hard edge")
    clips: int = pydantic.Field(default=8, ge=2, description="B: samples in a batch")
    windows: int = pydantic.Field(default=12, ge=6, description="windows of each in the matrix of mouths and sounds")
    settle: int = pydantic.Field(
        default=2000, ge=0, description="steps before GAN, feature matching and lip sync count"
    )
    mirror: bool = pydantic.Field(default=True, description="show every second sample in a mirror")
    average: float = pydantic.Field(default=0.999, ge=0, lt=1, description="decay of the averaged weights")
    stages: tuple[Stage, ...] = pydantic.Field(default=(), description="smaller sizes that training begins with")
    expert: str | None = pydantic.Field(
        default=None,
        description="a sync expert that takes part in the loss, e.g. sync-a; NAME:PATH for weights of your own",
    )
    identity: str | None = pydantic.Field(
        default=None, description="an identity network that takes part in the loss, where one is registered"
    )
    weights: LossWeights = LossWeights()
    regions: RegionWeights = RegionWeights()

    @pydantic.field_validator("channels")
    @classmethod
    def _in_eights(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if any(width < 8 or width % 8 for width in value):
            raise ValueError("channels must be multiples of 8")
        return value

    @pydantic.model_validator(mode="after")
    def _growing(self) -> G4GConfig:
        sizes = [stage.size for stage in self.stages] + [self.size]
        if any(small >= large for small, large in zip(sizes[:-1], sizes[1:], strict=True)):
            raise ValueError(f"stages must grow towards size {self.size}: {', '.join(map(str, sizes[:-1]))}")
        if len(sizes) > 1 and 64 in sizes:
            raise ValueError("a network for 64 px has other strides, so that no stage can have this size")
        return self

    def size_at(self, step: int) -> int:
        """Side of the pictures of a training step, counted from 0."""
        for stage in self.stages:
            if step < stage.steps:
                return stage.size
            step -= stage.steps
        return self.size

    @property
    def expert_source(self) -> tuple[str, str | None] | None:
        """Name of the sync expert, and the path of its weights: ``None``, those that it comes with.

        Raises:
            UsageError: a colon and no path.
        """
        if self.expert is None:
            return None
        name, colon, path = self.expert.partition(":")
        if colon and not path:
            raise UsageError(f"expert={self.expert} names no path", f"Write {name}:PATH, or {name} alone.")
        return name, path or None

    def why_off(self, term: str, *, taught: bool) -> str:
        """See :class:`g4g_core.config.NetworkConfig`."""
        return "weight 0 in its settings" if getattr(self.weights, term) == 0 else "the weights vgg19 were not there"

    @property
    def strides(self) -> tuple[int, int, int]:
        """Sizes of the features below S: 1/4, 1/8, 1/16; 1/2, 1/4, 1/8 for pictures of 64 px [O]."""
        return (2, 4, 8) if self.size == 64 else (4, 8, 16)

    @property
    def mouth_size(self) -> int:
        """Side of the mouth pictures that E_m sees, px [O]."""
        return self.size // 2


SWITCHES = ("intra", "inter", "pairs", "masks", "fusion")


class NoIntraConfig(G4GConfig):
    """G4G without the alignment of pictures with sketches."""

    intra: bool = False


class NoInterConfig(G4GConfig):
    """G4G without the matrix of mouths and sounds."""

    inter: bool = False


class PairwiseConfig(G4GConfig):
    """G4G with SyncNet's pairs instead of the matrix."""

    pairs: Literal["diagonal", "pairwise"] = "pairwise"


class SingleMaskConfig(G4GConfig):
    """G4G supervised at full size, in all that is redrawn alike."""

    masks: Literal["multi", "single"] = "single"


class NoFusionConfig(G4GConfig):
    """G4G with a hard edge."""

    fusion: bool = False


VARIANTS: Mapping[str, type[G4GConfig]] = {
    "g4g": G4GConfig,
    "g4g-no-intra": NoIntraConfig,
    "g4g-no-inter": NoInterConfig,
    "g4g-pairwise": PairwiseConfig,
    "g4g-single-mask": SingleMaskConfig,
    "g4g-no-fusion": NoFusionConfig,
}
"""Configurations by registered name: G4G, and what each ablation of the paper takes away."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "model": {
            "size": 64, "channels": (16, 24, 32), "embedding": 64, "clips": 3, "settle": 120, "average": 0.99,
            "weights": {"perception": 0.0},
        },
        "training": {
            "steps": 1500, "learning_rate": 2e-3, "warmup": 30, "log_every": 25, "validate_every": 250,
            "checkpoint_every": 250,
        },
    },
    "g4g-128": {
        "model": {"size": 128, "channels": (48, 96, 160)},
        "training": {"steps": 100_000, "validate_every": 2000, "checkpoint_every": 2000},
    },
    "g4g-256": {
        "model": {"size": 256, "channels": (64, 128, 256), "stages": ({"size": 128, "steps": 80_000},)},
        "training": {"steps": 200_000, "validate_every": 2000, "checkpoint_every": 2000},
    },
}  # fmt: skip

SETTINGS: Mapping[str, Any] = {
    "steps": 200_000, "learning_rate": 2e-4, "weight_decay": 0.0, "warmup": 500, "validate_every": 2000,
    "checkpoint_every": 2000,
}  # fmt: skip


def require_variant(name: str, config: G4GConfig) -> None:
    """Raises UsageError where the switches of ``config`` are not those that the name stands for."""
    expected = VARIANTS[name]()
    for switch in SWITCHES:
        value, wanted = getattr(config, switch), getattr(expected, switch)
        if value != wanted:
            raise UsageError(
                f"{name} has {switch}={wanted}, not {value}",
                f"Every switch has a name of its own: {', '.join(sorted(VARIANTS))}.",
            )
