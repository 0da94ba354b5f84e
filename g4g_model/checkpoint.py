"""Trained networks on disk: averaged weights of the generator, and all that a reader must know of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g4g_core import storage
from g4g_core.errors import WeightsError
from g4g_core.provenance import stable_json
from g4g_model.config import VARIANTS, G4GConfig

if TYPE_CHECKING:
    import torch

FORMAT = 1
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
    """

    name: str
    config: G4GConfig
    losses_off: tuple[str, ...]
    trained_against: tuple[str, ...]


def write(path: Path, about: About, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a network; the same network gives the same bytes."""
    from safetensors.torch import save

    facts = {**dataclasses.asdict(about), "config": about.config.model_dump(mode="json"), "format": FORMAT}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
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
        WeightsError: there is none, or it is of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    files = _files(path)
    data = files[0].read_bytes()
    try:
        tensors = load(data)
        facts = _facts(files, data)
        if facts["format"] != FORMAT or facts["name"] not in VARIANTS:
            raise ValueError(f"it is of {facts['name']!r}, format {facts['format']}")
        config = VARIANTS[facts["name"]].model_validate(facts["config"])
        about = About(facts["name"], config, tuple(facts["losses_off"]), tuple(facts["trained_against"]))
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(
            f"{path} is no checkpoint of G4G: {' '.join(str(error).split())}", "Train one with g4g-model train."
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
    if len(files) == 1:
        length = int.from_bytes(data[:8], "little")
        return dict(json.loads(json.loads(data[8 : 8 + length]).get("__metadata__", {})[_FIELD]))
    state = json.loads(files[1].read_bytes())
    about = state["description"]
    names = ("config", "losses_off", "trained_against")
    return {"format": FORMAT, "name": state["trainable"], **{name: about[name] for name in names}}
