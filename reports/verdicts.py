"""Who is best at what, in words that claim no more than the tests do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
_NO_WIN = "beyond the ground truth, which is no win"


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
    called = _called(models)
    for group, title, _ in GROUPS:
        metric = lead_of(group, metrics)
        if metric is not None:
            marks = {model["name"]: mark for model in models if (mark := taught(metric, model))}
            aside = list(marks)
            verdict = _verdict(table, metric, called, aside)
            past = [name for name in verdict["leaders"] if name in beyond[metric["id"]]]
            if past:
                who = "" if past == verdict["leaders"] else f": {_joined([called[name] for name in past])}"
                verdict["sentence"] += f"; {_NO_WIN}{who}"
            if aside:
                why = " or ".join(sorted(set(marks.values())))
                verdict["sentence"] += f"; not ranked, for {why}: {_joined([called[name] for name in aside])}"
            verdict |= {"aside": aside, "beyond": past}
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
    than = _field(others, called) or f"all {len(others)} others"
    return _said("ahead", leaders, f"{best[0]} is ahead of {than} (p {_at_most(p)} after Holm)", over=others)


def _said(claim: str, leaders: Sequence[str], sentence: str, over: Sequence[str] = ()) -> dict[str, Any]:
    return {"claim": claim, "leaders": list(leaders), "over": list(over), "sentence": sentence}


def _called(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Models by name as sentences call them: a control is no rival, and whoever reads its name must know."""
    return {one["name"]: f"{one['name']} (control)" if one["control"] else one["name"] for one in models}


def _field(others: Sequence[str], called: Mapping[str, str]) -> str | None:
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


def headline(
    summary: Mapping[str, Any], models: Sequence[Mapping[str, Any]], sources: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What was measured and what came out, in sentences for somebody who sees such a page for the first time."""
    rivals = [model for model in models if model["kind"] != "truth"]
    called = _called(rivals)
    data = summary["data"]
    size = f"{counted(data['shots'], 'shot')} of {counted(data['identities'], 'identity', 'identities')}"
    kind = str(summary["protocol"]).partition("/")[0]
    what = _WHAT.get(kind, "were evaluated on {data}").format(data=size)
    said = [f"{_subject(rivals, called)} {what}." if rivals else f"Only the footage itself was measured: {size}."]
    if summary["refused"]:
        return [*said, f"There is no table: {summary['refused']}."]
    if len(rivals) > 1:
        found = [verdict | {"source": source["source"]} for source in sources for verdict in source["verdicts"]]
        said.append(_outcome(found, called))
    if rivals and all(model["control"] for model in rivals):
        said.append("All of them are controls: they show what the scales look like, not how good a model is.")
    return said


def _outcome(found: Sequence[Mapping[str, Any]], called: Mapping[str, str]) -> str:
    wins: dict[tuple[str, str], list[str]] = {}
    for verdict in found:
        if verdict["claim"] == "ahead":
            others = "every other ranked model" if verdict["aside"] else "every other model"
            over = _field(verdict["over"], called) or others
            claim = f"{called[verdict['leaders'][0]]} is significantly ahead of {over}"
            wins.setdefault((claim, verdict["aspect"].lower()), []).append(verdict["source"])
    compared = [verdict for verdict in found if verdict["claim"] in ("ahead", "first", "shared", "tie")]
    if not compared:
        return "No difference between them is claimed: there are too few identities, or too little was measured."
    everywhere = len({verdict["source"] for verdict in found}) > 1
    sentences = []
    if wins:
        sentences.append("; ".join(f"{claim} in {what}" for claim, what in _by_model(wins, everywhere)))
    else:
        sentences.append("No model is significantly ahead of all the others at anything listed below")
    first: dict[tuple[str, str], list[str]] = {}
    past: dict[tuple[str, str], list[str]] = {}
    for verdict in compared:
        aspect = verdict["aspect"].lower()
        if verdict["claim"] in ("first", "shared") and len(verdict["leaders"]) <= _AT_MOST_NAMED:
            place = (_joined([called[name] for name in verdict["leaders"]]), aspect)
            first.setdefault(place, []).append(verdict["source"])
        for name in verdict["beyond"]:
            past.setdefault((called[name], aspect), []).append(verdict["source"])
    if first:
        said = "; ".join(f"{who} in {what}" for who, what in _by_model(first, everywhere))
        sentences.append(f"Nobody is significantly better than {said}")
    if past:
        said = "; ".join(f"{who} in {what}" for who, what in _by_model(past, everywhere))
        sentences.append(f"{_NO_WIN.capitalize()}: {said}")
    rest = len(compared) - sum(len(where) for of in (wins, first) for where in of.values())
    if rest and (wins or first):
        sentences.append(f"The other {counted(rest, 'comparison')} below told no model from the best")
    return ". ".join(sentences) + "."


def _by_model(found: Mapping[tuple[str, str], Sequence[str]], everywhere: bool) -> list[tuple[str, str]]:
    """(what is said of models, aspects with the sources) of {(what is said, aspect): sources}."""
    clauses: dict[str, list[str]] = {}
    for (models, aspect), where in found.items():
        clauses.setdefault(models, []).append(f"{aspect} ({_joined(where)})" if everywhere else aspect)
    return [(models, _joined(parts)) for models, parts in clauses.items()]


def _subject(models: Sequence[Mapping[str, Any]], called: Mapping[str, str]) -> str:
    if len(models) <= _AT_MOST_NAMED:
        return _joined(list(called.values()))
    controls = sum(model["control"] for model in models)
    kinds = [(len(models) - controls, "model"), (controls, "control")]
    many = _joined([counted(n, kind) for n, kind in kinds if n])
    return f"{many} ({', '.join(list(called.values())[:_AT_MOST_NAMED])}, ...)"


def _listed(names: Sequence[str], noun: str) -> str:
    return _joined(names) if len(names) <= _AT_MOST_NAMED else f"{len(names)} {noun}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
