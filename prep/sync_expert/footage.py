"""Footage for the experts: mouth pictures and sound of whole shots, read from shards."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from g4g_core.errors import DatasetError
from g4g_core.progress import progress
from prep.shards.access import SampleReader
from prep.shards.index import Dataset, Selection, read_selection
from prep.shards.rows import Row
from prep.sync_expert.mouths import mouth_patches


@dataclasses.dataclass(frozen=True, eq=False)
class Footage:
    """A shot.

    Attributes:
        key: ``<source>-<clip>-<shot>``.
        source, identity: as in the data set.
        patches: uint8 [T, 64, 64], mouth pictures.
        pcm: int16 [640 T].
    """

    key: str
    source: str
    identity: str
    patches: np.ndarray
    pcm: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.patches)


def read_footage(
    dataset: Dataset, splits: Sequence[str], selection: Selection | None = None, *, quiet: bool = False
) -> list[Footage]:
    """The shots of some splits, or those of them whose samples ``selection`` names, in order of their keys.

    Raises:
        DatasetError: the selection names nothing in these splits.
    """
    keys = read_selection(selection) if selection is not None else None
    rows = [row for split in splits for row in dataset.rows(split) if keys is None or row.key in keys]
    if not rows:
        raise DatasetError(
            f"no sample of {', '.join(splits)} is in the selection", "Make one with 'g4g-prep select' from them."
        )
    reader = SampleReader(dataset)
    with progress(len(rows), "reading mouths", "samples", quiet) as bar:
        found = []
        for key, group in shots(rows):
            found.append(_read(reader, key, group))
            bar.advance(len(group), key)
    reader.close()
    return found


def shots(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows by shot, in the order of their frames; segments that do not touch each other become shots of their own."""
    ordered = sorted(rows, key=lambda row: (_shot(row), row.frame_start))
    for key, group in itertools.groupby(ordered, key=_shot):
        run: list[Row] = []
        for row in group:
            if run and run[-1].frame_start + run[-1].n_frames != row.frame_start:
                yield key, run
                run = []
            run.append(row)
        yield key, run


def _shot(row: Row) -> str:
    return row.key.rpartition("-")[0]


def _read(reader: SampleReader, key: str, rows: Sequence[Row]) -> Footage:
    patches = [
        mouth_patches(reader.frames(row, range(row.n_frames)), reader.landmarks(row, raw=True)) for row in rows
    ]
    pcm = np.concatenate([reader.pcm(row) for row in rows])
    return Footage(key, rows[0].source, rows[0].identity, np.concatenate(patches), pcm)
