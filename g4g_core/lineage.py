"""What a network learned from, as its checkpoint tells it: in the same words for everything that is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from g4g_core.provenance import stable_hash

TRAIN_KEYS, VALIDATION_KEYS = "TRAIN_KEYS", "VALIDATION_KEYS"
"""Stand, in commands, for the files of keys that say what is trained on and what figures are taken on."""

_HIDDEN = ("people", "selections")


class Samples(Protocol):
    """Samples that are drawn from."""

    @property
    def rows(self) -> Sequence[Any]:
        """The samples: ``key``, ``source``, ``identity``, ``shard``, ``frame_start`` and ``n_frames``."""
        ...

    @property
    def splits(self) -> Sequence[str]:
        """That they are of."""
        ...

    @property
    def selected(self) -> bool:
        """Whether only those that a file names."""
        ...

    @property
    def selected_by(self) -> str | None:
        """The command that makes this file, but for its place; ``None`` where the file does not say."""
        ...

    @property
    def left_out(self) -> int:
        """Samples that cannot be learned from."""
        ...

    @property
    def tars(self) -> Mapping[str, str]:
        """SHA-256 of shards by name."""
        ...


def learned_from(samples: Samples, validation: Samples | None) -> dict[str, Any]:
    """The footage, for a checkpoint."""
    rows = samples.rows
    keys = {TRAIN_KEYS: samples, **({} if validation is None else {VALIDATION_KEYS: validation})}
    return {
        "splits": list(samples.splits),
        "selected": samples.selected,
        "selections": {
            name: None if of.selected_by is None else f"{of.selected_by} --out {name}"
            for name, of in keys.items()
            if of.selected
        },
        "samples": len(rows),
        "left_out": samples.left_out,
        "identities": len({row.identity for row in rows}),
        "people": people(row.identity for row in rows),
        "sources": sorted({row.source for row in rows}),
        "minutes": round(sum(row.n_frames for row in rows) / 25 / 60, 2),
        "footage_sha256": _digest(rows, samples.tars),
        "validation": _told(validation),
    }


def people(identities: Iterable[str]) -> list[str]:
    """A hash of 12 hex digits of every identity, sorted; those of two names agree by chance once in 2^48.

    Whoever has a name can look for it, so this tells whether somebody was learned from. It lists no names, and hides
    none that can be guessed.
    """
    return sorted({f"{stable_hash(identity):016x}"[:12] for identity in identities})


def shown(description: Mapping[str, Any]) -> dict[str, Any]:
    """What of a description people want to read; the commands in it are part of the one that trains."""
    found = {name: value for name, value in description.items() if name not in _HIDDEN}
    return found | ({"taught_by": (found["taught_by"] or {}).get("expert")} if "taught_by" in found else {})


def _told(validation: Samples | None) -> str:
    """As ``--validation`` takes it."""
    if validation is None:
        return "none"
    return VALIDATION_KEYS if validation.selected else ",".join(validation.splits)


def _digest(rows: Iterable[Any], tars: Mapping[str, str]) -> str:
    """SHA-256 of which samples are learned from, and of the shards that hold them."""
    hasher = hashlib.sha256()
    for row in rows:
        hasher.update(f"{row.key} {row.frame_start} {row.n_frames} {tars[row.shard]}\n".encode())
    return hasher.hexdigest()
