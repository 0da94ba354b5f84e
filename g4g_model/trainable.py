"""Training G4G: what its terms look at, how they are weighed, and what comes of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from g4g_core import weights as known_weights
from g4g_core.errors import DatasetError
from g4g_core.protocols import TrainingData
from g4g_model import losses
from g4g_model.checkpoint import About, write
from g4g_model.config import PRESETS, SETTINGS, VARIANTS, G4GConfig, require_variant
from g4g_model.data import Batches, G4GBatch
from g4g_model.g4g import Drawn
from g4g_model.networks.alignment import mouth_pictures
from g4g_model.networks.fusion import dilated
from g4g_model.networks.layers import flattened
from g4g_model.parts import Parts
from prep.shards.index import Dataset

logger = logging.getLogger(__name__)

VALIDATED = 32
"""Windows that figures are taken on."""

_VGG = "vgg19"


class G4GTrainable:
    """A variant of G4G that is being trained. See :class:`g4g_core.training.Trainable`.

    Args:
        name: of the variant.
        config: network and loss.
        batches: what it learns from.
        validation: what figures are taken on, one sample at a time.
        vgg: for the perception loss; ``None``: it is off.
    """

    def __init__(
        self,
        name: str,
        config: G4GConfig,
        batches: Batches,
        validation: Batches | None = None,
        vgg: losses.VGGFeatures | None = None,
    ) -> None:
        self.name, self.config = name, config
        self.module = Parts(config)
        self._batches, self._validation = batches, validation
        self._vgg = vgg if config.weights.perception > 0 else None

    @property
    def losses_off(self) -> tuple[str, ...]:
        """Terms that are off although the variant has them."""
        weights = self.config.weights.model_dump()
        absent = () if self.config.inter else ("sync", "alignment")
        off = {name for name, weight in weights.items() if weight == 0 and name not in absent}
        return tuple(sorted(off | ({"perception"} if self._vgg is None else set())))

    def describe(self) -> dict[str, Any]:
        """Configuration, what is learned from, and which terms are off."""
        return {
            "config": self.config.model_dump(mode="json"),
            "samples": len(self._batches),
            "left_out": self._batches.left_out,
            "identities": len(self._batches.identities),
            "minutes": round(self._batches.minutes, 2),
            "footage_sha256": self._batches.digest(),
            "validation_samples": 0 if self._validation is None else len(self._validation),
            "losses_off": list(self.losses_off),
            "trained_against": [],
        }

    def batch(self, rng: np.random.Generator) -> G4GBatch:
        return self._batches.draw(rng)

    def after_step(self) -> None:
        """See :class:`g4g_core.training.AfterStep`."""
        self.module.average.update(self.module.generator, self.module.mouth)

    def losses(self, batch: G4GBatch) -> dict[str, torch.Tensor]:
        """Every term, unweighted, and ``total``; ``found`` is the share of mouths that find their sound."""
        drawn: Drawn = self.module.generator(batch.inputs)
        settled = int(self.module.average.updates) >= self.config.settle
        terms = {
            "reconstruction": self._reconstruction(drawn, batch),
            **self._perception(drawn, batch),
            **self._attribute(drawn, batch),
            **self._inter(drawn, batch, settled),
            **self._adversarial(drawn, batch, settled),
        }
        weights = {**self.config.weights.model_dump(), "discriminator": 1.0}
        total = sum((weights[name] * term for name, term in terms.items() if name in weights), torch.zeros(()))
        return {"total": total, **terms}

    def _reconstruction(self, drawn: Drawn, batch: G4GBatch) -> torch.Tensor:
        """The faces in every region, and the joined picture in all that may differ from the source.

        A single mask [O]: the faces at full size, in ``erase`` alone.
        """
        truth, regions = flattened(batch.truth), {name: flattened(mask) for name, mask in batch.regions.items()}
        outcome = losses.masked_l1(drawn.picture, truth, dilated(regions["erase"]))
        if self.config.masks == "single":
            return outcome + losses.reconstruction(drawn.faces[-1:], truth, regions, {"erase": 1.0})
        return outcome + losses.reconstruction(drawn.faces, truth, regions, self.config.regions.model_dump())

    def _perception(self, drawn: Drawn, batch: G4GBatch) -> dict[str, torch.Tensor]:
        if self._vgg is None:
            return {}
        mask = dilated(flattened(batch.inputs.erase))
        return {"perception": losses.perception(self._vgg, drawn.picture, flattened(batch.truth), mask)}

    def _attribute(self, drawn: Drawn, batch: G4GBatch) -> dict[str, torch.Tensor]:
        """By the averaged network: the one that is trained could make its own features alike."""
        if self.config.weights.attribute == 0:
            return {}
        judge, inputs = self.module.average.generator, batch.inputs
        found = judge.aligned(drawn.picture, flattened(inputs.source_sketch))
        known = judge.aligned(flattened(inputs.references), flattened(inputs.reference_sketch))
        return {"attribute": losses.attribute(found, known, len(batch.keys))}

    def _inter(self, drawn: Drawn, batch: G4GBatch, settled: bool) -> dict[str, torch.Tensor]:
        """L_align on true mouths, L_sync on generated ones."""
        mouth, config = self.module.mouth, self.config
        if mouth is None:
            return {}
        terms: dict[str, torch.Tensor] = {}
        if config.weights.alignment > 0:
            seen = mouth(flattened(batch.stacks))
            sounds = unit(self.module.generator.audio(flattened(batch.sounds[:, 1:])))
            cosines, near = seen @ sounds.T, losses.too_near(batch.starts[:, 1:])
            terms["alignment"] = self._contrast(cosines, mouth.scale, near, _flat_columns(batch.wrong[:, 1:] - 1))
            found = cosines.detach().masked_fill(near, -2).argmax(1) == torch.arange(len(cosines))
            terms["found"] = found.float().mean()
        if config.weights.sync > 0:
            terms["sync"] = self._sync(drawn, batch) if settled else torch.zeros(())
        return terms

    def _sync(self, drawn: Drawn, batch: G4GBatch) -> torch.Tensor:
        """The generated window of every clip among the true ones, as the averaged encoders see and hear them."""
        judge = self.module.average
        assert judge.mouth is not None
        clips, windows = batch.starts.shape
        size = self.config.mouth_size
        mouths = mouth_pictures(drawn.picture, flattened(batch.places), size).view(clips, -1, 3, size, size)
        generated = judge.mouth(mouths)
        with torch.no_grad():
            true = judge.mouth(flattened(batch.stacks)).view(clips, windows - 1, -1)
            sounds = unit(judge.generator.audio(flattened(batch.sounds)))
        seen = flattened(torch.cat([generated[:, None], true], 1))
        anchors = windows * torch.arange(clips)
        wrong = _flat_columns(batch.wrong)
        return self._contrast(seen @ sounds.T, judge.mouth.scale, losses.too_near(batch.starts), wrong, anchors)

    def _contrast(
        self,
        cosines: torch.Tensor,
        scale: torch.Tensor,
        near: torch.Tensor,
        wrong: torch.Tensor,
        anchors: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self.config.pairs == "pairwise":
            return losses.pairwise(cosines, wrong, anchors)
        return losses.diagonal(scale * cosines, near, anchors)

    def _adversarial(self, drawn: Drawn, batch: G4GBatch, settled: bool) -> dict[str, torch.Tensor]:
        """Generator and discriminator learn in one step: neither sees the other's gradient."""
        judge, weights = self.module.discriminator, self.config.weights
        names = [name for name in ("gan", "features") if getattr(weights, name) > 0]
        if judge is None:
            return {}
        if not settled:
            return {name: torch.zeros(()) for name in (*names, "discriminator")}
        real = judge(flattened(batch.truth))
        terms = {"discriminator": losses.lsgan_discriminator(real[-1], judge(drawn.picture.detach())[-1])}
        with frozen(judge):
            fake = judge(drawn.picture)
        if "gan" in names:
            terms["gan"] = losses.lsgan_generator(fake[-1])
        if "features" in names:
            terms["features"] = losses.feature_matching(real[:-1], fake[:-1])
        return terms

    def validate(self) -> dict[str, float]:
        """Of the averaged generator: mean L1 in the mouth (0..2) and its PSNR in dB, which decides what is best."""
        if self._validation is None:
            return {}
        errors, squares = [], []
        for number in range(VALIDATED):
            batch = self._validation.draw(np.random.default_rng([0, number]))
            drawn: Drawn = self.module.average.generator(batch.inputs)
            truth, mask = flattened(batch.truth), flattened(batch.regions["mouth"])
            errors.append(float(losses.masked_l1(drawn.picture, truth, mask)))
            squares.append(float((mask * (drawn.picture - truth).square()).sum() / (3 * mask.sum())))
        psnr = float(np.mean([10 * np.log10(4 / max(value, 1e-10)) for value in squares]))
        return {"mouth_l1": float(np.mean(errors)), "mouth_psnr": psnr, "score": psnr}


def unit(sounds: torch.Tensor) -> torch.Tensor:
    """a_j of length 1, as the matrix compares them."""
    return nn.functional.normalize(sounds, dim=1)


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """What is computed in it gives gradient to inputs alone."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _flat_columns(wrong: torch.Tensor) -> torch.Tensor:
    """Columns [B W] in the whole matrix of columns [B, W] in each clip."""
    clips, windows = wrong.shape
    return (wrong + windows * torch.arange(clips)[:, None]).flatten()


class G4GKind:
    """The entry point of a variant. See :class:`g4g_core.protocols.TrainableKind`."""

    presets: Mapping[str, Mapping[str, Any]] = PRESETS
    settings: Mapping[str, Any] = SETTINGS

    def __init__(self, name: str) -> None:
        self.name = name
        self.Config = VARIANTS[name]

    def open(self, config: G4GConfig, data: TrainingData, *, seed: int, quiet: bool = False) -> G4GTrainable:
        """Make the networks with weights of ``seed``; samples are read as they are needed.

        Raises:
            UsageError: switches that are not this variant's.
            DatasetError: too little to learn from, or a person who is trained on and in the validation.
        """
        require_variant(self.name, config)
        dataset = Dataset.open(data.shards)
        batches = Batches(dataset, data.splits, config, data.selection)
        validation = None
        if data.validation is not None:
            alone = config.model_copy(update={"clips": 1})
            validation = Batches(dataset, dataset.splits, alone, data.validation)
            shared = sorted(validation.identities & batches.identities)
            if shared:
                raise DatasetError(
                    f"{shared[0]} is trained on and in the validation",
                    "Select people that the other selection leaves out.",
                )
        vgg = _vgg_features() if config.weights.perception > 0 else None
        torch.manual_seed(seed)
        return G4GTrainable(self.name, config, batches, validation, vgg)

    def export(self, trainable: G4GTrainable, folder: Path) -> list[Path]:
        """``<name>.safetensors``: the averaged generator, for :mod:`g4g_model.generator`."""
        about = About(self.name, trainable.config, trainable.losses_off, ())
        path = folder / f"{self.name}.safetensors"
        write(path, about, trainable.module.average.generator.state_dict())
        return [path]


def _vgg_features() -> losses.VGGFeatures | None:
    """VGG19 of the weights registry, or ``None`` and a word about it."""
    if known_weights.find(_VGG) is None:
        logger.warning(
            "perception: off, because the weights vgg19 are not here (g4g-model weights fetch vgg19); "
            "checkpoint and tables will say so"
        )
        return None
    return losses.VGGFeatures(torch.load(known_weights.path(_VGG), map_location="cpu", weights_only=True))


G4G_KIND = G4GKind("g4g")
NO_INTRA_KIND = G4GKind("g4g-no-intra")
NO_INTER_KIND = G4GKind("g4g-no-inter")
PAIRWISE_KIND = G4GKind("g4g-pairwise")
SINGLE_MASK_KIND = G4GKind("g4g-single-mask")
NO_FUSION_KIND = G4GKind("g4g-no-fusion")
