"""What each part of G4G is good for: its variants beside the whole model, and the difference each switch makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.tables import number
from g4g_core import registry
from reports.claims import p_text, says, taught
from reports.columns import GROUPS, lead_of

WHOLE = "g4g"
"""Registered name of the model; its variants are called after it."""


def ablation(
    table: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The section of a source, or ``None`` where the run has no variant beside the whole model.

    Args:
        table: of ``summary.json``.
        metrics: of the board.
        models: of the board, each with its ``target`` and ``marks``.

    Returns:
        ``whole``: its name; ``metrics``: ids, one an aspect; ``rows``: ``model``, ``what`` it lacks, and ``cells`` by
        metric: ``text``, ``unranked`` where the metric's expert taught the model, and, of a variant, its ``change``
        against the whole model with interval, p and verdict.
    """
    here = [model for model in models if model["name"] in table["rows"]]
    whole = next((model for model in here if model["target"] == WHOLE), None)
    variants = [model for model in here if model["target"].startswith(f"{WHOLE}-")]
    leads = [metric for metric in (lead_of(group, metrics) for group, _, _ in GROUPS) if metric is not None]
    if whole is None or not variants or not leads:
        return None
    rows = [{"model": whole["name"], "what": "the whole model", "cells": _cells(table, whole, leads)}]
    for model in variants:
        cells = _cells(table, model, leads)
        for metric in leads:
            change = _change(table, metric, model, whole)
            if change is not None and metric["id"] in cells:
                cells[metric["id"]]["change"] = change
        rows.append({"model": model["name"], "what": _what(model["target"]), "cells": cells})
    return {"whole": whole["name"], "metrics": [metric["id"] for metric in leads], "rows": rows}


def _what(target: str) -> str:
    """``without ...``, as the variant describes itself."""
    if target not in registry.names(registry.MODELS):
        return target
    text = str(registry.load(registry.MODELS, target).summary)
    return text.removeprefix("ablation: ").removeprefix("G4G ")


def _cells(
    table: Mapping[str, Any], model: Mapping[str, Any], leads: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    found = {}
    for metric in leads:
        raw = table["rows"][model["name"]]["cells"].get(metric["id"], {})
        if raw.get("mean") is not None:
            found[metric["id"]] = {"text": number(raw["mean"], raw.get("low"), raw.get("high"))}
            mark = taught(metric, model)
            if mark is not None:
                found[metric["id"]]["unranked"] = mark
    return found


def _change(
    table: Mapping[str, Any], metric: Mapping[str, Any], variant: Mapping[str, Any], whole: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Variant less whole model; for a value to be reached, of the distances from it."""
    for pair in table["pairs"].get(metric["id"], []):
        if {pair["a"], pair["b"]} != {variant["name"], whole["name"]}:
            continue
        sign = 1 if pair["a"] == variant["name"] else -1
        low, high = pair["low"], pair["high"]
        ends = None if low is None else sorted((sign * low, sign * high))
        better = says(metric, pair)
        words = {variant["name"]: "better without it", whole["name"]: "worse without it"}
        verdict = words.get(better or "", better or "no claim")
        mark = taught(metric, variant) or taught(metric, whole)
        if mark is not None:
            verdict = f"no comparison: {mark}"
        return {
            "effect": number(sign * pair["effect"], low, high),
            "low": None if ends is None else number(ends[0], low, high),
            "high": None if ends is None else number(ends[1], low, high),
            "p_holm": p_text(pair["p_holm"]), "clusters": pair["clusters"], "verdict": verdict,
        }  # fmt: skip
    return None
