"""Trained networks on disk: averaged weights of the generator, and all that a reader must know of them.

An exported file says the same as ``state.json`` of the run's checkpoints, in one field of its metadata.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from g4g_core import storage
from g4g_core.errors import WeightsError
from g4g_core.protocols import Training
from g4g_core.provenance import digest, stable_json, tensors_sha256
from g4g_model.config import FRAMES, VARIANTS, G4GConfig

if TYPE_CHECKING:
    import torch

FORMAT = 4
"""Counts changes of the network; of a step it is part of the description, so that --resume refuses another."""
_FIELD = "g4g"  # one field: several would be written in an order that changes
_PREFIX = "average.generator."
_STATE, _MODEL = "state.json", "model.safetensors"


@dataclasses.dataclass(frozen=True)
class About:
    """What is known of a trained network besides its weights.

    Attributes:
        name: of the variant.
        config: it was made and trained by.
        losses_off: terms of the loss that were off.
        trained_against: SHA-256 of sync experts that drove the training.
        learned_from: the data, as the trainable describes it: samples, identities, minutes, a hash ...
        settings: of the training loop, as far as they change weights.
        step: of the optimiser, ``None`` where it is not known.
        torch: version that trained it, ``None`` where it is not known.
        processor: that it was trained on, by its own name; ``None`` where it is not known.
        sha256: of the file that it was read from, "" where it was not.
    """

    name: str
    config: G4GConfig
    losses_off: tuple[str, ...] = ()
    trained_against: tuple[str, ...] = ()
    learned_from: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: int | None = None
    torch: str | None = None
    processor: str | None = None
    sha256: str = dataclasses.field(default="", compare=False)

    @property
    def training(self) -> Training:
        """How the network came to be."""
        return Training.of_run(
            self.name, self.sha256, self.config, step=self.step, settings=self.settings,
            learned_from=self.learned_from, frames=FRAMES, losses_off=self.losses_off,
            trained_against=self.trained_against, torch=self.torch, processor=self.processor,
        )  # fmt: skip


def about_run(name: str, description: Mapping[str, Any], folder: Path) -> About:
    """What is known of a network that was trained in a run's folder.

    Args:
        name: of the variant.
        description: of the trainable.
        folder: settings, step and what it was trained on are those of its newest checkpoint, if it has one.
    """
    import torch

    from g4g_core.runs import came_of

    version = torch.__version__.split("+")[0]
    return _about({"trainable": name, "description": description, "torch": version, **came_of(folder)})


def write(path: Path, about: About, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a network; the same network gives the same bytes."""
    from safetensors.torch import save

    bound = {"losses_off": about.losses_off, "trained_against": about.trained_against}
    facts: dict[str, Any] = {
        "format": FORMAT,
        "trainable": about.name,
        "description": {**about.learned_from, **bound, "config": about.config.model_dump(mode="json")},
        "settings": about.settings,
        "step": about.step,
        "torch": about.torch,
        "processor": about.processor,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    facts["sha256"] = {"facts": digest(facts), "tensors": tensors_sha256(save(tensors))}
    storage.write_bytes(str(path), save(tensors, {_FIELD: stable_json(facts).decode()}))


def fingerprint(path: str) -> str:
    """SHA-256 of a checkpoint's bytes. Raises WeightsError where there is none."""
    hasher = hashlib.sha256()
    for file in _files(path):
        hasher.update(file.read_bytes())
    return hasher.hexdigest()


def read(path: str) -> tuple[About, dict[str, torch.Tensor]]:
    """A network from a file that training exported, the folder of its run, or one checkpoint ``step-...`` of the run.

    Raises:
        WeightsError: there is none, it is of another kind, or not the one that was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    files = _files(path)
    data = files[0].read_bytes()
    try:
        tensors = load(data)
        facts = _facts(files, data)
        form = _mapping(facts, "description").get("format") if len(files) > 1 else facts.get("format")
        if form != FORMAT:
            raise ValueError(f"its format is {form}, this version reads {FORMAT}")
        written = _mapping(facts, "sha256")
        found = hashlib.sha256(data).hexdigest() if len(files) > 1 else tensors_sha256(data)
        if found != written.get(_MODEL if len(files) > 1 else "tensors"):
            raise ValueError(f"{files[0].name} is damaged: not the weights that were written")
        said = {name: value for name, value in facts.items() if name != "sha256"}
        if len(files) == 1 and "facts" not in written:
            raise ValueError(f"{files[0].name} was written by an earlier version of this program")
        if len(files) == 1 and digest(said) != written["facts"]:
            raise ValueError(f"{files[0].name} is damaged: what it says of itself is not what was written")
        about = dataclasses.replace(_about(facts), sha256=fingerprint(path))
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(
            f"{path} is no checkpoint of G4G that can be used: {_said(error)}",
            "Give another one, or train it with g4g-model train.",
        ) from error
    if len(files) > 1:
        tensors = {name.removeprefix(_PREFIX): t for name, t in tensors.items() if name.startswith(_PREFIX)}
    return about, tensors


def _files(path: str) -> list[Path]:
    """The exported file, or weights and state of a step."""
    place = Path(path)
    if place.is_dir():
        if (place / _STATE).exists() and (place / _MODEL).exists():
            return [place / _MODEL, place / _STATE]
        found = [place / f"{name}.safetensors" for name in VARIANTS if (place / f"{name}.safetensors").exists()]
        if len(found) != 1:
            raise WeightsError(
                f"{path} holds {'no' if not found else 'more than one'} exported network",
                "Name a file <model>.safetensors, or a folder step-... of a run.",
            )
        place = found[0]
    if not place.is_file():
        raise WeightsError(f"there is no checkpoint {path}", "Train one with g4g-model train.")
    return [place]


def _facts(files: list[Path], data: bytes) -> dict[str, Any]:
    """What is written beside the weights."""
    if len(files) > 1:
        return dict(_json(files[1].read_bytes(), _STATE))
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    if _FIELD not in metadata:
        raise ValueError("its weights are of something else")
    return dict(_json(metadata[_FIELD], "what it says of itself"))


def _about(facts: Mapping[str, Any]) -> About:
    """Raises ValueError, KeyError or TypeError where something is missing or odd."""
    name, description = facts["trainable"], dict(_mapping(facts, "description"))
    if name not in VARIANTS:
        raise ValueError(f"it is of {name!r}")
    description.pop("format", None)
    return About(
        name=name,
        config=VARIANTS[name].model_validate(description.pop("config")),
        losses_off=tuple(description.pop("losses_off")),
        trained_against=tuple(description.pop("trained_against")),
        learned_from=description,
        settings=_mapping(facts, "settings") if "settings" in facts else {},
        step=facts.get("step"),
        torch=facts.get("torch"),
        processor=facts.get("processor"),
    )


def _json(text: str | bytes, what: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} is damaged") from error
    return _a_mapping(value, what)


def _mapping(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return _a_mapping(facts[name], name)


def _a_mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} holds no fields")
    return value


def _said(error: Exception) -> str:
    """One line of what is wrong."""
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"its configuration does not fit this version ({where}: {first['msg']})"
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return f"{' '.join(str(error).split()):.200}"
