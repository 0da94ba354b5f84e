"""The samples of a data set that a network learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from g4g_core.errors import DatasetError, UsageError
from g4g_core.references import SHORTEST, allowed_references
from g4g_model.config import FRAMES
from prep.shards.index import Dataset, Selection, read_selection, selection_command
from prep.shards.rows import Row
from prep.sync_expert.footage import shots


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """A sample among those of its shot."""

    rows: tuple[Row, ...]
    number: int

    @property
    def row(self) -> Row:
        return self.rows[self.number]

    @property
    def bounds(self) -> list[tuple[int, int]]:
        return [(row.frame_start, row.n_frames) for row in self.rows]

    def allowed(self, start: int) -> np.ndarray:
        """Clip frames that the window at ``start`` of the segment may refer to."""
        first = self.row.frame_start + start
        return allowed_references(self.bounds, self.number, first, first + FRAMES)


class Footage:
    """Samples of some splits. See :class:`g4g_core.lineage.Samples`.

    Those without references (a shot of one segment under 20 frames) and those that are too short are left out.

    Args:
        dataset: an open data set.
        splits: of it.
        selection: the samples to use, ``None``: all of them.
        least: frames that a sample must have.
        clips: samples that are drawn from at a time.
        lower: settings that ask for less when they are lower.

    Raises:
        DatasetError: nothing is selected, or too few samples are usable.
        UsageError: crops are stored at sizes that differ.
    """

    def __init__(
        self,
        dataset: Dataset,
        splits: Sequence[str],
        selection: Selection | None,
        *,
        least: int,
        clips: int,
        lower: str = "--set clips",
    ) -> None:
        keys = read_selection(selection) if selection is not None else None
        rows = [row for split in splits for row in dataset.rows(split) if keys is None or row.key in keys]
        if len({row.size for row in rows}) > 1:
            raise UsageError("crops of different sizes cannot be trained on together", "Select those of one size.")
        found = [Segment(tuple(group), number) for _, group in shots(rows) for number in range(len(group))]
        self.segments = [
            segment
            for segment in found
            if segment.row.n_frames >= least and (len(segment.rows) > 1 or segment.row.n_frames >= SHORTEST)
        ]
        self.left_out = len(found) - len(self.segments)
        if len(self.segments) < clips:
            raise DatasetError(
                f"{len(self.segments)} samples of {', '.join(splits)} can be learned from, a batch needs {clips}; "
                f"{self.left_out} are shorter than {least} frames or have no references",
                f"Give more footage, or lower {lower}.",
            )
        self.splits, self.selected = tuple(splits), selection is not None
        self.selected_by = selection_command(selection)
        self.tars = {shard.stem: shard.marker["sha256"] for split in splits for shard in dataset.committed(split)}

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def rows(self) -> list[Row]:
        """The samples."""
        return [segment.row for segment in self.segments]

    @property
    def identities(self) -> set[str]:
        return {row.identity for row in self.rows}


def validated_on(dataset: Dataset, validation: str) -> tuple[Sequence[str], Selection | None]:
    """Splits and selection that ``--validation`` names: a split, or a file of keys."""
    return ((validation,), None) if validation in dataset.splits else (dataset.splits, validation)


def require_strangers(learned: Footage, shown: Footage) -> None:
    """Raises DatasetError where a person of the validation is trained on."""
    both = sorted(learned.identities & shown.identities)
    if both:
        raise DatasetError(
            f"{both[0]} is trained on and in the validation", "Select people that the other selection leaves out."
        )
