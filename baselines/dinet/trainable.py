"""Training DINet on the windows that G4G is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.dinet.config import NAME, PRESETS, SETTINGS, DINetConfig
from baselines.dinet.inputs import pictures_in, pictures_out, source_in
from baselines.dinet.network import DINet
from baselines.figures import contact_sheet, mouth_figures
from baselines.learner import Learner, begin, exported
from baselines.trained import About
from baselines.windows import Window, Windows
from g4g_core.protocols import TrainingData
from g4g_model.inputs import heard
from g4g_model.losses import VGGFeatures, lsgan_discriminator, lsgan_generator, masked_l1, perception
from g4g_model.networks.discriminator import PatchDiscriminator
from g4g_model.networks.layers import flattened
from g4g_model.trainable import frozen, vgg_features
from g4g_model.validation import SHOWN, WINDOWS


@dataclasses.dataclass(frozen=True, eq=False)
class DINetBatch:
    """Windows of T = 5 frames of B samples, RGB in 0..1.

    Attributes:
        keys: of the samples.
        source: float32 [B, T, 3, S, S], black where it is hidden.
        references: float32 [B, K, 3, S, S].
        mel: float32 [B, T, 1, 80, 16].
        truth: float32 [B, T, 3, S, S].
        erase, mouth: float32 [B, T, 1, S, S] in 0..1.
    """

    keys: list[str]
    source: torch.Tensor
    references: torch.Tensor
    mel: torch.Tensor
    truth: torch.Tensor
    erase: torch.Tensor
    mouth: torch.Tensor


def batch_of(windows: list[Window], config: DINetConfig) -> DINetBatch:
    """The batch of some windows."""
    size = config.size
    sounds = [heard(w.mel, w.mel_start, w.clip_frames, config.mel_offset) for w in windows]
    return DINetBatch(
        keys=[window.key for window in windows],
        source=torch.stack([source_in(window.pictures, window.erase, size) for window in windows]),
        references=torch.stack([pictures_in(window.references, size) for window in windows]),
        mel=torch.from_numpy(np.stack(sounds)),
        truth=torch.stack([pictures_in(window.pictures, size) for window in windows]),
        erase=torch.stack([_mask(window.erase, size) for window in windows]),
        mouth=torch.stack([_mask(window.mouth, size) for window in windows]),
    )


def _mask(planes: np.ndarray, size: int) -> torch.Tensor:
    """float32 [T, 1, S, S] of uint8 [T, s, s] of 0 and 1: the part of every pixel that it covers."""
    return pictures_in(np.repeat(255 * planes[..., None], 3, -1), size)[:, :1]


class Parts(nn.Module):
    """All that a checkpoint holds."""

    def __init__(self, config: DINetConfig) -> None:
        super().__init__()
        self.network = DINet(config)
        self.discriminator = PatchDiscriminator(config.channels(64)) if config.weights.gan > 0 else None


class DINetTrainable(Learner[DINetConfig, DINetBatch]):
    """A DINet that is being trained.

    The public loss is perception, a
    discriminator of frames, one of clips, and a sync network of its own. Ours has L1, so that it learns without VGG19,
    too; G4G's patch discriminator of frames; and no sync network, which tables say.

    Args:
        config: network and loss.
        windows: what it learns from.
        validation: what figures are taken on.
        vgg: of the perception loss; ``None``: it is off.
    """

    module: Parts

    def __init__(
        self, config: DINetConfig, windows: Windows, validation: Windows | None = None, vgg: VGGFeatures | None = None
    ) -> None:
        super().__init__(NAME, config, Parts(config), windows, validation)
        self._vgg = vgg

    @property
    def about(self) -> About[DINetConfig]:
        """What an exported network says of itself."""
        off = {name for name, weight in self.config.weights.model_dump().items() if weight == 0} | {"sync"}
        return About(NAME, self.config, tuple(sorted(off | ({"perception"} if self._vgg is None else set()))))

    def _drawn_from(self, windows: Windows, rng: np.random.Generator) -> DINetBatch:
        return batch_of(windows.draw(rng), self.config)

    def _drawn(self, batch: DINetBatch) -> torch.Tensor:
        return self.module.network(batch.source, batch.references, batch.mel)

    def losses(self, batch: DINetBatch) -> dict[str, torch.Tensor]:
        """Every term, unweighted, and ``total``."""
        parts, weights = self.module, self.config.weights
        drawn = flattened(self._drawn(batch)).float()
        truth, erase = flattened(batch.truth), flattened(batch.erase)
        terms = {"reconstruction": (drawn - truth).abs().mean() + masked_l1(drawn, truth, erase)}
        if self._vgg is not None and weights.perception > 0:
            everywhere = torch.ones_like(erase)
            terms["perception"] = perception(self._vgg.to(drawn.device), 2 * drawn - 1, 2 * truth - 1, everywhere)
        if parts.discriminator is not None:
            judge = parts.discriminator
            terms["discriminator"] = lsgan_discriminator(judge(2 * truth - 1)[-1], judge(2 * drawn.detach() - 1)[-1])
            with frozen(judge):
                terms["gan"] = lsgan_generator(judge(2 * drawn - 1)[-1])
        factors = {**weights.model_dump(), "discriminator": 1.0}
        total = torch.stack([factors[name] * term for name, term in terms.items()]).sum()
        return {"total": total, **terms}

    def validate(self) -> dict[str, float]:
        """Figures on the same windows every time, see :mod:`baselines.figures`."""
        if self._validation is None:
            return {}
        shown = []
        for batch in self._same(self._validation, 0, WINDOWS):
            shown.append((flattened(self._drawn(batch)), flattened(batch.truth), flattened(batch.mouth)))
        return mouth_figures(shown)

    def pictures(self) -> dict[str, np.ndarray]:
        """Middle frames of four windows: what is shown, drawn, true, twice the difference of these, a reference."""
        rows, middle = [], 2
        for batch in self._same(self._validation or self._windows, 1, SHOWN):
            frames = [x[0, middle] for x in (batch.source, self._drawn(batch), batch.truth)]
            rows.append([pictures_out(x) for x in (*frames, batch.references[0, 0])])
        return {"faces": contact_sheet(rows)}


class DINetTrainableKind:
    """The entry point. See :class:`g4g_core.protocols.TrainableKind`."""

    Config = DINetConfig
    presets: Mapping[str, Mapping[str, Any]] = PRESETS
    settings: Mapping[str, Any] = SETTINGS

    def open(self, config: DINetConfig, data: TrainingData, *, seed: int, quiet: bool = False) -> DINetTrainable:
        """Make the network with weights of ``seed``; samples are read as they are needed.

        Raises:
            DatasetError: too little to learn from, or a person who is trained on and in the validation.
        """
        vgg = vgg_features() if config.weights.perception > 0 else None
        windows, validation = begin(data, config.clips, config.mirror, seed)
        return DINetTrainable(config, windows, validation, vgg)

    def export(self, trainable: DINetTrainable, folder: Path) -> list[Path]:
        """``dinet.safetensors``: the network, for :mod:`baselines.dinet.model`."""
        return exported(trainable, folder)


DINET_TRAINABLE = DINetTrainableKind()
