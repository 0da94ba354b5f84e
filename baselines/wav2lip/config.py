"""Which Wav2Lip: the public size and width, and a narrow one that learns in minutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pydantic

from g4g_core.config import NetworkConfig

FRAMES = 5
"""T: frames that the sync expert sees at once, and that the generator is trained on at once."""


class Wav2LipConfig(NetworkConfig):
    """The shape of a network: generator, sync expert and discriminator of one size and width belong together.

    The defaults are the public checkpoints'. At 64 px every network has one step of halving (and the generator one of
    doubling) less, the coarsest, and its core spans 4x4 instead of 3x3.
    """

    size: Literal[64, 96] = pydantic.Field(default=96, description="side of the pictures the network works at, px")
    width: float = pydantic.Field(
        default=1.0, gt=0, le=1, description="factor of all channels inside the network; they stay multiples of 8"
    )
    mel_offset: int = pydantic.Field(
        default=0,
        ge=-5,
        le=0,
        description="frames by which the sound of a picture is moved; 0: as the public inference",
    )

    @property
    def halvings(self) -> int:
        """Steps from ``size`` down to the core."""
        return 4 if self.size == 64 else 5

    @property
    def core(self) -> int:
        """Side of the coarsest features, which one convolution takes to 1x1."""
        return self.size >> self.halvings

    def channels(self, count: int) -> int:
        """Channels of a layer that has ``count`` (a multiple of 8) in the public network."""
        return max(8, 8 * round(self.width * count / 8))


class GeneratorConfig(Wav2LipConfig):
    """A generator, and what it is trained by.

    The loss is ``sync * expert + (1 - sync) * L1`` as in ``wav2lip_train.py``.
    """

    places: ClassVar[frozenset[str]] = frozenset({"expert"})

    clips: int = pydantic.Field(default=16, ge=1, description="B: samples in a batch, a window of five frames of each")
    mirror: bool = pydantic.Field(default=True, description="show every second sample in a mirror; the public code not")
    sync: float = pydantic.Field(default=0.01, ge=0, lt=1, description="weight of the frozen expert's sync loss")
    sync_below: float = pydantic.Field(
        default=0.75, gt=0, description="the sync loss counts once a validation found it below this"
    )
    expert: str | None = pydantic.Field(
        default=None,
        description="a wav2lip-expert: file, or folder of its run; else the public one, where it fits and is here",
    )

    def why_off(self, term: str, *, taught: bool) -> str:
        """See :class:`g4g_core.config.NetworkConfig`."""
        if getattr(self, term) == 0:
            return "weight 0 in its settings"
        if not taught:
            return "no expert was there"
        below = f"{self.sync_below:g}"
        return f"it counts only after a validation that finds it below {below}; there was none before the end"


class GanConfig(GeneratorConfig):
    """The same with the discriminator, as in ``hq_wav2lip_train.py``: ``gan`` is taken from L1's share, too."""

    sync: float = pydantic.Field(default=0.03, ge=0, lt=1, description="weight of the frozen expert's sync loss")
    gan: float = pydantic.Field(
        default=0.07, ge=0, lt=1, description="weight of the discriminator's word; it learns with factor 1"
    )

    @pydantic.model_validator(mode="after")
    def _leave_a_share(self) -> GanConfig:
        if self.sync + self.gan >= 1:
            raise ValueError("sync and gan must leave a share to L1: their sum must be below 1")
        return self


class ExpertConfig(Wav2LipConfig):
    """A sync expert, and what it is trained by.

    ``mel_offset`` moves the sound of five pictures against the first of them.
    """

    pairs: int = pydantic.Field(
        default=64, ge=2, multiple_of=2, description="pairs of pictures and sound in a batch, half of them wrong"
    )
    windows: int | None = pydantic.Field(
        default=None,
        ge=2,
        le=12,
        description="W windows of a sample, the sound of each compared with all W; pairs / W samples are in a batch. "
        "By default one pair of a sample, as in the public code",
    )
    mirror: bool = pydantic.Field(default=True, description="show every second sample in a mirror; the public code not")
    patience: int = pydantic.Field(
        default=2000,
        ge=1,
        description="steps without a loss below ln 2 = 0.69 that count as stuck; at most half of a run",
    )

    @pydantic.model_validator(mode="after")
    def _whole_samples(self) -> ExpertConfig:
        if self.windows is not None and self.pairs % self.windows:
            raise ValueError(f"pairs ({self.pairs}) must be a multiple of windows ({self.windows})")
        return self


GENERATORS = ("wav2lip", "wav2lip-gan")
EXPERT = "wav2lip-expert"

CONFIGS: Mapping[str, type[Wav2LipConfig]] = {
    "wav2lip": GeneratorConfig,
    "wav2lip-gan": GanConfig,
    EXPERT: ExpertConfig,
}
"""Configuration of what is trained, and of what a checkpoint may be of, by registered name."""

_FULL = {"size": 96, "width": 1.0}
_SHORT = {"warmup": 30, "log_every": 25, "validate_every": 250, "checkpoint_every": 250}

GENERATOR_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "model": {"size": 64, "width": 0.375, "mel_offset": -1, "clips": 3, "sync_below": 0.69},
        "training": {**_SHORT, "validate_every": 50, "steps": 1500, "learning_rate": 1e-3},
    },
    "full": {"model": {**_FULL, "mel_offset": -1}},
}
"""The public training hears a frame earlier than the public inference: offset -1. Ours keeps to what it learned.

A step of ``tiny`` costs about what one of G4G's ``tiny`` does. Its threshold lies under ln 2, what an expert without
any opinion says: an expert that has learned nothing in its few steps never counts, and the table then says ``sync:
off``. The judgement is made every 50 steps, for such runs are short.
"""

EXPERT_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "model": {"size": 64, "width": 0.25, "pairs": 32, "windows": 8, "patience": 300},
        "training": {**_SHORT, "steps": 1000, "learning_rate": 2e-3},
    },
    "full": {"model": _FULL},
}
"""In the few steps of a short run ``tiny`` learns little from 32 pairs at the public rate; see docs/baselines.md."""

SETTINGS: Mapping[str, Any] = {
    "steps": 300_000, "learning_rate": 1e-4, "weight_decay": 0.0, "warmup": 500, "validate_every": 3000,
    "checkpoint_every": 3000,
}  # fmt: skip
"""Adam's rate and the steps between two judgements are the public ``hparams.py``'s."""
