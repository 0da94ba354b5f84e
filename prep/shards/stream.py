"""The ``stream`` way of reading: shards from end to end in random order, for sets too large or too far to seek in."""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from g4g_core import storage
from g4g_core.errors import MissingDependency, UsageError
from prep.shards import schema
from prep.shards.index import Dataset, read_committed
from prep.shards.members import CorruptSample, MemberDecoder
from prep.shards.order import References, another_window, window_starts
from prep.shards.rows import Row, Rows
from prep.shards.window import make_window

if TYPE_CHECKING:
    from webdataset import DataPipeline

logger = logging.getLogger(__name__)

SHUFFLE = 64
"""Samples held back for shuffling; a whole sample of 129 frames at 256 px is 3.5 MB."""


def stream(
    root: storage.Url,
    split: str,
    *,
    shuffle: int = SHUFFLE,
    seed: int = 0,
    resampled: bool = True,
    window: int | None = None,
    references: References = another_window,
    mel_offset: int = 0,
    size: int | None = None,
    skipped: collections.Counter[str] | None = None,
) -> DataPipeline:
    """A webdataset pipeline over the committed shards of ``split``.

    Resampled, it is endless and every worker of every node draws shards of its own (``.with_epoch(n)`` cuts it); the
    draws are fixed by ``seed``. Otherwise it is one pass, and nodes and workers share the shards, unevenly where
    their number does not divide. Use :class:`prep.shards.reader.IndexedReader` where every sample must be seen once
    per epoch, or a run must resume exactly.

    Args:
        root: the data set.
        split: one of its splits.
        shuffle: items held back for shuffling (also the order of shards); 0 keeps the order of the shards in one pass.
        seed: of all draws.
        resampled: draw shards with replacement, without end.
        window: ``None`` for whole samples, else T: one window of T frames of each sample.
        references, mel_offset: of windows, as in :class:`prep.shards.reader.IndexedReader`.
        size: side S of the pictures, pixels; ``None``: as stored.
        skipped: counts, by key, samples left out because they cannot be decoded (and by shard those broken off).

    Yields:
        With ``window``: :meth:`prep.shards.window.Window.arrays`. Without: ``key``, ``meta`` (dict), ``frames``
        uint8 [T, S, S, 3] RGB, ``masks`` uint8 [T, S, S], ``landmarks`` and ``landmarks_raw`` float32 [T, 68, 2] in
        pixels of the stored crop, ``mel`` float32 [n_mel, 80], ``pcm`` int16 [640 T].

    Raises:
        DatasetError: no data set or no such split; while iterating, a shard that is not committed.
        UsageError: numbers that make no sense.
        MissingDependency: webdataset is not installed.
    """
    if shuffle < 0 or (window is not None and window < 1) or (size is not None and size < 8):
        raise UsageError(f"shuffle={shuffle}, window={window}, size={size} make no sense")
    try:
        import webdataset as wds
    except ImportError as error:
        raise MissingDependency("the stream reader needs webdataset", "pip install webdataset") from error

    dataset = Dataset.open(root)
    skips = skipped if skipped is not None else collections.Counter()
    # stems stand where webdataset has URLs: it opens those itself, "pipe:" commands included; we open them
    stems = list(dataset.shards(split))
    stages: list[Any] = [_ReadShards(dataset, skips)]
    if resampled and stems:
        stages.insert(0, wds.ResampledShards(stems, seed=seed, deterministic=True))
    else:
        order = [{"url": stem} for stem in stems]
        if shuffle:
            np.random.default_rng(seed).shuffle(order)
        stages[:0] = [_Listed(order), wds.split_by_node, wds.split_by_worker]
    if window is not None:
        stages.append(_TakeWindow(window, references, mel_offset, seed))
    if shuffle:
        stages.append(wds.detshuffle(bufsize=shuffle, initial=max(1, shuffle // 4), seed=seed))
    stages.append(_Decode(size, mel_offset, skips))
    return wds.DataPipeline(*stages)


@dataclasses.dataclass
class _Encoded:
    """A sample on its way through the pipeline: its index row, and the members still needed as bytes."""

    row: Row
    members: dict[str, bytes]
    indices: np.ndarray | None = None
    references: np.ndarray | None = None


@dataclasses.dataclass
class _Listed:
    shards: list[dict[str, str]]

    def __call__(self) -> Iterator[dict[str, str]]:
        return (dict(shard) for shard in self.shards)


@dataclasses.dataclass
class _ReadShards:
    """Shard stems in, samples out: webdataset walks the tar, the index says what should be in it."""

    dataset: Dataset
    skipped: collections.Counter[str]

    def __call__(self, shards: Iterable[dict[str, str]]) -> Iterator[_Encoded]:
        from webdataset import tariterators

        for shard in shards:
            stem = shard["url"]
            rows = Rows.of_shard(read_committed(self.dataset.root, stem))
            row_of = {key: number for number, key in enumerate(rows.sample_keys())}

            def skip(error: Exception, stem: str = stem) -> bool:
                _skip(self.skipped, stem, error)
                return True

            with storage.open_read(self.dataset.tar_url(stem)) as file:
                members = tariterators.tar_file_expander([{"url": stem, "stream": file}], handler=skip)
                for sample in tariterators.group_by_keys(members, handler=skip):
                    key = sample["__key__"]
                    number = row_of.pop(key, None)
                    if number is None:
                        _skip(
                            self.skipped,
                            key,
                            ValueError("a sample that the index does not know, or a second one"),
                        )
                        continue
                    yield _Encoded(
                        rows[number],
                        {name: data for name, data in sample.items() if not name.startswith("__")},
                    )
            for key in row_of:
                _skip(self.skipped, key, ValueError(f"is not in {stem}.tar"))


@dataclasses.dataclass
class _TakeWindow:
    """Keeps one window of every sample; before the shuffle, so that its buffer holds no more than that."""

    frames: int
    references: References
    mel_offset: int
    seed: int
    visits: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __call__(self, samples: Iterable[_Encoded]) -> Iterator[_Encoded]:
        for sample in samples:
            row = sample.row
            starts = window_starts(vars(row), self.frames, self.mel_offset)
            first, last = int(starts.first), int(starts.last)
            if last < first:
                continue
            self.visits[row.key] += 1
            words = [self.seed, self.visits[row.key], *row.key.encode()]
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
            start = int(generator.integers(first, last, endpoint=True))
            indices = start + np.arange(self.frames)
            references = np.asarray(self.references(row, start, self.frames, generator), dtype=np.int64)
            wanted = {schema.LANDMARKS, schema.MEL}
            wanted |= {schema.frame_suffix(int(i)) for i in (*indices, *references)}
            wanted |= {schema.mask_suffix(int(i)) for i in indices}
            members = {name: data for name, data in sample.members.items() if name in wanted}
            yield _Encoded(row, members, indices, references)


@dataclasses.dataclass
class _Decode:
    """Bytes to arrays; what cannot be decoded is logged, counted and left out."""

    size: int | None
    mel_offset: int
    skipped: collections.Counter[str]

    def __call__(self, samples: Iterable[_Encoded]) -> Iterator[dict[str, Any]]:
        for sample in samples:
            try:
                yield self._window(sample) if sample.indices is not None else self._whole(sample)
            except CorruptSample as error:
                _skip(self.skipped, error.key, error)

    def _window(self, sample: _Encoded) -> dict[str, Any]:
        assert sample.indices is not None
        assert sample.references is not None
        decode = MemberDecoder(sample.row, sample.members)
        return make_window(
            sample.row,
            sample.indices,
            sample.references,
            frames=decode.frames(sample.indices, self.size),
            masks=decode.masks(sample.indices, self.size),
            references=decode.frames(sample.references, self.size),
            landmarks=decode.landmarks(),
            mel=decode.mel(),
            mel_offset=self.mel_offset,
        ).arrays()

    def _whole(self, sample: _Encoded) -> dict[str, Any]:
        decode = MemberDecoder(sample.row, sample.members)
        every = range(sample.row.n_frames)
        return {
            "key": sample.row.key,
            "meta": decode.meta(),
            "frames": decode.frames(every, self.size),
            "masks": decode.masks(every, self.size),
            "landmarks": decode.landmarks(),
            "landmarks_raw": decode.landmarks(raw=True),
            "mel": decode.mel(),
            "pcm": decode.pcm(),
        }


def _skip(skipped: collections.Counter[str], name: str, error: Exception) -> None:
    skipped[name] += 1
    logger.warning("skipped %s: %s", name, error)
