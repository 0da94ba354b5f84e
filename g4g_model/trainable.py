"""Training G4G: what its terms look at, how they are weighed, and what comes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from g4g_core import registry
from g4g_core import weights as known_weights
from g4g_core.errors import UsageError
from g4g_core.lineage import learned_from
from g4g_core.protocols import IdentityNetwork, SyncExpert, TrainingData
from g4g_core.training import Turn, mapped
from g4g_model import losses
from g4g_model.checkpoint import FORMAT, about_run, write
from g4g_model.config import FRAMES, PRESETS, SETTINGS, VARIANTS, G4GConfig, require_variant
from g4g_model.data import ONLY, Batches, G4GBatch
from g4g_model.footage import require_strangers, validated_on
from g4g_model.g4g import Drawn
from g4g_model.networks.alignment import MouthEncoder, mouth_pictures
from g4g_model.networks.fusion import dilated
from g4g_model.networks.layers import flattened
from g4g_model.parts import Parts
from g4g_model.validation import figures, grid
from prep.shards.index import Dataset

logger = logging.getLogger(__name__)

_VGG = "vgg19"


class G4GTrainable:
    """A variant of G4G that is being trained. See :class:`g4g_core.training.Trainable`.

    Args:
        name: of the variant.
        config: network and loss.
        batches: what it learns from.
        validation: what figures are taken on, one sample at a time.
        judges: pretrained networks that take part in the loss.
    """

    shared = True

    def __init__(
        self,
        name: str,
        config: G4GConfig,
        batches: Batches,
        validation: Batches | None = None,
        judges: Judges | None = None,
    ) -> None:
        self.name, self.config = name, config
        self.module = Parts(config)
        self._batches, self._validation = batches, validation
        self._judges = judges or Judges()

    @property
    def losses_off(self) -> tuple[str, ...]:
        """Terms that are off although the variant has them."""
        weights = self.config.weights.model_dump()
        absent = {"expert", "identity"} | (set() if self.config.inter else {"sync", "alignment"})
        off = {name for name, weight in weights.items() if weight == 0 and name not in absent}
        return tuple(sorted(off | ({"perception"} if self._judges.vgg is None else set())))

    @property
    def trained_against(self) -> tuple[str, ...]:
        """SHA-256 of the sync experts that the generator learns from."""
        return () if self._judges.expert is None else (self._judges.expert.sha256,)

    def describe(self) -> dict[str, Any]:
        """Configuration, what is learned from, and which terms are off."""
        return {
            "format": FORMAT,
            "config": self._settled().model_dump(mode="json"),
            **learned_from(self._batches, self._validation),
            "validation_samples": 0 if self._validation is None else len(self._validation),
            "taught_by": self._taught_by(),
            "losses_off": list(self.losses_off),
            "trained_against": list(self.trained_against),
        }

    def _taught_by(self) -> dict[str, str | None] | None:
        """How the sync expert was named, with PATH for the place of its file, and the command that trains it again."""
        source = self.config.expert_source
        if source is None or self._judges.expert is None:
            return None
        name, path = source
        command = getattr(self._judges.expert, "command", None)
        return {"expert": name if path is None else f"{name}:PATH", "command": command}

    def _settled(self) -> G4GConfig:
        """Without the place where the expert's weights lay, on which no trained weight depends; their hash is noted."""
        source = self.config.expert_source
        return self.config if source is None else self.config.model_copy(update={"expert": source[0]})

    def batch(self, rng: np.random.Generator, turn: Turn = ONLY) -> G4GBatch:
        return self._batches.draw(rng, turn)

    def after_step(self) -> None:
        """See :class:`g4g_core.training.AfterStep`."""
        self.module.average.update(self.module.generator, self.module.mouth)

    def losses(self, batch: G4GBatch) -> dict[str, torch.Tensor]:
        """Every term, unweighted, and ``total``; ``found`` is the share of mouths that find their sound.

        In several processes each sees its share of the batch, and of the matrix of mouths and sounds the whole.
        """
        run = Precision(batch.truth.device.type)
        drawn: Drawn = run(self.module.generator, batch.inputs)
        settled = int(self.module.average.updates) >= self.config.settle
        with run.exactly():
            terms = {
                "reconstruction": self._reconstruction(drawn, batch),
                **self._perception(drawn, batch, run),
                **self._attribute(drawn, batch, run),
                **self._inter(drawn, batch, run, settled),
                **self._adversarial(drawn, batch, run, settled),
                **self._foreign(drawn, batch, settled),
            }
            weights = {**self.config.weights.model_dump(), "discriminator": 1.0}
            weighted = (weights[name] * term for name, term in terms.items() if name in weights)
            return {"total": sum(weighted, nothing(drawn.picture)), **terms}

    def _reconstruction(self, drawn: Drawn, batch: G4GBatch) -> torch.Tensor:
        """The faces in every region, and the joined picture in all that may differ from the source.

        A single mask [O]: the faces at full size, the only ones that are drawn then, in ``erase`` alone.
        """
        truth, regions = flattened(batch.truth), {name: flattened(mask) for name, mask in batch.regions.items()}
        outcome = losses.masked_l1(drawn.picture, truth, dilated(regions["erase"]))
        if self.config.masks == "single":
            return outcome + losses.reconstruction(drawn.faces, truth, regions, {"erase": 1.0})
        return outcome + losses.reconstruction(drawn.faces, truth, regions, self.config.regions.model_dump())

    def _perception(self, drawn: Drawn, batch: G4GBatch, run: Precision) -> dict[str, torch.Tensor]:
        vgg = self._judges.vgg
        if vgg is None:
            return {}
        mask = dilated(flattened(batch.inputs.erase))
        vgg.to(mask.device)
        found = losses.perception(lambda pictures: run(vgg, pictures), drawn.picture, flattened(batch.truth), mask)
        return {"perception": found}

    def _attribute(self, drawn: Drawn, batch: G4GBatch, run: Precision) -> dict[str, torch.Tensor]:
        """By the averaged network: the one that is trained could make its own features alike."""
        if self.config.weights.attribute == 0:
            return {}
        judge, inputs = self.module.average.generator, batch.inputs
        found = run(judge.aligned, drawn.picture, flattened(inputs.source_sketch))
        known = run(judge.aligned, flattened(inputs.references), flattened(inputs.reference_sketch))
        return {"attribute": losses.attribute(found, known, len(batch.keys))}

    def _inter(self, drawn: Drawn, batch: G4GBatch, run: Precision, settled: bool) -> dict[str, torch.Tensor]:
        """L_align on true mouths, L_sync on generated ones."""
        mouth, config = self.module.mouth, self.config
        if mouth is None:
            return {}
        terms: dict[str, torch.Tensor] = {}
        if config.weights.alignment > 0:
            seen = gathered(run(mouth, flattened(batch.stacks)))
            sounds = gathered(unit(run(self.module.generator.audio, flattened(batch.sounds[:, 1:]))))
            cosines, near = seen @ sounds.T, losses.too_near(gathered(batch.starts[:, 1:]))
            wrong = _flat_columns(gathered(batch.wrong[:, 1:]) - 1)
            terms["alignment"] = self._contrast(cosines, mouth, near, wrong)
            found = cosines.detach().masked_fill(near, -2).argmax(1) == torch.arange(len(near), device=near.device)
            terms["found"] = found.float().mean()
        if config.weights.sync > 0:
            terms["sync"] = self._sync(drawn, batch, run) if settled else nothing(drawn.picture)
        return terms

    def _sync(self, drawn: Drawn, batch: G4GBatch, run: Precision) -> torch.Tensor:
        """The generated window of every clip among the true ones, as the averaged encoders see and hear them."""
        judge = self.module.average
        assert judge.mouth is not None
        clips, windows = batch.starts.shape
        size = self.config.mouth_size
        mouths = mouth_pictures(drawn.picture, flattened(batch.places), size).view(clips, -1, 3, size, size)
        generated = run(judge.mouth, mouths)
        with torch.no_grad():
            true = run(judge.mouth, flattened(batch.stacks)).view(clips, windows - 1, -1)
            sounds = gathered(unit(run(judge.generator.audio, flattened(batch.sounds))))
        seen = gathered(flattened(torch.cat([generated[:, None], true], 1)))
        starts = gathered(batch.starts)
        anchors = windows * torch.arange(len(starts), device=starts.device)
        wrong = _flat_columns(gathered(batch.wrong))
        return self._contrast(seen @ sounds.T, judge.mouth, losses.too_near(starts), wrong, anchors)

    def _contrast(
        self,
        cosines: torch.Tensor,
        mouth: MouthEncoder,
        near: torch.Tensor,
        wrong: torch.Tensor,
        anchors: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self.config.pairs == "pairwise":
            return losses.pairwise(cosines, wrong, anchors)
        return losses.diagonal(mouth.scale * cosines, near, anchors)

    def _adversarial(self, drawn: Drawn, batch: G4GBatch, run: Precision, settled: bool) -> dict[str, torch.Tensor]:
        """Generator and discriminator learn in one step: neither sees the other's gradient."""
        judge, weights = self.module.discriminator, self.config.weights
        names = [name for name in ("gan", "features") if getattr(weights, name) > 0]
        if judge is None:
            return {}
        if not settled:
            return {name: nothing(drawn.picture) for name in (*names, "discriminator")}
        real = run(judge, flattened(batch.truth))
        terms = {"discriminator": losses.lsgan_discriminator(real[-1], run(judge, drawn.picture.detach())[-1])}
        with frozen(judge):
            fake = run(judge, drawn.picture)
        if "gan" in names:
            terms["gan"] = losses.lsgan_generator(fake[-1])
        if "features" in names:
            terms["features"] = losses.feature_matching(real[:-1], fake[:-1])
        return terms

    def _foreign(self, drawn: Drawn, batch: G4GBatch, settled: bool) -> dict[str, torch.Tensor]:
        """What pretrained networks that were not trained here say: a sync expert, an identity network."""
        expert, network, weights = self._judges.expert, self._judges.identity, self.config.weights
        terms: dict[str, torch.Tensor] = {}
        device = drawn.picture.device
        if expert is not None and batch.expert is not None:
            view, edge = batch.expert, (batch.expert.frames.shape[1] - FRAMES) // 2
            pictures = drawn.picture.view(len(batch.keys), FRAMES, *drawn.picture.shape[1:])
            shown = torch.cat([view.frames[:, :edge], pictures, view.frames[:, edge + FRAMES :]], 1)
            read = expert.to(device).loss(shown, view.places, view.heard) if settled else nothing(pictures)
            terms["expert"] = read
        if network is not None and weights.identity > 0:
            references = batch.inputs.references
            network = network.to(device)
            with torch.no_grad():
                known = network.embed(flattened(references)).view(*references.shape[:2], -1).mean(1)
            found = network.embed(drawn.picture).view(len(batch.keys), FRAMES, -1)
            terms["identity"] = (1 - (found * unit(known)[:, None]).sum(-1)).mean()
        return terms

    def validate(self) -> dict[str, float]:
        """Figures of the averaged networks, on the same windows every time; see :mod:`g4g_model.validation`."""
        return {} if self._validation is None else figures(self.module.average, self._validation)

    def pictures(self) -> dict[str, np.ndarray]:
        """See :class:`g4g_core.training.Illustrated`."""
        return {"faces": grid(self.module.average.generator, self._validation or self._batches.alone())}

    def check(self, steps: int, ranks: int) -> None:
        """See :class:`g4g_core.training.Checked`."""
        if self.config.clips % ranks:
            raise UsageError(
                f"{self.config.clips} clips cannot be shared by {ranks} processes",
                "Let --set clips be a multiple of them: it counts the whole batch.",
            )
        if self.config.size_at(steps - 1) != self.config.size:
            raise UsageError(
                f"all {steps} steps lie in stages of smaller pictures: no step would see {self.config.size} px",
                "Train longer, or shorten --set stages.",
            )

    def parts(self) -> list[nn.Module]:
        """See :class:`g4g_core.training.Partitioned`."""
        found = (self.module.generator, self.module.mouth, self.module.discriminator)
        return [part for part in found if part is not None]


@dataclasses.dataclass(frozen=True, eq=False)
class Judges:
    """Pretrained networks that take part in the loss and learn nothing.

    Attributes:
        vgg: of the perception loss; ``None``: it is off.
        expert: a sync expert.
        identity: an identity network.
    """

    vgg: losses.VGGFeatures | None = None
    expert: SyncExpert | None = None
    identity: IdentityNetwork | None = None


class Precision:
    """Mixed precision for networks, 32 bits for what is computed from their outputs.

    A loss in bf16 has two or three digits: cosines of 0.995 are 1 in it, and their logarithms infinite.

    Args:
        device: type of the device, whose autocast is on or off as training has set it.
    """

    def __init__(self, device: str) -> None:
        self._device, self._mixed = device, torch.is_autocast_enabled(device)
        self._dtype = torch.get_autocast_dtype(device)

    def __call__(self, network: Callable[..., Any], *inputs: Any) -> Any:
        """What a network gives, in 32 bits."""
        with torch.autocast(self._device, self._dtype, self._mixed):
            return mapped(network(*inputs), torch.Tensor.float)

    def exactly(self) -> torch.autocast:
        """A context in which everything but networks called as above is computed in 32 bits."""
        return torch.autocast(self._device, enabled=False)


def nothing(like: torch.Tensor) -> torch.Tensor:
    """A term that does not count yet."""
    return torch.zeros((), device=like.device)


def gathered(share: torch.Tensor) -> torch.Tensor:
    """What all processes have of it, along the first axis in the order of their ranks, with gradient."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return share
    if not share.requires_grad:
        parts = [torch.empty_like(share) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, share.contiguous())
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(share.contiguous()))


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
    return (wrong + windows * torch.arange(clips, device=wrong.device)[:, None]).flatten()


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
            UsageError: switches that are not this variant's, or an expert that nobody offers.
            WeightsError: the expert's weights are missing, or of something else.
            DatasetError: too little to learn from, or a person who is trained on and in the validation.
        """
        require_variant(self.name, config)
        judges = _judges(config)
        dataset = Dataset.open(data.shards)
        batches = Batches(dataset, data.splits, config, data.selection, judges.expert)
        validation = None
        if data.validation is not None:
            splits, selection = validated_on(dataset, data.validation)
            validation = Batches(dataset, splits, config.model_copy(update={"clips": 1}), selection).alone()
            require_strangers(batches, validation)
        torch.manual_seed(seed)
        return G4GTrainable(self.name, config, batches, validation, judges)

    def export(self, trainable: G4GTrainable, folder: Path) -> list[Path]:
        """``<name>.safetensors``: the averaged generator, for :mod:`g4g_model.generator`."""
        path, about = folder / f"{self.name}.safetensors", about_run(self.name, trainable.describe(), folder)
        write(path, about, trainable.module.average.generator.state_dict())
        return [path]


def _judges(config: G4GConfig) -> Judges:
    """What the configuration asks for, as far as it is here. Raises UsageError for a name that nobody offers."""
    expert = identity = None
    if config.expert_source is not None and config.weights.expert > 0:
        name, checkpoint = config.expert_source
        expert = registry.load(registry.SYNC_EXPERTS, name).open(checkpoint)
        if expert.frames < FRAMES or expert.frames % 2 == 0:
            raise UsageError(f"{name} sees {expert.frames} frames", f"An odd number from {FRAMES} on is needed.")
    if config.identity is not None and config.weights.identity > 0:
        identity = registry.load(registry.IDENTITY_NETWORKS, config.identity).open()
    return Judges(vgg_features() if config.weights.perception > 0 else None, expert, identity)


def vgg_features() -> losses.VGGFeatures | None:
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
