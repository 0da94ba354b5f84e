"""Random access to samples: the bytes of single members by offset."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from g4g_core import storage
from g4g_core.errors import DatasetError
from prep.shards import schema
from prep.shards.index import Dataset
from prep.shards.members import CorruptSample, MemberDecoder
from prep.shards.rows import Row, member_position

# Members that lie closer than this are fetched in one read. Locally a mask plane (about 1.5 kB and a header) between
# two crops is cheaper to read than to skip; on a store a request costs as much as a few frames.
LOCAL_GAP = 8 << 10
REMOTE_GAP = 256 << 10
OPEN_FILES = 64


class SampleReader:
    """Reads members of the samples of one data set. One per thread; may be pickled and may cross a fork.

    Only the members asked for are read (and gaps between them too small to skip), only frames asked for decoded.
    Arrays are those of :class:`prep.shards.members.MemberDecoder`. Every method raises :class:`CorruptSample` for a
    member that cannot be read or decoded, and DatasetError or StorageError when the tar itself cannot be reached.
    """

    def __init__(self, dataset: Dataset, open_files: int = OPEN_FILES) -> None:
        self._dataset = dataset
        self._files = _Files(open_files) if storage.is_local(dataset.root) else None

    def read(self, row: Row, members: Sequence[str]) -> list[bytes]:
        """Bytes of the members with these suffixes. Raises KeyError for a suffix the sample does not have."""
        data = self._fetch(row, members)
        return [bytes(data[suffix]) for suffix in members]

    def open(self, row: Row, members: Sequence[str]) -> MemberDecoder:
        """Reads these members in as few reads as there are gaps, to be decoded afterwards."""
        return MemberDecoder(row, self._fetch(row, members))

    def frames(self, row: Row, indices: Sequence[int] | np.ndarray, size: int | None = None) -> np.ndarray:
        """uint8 [n, S, S, 3] RGB: the crops of these frames of the segment."""
        return self.open(row, [schema.frame_suffix(int(i)) for i in indices]).frames(indices, size)

    def masks(self, row: Row, indices: Sequence[int] | np.ndarray, size: int | None = None) -> np.ndarray:
        """uint8 [n, S, S] of :class:`schema.MaskBit`: the mask planes of these frames of the segment."""
        return self.open(row, [schema.mask_suffix(int(i)) for i in indices]).masks(indices, size)

    def landmarks(self, row: Row, *, raw: bool = False) -> np.ndarray:
        """float32 [T, 68, 2], pixels of the stored crop; smoothed, or ``raw``: as fitted."""
        return self.open(row, [schema.LANDMARKS_RAW if raw else schema.LANDMARKS]).landmarks(raw=raw)

    def mel(self, row: Row) -> np.ndarray:
        """float32 [n_mel, 80]: clip columns from ``row.mel_start`` on."""
        return self.open(row, [schema.MEL]).mel()

    def pcm(self, row: Row) -> np.ndarray:
        """int16 [640 T], 16 kHz mono."""
        return self.open(row, [schema.WAV]).pcm()

    def meta(self, row: Row) -> dict[str, Any]:
        """What the JSON member holds."""
        return self.open(row, [schema.JSON]).meta()

    def close(self) -> None:
        """Close the tars that are open. The reader can still be used."""
        if self._files is not None:
            self._files.close()

    def _fetch(self, row: Row, members: Sequence[str]) -> dict[str, memoryview]:
        """Bytes of members by suffix, neighbours in one read."""
        places = {member_position(suffix): suffix for suffix in members}
        if places and max(places) >= len(row.sizes):
            raise KeyError(f"{row.key} has no member {places[max(places)]}")
        gap = REMOTE_GAP if self._files is None else LOCAL_GAP
        url = self._dataset.tar_url(row.shard)
        result: dict[str, memoryview] = {}
        for group in _neighbours(row, places, gap):
            start = int(row.offsets[group[0]])
            size = int(row.offsets[group[-1]] + row.sizes[group[-1]]) - start
            if start + size > row.tar_bytes:
                raise CorruptSample(row.key, places[group[-1]], f"lies beyond the end of {row.shard}.tar")
            if self._files is None:
                data = memoryview(storage.read_range(url, start, size))
            else:
                data = memoryview(self._files.read(url, start, size))
            for place in group:
                begin = int(row.offsets[place]) - start
                member = data[begin : begin + int(row.sizes[place])]
                if len(member) < row.sizes[place]:
                    raise CorruptSample(row.key, places[place], f"{row.shard}.tar ends inside it")
                result[places[place]] = member
        return result


def _neighbours(row: Row, positions: Iterable[int], gap: int) -> list[list[int]]:
    """``positions`` in the order of the tar, in groups that one read fetches."""
    groups: list[list[int]] = []
    end = -1
    for position in sorted(set(positions)):
        offset = int(row.offsets[position])
        if groups and 0 <= offset - end <= gap:
            groups[-1].append(position)
        else:
            groups.append([position])
        end = offset + int(row.sizes[position])
    return groups


class _Files:
    """Descriptors of local tars, a bounded number of them, opened again in a process forked from this one.

    ``pread`` keeps no position, so a descriptor serves any number of reads; after a fork the child opens its own.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pid = os.getpid()
        self._open: collections.OrderedDict[str, int] = collections.OrderedDict()

    def read(self, url: str, offset: int, size: int) -> bytes:
        """``size`` bytes, or fewer at the end of the file. Raises DatasetError when the file cannot be opened."""
        if self._pid != os.getpid():
            self.close()
            self._pid = os.getpid()
        descriptor = self._open.get(url)
        if descriptor is None:
            try:
                descriptor = os.open(storage.local_path(url), os.O_RDONLY)
            except OSError as error:
                raise DatasetError(f"{url} cannot be opened: {error.strerror}") from error
            self._open[url] = descriptor
            if len(self._open) > self._limit:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(url)
        data = os.pread(descriptor, size, offset)
        while 0 < len(data) < size:  # a read may be cut short without being at the end
            more = os.pread(descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"_limit": self._limit, "_pid": -1, "_open": collections.OrderedDict()}

    def __del__(self) -> None:
        self.close()
