"""What a run keeps of every (model, shot): its output, what was measured of it, and the keys that both were made for.

A cell's record says for which content each part was made; what still fits is not computed again. Records are written
last and whole, so a run killed anywhere goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.videos import SUFFIX, UnreadableOutput, read_lossless, write_lossless
from g4g_core import storage
from prep.shards.sample import npy_bytes, read_npy

CELLS, OUTPUTS, WORK = "cells", "outputs", "work"
VERSION = 2
"""Of records: one of another version is made again."""

_SAFE = re.compile(r"[A-Za-z0-9._-]+")
_LONGEST = 120


def file_stem(name: str) -> str:
    """A file name for a model or shot: the name itself where it is plain and short, else marked by its hash."""
    if _SAFE.fullmatch(name) and len(name) <= _LONGEST and not name.startswith("."):
        return name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[: _LONGEST - 20].strip("_")
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """The place of one (model, shot) in a run's folder."""

    run: str
    model: str
    shot: str

    @property
    def _stem(self) -> Path:
        return Path(self.run) / CELLS / file_stem(self.model) / file_stem(self.shot)

    @property
    def output(self) -> Path:
        """The lossless video of the output."""
        return Path(self.run) / OUTPUTS / file_stem(self.model) / (file_stem(self.shot) + SUFFIX)

    def keep_output(self, pictures: Iterable[np.ndarray]) -> dict[str, Any]:
        """Store the output. Returns what the record must say of its file.

        Args:
            pictures: blocks of uint8 [n, H, W, 3] RGB.
        """
        write_lossless(self.output, pictures)
        return {"bytes": self.output.stat().st_size, "sha256": _hash(self.output)}

    def pictures(self) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3] RGB frames of the output.

        Raises:
            UnreadableOutput: there is none, or not the one that the record speaks of.
        """
        kept = (self.read().get("output") or {}).get("sha256")
        if not self.output.is_file() or _hash(self.output) != kept:
            raise UnreadableOutput(f"{self.output} is not what was stored there")
        yield from read_lossless(self.output)

    def features_path(self, name: str) -> Path:
        return self._stem.with_name(f"{self._stem.name}.{name}.npy")

    def read(self) -> dict[str, Any]:
        """The record; an empty one where there is none, it is of another version, or something damaged it."""
        path = self._stem.with_name(self._stem.name + ".json")
        try:
            record = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        ours = isinstance(record, dict) and record.get("shot") == self.shot and record.get("version") == VERSION
        return record if ours else {}

    def write(self, record: dict[str, Any]) -> None:
        path = self._stem.with_name(self._stem.name + ".json")
        storage.write_json(str(path), {**record, "version": VERSION, "model": self.model, "shot": self.shot})

    def forget(self) -> None:
        """Delete the record: nothing is known of this cell until the next one is written."""
        self._stem.with_name(self._stem.name + ".json").unlink(missing_ok=True)

    def write_features(self, name: str, features: np.ndarray) -> None:
        storage.write_bytes(str(self.features_path(name)), npy_bytes(features))

    def read_features(self, name: str) -> np.ndarray:
        return read_npy(self.features_path(name).read_bytes())

    def output_fits(self, record: dict[str, Any], key: str) -> bool:
        """Whether the output made for ``key`` is still there, or why there is none is known.

        By its size, since this is asked of all cells whenever a run goes on; :meth:`pictures` looks at every byte.
        """
        output = record.get("output")
        if not output or output["key"] != key:
            return False
        if output["error"] is not None or output["bytes"] is None:
            return True
        return self.output.is_file() and self.output.stat().st_size == output["bytes"]

    def measure_fits(self, record: dict[str, Any], name: str, key: str) -> bool:
        """Whether the measure ``name`` was taken for ``key`` and its features are still there."""
        measured = record.get("measures", {}).get(name)
        if not measured or measured["key"] != key:
            return False
        return all(self.features_path(feature).is_file() for feature in measured["features"])


def _hash(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()
