"""Answers of a study folded into one table of numbers: what the leaderboard shows of it."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.study import Estimate, Rating, mean_opinion, opinion_difference, ranked
from evaluation.study_answers import Refusal, Submission, choices_of, conduct_of, ratings_of
from evaluation.study_design import PREFERENCE_QUESTION, SCALES, Study
from evaluation.study_preference import Choice, preference
from evaluation.study_raters import krippendorff_alpha, reasons_to_exclude
from evaluation.tables import number

RESULTS_SCHEMA_VERSION = 1
RESULTS_KIND = "g4g-study-results"

_DIGITS = 6


def study_results(study: Study, submissions: Sequence[Submission], refused: Sequence[Refusal]) -> dict[str, Any]:
    """What ``study_results.json`` holds; see docs/study.md. No date, path or NaN; same answers, same bytes.

    Args:
        submissions: files that fit the study, one a rater.
        refused: files that do not, for the record.
    """
    counted: list[Submission] = []
    excluded = []
    for one in sorted(submissions, key=lambda one: one.answers.rater):
        reasons = reasons_to_exclude(conduct_of(one, study))
        if reasons:
            excluded.append({"rater": one.answers.rater, "file": one.file, "reasons": reasons})
        else:
            counted.append(one)
    ratings = [rating for one in counted for rating in ratings_of(one, study)]
    choices = [choice for one in counted for choice in choices_of(one, study)]
    rated = [trial for trial in study.trials if not trial.is_check]
    kinds = collections.Counter(trial.kind for trial in study.trials)
    return {
        "schema_version": RESULTS_SCHEMA_VERSION,
        "kind": RESULTS_KIND,
        "study": study.id,
        "page": study.page,
        "facts": dict(study.facts),
        "models": list(study.models),
        "questions": {
            "preference": PREFERENCE_QUESTION,
            **{name: f"{of.question} 1: {of.worst}, 5: {of.best}" for name, of in SCALES.items()},
        },
        "trials": {"preference": kinds["preference"], "rating": kinds["rating"],
                   "checks": len(study.trials) - len(rated)},
        "shots": len({trial.shot for trial in rated}),
        "identities": len({trial.identity for trial in rated}),
        "raters": {
            "counted": [one.answers.rater for one in counted],
            "excluded": excluded,
            "refused": [{"file": one.file, "reason": one.reason} for one in refused],
        },
        "opinion": {scale: _opinion(study.models, [r for r in ratings if r.scale == scale]) for scale in SCALES},
        "preference": _preference(study.models, choices),
        "agreement": _agreement(ratings, choices),
    }  # fmt: skip


def _opinion(models: Sequence[str], ratings: Sequence[Rating]) -> dict[str, Any]:
    if not ratings:
        return {"models": {}, "pairs": []}
    differences = {
        (a, b): found
        for k, a in enumerate(models)
        for b in models[k + 1 :]
        if (found := opinion_difference(ratings, a, b)) is not None
    }
    adjusted, rank = ranked(models, differences)
    cells = {model: [r for r in ratings if r.model == model] for model in models}
    return {
        "models": {
            model: {"mean": _rounded(found.point), **_interval(found), "rank": rank[model]}
            for model, own in cells.items()
            for found in [mean_opinion(own)]
        },
        "pairs": _pairs(differences, adjusted),
    }


def _preference(models: Sequence[str], choices: Sequence[Choice]) -> dict[str, Any]:
    if not choices:
        return {"models": {}, "pairs": []}
    found = preference(choices, models)
    adjusted, rank = ranked(models, found.differences)
    shown = {}
    for model, strength in found.strength.items():
        own = [c.outcome if c.first == model else 1 - c.outcome for c in choices if model in (c.first, c.second)]
        shown[model] = {
            "strength": _rounded(strength.point), **_interval(strength), **_chances(strength), "rank": rank[model],
            "won": own.count(1.0), "tied": own.count(0.5), "lost": own.count(0.0),
        }  # fmt: skip
    counts: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for choice in choices:
        counts[choice.first, choice.second].append(choice.outcome)
    pairs = _pairs(found.differences, adjusted)
    for pair in pairs:
        own = counts[pair["a"], pair["b"]]
        pair |= {"a_preferred": own.count(1.0), "tied": own.count(0.5), "b_preferred": own.count(0.0)}
    return {"models": shown, "pairs": pairs}


def _chances(strength: Estimate) -> dict[str, float | None]:
    """Of being preferred to a model of mean strength."""
    ends = {"chance": strength.point, "chance_low": strength.low, "chance_high": strength.high}
    return {name: None if end is None else _rounded(1 / (1 + np.exp(-end))) for name, end in ends.items()}


def _interval(found: Estimate) -> dict[str, Any]:
    ends = {name: getattr(found, name) for name in ("low", "high", "raters_low", "raters_high")}
    shown: dict[str, Any] = {name: None if end is None else _rounded(end) for name, end in ends.items()}
    return shown | {"n": found.n, "raters": found.raters, "identities": found.identities, "few": found.few}


def _pairs(
    differences: Mapping[tuple[str, str], Estimate], adjusted: Mapping[tuple[str, str], float | None]
) -> list[dict[str, Any]]:
    return [
        {"a": a, "b": b, "effect": _rounded(found.point), **_interval(found), "p": found.p, "p_holm": adjusted[a, b]}
        for (a, b), found in differences.items()
    ]


def _agreement(ratings: Sequence[Rating], choices: Sequence[Choice]) -> dict[str, Any]:
    """Krippendorff's alpha with ordinal distances, by scale and of the comparisons.

    A comparison enters both ways round, for which model is named first means nothing: else raters who all prefer the
    model that comes first would seem to agree by chance.
    """
    units: dict[str, dict[Hashable, list[float]]] = {name: collections.defaultdict(list) for name in SCALES}
    units["preference"] = collections.defaultdict(list)
    for rating in ratings:
        units[rating.scale][rating.model, rating.shot].append(rating.score)
    for choice in choices:
        units["preference"][choice.first, choice.second, choice.shot].append(choice.outcome)
        units["preference"][choice.second, choice.first, choice.shot].append(1 - choice.outcome)
    found = {}
    for name, of in units.items():
        alpha = krippendorff_alpha(of)
        found[name] = {
            "alpha": None if alpha is None else _rounded(alpha),
            "units": len(of) // (2 if name == "preference" else 1),
        }
    return found


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)


def print_results(results: Mapping[str, Any]) -> None:
    """The table on the screen."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    counted, excluded, refused = (len(results["raters"][name]) for name in ("counted", "excluded", "refused"))
    counts = f"raters: {counted} counted, {excluded} excluded; files refused: {refused}"
    console.print(f"study {results['study']}, {counts}", markup=False)
    if not results["raters"]["counted"]:
        return
    table = Table("model", *(f"{scale} (1-5)" for scale in SCALES), "preferred")
    opinions, preferences = results["opinion"], results["preference"]["models"]
    for model in results["models"]:
        cells = [_cell(opinions[scale]["models"][model], "mean", "low", "high") for scale in SCALES]
        percent = {key: None if preferences[model][key] is None else 100 * preferences[model][key] for key in _CHANCE}
        table.add_row(model, *cells, _cell({**preferences[model], **percent}, *_CHANCE, unit=" %"))
    parts = (*opinions.values(), results["preference"])
    table.add_row("rests on", *(_rests_on(part["models"]) for part in parts), style="dim")
    alphas = [results["agreement"][name]["alpha"] for name in (*SCALES, "preference")]
    table.add_row("agreement", *("" if alpha is None else f"alpha {alpha:.2f}" for alpha in alphas), style="dim")
    console.print(table)
    console.print("[...]: 95 % interval over raters and over the people in the clips", markup=False)
    console.print("preferred: how often, to a model of mean strength (Bradley-Terry)")
    if any(cell["rank"] is not None for part in parts for cell in part["models"].values()):
        console.print("#n: 1 + the number of models that are significantly better (Holm over all pairs)")
    if any(cell["few"] for part in parts for cell in part["models"].values()):
        console.print("*: fewer than 10 raters or people: rough; with fewer than 6 no difference is called significant")


def _rests_on(cells: Mapping[str, Mapping[str, Any]]) -> str:
    raters, people = (max((cell[name] for cell in cells.values()), default=0) for name in ("raters", "identities"))
    return f"{raters} rater{'s' * (raters != 1)}, {people} {'person' if people == 1 else 'people'}"


_CHANCE = ("chance", "chance_low", "chance_high")


def _cell(found: Mapping[str, Any], point: str, low: str, high: str, unit: str = "") -> str:
    ends = (found[low], found[high])
    text = number(found[point], *ends) + unit
    if None not in ends:
        text += f" \\[{number(ends[0], *ends)}, {number(ends[1], *ends)}]"
    rank = "" if found["rank"] is None else f" #{found['rank']}"
    return f"{text}{rank}{' *' if found['few'] else ''}"
