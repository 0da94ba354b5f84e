"""Runs models on shots and measures what they return: what is missing is computed, what fits is kept."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from baselines.external import read_external
from baselines.program import user_environment
from evaluation.cells import WORK, Cell
from evaluation.metrics import MEASURES, METRICS
from evaluation.metrics.base import Measure, Metric
from evaluation.models import TRUTH, Model, judge_fingerprint, output_fingerprint
from evaluation.prompts import PROMPT_VERSION, has_references
from evaluation.protocols import Protocol, speakers
from evaluation.shots import Shot
from evaluation.work import FAILED_MEASURES, nothing_measured
from g4g_core import storage, weights
from g4g_core.errors import G4GError, UsageError, WeightsError
from g4g_core.progress import progress
from g4g_core.provenance import digest
from g4g_core.registry import unknown
from prep.run.runners import Result, Runner, Task

SCORE_SECONDS_A_FRAME = 6.0
"""Measures are ours and bounded by work, not by hope: a network on one slow core takes a tenth of this."""

_MIN_SCORE_SECONDS = 300.0
BY_PRECISION = ("lse", "lse-lrs", "lse-s3fd", "inception")
"""Measures whose networks may run in bf16."""

_MARGIN_SECONDS, _SECONDS_A_FRAME = 120.0, 0.5
"""What writing a program's input and reading its output may take on top of its own time."""


@dataclasses.dataclass(frozen=True)
class Dub:
    """What a shot of ``pairs/1`` is given to speak, and what it is pasted into.

    Attributes:
        speech: path of the sound file.
        speech_sha256: of its bytes.
        footage: root of the original videos.
        n_frames: frames that picture and speech have in common.
    """

    speech: str
    speech_sha256: str
    footage: str
    n_frames: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be evaluated.

    Attributes:
        root: of the data set.
        models: ground truth first.
        shots: those that are scored, sorted.
        excluded: reason by key of the shots that no model is asked for.
        speaker: the shot whose words each shot speaks.
        measures: names of those that can be taken.
        metrics: ids of the wanted metrics, in the order of tables.
        unavailable: why, by id, for wanted metrics that cannot be measured here.
        precision: of the networks behind LSE and FID.
        videos: folder of the videos that the shots were cut from, where it is known.
        dubbing: by key, for shots that speak a sound file and are pasted back; empty in protocols on shards.
    """

    root: str
    run: str
    protocol: Protocol
    seed: int
    timeout: float
    models: Sequence[Model]
    shots: Sequence[Shot]
    excluded: Mapping[str, str]
    speaker: Mapping[str, Shot]
    measures: Sequence[str]
    metrics: Sequence[str]
    unavailable: Mapping[str, str]
    precision: str
    dubbing: Mapping[str, Dub]
    videos: str | None

    def cell(self, model: Model, shot: Shot) -> Cell:
        return Cell(self.run, model.name, shot.key)

    def frames(self, shot: Shot) -> int:
        """Frames of the output."""
        if shot.key in self.dubbing:
            return self.dubbing[shot.key].n_frames
        return min(shot.n_frames, self.speaker[shot.key].n_frames)


def make_plan(
    *,
    root: str,
    run: str,
    protocol: Protocol,
    models: Sequence[Model],
    shots: Sequence[Shot],
    seed: int,
    timeout: float,
    wanted: Sequence[str] = (),
    prompted: bool = True,
    precision: str = "fp32",
    dubbing: Mapping[str, Dub] | None = None,
    videos: str | None = None,
) -> Plan:
    """Decide what is measured and of what.

    Args:
        wanted: metric ids or measure names; empty: all.
        prompted: models are prompted, so that shots without references are of no use.

    Raises:
        UsageError: a wanted metric that does not exist, or no shot left.
    """
    chosen = _wanted_metrics(wanted, protocol)
    unavailable: dict[str, str] = {}
    measures: list[str] = []
    for measure in MEASURES.values():
        ids = [metric.id for metric in measure.metrics if metric.id in chosen]
        reason = why_missing(measure) if ids else None
        if reason is not None:
            unavailable |= dict.fromkeys(ids, reason)
        elif ids:
            measures.append(measure.name)
    excluded: dict[str, str] = {}
    if prompted:
        excluded = {shot.key: "no_reference" for shot in shots if not has_references(shot)}
    kept = [shot for shot in shots if shot.key not in excluded]
    if not kept:
        raise UsageError(f"none of {len(shots)} shots has frames to refer to", "Shots of 20 frames or more are needed.")
    by_key = {shot.key: shot for shot in kept}
    pairs, lonely = speakers(protocol, kept, seed)
    excluded |= dict.fromkeys(lonely, "no_other_speaker")
    kept = [shot for shot in kept if shot.key not in excluded]
    speaker = {key: by_key[other] for key, other in pairs.items()}
    return Plan(
        root, run, protocol, seed, timeout, models, kept, excluded, speaker, measures, chosen, unavailable, precision,
        dubbing or {}, videos,
    )  # fmt: skip


def _wanted_metrics(wanted: Sequence[str], protocol: Protocol) -> list[str]:
    """Ids in the order of tables; those that need the clip itself only where the protocol compares with it."""
    possible = [
        metric
        for metric in METRICS.values()
        if (protocol.full_reference or not metric.full_reference)
        and (protocol.has_clip or not metric.needs_clip)
        and (protocol.has_frames or not metric.needs_frames)
    ]
    if not wanted:
        return [metric.id for metric in possible]
    chosen: set[str] = set()
    for text in wanted:
        found = metrics_named(text)
        if not found:
            raise unknown("metric", text, [*METRICS, *MEASURES])
        chosen |= {metric.id for metric in found}
    kept = [metric.id for metric in possible if metric.id in chosen]
    if not kept:
        raise UsageError(f"{', '.join(wanted)} cannot be measured in {protocol.id}: there is nothing to compare with")
    return kept


def metrics_named(text: str) -> list[Metric]:
    """The metrics that a name stands for: an id, a measure, or an id without what follows its ``@``."""
    if text in METRICS:
        return [METRICS[text]]
    if text in MEASURES:
        return list(MEASURES[text].metrics)
    return [metric for metric in METRICS.values() if metric.id.partition("@")[0] == text]


def why_missing(measure: Measure) -> str | None:
    """Why a measure cannot be taken here, with the command that mends it; ``None``: it can."""
    lacking: dict[str, list[str]] = {}
    for module, command in measure.packages:
        if importlib.util.find_spec(module) is None:
            lacking.setdefault(command, []).append(module)
    needs = [
        f"the Python package{'s' if len(modules) > 1 else ''} {' and '.join(modules)}: {command}"
        for command, modules in lacking.items()
    ]
    absent = []
    for name in dict.fromkeys(name for metric in measure.metrics for name in metric.weights):
        try:
            weights.path(name)
        except WeightsError as error:
            if weights.find(name) is not None:
                return error.what
            absent.append(name)
    if absent:
        needs.append(f"the weights {', '.join(absent)}: g4g-eval weights fetch {' '.join(absent)}")
    return f"needs {'; and '.join(needs)}" if needs else None


def evaluate(plan: Plan, runner: Runner, *, quiet: bool = False, retry_failed: bool = False) -> int:
    """Generate and measure what is missing. Failures of models become records, and the run goes on.

    Returns:
        The number of cells that had nothing to do.
    """
    storage.delete_leftovers(plan.run)  # of a run that was killed
    storage.delete_tree(storage.join(plan.run, WORK))
    work = _Work(plan, retry_failed)
    first, kept = work.tasks()
    frames = sum(task["frames"] for task in first)
    with progress(frames, "evaluating", unit="frames", quiet=quiet or not first) as bar:

        def handle(task: Task, result: Result) -> Iterable[Task]:
            follow = work.finished(task, result)
            if not follow:
                bar.advance(task["frames"], task["name"])
            return follow

        runner.run(first, handle)
    return kept


class _Work:
    """The tasks of a plan: first the output, then what is measured of it."""

    def __init__(self, plan: Plan, retry_failed: bool) -> None:
        self._plan, self._retry = plan, retry_failed
        self._damaged: set[tuple[str, str]] = set()
        self._cells = {(model.name, shot.key): (model, shot) for model in plan.models for shot in plan.shots}

    def tasks(self) -> tuple[list[Task], int]:
        tasks: list[Task] = []
        kept = 0
        for model, shot in self._cells.values():
            task = self._next(model, shot, retry=self._retry)
            kept += task is None
            tasks += [task] if task is not None else []
        # the clips themselves first, for others use what is measured of them; then model by model, for a worker holds
        # one at a time and to start another takes seconds; of each the long ones first, so that no worker is left with
        # one at the end
        order = [model.name for model in sorted(self._plan.models, key=lambda model: model.kind != "truth")]
        tasks.sort(key=lambda task: (order.index(task["model"]["name"]), -task["cost"]))
        return tasks, kept

    def finished(self, task: Task, result: Result) -> list[Task]:
        model, shot = self._cells[task["cell"]]
        if "damaged" in result and task["cell"] not in self._damaged:
            self._damaged.add(task["cell"])  # made again, once: a disk that damages it twice is not ours to mend
        elif "ok" not in result:
            self._record_end(model, shot, task, result)
        follow = self._next(model, shot, retry=False)
        return [] if follow is None else [follow]

    def _next(self, model: Model, shot: Shot, *, retry: bool) -> Task | None:
        cell = self._plan.cell(model, shot)
        record = cell.read()
        try:
            key = self._output_key(model, shot)
        except G4GError as fault:
            cell.write({"output": _failed("", "bad_video", fault.what), "measures": {}})
            return None
        error = (record.get("output") or {}).get("error")
        failed = error is not None
        # a limit of time is the user's to change: what another one broke is tried again
        outlasted = (
            error is not None and error[0] == "timeout" and record["output"].get("timeout") != self._plan.timeout
        )
        if not cell.output_fits(record, key) or outlasted or (failed and retry):
            cell.forget()
            return self._task(model, shot, "evaluation.work:generate", self._generate_seconds(model, shot), key=key)
        if failed:
            return None
        keys = {name: self._measure_key(name, key) for name in self._plan.measures}
        missing = {
            name: made_for
            for name, made_for in keys.items()
            if not cell.measure_fits(record, name, made_for) or (retry and _broke(record["measures"][name]))
        }
        if retry and any(name in record["measures"] for name in missing):
            record["measures"] = {name: found for name, found in record["measures"].items() if name not in missing}
            cell.write(record)
        if not missing:
            return None
        seconds = max(_MIN_SCORE_SECONDS, SCORE_SECONDS_A_FRAME * shot.n_frames)
        return self._task(
            model, shot, "evaluation.work:score", seconds, measures=missing, truth_keys=self._truth_keys(model, shot)
        )

    def _task(self, model: Model, shot: Shot, op: str, timeout: float, **more: Any) -> Task:
        plan = self._plan
        speaker = plan.speaker[shot.key]
        frames = plan.frames(shot)
        return {
            "op": op,
            "cell": (model.name, shot.key),
            "name": f"{model.name} {shot.key}",
            "frames": frames,
            "cost": frames * (0.15 if model.kind == "generator" else 0.05),
            "timeout": timeout,
            "root": plan.root,
            "run": plan.run,
            "seed": plan.seed,
            "full_reference": plan.protocol.full_reference,
            "precision": plan.precision,
            "model": model.to_json(),
            "shot": shot.to_json(),
            "videos": plan.videos,
            "speaker": None if speaker is shot else speaker.to_json(),
            "dub": dataclasses.asdict(plan.dubbing[shot.key]) if shot.key in plan.dubbing else None,
            "user_environment": self._user_environment(model),
            **more,
        }

    def _truth_keys(self, model: Model, shot: Shot) -> dict[str, str]:
        """Keys of the measures of the clip itself, whose features other models' measures may use."""
        truth = next((other for other in self._plan.models if other.name == TRUTH), None)
        if truth is None or model is truth:
            return {}
        if self._plan.frames(shot) < shot.n_frames:
            return {}  # cut to somebody's shorter speech: the clip's features are of more frames than this output has
        key = self._output_key(truth, shot)
        return {name: self._measure_key(name, key) for name in self._plan.measures}

    def _user_environment(self, model: Model) -> dict[str, str | None]:
        """Of a program: what its worker, on whatever machine, must take from where the user typed the command."""
        if model.kind != "external":
            return {}
        return user_environment(os.environ, read_external(model.target).variables)

    def _generate_seconds(self, model: Model, shot: Shot) -> float:
        """A program has its own limit, and the guard must outlast it: else nobody would end the program."""
        if model.kind != "external":
            return self._plan.timeout
        return read_external(model.target).timeout + _MARGIN_SECONDS + _SECONDS_A_FRAME * shot.n_frames

    def _output_key(self, model: Model, shot: Shot) -> str:
        plan = self._plan
        speaker, dub = plan.speaker[shot.key], plan.dubbing.get(shot.key)
        return digest(
            [output_fingerprint(model, shot), PROMPT_VERSION, plan.protocol.id, plan.seed, shot.fingerprint,
             speaker.fingerprint, dub.speech_sha256 if dub else None]
        )  # fmt: skip

    def _measure_key(self, name: str, output_key: str) -> str:
        measure = MEASURES[name]
        parts: list[Any] = [output_key, name, self._plan.protocol.full_reference]
        if measure.name in BY_PRECISION:
            parts.append(self._plan.precision)
        if any(metric.by_judge for metric in measure.metrics):
            parts.append(judge_fingerprint())
        for metric in measure.metrics:
            parts.append([metric.id, metric.version, [weights.get(w).sha256 for w in metric.weights]])
        return digest(parts)

    def _record_end(self, model: Model, shot: Shot, task: Task, result: Result) -> None:
        """The guarded child was killed or died: that is the model's failure, or the measures', on this shot."""
        if "damaged" in result:
            code, detail = "bug", str(result["damaged"])
        elif "timeout" in result:
            code, detail = "timeout", f"no end within {result['timeout']:g} s"
        elif "died" in result:
            code, detail = "crashed", str(result["died"])
        else:
            code, detail = "bug", str(result.get("bug", result))
        cell = self._plan.cell(model, shot)
        if task["op"].endswith("generate"):
            output = _failed(task["key"], code, detail) | {"timeout": self._plan.timeout}
            cell.write({"output": output, "measures": {}})
            return
        record = {"measures": {}, **cell.read()}
        record.setdefault("output", _failed("", code, detail))
        for name, key in task["measures"].items():
            missing = {metric.id: [code, detail] for metric in MEASURES[name].metrics}
            record["measures"][name] = nothing_measured(key, missing)
        cell.write(record)


def _failed(key: str, code: str, detail: str) -> dict[str, Any]:
    return {"key": key, "error": [code, detail], "bytes": None, "sha256": None, "prompts": None}


def _broke(measured: Mapping[str, Any]) -> bool:
    """Whether the measuring itself failed, and might do better another time."""
    return any(code in FAILED_MEASURES for code, _ in measured["missing"].values())
