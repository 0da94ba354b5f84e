"""Committed parts become shards under their final names."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from g4g_core import provenance, storage
from g4g_core.progress import progress
from prep.run.outcomes import Outcome, Shelf
from prep.run.plan import Plan, PlannedClip
from prep.run.runners import Result, Runner, Task
from prep.run.work import part_stem, unit_folder
from prep.shards import schema

_SUFFIXES = (".parquet", ".tar", ".stats.json")  # the marker last: without it no reader accepts the rest
_SHARD_FILE = re.compile(r"((?:train|val|test)-\d{5,})(?:\.parquet|\.tar|\.stats\.json)")


@dataclasses.dataclass(frozen=True)
class PlannedShard:
    """A shard that will hold something.

    Attributes:
        name: stem of its files.
        content: digest of what goes in; equal content, equal bytes.
        uids: clips planned for it, also those that gave nothing.
        parts: (clip, number of its part) in the order of the tar.
    """

    name: str
    split: str
    content: str
    uids: list[str]
    parts: list[tuple[PlannedClip, int]]


def layout_of(plan: Plan, outcomes: Mapping[str, Outcome]) -> list[PlannedShard]:
    """The shards that will hold something, numbered without gaps inside their split."""
    by_uid = {clip.spec.uid: clip for clip in plan.todo}
    layout = []
    for split, shards in plan.shards.items():
        number = 0
        for uids in shards:
            parts = [(by_uid[uid], part) for uid in uids for part in range(outcomes[uid].parts)]
            if parts:
                content = provenance.digest([[clip.fingerprint, part] for clip, part in parts])
                layout.append(PlannedShard(schema.shard_name(split, number), split, content, uids, parts))
                number += 1
    return layout


class ShardRoom:
    """Assembles shards beside the data set and puts them in place, markers last.

    Args:
        out: the data set.
        work: folder of the build's own files.
    """

    def __init__(self, out: str, work: str, quiet: bool) -> None:
        self.out, self.work, self.quiet = out, work, quiet

    def assemble(
        self,
        layout: list[PlannedShard],
        outcomes: Mapping[str, Outcome],
        runner: Runner,
        shelf: Shelf,
    ) -> None:
        """Make the shards whose content is new beside the old ones, then put all in place, markers last."""
        have = {marker["fingerprint"]: stem for stem, marker in shelf.markers.items()}
        staged = storage.join(self.work, "shards")
        finished = _finished_stages(staged)
        new = [shard for shard in layout if shard.content not in have and shard.content not in finished]
        tasks = [self._assemble_task(shard, outcomes, staged, shelf) for shard in new]
        with progress(len(tasks), "assembling", unit="shards", quiet=self.quiet or not tasks) as bar:

            def handle(task: Task, result: Result) -> Iterable[Task]:
                if "samples" not in result:
                    raise RuntimeError(f"shard {task['shard']} could not be assembled: {result}")
                bar.advance(1, task["shard"])
                return []

            runner.run(tasks, handle)
        self._put_in_place(layout, staged, shelf)
        for shard in layout:
            _update_marker(storage.join(self.out, shard.name), reasons=_reasons(shard, outcomes))

    def _put_in_place(self, layout: list[PlannedShard], staged: str, shelf: Shelf) -> None:
        wanted = {shard.name: shard.content for shard in layout}
        current = {stem: marker["fingerprint"] for stem, marker in shelf.markers.items()}
        leftovers = _shard_stems(self.out) - wanted.keys() - current.keys()
        if wanted == current and not leftovers:
            return
        storage.delete(storage.join(self.out, schema.DATASET_FILE))
        for stem in leftovers:  # of a run that was killed between two files of a shard
            _delete_shard(storage.join(self.out, stem))
        for stem, content in current.items():
            if wanted.get(stem) == content:
                continue
            if content in wanted.values():
                _move_shard(storage.join(self.out, stem), storage.join(staged, content))
            else:
                _delete_shard(storage.join(self.out, stem))
        for shard in layout:
            if current.get(shard.name) != shard.content:
                _update_marker(storage.join(staged, shard.content), shard=shard.name)
                _move_shard(storage.join(staged, shard.content), storage.join(self.out, shard.name))

    def _assemble_task(self, shard: PlannedShard, outcomes: Mapping[str, Outcome], staged: str, shelf: Shelf) -> Task:
        parts = []
        for clip, part in shard.parts:
            folder = unit_folder(self.work, clip.spec.uid)
            place = shelf.find(clip, part)
            own = {"tar": storage.join(folder, part_stem(part) + ".tar"), "start": 0}
            if place is None:
                own["bytes"] = storage.read_json(storage.join(folder, part_stem(part) + ".json"))["bytes"]
            parts.append(
                {
                    "source": clip.spec.source,
                    "clip": clip.spec.clip,
                    "part": part,
                    "several": outcomes[clip.spec.uid].parts > 1,
                    "fingerprint": clip.fingerprint,
                    "record": storage.join(folder, part_stem(part) + ".json"),
                    **(place or own),
                }
            )
        seconds: collections.Counter[str] = collections.Counter()
        for uid in shard.uids:
            seconds.update(outcomes[uid].seconds)
        total = sum(part["bytes"] for part in parts)
        return {
            "op": "assemble",
            "stem": storage.join(staged, shard.content),
            "shard": shard.name,
            "fingerprint": shard.content,
            "parts": parts,
            "reasons": _reasons(shard, outcomes),
            "clip_seconds": dict(seconds),
            "timeout": 600 + total / 1e6,
            "cost": 0.2 + total / 200e6,
        }


def _reasons(shard: PlannedShard, outcomes: Mapping[str, Outcome]) -> dict[str, int]:
    """How many clips that were planned for a shard gave nothing, by reason."""
    rejections = [outcomes[uid].rejection for uid in shard.uids]
    return dict(collections.Counter(found.reason.value for found in rejections if found is not None))


def _move_shard(source: str, target: str) -> None:
    storage.delete(f"{target}.stats.json")
    for suffix in _SUFFIXES:
        storage.move(source + suffix, target + suffix)


def _delete_shard(stem: str) -> None:
    for suffix in reversed(_SUFFIXES):
        storage.delete(stem + suffix)


def _update_marker(stem: str, **values: Any) -> None:
    """A shard whose number changed, or beside which a clip was rejected, keeps its bytes; its marker says so."""
    marker = storage.read_json(f"{stem}.stats.json")
    if any(marker.get(name) != value for name, value in values.items()):
        storage.write_json(f"{stem}.stats.json", {**marker, **values})


def _shard_stems(out: str) -> set[str]:
    """Every shard of which any file is there, committed or not."""
    return {match[1] for name in storage.list_files(out) if (match := _SHARD_FILE.fullmatch(name))}


def _finished_stages(staged: str) -> set[str]:
    names = set(storage.list_files(staged))
    stems = {name.removesuffix(".stats.json") for name in names if name.endswith(".stats.json")}
    return {stem for stem in stems if f"{stem}.tar" in names and f"{stem}.parquet" in names}
