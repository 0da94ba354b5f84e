"""The samples of one tar against its index, member by member as they come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from prep.shards import schema
from prep.shards.findings import Code, Finding
from prep.shards.members import CorruptSample, MemberDecoder, decode_json
from prep.shards.rows import Row
from prep.shards.tar_walk import Entry

_COMPARED = (
    "source", "clip", "shot", "segment", "identity", "video_id", "split", "subset", "role", "path",
    "content_sha256", "licence", "redistributable", "text", "frame_start", "n_frames", "mel_start", "n_mel",
    "sample_start", "clip_frames", "size",
)  # fmt: skip
_REQUIRED = ("identity", "split", "frame_start", "n_frames", "mel_start", "n_mel", "sample_start")


def unsafe_name_reason(entry: Entry) -> str:
    """Why a careless program that unpacks ``entry`` would write outside its folder; "" when it would not."""
    if not entry.plain:
        return f"is no plain file{f' but a link to {entry.link!r}' if entry.link else ''}"
    if entry.name.startswith("/") or entry.name[1:2] == ":":
        return "is an absolute path"
    if "\\" in entry.name or "\0" in entry.name:
        return "holds a backslash or NUL"
    if ".." in entry.name.split("/"):
        return "leads out of the folder"
    return ""


class SampleChecks:
    """Takes the members of one tar in order, and collects ``findings``.

    Args:
        stem: of the shard.
        rows: {key: row} of its index; ``None`` when that cannot be read.
        deep: decode everything (entries must then carry their data).
    """

    def __init__(self, stem: str, rows: Mapping[str, Mapping[str, Any]] | None, deep: bool) -> None:
        self._stem = stem
        self._rows = rows
        self._deep = deep
        self._key: str | None = None
        self._entries: dict[str, Entry] = {}
        self._seen: set[str] = set()
        self.findings: list[Finding] = []

    def add(self, entry: Entry) -> None:
        """The next member; its name has been found harmless."""
        key, _, suffix = entry.name.partition(".")
        if key != self._key:
            self._close()
            self._key = key
            if key in self._seen:
                self._found(Code.DUPLICATE_KEY, key, "its members do not lie together, or are there twice")
            self._seen.add(key)
        if suffix in self._entries:
            self._found(Code.UNKNOWN_MEMBER, entry.name, "is there twice")
        self._entries[suffix] = entry

    def finish(self) -> None:
        """All members have been given."""
        self._close()
        for key in sorted((self._rows or {}).keys() - self._seen):
            self._found(Code.ROW_WITHOUT_SAMPLE, key, f"is in {self._stem}.parquet, not in the tar")

    def _found(self, code: Code, where: str, detail: str) -> None:
        self.findings.append(Finding(code, f"{self._stem}: {where}", detail))

    def _close(self) -> None:
        key, entries, self._entries = self._key, self._entries, {}
        if key is None or self._rows is None:
            return
        row = self._rows.get(key)
        if row is None:
            self._found(Code.SAMPLE_WITHOUT_ROW, key, f"is in the tar, not in {self._stem}.parquet")
            return
        self._check_members(key, row, entries)
        self._check_json(key, row, entries.get(schema.JSON))
        if self._deep:
            self._decode(row, entries)

    def _check_members(self, key: str, row: Mapping[str, Any], entries: Mapping[str, Entry]) -> None:
        due = schema.member_suffixes(row["n_frames"])
        places = {
            suffix: (offset, size)
            for suffix, offset, size in zip(row["members"], row["offsets"], row["sizes"], strict=False)
        }
        if row["members"] != due or not len(due) == len(row["offsets"]) == len(row["sizes"]):
            self._found(Code.BAD_INDEX, key, f"its row does not list the members of {row['n_frames']} frames")
        for suffix in due:
            if suffix not in entries:
                self._found(Code.MISSING_MEMBER, f"{key}.{suffix}", "is not in the tar")
            elif suffix in places and places[suffix] != (entries[suffix].offset, entries[suffix].size):
                entry = entries[suffix]
                detail = f"is at {entry.offset}+{entry.size}, the index says {places[suffix][0]}+{places[suffix][1]}"
                self._found(Code.MEMBER_PLACE, f"{key}.{suffix}", detail)
        known = set(due)
        for suffix in entries:
            if suffix not in known:
                self._found(Code.UNKNOWN_MEMBER, f"{key}.{suffix}", "no sample has such a member")
        if [suffix for suffix in entries if suffix in known] != [suffix for suffix in due if suffix in entries]:
            self._found(Code.MEMBER_PLACE, key, "its members are in another order")

    def _check_json(self, key: str, row: Mapping[str, Any], entry: Entry | None) -> None:
        if entry is None:
            return
        where = f"{key}.{schema.JSON}"
        try:
            meta = decode_json(entry.data or b"")
        except (ValueError, RecursionError) as error:
            self._found(Code.BAD_JSON, where, str(error))
            return
        if meta.get("schema_version") != schema.SCHEMA_VERSION:
            self._found(Code.JSON_DISAGREES, where, f"schema version {meta.get('schema_version')!r}")
        for name in _COMPARED:
            if name in meta and not _equal(meta[name], row[name]):
                self._found(Code.JSON_DISAGREES, where, f"{name} is {meta[name]!r}, the index says {row[name]!r}")
            elif name not in meta and name in _REQUIRED:
                self._found(Code.JSON_DISAGREES, where, f"has no {name}")

    def _decode(self, row: Mapping[str, Any], entries: Mapping[str, Entry]) -> None:
        members = {suffix: entry.data for suffix, entry in entries.items() if entry.data is not None}
        decode = MemberDecoder(_as_row(row), members)
        actions: dict[str, Any] = {
            schema.LANDMARKS: decode.landmarks,
            schema.LANDMARKS_RAW: lambda: decode.landmarks(raw=True),
            schema.MEL: decode.mel,
            schema.WAV: decode.pcm,
        }
        for frame in range(row["n_frames"]):
            actions[schema.frame_suffix(frame)] = lambda frame=frame: decode.frames([frame])
            actions[schema.mask_suffix(frame)] = lambda frame=frame: decode.masks([frame])[0]
        for suffix, action in actions.items():
            if suffix not in members:
                continue  # has been told
            where = f"{row['key']}.{suffix}"
            try:
                values = action()
            except CorruptSample as error:
                self._found(Code.BAD_MEMBER, where, error.detail)
                continue
            if values.dtype == np.float32 and not np.isfinite(values).all():
                self._found(Code.BAD_MEMBER, where, "holds values that are not finite")
            if suffix.endswith(".mask.png"):
                self._check_mask(where, values)

    def _check_mask(self, where: str, mask: np.ndarray) -> None:
        if mask.max() > sum(schema.MaskBit):
            self._found(Code.BAD_MEMBER, where, "has bits that mean nothing")
        lips, mouth, lower = (
            (mask & int(bit)) > 0 for bit in (schema.MaskBit.LIPS, schema.MaskBit.MOUTH, schema.MaskBit.LOWER_FACE)
        )
        outside = int(np.count_nonzero(lips & ~mouth) + np.count_nonzero(mouth & ~lower))
        if outside:
            self._found(Code.MASKS_DO_NOT_NEST, where, f"{outside} pixels lie outside the next larger region")


def _equal(stated: Any, indexed: Any) -> bool:
    if isinstance(stated, float) and isinstance(indexed, float):
        return math.isclose(stated, indexed, rel_tol=1e-5, abs_tol=1e-5)
    return bool(stated == indexed)


def _as_row(row: Mapping[str, Any]) -> Row:
    names = ("key", "source", "clip", "identity", "split", "frame_start", "n_frames", "mel_start", "n_mel")
    empty = np.empty(0, np.int64)
    return Row(
        **{name: row[name] for name in (*names, "sample_start", "clip_frames", "size")},
        shard="",
        tar_bytes=0,
        offsets=empty,
        sizes=empty,
    )
