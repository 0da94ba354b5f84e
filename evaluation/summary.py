"""From cells to what is believed: means with intervals, paired tests, ranks, one table a source."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.breakdowns import breakdowns
from evaluation.jackknife import delete_groups, jackknife_set_difference, jackknife_set_metric
from evaluation.metrics import METRICS
from evaluation.metrics.base import LARGEST, Metric
from evaluation.metrics.sets import SET_STATISTICS, SetStatistic
from evaluation.models import TRUTH, judge_fingerprint
from evaluation.protocols import VIDEOS
from evaluation.results import Results
from evaluation.shots import Shot
from evaluation.stats import Difference, Interval, holm, mean_interval, paired_difference, ranks
from g4g_core import weights
from g4g_core.errors import UsageError
from g4g_core.provenance import digest

SCHEMA_VERSION = 1
"""Of ``summary.json``."""

POOLED = "all sources"
ALPHA = 0.05


def summarise(results: Results, *, on_failure: str, pooled: bool, precision: str, split: str) -> dict[str, Any]:
    """The content of ``summary.json``: no date, no path, no NaN; equal for equal cells.

    Raises:
        UsageError: models were prompted differently, which would be a fault of ours; a score too large to be one.
    """
    plan = results.plan
    tables: dict[str, Any] = {}
    refused = on_failure == "error" and bool(results.failed)
    if not refused:
        by_source: dict[str, list[Shot]] = {}
        for shot in plan.shots:
            by_source.setdefault(shot.source, []).append(shot)
        groups = dict(sorted(by_source.items()))
        if pooled and len(groups) > 1:
            groups[POOLED] = list(plan.shots)
        tables = {source: _Table(results, shots, on_failure).build() for source, shots in groups.items()}
    return _rounded(
        {
            "schema_version": SCHEMA_VERSION,
            "protocol": plan.protocol.id,
            "split": split,
            "seed": plan.seed,
            "precision": precision,
            "on_failure": on_failure,
            "refused": "models failed and --on-failure is error" if refused else None,
            "data": {
                "fingerprint": digest(sorted(shot.fingerprint for shot in plan.shots)),
                "shots": len(plan.shots),
                "identities": len({(shot.source, shot.identity) for shot in plan.shots}),
                "frames": sum(plan.frames(shot) for shot in plan.shots),
                "excluded": dict(sorted(plan.excluded.items())),
            },
            "prompts": _prompts_digest(results),
            "judge": judge_fingerprint(),
            "metrics": {name: _about(METRICS[name], plan.unavailable.get(name)) for name in plan.metrics},
            "models": {
                model.name: {
                    "kind": model.kind,
                    "fingerprint": model.fingerprint,
                    "marks": list(model.marks),
                    "control": model.is_control,
                }
                for model in plan.models
            },
            "tables": tables,
        }
    )


def _about(metric: Metric, unavailable: str | None) -> dict[str, Any]:
    facts = dataclasses.asdict(metric)
    hashes = {name: weights.get(name).sha256 for name in metric.weights}
    return {**facts, "weights": list(metric.weights), "weights_sha256": hashes, "unavailable": unavailable}


def _prompts_digest(results: Results) -> str | None:
    """One hash over every prompt of the run; all models must have been given the same ones."""
    by_shot: dict[str, tuple[str, Sequence[str]]] = {}
    for (model, shot), digests in sorted(results.prompts.items()):
        first, expected = by_shot.setdefault(shot, (model, digests))
        if list(digests) != list(expected):
            raise UsageError(f"{model} and {first} were prompted differently for {shot}", "Please report this.")
    return digest({shot: list(digests) for shot, (_, digests) in by_shot.items()}) if by_shot else None


class _Table:
    """One source: every model by every metric, on the shots that count."""

    def __init__(self, results: Results, shots: Sequence[Shot], on_failure: str) -> None:
        self._results, self._shots, self._on_failure = results, list(shots), on_failure
        self._names = results.names
        self._rows = [model.name for model in results.plan.models]
        self._metrics = [METRICS[name] for name in results.plan.metrics if name not in results.plan.unavailable]
        self._identity = {shot.key: f"{shot.source} {shot.identity}" for shot in shots}

    def build(self) -> dict[str, Any]:
        rows = {name: self._counts(name) for name in self._rows}
        pairs: dict[str, Any] = {}
        for metric in self._metrics:
            of_metric = self._clip_metric if metric.kind == "clip" else self._set_metric
            cells, compared = of_metric(metric)
            for name, cell in cells.items():
                rows[name]["cells"][metric.id] = cell
            pairs[metric.id] = compared
        return {
            "shots": len(self._shots),
            "identities": len(set(self._identity.values())),
            "frames": sum(self._results.plan.frames(shot) for shot in self._shots),
            "redistributable": all(shot.about["redistributable"] for shot in self._shots),
            "rows": rows,
            "pairs": pairs,
            "breakdowns": breakdowns(self._results, self._shots, [m for m in self._metrics if m.kind == "clip"]),
        }

    def _counts(self, name: str) -> dict[str, Any]:
        reasons = collections.Counter(
            self._results.failed[name, shot.key][0] for shot in self._shots if (name, shot.key) in self._results.failed
        )
        failed = sum(reasons.values())
        if self._results.plan.protocol is VIDEOS:
            # a finished video in which nobody can be found is its system's failure, not a clip to be left out
            unusable = collections.Counter(self._results.plan.excluded.values())
            reasons += unusable
            failed += sum(unusable.values())
        return {
            "scored": len(self._shots) - sum(1 for shot in self._shots if (name, shot.key) in self._results.failed),
            "failed": failed,
            "reasons": dict(sorted(reasons.items())),
            "cells": {},
        }

    # ------------------------------------------------------------ metrics of single shots

    def _clip_metric(self, metric: Metric) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        values = {name: self._values(metric, name) for name in self._rows}
        if self._on_failure == "worst":
            self._fill_with_worst(metric, values)
        kept = [s.key for s in self._shots if all(s.key in values[name] for name in self._names)]
        if not self._names:
            kept = list(values[TRUTH])
        cells = {name: self._cell(metric, name, values, kept) for name in self._rows}
        pairs: list[dict[str, Any]] = []
        if kept:
            identities = [self._identity[key] for key in kept]
            scores = {name: self._comparable(metric, [values[name][key] for key in kept]) for name in self._names}
            compared = {
                (a, b): paired_difference(scores[a], scores[b], identities)
                for a, b in itertools.combinations(self._names, 2)
            }
            pairs = self._with_ranks(metric, cells, compared, higher_is_better=metric.better == "higher")
        return cells, pairs

    def _values(self, metric: Metric, name: str) -> dict[str, float]:
        found = ((shot.key, self._results.values.get((metric.id, name, shot.key))) for shot in self._shots)
        values = {key: value for key, value in found if value is not None}
        for key, value in values.items():
            if abs(value) > LARGEST:
                raise UsageError(
                    f"{metric.id} of {name} for {key} is {value:.3g}, which is no score",
                    "Evaluate into a new folder: this one's numbers are of a version that did not refuse it.",
                )
        return values

    def _fill_with_worst(self, metric: Metric, values: dict[str, dict[str, float]]) -> None:
        """A shot that a model failed on counts as the worst that any model did on any shot."""
        seen = [value for name in self._names for value in values[name].values()]
        if not seen or metric.better is None:
            return
        worst = max(seen, key=lambda value: float(metric.badness(value)))
        for name in self._names:
            for shot in self._shots:
                if (name, shot.key) in self._results.failed:
                    values[name].setdefault(shot.key, worst)

    @staticmethod
    def _comparable(metric: Metric, values: Sequence[float]) -> np.ndarray:
        """What is compared between models: the values, or how far they lie from the one to be reached."""
        array = np.asarray(values, np.float64)
        return metric.badness(array) if isinstance(metric.better, (int, float)) else array

    def _cell(
        self, metric: Metric, name: str, values: Mapping[str, Mapping[str, float]], kept: Sequence[str]
    ) -> dict[str, Any]:
        own = [key for key in kept if key in values[name]]
        if not own:
            return {"mean": None, "reason": self._why_empty(metric, name)}
        identities = [self._identity[key] for key in own]
        interval = mean_interval([values[name][key] for key in own], identities)
        cell = _interval(interval)
        if isinstance(metric.better, (int, float)):
            distance = self._comparable(metric, [values[name][key] for key in own])
            cell["distance"] = float(distance.mean())
        if metric.near_truth and name != TRUTH and TRUTH in values:
            both = [key for key in own if key in values[TRUTH]]
            if both:
                gap = paired_difference(
                    [values[name][key] for key in both], [values[TRUTH][key] for key in both],
                    [self._identity[key] for key in both],
                )  # fmt: skip
                cell["truth_gap"] = _difference(gap)
        if metric.id == "csim-dlib" and name == TRUTH:
            cell["floor"] = self._strangers()
        return cell

    def _why_empty(self, metric: Metric, name: str) -> str:
        reasons = collections.Counter(
            self._results.missing[metric.id, name, shot.key][0]
            for shot in self._shots
            if (metric.id, name, shot.key) in self._results.missing
        )
        if reasons:
            return reasons.most_common(1)[0][0]
        return "no shot that every model was scored on"

    def _strangers(self) -> float | None:
        """Mean cosine between the faces of two different identities of this source."""
        from evaluation.metrics.identity import FEATURES, cosine

        faces: dict[str, list[np.ndarray]] = {}
        for shot in self._shots:
            found = self._results.features(TRUTH, shot, FEATURES)
            if found is not None and len(found):
                faces.setdefault(self._identity[shot.key], []).append(found.mean(axis=0, dtype=np.float64))
        means = [np.mean(found, axis=0) for _, found in sorted(faces.items())]
        pairs = [float(cosine(a, b)) for a, b in itertools.combinations(means, 2)]
        return float(np.mean(pairs)) if pairs else None

    # ------------------------------------------------------------ metrics of all shots together

    def _set_metric(self, metric: Metric) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        statistic = SET_STATISTICS[metric.id]
        features: dict[str, dict[str, np.ndarray]] = {}
        if TRUTH not in self._rows:
            return {name: {"mean": None, "reason": "there is no footage to compare with"} for name in self._rows}, []
        for name in self._rows:
            found = ((s.key, self._results.features(name, s, statistic.features)) for s in self._shots)
            features[name] = {key: array for key, array in found if array is not None and len(array)}
        kept = [s.key for s in self._shots if all(s.key in features[name] for name in self._rows)]
        identities = [self._identity[key] for key in kept]
        if len(kept) < 2 or len(set(identities)) < 2:
            reason = "under 2 identities"
            return {name: {"mean": None, "reason": reason} for name in self._rows}, []
        truth = [features[TRUTH][key] for key in kept]
        groups = delete_groups(identities)
        of_model: dict[str, Callable[[np.ndarray], float]] = {
            name: _of_rows(statistic, [features[name][key] for key in kept], truth) for name in self._names
        }
        cells: dict[str, Any] = {TRUTH: self._floor(statistic, truth)}
        try:
            for name, of_rows in of_model.items():
                frames = sum(len(features[name][key]) for key in kept)
                cells[name] = _interval(jackknife_set_metric(of_rows, groups)) | {
                    "frames": frames, "truth_frames": sum(map(len, truth)), "few_frames": frames < statistic.needs,
                }  # fmt: skip
            compared = {
                (a, b): jackknife_set_difference(of_model[a], of_model[b], groups)
                for a, b in itertools.combinations(self._names, 2)
            }
        except UsageError:  # without one group of identities too few frames are left
            return {name: {"mean": None, "reason": "too few frames"} for name in self._rows}, []
        return cells, self._with_ranks(metric, cells, compared, higher_is_better=False)

    @staticmethod
    def _floor(statistic: SetStatistic, truth: Sequence[np.ndarray]) -> dict[str, Any]:
        """What the metric says of footage against footage: the first half of every shot against the second.

        Halves of the identities would differ by who is in them, which no model's row does.
        """
        halves = [
            np.concatenate([array[: len(array) // 2] for array in truth]),
            np.concatenate([array[len(array) // 2 :] for array in truth]),
        ]
        if min(map(len, halves)) < 2:
            return {"mean": None, "reason": "too few frames"}
        frames = len(halves[0])
        return {
            "mean": statistic(halves[0], halves[1]), "reason": "split-half", "n": len(truth), "frames": frames,
            "few_frames": frames < statistic.needs,
        }  # fmt: skip

    # ------------------------------------------------------------ comparisons

    def _with_ranks(
        self,
        metric: Metric,
        cells: dict[str, Any],
        compared: Mapping[tuple[str, str], Difference],
        *,
        higher_is_better: bool,
    ) -> list[dict[str, Any]]:
        """The comparisons as rows, with adjusted p values; ranks go into the cells."""
        adjusted = holm([difference.p for difference in compared.values()])
        effects = {pair: (d.effect, p) for (pair, d), p in zip(compared.items(), adjusted, strict=True)}
        taught = {model.name for model in self._results.plan.models if model.is_taught_by(metric)}
        ranked = [name for name in self._names if name not in taught]
        if metric.better is not None:
            for name, rank in ranks(ranked, effects, higher_is_better=higher_is_better, alpha=ALPHA).items():
                cells[name]["rank"] = rank
        return [
            {"a": a, "b": b, **_difference(difference), "p_holm": p}
            for ((a, b), difference), p in zip(compared.items(), adjusted, strict=True)
        ]


def _of_rows(
    statistic: SetStatistic, output: Sequence[np.ndarray], truth: Sequence[np.ndarray]
) -> Callable[[np.ndarray], float]:
    """The statistic of some shots; each selection is computed once, for every pair of models asks for all of them."""
    known: dict[bytes, float] = {}

    def of_rows(keep: np.ndarray) -> float:
        key = np.asarray(keep, np.int64).tobytes()
        if key not in known:
            known[key] = statistic(np.concatenate([output[i] for i in keep]), np.concatenate([truth[i] for i in keep]))
        return known[key]

    return of_rows


def _interval(interval: Interval) -> dict[str, Any]:
    return {
        "mean": interval.point, "low": interval.low, "high": interval.high, "n": interval.n,
        "clusters": interval.clusters, "method": interval.method, "few": interval.few,
    }  # fmt: skip


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "effect": difference.effect, "low": difference.low, "high": difference.high, "p": difference.p,
        "n": difference.n, "clusters": difference.clusters,
    }  # fmt: skip


def _rounded(value: Any) -> Any:
    """Floats to six significant digits: what lies beyond is noise of the machine."""
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, (float, np.floating)):
        if not np.isfinite(value):
            raise ValueError("a summary holds no NaN and no infinity")
        return float(f"{float(value):.6g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value]
