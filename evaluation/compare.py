"""Two models on the clips that both were scored on: effect, interval and p, metric by metric."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
import numpy as np

from evaluation.metrics import METRICS
from evaluation.run import SCORES, SHOTS, SUMMARY
from evaluation.stats import holm, paired_difference
from evaluation.summary import SCHEMA_VERSION
from g4g_core import storage
from g4g_core.errors import StorageError, UsageError
from g4g_core.registry import unknown


def read_summary(path: str) -> dict[str, Any]:
    """A ``summary.json`` of a schema version that this program reads.

    Raises:
        UsageError: no such file, no summary, or one of another schema version.
    """
    if not storage.exists(path):
        raise UsageError(f"{path} is not there", "Name the summary.json of a run of g4g-eval.")
    try:
        found = storage.read_json(path)
        version = found["schema_version"]
    except (StorageError, TypeError, KeyError) as error:
        why = f": {error}" if isinstance(error, StorageError) else ""
        raise UsageError(f"{path} is no summary of g4g-eval{why}", "Name the summary.json of a run.") from error
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema version {version}; this program reads {SCHEMA_VERSION}",
            "Evaluate again with this version: g4g-eval run into the same folder keeps what was computed.",
        )
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise UsageError(f"{path} lacks {', '.join(missing)}: it is no whole summary", "Evaluate again.")
    return dict(found)


_NEEDED = ("protocol", "seed", "precision", "on_failure", "judge", "data", "metrics", "models", "tables")


def compare_models(a: str, b: str, run: str) -> list[dict[str, Any]]:
    """Paired comparison of two models, each ``MODEL`` of ``run`` or ``RUN:MODEL``.

    Returns:
        A row per (source, metric): means on the common clips, ``effect`` = a - b (for metrics with a value to be
        reached: difference of distances from it) with interval, p, and p adjusted over the metrics of the source. Set
        metrics are compared where both models are in one run.

    Raises:
        UsageError: an unknown run or model, runs of different protocols, seeds, precisions or versions of a metric, or
            runs that share no clip.
    """
    (run_a, model_a), (run_b, model_b) = (_place(text, run) for text in (a, b))
    summaries = [read_summary(os.path.join(folder, SUMMARY)) for folder in (run_a, run_b)]
    for name in ("protocol", "seed", "precision", "judge"):
        one, other = (summary[name] for summary in summaries)
        if one != other:
            raise UsageError(f"the runs differ in {name}: {one} and {other}", "Evaluate both alike.")
    for summary, model, folder in zip(summaries, (model_a, model_b), (run_a, run_b), strict=True):
        if model not in summary["models"]:
            raise unknown(f"model in {folder}", model, list(summary["models"]))
    scores = [_scores(folder, model) for folder, model in ((run_a, model_a), (run_b, model_b))]
    prints = [_fingerprints(folder) for folder in (run_a, run_b)]
    rows: list[dict[str, Any]] = []
    sources = sorted({source for source, _, _ in scores[0]} & {source for source, _, _ in scores[1]})
    versions = [summary["metrics"] for summary in summaries]
    for source in sources:
        of_source: list[dict[str, Any]] = []
        for metric, about in METRICS.items():
            if about.kind != "clip" or metric not in versions[0] or metric not in versions[1]:
                continue
            if versions[0][metric]["version"] != versions[1][metric]["version"]:
                raise UsageError(f"{metric} has another version in each of the runs", "Evaluate both again.")
            values = [scores[i].get((source, metric, "values"), {}) for i in (0, 1)]
            # the same shot of the same bytes: a key alone could be another data set's
            common = sorted(key for key in set(values[0]) & set(values[1]) if prints[0].get(key) == prints[1].get(key))
            if not common:
                continue
            x, y = ([v[key][0] for key in common] for v in values)
            target = isinstance(about.better, (int, float))
            one, other = (about.badness(np.array(v)) if target else np.array(v) for v in (x, y))
            difference = paired_difference(one, other, [f"{source} {values[0][key][1]}" for key in common])
            of_source.append(
                {
                    "source": source, "metric": metric, "name": about.name, "better": about.better,
                    "a": sum(x) / len(x), "b": sum(y) / len(y), "effect": difference.effect, "low": difference.low,
                    "high": difference.high, "p": difference.p, "n": difference.n, "clusters": difference.clusters,
                }
            )  # fmt: skip
        if run_a == run_b:
            of_source += _set_rows(summaries[0], source, model_a, model_b)
        for row, adjusted in zip(of_source, holm([row["p"] for row in of_source]), strict=True):
            row["p_holm"] = adjusted
        rows += of_source
    if not rows:
        raise UsageError(f"{a} and {b} share no scored clip", "They must have been evaluated on the same data.")
    return rows


def _place(text: str, run: str) -> tuple[str, str]:
    folder, colon, model = text.rpartition(":")
    return (folder, model) if colon else (run, text)


def _scores(run: str, model: str) -> Mapping[tuple[str, str, str], dict[str, tuple[float, str]]]:
    """Values and identities by shot, by (source, metric, "values")."""
    import io

    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(storage.read_bytes(os.path.join(run, SCORES))))
    table = table.filter(pc.equal(table.column("model"), model))
    found: dict[tuple[str, str, str], dict[str, tuple[float, str]]] = {}
    for row in table.to_pylist():
        if row["value"] is not None:
            place = found.setdefault((row["source"], row["metric"], "values"), {})
            place[row["shot"]] = (row["value"], row["identity"])
    return found


def _fingerprints(run: str) -> dict[str, str]:
    """What each shot of a run was made of, by key."""
    shots = storage.read_json(os.path.join(run, SHOTS))["shots"]
    return {key: about["fingerprint"] for key, about in shots.items()}


def _set_rows(summary: Mapping[str, Any], source: str, a: str, b: str) -> list[dict[str, Any]]:
    """Set metrics of two models of one run, as its summary compares them."""
    found = []
    table = summary["tables"].get(source, {"pairs": {}, "rows": {}})
    for metric, pairs in table["pairs"].items():
        about = METRICS[metric]
        if about.kind != "set":
            continue
        for pair in pairs:
            if {pair["a"], pair["b"]} != {a, b}:
                continue
            sign = 1 if pair["a"] == a else -1
            ends = [None if pair[end] is None else sign * pair[end] for end in ("low", "high")][::sign]
            means = {name: table["rows"][name]["cells"][metric]["mean"] for name in (a, b)}
            found.append(
                {
                    "source": source, "metric": metric, "name": about.name, "better": about.better, "a": means[a],
                    "b": means[b], "effect": sign * pair["effect"], "low": ends[0], "high": ends[1], "p": pair["p"],
                    "n": pair["n"], "clusters": pair["clusters"],
                }
            )  # fmt: skip
    return found


def print_comparison(a: str, b: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table a source; a star where the adjusted p is under 0.05."""
    from rich.console import Console
    from rich.table import Table

    from evaluation.tables import direction, number

    console = Console(width=None if sys.stdout.isatty() else 140, markup=False, highlight=False)
    for source in dict.fromkeys(row["source"] for row in rows):
        of_source = [row for row in rows if row["source"] == source]
        table = Table(title=f"{source}: {a} against {b}", title_justify="left")
        for name in ("metric", a, b, "difference", "95 % interval", "p", "p (Holm)", "shots", "identities"):
            table.add_column(name, justify="left" if name == "metric" else "right")
        for row in of_source:
            low, high = row["low"], row["high"]
            interval = "-" if low is None else f"{number(low, low, high)} to {number(high, low, high)}"
            sure = row["p_holm"] is not None and row["p_holm"] < 0.05
            table.add_row(
                f"{row['name']} {direction(row['better'])}", number(row["a"], low, high), number(row["b"], low, high),
                number(row["effect"], low, high), interval, *(_p(row[key]) for key in ("p", "p_holm")),
                str(row["n"]), f"{row['clusters']}{' *' if sure else ''}",
            )  # fmt: skip
        console.print(table)
    click.echo("* p under 0.05 after Holm's correction over the metrics of the source; - under 6 identities no claim")


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
