"""Training an expert: windows of a few clips a batch, each to be told from its neighbours in the same clip."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from torch.nn import functional

from g4g_core import storage
from g4g_core.config import Config
from g4g_core.errors import DatasetError
from g4g_core.protocols import TrainingData
from g4g_core.registry import unknown
from g4g_core.training import Turn
from prep.shards.index import Dataset
from prep.sync_expert.audio import spectrogram
from prep.sync_expert.augment import augmented_mouths, augmented_sound, resampled
from prep.sync_expert.design import COLUMNS_PER_FRAME, SYNC_A, SYNC_B, Design
from prep.sync_expert.footage import Footage, read_footage
from prep.sync_expert.infer import Expert, compare
from prep.sync_expert.network import Towers

IGNORED = 2
"""Frames: windows so near share most of their sound and are no negatives of each other (G4G)."""

_SPREAD = 2  # frames of a stretch over windows drawn from it
_STRETCH = (0.75, 1.33)


class ExpertConfig(Config):
    """How an expert is trained."""

    clips: int = pydantic.Field(8, ge=2, description="clips in a batch")
    windows: int = pydantic.Field(12, ge=4, description="windows of each")
    loss: Literal["diagonal", "pairwise"] = pydantic.Field(
        "diagonal", description="diagonal: in-clip contrastive (G4G); pairwise: cosine and cross entropy (Wav2Lip)"
    )
    dropout: float = pydantic.Field(0.2, ge=0, lt=1, description="before the linear layers")
    stretch: float = pydantic.Field(0.15, ge=0, description="log deviation of the speed of picture and sound together")
    late: dict[str, float] = pydantic.Field(
        default_factory=dict, description="frames by which the sound of a source is taken to lag"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ExpertBatch:
    """Windows of ``clips`` clips, clip after clip.

    Attributes:
        keys: of the clips.
        seen: float32 [clips * windows, frames, 48, 48].
        heard: float32 [clips * windows, bands, columns].
        starts: int64 [clips, windows]: first frame of each window, in its stretch.
    """

    keys: list[str]
    seen: torch.Tensor
    heard: torch.Tensor
    starts: torch.Tensor


class SyncTrainable:
    """An expert that is being trained. See :class:`g4g_core.training.Trainable`."""

    shared = False  # eight minutes on one core; its matrix is not gathered

    def __init__(
        self, design: Design, config: ExpertConfig, footage: Sequence[Footage], held_out: Sequence[Footage] = ()
    ) -> None:
        self.name = design.name
        self.module = Towers(design, config.dropout)
        self._design, self._config = design, config
        self._footage = [shot for shot in footage if shot.frames >= config.windows + design.frames]
        if len(self._footage) < config.clips:
            raise DatasetError(
                f"{len(self._footage)} shots are long enough, a batch needs {config.clips}",
                "Give more footage, or lower --set clips.",
            )
        self._sounds = [spectrogram(shot.pcm, design.front) for shot in self._footage]
        self._held_out = list(held_out)

    def describe(self) -> dict[str, Any]:
        """Design, configuration, and hashes of what is learned from."""
        frames = sum(shot.frames for shot in self._footage)
        return {
            "design": dataclasses.asdict(self._design),
            "config": self._config.model_dump(),
            "shots": len(self._footage),
            "identities": len({shot.identity for shot in self._footage}),
            "minutes": round(frames / 25 / 60, 2),
            "footage_sha256": _content(self._footage),
            "held_out_shots": len(self._held_out),
        }

    def batch(self, rng: np.random.Generator, turn: Turn) -> ExpertBatch:
        """Windows of some clips; picture and sound of a clip are stretched alike, and augmented apart."""
        seen, heard, starts, keys = [], [], [], []
        for number in rng.choice(len(self._footage), self._config.clips, replace=False):
            mouths, sounds, first = self._windows(int(number), rng)
            seen.append(mouths)
            heard.append(sounds)
            starts.append(first)
            keys.append(self._footage[number].key)
        return ExpertBatch(keys, torch.cat(seen), torch.cat(heard), torch.from_numpy(np.stack(starts)))

    def _windows(self, number: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        shot, mel = self._footage[number], self._sounds[number]
        frames, windows = self._design.frames, self._config.windows
        rate = float(np.clip(math.exp(self._config.stretch * rng.normal()), *_STRETCH))
        span = min(_SPREAD * windows, int((shot.frames - 2) / rate) - frames - 1)
        if span < windows:
            rate, span = 1.0, min(_SPREAD * windows, shot.frames - frames)
        starts = np.sort(rng.choice(span, windows, replace=False))
        length = span + frames
        begin = rng.uniform(0, max(0.0, shot.frames - 1 - length * rate))
        places = begin + rate * np.arange(length)
        first, last = int(places[0]), min(shot.frames, int(places[-1]) + 2)
        mouths = augmented_mouths(shot.patches[first:last], rng)
        mouths = torch.from_numpy(resampled(mouths.numpy(), places - first))
        late = self._config.late.get(shot.source, 0.0)
        columns = COLUMNS_PER_FRAME * (begin + late) + rate * np.arange(COLUMNS_PER_FRAME * length)
        sound = augmented_sound(resampled(mel, columns), self._sounds, rng)
        return (
            torch.stack([mouths[start : start + frames] for start in starts]),
            torch.from_numpy(np.stack([_heard(sound, start, self._design.columns) for start in starts])),
            starts,
        )

    def losses(self, batch: ExpertBatch) -> dict[str, torch.Tensor]:
        """The loss of the configuration, and how many windows of picture find their own sound in their clip."""
        seen, heard = self.module.see(batch.seen), self.module.hear(batch.heard)
        clips, windows = batch.starts.shape
        similar = torch.bmm(seen.view(clips, windows, -1), heard.view(clips, windows, -1).transpose(1, 2))
        near = (batch.starts[:, :, None] - batch.starts[:, None, :]).abs() <= IGNORED
        near &= ~torch.eye(windows, dtype=torch.bool)
        if self._config.loss == "diagonal":
            total = diagonal_loss(similar * self.module.scale, near)
        else:
            total = pairwise_loss(similar, near)
        found = similar.detach().masked_fill(near, -2).argmax(2) == torch.arange(windows)
        return {"total": total, "found": found.float().mean()}

    def validate(self) -> dict[str, float]:
        """On held-out shots of 72 frames or more: share read within 1 and 3 frames of 0, mean confidence."""
        expert = self.expert()
        readings = [compare([expert], shot.patches, shot.pcm) for shot in self._held_out if shot.frames >= 72]
        found = [reading for reading in readings if reading is not None]
        if not found:
            return {}
        offsets = np.abs([reading.offset for reading in found])
        within = float((offsets <= 1).mean())
        return {
            "within_1": within,
            "within_3": float((offsets <= 3).mean()),
            "confidence": float(np.mean([reading.confidence for reading in found])),
        }

    def expert(self) -> Expert:
        """The expert as it is now, ready to read."""
        return Expert(self._design, self.module.weights())


def diagonal_loss(similar: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Symmetric cross entropy of matrices [clips, n, n] against their diagonals (G4G, arXiv 2402.18122).

    Args:
        similar: similarities over temperature; rows are pictures, columns sounds.
        near: bool [clips, n, n]: pairs that are left out.
    """
    target = torch.arange(similar.shape[1]).expand(len(similar), -1)
    masked = similar.masked_fill(near, -1e4)
    loss: torch.Tensor = functional.cross_entropy(masked, target)
    return loss + functional.cross_entropy(masked.transpose(1, 2), target)


def pairwise_loss(similar: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Wav2Lip's expert loss: binary cross entropy of cosines, each picture with its sound and with one wrong one.

    ``similar`` are cosines of matrices [clips, n, n]; the wrong sound is one of the same clip, drawn at random.
    Cosines of ReLU features are positive there; here they are mapped to 0..1.
    """
    positive = torch.diagonal(similar, dim1=1, dim2=2)
    blocked = near | torch.eye(similar.shape[1], dtype=torch.bool)
    wrong = torch.multinomial((~blocked).float().flatten(0, 1), 1).view(similar.shape[:2])
    negative = similar.gather(2, wrong[..., None])[..., 0]
    chances = ((torch.stack([positive, negative]) + 1) / 2).clamp(1e-6, 1 - 1e-6)
    target = torch.stack([torch.ones_like(positive), torch.zeros_like(negative)])
    loss: torch.Tensor = functional.binary_cross_entropy(chances, target)
    return loss


def _content(footage: Sequence[Footage]) -> str:
    """SHA-256 of all that is learned from."""
    hasher = hashlib.sha256()
    for shot in footage:
        hasher.update(shot.key.encode())
        hasher.update(shot.patches.tobytes())
        hasher.update(shot.pcm.tobytes())
    return hasher.hexdigest()


def _heard(sound: np.ndarray, start: int, columns: int) -> np.ndarray:
    first = COLUMNS_PER_FRAME * start
    return np.ascontiguousarray(sound[first : first + columns].T)


class SyncKind:
    """The entry point of an expert. See :class:`g4g_core.protocols.TrainableKind`."""

    Config = ExpertConfig
    presets: Mapping[str, Mapping[str, Any]] = {}
    settings: Mapping[str, Any] = {"steps": 1500}

    def __init__(self, design: Design) -> None:
        self._design = design

    def open(self, config: ExpertConfig, data: TrainingData, *, seed: int, quiet: bool = False) -> SyncTrainable:
        """Read all mouths and sounds of the selection into memory (about 250 MB an hour), and make the network."""
        dataset = Dataset.open(data.shards)
        footage = read_footage(dataset, data.splits, data.selection, quiet=quiet)
        sources = sorted({shot.source for shot in footage})
        for name in config.late:
            if name not in sources:
                raise unknown("source", name, sources)
        held_out: Sequence[Footage] = []
        if data.validation in dataset.splits:
            held_out = read_footage(dataset, (data.validation,), None, quiet=quiet)
        elif data.validation is not None:
            held_out = read_footage(dataset, dataset.splits, data.validation, quiet=quiet)
        known = {shot.identity for shot in footage}
        shared = sorted({shot.identity for shot in held_out} & known)
        if shared:
            raise DatasetError(
                f"{shared[0]} is trained on and in the validation", "Select people that the other selection leaves out."
            )
        torch.manual_seed(seed)
        return SyncTrainable(self._design, config, footage, held_out)

    def export(self, trainable: SyncTrainable, folder: Path) -> list[Path]:
        """``<name>.safetensors``: what :func:`prep.sync_expert.infer.load` reads."""
        from safetensors.numpy import save

        path = folder / f"{trainable.name}.safetensors"
        storage.write_bytes(str(path), save(trainable.expert().weights))
        return [path]


SYNC_A_KIND = SyncKind(SYNC_A)
SYNC_B_KIND = SyncKind(SYNC_B)
