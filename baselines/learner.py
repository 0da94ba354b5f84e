"""What the learned baselines have in common in training: their windows, what they tell, what they leave."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from baselines.trained import FACTS, About, as_trained, facts_sha256, write
from baselines.windows import Windows, open_windows
from g4g_core.config import ConfigT
from g4g_core.lineage import learned_from
from g4g_core.protocols import TrainingData
from g4g_core.runs import came_of
from g4g_core.training import Turn, mapped
from g4g_model.data import ONLY

BatchT = TypeVar("BatchT")


class Learner(abc.ABC, Generic[ConfigT, BatchT]):
    """A baseline that is being trained. See :class:`g4g_core.training.Trainable`.

    One process alone: batch norm takes its statistics of the whole batch, so that the shares of several processes would
    be normalised, and drawn, otherwise than the batch.

    Args:
        name: registered.
        config: network and loss.
        module: all that a checkpoint holds; its child ``network`` is what is used afterwards. In its buffers a
            checkpoint also holds a hash of what is described, see :data:`baselines.trained.FACTS`.
        windows: what it learns from.
        validation: what figures are taken on.
    """

    shared = False

    def __init__(
        self, name: str, config: ConfigT, module: nn.Module, windows: Windows, validation: Windows | None = None
    ) -> None:
        self.name, self.config, self.module = name, config, module
        self._windows, self._validation = windows, validation
        module.register_buffer(FACTS, torch.zeros(32, dtype=torch.uint8))
        module.register_state_dict_pre_hook(self._seal)

    def _seal(self, module: nn.Module, *_: Any) -> None:
        """Note what is described now: it changes with what is found in training."""
        digest = bytearray.fromhex(facts_sha256(self.name, self.describe()))
        module.get_buffer(FACTS).copy_(torch.frombuffer(digest, dtype=torch.uint8))

    @property
    @abc.abstractmethod
    def about(self) -> About[ConfigT]:
        """What is known of the network, but for terms of the loss that have not counted yet."""

    @abc.abstractmethod
    def _drawn_from(self, windows: Windows, rng: np.random.Generator) -> BatchT:
        """A batch of windows."""

    def batch(self, rng: np.random.Generator, turn: Turn = ONLY) -> BatchT:
        return self._drawn_from(self._windows, rng)

    def describe(self) -> dict[str, Any]:
        """Configuration, what is learned from, and which terms are off."""
        return {
            **self.about.told(),
            **self.learned_from,
            "validation_samples": 0 if self._validation is None else len(self._validation),
        }

    @property
    def taught_by(self) -> dict[str, str | None] | None:
        """How a sync expert was named, with PATH for the place of its file, and the command that trains it again."""
        return None

    @property
    def learned_from(self) -> dict[str, object]:
        """The data, see :func:`g4g_core.lineage.learned_from`, and :attr:`taught_by`."""
        return {**learned_from(self._windows, self._validation), "taught_by": self.taught_by}

    def parts(self) -> list[nn.Module]:
        """See :class:`g4g_core.training.Partitioned`."""
        return [part for part in self.module.children() if next(part.parameters(), None) is not None]

    def _same(self, windows: Windows, seed: int, count: int) -> Iterator[BatchT]:
        """Batches that are the same every time, where the module is."""
        device = next(self.module.parameters()).device
        for number in range(count):
            drawn = self._drawn_from(windows, np.random.default_rng([seed, number]))
            yield mapped(drawn, lambda tensor: tensor.to(device))


def begin(data: TrainingData, clips: int, mirror: bool, seed: int) -> tuple[Windows, Windows | None]:
    """See :func:`baselines.windows.open_windows`; weights that are made next are those of ``seed``."""
    opened = open_windows(data, clips, mirror)
    torch.manual_seed(seed)
    return opened


def exported(learner: Learner[Any, Any], folder: Path) -> list[Path]:
    """``<name>.safetensors``: the network, and what it says of itself."""
    path = folder / f"{learner.name}.safetensors"
    network = learner.module.get_submodule("network")
    about = as_trained(learner.about, learner.module.state_dict())
    about = dataclasses.replace(about, learned_from=learner.learned_from, **came_of(folder))
    write(path, about, network.state_dict())
    return [path]
