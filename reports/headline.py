"""The first sentences of a page: what was measured, what came out among the models, and what against the controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from reports.claims import says
from reports.facts import counted
from reports.verdicts import AT_MOST_NAMED, NO_WIN, called_in_sentences, field_of, joined

_WHAT = {
    "reconstruction": "redrew the mouth in {data}, from each clip's own speech: compared with the clip itself",
    "cross": "redrew the mouth in {data}, from another person's speech, so nothing is compared frame by frame",
    "pairs": "dubbed {data} with other speech; the result was pasted back and scored as video",
    "videos-reference": "had made finished videos of {data}, which are compared with their originals",
    "videos": "had made finished videos, {data}; there are no originals to compare with",
}
_SPEECH = ("lip sync", "mouth shape")
_NOTHING_TOLD = "No difference between them is claimed: there are too few identities, or too little was measured"

Wins = dict[tuple[str, str], list[str]]
"""Sources by (what is said, aspect)."""


def headline(
    summary: Mapping[str, Any], models: Sequence[Mapping[str, Any]], sources: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What was measured and what came out, in sentences for somebody who sees such a page for the first time.

    Models come first, among themselves; then what they are worth beside the controls, which are no models.
    """
    rivals = [model for model in models if model["kind"] != "truth"]
    contenders, controls = (
        [model["name"] for model in rivals if model["control"] is is_control] for is_control in (False, True)
    )
    called = called_in_sentences(rivals)
    said = [_asked(summary, rivals, contenders, controls)]
    if summary["refused"]:
        return [*said, f"There is no table: {summary['refused']}."]
    comparisons = _comparisons(summary, models, sources)
    if len(rivals) > 1:
        said[0] += " Each aspect goes by one headline metric"
        trained = any(model["kind"] == "generator" and not model["control"] for model in rivals)
        tested = trained and any(comparison.tested for comparison in comparisons)
        said[0] += "; tests are over people and clips, for one training of each model." if tested else "."
    if len(rivals) > 1 and not any(comparison.tested for comparison in comparisons):
        said.append(f"{_NOTHING_TOLD}.")
    elif len(rivals) > 1:
        everywhere = len(sources) > 1
        if len(contenders) != 1:
            said.append(_among(contenders or controls, comparisons, called, everywhere))
        if contenders and controls:
            against = _against if len(contenders) <= 2 else _against_counted
            said.append(against(contenders, controls, comparisons, called, everywhere))
            said += _speechless(contenders, controls, comparisons, called)
        said += _beyond(sources, called, everywhere)
    if rivals and not contenders:
        said.append("All of them are controls: they show what the scales look like, not how good a model is.")
    return said


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """One aspect on one source.

    Attributes:
        aspect, source: of the table.
        ranked: models with a number here that were not trained against what measures it.
        better: (the better, the worse) of every pair that is told apart.
        tested: pairs that a test was made of.
    """

    aspect: str
    source: str
    ranked: frozenset[str]
    better: frozenset[tuple[str, str]]
    tested: frozenset[frozenset[str]]

    def beats_all(self, name: str, others: Sequence[str]) -> bool:
        """Whether a model is significantly better than all of the others that are ranked, of which there are some."""
        there = [other for other in others if other in self.ranked and other != name]
        return bool(there) and all((name, other) in self.better for other in there)

    def is_beaten(self, name: str, others: Sequence[str]) -> bool:
        return any((other, name) in self.better for other in others)

    def is_tested(self, name: str, others: Sequence[str]) -> bool:
        return any(frozenset((name, other)) in self.tested for other in others)


def _comparisons(
    summary: Mapping[str, Any], models: Sequence[Mapping[str, Any]], sources: Sequence[Mapping[str, Any]]
) -> list[_Comparison]:
    found = []
    for source in sources:
        table = summary["tables"][source["source"]]
        for verdict in source["verdicts"]:
            metric, aside = summary["metrics"][verdict["metric"]], set(verdict["aside"])
            pairs = [p for p in table["pairs"].get(verdict["metric"], []) if not {p["a"], p["b"]} & aside]
            ranked = {name for pair in pairs for name in (pair["a"], pair["b"])}
            said = [(pair["a"], pair["b"], says(metric, pair)) for pair in pairs]
            found.append(
                _Comparison(
                    verdict["aspect"].lower(),
                    source["source"],
                    frozenset(ranked & {model["name"] for model in models}),
                    frozenset((a, b) if best == a else (b, a) for a, b, best in said if best in (a, b)),
                    frozenset(frozenset((a, b)) for a, b, best in said if best is not None),
                )
            )
    return found


def _asked(
    summary: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]], contenders: list[str], controls: list[str]
) -> str:
    """Who did what on which data."""
    data = summary["data"]
    size = f"{counted(data['shots'], 'shot')} of {counted(data['identities'], 'identity', 'identities')}"
    if not rivals:
        return f"Only the footage itself was measured: {size}."
    kind = str(summary["protocol"]).partition("/")[0]
    what = _WHAT.get(kind, "were evaluated on {data}").format(data=size)
    if not contenders or not controls:
        return f"{_named(contenders or controls, 'model')} {what}."
    stand = "stands" if len(controls) == 1 else "stand"
    beside = f"{joined(controls)} {stand} beside {'it' if len(contenders) == 1 else 'them'} as "
    return f"{_named(contenders, 'model')} {what}; {beside}{'a control' if len(controls) == 1 else 'controls'}."


def _named(names: Sequence[str], noun: str) -> str:
    if len(names) <= AT_MOST_NAMED:
        return joined(names)
    return f"{counted(len(names), noun)} ({', '.join(names[:AT_MOST_NAMED])}, ...)"


def _among(
    names: Sequence[str], comparisons: Sequence[_Comparison], called: Mapping[str, str], everywhere: bool
) -> str:
    """What models came to, compared with each other alone."""
    wins: Wins = {}
    first: Wins = {}
    open_: Wins = {}
    told = [comparison for comparison in comparisons if any(comparison.is_tested(name, names) for name in names)]
    if not told:
        return f"{_NOTHING_TOLD}."
    for comparison in told:
        ranked = [name for name in names if name in comparison.ranked]
        ahead = next((name for name in ranked if comparison.beats_all(name, names)), None)
        leaders = [name for name in ranked if not comparison.is_beaten(name, names)]
        if ahead is not None:
            over = [called[name] for name in ranked if name != ahead]
            others = f"every other {'ranked ' if len(ranked) < len(names) else ''}model"
            claim = f"{called[ahead]} is significantly ahead of {over[0] if len(over) == 1 else others}"
            _note(wins, claim, comparison)
        elif len(leaders) < len(ranked) and len(leaders) <= AT_MOST_NAMED:
            best = joined([called[name] for name in leaders])
            _note(first, f"No other model is significantly better than {best}", comparison)
        else:
            _note(open_, "They are not told apart" if len(names) == 2 else "Who is best is open", comparison)
    said = [] if wins else ["No model is significantly ahead of all the others at anything listed below"]
    said += [_clauses(found, everywhere) for found in (wins, first, open_ if wins or first else {}) if found]
    return ". ".join(said) + "."


def _against(
    contenders: Sequence[str],
    controls: Sequence[str],
    comparisons: Sequence[_Comparison],
    called: Mapping[str, str],
    everywhere: bool,
) -> str:
    """What one or two models are worth beside the controls, model by model."""
    field = field_of(controls, called)
    said = []
    for name in contenders:
        found: Wins = {}
        behind: Wins = {}
        for comparison in comparisons:
            if comparison.beats_all(name, controls):
                _note(found, f"ahead of {field}", comparison)
            better = [control for control in controls if comparison.is_beaten(name, [control])]
            if better:
                whom = field if len(better) == len(controls) else joined([called[control] for control in better])
                _note(behind, f"behind {whom}", comparison)
        if any(comparison.is_tested(name, controls) for comparison in comparisons):
            wins, losses = _clauses(found, everywhere), _clauses(behind, everywhere)
            ahead = f"significantly {wins}" if wins else f"nowhere significantly ahead of {field}"
            said.append(f"{name} is {ahead}{f'; significantly {losses}' if losses else ''}")
    return ". ".join(said) + "." if said else f"{_NOTHING_TOLD}."


def _against_counted(
    contenders: Sequence[str],
    controls: Sequence[str],
    comparisons: Sequence[_Comparison],
    called: Mapping[str, str],
    everywhere: bool,
) -> str:
    """What many models are worth beside the controls: how many of them are better."""
    better: Wins = {}
    worse: Wins = {}
    for comparison in comparisons:
        ranked = [name for name in contenders if name in comparison.ranked]
        if any(comparison.is_tested(name, controls) for name in ranked):
            ahead = sum(comparison.beats_all(name, controls) for name in ranked)
            _note(better, f"{_counted(ahead, ranked, contenders)} significantly better", comparison)
            behind = sum(comparison.is_beaten(name, controls) for name in ranked)
            if behind:
                _note(worse, f"{_counted(behind, ranked, contenders)} significantly worse than a control", comparison)
    if not better:
        return f"{_NOTHING_TOLD}."
    said = f"Beside {field_of(controls, called)}, of these models {_clauses(better, everywhere)}."
    return f"{said} Of them, {_clauses(worse, everywhere)}." if worse else said


def _speechless(
    contenders: Sequence[str],
    controls: Sequence[str],
    comparisons: Sequence[_Comparison],
    called: Mapping[str, str],
) -> list[str]:
    """Who is nowhere better in what speech shows in than a mouth that does not speak, or speaks at the wrong time."""
    heard = [comparison for comparison in comparisons if comparison.aspect in _SPEECH]
    tested = [name for name in contenders if any(comparison.is_tested(name, controls) for comparison in heard)]
    found = [name for name in tested if not any(comparison.beats_all(name, controls) for comparison in heard)]
    if not found:
        return []
    who = joined(found) if len(found) <= AT_MOST_NAMED else f"{len(found)} of {len(contenders)} models"
    verb, whom = ("is", "it has") if len(found) == 1 else ("are", "they have")
    field, aspects = field_of(controls, called), list(dict.fromkeys(one.aspect for one in heard))
    metrics = f"the headline metric{'s' if len(aspects) > 1 else ''} of {joined(aspects)}"
    what = f"In {metrics} {who} {verb} nowhere significantly ahead of {field}"
    return [f"{what}: no sign here that {whom} learnt speech."]


def _counted(count: int, ranked: Sequence[str], all_: Sequence[str]) -> str:
    """``3 of 4 are``; those that are not ranked are not counted, and that is said."""
    few = " that are ranked" if len(ranked) < len(all_) else ""
    if count == len(ranked):
        return f"all{few} are"
    return f"{count or 'none'} of {len(ranked)}{few} {'is' if count < 2 else 'are'}"


def _beyond(sources: Sequence[Mapping[str, Any]], called: Mapping[str, str], everywhere: bool) -> list[str]:
    """Who is better than the footage itself."""
    past: Wins = {}
    for source in sources:
        for verdict in source["verdicts"]:
            for name in verdict["beyond"]:
                past.setdefault((called[name], verdict["aspect"].lower()), []).append(source["source"])
    return [f"{NO_WIN.capitalize()}: {_clauses(past, everywhere)}."] if past else []


def _note(found: Wins, claim: str, comparison: _Comparison) -> None:
    found.setdefault((claim, comparison.aspect), []).append(comparison.source)


def _clauses(found: Wins, everywhere: bool) -> str:
    """``CLAIM in lip sync and picture (hdtf and lrs2) and in motion (hdtf); CLAIM in ...``."""
    by_claim: dict[str, dict[str, list[str]]] = {}
    for (claim, aspect), where in found.items():
        by_claim.setdefault(claim, {}).setdefault(joined(where), []).append(aspect)
    clauses = []
    for claim, by_sources in by_claim.items():
        places = [f"in {joined(aspects)}{f' ({where})' if everywhere else ''}" for where, aspects in by_sources.items()]
        clauses.append(f"{claim} {joined(places)}")
    return "; ".join(clauses)
