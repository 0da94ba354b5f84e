"""Several data sets as one: shards are copied byte for byte under new numbers, tables are joined."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from g4g_core import storage
from g4g_core.errors import DatasetError, UsageError
from g4g_core.storage import Url
from prep.records import FPS
from prep.shards import schema
from prep.shards.index import INDEX, MARKER, TAR, CommittedShard, Dataset
from prep.summary import Tables, load_tables

if TYPE_CHECKING:
    import pyarrow as pa

MUST_AGREE = ("schema_version", "crop", "size", "fps", "landmarks")
"""Fields of ``dataset.json`` that every sample of one data set shares."""

Progress = Callable[[int, int, str], None]
"""Called after each shard with (shards done, shards in all, name of the new shard)."""

_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a merge wrote.

    Attributes:
        path: the new data set.
        shards: {new stem: [input, stem there]}; inputs are numbered from 0 in the order given.
        clips, samples: counts of the new data set; clips are all rows of the manifest.
        leaks: a line per identity or video that now stands in two splits. They are not refused, because equal
            names need not be the same person; ``doctor`` calls them a fault.
    """

    path: str
    shards: Mapping[str, tuple[int, str]]
    clips: int
    samples: int
    leaks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        text = f"{self.path}: {len(self.shards)} shards, {self.clips:,} clips, {self.samples:,} samples"
        return "\n".join([text, *(f"leak: {line}" for line in self.leaks)])


def merge(roots: Sequence[Url], out: Url, *, progress: Progress | None = None) -> Merged:
    """Join the data sets under ``roots`` into a new one under ``out``.

    Tars and indices are copied unchanged, only the number in a shard's name is new; inputs are not touched.
    Interrupted and called again, it goes on where it stopped. ``dataset.json`` is written last.

    Raises:
        UsageError: fewer than two inputs, or ``out`` is one of them or holds a data set already.
        DatasetError: inputs that differ in one of :data:`MUST_AGREE`, that share a clip or a key, or that are
            damaged; ``out`` holds files that are not part of this merge.
        StorageError: a file cannot be read or written.
    """
    places = [os.fspath(root).rstrip("/") for root in roots]
    out = os.fspath(out)
    _require_usable(places, out)
    datasets = [Dataset.open(root) for root in places]
    _require_agreement(datasets)
    tables = [load_tables(root) for root in places]
    _require_distinct(places, tables)
    plan = _plan(datasets)
    _require_no_strangers(out, plan)
    for done, (stem, (number, _, shard)) in enumerate(plan.items(), start=1):
        _copy_shard(datasets[number].root, shard, out, stem)
        if progress is not None:
            progress(done, len(plan), stem)
    _write_manifest([dataset.root for dataset in datasets], out)
    _write_split_lists(tables, out)
    info = _describe(datasets, tables, plan)
    storage.write_json(storage.join(out, schema.DATASET_FILE), info)
    return Merged(
        path=out,
        shards={stem: (number, shard.stem) for stem, (number, _, shard) in plan.items()},
        clips=sum(len(part.manifest) for part in tables),
        samples=sum(len(part.samples) for part in tables),
        leaks=tuple(info["leaks"]),
    )


_Plan = Mapping[str, tuple[int, str, CommittedShard]]  # new stem -> (input, split, shard)


def _require_usable(places: Sequence[str], out: str) -> None:
    if len(places) < 2:
        raise UsageError("a merge needs two data sets or more", "Name their folders.")
    canonical = [os.path.realpath(place) if storage.is_local(place) else place for place in [*places, out]]
    for place, count in collections.Counter(canonical[:-1]).items():
        if count > 1:
            raise UsageError(f"{place} is named twice", "Name each data set once.")
    if canonical[-1].rstrip("/") in canonical[:-1]:
        raise UsageError(f"{out} is one of the inputs", "Name a new folder for the result.")
    if storage.exists(storage.join(out, schema.DATASET_FILE)):
        raise UsageError(f"{out} holds a data set already", "Name a new folder for the result.")


def _require_agreement(datasets: Sequence[Dataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        for field in MUST_AGREE:
            here, there = first.info.get(field), other.info.get(field)
            if here != there:
                raise DatasetError(
                    f"{first.root} and {other.root} differ in {field}: {here} and {there}",
                    "Build one of them again with the options of the other.",
                )


def _require_distinct(places: Sequence[str], tables: Sequence[Tables]) -> None:
    clips: dict[str, int] = {}
    keys: dict[str, int] = {}
    for number, part in enumerate(tables):
        named = [f"{s}/{c}" for s, c in zip(part.manifest["source"], part.manifest["clip"], strict=True)]
        for what, names, seen in (("clip", named, clips), ("key", part.samples["key"], keys)):
            twice = [name for name in names if seen.get(name, number) != number]
            if twice:
                other = places[seen[twice[0]]]
                more = f" and {len(twice) - 3} more" if len(twice) > 3 else ""
                raise DatasetError(
                    f"{other} and {places[number]} share the {what} {', '.join(twice[:3])}{more}",
                    "Leave one out, or build it again under another source name (--folder NAME=PATH).",
                )
            seen.update(dict.fromkeys(names, number))


def _plan(datasets: Sequence[Dataset]) -> _Plan:
    """New names: shards of a split are numbered in the order of the inputs, as those had them."""
    plan: dict[str, tuple[int, str, CommittedShard]] = {}
    for split in _splits(datasets):
        here = [(n, dataset) for n, dataset in enumerate(datasets) if split in dataset.splits]
        shards = [(n, shard) for n, dataset in here for shard in dataset.committed(split)]
        for position, (number, shard) in enumerate(shards):
            plan[schema.shard_name(split, position)] = (number, split, shard)
    return plan


def _splits(datasets: Sequence[Dataset]) -> list[str]:
    return sorted({split for dataset in datasets for split in dataset.splits})


def _require_no_strangers(out: str, plan: _Plan) -> None:
    """A reader of ``out`` must not meet shards of another, unfinished merge."""
    ours = {stem + suffix for stem in plan for suffix in (TAR, INDEX, MARKER)} | {schema.MANIFEST_FILE}
    strangers = [name for name in storage.list_files(out) if name not in ours]
    if strangers:
        raise DatasetError(
            f"{out} holds files that are not part of this merge: {', '.join(strangers[:3])}",
            "Name an empty folder for the result.",
        )


def _copy_shard(root: str, shard: CommittedShard, out: str, stem: str) -> None:
    marker = {**shard.marker, "shard": stem}
    targets = {suffix: storage.join(out, stem + suffix) for suffix in (TAR, INDEX, MARKER)}
    if _is_copied(targets, marker):
        return
    storage.delete(targets[MARKER])  # one left by another merge would vouch for the wrong bytes
    digest = hashlib.sha256()
    with (
        storage.open_read(storage.join(root, shard.stem + TAR)) as source,
        storage.atomic_writer(targets[TAR]) as target,
    ):
        while block := source.read(_CHUNK):
            digest.update(block)
            target.write(block)
        if digest.hexdigest() != marker["sha256"]:
            raise DatasetError(
                f"{shard.stem}{TAR} of {root} is damaged: its SHA-256 is not the one of its marker",
                "Run 'g4g-prep verify' on it, and build it again.",
            )
    storage.write_bytes(targets[INDEX], shard.index)
    storage.write_json(targets[MARKER], marker)


def _is_copied(targets: Mapping[str, str], marker: Mapping[str, Any]) -> bool:
    return (
        all(storage.exists(target) for target in targets.values())
        and storage.read_json(targets[MARKER]) == marker
        and storage.size(targets[TAR]) == marker["bytes"]
    )


def _write_manifest(roots: Sequence[str], out: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from prep.shards.tables import read_table

    parts: list[pa.Table] = []
    for root in roots:
        table = read_table(storage.read_bytes(storage.join(root, schema.MANIFEST_FILE)))
        parts.append(table.select(schema.MANIFEST.names).cast(schema.MANIFEST))
    joined = (
        pa.concat_tables(parts).sort_by([("source", "ascending"), ("clip", "ascending")]).combine_chunks()
    )
    buffer = io.BytesIO()
    pq.write_table(joined, buffer, compression="zstd")
    storage.write_bytes(storage.join(out, schema.MANIFEST_FILE), buffer.getvalue())


def _write_split_lists(tables: Sequence[Tables], out: str) -> None:
    lists: dict[str, set[str]] = collections.defaultdict(set)
    for part in tables:
        for split, source, clip in part.samples[["split", "source", "clip"]].itertuples(
            index=False, name=None
        ):
            lists[split].add(f"{source}/{clip}")
    for split, clips in sorted(lists.items()):
        text = "".join(f"{clip}\n" for clip in sorted(clips))
        storage.write_bytes(storage.join(out, schema.SPLITS_FOLDER, f"{split}.txt"), text.encode())


def _describe(datasets: Sequence[Dataset], tables: Sequence[Tables], plan: _Plan) -> dict[str, Any]:
    """``dataset.json`` of the result: counts are counted again from the tables, not added up."""
    import pandas as pd

    samples = pd.concat([part.samples for part in tables], ignore_index=True)
    manifest = pd.concat([part.manifest for part in tables], ignore_index=True)
    together = Tables(datasets[0].info, samples, manifest, {})
    splits = {
        split: {
            "shards": [stem for stem, (_, of, _) in plan.items() if of == split],
            **_counts(samples[samples["split"] == split]),
        }
        for split in _splits(datasets)
    }
    sources = {}
    for source, rows in manifest.groupby("source"):
        counts = _counts(samples[samples["source"] == source])
        taken = rows["outcome"] == "ok"
        reasons = collections.Counter(rows["reason"][~taken])
        sources[str(source)] = {
            **counts,
            "clips": len(rows),
            "ok": int(taken.sum()),
            "rejected": {str(reason): number for reason, number in sorted(reasons.items())},
        }
        said = dict.fromkeys(
            dataset.info.get("sources", {}).get(str(source), {}).get("about") for dataset in datasets
        )
        about = "; ".join(filter(None, said))
        sources[str(source)] |= {"about": about} if about else {}
    configs = [dataset.info.get("config") for dataset in datasets]
    same = all(config == configs[0] for config in configs)
    names = [f"DATA_{number}" for number in range(1, len(datasets) + 1)]
    commands = [_told(dataset.info.get("command"), name) for dataset, name in zip(datasets, names, strict=True)]
    return {
        **{field: datasets[0].info[field] for field in MUST_AGREE},
        "command": "\n".join([*commands, shlex.join(["g4g-prep", "merge", *names, "--out", "DATA"])]),
        "config": configs[0] if same else {"merged": configs},
        "splits": splits,
        "sources": sources,
        "leaks": [str(leak) for leak in together.leaks()],
    }


def _told(command: str | None, name: str) -> str:
    """The command that builds a part, into a folder of this name."""
    if command is None:
        return f"# {name} does not note how it was built"
    return re.sub(r"\bDATA\b", name, command)


def _counts(rows: Any) -> dict[str, Any]:
    frames = int(rows["n_frames"].sum())
    return {
        "clips": len(rows[["source", "clip"]].drop_duplicates()),
        "identities": int(rows["identity"].nunique()),
        "samples": len(rows),
        "frames": frames,
        "seconds": round(frames / FPS, 3),
    }
