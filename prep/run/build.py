"""From sources to a data set: plan, units, shards, manifest. Files and workers live here; stages know of neither."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from g4g_core import provenance, storage, weights
from g4g_core.errors import UsageError
from g4g_core.progress import progress
from prep.config import BuildConfig
from prep.landmarks import weights_of
from prep.records import FPS, ClipSpec, Reason, Rejection, rejection_from_json
from prep.run.runners import Result, Runner, Task
from prep.run.work import (
    CLIP_FILE,
    TRACKS_FILE,
    committed_part,
    has_blocks,
    part_stem,
    read_record,
    unit_folder,
)
from prep.shards import schema
from prep.shards.plan import bytes_per_frame, shards_of
from prep.sources import SourceRoot, scan_all
from prep.sources.identity import IdentityRule

PIPELINE_SOURCES = (
    *("prep.stages", "prep.landmarks", "prep.run.passes"),
    *("prep.shards.sample", "prep.records", "prep.media"),
)
"""The code that decides the bytes of a sample."""

PIPELINE_PACKAGES = ("av", "dlib-bin", "numpy", "opencv-python-headless", "opencv-python", "pillow")

SECONDS_PER_FRAME = {"dlib": 0.006, "fan": 0.009}
"""Core-seconds a frame, for estimates before a run (512x512 footage, one core of 2020)."""
GPU_SECONDS_PER_FRAME = {"dlib": 0.0, "fan": 0.002}
_PROBE_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class PlannedClip:
    """One row of the work list.

    Attributes:
        spec: the clip.
        url: where its file lies.
        content_sha256: of the file; "" where there is none.
        frames: expected 25 fps frames.
        fingerprint: of everything that the clip's bytes depend on.
        rejection: why there is nothing to do, where the source or the probe knows.
    """

    spec: ClipSpec
    url: str
    content_sha256: str
    frames: int
    fingerprint: str
    rejection: Rejection | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work list, and which clips share a shard.

    Attributes:
        clips: every input clip, sorted by (source, clip).
        shards: by split, uids of clips that are to share a shard.
    """

    clips: list[PlannedClip]
    shards: dict[str, list[list[str]]]

    @property
    def todo(self) -> list[PlannedClip]:
        return [clip for clip in self.clips if clip.rejection is None]

    def estimate(self, config: BuildConfig) -> dict[str, float]:
        """Frames, hours of footage, core-hours, GPU-hours and bytes that the plan will take."""
        frames = sum(clip.frames for clip in self.todo)
        return {
            "clips": len(self.clips),
            "clips_to_process": len(self.todo),
            "frames": frames,
            "hours": round(frames / FPS / 3600, 4),
            "core_hours": round(frames * SECONDS_PER_FRAME[config.landmarks] / 3600, 3),
            "gpu_hours": round(frames * GPU_SECONDS_PER_FRAME[config.landmarks] / 3600, 3),
            "bytes": round(frames * bytes_per_frame(config.size)),
            "shards": sum(len(shards) for shards in self.shards.values()),
        }


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        out: the data set.
        dataset: contents of ``dataset.json``.
        leaks: identities and videos in two splits, one line each.
        n_done_before: clips that an earlier run had finished.
        seconds: wall time, start-up of workers not counted.
    """

    out: str
    dataset: dict[str, Any]
    leaks: list[str]
    n_done_before: int
    seconds: float

    @property
    def n_samples(self) -> int:
        return sum(split["samples"] for split in self.dataset["splits"].values())


class Build:
    """One run of ``build-shards``.

    Args:
        sources: what to read.
        out: data set folder or URL; an earlier build there is continued.
        config: how.
        identity_rule: who is who, see :mod:`prep.sources.identity`.
        quiet: no progress bars.
    """

    def __init__(
        self,
        sources: Sequence[SourceRoot],
        out: str,
        config: BuildConfig,
        identity_rule: IdentityRule | None = None,
        quiet: bool = False,
    ) -> None:
        self.out, self.config, self.quiet = out, config, quiet
        self.sources, self.identity_rule = list(sources), identity_rule
        self.work = storage.join(out, schema.WORK_FOLDER)
        self._require_ours()

    @functools.cached_property
    def _config_json(self) -> dict[str, Any]:
        """One dictionary for all tasks: a work list may hold a million."""
        return self.config.model_dump(mode="json")

    def _require_ours(self) -> None:
        names = _names_in(self.out)
        ours = schema.DATASET_FILE in names or storage.exists(storage.join(self.work, "plan.parquet"))
        if names and not ours:
            raise UsageError(
                f"{self.out} is not empty and holds no data set ({names[0]}, ...)", "Give an empty or new folder."
            )

    # ---- plan

    def plan(self, runner: Runner) -> Plan:
        """Probe every clip and decide shards. Files that did not change since the last plan are not opened again."""
        specs, roots = scan_all(self.sources, self.identity_rule, self.config.split_by, self.config.fractions)
        urls = [storage.join(roots[spec.source], spec.path) for spec in specs]
        known = _ProbeCache.load(self.work, _code(self.config.landmarks))
        answers: dict[int, dict[str, Any]] = {}
        for position, (spec, url) in enumerate(zip(specs, urls, strict=True)):
            if spec.absent is None and (answer := known.find(spec, url, self.config)) is not None:
                answers[position] = answer
        missing = [i for i, spec in enumerate(specs) if spec.absent is None and i not in answers]
        self._probe(runner, missing, specs, urls, answers)
        for position in missing:
            known.remember(specs[position], urls[position], self.config, answers[position])
        known.save()
        clips = [
            self._planned(spec, url, answers.get(i, {})) for i, (spec, url) in enumerate(zip(specs, urls, strict=True))
        ]
        plan = Plan(clips, self._shards(clips))
        storage.write_bytes(storage.join(self.work, "plan.parquet"), _plan_table(plan, self.config))
        return plan

    def _probe(
        self,
        runner: Runner,
        missing: list[int],
        specs: list[ClipSpec],
        urls: list[str],
        answers: dict[int, dict[str, Any]],
    ) -> None:
        """Fill ``answers`` for the clips at ``missing``; a file that kills the prober is a row as well."""
        config = self._config_json

        def task(positions: list[int]) -> Task:
            clips = [{"spec": specs[i], "url": urls[i]} for i in positions]
            limit = 60 + self.config.time_limit * len(positions) / 4
            cost = _PROBE_SECONDS * len(positions)
            return {
                "op": "probe", "clips": clips, "config": config, "timeout": limit, "cost": cost, "positions": positions
            }  # fmt: skip

        with progress(len(missing), "probing", quiet=self.quiet) as bar:

            def handle(done: Task, result: Result) -> Iterable[Task]:
                positions = done["positions"]
                if "answers" in result:
                    answers.update(zip(positions, result["answers"], strict=True))
                elif len(positions) > 1:
                    return [task([position]) for position in positions]
                else:
                    rejection = _failure("probe", result)
                    answers[positions[0]] = {"rejection": dataclasses.asdict(rejection)}
                bar.advance(len(positions))
                return []

            runner.run([task(missing[i : i + 16]) for i in range(0, len(missing), 16)], handle)

    def _planned(self, spec: ClipSpec, url: str, answer: Mapping[str, Any]) -> PlannedClip:
        rejection = spec.absent
        if rejection is None and "rejection" in answer:
            rejection = rejection_from_json(answer["rejection"])
        content = str(answer.get("content_sha256") or "")
        frames = 0
        if "probe" in answer:
            frames = max(0, round(answer["probe"]["duration"] * FPS))
        fingerprint = provenance.digest(
            {
                "spec": spec.to_json(),
                "content": content,
                "config": self.config.content(),
                "part_frames": self.config.part_frames,  # not the bytes of a sample, but where a part ends
                "code": _code(self.config.landmarks),
            }
        )
        return PlannedClip(spec, url, content, frames, fingerprint, rejection)

    def _shards(self, clips: list[PlannedClip]) -> dict[str, list[list[str]]]:
        sizes: dict[str, dict[str, float]] = collections.defaultdict(dict)
        for clip in clips:
            if clip.rejection is None and clip.spec.split is not None:
                sizes[clip.spec.split][clip.spec.uid] = max(1, clip.frames) * bytes_per_frame(self.config.size)
        return {split: shards_of(sizes[split], self.config.shard_mb * 1e6) for split in sorted(sizes)}

    # ---- units

    def run(self, plan: Plan, runner: Runner) -> BuildReport:
        """Process what is not done yet, assemble shards, write manifest and data set file."""
        started = time.monotonic()
        shelf = _Shelf(self.out)
        records = _read_records(self.work, plan.todo)
        failures, done_before = self._process(plan, runner, records, shelf)
        records = _read_records(self.work, plan.todo)
        outcomes = _outcomes(plan, records, failures)
        layout = self._layout(plan, outcomes)
        self._assemble(layout, plan, outcomes, runner, shelf)
        dataset = self._finish(plan, outcomes, layout)
        report = BuildReport(self.out, dataset, dataset["leaks"], done_before, time.monotonic() - started)
        self._write_build_file(report)
        self._tidy(plan)
        return report

    def _process(
        self, plan: Plan, runner: Runner, records: dict[str, dict[str, Any]], shelf: _Shelf
    ) -> tuple[dict[str, Rejection], int]:
        """Run every unit that is not complete; returns why some could not be, and how many clips were complete."""
        failures: dict[str, Rejection] = {}
        tasks: list[Task] = []
        frames_left = done_before = 0
        for clip in plan.todo:
            todo = self._tasks_of(clip, records.get(clip.spec.uid), shelf)
            tasks += todo
            frames_left += clip.frames if todo else 0
            done_before += not todo
        by_uid = {clip.spec.uid: clip for clip in plan.todo}
        with progress(frames_left, "processing", unit="frames", quiet=self.quiet or not tasks) as bar:

            def handle(task: Task, result: Result) -> Iterable[Task]:
                clip = by_uid[task["uid"]]
                if "outcome" not in result:
                    failures[clip.spec.uid] = _failure("process", result)
                    self._note_bug(clip, result)
                    bar.advance(task["frames"], clip.spec.uid)
                    return []
                if task["op"] == "clip" and result["parts"] > 1:
                    return self._part_tasks(clip, range(result["parts"]))
                bar.advance(task["frames"], clip.spec.uid)
                return []

            # long clips first, so that no worker is left with one at the end
            runner.run(sorted(tasks, key=lambda task: -task["cost"]), handle)
        return failures, done_before

    def _tasks_of(self, clip: PlannedClip, record: dict[str, Any] | None, shelf: _Shelf) -> list[Task]:
        if _is_complete(clip, record, shelf, self.work):
            return []
        folder = unit_folder(self.work, clip.spec.uid)
        if record is not None and record["parts"] > 1 and storage.exists(storage.join(folder, TRACKS_FILE)):
            open_parts = [part for part in range(record["parts"]) if not _part_is_there(clip, part, folder, shelf)]
            return self._part_tasks(clip, open_parts)
        return [self._task(clip, "clip", clip.frames, {"estimated_frames": clip.frames})]

    def _part_tasks(self, clip: PlannedClip, parts: Iterable[int]) -> list[Task]:
        frames = self.config.part_frames
        return [
            self._task(clip, "part", max(0, min(frames, clip.frames - part * frames)), {"part": part}) for part in parts
        ]

    def _task(self, clip: PlannedClip, op: str, frames: int, more: Mapping[str, Any]) -> Task:
        return {
            "op": op,
            "uid": clip.spec.uid,
            "spec": clip.spec,
            "url": clip.url,
            "content_sha256": clip.content_sha256,
            "fingerprint": clip.fingerprint,
            "folder": unit_folder(self.work, clip.spec.uid),
            "config": self._config_json,
            "frames": frames,
            "timeout": self.config.time_limit + 10 * frames / FPS,
            "cost": 0.1 + frames * SECONDS_PER_FRAME[self.config.landmarks],
            **more,
        }

    def _note_bug(self, clip: PlannedClip, result: Result) -> None:
        if "traceback" in result:
            name = unit_folder(self.work, clip.spec.uid).rpartition("/")[2]
            text = f"{clip.spec.uid}\n{result['traceback']}"
            storage.write_bytes(storage.join(self.work, "errors", f"{name}.txt"), text.encode())

    # ---- shards

    def _layout(self, plan: Plan, outcomes: Mapping[str, Outcome]) -> list[_PlannedShard]:
        """The shards that will hold something, numbered without gaps inside their split."""
        by_uid = {clip.spec.uid: clip for clip in plan.todo}
        layout = []
        for split, shards in plan.shards.items():
            number = 0
            for uids in shards:
                parts = [(by_uid[uid], part) for uid in uids for part in range(outcomes[uid].parts)]
                if parts:
                    content = provenance.digest([[clip.fingerprint, part] for clip, part in parts])
                    layout.append(_PlannedShard(schema.shard_name(split, number), split, content, uids, parts))
                    number += 1
        return layout

    def _assemble(
        self,
        layout: list[_PlannedShard],
        plan: Plan,
        outcomes: Mapping[str, Outcome],
        runner: Runner,
        shelf: _Shelf,
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

    def _put_in_place(self, layout: list[_PlannedShard], staged: str, shelf: _Shelf) -> None:
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

    def _assemble_task(self, shard: _PlannedShard, outcomes: Mapping[str, Outcome], staged: str, shelf: _Shelf) -> Task:
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

    # ---- the data set's own files

    def _finish(self, plan: Plan, outcomes: Mapping[str, Outcome], layout: list[_PlannedShard]) -> dict[str, Any]:
        from prep.sources.splits import leaks

        columns = ["source", "clip", "split", "identity", "video_id", "n_frames"]
        samples: list[dict[str, Any]] = []
        for shard in layout:
            data = storage.read_bytes(storage.join(self.out, shard.name + ".parquet"))
            samples += pq.read_table(pa.BufferReader(data), columns=columns).to_pylist()
        manifest = [_manifest_row(clip, outcomes[clip.spec.uid], rows) for clip, rows in _joined(plan, samples)]
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(manifest, schema=schema.MANIFEST), buffer, compression="zstd")
        _write_if_changed(storage.join(self.out, schema.MANIFEST_FILE), buffer.getvalue().to_pybytes())
        splits = {}
        for split in sorted({shard.split for shard in layout}):
            rows = [row for row in samples if row["split"] == split]
            clips = sorted({f"{row['source']}/{row['clip']}" for row in rows})
            text = "".join(f"{clip}\n" for clip in clips)
            _write_if_changed(storage.join(self.out, schema.SPLITS_FOLDER, f"{split}.txt"), text.encode())
            names = [shard.name for shard in layout if shard.split == split]
            splits[split] = {"shards": names, **_count(rows)}
        for name in storage.list_files(storage.join(self.out, schema.SPLITS_FOLDER)):
            if name.removesuffix(".txt") not in splits:
                storage.delete(storage.join(self.out, schema.SPLITS_FOLDER, name))
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
            }
        dataset = {
            "schema_version": schema.SCHEMA_VERSION,
            "crop": "crop/1",
            "size": self.config.size,
            "fps": FPS,
            "landmarks": self.config.landmarks,
            "config": self.config.model_dump(mode="json", include=_RECORDED_FIELDS),
            "splits": splits,
            "sources": sources,
            "fingerprints": {shard.name: shard.content for shard in layout},
            "leaks": [str(leak) for leak in leaks(samples)],
        }
        storage.write_json(storage.join(self.out, schema.DATASET_FILE), dataset)
        return dataset

    def _write_build_file(self, report: BuildReport) -> None:
        storage.write_json(
            storage.join(self.out, schema.BUILD_FILE),
            {
                "sources": [dataclasses.asdict(source) for source in self.sources],
                "config": self.config.model_dump(mode="json"),
                "clips_done_before": report.n_done_before,
                "seconds": round(report.seconds, 2),
                "environment": provenance.environment(),
                "weights": {name: weights.verify(name) for name in weights_of(self.config.landmarks)},
            },
        )

    def _tidy(self, plan: Plan) -> None:
        """Delete what the shards now hold; the small records stay, they are the memory of the build."""
        for clip in plan.todo:
            folder = unit_folder(self.work, clip.spec.uid)
            for name in storage.list_files(folder):
                if name.endswith(".tar") or name == TRACKS_FILE:
                    storage.delete(storage.join(folder, name))
        storage.delete_tree(storage.join(self.work, "shards"))
        storage.delete_leftovers(self.out)


_RECORDED_FIELDS = {
    "size", "landmarks", "faces", "min_frames", "min_face", "max_mismatch", "shard_mb", "part_seconds", "split_by",
    "fractions",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a clip ended."""

    rejection: Rejection | None
    parts: int
    facts: Mapping[str, Any]
    seconds: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class _PlannedShard:
    name: str
    split: str
    content: str
    uids: list[str]
    parts: list[tuple[PlannedClip, int]]


class _Shelf:
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


def _read_records(work: str, clips: Iterable[PlannedClip]) -> dict[str, dict[str, Any]]:
    """``clip.json`` of the clips that have one for their present fingerprint."""
    records = {}
    for clip in clips:
        record = read_record(storage.join(unit_folder(work, clip.spec.uid), CLIP_FILE))
        if record is not None and record.get("fingerprint") == clip.fingerprint:
            records[clip.spec.uid] = record
    return records


def _is_complete(clip: PlannedClip, record: dict[str, Any] | None, shelf: _Shelf, work: str) -> bool:
    if record is None:
        return False
    folder = unit_folder(work, clip.spec.uid)
    return all(_part_is_there(clip, part, folder, shelf) for part in range(record["parts"]))


def _part_is_there(clip: PlannedClip, part: int, folder: str, shelf: _Shelf) -> bool:
    """Whether a part's record is of this fingerprint, and its bytes are in the work folder or in a shard."""
    record = committed_part(folder, part, clip.fingerprint)
    return record is not None and (shelf.find(clip, part) is not None or has_blocks(folder, part, record))


def _names_in(out: str) -> list[str]:
    """What stands in a folder, our own work aside; of a store the files only, for it has no folders."""
    if not storage.is_local(out):
        return storage.list_files(out)
    path = storage.local_path(out)
    return [name for name in sorted(os.listdir(path)) if name != schema.WORK_FOLDER] if os.path.isdir(path) else []


def _failure(stage: str, result: Result) -> Rejection:
    if "timeout" in result:
        return Rejection(stage, Reason.TIMEOUT, f"gave no result within {result['timeout']:.0f} s")
    if "bug" in result:
        return Rejection(stage, Reason.CRASHED, f"a fault of this program: {result['bug']} (trace in .work/errors)")
    return Rejection(stage, Reason.CRASHED, f"the process that read it was {result.get('died', 'lost')}")


def _outcomes(
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


_SUFFIXES = (".parquet", ".tar", ".stats.json")  # the marker last: without it no reader accepts the rest
_SHARD_FILE = re.compile(r"((?:train|val|test)-\d{5,})(?:\.parquet|\.tar|\.stats\.json)")


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


def _reasons(shard: _PlannedShard, outcomes: Mapping[str, Outcome]) -> dict[str, int]:
    """How many clips that were planned for a shard gave nothing, by reason."""
    rejections = [outcomes[uid].rejection for uid in shard.uids]
    return dict(collections.Counter(found.reason.value for found in rejections if found is not None))


def _shard_stems(out: str) -> set[str]:
    """Every shard of which any file is there, committed or not."""
    return {match[1] for name in storage.list_files(out) if (match := _SHARD_FILE.fullmatch(name))}


def _finished_stages(staged: str) -> set[str]:
    names = set(storage.list_files(staged))
    stems = {name.removesuffix(".stats.json") for name in names if name.endswith(".stats.json")}
    return {stem for stem in stems if f"{stem}.tar" in names and f"{stem}.parquet" in names}


@functools.cache
def _code(landmarks: str) -> str:
    """Digest of the code, packages and weights that decide the bytes of a sample."""
    return provenance.digest(
        {
            "schema": schema.SCHEMA_VERSION,
            "code": provenance.code_fingerprint(PIPELINE_SOURCES),
            "packages": provenance.versions(PIPELINE_PACKAGES),
            "weights": {name: weights.verify(name) for name in weights_of(landmarks)},
        }
    )


class _ProbeCache:
    """Probe answers of local files by size and time of change, so that a resumed run opens only what is new."""

    def __init__(self, url: str, code: str, entries: dict[str, Any]) -> None:
        self._url, self._code, self._old, self._new = url, code, entries, dict[str, Any]()

    @classmethod
    def load(cls, work: str, code: str) -> _ProbeCache:
        url = storage.join(work, "probes.json")
        entries = read_record(url) or {}
        return cls(url, code, entries if entries.get("version") == code else {})

    def find(self, spec: ClipSpec, url: str, config: BuildConfig) -> dict[str, Any] | None:
        state = self._state(spec, url, config)
        entry = self._old.get(spec.uid)
        if state is None or entry is None or entry["state"] != state:
            return None
        self._new[spec.uid] = entry
        answer: dict[str, Any] = entry["answer"]
        return answer

    def remember(self, spec: ClipSpec, url: str, config: BuildConfig, answer: dict[str, Any]) -> None:
        rejection = answer.get("rejection") or {}
        state = self._state(spec, url, config)
        if state is not None and rejection.get("reason") not in (Reason.TIMEOUT, Reason.CRASHED):
            self._new[spec.uid] = {"state": state, "answer": answer}

    def save(self) -> None:
        storage.write_json(self._url, {**self._new, "version": self._code})

    @staticmethod
    def _state(spec: ClipSpec, url: str, config: BuildConfig) -> list[Any] | None:
        if not storage.is_local(url):
            return None
        try:
            found = os.stat(url)
        except OSError:
            return None
        time_range = list(spec.time_range) if spec.time_range is not None else None
        # the time of the last change of the inode cannot be set: it betrays what keeps its size and date
        return [spec.path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, time_range, config.min_frames]


def _plan_table(plan: Plan, config: BuildConfig) -> bytes:
    """The work list as parquet: what is to be done, how large, and into which shard it goes."""
    shard_of = {
        uid: f"{split}/{position}"
        for split, shards in plan.shards.items()
        for position, uids in enumerate(shards)
        for uid in uids
    }
    rows = [
        {
            "source": clip.spec.source,
            "clip": clip.spec.clip,
            "identity": clip.spec.identity,
            "split": clip.spec.split,
            "path": clip.spec.path,
            "content_sha256": clip.content_sha256 or None,
            "frames": clip.frames,
            "core_seconds": round(clip.frames * SECONDS_PER_FRAME[config.landmarks], 3),
            "bytes": round(clip.frames * bytes_per_frame(config.size)),
            "planned_shard": shard_of.get(clip.spec.uid),
            "fingerprint": clip.fingerprint,
            "reason": clip.rejection.reason.value if clip.rejection else None,
            "detail": clip.rejection.detail if clip.rejection else None,
        }
        for clip in plan.clips
    ]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows) if rows else pa.table({}), buffer, compression="zstd")
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def build(
    sources: Sequence[SourceRoot],
    out: str,
    config: BuildConfig,
    open_runner: Callable[[], Any],
    *,
    identity_rule: IdentityRule | None = None,
    quiet: bool = False,
) -> BuildReport:
    """Build or continue a data set.

    Args:
        open_runner: context manager factory of a :class:`prep.run.runners.Runner`.
    """
    job = Build(sources, out, config, identity_rule, quiet)
    with open_runner() as runner:
        return job.run(job.plan(runner), runner)
