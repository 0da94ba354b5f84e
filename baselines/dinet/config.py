"""What a DINet is made of, and what it is trained by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from g4g_core.config import Config, NetworkConfig

NAME = "dinet"


class LossWeights(Config):
    """Factors of the terms of the loss; 0 leaves a term out."""

    reconstruction: float = pydantic.Field(
        default=10.0, ge=0, description="L1 of the picture, and of what is erased; not in the public code"
    )
    perception: float = pydantic.Field(
        default=10.0, ge=0, description="VGG19 features; off where its weights are missing"
    )
    gan: float = pydantic.Field(default=1.0, ge=0, description="LSGAN; the discriminator learns with factor 1")


class DINetConfig(NetworkConfig):
    """A network and its loss."""

    size: Literal[64, 96, 128, 256] = pydantic.Field(default=256, description="S: side of the pictures, px")
    width: float = pydantic.Field(
        default=1.0, gt=0, le=1, description="factor of the public channels; they stay multiples of 8"
    )
    mel_offset: int = pydantic.Field(
        default=-2, ge=-5, le=0, description="frames; -2: the sound two frames to either side, as the public features"
    )
    clips: int = pydantic.Field(default=4, ge=1, description="B: samples in a batch, a window of five frames of each")
    mirror: bool = pydantic.Field(default=True, description="show every second sample in a mirror; the public code not")
    weights: LossWeights = LossWeights()

    def channels(self, count: int) -> int:
        """Channels of a layer that has ``count`` (a multiple of 8) in the public network."""
        return max(8, 8 * round(self.width * count / 8))

    def why_off(self, term: str, *, taught: bool) -> str:
        """See :class:`g4g_core.config.NetworkConfig`."""
        if term == "sync":
            return "the public code's own sync network is not part of ours"
        return "weight 0 in its settings" if getattr(self.weights, term) == 0 else "the weights vgg19 were not there"


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "model": {"size": 64, "width": 0.25, "clips": 3, "weights": {"perception": 0.0, "gan": 0.0}},
        "training": {
            "steps": 1500, "learning_rate": 1e-3, "warmup": 30, "log_every": 25, "validate_every": 250,
            "checkpoint_every": 250,
        },
    },
    "full": {"model": {"size": 256, "width": 1.0}},
}  # fmt: skip
"""A step of ``tiny`` costs about what one of G4G's ``tiny`` does."""

SETTINGS: Mapping[str, Any] = {
    "steps": 200_000, "learning_rate": 1e-4, "weight_decay": 0.0, "warmup": 500, "validate_every": 2000,
    "checkpoint_every": 2000,
}  # fmt: skip
