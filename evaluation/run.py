"""A whole evaluation: from a configuration to the files of a run's folder."""

from __future__ import annotations

import dataclasses
import datetime
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.config import RunConfig
from evaluation.harness import Dub, Plan, evaluate, make_plan
from evaluation.metrics.judge import has_met
from evaluation.models import Model, models_of
from evaluation.protocols import VIDEOS, Protocol, protocol_named
from evaluation.results import Results, read_results
from evaluation.shots import Shot, shots_of
from evaluation.summary import summarise
from evaluation.work import FAILED_MEASURES
from g4g_core import storage
from g4g_core.errors import UsageError
from g4g_core.provenance import environment
from prep.run.runners import Runner
from prep.shards.index import Dataset, selection_command

SUMMARY, RUN_FILE, SCORES, SETS, SHOTS = "summary.json", "run.json", "scores.parquet", "sets.parquet", "shots.json"

PACKAGES = (
    "g4g", "numpy", "opencv-python-headless", "av", "dlib-bin", "scipy", "scikit-image", "torch", "torchvision",
    "lpips", "syncnet-python", "simplejpeg",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run came to.

    Attributes:
        out: its folder.
        summary: what ``summary.json`` holds.
        failed: (model, shot, code, detail) of every output that is missing, and of every measuring that broke.
        kept: cells that had nothing to do.
        cells: all of them.
        seconds: the evaluation took.
    """

    out: str
    summary: Mapping[str, Any]
    failed: Sequence[tuple[str, str, str, str]]
    kept: int
    cells: int
    seconds: float


def evaluate_shards(
    config: RunConfig, out: str, runner: Runner, *, quiet: bool = False, retry_failed: bool = False
) -> Report:
    """Evaluate models on a split of a data set, and write the run's files.

    Raises:
        G4GError: models, data or options that do not go together.
    """
    protocol = protocol_named(config.protocol)
    dataset = Dataset.open(config.data)
    shots = shots_of(dataset, config.split, selection=config.selection, limit=config.limit)
    models = models_of(
        config.models, config.checkpoints, config.footage, controls=config.controls,
        identities={shot.identity for shot in shots},
    )  # fmt: skip
    return evaluate_shots(
        config.data, out, protocol, models, shots, runner,
        wanted=config.metrics, seed=config.seed, timeout=config.timeout, on_failure=config.on_failure,
        pooled=config.pooled, precision=config.precision, split=config.split, settings=config.model_dump(mode="json"),
        built_by=dataset.info.get("command"), selected_by=selection_command(config.selection),
        leaks=len(dataset.info.get("leaks", ())), about=_described(dataset), quiet=quiet, retry_failed=retry_failed,
    )  # fmt: skip


def evaluate_shots(
    data: str,
    out: str,
    protocol: Protocol,
    models: Sequence[Model],
    shots: Sequence[Shot],
    runner: Runner,
    *,
    wanted: Sequence[str] = (),
    seed: int = 0,
    timeout: float = 600.0,
    on_failure: str = "drop-everywhere",
    pooled: bool = False,
    precision: str = "fp32",
    split: str = "",
    prompted: bool = True,
    settings: Mapping[str, Any] | None = None,
    dubbing: Mapping[str, Dub] | None = None,
    videos: str | None = None,
    rejected: Mapping[str, str] | None = None,
    built_by: str | None = None,
    selected_by: str | None = None,
    leaks: int | None = None,
    about: Mapping[str, str] | None = None,
    quiet: bool = False,
    retry_failed: bool = False,
) -> Report:
    """Evaluate models on shots, and write the run's files; see :class:`evaluation.config.RunConfig`.

    Args:
        videos: folder of the videos that the shots were cut from.
        prompted: see :func:`evaluation.harness.make_plan`.
        rejected: reason by clip of footage that gave no shot at all.
        built_by: the command that builds such a data set, without places, where the data set says it.
        selected_by: the command that makes the file of keys, but for its place, where the file says it.
        leaks: people and videos that stand in two splits of the data set.
        about: what the data set's sources are, as far as its builder said.
        settings: what else the user chose; with the options here it is what computes the run again.
    """
    claim(out)
    started = time.monotonic()
    # an absolute path, for the guarded children may stand elsewhere; nothing of it reaches summary.json
    root = os.path.abspath(data) if storage.is_local(data) else data
    plan = make_plan(
        root=root, run=os.path.abspath(out), protocol=protocol, models=models, shots=shots, seed=seed,
        timeout=timeout, wanted=wanted, prompted=prompted, precision=precision,
        dubbing=dubbing, videos=videos,
    )  # fmt: skip
    kept = evaluate(plan, runner, quiet=quiet, retry_failed=retry_failed)
    if rejected:
        plan = dataclasses.replace(plan, excluded={**plan.excluded, **rejected})
    results = read_results(plan)
    summary = summarise(results, on_failure=on_failure, pooled=pooled, precision=precision, split=split)
    seconds = time.monotonic() - started
    facts = {name: summary[name] for name in ("protocol", "split", "seed", "precision", "on_failure", "judge")}
    chosen = {"metrics": list(wanted), "seed": seed, "timeout": timeout, "on_failure": on_failure}
    chosen |= {"precision": precision, "pooled": pooled, **(settings or {})}
    facts |= {"settings": chosen, "built_by": built_by, "selected_by": selected_by, "leaks": leaks}
    facts |= {"about": dict(about or {}), "judge_met": sum(map(has_met, plan.shots))}
    facts |= {"seconds": round(seconds, 1), "timeout": timeout}
    facts |= {"data_fingerprint": summary["data"]["fingerprint"], "weights_sha256": measuring_weights(summary)}
    write_run(out, plan, results, summary, facts)
    failed = failures(results)
    return Report(out, summary, failed, kept, len(plan.models) * len(plan.shots), seconds)


def _described(dataset: Dataset) -> dict[str, str]:
    """What sources are, as far as whoever built the data set said."""
    sources = dataset.info.get("sources", {})
    return {name: str(facts["about"]) for name, facts in sources.items() if facts.get("about")}


def claim(out: str, facts: Mapping[str, Any] | None = None) -> None:
    """Make a folder a run's, or refuse one that holds something else. Raises UsageError.

    Args:
        facts: what ``run.json`` is to say from the first moment on.
    """
    if not storage.is_local(out):
        raise UsageError(f"{out}: a run's folder must be local", "Copy it where you want it afterwards.")
    if os.path.isdir(out):
        names = sorted(os.listdir(out))
        if names and RUN_FILE not in names:
            raise UsageError(f"{out} is not empty and holds no run ({names[0]}, ...)", "Give an empty or new folder.")
    if not os.path.exists(os.path.join(out, RUN_FILE)):
        storage.write_json(storage.join(out, RUN_FILE), {"finished": None, **(facts or {})})


def failures(results: Results) -> list[tuple[str, str, str, str]]:
    """(model, shot, code, detail) of every output that is missing, and of every measuring that broke."""
    found = [(model, shot, *why) for (model, shot), why in sorted(results.failed.items())]
    broken: dict[tuple[str, str, str, str], list[str]] = {}
    for (metric, model, shot), (code, detail) in sorted(results.missing.items()):
        if code in FAILED_MEASURES:
            broken.setdefault((model, shot, code, detail), []).append(metric)
    found += [(model, shot, code, f"{', '.join(ids)}: {why}") for (model, shot, code, why), ids in broken.items()]
    if results.plan.protocol is VIDEOS:
        found += [(results.rows[0], clip, "unusable", reason) for clip, reason in results.plan.excluded.items()]
    return found


def measuring_weights(summary: Mapping[str, Any]) -> dict[str, str | None]:
    """SHA-256 of the weights behind the metrics that were measured, by name."""
    measured = (about for about in summary["metrics"].values() if about["unavailable"] is None)
    found = {name: digest for about in measured for name, digest in about["weights_sha256"].items()}
    return dict(sorted(found.items()))


def write_run(out: str, plan: Plan, results: Results, summary: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """The files of a run, ``summary.json`` last."""
    storage.write_bytes(storage.join(out, SCORES), _scores(results))
    storage.write_bytes(storage.join(out, SETS), _sets(summary))
    storage.write_json(storage.join(out, SHOTS), _shots(results))
    storage.write_json(
        storage.join(out, RUN_FILE),
        {
            **facts,
            "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "data": plan.root,
            "models": [model.to_json() for model in plan.models],
            "environment": environment(PACKAGES),
        },
    )
    storage.write_json(storage.join(out, SUMMARY), dict(summary))


def _scores(results: Results) -> bytes:
    """A row per (model, shot, metric): its value, or why there is none."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [] for name in ("model", "source", "shot", "clip", "identity", "metric")}
    columns |= {"value": [], "error": [], "detail": []}
    for model in results.rows:
        for shot in results.plan.shots:
            for metric in results.plan.metrics:
                value = results.values.get((metric, model, shot.key))
                why = results.failed.get((model, shot.key)) or results.missing.get((metric, model, shot.key))
                if value is None and why is None:
                    continue  # a set metric, or one that cannot be measured here
                row = (model, shot.source, shot.key, shot.clip, shot.identity, metric, value, *(why or (None, None)))
                for name, item in zip(columns, row, strict=True):
                    columns[name].append(item if name != "error" or value is None else None)
    types = {"value": pa.float64()}
    table = pa.table({name: pa.array(items, types.get(name, pa.string())) for name, items in columns.items()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _sets(summary: Mapping[str, Any]) -> bytes:
    """A row per (source, model, set metric)."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("source", pa.string()), ("model", pa.string()), ("metric", pa.string()), ("value", pa.float64()),
         ("low", pa.float64()), ("high", pa.float64()), ("frames", pa.int64()), ("reason", pa.string())]
    )  # fmt: skip
    rows = []
    for source, table in summary["tables"].items():
        for model, row in table["rows"].items():
            for metric, cell in row["cells"].items():
                if summary["metrics"][metric]["kind"] == "set":
                    rows.append(
                        {"source": source, "model": model, "metric": metric, "value": cell.get("mean"),
                         "low": cell.get("low"), "high": cell.get("high"), "frames": cell.get("frames"),
                         "reason": cell.get("reason")}
                    )  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _shots(results: Results) -> dict[str, Any]:
    """What pages show of single shots: facts, values, errors, curves."""
    shots = {}
    for shot in results.plan.shots:
        of_models = {}
        for model in results.rows:
            values = {
                metric: results.values[metric, model, shot.key]
                for metric in results.plan.metrics
                if (metric, model, shot.key) in results.values
            }
            error = results.failed.get((model, shot.key))
            of_models[model] = {
                "values": values,
                "error": list(error) if error else None,
                "curves": results.curves.get((model, shot.key), {}),
                "flags": list(results.flags.get((model, shot.key), [])),
                "prompts": list(results.prompts.get((model, shot.key), [])),
            }
        facts = {
            "fingerprint": shot.fingerprint,
            "source": shot.source,
            "clip": shot.clip,
            "identity": shot.identity,
            "frames": shot.n_frames,
        }
        shots[shot.key] = {**facts, "about": dict(shot.about), "models": of_models}
    return {"schema_version": 1, "shots": shots}
