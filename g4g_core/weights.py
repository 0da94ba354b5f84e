"""Pretrained weights: where they lie, whether they are the files we know, how to get them.

Files lie in :func:`cache_folder`; those that a Python package brings along ("embedded") lie in it. Nothing is
handed out before its SHA-256 has been checked.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import Literal

from g4g_core.download import download
from g4g_core.errors import WeightsError
from g4g_core.known_weights import KNOWN, Weights
from g4g_core.progress import format_bytes
from g4g_core.provenance import file_sha256
from g4g_core.registry import unknown

FOLDER_VARIABLE = "G4G_WEIGHTS"
"""Environment variable that overrides :func:`cache_folder`."""

Status = Literal["ok", "missing", "wrong", "embedded"]


def cache_folder() -> pathlib.Path:
    """Folder of fetched weights: ``$G4G_WEIGHTS``, else ``$XDG_CACHE_HOME/g4g/weights``, else ``~/.cache/...``."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return pathlib.Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "g4g" / "weights"


def get(name: str) -> Weights:
    """The entry called ``name`` (case, ``-`` and ``_`` do not matter). Raises UsageError for an unknown name."""
    folded = name.lower().replace("_", "-")
    if folded not in KNOWN:
        raise unknown("weights entry", name, list(KNOWN))
    return KNOWN[folded]


def find(name: str) -> pathlib.Path | None:
    """Where the file is, unchecked, or ``None`` where it is missing."""
    place = _place(get(name))
    return place if place is not None and place.is_file() else None


def path(name: str) -> pathlib.Path:
    """The checked file. Raises WeightsError that says what to fetch and how."""
    found = find(name)
    if found is None:
        raise _missing(get(name))
    verify(name)
    return found


def verify(target: str | pathlib.Path) -> str:
    """Checks a file against what is known about it.

    Args:
        target: a name, or the path of a file that has the file name of an entry.

    Returns:
        its SHA-256, 64 hex digits. An entry with a known prefix only is checked against the prefix.

    Raises:
        WeightsError: when the file is missing, has another size or another SHA-256.
    """
    if isinstance(target, pathlib.Path):
        return _check(_entry_of(target), target)
    found = find(target)
    if found is None:
        raise _missing(get(target))
    return _check(get(target), found)


def status(name: str) -> Status:
    """``ok`` and ``embedded`` have been checked to be the files we know; ``wrong`` is there but another file."""
    if find(name) is None:
        return "missing"
    try:
        verify(name)
    except WeightsError:
        return "wrong"
    return "embedded" if get(name).package else "ok"


def fetch(name: str, advance: Callable[[int], None] | None = None) -> pathlib.Path:
    """Downloads a file into the cache folder, unless the right one is there, and checks it before use.

    Args:
        advance: called with the number of new bytes as they arrive (resumed ones at first).

    Raises:
        WeightsError: when the file cannot be fetched, or is not the one we know. An interrupted download
            stays beside it as ``.part`` where the server can resume, and the next call goes on from there.
    """
    weights = get(name)
    state = status(name)
    if state in ("ok", "embedded"):
        return path(name)
    if weights.package or weights.url is None:
        raise _missing(weights)
    place = cache_folder() / weights.file
    part = place.with_name(place.name + ".part")
    download(weights.url, part, weights.size_bytes, advance or _ignore)
    try:
        _check(weights, part)
    except WeightsError as error:
        part.unlink()
        raise WeightsError(
            f"{weights.url} does not give the file we know: {error.what}",
            f"Nothing was installed. If it happens again, install {weights.file} by hand.",
        ) from error
    os.replace(part, place)
    return place


def _place(weights: Weights) -> pathlib.Path | None:
    """Where the file should be; ``None`` where the package that holds it is not installed."""
    if not weights.package:
        return cache_folder() / weights.file
    spec = importlib.util.find_spec(weights.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return pathlib.Path(next(iter(spec.submodule_search_locations))) / weights.file


def _entry_of(file: pathlib.Path) -> Weights:
    for weights in KNOWN.values():
        if pathlib.PurePosixPath(weights.file).name == file.name:
            return weights
    raise WeightsError(f"{file} has the name of no weights that we know", "See `g4g-prep weights list`.")


def _missing(weights: Weights) -> WeightsError:
    size = f", {format_bytes(weights.size_bytes)}" if weights.size_bytes is not None else ""
    what = f"the weights {weights.name} ({weights.file}{size}; for {weights.needed_by}) are not here"
    if weights.package:
        return WeightsError(what, f"They come with the Python package {weights.package}: install it again.")
    by_hand = f"put {weights.file} into {cache_folder()}"
    if weights.url is None:
        return WeightsError(what, f"To install them, {by_hand}. {weights.note}".strip())
    return WeightsError(what, f"Fetch them with `g4g-prep weights fetch {weights.name}`, or {by_hand}.")


def _check(weights: Weights, file: pathlib.Path) -> str:
    mend = f"Delete {file} and run `g4g-prep weights fetch {weights.name}`."
    try:
        facts = file.stat()
    except OSError as error:
        raise WeightsError(f"cannot read {file}: {error.strerror}") from error
    if weights.size_bytes is not None and facts.st_size != weights.size_bytes:
        raise WeightsError(f"{file} has {facts.st_size} bytes instead of {weights.size_bytes}", mend)
    found = _sha256(str(file), facts.st_size, facts.st_mtime_ns)
    expected = weights.sha256 or weights.sha256_prefix or ""
    if not found.startswith(expected):
        which = "SHA-256" if weights.sha256 else f"first {len(expected)} digits of the SHA-256"
        raise WeightsError(
            f"{file} has another {which} than the file we know: {found[: len(expected)]}", mend
        )
    return found


@functools.lru_cache(maxsize=256)
def _sha256(file: str, size: int, mtime_ns: int) -> str:
    """Remembered for this process, as long as the file keeps its size and time."""
    return file_sha256(file)


def _ignore(_: int) -> None:
    pass
