"""Wav2Lip's weights on disk: the public files, and what our own training leaves.

A public file is a pickled ``{"state_dict": {"module.<name>": tensor, ...}, "optimizer": ...}``. It is read with
``weights_only``, which builds tensors and plain containers and runs nothing. Ours are safetensors with one JSON field.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.wav2lip.config import CONFIGS, EXPERT, Wav2LipConfig
from g4g_core import storage, weights
from g4g_core.errors import WeightsError
from g4g_core.known_weights import KNOWN
from g4g_core.provenance import file_sha256, stable_json

if TYPE_CHECKING:
    import torch

PUBLIC: Mapping[str, str] = {"wav2lip": "wav2lip", "wav2lip-gan": "wav2lip-gan", EXPERT: "lipsync-expert"}
"""Entry of the weights registry by registered name."""

NETWORK = "network."
"""Prefix, in a checkpoint ``step-...`` of a run, of the weights that are used afterwards."""

FORMAT = 1
_FIELD = "wav2lip"  # one field: several would be written in an order that changes
_STATE, _MODEL = "state.json", "model.safetensors"
_WRAPPED = "module."  # torch.nn.DataParallel's


@dataclasses.dataclass(frozen=True)
class About:
    """What is known of a trained network besides its weights.

    Attributes:
        name: registered name of what it is of.
        config: it was made and trained by.
        losses_off: terms of the loss that were off.
        trained_against: SHA-256 of sync experts that drove the training.
    """

    name: str
    config: Wav2LipConfig
    losses_off: tuple[str, ...] = ()
    trained_against: tuple[str, ...] = ()


def write(path: Path, about: About, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a network; the same network gives the same bytes."""
    from safetensors.torch import save

    facts = {**dataclasses.asdict(about), "config": about.config.model_dump(mode="json"), "format": FORMAT}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    storage.write_bytes(str(path), save(plain, {_FIELD: stable_json(facts).decode()}))


def fingerprint(name: str, checkpoint: str | None) -> str:
    """SHA-256 of the bytes that :func:`read` reads. Raises WeightsError where there are none, or wrong ones."""
    digests = [file_sha256(str(file)) for file in _files(name, checkpoint)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read(name: str, checkpoint: str | None) -> tuple[About, dict[str, torch.Tensor]]:
    """A network's weights.

    Args:
        name: registered name.
        checkpoint: a file in the public layout, a file that our training exported, the folder of its run, or a
            checkpoint ``step-...`` of the run; ``None``: the public file of the weights registry.

    Raises:
        WeightsError: it is missing, tampered with, of another kind, or holds anything besides weights.
    """
    files = _files(name, checkpoint)
    if len(files) > 1 or _is_safetensors(files[0]):
        return _read_ours(name, files)
    return _about_public(name, files[0]), read_public(files[0])


def read_public(file: Path) -> dict[str, torch.Tensor]:
    """The weights of a file in the public layout, without ``module.``; nothing that is in it is run.

    Raises:
        WeightsError: it holds something else.
    """
    import torch

    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(held, dict) or not isinstance(held.get("state_dict"), dict):
            raise TypeError("it holds no state_dict")
        found = {str(key).removeprefix(_WRAPPED): value for key, value in held["state_dict"].items()}
        odd = [key for key, value in found.items() if not isinstance(value, torch.Tensor)]
        if odd:
            raise TypeError(f"{odd[0]} is no tensor")
    except Exception as error:  # torch raises whatever its unpickler or zip reader meets
        raise WeightsError(
            f"{file} (SHA-256 {file_sha256(str(file))}) is no checkpoint of Wav2Lip: {_first_line(error)}",
            "Wav2Lip's checkpoints are dictionaries with a state_dict of tensors; nothing else is read.",
        ) from error
    return found


def fill(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], name: str, checkpoint: str | None) -> None:
    """Put what :func:`read` gave for ``name`` and ``checkpoint`` into a network: every name once, every shape as it is.

    Raises:
        WeightsError: they are of another network, or not finite; says what they were read from, and its hash.
    """
    import torch

    fault = ""
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        fault = f"does not fit {type(network).__name__}: {str(error).strip().splitlines()[-1].strip():.300}"
    if not fault and not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        fault = "holds weights that are no finite numbers"
    if fault:
        origin = checkpoint or KNOWN[PUBLIC[name]].file
        raise WeightsError(f"{origin} (SHA-256 {fingerprint(name, checkpoint)}) {fault}", "Name another checkpoint.")


def _about_public(name: str, file: Path) -> About:
    """Which experts drove the training is known of the known files alone, from the authors' README."""
    known = KNOWN[PUBLIC[name]].sha256 == file_sha256(str(file))
    expert = KNOWN[PUBLIC[EXPERT]].sha256
    assert expert is not None
    return About(name, CONFIGS[name](), trained_against=(expert,) if known and name != EXPERT else ())


def _read_ours(name: str, files: list[Path]) -> tuple[About, dict[str, torch.Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = files[0].read_bytes()
    try:
        tensors = load(data)
        facts = _facts(files, data)
        if facts["format"] != FORMAT or facts["name"] not in CONFIGS:
            raise ValueError(f"it is of {facts['name']!r}, format {facts['format']}")
        config = CONFIGS[facts["name"]].model_validate(facts["config"])
        about = About(facts["name"], config, tuple(facts["losses_off"]), tuple(facts["trained_against"]))
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(
            f"{files[0]} is no checkpoint of Wav2Lip: {_first_line(error)}", "Train one with g4g-model train."
        ) from error
    if about.name != name:
        raise WeightsError(f"{files[0]} is a checkpoint of {about.name}, not of {name}", "Name it as it is.")
    if len(files) > 1:
        tensors = {key.removeprefix(NETWORK): t for key, t in tensors.items() if key.startswith(NETWORK)}
    return about, tensors


def _facts(files: list[Path], data: bytes) -> dict[str, Any]:
    if len(files) == 1:
        length = int.from_bytes(data[:8], "little")
        return dict(json.loads(json.loads(data[8 : 8 + length]).get("__metadata__", {})[_FIELD]))
    state = json.loads(files[1].read_bytes())
    about = state["description"]
    names = ("config", "losses_off", "trained_against")
    return {"format": FORMAT, "name": state["trainable"], **{key: about[key] for key in names}}


def _files(name: str, checkpoint: str | None) -> list[Path]:
    """The file of a network, or weights and state of a step."""
    if checkpoint is None:
        return [_registered(name)]
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
    if not _is_safetensors(place):
        _require_not_known_otherwise(name, place)
    return [place]


def _registered(name: str) -> Path:
    """The checked public file."""
    entry = PUBLIC[name]
    try:
        return weights.path(entry)
    except WeightsError as error:
        found = weights.find(entry)
        if found is None:
            raise WeightsError(
                error.what, f"{error.mend} Or name a checkpoint of your own: --checkpoint {name}=PATH."
            ) from error
        raise WeightsError(_with_hash(error.what, found), error.mend) from error


def _require_not_known_otherwise(name: str, file: Path) -> None:
    """Weights of one's own are welcome; a registered file that has changed, or the file of another model, is not."""
    digest = file_sha256(str(file))
    for other, entry in PUBLIC.items():
        registered = weights.find(entry)
        if registered is not None and registered.samefile(file):
            _registered(other)
        if other != name and digest == KNOWN[entry].sha256:
            raise WeightsError(f"{file} is {KNOWN[entry].file}, the weights of {other}, not of {name}")


def _with_hash(what: str, file: Path) -> str:
    digest = file_sha256(str(file))
    return what if digest in what else f"{what}; its SHA-256 is {digest}"


def _is_safetensors(file: Path) -> bool:
    """Eight bytes of length, then a JSON header; a pickle and a zip begin otherwise."""
    with file.open("rb") as stream:
        return stream.read(9)[8:] == b"{"


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split("\n", maxsplit=1)[0].split())
    return f"{text:.200}" or type(error).__name__
