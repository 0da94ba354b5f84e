"""Training Wav2Lip's lip-sync expert, after ``color_syncnet_train.py`` of Rudrabha/Wav2Lip."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.learner import Learner, begin, exported
from baselines.trained import About, told_of
from baselines.wav2lip import checkpoint as checkpoints
from baselines.wav2lip.config import EXPERT, EXPERT_PRESETS, SETTINGS, ExpertConfig
from baselines.wav2lip.data import PairBatch, pair_batch
from baselines.wav2lip.expert import SyncExpert
from baselines.wav2lip.losses import Plateau, sync_loss
from baselines.windows import Windows
from g4g_core.protocols import TrainingData

logger = logging.getLogger(__name__)

_BATCHES = 8
"""Batches of pairs that figures are taken on."""


class Parts(nn.Module):
    """All that a checkpoint holds."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        self.network = SyncExpert(config)
        self.plateau = Plateau(config.patience)


class ExpertTrainable(Learner[ExpertConfig, PairBatch]):
    """An expert that is being trained.

    Training that does not go below ln 2 = 0.69, the loss of an expert that has no opinion, is a known failure. It is
    said in a warning when it has lasted ``config.patience`` steps, or half of a shorter run; by ``stuck`` in every
    validation; and, where it lasts to the end, by the checkpoint. Training goes on, because some runs leave it late.
    """

    module: Parts

    def __init__(self, config: ExpertConfig, windows: Windows, validation: Windows | None = None) -> None:
        super().__init__(EXPERT, config, Parts(config), windows, validation)
        self._loss: torch.Tensor | None = None

    @property
    def about(self) -> About[ExpertConfig]:
        """See :class:`baselines.learner.Learner`; a loss that stayed at chance is a finding."""
        watch = self.module.plateau
        found = f"stuck at 0.69: in its last {int(watch.steps)} steps it was no better than chance"
        return About(self.name, self.config, findings=(found,) if watch.stuck else ())

    def check(self, steps: int, ranks: int) -> None:
        """See :class:`g4g_core.training.Checked`. Nothing is refused: a short run is watched with less patience."""
        self.module.plateau.patience = max(1, min(self.config.patience, steps // 2))

    def _drawn_from(self, windows: Windows, rng: np.random.Generator) -> PairBatch:
        """As it learns from the training's samples, so it is judged on those of the validation."""
        return pair_batch(windows, self.config, rng)

    def losses(self, batch: PairBatch) -> dict[str, torch.Tensor]:
        """``total``, the cross entropy; ``right``, the share of pairs that are taken for what they are.

        Right and wrong pairs weigh the same, however many of them there are.
        """
        sounds, faces = self.module.network(batch.mel, batch.faces)
        terms, found = [], []
        for fits in (True, False):
            chosen = batch.fits == fits
            said, seen = sounds[batch.said[chosen]], faces[batch.seen[chosen]]
            terms.append(sync_loss(said, seen, float(fits)))
            found.append((((said * seen).sum(1) > 0.5) == fits).float().mean())
        total = torch.stack(terms).mean()
        self._loss = total.detach()
        return {"total": total, "right": torch.stack(found).mean()}

    def after_step(self) -> None:
        """See :class:`g4g_core.training.AfterStep`: watches for a loss that stays at 0.69."""
        assert self._loss is not None
        if self.module.plateau.update(self._loss):
            logger.warning(
                "%s: the loss has not gone below 0.69 (ln 2) in %d steps: the expert tells no right pair from a wrong "
                "one. "
                "Check that sound and picture fit (g4g-prep measures offsets: select shots whose offset is known and "
                "0), that there are enough people and minutes (%d and %.1f here), and that the faces are large enough "
                "to read lips from; then try a lower learning_rate or more pairs. Large networks may need many "
                "thousand steps to leave 0.69.",
                self.name,
                self.module.plateau.patience,
                len(self._windows.identities),
                self.learned_from["minutes"],
            )

    def validate(self) -> dict[str, float]:
        """``loss`` and ``right`` on the same pairs every time, of people who are not trained on; ``stuck``: 0 or 1."""
        told = {"stuck": float(self.module.plateau.stuck)}
        if self._validation is None:
            return told
        found = [self.losses(batch) for batch in self._same(self._validation, 0, _BATCHES)]
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
        windows, validation = begin(data, 1, config.mirror, seed)
        return ExpertTrainable(config, windows, validation)

    def info(self, checkpoint: str | None, preset: str | None) -> dict[str, Any]:
        """See :class:`g4g_core.protocols.SelfDescribing`; with neither, of the registry's weights, if they are here."""
        about, source = checkpoints.described(EXPERT, EXPERT_PRESETS, checkpoint, preset)
        size = about.config.size
        sights = {
            "mel": "[B, 1, 80, 16] in [-4, 4], bands x columns at 80 a second, of the first of five frames; moved by "
            f"{about.config.mel_offset} frames",
            "faces": f"[B, 15, {size // 2}, {size}] BGR in 0..1; the lower halves of five faces",
        }
        return told_of(about, SyncExpert, sights, source)

    def export(self, trainable: ExpertTrainable, folder: Path) -> list[Path]:
        """``wav2lip-expert.safetensors``: for :mod:`baselines.wav2lip.sync_expert`."""
        return exported(trainable, folder)


EXPERT_TRAINABLE = ExpertTrainableKind()
