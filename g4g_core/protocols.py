"""What packages expect of each other's parts, so that they can be found by name and used without being imported."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

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
        validation: a split, or a file of keys, that figures are taken on; ``None`` for none.
    """

    shards: str
    splits: tuple[str, ...] = ("train",)
    selection: str | None = None
    validation: str | None = None


class TrainableKind(Protocol):
    """What the entry points of ``g4g.trainables`` name.

    Attributes:
        Config: fields of the network and its loss.
        presets: named values for some of these fields; where there are any, ``Config`` is a
            :class:`g4g_core.config.NetworkConfig`.
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


@dataclasses.dataclass(frozen=True, eq=False)
class Speech:
    """The sound of a sample.

    Attributes:
        pcm: int16 [640 T], 16 kHz mono, of its T frames.
        mel: float32 [n, 80], columns of the clip from ``mel_start`` on, 80 a second.
        mel_start: the column of the clip that ``mel[0]`` is.
        frame_start: the clip's frame that the sample begins with.
    """

    pcm: np.ndarray
    mel: np.ndarray
    mel_start: int
    frame_start: int


class SyncExpert(Protocol):
    """A frozen judge of lip sync that a generator can be trained against.

    Entry points of ``g4g.sync_experts`` name objects whose ``open(checkpoint)`` gives one: with the weights of a path
    (str), or with ``None`` those that it comes with. It raises a G4GError where they are missing or of something else.

    Attributes:
        sha256: of the weights that it was opened with; noted in every checkpoint that it had a part in.
        frames: length of the windows it sees, an odd number of 5 or more.
        command: optional, the command that trains it again; noted likewise.
    """

    sha256: str
    frames: int

    def to(self, device: Any) -> SyncExpert:
        """Itself, on a torch device."""
        ...

    def prepare(self, pose: np.ndarray, size: int, speech: Speech, start: int) -> tuple[np.ndarray, np.ndarray]:
        """What it needs to know of a window besides the pictures.

        Args:
            pose: float [frames, 31, 2], points 17-47, pixels of pictures of ``size`` px.
            size: side of the pictures.
            speech: of the sample.
            start: the frame of the sample that the window begins with.

        Returns:
            float32 arrays: where to look, what is heard.
        """
        ...

    def loss(self, pictures: Any, places: Any, heard: Any) -> Any:
        """A scalar tensor, mean over n, small where lips fit.

        Args:
            pictures: float tensor [n, frames, 3, S, S] RGB in [-1, 1].
            places, heard: stacks of what :meth:`prepare` gave.
        """
        ...


class IdentityNetwork(Protocol):
    """A frozen, differentiable network that tells people apart.

    Entry points of ``g4g.identity_networks`` name objects whose ``open()`` gives one.

    Attributes:
        sha256: of its weights.
    """

    sha256: str

    def to(self, device: Any) -> IdentityNetwork:
        """Itself, on a torch device."""
        ...

    def embed(self, pictures: Any) -> Any:
        """float tensor [n, d] of norm 1 of face pictures [n, 3, S, S] RGB in [-1, 1]."""
        ...


FPS = 25
POSE_POINTS = slice(17, 48)
"""Brows, nose and eyes among the 68 iBUG points: they do not move with speech."""

ERASED = 128
"""Grey that stands, in all three channels, where a model must redraw."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClipPrompt:
    """Everything that a generator is told about T consecutive frames: nothing of the target's mouth, jaw or lips.

    Attributes:
        source: uint8 [T, S, S, 3] RGB; :data:`ERASED` where ``erase`` is 1.
        erase: uint8 [T, S, S] of 0 and 1: what must be redrawn. It follows the pose alone.
        pose: float32 [T, 31, 2], points 17-47 in pixels of ``source`` (centres of pixels at whole numbers).
        references: uint8 [K, S, S, 3] RGB, other frames of the same shot, whole; see :mod:`g4g_core.references`.
        reference_landmarks: float32 [K, 68, 2], pixels of ``references``.
        mel: float32 [n, 80], columns of the speech from ``mel_start`` on, 80 a second.
        mel_start: the column of the speech that ``mel[0]`` is.
        frame_start: the 25 fps frame of the speech that belongs to ``source[0]``: the mel window of frame t is that of
            speech frame ``frame_start + t``.
        pcm: int16 [640 T], 16 kHz mono: the speech of these T frames.
        fps: 25.
        seed: for whatever chance the generator needs.
    """

    source: np.ndarray
    erase: np.ndarray
    pose: np.ndarray
    references: np.ndarray
    reference_landmarks: np.ndarray
    mel: np.ndarray
    mel_start: int
    frame_start: int
    pcm: np.ndarray
    fps: int
    seed: int

    @property
    def size(self) -> int:
        """S, the side of the pictures in pixels: the same for every model."""
        return int(self.source.shape[1])

    def digest(self) -> str:
        """SHA-256 over all that the prompt holds, 64 hex digits."""
        hasher = hashlib.sha256()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                hasher.update(f"{field.name} {value.dtype} {value.shape}\0".encode())
                hasher.update(np.ascontiguousarray(value).data)
            else:
                hasher.update(f"{field.name} {value}\0".encode())
        return hasher.hexdigest()


class Generator(Protocol):
    """A model that redraws mouths. Entry points of ``g4g.models`` name a :class:`GeneratorKind` that opens one.

    Attributes:
        native_size: side in pixels that its network works at; it resizes with :mod:`g4g_core.resize`. ``None``: any.
        mel_offset: frames by which its mel windows are moved (``prep.stages.mel.mel_window``).
        trained_against: SHA-256 of the sync experts that its training was driven by.
        losses_off: terms of its loss that were off in training, e.g. ``perception``; tables show them.
        preset: named settings that it was trained from, e.g. ``tiny``; tables show them. ``None``: there are none.
        training: optional, a :class:`Training`: how its weights came to be.
    """

    native_size: int | None
    mel_offset: int
    trained_against: tuple[str, ...]
    losses_off: tuple[str, ...]
    preset: str | None

    def generate(self, prompt: ClipPrompt) -> np.ndarray:
        """uint8 [T, S, S, 3] RGB with all of ``erase`` redrawn; a pure function of the prompt."""
        ...


class GeneratorKind(Protocol):
    """What the entry points of ``g4g.models`` name.

    Attributes:
        summary: one line for lists.
        needs_weights: names in the weights registry without which it cannot run.
        needs_checkpoint: it must be given a checkpoint (``--checkpoint NAME=PATH``).
    """

    summary: str
    needs_weights: tuple[str, ...]
    needs_checkpoint: bool

    def fingerprint(self, checkpoint: str | None) -> str:
        """What its output depends on besides the prompt: code version and weights, hashed. Loads no network."""
        ...

    def open(self, checkpoint: str | None) -> Generator:
        """The generator, ready. Raises G4GError where weights or checkpoint are missing or foreign."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A generator whose network can work on another device; it is opened on the CPU, and the evaluation leaves it so.

    What it draws on another device may differ in the last digits.
    """

    def to(self, device: str) -> None:
        """Move the network, e.g. to ``cuda``."""
        ...


@runtime_checkable
class Marked(Protocol):
    """A generator with something to say of itself beside its name in every table.

    Attributes:
        marks: such as ``weights of unknown origin``.
    """

    marks: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Training:
    """How the weights of a generator came to be, as far as their file says; ``None``: it does not.

    Attributes:
        origin: whose they are.
        sha256: of the file, 64 hex digits.
        step: of the optimiser.
        seed: of weights, batches and augmentation.
        clips: windows in a step.
        frames: of a window.
        size: side of the pictures that it draws, px.
        splits: of the data set that was learned from.
        selected: whether only some of their samples were.
        sources: that they are of.
        samples: segments that were learned from.
        identities: whose they are.
        minutes: their length.
        people: of their identities, :func:`g4g_core.lineage.people`.
        footage_sha256: of which samples, and of the shards that hold them.
        teacher: of a generator that a sync expert taught, how that was named.
        teacher_sha256: of that expert's file.
        off_because: why a term of the loss was part of no step, by its name.
        torch: version that trained it.
        processor: that it was trained on, by its own name.
        command: that trains it again; words in capitals stand for places.
    """

    origin: str
    sha256: str
    step: int | None = None
    seed: int | None = None
    clips: int | None = None
    frames: int | None = None
    size: int | None = None
    splits: Sequence[str] | None = None
    selected: bool | None = None
    sources: Sequence[str] | None = None
    samples: int | None = None
    identities: int | None = None
    minutes: float | None = None
    people: Sequence[str] | None = None
    footage_sha256: str | None = None
    teacher: str | None = None
    teacher_sha256: str | None = None
    off_because: Mapping[str, str] | None = None
    torch: str | None = None
    processor: str | None = None
    command: str | None = None

    @classmethod
    def of_run(
        cls,
        name: str,
        sha256: str,
        config: Any,
        *,
        step: int | None,
        settings: Mapping[str, Any],
        learned_from: Mapping[str, Any],
        frames: int,
        losses_off: Sequence[str] = (),
        trained_against: Sequence[str] = (),
        torch: str | None = None,
        processor: str | None = None,
    ) -> Training:
        """Of a network that our loop trained.

        Args:
            name: registered name of the trainable.
            sha256, step, frames, torch, processor: see the class.
            config: of the network; an expert has no ``clips``.
            settings: of the loop.
            learned_from: of the trainable's description.
            losses_off: terms that were part of no step; ``config.why_off`` says why.
            trained_against: hashes of sync experts that took part.
        """
        from g4g_core.recipes import train_command

        known = ("splits", "selected", "sources", "samples", "identities", "minutes", "people", "footage_sha256")
        taught_by, taught = learned_from.get("taught_by") or {}, bool(trained_against)
        return cls(
            "g4g-model train", sha256, step, settings.get("seed"), getattr(config, "clips", None), frames, config.size,
            **{field: learned_from.get(field) for field in known},
            teacher=taught_by.get("expert"), teacher_sha256=next(iter(trained_against), None),
            off_because={term: why for term in losses_off if (why := config.why_off(term, taught=taught))},
            torch=torch, processor=processor,
            command=train_command(name, config, settings, learned_from) if step == settings.get("steps") else None,
        )  # fmt: skip


@runtime_checkable
class SelfDescribing(Protocol):
    """A kind of ``g4g.models`` that ``g4g-model info`` can tell of."""

    def info(self, checkpoint: str | None, preset: str | None) -> dict[str, Any]:
        """What its network is made of, sees and gives, and what is known of a checkpoint, as JSON.

        Args:
            checkpoint: as for :meth:`GeneratorKind.open`; ``None``: of the network alone.
            preset: of the trainable of the same name; not with a checkpoint, which knows its own.

        Returns:
            Sections by name; each a mapping of names to texts, numbers, lists or mappings.

        Raises:
            UsageError: an unknown preset.
            WeightsError: a missing or foreign checkpoint.
        """
        ...
