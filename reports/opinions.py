"""What people said: the part of the page that ``g4g-eval study collect`` fills by its ``study_results.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.study_design import SCALES
from evaluation.study_results import RESULTS_KIND, RESULTS_SCHEMA_VERSION
from evaluation.tables import number
from g4g_core import storage
from g4g_core.errors import UsageError

STUDY = "study_results.json"


def read_opinions(run: str) -> dict[str, Any] | None:
    """What the page says of the study of a run, or ``None`` where there is none.

    Returns:
        ``scales`` and ``rows`` (``model``, ``cells`` by scale, ``preferred``): numbers as they are printed;
        ``agreement``, ``raters`` (counted, excluded, refused), ``shots``, ``identities``, ``questions``, ``study``,
        ``few``.

    Raises:
        UsageError: a file of another kind or schema version.
    """
    place = storage.join(run, STUDY)
    if not storage.exists(place):
        return None
    found = storage.read_json(place)
    if found.get("kind") != RESULTS_KIND or found.get("schema_version") != RESULTS_SCHEMA_VERSION:
        raise UsageError(f"{place} holds no results of a study that this program reads", "Collect the answers again.")
    scales = [name for name in SCALES if name in found["opinion"]]
    opinions, preferences = found["opinion"], found["preference"]["models"]
    rows: list[dict[str, Any]] = []
    for model in found["models"]:
        cells = {
            scale: _cell(opinions[scale]["models"][model], "mean", "low", "high")
            for scale in scales
            if model in opinions[scale]["models"]
        }
        preferred = None
        if model in preferences:
            percent = {name: value and 100 * value for name, value in preferences[model].items() if "chance" in name}
            preferred = _cell({**preferences[model], **percent}, "chance", "chance_low", "chance_high")
            preferred |= {name: preferences[model][name] for name in ("won", "tied", "lost")}
        rows.append({"model": model, "cells": cells, "preferred": preferred})
    agreement = {name: None if of["alpha"] is None else f"{of['alpha']:.2f}" for name, of in found["agreement"].items()}
    shown = [cell for row in rows for cell in (*row["cells"].values(), row["preferred"]) if cell]
    raters = found["raters"]
    return {
        "study": found["study"], "questions": found["questions"], "shots": found["shots"],
        "identities": found["identities"], "scales": scales, "rows": rows, "agreement": agreement,
        "raters": {**raters, "counted": len(raters["counted"])}, "few": any(cell["few"] for cell in shown),
    }  # fmt: skip


def _cell(found: Mapping[str, Any], point: str, low: str, high: str) -> dict[str, Any]:
    ends = (found[low], found[high])
    known = None not in ends
    return {
        "text": number(found[point], *ends),
        "low": number(ends[0], *ends) if known else None,
        "high": number(ends[1], *ends) if known else None,
        "rank": found["rank"], "few": found["few"],
    }  # fmt: skip
