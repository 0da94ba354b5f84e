"""Is a data set what its markers, tables and descriptions say? Looks at everything, extracts nothing."""

from __future__ import annotations

import collections
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from g4g_core import storage
from g4g_core.errors import DatasetError
from prep.shards import schema
from prep.shards.findings import Code, Finding, Report
from prep.shards.index import INDEX, MARKER, TAR, is_shard_stem, read_index
from prep.shards.tables import read_table
from prep.shards.tar_walk import BrokenTar, TarWalk
from prep.shards.verify_samples import SampleChecks, unsafe_name_reason
from prep.sources.splits import leaks

Progress = Callable[[int, int, str], None]
"""Called before each shard with (shards done, shards in all, its stem)."""


def verify(root: storage.Url, *, deep: bool = False, progress: Progress | None = None) -> Report:
    """Compare everything under ``root`` (a path or URL) with everything else there.

    Every tar is read once, from front to back: hashed, its headers compared with the index (names, offsets, sizes),
    its JSON members with the index's columns.

    Args:
        root: the data set.
        deep: also decode every picture, array and sound, and check shapes and that masks nest.
        progress: told about every shard.

    Raises:
        DatasetError: there is no such folder.
        StorageError: the store cannot be reached.
    """
    return _Verification(os.fspath(root), deep, progress).run()


class _Verification:
    def __init__(self, root: str, deep: bool, progress: Progress | None) -> None:
        self._root = root
        self._deep = deep
        self._progress = progress
        self._findings: list[Finding] = []
        self._rows: list[Mapping[str, Any]] = []  # what the counts and the leaks need of every sample
        self._where_is: dict[str, str] = {}  # key -> shard
        self._members = self._bytes = 0

    def run(self) -> Report:
        names = storage.list_files(self._root)
        if not names and not storage.exists(self._root):
            raise DatasetError(f"{self._root} does not exist", "Name a folder made by 'g4g-prep build-shards'.")
        info = self._info(names)
        shards = self._shards(info)
        self._foreign_files(names, set(shards))
        done = 0
        for done, (stem, split) in enumerate(shards.items()):
            if self._progress is not None:
                self._progress(done, len(shards), stem)
            self._shard(stem, split, info, names)
        if info is not None:
            self._counts(info)
            self._manifest(names)
        for leak in leaks(self._rows):
            self._found(Code.LEAK, leak.value, str(leak))
        return Report(
            self._root,
            self._deep,
            tuple(self._findings),
            len(shards),
            len(self._rows),
            self._members,
            self._bytes,
        )

    def _found(self, code: Code, where: str, detail: str) -> None:
        self._findings.append(Finding(code, where, detail))

    def _info(self, names: Iterable[str]) -> Mapping[str, Any] | None:
        if schema.DATASET_FILE not in names:
            self._found(Code.NO_DATASET, schema.DATASET_FILE, "is missing: the build did not end")
            return None
        try:
            info = json.loads(storage.read_bytes(storage.join(self._root, schema.DATASET_FILE)))
            for split in info["splits"].values():
                list(split["shards"])
            info = {"sources": {}, "fingerprints": {}, **info}
            for table in (info["fingerprints"], info["sources"], *info["sources"].values()):
                table.items()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._found(Code.NO_DATASET, schema.DATASET_FILE, f"is no description of a data set: {error!r}")
            return None
        if info.get("schema_version") != schema.SCHEMA_VERSION:
            detail = f"is {info.get('schema_version')}, this program knows {schema.SCHEMA_VERSION}"
            self._found(Code.SCHEMA_VERSION, schema.DATASET_FILE, detail)
        return info

    def _shards(self, info: Mapping[str, Any] | None) -> dict[str, str]:
        """{stem: split} of the shards that may be opened."""
        shards: dict[str, str] = {}
        for split, values in (info["splits"] if info else {}).items():
            for stem in values["shards"]:
                if not is_shard_stem(stem):
                    # never opened: it may lead anywhere
                    self._found(Code.UNSAFE_SHARD_NAME, schema.DATASET_FILE, f"{stem!r} is no plain file name")
                elif stem in shards:
                    self._found(Code.DUPLICATE_KEY, schema.DATASET_FILE, f"names the shard {stem} twice")
                else:
                    shards[stem] = split
        return shards

    def _foreign_files(self, names: Iterable[str], stems: set[str]) -> None:
        kinds = ((TAR, Code.FOREIGN_TAR), (MARKER, Code.FOREIGN_MARKER), (INDEX, Code.FOREIGN_INDEX))
        for name in names:
            for suffix, code in kinds:
                stem = name.removesuffix(suffix)
                if name not in (schema.MANIFEST_FILE, stem) and stem not in stems:
                    self._found(code, name, f"{schema.DATASET_FILE} does not name it")

    def _shard(self, stem: str, split: str, info: Mapping[str, Any] | None, names: Iterable[str]) -> None:
        missing = [stem + suffix for suffix in (TAR, INDEX, MARKER) if stem + suffix not in names]
        for name in missing:
            self._found(Code.MISSING_FILE, name, f"{schema.DATASET_FILE} names this shard")
        marker = self._marker(stem, info) if stem + MARKER not in missing else None
        rows = self._index(stem, split, marker) if stem + INDEX not in missing else None
        if stem + TAR not in missing:
            self._tar(stem, rows, marker)
        if marker is not None and rows is not None:
            self._marker_counts(stem, marker, rows)

    def _marker(self, stem: str, info: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        where = stem + MARKER
        try:
            marker = json.loads(storage.read_bytes(storage.join(self._root, where)))
            missing = {"schema_version", "shard", "sha256", "bytes", "index_sha256", "fingerprint"} - set(marker)
            if missing or not isinstance(marker, dict):
                raise ValueError(f"without {', '.join(sorted(missing))}")
        except (ValueError, TypeError) as error:
            self._found(Code.BAD_MARKER, where, f"is no commit marker: {error}")
            return None
        if marker["shard"] != stem:
            self._found(Code.STALE_MARKER, where, f"is the marker of {marker['shard']!r}")
        if marker["schema_version"] != schema.SCHEMA_VERSION:
            detail = f"was written with schema version {marker['schema_version']}, not {schema.SCHEMA_VERSION}"
            self._found(Code.STALE_MARKER, where, detail)
        known = info["fingerprints"].get(stem) if info else None
        if known is not None and known != marker["fingerprint"]:
            self._found(Code.STALE_MARKER, where, f"{schema.DATASET_FILE} was written over another build of it")
        return marker

    def _index(self, stem: str, split: str, marker: Mapping[str, Any] | None) -> dict[str, dict[str, Any]] | None:
        """{key: row} of the shard's index."""
        where = stem + INDEX
        data = storage.read_bytes(storage.join(self._root, where))
        if marker is not None and hashlib.sha256(data).hexdigest() != marker["index_sha256"]:
            self._found(Code.INDEX_SHA256, where, f"is not the file that {stem}{MARKER} knows")
        try:
            table = read_index(data)
            table.validate(full=True)
            holes = [field.name for field in schema.INDEX if not field.nullable and table[field.name].null_count]
            if holes:
                raise ValueError(f"nothing in some rows of {', '.join(holes)}")
        except (pa.ArrowException, OSError, ValueError) as error:
            self._found(Code.BAD_INDEX, where, f"cannot be read: {error}")
            return None
        rows: dict[str, dict[str, Any]] = {}
        for row in table.to_pylist():
            key = row["key"]
            if key in self._where_is:
                self._found(Code.DUPLICATE_KEY, key, f"is in {self._where_is[key]} and in {stem}")
            self._where_is[key] = stem
            if row["split"] != split:
                self._found(Code.COUNTS, key, f"is of the split {row['split']!r} in a shard of {split!r}")
            rows[key] = row
            kept = ("source", "clip", "identity", "video_id", "split", "n_frames", "duration")
            self._rows.append({name: row[name] for name in kept})
        return rows

    def _tar(self, stem: str, rows: dict[str, dict[str, Any]] | None, marker: Mapping[str, Any] | None) -> None:
        where = stem + TAR
        checks = SampleChecks(stem, rows, self._deep)
        with storage.open_read(storage.join(self._root, where)) as stream:
            walk = TarWalk(stream, keep=("",) if self._deep else ("." + schema.JSON,))
            try:
                for entry in walk:
                    self._members += 1
                    reason = unsafe_name_reason(entry)
                    if reason:
                        self._found(Code.UNSAFE_MEMBER, f"{where}: {entry.name!r}", reason)
                    else:
                        checks.add(entry)
            except BrokenTar as error:
                self._found(Code.BAD_TAR, where, str(error))
        checks.finish()
        self._findings += checks.findings
        self._bytes += walk.position
        if marker is not None and walk.sha256 != marker["sha256"]:
            same = walk.position == marker["bytes"]
            detail = "has other bytes" if same else f"has {walk.position} bytes, not {marker['bytes']}"
            self._found(Code.TAR_SHA256, where, f"{detail} than when {stem}{MARKER} was written")

    def _marker_counts(self, stem: str, marker: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> None:
        for name, found in _sums(rows.values()).items():
            if name in marker and name != "identities" and not _same(marker[name], found):
                detail = f"counts {marker[name]} {name}, the index has {found}"
                self._found(Code.STALE_MARKER, stem + MARKER, detail)

    def _counts(self, info: Mapping[str, Any]) -> None:
        """Numbers and lists of clips that dataset.json and splits/ give, against the index."""
        for split, values in info["splits"].items():
            rows = [row for row in self._rows if row["split"] == split]
            self._compare_sums(f"{schema.DATASET_FILE}: splits: {split}", values, rows)
            self._split_list(split, {f"{row['source']}/{row['clip']}" for row in rows})
        for source, values in info["sources"].items():
            rows = [row for row in self._rows if row["source"] == source]
            counted = {name: value for name, value in values.items() if name not in ("clips", "identities")}
            self._compare_sums(f"{schema.DATASET_FILE}: sources: {source}", counted, rows)

    def _compare_sums(self, where: str, values: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
        for name, found in _sums(rows).items():
            if name in values and not _same(values[name], found):
                self._found(Code.COUNTS, where, f"{name} is {values[name]}, the index has {found}")

    def _split_list(self, split: str, clips: set[str]) -> None:
        where = f"{schema.SPLITS_FOLDER}/{split}.txt"
        if "/" in split or "\\" in split or split.startswith("."):
            return self._found(Code.UNSAFE_SHARD_NAME, schema.DATASET_FILE, f"{split!r} is no name of a split")
        url = storage.join(self._root, schema.SPLITS_FOLDER, f"{split}.txt")
        if not storage.exists(url):
            return self._found(Code.MISSING_FILE, where, "is missing")
        listed = set(storage.read_bytes(url).decode("utf-8", "replace").split("\n")) - {""}
        for clip in sorted(clips ^ listed):
            detail = "has samples and is not listed" if clip in clips else "is listed and has no sample"
            self._found(Code.COUNTS, where, f"{clip} {detail}")

    def _manifest(self, names: Iterable[str]) -> None:
        where = schema.MANIFEST_FILE
        if where not in names:
            return self._found(Code.MISSING_FILE, where, "is missing")
        columns = ["source", "clip", "split", "identity", "outcome", "n_samples", "n_frames"]
        try:
            data = storage.read_bytes(storage.join(self._root, where))
            manifest = read_table(data, columns).to_pylist()
            by_clip = {(row["source"], row["clip"]): row for row in manifest}
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            return self._found(Code.BAD_MANIFEST, where, f"cannot be read: {error}")
        if len(by_clip) != len(manifest):
            self._found(Code.BAD_MANIFEST, where, f"has {len(manifest) - len(by_clip)} clips twice")
        samples: dict[tuple[str, str], list[Mapping[str, Any]]] = collections.defaultdict(list)
        for row in self._rows:
            samples[row["source"], row["clip"]].append(row)
        for clip in sorted(samples.keys() - by_clip.keys()):
            self._found(Code.BAD_MANIFEST, "/".join(clip), "has samples, but no row in the manifest")
        for clip, row in by_clip.items():
            self._manifest_row("/".join(clip), row, samples.get(clip, []))

    def _manifest_row(self, clip: str, row: Mapping[str, Any], samples: list[Mapping[str, Any]]) -> None:
        frames = sum(sample["n_frames"] for sample in samples)
        if (row["n_samples"], row["n_frames"]) != (len(samples), frames):
            detail = f"{row['n_samples']} samples and {row['n_frames']} frames in the manifest"
            self._found(Code.COUNTS, clip, f"{detail}, {len(samples)} and {frames} in the index")
        if (row["outcome"] == "ok") != bool(samples):
            self._found(Code.BAD_MANIFEST, clip, f"is {row['outcome']!r} with {len(samples)} samples")
        for name in ("split", "identity"):
            others = {sample[name] for sample in samples} - {row[name]}
            if others:
                detail = f"{name} is {row[name]!r} in the manifest, {', '.join(sorted(others))} in the index"
                self._found(Code.BAD_MANIFEST, clip, detail)


def _sums(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    rows = list(rows)
    return {
        "clips": len({(row["source"], row["clip"]) for row in rows}),
        "identities": len({row["identity"] for row in rows}),
        "samples": len(rows),
        "frames": sum(row["n_frames"] for row in rows),
        "seconds": round(sum(row["duration"] for row in rows), 3),
    }


def _same(stated: Any, found: float) -> bool:
    return isinstance(stated, (int, float)) and abs(stated - found) < 0.01
