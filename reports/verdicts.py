"""Who is best at what, in words that claim no more than the tests do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.stats import MIN_CLUSTERS_FOR_SIGNIFICANCE
from evaluation.summary import ALPHA
from reports.claims import taught
from reports.columns import GROUPS, lead_of
from reports.facts import counted

_WHAT = {
    "reconstruction": "redrew the mouth in {data}, from each clip's own speech: compared with the clip itself",
    "cross": "redrew the mouth in {data}, from another person's speech, so nothing is compared frame by frame",
    "pairs": "dubbed {data} with other speech; the result was pasted back and scored as video",
    "videos-reference": "had made finished videos of {data}, which are compared with their originals",
    "videos": "had made finished videos, {data}; there are no originals to compare with",
}
_AT_MOST_NAMED = 4


def verdicts(
    table: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One verdict a group of metrics, about its first metric that was measured, and the models set ``aside`` there."""
    found = []
    for group, title, _ in GROUPS:
        metric = lead_of(group, metrics)
        if metric is not None:
            marks = {model["name"]: mark for model in models if (mark := taught(metric, model))}
            aside = list(marks)
            verdict = _verdict(table, metric, [model["name"] for model in models], aside)
            if aside:
                why = " or ".join(sorted(set(marks.values())))
                verdict["sentence"] += f"; not ranked, for {why}: {_joined(aside)}"
            verdict["aside"] = aside
            found.append({"group": group, "aspect": title, "metric": metric["id"], "name": metric["name"], **verdict})
    return found


def _verdict(
    table: Mapping[str, Any], metric: Mapping[str, Any], names: Sequence[str], aside: Sequence[str]
) -> dict[str, Any]:
    """``claim``: ``ahead`` of all others, ``first`` (nobody is better), ``shared`` first place, ``tie`` of all,
    ``untested``, ``single`` (nothing to compare with) or ``none`` (no rank)."""
    cells = {name: table["rows"][name]["cells"].get(metric["id"], {}) for name in names}
    ranked = {name: cell["rank"] for name, cell in cells.items() if cell.get("rank") is not None}
    pairs = table["pairs"].get(metric["id"], [])
    clusters = max((pair["clusters"] for pair in pairs), default=0)
    leaders = [name for name, rank in ranked.items() if rank == 1]
    if not ranked:
        return _said("none", [], "no model has a rank here")
    if len(ranked) == 1:
        alone = "has a rank" if aside else "was measured"
        return _said("single", [], f"only {leaders[0]} {alone}: nothing to compare it with")
    if all(pair["p_holm"] is None for pair in pairs):
        have = "1 identity is" if clusters == 1 else f"{clusters} identities are"
        return _said("untested", [], f"{have} too few for a test (it takes {MIN_CLUSTERS_FOR_SIGNIFICANCE})")
    if len(leaders) == len(ranked):
        return _said("tie", [], f"no significant difference between {_listed(leaders, 'models')}")
    if len(leaders) > 1:
        return _said("shared", leaders, f"{_listed(leaders, 'models')} share the first place")
    beaten, p = _beaten_by(leaders[0], pairs, set(ranked), metric["better"] == "higher")
    others = [name for name in ranked if name != leaders[0]]
    open_ = [name for name in others if name not in beaten]
    if open_:
        sentence = f"{leaders[0]} comes first, though not told apart from {_listed(open_, 'others')}"
        return _said("first", leaders, sentence)
    than = others[0] if len(others) == 1 else f"all {len(others)} others"
    return _said("ahead", leaders, f"{leaders[0]} is ahead of {than} (p {_at_most(p)} after Holm)")


def _said(claim: str, leaders: Sequence[str], sentence: str) -> dict[str, Any]:
    return {"claim": claim, "leaders": list(leaders), "sentence": sentence}


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


def headline(
    summary: Mapping[str, Any], models: Sequence[Mapping[str, Any]], sources: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What was measured and what came out, in sentences for somebody who sees such a page for the first time."""
    names = [model["name"] for model in models if model["kind"] != "truth"]
    data = summary["data"]
    size = f"{counted(data['shots'], 'shot')} of {counted(data['identities'], 'identity', 'identities')}"
    kind = str(summary["protocol"]).partition("/")[0]
    what = _WHAT.get(kind, "were evaluated on {data}").format(data=size)
    said = [f"{_subject(names)} {what}." if names else f"Only the footage itself was measured: {size}."]
    if summary["refused"]:
        return [*said, f"There is no table: {summary['refused']}."]
    if len(names) > 1:
        said.append(_outcome([verdict | {"source": s["source"]} for s in sources for verdict in s["verdicts"]]))
    if names and all(model["control"] for model in models):
        said.append("All of them are controls: they show what the scales look like, not how good a model is.")
    return said


def _outcome(found: Sequence[Mapping[str, Any]]) -> str:
    wins: dict[tuple[str, str], list[str]] = {}
    for verdict in found:
        if verdict["claim"] == "ahead":
            wins.setdefault((verdict["leaders"][0], verdict["aspect"].lower()), []).append(verdict["source"])
    compared = [verdict for verdict in found if verdict["claim"] in ("ahead", "first", "shared", "tie")]
    if not compared:
        return "No difference between them is claimed: there are too few identities, or too little was measured."
    everywhere = len({verdict["source"] for verdict in found}) > 1
    sentences = []
    if wins:
        ranked = "ranked " if any(verdict["aside"] for verdict in found) else ""
        ahead = f"is significantly ahead of every other {ranked}model in"
        sentences.append("; ".join(f"{who} {ahead} {what}" for who, what in _by_model(wins, everywhere)))
    else:
        sentences.append("No model is significantly ahead of all the others at anything listed below")
    first: dict[tuple[str, str], list[str]] = {}
    for verdict in compared:
        if verdict["claim"] in ("first", "shared") and len(verdict["leaders"]) <= _AT_MOST_NAMED:
            place = (_joined(verdict["leaders"]), verdict["aspect"].lower())
            first.setdefault(place, []).append(verdict["source"])
    if first:
        said = "; ".join(f"{who} in {what}" for who, what in _by_model(first, everywhere))
        sentences.append(f"Nobody is significantly better than {said}")
    rest = len(compared) - sum(len(where) for of in (wins, first) for where in of.values())
    if rest and (wins or first):
        sentences.append(f"The other {counted(rest, 'comparison')} below told no model from the best")
    return ". ".join(sentences) + "."


def _by_model(found: Mapping[tuple[str, str], Sequence[str]], everywhere: bool) -> list[tuple[str, str]]:
    """(models, aspects with the sources) of {(models, aspect): sources}."""
    clauses: dict[str, list[str]] = {}
    for (models, aspect), where in found.items():
        clauses.setdefault(models, []).append(f"{aspect} ({_joined(where)})" if everywhere else aspect)
    return [(models, _joined(parts)) for models, parts in clauses.items()]


def _subject(names: Sequence[str]) -> str:
    if len(names) <= _AT_MOST_NAMED:
        return _joined(names)
    return f"{len(names)} models ({', '.join(names[:_AT_MOST_NAMED])}, ...)"


def _listed(names: Sequence[str], noun: str) -> str:
    return _joined(names) if len(names) <= _AT_MOST_NAMED else f"{len(names)} {noun}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
