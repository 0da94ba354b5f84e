"""Training Wav2Lip's lip-sync expert, after ``color_syncnet_train.py`` of Rudrabha/Wav2Lip."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.trained import About, write
from baselines.wav2lip.config import EXPERT, EXPERT_PRESETS, SETTINGS, ExpertConfig
from baselines.wav2lip.data import PairBatch, pair_batch
from baselines.wav2lip.expert import SyncExpert
from baselines.wav2lip.losses import Plateau, sync_loss
from baselines.windows import Windows, open_windows
from g4g_core.protocols import TrainingData
from g4g_core.training import Turn, mapped
from g4g_model.data import ONLY

logger = logging.getLogger(__name__)

_BATCHES = 8
"""Batches of pairs that figures are taken on."""


class Parts(nn.Module):
    """All that a checkpoint holds."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        self.network = SyncExpert(config)
        self.plateau = Plateau(config.patience)


class ExpertTrainable:
    """An expert that is being trained. See :class:`g4g_core.training.Trainable`.

    One process alone, for the reason of :class:`baselines.wav2lip.trainable.Wav2LipTrainable`.

    Training that does not leave ln 2 = 0.69, the loss of an expert that has no opinion, is a known failure. It is said
    in a warning when it has lasted ``config.patience`` steps, and by ``stuck`` in every validation; training goes on,
    because some runs leave it late.
    """

    shared = False

    def __init__(self, config: ExpertConfig, windows: Windows, validation: Windows | None = None) -> None:
        self.name, self.config = EXPERT, config
        self.module = Parts(config)
        self._windows, self._validation = windows, validation
        self._loss: torch.Tensor | None = None

    def describe(self) -> dict[str, Any]:
        """Configuration, and what is learned from."""
        return {
            **About(self.name, self.config).told(),
            **self._windows.describe(),
            "validation_samples": 0 if self._validation is None else len(self._validation),
        }

    def batch(self, rng: np.random.Generator, turn: Turn = ONLY) -> PairBatch:
        return pair_batch(self._windows, self.config, self.config.pairs, rng)

    def losses(self, batch: PairBatch) -> dict[str, torch.Tensor]:
        """``total``, the cross entropy; ``right``, the share of pairs that are taken for what they are."""
        sounds, faces = self.module.network(batch.mel, batch.faces)
        total = sync_loss(sounds, faces, batch.fits)
        self._loss = total.detach()
        believed = (sounds * faces).sum(1) > 0.5
        return {"total": total, "right": (believed == (batch.fits > 0.5)).float().mean()}

    def after_step(self) -> None:
        """See :class:`g4g_core.training.AfterStep`: watches for a loss that stays at 0.69."""
        assert self._loss is not None
        if self.module.plateau.update(self._loss):
            logger.warning(
                "%s: the loss has stayed at 0.69 (ln 2) for %d steps: the expert tells no right pair from a wrong one. "
                "Check that sound and picture fit (g4g-prep measures offsets: select shots whose offset is known and "
                "0), that there are enough people and minutes (%d and %.1f here), and that the faces are large enough "
                "to read lips from; then try a lower learning_rate or more pairs. Large networks may need many "
                "thousand steps to leave 0.69.",
                self.name,
                self.config.patience,
                len(self._windows.identities),
                self._windows.describe()["minutes"],
            )

    def validate(self) -> dict[str, float]:
        """``loss`` and ``right`` on the same pairs every time, of people who are not trained on; ``stuck``: 0 or 1."""
        told = {"stuck": float(self.module.plateau.stuck)}
        if self._validation is None:
            return told
        device = self.module.plateau.level.device
        found = []
        for number in range(_BATCHES):
            drawn = pair_batch(self._validation, self.config, self.config.pairs, np.random.default_rng([0, number]))
            found.append(self.losses(mapped(drawn, lambda tensor: tensor.to(device))))
        loss, right = (float(torch.stack([terms[name] for terms in found]).mean()) for name in ("total", "right"))
        return {"loss": loss, "right": right, **told, "score": -loss}


class ExpertTrainableKind:
    """The entry point of the expert. See :class:`g4g_core.protocols.TrainableKind`."""

    Config = ExpertConfig
    presets: Mapping[str, Mapping[str, Any]] = EXPERT_PRESETS
    settings: Mapping[str, Any] = SETTINGS

    def open(self, config: ExpertConfig, data: TrainingData, *, seed: int, quiet: bool = False) -> ExpertTrainable:
        """Make the network with weights of ``seed``; samples are read as they are needed.

        Raises:
            DatasetError: nothing to learn from, or a person who is trained on and in the validation.
        """
        windows, validation = open_windows(data, 1, config.mirror)
        torch.manual_seed(seed)
        return ExpertTrainable(config, windows, validation)

    def export(self, trainable: ExpertTrainable, folder: Path) -> list[Path]:
        """``wav2lip-expert.safetensors``: for :mod:`baselines.wav2lip.sync_expert`."""
        path = folder / f"{EXPERT}.safetensors"
        write(path, About(EXPERT, trainable.config), trainable.module.network.state_dict())
        return [path]


EXPERT_TRAINABLE = ExpertTrainableKind()
