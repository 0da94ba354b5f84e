"""What the leaderboard shows, as plain values: the content of ``leaderboard.json``.

Numbers are rounded as they are printed, so the page, this file, CSV, Markdown and LaTeX agree to the last digit.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.stats import FEW_CLUSTERS, MIN_CLUSTERS_FOR_SIGNIFICANCE
from evaluation.summary import ALPHA
from evaluation.tables import number
from reports.columns import GROUPS, direction, group_of, ordered
from reports.provenance import provenance
from reports.verdicts import headline, verdicts

SCHEMA_VERSION = 1
"""Of ``leaderboard.json``."""

TRUTH = "truth"
"""Kind of the model that is the footage itself."""


def leaderboard(summary: Mapping[str, Any], shots: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Everything on the page but single clips.

    Args:
        summary: content of ``summary.json``.
        shots: content of ``shots.json``.
        run: content of ``run.json``; only what does not change from one computation to the next is read.
    """
    metrics = [_metric(summary["metrics"][name]) for name in ordered(summary["metrics"])]
    models = _models(summary, run)
    sources = [_source(name, table, metrics, models, shots) for name, table in summary["tables"].items()]
    return {
        "schema_version": SCHEMA_VERSION,
        **{name: summary[name] for name in ("protocol", "split", "seed", "precision", "on_failure", "refused", "data")},
        "headline": headline(summary, models, sources),
        "limits": {"few": FEW_CLUSTERS, "claim": MIN_CLUSTERS_FOR_SIGNIFICANCE, "alpha": ALPHA},
        "groups": [{"id": key, "title": title} for key, title, _ in GROUPS if any(m["group"] == key for m in metrics)],
        "metrics": metrics,
        "models": models,
        "sources": sources,
        "provenance": provenance(summary, run),
    }


def _metric(about: Mapping[str, Any]) -> dict[str, Any]:
    arrow, words = direction(about["better"])
    kept = ("id", "name", "unit", "better", "kind", "definition", "version", "unavailable", "weights", "near_truth")
    facts = {name: about[name] for name in kept}
    reason, colon, command = (about["unavailable"] or "").partition(": ")
    missing = {"reason": reason, "command": command if colon else None} if reason else None
    return {**facts, "group": group_of(about["id"]), "arrow": arrow, "direction": words, "missing": missing}


def _models(summary: Mapping[str, Any], run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ground truth first, the others in the order in which the run named them."""
    named = [model["name"] for model in run["models"]]
    place = {name: position for position, name in enumerate(named)}
    known = summary["models"]
    order = sorted(known, key=lambda name: (known[name]["kind"] != TRUTH, place.get(name, len(place)), name))
    return [{"name": name, **known[name]} for name in order]


def _source(
    name: str,
    table: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    shots: Mapping[str, Any],
) -> dict[str, Any]:
    own = [shot for shot in shots["shots"].values() if shot["source"] == name]
    licences = sorted({str(shot["about"]["licence"]) for shot in own if shot["about"].get("licence")})
    here = [model for model in models if model["name"] in table["rows"]]
    measured = [metric for metric in metrics if metric["unavailable"] is None]
    ranked = {metric["id"]: claims_ranks(table["pairs"].get(metric["id"], [])) for metric in measured}
    rows = []
    for model in here:
        row = table["rows"][model["name"]]
        cells = {
            metric["id"]: cell(metric, row["cells"].get(metric["id"]), table, ranked=ranked[metric["id"]])
            for metric in measured
        }
        counts = {key: row[key] for key in ("scored", "failed", "reasons")}
        rows.append({"model": model["name"], "truth": model["kind"] == TRUTH, **counts, "cells": cells})
    facts = {key: table[key] for key in ("shots", "identities", "frames", "redistributable")}
    return {
        "source": name,
        **facts,
        "licences": licences,
        "verdicts": verdicts(table, metrics, here),
        "rows": rows,
        "pairs": {metric["id"]: [_pair(metric, pair) for pair in table["pairs"].get(metric["id"], [])] for metric in measured},
        "breakdowns": [_breakdown(breakdown, measured) for breakdown in table["breakdowns"]],
    }  # fmt: skip


def claims_ranks(pairs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any difference of a metric was tested: with under 6 identities nothing is, and ranks say nothing."""
    return any(pair["p_holm"] is not None for pair in pairs)


def cell(
    metric: Mapping[str, Any], raw: Mapping[str, Any] | None, table: Mapping[str, Any], *, ranked: bool
) -> dict[str, Any]:
    """One cell of a table as it is read: ``kind`` is ``value``, ``identical``, ``floor`` or ``empty``."""
    if raw is None:
        return {"kind": "empty", "text": "–", "reason": "not measured"}
    if raw.get("mean") is None:
        identical = raw.get("reason") == "identical"
        return {
            "kind": "identical" if identical else "empty",
            "text": "identical" if identical else "–",
            "reason": "the clip compared with itself" if identical else raw.get("reason") or "not measured",
        }
    low, high = raw.get("low"), raw.get("high")
    shown = number(raw["mean"], low, high)
    found: dict[str, Any] = {"kind": "value", "mean": float(shown), "text": shown, "n": raw["n"]}
    if raw.get("reason") == "split-half":
        found |= {"kind": "floor", "reason": "split-half floor: one half of the identities against the other"}
    if low is not None and high is not None:
        for key, value in (("half_width", (high - low) / 2), ("low", low), ("high", high)):
            found[f"{key}_text"] = number(value, low, high)
            found[key] = float(found[f"{key}_text"])
    if raw.get("rank") is not None and ranked:
        cells = [row["cells"].get(metric["id"], {}) for row in table["rows"].values()]
        found |= {"rank": raw["rank"], "shared": sum(other.get("rank") == raw["rank"] for other in cells) > 1}
        found["leads"] = raw["rank"] == 1 and any(other.get("rank", 1) > 1 for other in cells)
    if raw.get("distance") is not None:
        found["distance"] = number(raw["distance"], low, high)
    if raw.get("floor") is not None:
        found["strangers"] = number(raw["floor"], low, high)
    if raw.get("truth_gap") is not None:
        found["gap"] = _gap(metric, raw["truth_gap"])
    found |= {key: raw[key] for key in ("clusters", "few", "frames", "few_frames") if key in raw}
    return found


def _gap(metric: Mapping[str, Any], gap: Mapping[str, Any]) -> dict[str, Any]:
    """|model - ground truth|, and whether the model lies beyond the truth with significance."""
    better = gap["effect"] > 0 if metric["better"] == "higher" else gap["effect"] < 0
    beyond = better and gap["p"] is not None and gap["p"] < ALPHA
    text = number(abs(gap["effect"]), gap["low"], gap["high"])
    return {"text": text, "size": float(text), "side": "+" if gap["effect"] > 0 else "−", "beyond": beyond, "p": p_text(gap["p"])}


def p_text(p: float | None) -> str | None:
    """A p value to two digits; ``None`` stays: no claim."""
    if p is None:
        return None
    return f"{p:.2g}" if p >= 1e-4 else "<0.0001"


def _pair(metric: Mapping[str, Any], pair: Mapping[str, Any]) -> dict[str, Any]:
    """One comparison, with who is better in words."""
    low, high = pair["low"], pair["high"]
    shown = {
        "effect": number(pair["effect"], low, high),
        "low": None if low is None else number(low, low, high),
        "high": None if high is None else number(high, low, high),
    }
    claim = pair["p_holm"]
    if claim is None:
        verdict = f"no claim: {pair['clusters']} identities"
    elif claim >= ALPHA or pair["effect"] == 0 or metric["better"] is None:
        verdict = "not told apart" if claim >= ALPHA else "they differ"
    else:
        # for a value to be reached, a pair compares distances from it
        first = (pair["effect"] > 0) == (metric["better"] == "higher")
        verdict = f"{pair['a' if first else 'b']} is better"
    counts = {"n": pair["n"], "clusters": pair["clusters"]}
    return {
        "a": pair["a"], "b": pair["b"], **shown, "p": p_text(pair["p"]), "p_holm": p_text(claim), **counts,
        "verdict": verdict,
    }  # fmt: skip


def _breakdown(breakdown: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over parts of the shots; only metrics of single shots have them."""
    known = [m["id"] for m in metrics if any(m["id"] in part["means"] for part in breakdown["parts"])]
    parts = [
        {
            "label": part["label"],
            "shots": part["shots"],
            "means": {
                metric: {model: float(number(mean)) for model, mean in part["means"][metric].items()} for metric in known
            },
        }
        for part in breakdown["parts"]
    ]
    return {"by": breakdown["by"], "unit": breakdown["unit"], "parts": parts}


def models_by_rank(source: Mapping[str, Any], metric: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Rows of a table without the truth, best first by ``metric``; those without a value or a rank last."""
    rows = [row for row in source["rows"] if not row["truth"]]
    if metric is None:
        return rows
    return sorted(rows, key=lambda row: order_of(metric, row["cells"][metric["id"]]))


def order_of(metric: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[bool, float]:
    """Sorts cells of one column, best first."""
    if found["kind"] != "value":
        return True, 0.0
    if isinstance(metric["better"], (int, float)):
        return False, float(found["distance"])
    return False, -found["mean"] if metric["better"] == "higher" else found["mean"]


def all_cells(board: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Cells of all tables."""
    rows = itertools.chain.from_iterable(source["rows"] for source in board["sources"])
    return [found for row in rows for found in row["cells"].values()]
