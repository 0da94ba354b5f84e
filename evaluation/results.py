"""What a run measured, read back from its cells: one table of numbers and one of reasons."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.cells import Cell
from evaluation.harness import Plan
from evaluation.metrics import MEASURES
from evaluation.models import TRUTH
from evaluation.shots import Shot

Reason = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Results:
    """All cells of a run.

    Attributes:
        failed: why a model has no output for a shot, by (model, shot).
        values: by (metric, model, shot).
        missing: why a metric has no value although there is an output, by (metric, model, shot).
        curves: numbers to draw, by (model, shot), then by name.
        flags: what a reader should know of its values, by (model, shot).
        prompts: digests of the prompts of a shot, by (model, shot), of models that are prompted.
    """

    plan: Plan
    failed: Mapping[tuple[str, str], Reason]
    values: Mapping[tuple[str, str, str], float]
    missing: Mapping[tuple[str, str, str], Reason]
    curves: Mapping[tuple[str, str], Mapping[str, list[float | None]]]
    flags: Mapping[tuple[str, str], Sequence[str]]
    prompts: Mapping[tuple[str, str], Sequence[str]]

    @property
    def names(self) -> list[str]:
        """Models but the ground truth, in the order they were named."""
        return [model.name for model in self.plan.models if model.name != TRUTH]

    @property
    def rows(self) -> list[str]:
        """All models, the ground truth first where there is one."""
        return [model.name for model in self.plan.models]

    def features(self, model: str, shot: Shot, name: str) -> np.ndarray | None:
        """float32 [n, d] of one output, or ``None`` where it was not measured."""
        return features_of(Cell(self.plan.run, model, shot.key), name)


def features_of(cell: Cell, name: str) -> np.ndarray | None:
    """float32 [n, d] of one output, or ``None`` where it was not measured."""
    measures = cell.read().get("measures", {})
    if not any(name in measured["features"] for measured in measures.values()):
        return None
    return cell.read_features(name)


def read_results(plan: Plan) -> Results:
    """The cells of ``plan``, all of which :func:`evaluation.harness.evaluate` has gone through."""
    failed: dict[tuple[str, str], Reason] = {}
    values: dict[tuple[str, str, str], float] = {}
    missing: dict[tuple[str, str, str], Reason] = {}
    curves: dict[tuple[str, str], dict[str, list[float | None]]] = {}
    flags: dict[tuple[str, str], list[str]] = {}
    prompts: dict[tuple[str, str], Sequence[str]] = {}
    wanted = set(plan.metrics)
    for model in plan.models:
        for shot in plan.shots:
            record = plan.cell(model, shot).read()
            output, here = record["output"], (model.name, shot.key)
            if output["error"] is not None:
                failed[here] = (output["error"][0], output["error"][1])
                continue
            if output["prompts"]:
                prompts[here] = output["prompts"]
            curves[here], flags[here] = {}, []
            for name in plan.measures:
                measured = record["measures"][name]
                curves[here] |= measured["curves"]
                flags[here] += measured["flags"]
                for metric in MEASURES[name].metrics:
                    place = (metric.id, *here)
                    if metric.id in measured["values"] and metric.id in wanted:
                        values[place] = measured["values"][metric.id]
                    elif metric.id in measured["missing"] and metric.id in wanted:
                        missing[place] = (measured["missing"][metric.id][0], measured["missing"][metric.id][1])
    return Results(plan, failed, values, missing, curves, flags, prompts)
