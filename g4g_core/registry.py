"""Things that packages offer by name through entry points, found without importing them."""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Iterable, Sequence
from typing import Any

from g4g_core.errors import MissingDependency, UsageError

MODELS = "g4g.models"
TRAINABLES = "g4g.trainables"
EVAL_COMMANDS = "g4g.eval_commands"
SYNC_EXPERTS = "g4g.sync_experts"
IDENTITY_NETWORKS = "g4g.identity_networks"


def names(group: str) -> list[str]:
    """Names offered in an entry-point group, sorted; nothing is imported."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """The object that ``name`` stands for.

    Raises:
        UsageError: when nobody offers it, or two packages offer different things under it.
        MissingDependency: when its module needs a package that is not installed.
    """
    entries = {entry.value: entry for entry in importlib.metadata.entry_points(group=group, name=name)}
    if not entries:
        raise unknown(group.rpartition(".")[2].removesuffix("s").replace("_", " "), name, names(group))
    if len(entries) > 1:
        raise UsageError(
            f"{name!r} is offered twice in {group}: {', '.join(sorted(entries))}",
            "Uninstall one of the two packages.",
        )
    (entry,) = entries.values()
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"{name!r} needs the Python package {error.name!r}", f"pip install {error.name}"
        ) from error


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Up to ``count`` candidates that ``name`` was probably meant to be, best first."""
    folded: dict[str, str] = {}
    for candidate in candidates:
        folded.setdefault(_fold(candidate), candidate)
    matches = difflib.get_close_matches(_fold(name), folded, n=count, cutoff=0.6)
    return [folded[match] for match in matches]


def unknown(kind: str, name: str, candidates: Sequence[str]) -> UsageError:
    """The error for a name that is not among ``candidates``: says the nearest, then all."""
    near = nearest(name, candidates)
    guess = f"Did you mean {_either(near)}? " if near else ""
    listing = f"There are: {', '.join(sorted(candidates))}." if candidates else "There are none."
    return UsageError(f"there is no {kind} {name!r}", guess + listing)


def _fold(name: str) -> str:
    return name.lower().replace("_", "-")


def _either(options: Sequence[str]) -> str:
    *head, last = map(repr, options)
    return f"{', '.join(head)} or {last}" if head else last
