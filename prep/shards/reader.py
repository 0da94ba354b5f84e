"""The ``indexed`` way of reading: training windows in an order that any number of processes can share and resume."""

from __future__ import annotations

import collections
import hashlib
import itertools
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from g4g_core.errors import DatasetError, UsageError
from prep.shards import schema
from prep.shards.access import SampleReader
from prep.shards.index import Dataset, Selection
from prep.shards.members import CorruptSample
from prep.shards.order import Draw, Order, References, another_window
from prep.shards.window import Window, make_window

if TYPE_CHECKING:
    from torch.utils.data import IterableDataset

logger = logging.getLogger(__name__)


class IndexedReader:
    """Iterates over the windows of a split; the order is a pure function of (seed, epoch, position).

    In an epoch every sample is visited once and gives ``windows_per_visit`` windows, whatever the number of
    processes. Iterating gives one epoch, or the rest of one after :meth:`load_state_dict` or an iteration that was
    left; the next iteration then gives the next epoch.

    Processes share an epoch by turns: of the windows that are left, block i (of one window, or of ``batch_size`` in
    :meth:`batches`) belongs to process i % n, where worker w of rank r has the number w * world_size + r. A
    ``DataLoader`` takes batches from its workers in turn, so that what k batches of every rank hold is the first
    k * world_size blocks of the order: the number of windows used so far is all that a resume needs, also with other
    numbers of ranks and workers.

    A sample that cannot be read or decoded is left out, logged with its key and counted in ``skipped`` (of this
    process); nothing takes its place.

    Args:
        dataset: an open data set.
        split: one of its splits.
        frames: T, frames of a window. Samples in which no window fits are not in the order; ``too_short`` counts them.
        windows_per_visit: windows of a sample that follow each other. More than one saves little here, because
            windows are read by offset, and makes neighbours alike.
        references: chooses the reference frames, see :data:`prep.shards.order.References`.
        mel_offset: frames by which a frame's mel window is moved, see :func:`prep.stages.mel.mel_window`; windows
            that would need columns before the clip or not stored are not drawn.
        seed: of the order.
        rank, world_size: of this node process; by default those of ``torch.distributed`` if that is running, else
            of the environment (``RANK``, ``WORLD_SIZE``), else 0 of 1. Found when the reader is made.
        worker, num_workers: of this loader process; by default those of a torch ``DataLoader``, else 0 of 1.
            Found when iteration starts.
        size: side S of the pictures, pixels; ``None``: as stored.
        selection: the samples to use, see :data:`prep.shards.index.Selection`.
        even: leave out the last windows of the order that would not go to every rank alike. Collective training
            hangs when one rank has a batch more than another.

    Raises:
        DatasetError: a shard is not committed, the selection names nothing, or no window fits in any sample.
        UsageError: numbers that make no sense.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        frames: int = 5,
        windows_per_visit: int = 1,
        references: References = another_window,
        mel_offset: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        worker: int | None = None,
        num_workers: int | None = None,
        size: int | None = None,
        selection: Selection | None = None,
        even: bool = False,
    ) -> None:
        if frames < 1 or windows_per_visit < 1 or (size is not None and size < 8) or not 0 <= seed < 2**64:
            raise UsageError(
                f"frames={frames}, windows_per_visit={windows_per_visit}, size={size}, seed={seed} make no sense",
                "Windows have 1 frame or more, pictures 8 px or more; the seed is 0 or more.",
            )
        self._rank, self._world_size = _among(rank, world_size, _distributed(), "rank")
        self._worker, self._num_workers = worker, num_workers
        self._samples = SampleReader(dataset)
        self._order = Order(
            dataset.rows(split, selection),
            frames=frames,
            windows_per_visit=windows_per_visit,
            references=references,
            mel_offset=mel_offset,
            seed=seed,
        )
        if not len(self._order):
            raise DatasetError(
                f"no window of {frames} frames fits in any sample of the split {split!r} of {dataset.root}",
                "Use fewer frames, or longer clips.",
            )
        self._mel_offset = mel_offset
        self._size = size
        self._even = even
        self._epoch = 0
        self._position = 0
        self._head: tuple[str, np.ndarray, np.ndarray] | None = None
        self.skipped: collections.Counter[str] = collections.Counter()

    @property
    def too_short(self) -> int:
        """Samples that are not in the order because no window fits in them."""
        return self._order.too_short

    @property
    def windows_per_epoch(self) -> int:
        """Windows of an epoch, over all processes."""
        return len(self._order)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration gives (the rest of)."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Start ``epoch`` from its beginning, unless the reader is inside that epoch already."""
        if epoch != self._epoch:
            self._epoch, self._position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the reader is: ``epoch`` and ``position``, the windows of it used up by all processes together.

        All processes are taken to have come as far as this one. The workers of a ``DataLoader`` hold copies of the
        reader: there, put ``position = batches * batch_size * world_size`` into the state yourself.
        """
        digest = hashlib.sha256("\n".join(self._order.rows.sample_keys()).encode()).hexdigest()
        return {
            "epoch": self._epoch,
            "position": self._position,
            "seed": self._order.seed,
            "frames": self._order.frames,
            "windows_per_visit": self._order.windows_per_visit,
            "mel_offset": self._mel_offset,
            "samples": digest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was called. Raises DatasetError when that order was another one."""
        mine = self.state_dict()
        for name in ("seed", "frames", "windows_per_visit", "mel_offset", "samples"):
            if state[name] != mine[name]:
                raise DatasetError(
                    f"the reader's state was saved for another order: {name} {state[name]} is now {mine[name]}",
                    "Resume with the same data set, selection and reader options.",
                )
        self._epoch, self._position = int(state["epoch"]), int(state["position"])

    def __iter__(self) -> Iterator[Window]:
        for batch in self.batches(1):
            yield from batch

    def batches(self, batch_size: int) -> Iterator[list[Window]]:
        """This process's part of the (rest of the) epoch in lists of ``batch_size`` windows.

        A list is shorter at the end of the epoch and where samples were skipped; empty ones are left out.
        """
        worker, num_workers = _among(self._worker, self._num_workers, _loader_worker(), "worker")
        processes, mine = self._world_size * num_workers, worker * self._world_size + self._rank
        epoch, start, end = self._epoch, self._position, len(self._order)
        if self._even:
            end -= (end - start) % (batch_size * self._world_size)
        given = 0
        for block in itertools.count(mine, processes):
            first = start + block * batch_size
            if first >= end:
                break
            draws = (self.draw(epoch, p) for p in range(first, min(first + batch_size, end)))
            windows = [window for draw in draws if (window := self._load_or_skip(draw)) is not None]
            self._position = min(start + (block - mine + processes) * batch_size, end)
            given += len(windows)
            if windows:
                yield windows
        self._epoch, self._position = epoch + 1, 0
        if not given and self.skipped:
            raise DatasetError(
                f"none of {sum(self.skipped.values())} windows could be read",
                "Run 'g4g-prep verify --deep' on the data set.",
            )

    def draw(self, epoch: int, position: int) -> Draw:
        """The window at ``position`` of ``epoch``, before anything is read."""
        return self._order.draw(epoch, position)

    def load(self, draw: Draw) -> Window:
        """Read a window. Raises CorruptSample when a member of it cannot be read or decoded."""
        row = draw.row
        if self._head is None or self._head[0] != row.key:  # windows of one visit share what is read whole
            head = self._samples.open(row, [schema.LANDMARKS, schema.MEL])
            self._head = row.key, head.landmarks(), head.mel()
        _, landmarks, mel = self._head
        pictures = [schema.frame_suffix(int(frame)) for frame in (*draw.indices, *draw.references)]
        pictures += [schema.mask_suffix(int(frame)) for frame in draw.indices]
        members = self._samples.open(row, pictures)
        return make_window(
            row,
            draw.indices,
            draw.references,
            frames=members.frames(draw.indices, self._size),
            masks=members.masks(draw.indices, self._size),
            references=members.frames(draw.references, self._size),
            landmarks=landmarks,
            mel=mel,
            mel_offset=self._mel_offset,
        )

    def _load_or_skip(self, draw: Draw) -> Window | None:
        try:
            return self.load(draw)
        except CorruptSample as error:
            self.skipped[error.key] += 1
            logger.warning("skipped %s: %s: %s", error.key, error.member, error.detail)
            return None


def as_torch(reader: IndexedReader, batch_size: int | None = None) -> IterableDataset[dict[str, Any]]:
    """``reader`` as a torch ``IterableDataset`` of dictionaries of tensors.

    With ``batch_size`` its items are whole batches (see :func:`prep.shards.window.collate`), to be used as
    ``DataLoader(as_torch(reader, 8), batch_size=None)``: only so does the number of batches say exactly where to
    resume, also where samples were skipped. Raises MissingDependency without torch.
    """
    from prep.shards.torch_adapter import TorchWindows

    return TorchWindows(reader, batch_size)


def _among(number: int | None, count: int | None, default: tuple[int, int], name: str) -> tuple[int, int]:
    if (number is None) != (count is None):
        raise UsageError(f"the number and the count of the {name} must be given together")
    number, count = default if number is None or count is None else (number, count)
    if not 0 <= number < count:
        raise UsageError(f"there is no {name} {number} of {count}")
    return number, count


def _distributed() -> tuple[int, int]:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1


def _loader_worker() -> tuple[int, int]:
    data = sys.modules.get("torch.utils.data")
    info = data.get_worker_info() if data is not None else None
    return (info.id, info.num_workers) if info is not None else (0, 1)
