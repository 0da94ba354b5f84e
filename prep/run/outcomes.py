"""What earlier work left behind, and how every clip ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from g4g_core import storage
from prep.records import Reason, Rejection, rejection_from_json
from prep.run.plan import Plan, PlannedClip
from prep.run.work import (
    CLIP_FILE,
    committed_part,
    has_blocks,
    read_record,
    unit_folder,
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a clip ended."""

    rejection: Rejection | None
    parts: int
    facts: Mapping[str, Any]
    seconds: Mapping[str, float]


class Shelf:
    """The shards that are committed already, and which parts of clips they hold."""

    def __init__(self, out: str) -> None:
        self.markers: dict[str, dict[str, Any]] = {}
        self._places: dict[tuple[str, str, int, str], dict[str, Any]] = {}
        names = set(storage.list_files(out))
        for name in sorted(names):
            stem = name.removesuffix(".stats.json")
            if stem == name or f"{stem}.tar" not in names or f"{stem}.parquet" not in names:
                continue
            marker = read_record(storage.join(out, name))
            tar = storage.join(out, f"{stem}.tar")
            if marker is None or "fingerprint" not in marker or storage.size(tar) != marker.get("bytes"):
                continue
            self.markers[stem] = marker
            for source, clip, part, fingerprint, start, n_bytes in marker.get("parts", []):
                self._places[(source, clip, part, fingerprint)] = {"tar": tar, "start": start, "bytes": n_bytes}

    def find(self, clip: PlannedClip, part: int) -> dict[str, Any] | None:
        """Where the tar blocks of a part lie: ``tar`` (URL), ``start``, ``bytes``."""
        return self._places.get((clip.spec.source, clip.spec.clip, part, clip.fingerprint))


def read_records(work: str, clips: Iterable[PlannedClip]) -> dict[str, dict[str, Any]]:
    """``clip.json`` of the clips that have one for their present fingerprint."""
    records = {}
    for clip in clips:
        record = read_record(storage.join(unit_folder(work, clip.spec.uid), CLIP_FILE))
        if record is not None and record.get("fingerprint") == clip.fingerprint:
            records[clip.spec.uid] = record
    return records


def is_complete(clip: PlannedClip, record: dict[str, Any] | None, shelf: Shelf, work: str) -> bool:
    if record is None:
        return False
    folder = unit_folder(work, clip.spec.uid)
    return all(part_is_there(clip, part, folder, shelf) for part in range(record["parts"]))


def part_is_there(clip: PlannedClip, part: int, folder: str, shelf: Shelf) -> bool:
    """Whether a part's record is of this fingerprint, and its bytes are in the work folder or in a shard."""
    record = committed_part(folder, part, clip.fingerprint)
    return record is not None and (shelf.find(clip, part) is not None or has_blocks(folder, part, record))


def outcomes_of(
    plan: Plan, records: Mapping[str, dict[str, Any]], failures: Mapping[str, Rejection]
) -> dict[str, Outcome]:
    outcomes = {}
    for clip in plan.clips:
        uid = clip.spec.uid
        record = records.get(uid)
        rejection = clip.rejection or failures.get(uid)
        if rejection is not None or record is None:
            lost = Rejection("process", Reason.CRASHED, "its result was lost")
            outcomes[uid] = Outcome(rejection or lost, 0, {}, {})
        elif record["outcome"] == "rejected":
            rejected = rejection_from_json(record["rejection"])
            outcomes[uid] = Outcome(rejected, 0, {}, record["seconds"])
        else:
            outcomes[uid] = Outcome(None, record["parts"], record, record["seconds"])
    return outcomes
