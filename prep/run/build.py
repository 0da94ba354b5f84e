"""From sources to a data set: plan, units, shards, manifest. Files and workers live here; stages know of neither."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from g4g_core import provenance, storage, weights
from g4g_core.errors import UsageError
from g4g_core.progress import progress
from prep.config import BuildConfig
from prep.landmarks import weights_of
from prep.records import FPS, Rejection
from prep.run.commit import ShardRoom, layout_of
from prep.run.dataset import command_of, write_dataset
from prep.run.outcomes import Shelf, is_complete, outcomes_of, part_is_there, read_records
from prep.run.plan import SECONDS_PER_FRAME, SECONDS_PER_SECOND, Plan, PlannedClip, Planner, failure
from prep.run.runners import Result, Runner, Task
from prep.run.work import TRACKS_FILE, unit_folder
from prep.shards import schema
from prep.sources import SourceRoot
from prep.sources.identity import IdentityRule


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
        self._require_its_sources()
        self._held: Any = None

    def _require_its_sources(self) -> None:
        """A data set is the sum of its sources: building one without the others would drop them."""
        place = storage.join(self.out, schema.DATASET_FILE)
        if not storage.exists(place):
            return
        missing = set(storage.read_json(place).get("sources", {})) - {source.name for source in self.sources}
        if missing:
            raise UsageError(
                f"{self.out} holds {', '.join(sorted(missing))}, which this command does not name",
                "Name all its sources, or build into another folder and join them with g4g-prep merge.",
            )

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

    def plan(self, runner: Runner) -> Plan:
        """Probe every clip and decide shards. Files that did not change since the last plan are not opened again."""
        planner = Planner(self.sources, self.config, self.identity_rule, self.work, self.quiet)
        return planner.plan(runner, self._take_lock)

    def _take_lock(self) -> None:
        self._held = self._held or _lock(self.work)

    def run(self, plan: Plan, runner: Runner) -> BuildReport:
        """Process what is not done yet, assemble shards, write manifest and data set file."""
        started = time.monotonic()
        shelf = Shelf(self.out)
        records = read_records(self.work, plan.todo)
        failures, done_before = self._process(plan, runner, records, shelf)
        records = read_records(self.work, plan.todo)
        outcomes = outcomes_of(plan, records, failures)
        layout = layout_of(plan, outcomes)
        ShardRoom(self.out, self.work, self.quiet).assemble(layout, outcomes, runner, shelf)
        command = command_of(self.sources, self.identity_rule, self.config)
        about = {source.name: source.about for source in self.sources}
        dataset = write_dataset(self.out, self.config, plan, outcomes, layout, command=command, about=about)
        report = BuildReport(self.out, dataset, dataset["leaks"], done_before, time.monotonic() - started)
        self._write_build_file(report)
        self._tidy(plan)
        if self._held is not None:
            self._held.close()
            self._held = None
        return report

    def _process(
        self, plan: Plan, runner: Runner, records: dict[str, dict[str, Any]], shelf: Shelf
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
                    failures[clip.spec.uid] = failure("process", result)
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

    def _tasks_of(self, clip: PlannedClip, record: dict[str, Any] | None, shelf: Shelf) -> list[Task]:
        if is_complete(clip, record, shelf, self.work):
            return []
        folder = unit_folder(self.work, clip.spec.uid)
        if record is not None and record["parts"] > 1 and storage.exists(storage.join(folder, TRACKS_FILE)):
            open_parts = [part for part in range(record["parts"]) if not part_is_there(clip, part, folder, shelf)]
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
            "timeout": self.config.time_limit + SECONDS_PER_SECOND[self.config.landmarks] * frames / FPS,
            "cost": 0.1 + frames * SECONDS_PER_FRAME[self.config.landmarks],
            **more,
        }

    def _note_bug(self, clip: PlannedClip, result: Result) -> None:
        if "traceback" in result:
            name = unit_folder(self.work, clip.spec.uid).rpartition("/")[2]
            text = f"{clip.spec.uid}\n{result['traceback']}"
            storage.write_bytes(storage.join(self.work, "errors", f"{name}.txt"), text.encode())

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


def _names_in(out: str) -> list[str]:
    """What stands in a folder, our own work aside; of a store the files only, for it has no folders."""
    if not storage.is_local(out):
        return storage.list_files(out)
    path = storage.local_path(out)
    return [name for name in sorted(os.listdir(path)) if name != schema.WORK_FOLDER] if os.path.isdir(path) else []


def _lock(work: str) -> Any:
    """An open file that keeps other builds out of ``work``; the system lets go of it however this process ends.

    Raises UsageError when another build holds it. Stores have no locks: there the last one wins.
    """
    if not storage.is_local(work):
        return None
    import fcntl

    storage.make_folder(work)
    stream = open(storage.local_path(storage.join(work, "lock")), "w")  # noqa: SIM115 - held as long as the build
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise UsageError(f"another build is writing {work}", "Wait for it, or name another folder.") from None
    return stream
