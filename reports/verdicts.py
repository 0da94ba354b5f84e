"""Who is best at what, in words that claim no more than the tests do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evaluation.stats import MIN_CLUSTERS_FOR_SIGNIFICANCE
from evaluation.summary import ALPHA
from reports.claims import says, taught
from reports.columns import GROUPS, lead_of

AT_MOST_NAMED = 4
NO_WIN = "beyond the ground truth, which is no win"


def verdicts(
    table: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    beyond: Mapping[str, Collection[str]],
) -> list[dict[str, Any]]:
    """One verdict a group of metrics, about its first metric that was measured, and the models set ``aside`` there.

    Args:
        beyond: models that are better than the ground truth with significance, by metric.
    """
    found = []
    called = called_in_sentences(models)
    for group, title, _ in GROUPS:
        metric = lead_of(group, metrics)
        if metric is not None:
            marks = {model["name"]: mark for model in models if (mark := taught(metric, model))}
            aside = list(marks)
            verdict = _verdict(table, metric, called, aside)
            past = [name for name in verdict["leaders"] if name in beyond[metric["id"]]]
            if past:
                who = "" if past == verdict["leaders"] else f": {joined([called[name] for name in past])}"
                verdict["sentence"] += f"; {NO_WIN}{who}"
            if aside:
                why = " or ".join(sorted(set(marks.values())))
                verdict["sentence"] += f"; not ranked, for {why}: {joined([called[name] for name in aside])}"
            others = [other for other in metrics if other["group"] == group]
            behind = _behind_elsewhere(verdict["leaders"], others, table, models, beyond)
            for names, where in _by_names(behind).items():
                who = _listed([called[name] for name in names], "others")
                is_ = "is" if len(names) == 1 else "are"
                verdict["sentence"] += f"; {who} {is_} better in {_listed(where, 'other metrics')}"
            verdict |= {"aside": aside, "beyond": past, "behind": behind}
            found.append({"group": group, "aspect": title, "metric": metric["id"], "name": metric["name"], **verdict})
    return found


def _verdict(
    table: Mapping[str, Any], metric: Mapping[str, Any], called: Mapping[str, str], aside: Sequence[str]
) -> dict[str, Any]:
    """``claim``: ``ahead`` of all others, ``first`` (nobody is better), ``shared`` first place, ``tie`` of all,
    ``untested``, ``single`` (nothing to compare with) or ``none`` (no rank); ``over``: whom the first is ahead of."""
    cells = {name: table["rows"][name]["cells"].get(metric["id"], {}) for name in called}
    ranked = {name: cell["rank"] for name, cell in cells.items() if cell.get("rank") is not None}
    pairs = table["pairs"].get(metric["id"], [])
    clusters = max((pair["clusters"] for pair in pairs), default=0)
    leaders = [name for name, rank in ranked.items() if rank == 1]
    if not ranked:
        return _said("none", [], "no model has a rank here")
    if len(ranked) == 1:
        alone = "has a rank" if aside else "was measured"
        return _said("single", [], f"only {called[leaders[0]]} {alone}: nothing to compare it with")
    if all(pair["p_holm"] is None for pair in pairs):
        have = "1 identity is" if clusters == 1 else f"{clusters} identities are"
        return _said("untested", [], f"{have} too few for a test (it takes {MIN_CLUSTERS_FOR_SIGNIFICANCE})")
    best = [called[name] for name in leaders]
    if len(leaders) == len(ranked):
        return _said("tie", [], f"no significant difference between {_listed(best, 'models')}")
    if len(leaders) > 1:
        return _said("shared", leaders, f"{_listed(best, 'models')} share the first place")
    beaten, p = _beaten_by(leaders[0], pairs, set(ranked), metric["better"] == "higher")
    others = [name for name in ranked if name != leaders[0]]
    open_ = [called[name] for name in others if name not in beaten]
    if open_:
        sentence = f"{best[0]} comes first, though not told apart from {_listed(open_, 'others')}"
        return _said("first", leaders, sentence)
    than = field_of(others, called) or f"all {len(others)} others"
    return _said("ahead", leaders, f"{best[0]} is ahead of {than} (p {_at_most(p)} after Holm)", over=others)


def _behind_elsewhere(
    leaders: Sequence[str],
    metrics: Sequence[Mapping[str, Any]],
    table: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]],
    beyond: Mapping[str, Collection[str]],
) -> dict[str, list[str]]:
    """Who is significantly better than the one who leads an aspect, by other metrics of it; to be better than the
    footage itself is no win."""
    if len(leaders) != 1:
        return {}
    (leader,) = leaders
    found: dict[str, list[str]] = {}
    for metric in metrics:
        aside = {model["name"] for model in models if taught(metric, model)}
        for pair in table["pairs"].get(metric["id"], []):
            names, best = {pair["a"], pair["b"]}, says(metric, pair)
            if leader in names and not names & aside and best in names - {leader, *beyond.get(metric["id"], ())}:
                found.setdefault(metric["name"], []).append(str(best))
    return found


def _by_names(found: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], list[str]]:
    """Metrics by those who are better in them."""
    turned: dict[tuple[str, ...], list[str]] = {}
    for metric, names in found.items():
        turned.setdefault(tuple(names), []).append(metric)
    return turned


def _said(claim: str, leaders: Sequence[str], sentence: str, over: Sequence[str] = ()) -> dict[str, Any]:
    return {"claim": claim, "leaders": list(leaders), "over": list(over), "sentence": sentence}


def called_in_sentences(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Models by name as sentences call them: a control is no rival, and whoever reads its name must know."""
    return {one["name"]: f"{one['name']} (control)" if one["control"] else one["name"] for one in models}


def field_of(others: Sequence[str], called: Mapping[str, str]) -> str | None:
    """Those whom a model is ahead of, where it is a single one or where there is no other than controls."""
    if len(others) == 1:
        return called[others[0]]
    if all(called[name] != name for name in others):
        return "both controls" if len(others) == 2 else f"all {len(others)} controls"
    return None


def _beaten_by(
    leader: str, pairs: Sequence[Mapping[str, Any]], ranked: set[str], higher: bool
) -> tuple[list[str], float]:
    """Models that ``leader`` is significantly better than, and the largest p value among them."""
    beaten, largest = [], 0.0
    for pair in pairs:
        if leader not in (pair["a"], pair["b"]) or not {pair["a"], pair["b"]} <= ranked:
            continue
        first_is_better = (pair["effect"] > 0) == higher
        p = pair["p_holm"]
        if p is not None and p < ALPHA and pair["effect"] != 0 and first_is_better == (leader == pair["a"]):
            beaten.append(pair["b"] if leader == pair["a"] else pair["a"])
            largest = max(largest, p)
    return beaten, largest


def _at_most(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"≤ {p:.2g}"


def _listed(names: Sequence[str], noun: str) -> str:
    return joined(names) if len(names) <= AT_MOST_NAMED else f"{len(names)} {noun}"


def joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
