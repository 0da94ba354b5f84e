"""The index of a data set: which shards are committed, and where the bytes of every sample lie."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Union

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from g4g_core import storage
from g4g_core.errors import DatasetError, StorageError
from prep.shards import schema
from prep.shards.rows import REBUILD, Row, Rows
from prep.shards.tables import read_table

__all__ = [
    "INDEX", "MARKER", "REBUILD", "TAR", "CommittedShard", "Dataset", "Row", "Rows", "Selection", "is_shard_stem",
    "read_committed", "read_index", "read_selection", "selection_command",
]  # fmt: skip

Selection = Union[str, "os.PathLike[str]", Collection[str]]
"""A parquet file with a column ``key``, a text file with a key a line, or the keys themselves."""

TAR, INDEX, MARKER = ".tar", ".parquet", ".stats.json"
_STEM = re.compile(r"[A-Za-z0-9_-]+")
_THREADS = 8  # requests at a time while the indices of a remote set are read


def is_shard_stem(stem: object) -> bool:
    """Whether ``stem`` is a plain file name: no separator, no dot, so that it cannot lead out of the folder."""
    return isinstance(stem, str) and _STEM.fullmatch(stem) is not None


@dataclasses.dataclass(frozen=True)
class CommittedShard:
    """A shard whose marker fits its tar's size and its index: ``marker`` and the bytes of the parquet file."""

    stem: str
    marker: Mapping[str, Any]
    index: bytes

    @property
    def tar_bytes(self) -> int:
        return int(self.marker["bytes"])

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The index as a table of ``columns`` (all by default). Raises DatasetError when columns are missing."""
        try:
            return read_index(self.index, columns)
        except (pa.ArrowException, ValueError) as error:
            raise DatasetError(f"{self.stem}{INDEX} cannot be read: {error}", REBUILD) from error


def read_index(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The parquet file ``data`` as a table of ``columns`` of :data:`schema.INDEX` (all by default).

    Raises:
        ValueError or pyarrow.ArrowException: it is no parquet file, or columns are missing or of other types.
    """
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    names = list(columns) if columns is not None else schema.INDEX.names
    missing = sorted(set(names) - set(file.schema_arrow.names))
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
    wanted = pa.schema([schema.INDEX.field(name) for name in names])
    # group by group: pyarrow cannot give lists of dictionary values in several chunks
    groups = [file.read_row_group(group, columns=names, use_threads=False) for group in range(file.num_row_groups)]
    return pa.concat_tables([wanted.empty_table(), *(group.select(names).cast(wanted) for group in groups)])


def read_committed(root: str, stem: str) -> CommittedShard:
    """The shard ``stem`` of the data set at ``root``.

    Raises:
        DatasetError: the shard has no commit marker, or its marker does not fit the tar's size or the index.
    """
    if not is_shard_stem(stem):
        raise DatasetError(f"{schema.DATASET_FILE} names a shard {stem!r}, which is no plain file name", REBUILD)
    urls = {suffix: storage.join(root, stem + suffix) for suffix in (TAR, INDEX, MARKER)}
    for suffix in (MARKER, INDEX, TAR):
        if not storage.exists(urls[suffix]):
            raise DatasetError(f"shard {stem} is not committed: {stem}{suffix} is missing", REBUILD)
    try:
        marker = json.loads(storage.read_bytes(urls[MARKER]))
        version, tar_bytes, digest = marker["schema_version"], int(marker["bytes"]), marker["index_sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{stem}{MARKER} is not a commit marker: {error!r}", REBUILD) from error
    if version != schema.SCHEMA_VERSION:
        raise DatasetError(f"shard {stem} has schema version {version}, not {schema.SCHEMA_VERSION}", REBUILD)
    index = storage.read_bytes(urls[INDEX])
    if hashlib.sha256(index).hexdigest() != digest:
        raise DatasetError(f"shard {stem}: {stem}{INDEX} is not the file that the marker knows", REBUILD)
    found = storage.size(urls[TAR])
    if found != tar_bytes:
        raise DatasetError(f"shard {stem}: the tar has {found} bytes, its marker says {tar_bytes}", REBUILD)
    return CommittedShard(stem, marker, index)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A folder of committed shards, local or behind a URL. Make it with :meth:`open`.

    Attributes:
        root: path or URL of the folder.
        info: what ``dataset.json`` holds (see :mod:`prep.shards.schema`).
    """

    root: str
    info: Mapping[str, Any]

    @classmethod
    def open(cls, root: storage.Url) -> Dataset:
        """The data set at ``root``.

        Raises:
            DatasetError: no ``dataset.json`` (no data set, or a build that did not end), one that cannot be read, one
                of another schema version, or one that names a shard by anything but a plain file name.
        """
        root = os.fspath(root)
        url = storage.join(root, schema.DATASET_FILE)
        if not storage.exists(url):
            raise DatasetError(
                f"{root} holds no {schema.DATASET_FILE}: no data set, or its build did not end",
                "Name a folder made by 'g4g-prep build-shards', or run that command again.",
            )
        try:
            info = json.loads(storage.read_bytes(url))
            version = info["schema_version"]
            stems = [stem for split in info["splits"].values() for stem in split["shards"]]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DatasetError(f"{url} is not a data set description: {error!r}", REBUILD) from error
        if version != schema.SCHEMA_VERSION:
            raise DatasetError(
                f"{root} has schema version {version}; this program reads {schema.SCHEMA_VERSION}", REBUILD
            )
        for stem in stems:
            if not is_shard_stem(stem):
                raise DatasetError(f"{url} names a shard {stem!r}, which is no plain file name", REBUILD)
        return cls(root, info)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.info["splits"])

    def shards(self, split: str) -> tuple[str, ...]:
        """Stems of the shards of ``split``. Raises DatasetError when there is no such split."""
        if split not in self.info["splits"]:
            raise DatasetError(f"{self.root} has no split {split!r}", f"It has: {', '.join(self.splits)}.")
        return tuple(self.info["splits"][split]["shards"])

    def tar_url(self, stem: str) -> str:
        return storage.join(self.root, stem + TAR)

    def committed(self, split: str) -> Iterator[CommittedShard]:
        """The shards of ``split`` in order. Raises DatasetError at the first that is not committed."""
        with concurrent.futures.ThreadPoolExecutor(1 if storage.is_local(self.root) else _THREADS) as pool:
            yield from pool.map(functools.partial(read_committed, self.root), self.shards(split))

    def table(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The index of ``split``: ``columns`` of :data:`schema.INDEX` (all by default) and ``shard``.

        The columns ``members``, ``offsets`` and ``sizes`` take most of the memory: name the others to leave them out.

        Raises:
            DatasetError: no such split, or a shard of it that is not committed.
        """
        names = list(columns) if columns is not None else schema.INDEX.names
        fields = [schema.INDEX.field(name) for name in names]
        tables = [pa.schema([*fields, pa.field("shard", pa.string())]).empty_table()]
        for shard in self.committed(split):
            table = shard.table(names)
            tables.append(table.append_column("shard", pa.array([shard.stem] * len(table), pa.string())))
        return pa.concat_tables(tables)

    def rows(self, split: str, selection: Selection | None = None) -> Rows:
        """The samples of ``split`` in the order of the shards, or those of them that ``selection`` names.

        Raises:
            DatasetError: no such split, a shard that is not committed or whose index does not list the members that
                a sample has, or a selection that cannot be read or names no sample of this split.
        """
        rows = Rows.concatenate([Rows.of_shard(shard) for shard in self.committed(split)])
        if selection is None:
            return rows
        keys = read_selection(selection)
        chosen = rows.select(np.array([key in keys for key in rows.sample_keys()], dtype=bool))
        if not len(chosen):
            raise DatasetError(
                f"the selection names no sample of the split {split!r} of {self.root}",
                "Make it with 'g4g-prep select' from this data set.",
            )
        return chosen

    def row(self, key: str) -> Row:
        """The sample ``key``, looked up in all splits. Raises DatasetError when there is none."""
        for split in self.splits:
            for shard in self.committed(split):
                keys: list[str] = shard.table(["key"]).column("key").to_pylist()
                if key in keys:
                    return Rows.of_shard(shard)[keys.index(key)]
        raise DatasetError(f"{self.root} has no sample {key!r}", "Its keys stand in the parquet files.")


def selection_command(selection: Selection | None) -> str | None:
    """What one types to make such a file of keys, but for its place; DATA stands for the data set.

    ``None`` where it does not say: keys that are handed over, a text file, a parquet file that was made otherwise, or a
    condition of several lines.
    """
    if not isinstance(selection, (str, os.PathLike)) or not os.fspath(selection).endswith(INDEX):
        return None
    try:
        metadata = pq.read_schema(pa.BufferReader(storage.read_bytes(os.fspath(selection)))).metadata or {}
        about = json.loads(metadata[schema.SELECTION_METADATA])
        words = [word for condition in about["where"] for word in ("--where", str(condition))]
        words += [word for name in ("split", "source") if about[name] for word in (f"--{name}", str(about[name]))]
    except (StorageError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None
    told = shlex.join(["g4g-prep", "select", "DATA", *words])
    return None if "\n" in told else told  # commands are told line by line


def read_selection(selection: Selection) -> frozenset[str]:
    """The keys of a selection. Raises DatasetError when the file cannot be read or has no column ``key``."""
    if not isinstance(selection, (str, os.PathLike)):
        return frozenset(selection)
    url = os.fspath(selection)
    try:
        data = storage.read_bytes(url)
        if url.endswith(INDEX):
            return frozenset(read_table(data, ["key"]).column("key").to_pylist())
        return frozenset(line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip())
    except (StorageError, pa.ArrowException, ValueError, KeyError) as error:
        what = error.what if isinstance(error, StorageError) else error
        raise DatasetError(f"{url} is not a selection: {what}", "Make one with 'g4g-prep select'.") from error
