"""What people said: the part of the page that ``g4g-eval study collect`` fills by its ``study_results.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.compare import read_summary
from evaluation.run import SUMMARY
from evaluation.study import fewest_to_tell_apart
from evaluation.study_design import SCALES, Study, run_identity
from evaluation.study_results import RESULTS_KIND, RESULTS_SCHEMA_VERSION
from evaluation.tables import number
from g4g_core import storage
from g4g_core.errors import StorageError, UsageError

STUDY = "study_results.json"


def read_opinions(run: str) -> dict[str, Any] | None:
    """What the page says of the study of a run, or ``None`` where there is none, or one of another run lies there.

    Returns:
        ``scales`` and ``rows`` (``model``, ``cells`` by scale, ``preferred``): numbers as they are printed;
        ``agreement``, ``raters`` (counted, excluded, refused), ``shots``, ``identities``, ``questions``, ``study``,
        ``few``, ``ranked`` (whether any difference was tested: ranks are ``None`` where none was), ``rests_on`` by
        scale and of ``preference``: ``raters`` and ``identities`` behind the numbers of that column, and whether it
        ``tells`` models apart that differ.

    Raises:
        UsageError: a file of another kind or schema version, or one that is damaged.
    """
    place = storage.join(run, STUDY)
    if not storage.exists(place):
        return None
    found = storage.read_json(place)
    known = isinstance(found, dict) and found.get("kind") == RESULTS_KIND
    if not known or found.get("schema_version") != RESULTS_SCHEMA_VERSION:
        raise UsageError(f"{place} holds no results of a study that this program reads", "Collect the answers again.")
    try:
        of_run, models, opinions = str(found["facts"]["run"]), list(map(str, found["models"])), _opinions(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{place} is damaged: {error!r}", "Collect the answers again.") from error
    return opinions if of_run == identity_of(run, models) else None


def _opinions(found: Mapping[str, Any]) -> dict[str, Any]:
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
    columns = {scale: [row["cells"].get(scale) for row in rows] for scale in scales}
    columns["preference"] = [row["preferred"] for row in rows]
    for column in columns.values():
        _share(column)
    enough = fewest_to_tell_apart(len(rows))
    rests_on = {name: _rests_on(column, enough if name in scales else 0) for name, column in columns.items()}
    agreement = {name: None if of["alpha"] is None else f"{of['alpha']:.2f}" for name, of in found["agreement"].items()}
    shown = [cell for row in rows for cell in (*row["cells"].values(), row["preferred"]) if cell]
    raters = found["raters"]
    return {
        "study": found["study"], "questions": found["questions"], "shots": found["shots"],
        "identities": found["identities"], "scales": scales, "rows": rows, "agreement": agreement,
        "raters": {**raters, "counted": len(raters["counted"])}, "few": any(cell["few"] for cell in shown),
        "ranked": any(cell["rank"] is not None for cell in shown), "rests_on": rests_on,
    }  # fmt: skip


def _rests_on(column: Sequence[Mapping[str, Any] | None], enough: int) -> dict[str, Any] | None:
    """Raters and people behind a column's numbers, and whether they are enough to tell its models apart."""
    cells = [cell for cell in column if cell]
    if not cells:
        return None
    most = {name: max(cell[name] for cell in cells) for name in ("raters", "identities")}
    tells = min(most.values()) >= enough and any(cell["rank"] is not None for cell in cells)
    return {**most, "tells": tells}


def identity_of(run: str, models: Sequence[str]) -> str | None:
    """What :func:`evaluation.study_design.run_identity` says of a run's folder; ``None``: no run, or without them."""
    place = storage.join(run, SUMMARY)
    if not storage.exists(place):
        return None
    summary = read_summary(place)
    return run_identity(summary, models) if set(models) <= set(summary["models"]) else None


def run_of_study(study: Study, named: str | None, others: Sequence[str]) -> str | None:
    """The folder of the run that a study is of: the one that is named, else the first of the others that fits.

    Raises:
        UsageError: the one that is named does not fit.
    """
    for folder in others if named is None else [named]:
        if identity_of(folder, study.models) == study.facts["run"]:
            return folder
    if named is not None:
        raise UsageError(
            f"{named} is not the run that study {study.id} shows",
            "Name the run it was built of; one with other models, data, seed or precision is another run.",
        )
    return None


def refuse_to_overwrite(place: str, study: str) -> None:
    """Raise UsageError where something else than results of this study lies: a key file, or those of another."""
    if not storage.exists(place):
        return
    try:
        found = storage.read_json(place)
    except StorageError:
        found = None
    if not isinstance(found, dict) or found.get("kind") != RESULTS_KIND:
        raise UsageError(f"{place} holds something else than results of a study", "Give another place with --out.")
    if found.get("study") != study:
        raise UsageError(
            f"{place} holds the results of another study, {found.get('study')}; a leaderboard shows one",
            "Move that file away first; its answers can be collected again.",
        )


def _share(column: Sequence[dict[str, Any] | None]) -> None:
    """Note in the cells of a column which ranks are shared."""
    ranks = [cell["rank"] for cell in column if cell]
    for cell in column:
        if cell:
            cell["shared"] = ranks.count(cell["rank"]) > 1


def _cell(found: Mapping[str, Any], point: str, low: str, high: str) -> dict[str, Any]:
    ends = (found[low], found[high])
    known = None not in ends
    return {
        "text": number(found[point], *ends),
        "low": number(ends[0], *ends) if known else None,
        "high": number(ends[1], *ends) if known else None,
        "rank": found["rank"], "few": found["few"], "raters": found["raters"], "identities": found["identities"],
    }  # fmt: skip
