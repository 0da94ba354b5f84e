"""Wav2Lip's weights on disk: the public files, and what our own training leaves.

A public file is a pickled ``{"state_dict": {"module.<name>": tensor, ...}, "optimizer": ...}``. It is read with
``weights_only``, which builds tensors and plain containers and runs nothing. Ours are safetensors with one JSON field.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.trained import About, fault_of, files_of, fingerprint_of, first_line, preset_of, read_trained
from baselines.wav2lip.config import CONFIGS, EXPERT, Wav2LipConfig
from g4g_core import weights
from g4g_core.errors import WeightsError
from g4g_core.known_weights import KNOWN
from g4g_core.provenance import file_sha256

if TYPE_CHECKING:
    import torch

PUBLIC: Mapping[str, str] = {"wav2lip": "wav2lip", "wav2lip-gan": "wav2lip-gan", EXPERT: "lipsync-expert"}
"""Entry of the weights registry by registered name."""

_WRAPPED = "module."  # torch.nn.DataParallel's


def fingerprint(name: str, checkpoint: str | None) -> str:
    """SHA-256 of the bytes that :func:`read` reads. Raises WeightsError where there are none, or wrong ones."""
    return fingerprint_of(_files(name, checkpoint))


def read(name: str, checkpoint: str | None) -> tuple[About[Wav2LipConfig], dict[str, torch.Tensor]]:
    """A network's weights.

    Args:
        name: registered name.
        checkpoint: a file in the public layout, a file that our training exported, the folder of its run, or a
            checkpoint ``step-...`` of the run; ``None``: the public file of the weights registry.

    Raises:
        WeightsError: it is missing, tampered with, of another kind, or holds anything besides weights; or it has the
            name of a public file and is another. In the public layout under another name it is read, and marked.
    """
    files = _files(name, checkpoint)
    if len(files) > 1 or _is_safetensors(files[0]):
        return read_trained(name, files, CONFIGS, "Wav2Lip")
    return _about_public(name, files[0]), read_public(files[0])


def described(
    name: str, presets: Mapping[str, Mapping[str, Any]], checkpoint: str | None, preset: str | None
) -> tuple[About[Wav2LipConfig], tuple[str, str] | None]:
    """What can be told of a network, and the place and SHA-256 of its weights.

    Of a checkpoint; without one, of the weights registry's file where that is here and no preset is asked for; else of
    a network that is not trained yet.

    Raises:
        UsageError: an unknown preset.
        WeightsError: as :func:`read`.
    """
    if checkpoint is None and (preset is not None or weights.find(PUBLIC[name]) is None):
        return preset_of(name, CONFIGS[name], presets, preset), None
    files = _files(name, checkpoint)
    return read(name, checkpoint)[0], (checkpoint or str(files[0]), fingerprint_of(files))


def read_public(file: Path) -> dict[str, torch.Tensor]:
    """The weights of a file in the public layout, without ``module.``; nothing that is in it is run.

    A name that is there with and without ``module.`` is two weights for one place: refused.

    Raises:
        WeightsError: it holds something else.
    """
    import torch

    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(held, dict) or not isinstance(held.get("state_dict"), dict):
            raise TypeError("it holds no state_dict")
        found: dict[str, torch.Tensor] = {}
        for key, value in held["state_dict"].items():
            name = str(key).removeprefix(_WRAPPED)
            if name in found:
                raise TypeError(f"it holds {name} twice, with and without {_WRAPPED}")
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"{name} is no tensor")
            found[name] = value
    except Exception as error:  # torch raises whatever its unpickler or zip reader meets
        # what torch says of such a file ends with the advice to read it with weights_only=False, which runs it
        said = "it holds something besides tensors" if "weights_only" in str(error) else first_line(error)
        raise WeightsError(
            f"{file} (SHA-256 {file_sha256(str(file))}) is no checkpoint of Wav2Lip: {said}",
            "Wav2Lip's checkpoints are dictionaries with a state_dict of tensors; nothing else is read.",
        ) from error
    return found


def fill(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], name: str, checkpoint: str | None) -> None:
    """Put what :func:`read` gave for ``name`` and ``checkpoint`` into a network: every name once, every shape as it is.

    Raises:
        WeightsError: they are of another network, or not finite; says what they were read from, and its hash.
    """
    fault = fault_of(network, tensors)
    if fault:
        origin = checkpoint or KNOWN[PUBLIC[name]].file
        raise WeightsError(f"{origin} (SHA-256 {fingerprint(name, checkpoint)}) {fault}", "Name another checkpoint.")


def _about_public(name: str, file: Path) -> About[Wav2LipConfig]:
    """Which experts drove the training is known of the known files alone, from the authors' README."""
    known, digest = KNOWN[PUBLIC[name]], file_sha256(str(file))
    if digest != known.sha256:
        said = f"weights of unknown origin (SHA-256 {digest[:12]})"
        origin = f"unknown; not the public {known.file}"
        return About(name, CONFIGS[name](), origin=origin, marks=(said,), sha256=digest)
    expert = KNOWN[PUBLIC[EXPERT]].sha256
    assert expert is not None
    against = () if name == EXPERT else (expert,)
    return About(name, CONFIGS[name](), trained_against=against, origin=f"the public {known.file}", sha256=digest)


def _files(name: str, checkpoint: str | None) -> list[Path]:
    """The file of a network, or weights and state of a step."""
    if checkpoint is None:
        return [_registered(name)]
    files = files_of(name, checkpoint)
    if len(files) == 1 and not _is_safetensors(files[0]):
        _require_known_or_own(name, files[0])
    return files


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


def _require_known_or_own(name: str, file: Path) -> None:
    """Weights of one's own are welcome; a public name on another file, or the file of another model, is not."""
    digest = file_sha256(str(file))
    for other, entry in PUBLIC.items():
        known = KNOWN[entry]
        if other != name and digest == known.sha256:
            raise WeightsError(f"{file} is {known.file}, the weights of {other}, not of {name}")
        if known.file in (file.name, file.resolve().name) and digest != known.sha256:
            raise WeightsError(
                f"{file} has the name of a public file and is another: its SHA-256 is {digest}, not {known.sha256}",
                f"Fetch it (g4g-eval weights fetch {entry}); if these are other weights that you trust, give the file "
                "another name, and tables will call them of unknown origin.",
            )


def _with_hash(what: str, file: Path) -> str:
    digest = file_sha256(str(file))
    return what if digest in what else f"{what}; its SHA-256 is {digest}"


def _is_safetensors(file: Path) -> bool:
    """Eight bytes of length, then a JSON header; a pickle and a zip begin otherwise."""
    with file.open("rb") as stream:
        return stream.read(9)[8:] == b"{"
