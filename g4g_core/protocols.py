"""What packages expect of each other's parts, so that they can be found by name and used without being imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from g4g_core.config import Config

if TYPE_CHECKING:
    from g4g_core.training import Trainable


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a trainable may learn from.

    Attributes:
        shards: a data set made by ``g4g-prep build-shards``, folder or URL.
        splits: of it; samples of others are never trained on.
        selection: file of keys made by ``g4g-prep select``, or ``None`` for all of these splits.
        validation: file of keys that figures are taken on, or ``None`` for none.
    """

    shards: str
    splits: tuple[str, ...] = ("train",)
    selection: str | None = None
    validation: str | None = None


class TrainableKind(Protocol):
    """What the entry points of ``g4g.trainables`` name.

    Attributes:
        Config: fields of the network and its loss.
        presets: named values for some of these fields.
        settings: this kind's defaults of :class:`g4g_core.training.Settings`.
    """

    Config: type[Config]
    presets: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]

    def open(self, config: Any, data: TrainingData, *, seed: int, quiet: bool = False) -> Trainable:
        """Make the network with weights of ``seed``, and read what it learns from."""
        ...

    def export(self, trainable: Any, folder: Path) -> list[Path]:
        """Write what a trained network is used by; returns the files."""
        ...
