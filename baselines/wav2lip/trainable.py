"""Training Wav2Lip's generator: L1, a frozen expert's word from its time on, and with ``wav2lip-gan`` a discriminator.

After ``wav2lip_train.py`` and ``hq_wav2lip_train.py`` of Rudrabha/Wav2Lip. What differs: one optimiser takes the steps
of both networks, with the loop's momenta, schedule and clipping; the expert is in evaluation mode
(:mod:`baselines.wav2lip.sync_expert`), and is asked about 32 windows of the validation, or of the training where there
is none, in place of some hundred batches.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.figures import contact_sheet, mouth_figures
from baselines.learner import Learner, begin, exported
from baselines.trained import About
from baselines.wav2lip.checkpoint import PUBLIC
from baselines.wav2lip.config import CONFIGS, EXPERT, GENERATOR_PRESETS, SETTINGS, GanConfig, GeneratorConfig
from baselines.wav2lip.data import FaceBatch, face_batch
from baselines.wav2lip.discriminator import Discriminator
from baselines.wav2lip.generator import Generator
from baselines.wav2lip.losses import cross_entropy
from baselines.wav2lip.pixels import pictures_out
from baselines.wav2lip.sync_expert import WAV2LIP_SYNC_EXPERT, FrozenExpert
from baselines.windows import Windows
from g4g_core import weights
from g4g_core.errors import UsageError
from g4g_core.protocols import TrainingData
from g4g_model.trainable import frozen
from g4g_model.validation import SHOWN, WINDOWS

logger = logging.getLogger(__name__)


class Counted(nn.Module):
    """Steps in which the sync loss was part of the loss, see :data:`baselines.trained.COUNTED`."""

    sync: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sync", torch.zeros((), dtype=torch.int64))


class Parts(nn.Module):
    """All that a checkpoint holds; ``in_sync`` is 1 from the validation on after which the sync loss counts."""

    in_sync: torch.Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.network = Generator(config)
        adversarial = isinstance(config, GanConfig) and config.gan > 0
        self.discriminator = Discriminator(config) if adversarial else None
        self.register_buffer("in_sync", torch.zeros((), dtype=torch.int64))
        self.counted = Counted()


class Wav2LipTrainable(Learner[GeneratorConfig, FaceBatch]):
    """A generator that is being trained.

    Args:
        name: registered.
        config: network and loss.
        windows: what it learns from.
        validation: what figures are taken on.
        expert: a frozen sync expert; ``None``: the sync loss is off.
    """

    module: Parts

    def __init__(
        self,
        name: str,
        config: GeneratorConfig,
        windows: Windows,
        validation: Windows | None = None,
        expert: FrozenExpert | None = None,
    ) -> None:
        super().__init__(name, config, Parts(config), windows, validation)
        self._expert = expert

    @property
    def losses_off(self) -> tuple[str, ...]:
        """Terms that are off from the start although the original has them."""
        silent = isinstance(self.config, GanConfig) and self.config.gan == 0
        return (("gan",) if silent else ()) + (("sync",) if self._expert is None else ())

    @property
    def trained_against(self) -> tuple[str, ...]:
        """SHA-256 of the expert."""
        return () if self._expert is None else (self._expert.sha256,)

    @property
    def taught_by(self) -> dict[str, str | None] | None:
        """See :class:`baselines.learner.Learner`."""
        if self._expert is None or self.config.expert is None:
            return None
        return {"expert": "PATH", "command": self._expert.command}

    @property
    def about(self) -> About[GeneratorConfig]:
        """See :class:`baselines.learner.Learner`. Where the expert lay is not part of it, its hash is."""
        config = self.config.model_copy(update={"expert": None})
        return About(self.name, config, self.losses_off, self.trained_against)

    def _drawn_from(self, windows: Windows, rng: np.random.Generator) -> FaceBatch:
        offset = 0 if self._expert is None else self._expert.mel_offset
        return face_batch(windows.draw(rng), self.config, offset)

    def losses(self, batch: FaceBatch) -> dict[str, torch.Tensor]:
        """Every term, unweighted, and ``total``. ``sync`` is told from the first step on, and counts from its time."""
        parts, config = self.module, self.config
        drawn = parts.network(batch.mel, batch.faces).float()
        terms = {"reconstruction": (drawn - batch.truth).abs().mean()}
        weighted = torch.zeros((), device=drawn.device)
        share = 1.0
        if self._expert is not None:
            counts = bool(parts.in_sync)
            with torch.set_grad_enabled(counts and torch.is_grad_enabled()):
                terms["sync"] = self._expert.judged(drawn, batch.speech)
            if counts:
                weighted, share = weighted + config.sync * terms["sync"], share - config.sync
        if parts.discriminator is not None and isinstance(config, GanConfig):
            judge = parts.discriminator
            true, made = cross_entropy(judge(batch.truth), 1.0), cross_entropy(judge(drawn.detach()), 0.0)
            terms["discriminator"] = true + made
            with frozen(judge):
                terms["gan"] = cross_entropy(judge(drawn), 1.0)
            weighted, share = weighted + config.gan * terms["gan"] + terms["discriminator"], share - config.gan
        return {"total": weighted + share * terms["reconstruction"], **terms}

    def after_step(self) -> None:
        """See :class:`g4g_core.training.AfterStep`: counts the steps in which the expert was heard."""
        if self._expert is not None:
            self.module.counted.sync += self.module.in_sync

    def validate(self) -> dict[str, float]:
        """Figures on the same windows every time; with an expert also ``sync``, its loss on what is drawn.

        Below ``config.sync_below`` it counts in training from here on (``eval_model`` of ``wav2lip_train.py``);
        ``sync_weight`` tells whether. Without a validation set, ``sync`` is taken on the training's windows.
        """
        seen = self._validation or self._windows
        if self._validation is None and self._expert is None:
            return {}
        shown, heard = [], []
        for batch in self._same(seen, 0, WINDOWS):
            drawn = self.module.network(batch.mel, batch.faces)
            shown.append((_frames(drawn), _frames(batch.truth), _frames(batch.mouth)))
            if self._expert is not None:
                heard.append(float(self._expert.judged(drawn, batch.speech)))
        told = {} if self._validation is None else mouth_figures(shown)
        if heard:
            sync = float(np.mean(heard))
            if sync < self.config.sync_below:
                self.module.in_sync.fill_(1)
            told |= {"sync": sync, "sync_weight": self.config.sync * int(self.module.in_sync)}
        return told

    def pictures(self) -> dict[str, np.ndarray]:
        """Middle frames of four windows: what is shown, drawn, true, twice the difference of these, the reference."""
        rows, middle = [], 2
        for batch in self._same(self._validation or self._windows, 1, SHOWN):
            drawn = self.module.network(batch.mel, batch.faces)
            shown, known = batch.faces.split(3, dim=1)
            rows.append([pictures_out(x[0, :, middle]) for x in (shown, drawn, batch.truth, known)])
        return {"faces": contact_sheet(rows)}


def _frames(pictures: torch.Tensor) -> torch.Tensor:
    """[B, C, T, S, S] as [B T, C, S, S]."""
    return pictures.transpose(1, 2).flatten(0, 1)


class Wav2LipTrainableKind:
    """The entry point of a generator. See :class:`g4g_core.protocols.TrainableKind`."""

    presets: Mapping[str, Mapping[str, Any]] = GENERATOR_PRESETS
    settings: Mapping[str, Any] = SETTINGS

    def __init__(self, name: str) -> None:
        self.name = name
        self.Config = CONFIGS[name]

    def open(self, config: GeneratorConfig, data: TrainingData, *, seed: int, quiet: bool = False) -> Wav2LipTrainable:
        """Make the networks with weights of ``seed``; samples are read as they are needed.

        Raises:
            UsageError: an expert of another size.
            WeightsError: the expert that the configuration names cannot be read.
            DatasetError: too little to learn from, or a person who is trained on and in the validation.
        """
        expert = _expert(config)
        windows, validation = begin(data, config.clips, config.mirror, seed)
        return Wav2LipTrainable(self.name, config, windows, validation, expert)

    def export(self, trainable: Wav2LipTrainable, folder: Path) -> list[Path]:
        """``<name>.safetensors``: the generator, for :mod:`baselines.wav2lip.model`."""
        return exported(trainable, folder)


def _expert(config: GeneratorConfig) -> FrozenExpert | None:
    """The expert of the configuration; else the public one, where it fits and is here; else none, and a word."""
    if config.sync == 0:
        return None
    if config.expert is not None:
        expert = WAV2LIP_SYNC_EXPERT.open(config.expert)
        if expert.size != config.size:
            raise UsageError(
                f"the expert {config.expert} sees pictures of {expert.size} px, the generator draws {config.size} px",
                f"Train one: g4g-model train --model {EXPERT} --set size={config.size}.",
            )
        return expert
    public = CONFIGS[EXPERT]().size
    if config.size == public and weights.find(PUBLIC[EXPERT]) is not None:
        return WAV2LIP_SYNC_EXPERT.open()
    logger.warning(
        "sync: off, because no expert for %d px is here; train %s and name it with --set expert=PATH%s; checkpoint and "
        "tables will say so",
        config.size,
        EXPERT,
        f", or g4g-model weights fetch {PUBLIC[EXPERT]}" if config.size == public else "",
    )
    return None


WAV2LIP_TRAINABLE = Wav2LipTrainableKind("wav2lip")
WAV2LIP_GAN_TRAINABLE = Wav2LipTrainableKind("wav2lip-gan")
