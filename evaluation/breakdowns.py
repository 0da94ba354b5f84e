"""Means over parts of the data: does a model break on profiles, small faces, dark or short shots, one person?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.metrics.base import Metric
from evaluation.results import Results
from evaluation.shots import Shot

BY = {
    "yaw": ("yaw_max_abs", "largest yaw, degrees"),
    "face size": ("face_px", "face box in the footage, px"),
    "brightness": ("brightness", "mean luma of the face"),
    "duration": ("duration", "seconds"),
}
"""Column of a shot's facts and what it says, by the name of the breakdown."""

_PARTS = 3
_FEWEST = 6  # shots under which thirds say nothing


def breakdowns(results: Results, shots: Sequence[Shot], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Thirds of the shots by each of :data:`BY`, and every identity: means by model and metric.

    Means are over the shots on which all models have the metric.

    Returns:
        ``by``, ``unit``, ``parts``: a list of ``label``, ``shots`` and ``means`` {metric: {model: mean}}.
    """
    found = []
    if len(shots) >= _FEWEST:
        for name, (column, unit) in BY.items():
            values = np.array([float(shot.about[column]) for shot in shots])
            edges = np.quantile(values, np.linspace(0, 1, _PARTS + 1))
            if edges[0] == edges[-1]:
                continue
            place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _PARTS - 1)
            parts = [
                _part(results, metrics, f"{edges[i]:.4g} to {edges[i + 1]:.4g}", _at(shots, place == i))
                for i in range(_PARTS)
                if (place == i).any()
            ]
            found.append({"by": name, "unit": unit, "parts": parts})
    people = sorted({shot.identity for shot in shots})
    if len(people) > 1:
        parts = [_part(results, metrics, who, [shot for shot in shots if shot.identity == who]) for who in people]
        found.append({"by": "identity", "unit": "", "parts": parts})
    return found


def _at(shots: Sequence[Shot], chosen: np.ndarray) -> list[Shot]:
    return [shot for shot, here in zip(shots, chosen, strict=True) if here]


def _part(results: Results, metrics: Sequence[Metric], label: str, shots: Sequence[Shot]) -> dict[str, Any]:
    means: dict[str, dict[str, float]] = {}
    for metric in metrics:
        of_models = {}
        common = [s for s in shots if all((metric.id, name, s.key) in results.values for name in results.names)]
        for name in results.rows:
            values = [results.values.get((metric.id, name, shot.key)) for shot in common]
            known = [value for value in values if value is not None]
            if known:
                of_models[name] = float(np.mean(known))
        means[metric.id] = of_models
    return {"label": label, "shots": len(shots), "means": means}
