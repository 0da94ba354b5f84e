"""The files that describe a data set as a whole: manifest, split lists, ``dataset.json``."""

from __future__ import annotations

import collections
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from g4g_core import provenance, storage
from prep.config import CONTENT_FIELDS, BuildConfig
from prep.records import FPS
from prep.run.commit import PlannedShard
from prep.run.outcomes import Outcome
from prep.run.plan import Plan, PlannedClip
from prep.shards import schema
from prep.shards.tables import read_table
from prep.sources import SourceRoot
from prep.sources.identity import IdentityRule, Table

_RECORDED_FIELDS = {
    "size", "landmarks", "faces", "min_frames", "min_face", "max_mismatch", "shard_mb", "part_seconds", "split_by",
    "fractions",
}  # fmt: skip


def command_of(sources: Iterable[SourceRoot], rule: IdentityRule | None, config: BuildConfig) -> str:
    """What one types to build such a data set; words in capitals stand for places.

    Options that change neither samples nor their place in shards are left out.
    """
    words = ["g4g-prep", "build-shards"]
    told = "" if rule is None else rule.placeless
    for source in sorted(sources, key=lambda source: source.name):
        place = f"{source.name.upper()}_ROOT"
        root = _whole(source.root).rstrip("/") + "/"
        if isinstance(rule, Table) and _whole(rule.path).startswith(root):
            told = f"csv:{place}/{_whole(rule.path).removeprefix(root)}"
        words += [f"--{source.kind}", place if source.name == source.kind else f"{source.name}={place}"]
        for option in (option for option, value in source.options.items() if value):
            words += [f"--{source.kind}-{option}", "DIR"]
        words += ["--describe", f"{source.name}={source.about}"] if source.about else []
    words += ["--identity", told] if told else []
    for name, field in BuildConfig.model_fields.items():
        value = getattr(config, name)
        if name in _RECORDED_FIELDS | CONTENT_FIELDS and value != field.default:
            text = ",".join(repr(share) for share in value) if isinstance(value, tuple) else f"{value}"
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [text])]
    return shlex.join([*words, "--out", "DATA"])


def _whole(path: str) -> str:
    return os.path.abspath(path) if storage.is_local(path) else path


def write_dataset(
    out: str,
    config: BuildConfig,
    plan: Plan,
    outcomes: Mapping[str, Outcome],
    layout: list[PlannedShard],
    *,
    command: str,
    about: Mapping[str, str],
) -> dict[str, Any]:
    """Write manifest, split lists and, last, ``dataset.json``; returns what the latter holds.

    Args:
        command: that builds such a data set.
        about: what the sources are, as far as the user said.
    """
    from prep.sources.splits import leaks

    columns = ["source", "clip", "split", "identity", "video_id", "n_frames"]
    samples: list[dict[str, Any]] = []
    for shard in layout:
        data = storage.read_bytes(storage.join(out, shard.name + ".parquet"))
        samples += read_table(data, columns).to_pylist()
    manifest = [_manifest_row(clip, outcomes[clip.spec.uid], rows) for clip, rows in _joined(plan, samples)]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(manifest, schema=schema.MANIFEST), buffer, compression="zstd")
    _write_if_changed(storage.join(out, schema.MANIFEST_FILE), buffer.getvalue().to_pybytes())
    splits = {}
    for split in sorted({shard.split for shard in layout}):
        rows = [row for row in samples if row["split"] == split]
        clips = sorted({f"{row['source']}/{row['clip']}" for row in rows})
        text = "".join(f"{clip}\n" for clip in clips)
        _write_if_changed(storage.join(out, schema.SPLITS_FOLDER, f"{split}.txt"), text.encode())
        names = [shard.name for shard in layout if shard.split == split]
        splits[split] = {"shards": names, **_count(rows)}
    for name in storage.list_files(storage.join(out, schema.SPLITS_FOLDER)):
        if name.removesuffix(".txt") not in splits:
            storage.delete(storage.join(out, schema.SPLITS_FOLDER, name))
    sources = {}
    for source in sorted({row["source"] for row in manifest}):
        of_source = [row for row in manifest if row["source"] == source]
        rejected = collections.Counter(row["reason"] for row in of_source if row["outcome"] == "rejected")
        counts = _count([row for row in samples if row["source"] == source])
        sources[source] = {
            **counts,
            "clips": len(of_source),
            "ok": counts["clips"],
            "rejected": dict(sorted(rejected.items())),
            **({"about": about[source]} if about.get(source) else {}),
        }
    dataset = {
        "schema_version": schema.SCHEMA_VERSION,
        "crop": "crop/1",
        "size": config.size,
        "fps": FPS,
        "landmarks": config.landmarks,
        "command": command,
        "config": config.model_dump(mode="json", include=_RECORDED_FIELDS),
        "splits": splits,
        "sources": sources,
        "fingerprints": {shard.name: shard.content for shard in layout},
        "leaks": [str(leak) for leak in leaks(samples)],
    }
    storage.write_json(storage.join(out, schema.DATASET_FILE), dataset)
    return dataset


def _joined(plan: Plan, samples: Iterable[Mapping[str, Any]]) -> Iterable[tuple[PlannedClip, list[Mapping[str, Any]]]]:
    by_clip: dict[tuple[str, str], list[Mapping[str, Any]]] = collections.defaultdict(list)
    for row in samples:
        by_clip[(row["source"], row["clip"])].append(row)
    for clip in plan.clips:
        yield clip, by_clip[(clip.spec.source, clip.spec.clip)]


def _manifest_row(clip: PlannedClip, outcome: Outcome, samples: list[Mapping[str, Any]]) -> dict[str, Any]:
    rejection, spec = outcome.rejection, clip.spec
    facts = {name: outcome.facts.get(name) for name in schema.MANIFEST.names}
    return {
        **facts,
        "source": spec.source,
        "clip": spec.clip,
        "identity": spec.identity,
        "video_id": spec.video_id,
        "split": spec.split,
        "subset": spec.subset,
        "role": spec.role,
        "path": spec.path,
        "content_sha256": clip.content_sha256 or None,
        "licence": spec.licence,
        "outcome": "ok" if rejection is None else "rejected",
        "stage": rejection.stage if rejection else None,
        "reason": rejection.reason.value if rejection else None,
        "detail": rejection.detail if rejection else None,
        "partial": provenance.stable_json(outcome.facts.get("partial", [])).decode(),
        "n_samples": len(samples),
        "n_frames": sum(row["n_frames"] for row in samples),
    }


def _count(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    frames = sum(row["n_frames"] for row in rows)
    return {
        "clips": len({(row["source"], row["clip"]) for row in rows}),
        "identities": len({row["identity"] for row in rows}),
        "samples": len(rows),
        "frames": frames,
        "seconds": round(frames / FPS, 2),
    }


def _write_if_changed(url: str, data: bytes) -> None:
    if not storage.exists(url) or storage.read_bytes(url) != data:
        storage.write_bytes(url, data)
