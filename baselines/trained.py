"""Networks that our training of a baseline left on disk: safetensors with one JSON field, or a step of a run; and what
the generators that they become have in common."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from g4g_core import storage
from g4g_core.config import ConfigT
from g4g_core.errors import WeightsError
from g4g_core.lineage import shown
from g4g_core.protocols import Training
from g4g_core.provenance import digest, file_sha256, stable_json, tensors_sha256
from g4g_core.registry import unknown
from g4g_model.config import FRAMES

if TYPE_CHECKING:
    import torch

NETWORK = "network."
"""Prefix, in a checkpoint ``step-...`` of a run, of the weights that are used afterwards."""

COUNTED = "counted."
"""Prefix, in such a checkpoint, of how many steps a term that does not count from the start was part of the loss."""

FACTS = "facts"
"""Name, in such a checkpoint, of the bytes of :func:`facts_sha256`: so ``state.json`` says of it what was written."""

FORMAT = 5
LEARNED_FROM = (
    "splits", "selected", "selections", "samples", "left_out", "identities", "people", "sources", "minutes",
    "footage_sha256", "validation", "taught_by",
)  # fmt: skip
"""What :attr:`baselines.learner.Learner.learned_from` tells."""

_FINDINGS = "findings"
_CAME = ("step", "torch", "processor")
_FIELD = "baseline"  # one field: several would be written in an order that changes
_METADATA = "__metadata__"
_STATE, _MODEL = "state.json", "model.safetensors"


@dataclasses.dataclass(frozen=True)
class About(Generic[ConfigT]):
    """What is known of a trained network besides its weights.

    Attributes:
        name: registered name of what it is of.
        config: it was made and trained by.
        losses_off: terms of the loss that were off.
        trained_against: SHA-256 of sync experts that drove the training.
        findings: what went wrong in training and is no reason to stop.
        origin: whose weights they are, where they are not of our training.
        marks: what tables must say beside the name.
        learned_from: see :attr:`baselines.learner.Learner.learned_from`; empty where it is not known.
        settings: of the training loop, as far as they change weights.
        step: of the optimiser, ``None`` where it is not known.
        torch: version that trained it; with ``processor``, by its own name: what it was trained on.
        sha256: of the file that it was read from, "" where it was not.
    """

    name: str
    config: ConfigT
    losses_off: tuple[str, ...] = ()
    trained_against: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    origin: str = "g4g-model train"
    marks: tuple[str, ...] = ()
    learned_from: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: int | None = None
    torch: str | None = None
    processor: str | None = None
    sha256: str = dataclasses.field(default="", compare=False)

    @property
    def training(self) -> Training:
        """How the network came to be."""
        if not self.learned_from:
            return Training(self.origin, self.sha256)
        return Training.of_run(
            self.name, self.sha256, self.config, step=self.step, settings=self.settings,
            learned_from=self.learned_from, frames=FRAMES, losses_off=self.losses_off,
            trained_against=self.trained_against, torch=self.torch, processor=self.processor,
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        """What our training knows, but for the name, as a trainable describes it; findings where there are any."""
        return {
            "format": FORMAT,
            "config": self.config.model_dump(mode="json"),
            "losses_off": list(self.losses_off),
            "trained_against": list(self.trained_against),
            **({_FINDINGS: list(self.findings)} if self.findings else {}),
        }


def facts_sha256(name: str, description: Mapping[str, Any]) -> str:
    """SHA-256 of a trainable's name and of all that it describes, 64 hex digits."""
    return digest({"name": name, "description": description})


def as_trained(about: About[ConfigT], tensors: Mapping[str, torch.Tensor]) -> About[ConfigT]:
    """The same, with every term off that was not part of the loss in a single step.

    Args:
        about: of a run.
        tensors: all that a checkpoint of the run holds.
    """
    never = {name.removeprefix(COUNTED) for name, t in tensors.items() if name.startswith(COUNTED) and not t.any()}
    return dataclasses.replace(about, losses_off=tuple(sorted({*about.losses_off, *never})))


def write(path: Path, about: About[Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a network; the same network gives the same bytes."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = {**about.told(), "name": about.name}
    facts |= {"learned_from": dict(about.learned_from), "settings": dict(about.settings)}
    facts |= {name: getattr(about, name) for name in _CAME}
    sealed = {**facts, "sha256": _seal(facts, save(plain))}
    storage.write_bytes(str(path), save(plain, {_FIELD: stable_json(sealed).decode()}))


def _seal(facts: Mapping[str, Any], data: bytes) -> str:
    """SHA-256 of facts and of all tensors of a safetensors file, their names and shapes included."""
    tensors = {name: place for name, place in _header(data).items() if name != _METADATA}
    return digest({"facts": facts, "tensors": tensors, "sha256": tensors_sha256(data)})


def _header(data: bytes) -> dict[str, Any]:
    return dict(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))


def files_of(name: str, checkpoint: str) -> list[Path]:
    """The file of a network, or weights and state of a step.

    Args:
        name: registered name.
        checkpoint: a file, the folder of a run (its exported file), or a checkpoint ``step-...`` of the run.

    Raises:
        WeightsError: there is none.
    """
    place = Path(checkpoint)
    if place.is_dir():
        if (place / _STATE).exists() and (place / _MODEL).exists():
            return [place / _MODEL, place / _STATE]
        place = place / f"{name}.safetensors"
    if not place.is_file():
        raise WeightsError(
            f"there is no checkpoint {place}",
            f"Name a file, or the folder of a run of g4g-model train --model {name}.",
        )
    return [place]


def fingerprint_of(files: list[Path]) -> str:
    """SHA-256 of the bytes of files: of one the hash itself, of several a hash of hashes."""
    digests = [file_sha256(str(file)) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read_trained(
    name: str, files: list[Path], configs: Mapping[str, type[ConfigT]], family: str
) -> tuple[About[ConfigT], dict[str, torch.Tensor]]:
    """A network that our training left.

    Args:
        name: registered name.
        files: from :func:`files_of`.
        configs: the configuration of what may be found, by registered name.
        family: what they are called together, for messages.

    Raises:
        WeightsError: it is of another kind, or weights or facts are not those that were written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = files[0].read_bytes()
    try:
        tensors = load(data)
        facts = _facts(data) if len(files) == 1 else _facts_of_step(files[1], data, tensors)
        if facts["name"] not in configs:
            raise ValueError(f"it is of {facts['name']!r}")
        config = configs[facts["name"]].model_validate(facts["config"])
        off, against, findings = (facts["losses_off"], facts["trained_against"], facts.get(_FINDINGS, ()))
        learned_from = facts["learned_from"] if len(files) == 1 else {name: facts[name] for name in LEARNED_FROM}
        about = About(
            facts["name"], config, tuple(off), tuple(against), tuple(findings), learned_from=learned_from,
            settings=facts["settings"], step=facts["step"], torch=facts.get("torch"), processor=facts.get("processor"),
            sha256=fingerprint_of(files),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(
            f"{_called(files[0], data)} is no checkpoint of {family}: {first_line(error)}",
            "Train one with g4g-model train.",
        ) from error
    if about.name != name:
        what = f"{_called(files[0], data)} is a checkpoint of {about.name}, not of {name}"
        raise WeightsError(what, "Name it as it is.")
    if len(files) > 1:
        about = as_trained(about, tensors)
        tensors = {key.removeprefix(NETWORK): t for key, t in tensors.items() if key.startswith(NETWORK)}
    return about, tensors


def _facts(data: bytes) -> dict[str, Any]:
    """What an exported file says of itself. Raises ValueError where it is not what was written."""
    metadata = _header(data).get(_METADATA, {})
    if _FIELD not in metadata:
        raise ValueError(f"it holds no `{_FIELD}` field: it was not written by g4g-model train")
    facts = dict(json.loads(metadata[_FIELD]))
    _require_format(facts)
    _require_whole(facts.pop("sha256") == _seal(facts, data))
    return facts


def _facts_of_step(place: Path, data: bytes, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What ``state.json`` says of the checkpoint. Raises ValueError where it is not what was written."""
    state = json.loads(place.read_bytes())
    name, description = state["trainable"], dict(state["description"])
    _require_format(description)
    _require_whole(state["sha256"][_MODEL] == hashlib.sha256(data).hexdigest())
    _require_whole(bytes(tensors[FACTS].tolist()).hex() == facts_sha256(name, description))
    from g4g_core.runs import FREE

    settings = {field: value for field, value in state["settings"].items() if field not in FREE}
    came = {field: state[field] for field in _CAME if field in state}
    return {**description, "name": name, "settings": settings, **came}


def _require_format(facts: Mapping[str, Any]) -> None:
    if facts.get("format") != FORMAT:
        raise ValueError(f"its format is {facts.get('format')}, this version reads {FORMAT}")


def _require_whole(whole: bool) -> None:
    if not whole:
        raise ValueError("it is damaged: not the weights and facts that were written")


def _called(file: Path, data: bytes) -> str:
    return f"{file} (SHA-256 {hashlib.sha256(data).hexdigest()})"


def fault_of(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> str:
    """Put weights into a network: every name, shape and kind of number as it is; returns what is wrong, or ``""``.

    A real number may have fewer or more bits than the network's.
    """
    import torch

    real = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for name, own in network.state_dict().items():
        given = tensors.get(name, own).dtype
        if given != own.dtype and not {given, own.dtype} <= {*real}:
            return f"does not fit {type(network).__name__}: {name} is of {given}, not of {own.dtype}"
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        return f"does not fit {type(network).__name__}: {str(error).strip().splitlines()[-1].strip():.300}"
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        return "holds weights that are no finite numbers"
    return ""


def preset_of(
    name: str, kind: type[ConfigT], presets: Mapping[str, Mapping[str, Any]], preset: str | None
) -> About[ConfigT]:
    """A network that is not trained yet: of a preset, or of the defaults. Raises UsageError for an unknown preset."""
    if preset is None:
        return About(name, kind())
    if preset not in presets:
        raise unknown("preset", preset, list(presets))
    return About(name, kind.model_validate({**presets[preset]["model"], "preset": preset}))


def told_of(
    about: About[ConfigT],
    network_of: Callable[[ConfigT], torch.nn.Module],
    sights: Mapping[str, str],
    source: tuple[str, str] | None,
) -> dict[str, Any]:
    """What ``g4g-model info`` tells, see :class:`g4g_core.protocols.SelfDescribing`.

    Args:
        about: what is known of the network.
        network_of: makes it; no weights are made.
        sights: shape and range of every input.
        source: where the weights lie, and their SHA-256; ``None``: there are none.
    """
    import torch

    with torch.device("meta"):
        network = network_of(about.config)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    config: Any = about.config
    found = {
        "model": about.name,
        "preset": config.preset,
        "size": config.size,
        "parameters": {"total": sum(parts.values()), **parts},
        "inputs": dict(sights),
        "mel_offset": config.mel_offset,
    }
    if source is not None:
        known = {name: list(getattr(about, name)) for name in ("losses_off", "trained_against", _FINDINGS, "marks")}
        came = {**{name: getattr(about, name) for name in _CAME}, "steps": about.settings.get("steps")}
        came["seed"] = about.settings.get("seed")
        where = {"path": source[0], "sha256": source[1], "origin": about.origin}
        found["checkpoint"] = {**where, **came, **shown(about.learned_from), **known, "command": about.training.command}
    return found


class TrainedGenerator:
    """What generators of trained networks have in common. See :class:`g4g_core.protocols.Generator`.

    Args:
        about: what is known of the weights.
        network: in evaluation mode.
    """

    def __init__(self, about: About[Any], network: torch.nn.Module) -> None:
        self.native_size: int | None = about.config.size
        self.mel_offset: int = about.config.mel_offset
        self.preset: str | None = about.config.preset
        self.trained_against, self.losses_off, self.marks = about.trained_against, about.losses_off, about.marks
        self.training = about.training
        self._size: int = about.config.size
        self._network, self._device = network, "cpu"

    def to(self, device: str) -> None:
        """Draw on another device. See :class:`g4g_core.protocols.Movable`."""
        self._network, self._device = self._network.to(device), device


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line of 200 characters at most."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    text = " ".join(str(error).split("\n", maxsplit=1)[0].split())
    return f"{text:.200}" or type(error).__name__
