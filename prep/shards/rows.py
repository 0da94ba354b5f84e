"""The samples of a split in memory: what the index says about each, and where its bytes lie."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from g4g_core.errors import DatasetError
from prep.shards import schema

if TYPE_CHECKING:
    from prep.shards.index import CommittedShard

REBUILD = "Run 'g4g-prep build-shards' again with the same options: it redoes only what does not fit."
_N_HEAD = len(schema.HEAD_MEMBERS)


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """What identifies a sample and places it in its clip.

    ``frame_start`` counts 25 fps clip frames, ``mel_start`` clip mel columns (80 a second), ``sample_start`` 16 kHz
    clip samples; ``n_frames`` and ``n_mel`` are stored lengths, ``clip_frames`` is the clip's; ``size`` is the side
    of the stored crop in pixels.
    """

    key: str
    source: str
    clip: str
    identity: str
    split: str
    frame_start: int
    n_frames: int
    mel_start: int
    n_mel: int
    sample_start: int
    clip_frames: int
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Row(Segment):
    """A sample of a committed shard with the place of its members, in the order of the tar.

    ``offsets`` (int64, from the start of the tar) and ``sizes`` (int64) are bytes; ``tar_bytes`` is the tar's size.
    """

    shard: str
    tar_bytes: int
    offsets: np.ndarray
    sizes: np.ndarray


_STRINGS = ("key", "source", "clip", "identity", "split")
_NUMBERS = ("frame_start", "n_frames", "mel_start", "n_mel", "sample_start", "clip_frames", "size")


def frame_member(frame: int) -> int:
    """Position of the crop of ``frame`` among the members of a sample; its mask plane follows it."""
    return _N_HEAD + 2 * frame


@functools.lru_cache(maxsize=4096)  # a window asks for some twenty
def member_position(suffix: str) -> int:
    """Position of a member among those of its sample. Raises KeyError for a suffix no sample has."""
    if suffix in schema.HEAD_MEMBERS:
        return schema.HEAD_MEMBERS.index(suffix)
    number = suffix.partition(".")[0]
    if number.isdecimal():
        frame = int(number)
        if suffix == schema.frame_suffix(frame):
            return frame_member(frame)
        if suffix == schema.mask_suffix(frame):
            return frame_member(frame) + 1
    raise KeyError(suffix)


class Rows(Sequence[Row]):
    """The samples of a split, held compactly: 8 bytes a member, because every loader process keeps them all.

    Members lie in a fixed order, so their names are checked once and not kept. ``numbers`` are int64 [n] columns.
    """

    def __init__(
        self,
        *,
        strings: Mapping[str, pa.Array],
        numbers: Mapping[str, np.ndarray],
        shards: Sequence[tuple[str, int]],
        shard: np.ndarray,
        first: np.ndarray,
        base: np.ndarray,
        spans: np.ndarray,
    ) -> None:
        self._strings = strings
        self.numbers = numbers
        self._shards = shards
        self._shard = shard  # int32 [n]: position in ``shards``
        self._first = first  # int64 [n]: position of the first member in ``spans``
        self._base = base  # int64 [n]: offset of the first member in the tar
        self._spans = spans  # uint32 [members, 2]: offset from base, size

    @classmethod
    def of_shard(cls, shard: CommittedShard) -> Rows:
        """The samples of one shard. Raises DatasetError when the index does not list what every sample has."""
        table = shard.table([*_STRINGS, *_NUMBERS, "members", "offsets", "sizes"])
        table = table.unify_dictionaries().combine_chunks()
        numbers = {name: table.column(name).to_numpy().astype(np.int64) for name in _NUMBERS}
        lengths = frame_member(0) + 2 * numbers["n_frames"]
        first = np.cumsum(lengths) - lengths
        place = np.arange(lengths.sum()) - np.repeat(first, lengths)
        columns = {name: _flat(table.column(name)) for name in ("members", "offsets", "sizes")}
        if any(len(values) != len(place) for values in columns.values()):
            raise DatasetError(f"{shard.stem}.parquet does not list the members of its samples", REBUILD)
        if len(place) and not np.array_equal(_positions(columns["members"]), place):
            raise DatasetError(f"{shard.stem}.parquet lists members that no sample has, or in another order", REBUILD)
        offsets = columns["offsets"].to_numpy(zero_copy_only=False)
        sizes = columns["sizes"].to_numpy(zero_copy_only=False)
        base = offsets[first]
        spans = np.stack([offsets - np.repeat(base, lengths), sizes], axis=1)
        if len(spans) and not (spans.min() >= 0 and spans.max() < 2**32):
            raise DatasetError(f"{shard.stem}.parquet holds offsets that no tar has", REBUILD)
        strings = {name: _one_array(table.column(name)) for name in _STRINGS}
        return cls(
            strings=strings,
            numbers=numbers,
            shards=[(shard.stem, shard.tar_bytes)],
            shard=np.zeros(len(table), dtype=np.int32),
            first=first,
            base=base,
            spans=spans.astype(np.uint32),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """The samples of several shards, one after the other."""
        strings = {
            name: pa.concat_arrays([pa.array([], pa.string()), *(part._strings[name] for part in parts)])
            for name in _STRINGS
        }
        empty = np.empty(0, np.int64)
        numbers = {name: np.concatenate([empty, *(part.numbers[name] for part in parts)]) for name in _NUMBERS}
        spans_before = np.cumsum([0, *(len(part._spans) for part in parts)])
        shards_before = np.cumsum([0, *(len(part._shards) for part in parts)])
        return cls(
            strings=strings,
            numbers=numbers,
            shards=[shard for part in parts for shard in part._shards],
            shard=np.concatenate([empty, *(p._shard + n for p, n in zip(parts, shards_before, strict=False))]),
            first=np.concatenate([empty, *(p._first + n for p, n in zip(parts, spans_before, strict=False))]),
            base=np.concatenate([empty, *(part._base for part in parts)]),
            spans=np.concatenate([np.empty((0, 2), np.uint32), *(part._spans for part in parts)]),
        )

    def select(self, chosen: np.ndarray) -> Rows:
        """The rows where ``chosen`` (bool [n]) is true."""
        mask = pa.array(chosen, pa.bool_())
        return Rows(
            strings={name: values.filter(mask) for name, values in self._strings.items()},
            numbers={name: values[chosen] for name, values in self.numbers.items()},
            shards=self._shards,
            shard=self._shard[chosen],
            first=self._first[chosen],
            base=self._base[chosen],
            spans=self._spans,
        )

    def sample_keys(self) -> list[str]:
        return list(self._strings["key"].to_pylist())

    def __len__(self) -> int:
        return len(self._first)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            chosen = np.zeros(len(self), dtype=bool)
            chosen[index] = True
            return self.select(chosen)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        shard, tar_bytes = self._shards[self._shard[index]]
        first = self._first[index]
        spans = self._spans[first : first + frame_member(int(self.numbers["n_frames"][index]))].astype(np.int64)
        values: dict[str, Any] = {name: self._strings[name][index].as_py() for name in _STRINGS}
        values |= {name: int(self.numbers[name][index]) for name in _NUMBERS}
        return Row(
            **values,
            shard=shard,
            tar_bytes=tar_bytes,
            offsets=self._base[index] + spans[:, 0],
            sizes=spans[:, 1],
        )


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return _one_array(column).flatten()


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def _positions(members: pa.DictionaryArray) -> np.ndarray:
    """Position of each name among the members of its sample, -1 for a name no sample has."""
    positions = []
    for suffix in members.dictionary.to_pylist():
        try:
            positions.append(member_position(suffix))
        except KeyError:
            positions.append(-1)
    codes: np.ndarray = members.indices.to_numpy()
    return np.asarray(np.array(positions, dtype=np.int64)[codes])
