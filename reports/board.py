"""What the leaderboard shows, as plain values: the content of ``leaderboard.json``.

Numbers are rounded as they are printed, so the page, this file, CSV, Markdown and LaTeX agree to the last digit.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.stats import EXACT_CLUSTERS, FEW_CLUSTERS, FLIPS, MIN_CLUSTERS_FOR_SIGNIFICANCE, RESAMPLES
from evaluation.summary import ALPHA, POOLED
from evaluation.tables import number
from reports.ablation import ablation
from reports.about import how_made, learned_alike, miniatures, what_is_asked, what_it_is, what_they_are
from reports.claims import p_text, says, taught
from reports.clips import decimals
from reports.columns import GROUPS, UNMEASURED, direction, group_of, lead_of, ordered
from reports.headline import headline
from reports.in_step import offset_of, trust_in
from reports.provenance import provenance
from reports.verdicts import AT_MOST_NAMED, called_in_sentences, verdicts

SCHEMA_VERSION = 1
"""Of ``leaderboard.json``."""

TRUTH = "truth"
"""Kind of the model that is the footage itself."""


def leaderboard(
    summary: Mapping[str, Any],
    shots: Mapping[str, Any],
    run: Mapping[str, Any],
    opinions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything on the page but single clips.

    A source is a ``sample`` where all of its footage is the rendered one of ``g4g-prep sample``, by its licence.

    Args:
        summary: content of ``summary.json``.
        shots: content of ``shots.json``.
        run: content of ``run.json``; only what does not change from one computation to the next is read.
        opinions: of raters, from :func:`reports.opinions.read_opinions`.
    """
    metrics = [_metric(summary["metrics"][name]) for name in ordered(summary["metrics"])]
    models = _models(summary, run)
    sources = [_source(name, table, metrics, models, shots) for name, table in summary["tables"].items()]
    for source in sources:
        source["about"] = what_it_is(source, sources, run.get("about") or {})
    return {
        "schema_version": SCHEMA_VERSION,
        **{name: summary[name] for name in ("protocol", "split", "seed", "precision", "on_failure", "refused", "data")},
        "asked": what_is_asked(str(summary["protocol"])),
        "headline": headline(summary, models, sources),
        "limits": {
            "few": FEW_CLUSTERS,
            "claim": MIN_CLUSTERS_FOR_SIGNIFICANCE,
            "alpha": ALPHA,
            "resamples": RESAMPLES,
            "exact": EXACT_CLUSTERS,
            "flips": FLIPS,
        },
        "groups": [{"id": key, "title": title} for key, title, _ in GROUPS if any(m["group"] == key for m in metrics)],
        "metrics": metrics,
        "models": models,
        "learned_alike": learned_alike(models),
        "miniatures": miniatures(models),
        "sources": sources,
        "study": opinions,
        "provenance": provenance(summary, run, [source["source"] for source in sources if source["sample"]]),
    }


def _metric(about: Mapping[str, Any]) -> dict[str, Any]:
    arrow, words = direction(about["better"])
    kept = ("id", "name", "unit", "better", "kind", "definition", "version", "unavailable", "weights", "near_truth",
            "by_judge")  # fmt: skip
    facts = {name: about[name] for name in kept}
    missing = _missing(about["unavailable"])
    group = group_of(about["id"]) if missing is None else UNMEASURED
    return {**facts, "group": group, "arrow": arrow, "direction": words, "missing": missing}


def _missing(unavailable: str | None) -> dict[str, Any] | None:
    """Why a metric was not measured, and the commands that mend it, which :func:`why_missing` wrote behind colons."""
    if unavailable is None:
        return None
    if not unavailable.startswith("needs "):
        return {"reason": unavailable, "commands": []}
    needs = [need.partition(": ") for need in unavailable.split("; and ")]
    commands = dict.fromkeys(command for _, _, command in needs if command)
    return {"reason": " and ".join(need for need, _, _ in needs), "commands": list(commands)}


def _models(summary: Mapping[str, Any], run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ground truth first, the others in the order in which the run named them."""
    place = {model["name"]: position for position, model in enumerate(run["models"])}
    targets = {model["name"]: model["target"] if model["kind"] == "generator" else "" for model in run["models"]}
    known = summary["models"]
    order = sorted(known, key=lambda name: (known[name]["kind"] != TRUTH, place.get(name, len(place)), name))
    training = {model["name"]: model.get("training") for model in run["models"]}
    models = [
        {"name": name, "target": targets.get(name, ""), "training": training.get(name), **known[name]} for name in order
    ]
    whats = zip(models, what_they_are(models), strict=True)
    return [{**model, "what": what, "made": how_made(model)} for model, what in whats]


def _source(
    name: str,
    table: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    shots: Mapping[str, Any],
) -> dict[str, Any]:
    from prep.sources.sample import LICENCE

    own = shots_of_table(name, shots)
    named = {shot["about"].get("licence") for shot in own}
    here = [model for model in models if model["name"] in table["rows"]]
    measured = [metric for metric in metrics if metric["unavailable"] is None]
    ranked = {metric["id"]: claims_ranks(table["pairs"].get(metric["id"], [])) for metric in measured}
    aside = {m["id"]: {model["name"]: mark for model in here if (mark := taught(m, model))} for m in measured}
    rows = []
    for model in here:
        row = table["rows"][model["name"]]
        cells = {
            metric["id"]: cell(metric, row["cells"].get(metric["id"]), table, ranked=ranked[metric["id"]])
            for metric in measured
        }
        for metric in measured:
            if model["name"] in aside[metric["id"]]:
                cells[metric["id"]]["unranked"] = aside[metric["id"]][model["name"]]
        counts = {key: row[key] for key in ("scored", "failed", "reasons")}
        rows.append({"model": model["name"], "truth": model["kind"] == TRUTH, **counts, "cells": cells})
    beyond = {
        metric["id"]: {row["model"] for row in rows if row["cells"][metric["id"]].get("gap", {}).get("beyond")}
        for metric in measured
    }
    facts = {key: table[key] for key in ("shots", "identities", "frames", "redistributable")}
    said = verdicts(table, metrics, here, beyond)
    said = [{**verdict, "trust": _trust(verdict, measured, here, own)} for verdict in said]
    return {
        "source": name,
        **facts,
        "compared": _usual_shots(rows),
        "licences": sorted(str(licence) for licence in named if licence),
        "sample": named == {LICENCE},
        "seconds": round(sum(float(shot["about"].get("duration") or 0) for shot in own)),
        "verdicts": said,
        "untested": bool(said) and all(verdict["claim"] == "untested" for verdict in said),
        "ablation": ablation(table, metrics, here),
        "rows": rows,
        "pairs": {
            metric["id"]: [_pair(metric, pair, aside[metric["id"]]) for pair in table["pairs"].get(metric["id"], [])]
            for metric in measured
        },
        "breakdowns": [_breakdown(breakdown, measured) for breakdown in table["breakdowns"]],
    }


def _trust(
    verdict: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    shots: Sequence[Mapping[str, Any]],
) -> str | None:
    """How far the measure behind a verdict on lip sync can be trusted on these shots; many models are left out."""
    truth = next((model["name"] for model in models if model["kind"] == TRUTH), None)
    offset = next((metric for metric in metrics if metric["id"] == offset_of(verdict["metric"])), None)
    if truth is None or offset is None or verdict["group"] != "sync":
        return None
    rivals = [model for model in models if model["kind"] != TRUTH and model["name"] not in verdict["aside"]]
    controls = [model for model in rivals if model["control"]]
    few = len(rivals) - len(controls) <= AT_MOST_NAMED
    said = sorted(rivals, key=lambda model: not model["control"]) if few else controls
    return trust_in(offset, truth, called_in_sentences(said), shots)


def _usual_shots(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Shots that most cells of the models rest on."""
    cells = [found for row in rows if not row["truth"] for found in row["cells"].values()]
    counts = collections.Counter(found["n"] for found in cells if "n" in found)
    return max(counts, key=lambda n: (counts[n], n), default=None)


def shots_of_table(source: str, shots: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Shots of ``shots.json`` that a table is about."""
    return [shot for shot in shots["shots"].values() if source in (shot["source"], POOLED)]


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
        found |= {"kind": "floor", "reason": "split-half floor: the first half of every shot against the second"}
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
    return {"text": text, "beyond": beyond, "p": p_text(gap["p"])}


def _pair(metric: Mapping[str, Any], pair: Mapping[str, Any], aside: Mapping[str, str]) -> dict[str, Any]:
    """One comparison, with who is better in words."""
    low, high = pair["low"], pair["high"]
    shown = {
        "effect": number(pair["effect"], low, high),
        "low": None if low is None else number(low, low, high),
        "high": None if high is None else number(high, low, high),
    }
    claim, said = pair["p_holm"], says(metric, pair)
    mark = aside.get(pair["a"], aside.get(pair["b"]))
    if mark is not None:
        verdict = f"no comparison: {mark}"
    elif said is None:
        verdict = f"no claim: {pair['clusters']} identities"
    else:
        verdict = f"{said} is better" if said in (pair["a"], pair["b"]) else said
    counts = {"n": pair["n"], "clusters": pair["clusters"]}
    return {
        "a": pair["a"], "b": pair["b"], **shown, "p": p_text(pair["p"]), "p_holm": p_text(claim), **counts,
        "verdict": verdict,
    }  # fmt: skip


def _breakdown(breakdown: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over parts of the shots, by metric: ``digits`` and [part] of {model: mean}."""
    parts, means = breakdown["parts"], {}
    for metric in metrics:
        of_parts = [part["means"].get(metric["id"], {}) for part in parts]
        known = [value for of_models in of_parts for value in of_models.values()]
        if known:
            digits = decimals(known)
            rounded = [{model: round(value, digits) for model, value in of.items()} for of in of_parts]
            means[metric["id"]] = {"digits": digits, "parts": rounded}
    return {
        "by": breakdown["by"],
        "unit": breakdown["unit"],
        "parts": [{"label": part["label"], "shots": part["shots"]} for part in parts],
        "means": means,
    }


def models_by_rank(source: Mapping[str, Any], metric: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Rows of a table without the truth, best first by ``metric``; then those without a rank, then without a value."""
    rows = [row for row in source["rows"] if not row["truth"]]
    return rows if metric is None else sorted(rows, key=lambda row: sort_key(metric, row["cells"][metric["id"]]))


def lead_metric(board: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The metric by which tables are ordered at first: lip sync's, else the first that was measured."""
    measured = (metric for metric in board["metrics"] if metric["unavailable"] is None)
    return lead_of("sync", board["metrics"]) or next(measured, None)


def sort_key(metric: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """Sorts cells of one column, best first."""
    if found["kind"] != "value":
        return True, True, 0.0
    unranked = "unranked" in found
    if isinstance(metric["better"], (int, float)):
        return False, unranked, float(found["distance"])
    return False, unranked, -found["mean"] if metric["better"] == "higher" else found["mean"]


def all_cells(board: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Cells of all tables."""
    return [found for source in board["sources"] for row in source["rows"] for found in row["cells"].values()]
