from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import t as student

from evaluation.stats import holm, mean_interval, sign_flip_p
from evaluation.study import (
    Estimate,
    Rating,
    crossed_variances,
    fewest_to_tell_apart,
    mean_opinion,
    opinion_difference,
    ranked,
)
from evaluation.study_preference import Choice, bradley_terry, preference
from evaluation.study_raters import Conduct, krippendorff_alpha, reasons_to_exclude
from g4g_core.errors import UsageError

NONE: Any = None
KRIPPENDORFF = (  # four observers, twelve units: the example of "Computing Krippendorff's Alpha-Reliability" (2011)
    (1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3),
    (NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE),
)


def ratings_of(scores: np.ndarray, model: str = "m", scale: str = "sync") -> list[Rating]:
    """A rating by every rater (row) of every shot (column), each of another person."""
    return [
        Rating(f"rater{r}", scale, model, f"shot{s}", f"person{s}", scores[r, s]) for r, s in np.ndindex(*scores.shape)
    ]


@pytest.mark.parametrize(("models", "people"), [(2, 6), (3, 7), (5, 9), (10, 11)])
def test_so_many_people_of_one_mind_tell_models_apart_and_no_fewer(models: int, people: int) -> None:
    def adjusted(n: int) -> float:
        found = holm([float(sign_flip_p(np.ones(n)))] * math.comb(models, 2))
        return max(p for p in found if p is not None)

    assert fewest_to_tell_apart(models) == people
    assert adjusted(people) < 0.05
    assert models == 2 or adjusted(people - 1) >= 0.05  # a test takes 6 people anyway


# ---------------------------------------------------------------- mean opinions


def test_a_mean_opinion_is_the_mean_of_all_scores() -> None:
    scores = np.array([[5, 4, 3], [4, 4, 2]])
    found = mean_opinion(ratings_of(scores))
    assert found.point == pytest.approx(22 / 6)
    assert (found.n, found.raters, found.identities, found.few) == (6, 2, 3, True)


def test_the_interval_adds_what_raters_and_people_vary_and_takes_off_what_they_share() -> None:
    scores = np.random.default_rng(0).integers(1, 6, (7, 9)).astype(float)
    off = scores - scores.mean()
    raters = 7 / 6 * (off.sum(axis=1) ** 2).sum() / scores.size**2
    people = 9 / 8 * (off.sum(axis=0) ** 2).sum() / scores.size**2
    cells = 63 / 62 * (off**2).sum() / scores.size**2
    half = student.ppf(0.975, 6) * math.sqrt(max(raters + people - cells, raters, people))
    found = mean_opinion(ratings_of(scores))
    assert [found.low, found.high] == pytest.approx([found.point - half, found.point + half])


@pytest.mark.parametrize("raters", [5, 14])
def test_over_raters_alone_the_interval_is_the_bootstrap_of_whole_raters(raters: int) -> None:
    scores = np.random.default_rng(raters).integers(1, 6, (raters, 4)).astype(float)
    found = mean_opinion(ratings_of(scores))
    whole = mean_interval(scores.ravel(), np.repeat([f"{r:02d}" for r in range(raters)], 4).tolist())
    order = sorted(range(raters), key=lambda r: f"rater{r}")  # the bootstrap draws raters by place
    same = mean_interval(scores[order].ravel(), np.repeat([f"{r:02d}" for r in range(raters)], 4).tolist())
    assert [found.raters_low, found.raters_high] == pytest.approx([same.low, same.high])
    assert found.raters_low == pytest.approx(whole.low, abs=0.1)


def test_the_order_of_answers_changes_nothing() -> None:
    ratings = ratings_of(np.random.default_rng(1).integers(1, 6, (12, 11)).astype(float))
    assert mean_opinion(ratings[::-1]) == mean_opinion(ratings)
    choices = simulated_choices(np.random.default_rng(1), [0.5, 0, -0.5], raters=5, shots=4)
    assert preference(choices[::-1], "abc") == preference(choices, "abc")


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_one_rater_or_one_person_gives_no_interval_over_both(shape: tuple[int, int]) -> None:
    found = mean_opinion(ratings_of(np.random.default_rng(2).integers(1, 6, shape).astype(float)))
    assert (found.low, found.high, found.p) == (None, None, None)
    assert (found.raters_low is None) == (shape[0] == 1)


@pytest.mark.parametrize("score", [1.0, 4.0, 5.0])
def test_raters_who_all_say_the_same_leave_room_for_one_who_would_not(score: float) -> None:
    widths = []
    for count in (2, 8, 16):
        found = mean_opinion(ratings_of(np.full((count, count), score)))
        t = student.ppf(0.975, count - 1)
        both, raters = t * math.sqrt(2) / count, t / count  # a rater, and a person, one step off
        assert found.point == score
        assert [found.low, found.high] == pytest.approx([max(1, score - both), min(5, score + both)])
        assert [found.raters_low, found.raters_high] == pytest.approx([max(1, score - raters), min(5, score + raters)])
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)


def test_a_difference_that_all_raters_see_alike_is_significant_but_never_more_than_signs_allow() -> None:
    for count, claimed in ((5, False), (6, True), (8, True)):
        better, worse = (ratings_of(np.full((count, count), score), name) for name, score in (("a", 5.0), ("b", 2.0)))
        found = opinion_difference([*better, *worse], "a", "b")
        assert found is not None
        assert found.point == 3
        assert found.p == (pytest.approx(2 / 2**count) if claimed else None)
        assert found.low is not None
        assert (found.low > 0) == (count > 2)


def test_no_difference_at_all_is_no_claim_and_ranks_are_shown_only_where_one_was_tested() -> None:
    for count, rank in ((8, 1), (5, None)):
        same = [*ratings_of(np.full((count, count), 3.0), "a"), *ratings_of(np.full((count, count), 3.0), "b")]
        found = opinion_difference(same, "a", "b")
        assert found is not None
        assert found.p == (1.0 if rank else None)
        assert ranked("ab", {("a", "b"): found})[1] == {"a": rank, "b": rank}


def test_no_ratings_have_no_mean() -> None:
    with pytest.raises(UsageError, match="no ratings"):
        mean_opinion([])


def test_a_difference_is_taken_within_rater_and_clip() -> None:
    base = np.random.default_rng(3).integers(1, 4, (9, 8)).astype(float)  # raters and clips differ widely
    better = base + 1
    better[0, 0] += 1
    found = opinion_difference([*ratings_of(better, "a"), *ratings_of(base, "b")], "a", "b")
    assert found is not None
    assert found.point == pytest.approx(1 + 1 / 72)
    assert found.p == pytest.approx(2 / 2**8)  # no more than the signs of eight people allow
    alone = [*ratings_of(better[:, :3], "a"), *[r for r in ratings_of(base, "b") if r.shot > "shot2"]]
    assert opinion_difference(alone, "a", "b") is None


def test_with_five_raters_no_difference_is_claimed() -> None:
    scores = np.random.default_rng(4).integers(1, 6, (5, 20)).astype(float)
    found = opinion_difference([*ratings_of(scores, "a"), *ratings_of(scores[::-1] - 3, "b")], "a", "b")
    assert found is not None
    assert found.p is None


# ---------------------------------------------------------------- preferences


def simulated_choices(
    rng: np.random.Generator,
    strengths: Sequence[float],
    *,
    raters: int,
    shots: int,
    taste: float = 0.0,
    luck: float = 0.0,
) -> list[Choice]:
    """Raters who follow Bradley and Terry, each with own taste, on shots that suit one model more than another."""
    names = "abcdefgh"[: len(strengths)]
    tastes = rng.normal(0, taste, (raters, len(strengths)))
    lucks = rng.normal(0, luck, (shots, len(strengths)))
    found = []
    for r, s, (i, j) in itertools.product(
        range(raters), range(shots), itertools.combinations(range(len(strengths)), 2)
    ):
        logit = strengths[i] - strengths[j] + tastes[r, i] - tastes[r, j] + lucks[s, i] - lucks[s, j]
        won = float(rng.random() < 1 / (1 + math.exp(-logit)))
        found.append(Choice(f"rater{r}", names[i], names[j], f"shot{s}", f"person{s}", won))
    return found


def test_strengths_are_those_of_greatest_posterior_likelihood() -> None:
    wins = np.random.default_rng(5).integers(0, 12, (4, 4)).astype(float)
    np.fill_diagonal(wins, 0)

    def loss(beta: np.ndarray) -> float:
        chances = np.log1p(np.exp(beta[None, :] - beta[:, None]))
        prior = 0.5 * (np.log1p(np.exp(-beta)) + np.log1p(np.exp(beta)))
        return float((wins * chances).sum() + prior.sum())

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9}).x
    assert bradley_terry(wins) == pytest.approx(best - best.mean(), abs=1e-5)


def test_two_models_differ_by_the_logarithm_of_their_odds() -> None:
    beta = bradley_terry(np.array([[0, 3e6], [1e6, 0]]))
    assert beta[0] - beta[1] == pytest.approx(math.log(3), abs=1e-5)


def test_a_model_that_always_wins_has_a_finite_strength() -> None:
    beta = bradley_terry(np.array([[0.0, 9, 9], [0, 0, 5], [0, 4, 0]]))
    assert np.isfinite(beta).all()
    assert beta[0] > beta[1] > beta[2]
    assert beta.sum() == pytest.approx(0)


def test_ties_pull_strengths_together() -> None:
    won = [Choice(f"r{r}", "a", "b", "s", f"p{r}", 1.0) for r in range(8)]
    tied = [Choice(f"t{r}", "a", "b", "s", f"p{r}", 0.5) for r in range(8)]
    alone, both = (preference(choices, "ab").strength["a"].point for choices in (won, won + tied))
    assert 0 < both < alone
    assert preference(tied, "ab").strength["a"].point == pytest.approx(0)


def test_the_influence_of_an_answer_is_what_doubling_it_a_little_does() -> None:
    choices = simulated_choices(np.random.default_rng(6), [0.8, 0, -0.8], raters=30, shots=8, taste=0.8)
    many = preference(choices, "abc")
    wins = np.zeros((3, 3))
    for c in choices:
        wins["abc".index(c.first), "abc".index(c.second)] += c.outcome
        wins["abc".index(c.second), "abc".index(c.first)] += 1 - c.outcome
    by_rater = []
    for rater in sorted({c.rater for c in choices}):
        nudged = wins.copy()
        for c in (c for c in choices if c.rater == rater):
            nudged["abc".index(c.first), "abc".index(c.second)] += 1e-4 * c.outcome
            nudged["abc".index(c.second), "abc".index(c.first)] += 1e-4 * (1 - c.outcome)
        by_rater.append((bradley_terry(nudged) - bradley_terry(wins))[0] / 1e-4)
    spread = math.sqrt(30 / 29 * float(((np.array(by_rater) - np.mean(by_rater)) ** 2).sum()))
    found = many.strength["a"]
    assert found.raters_low is not None
    assert found.raters_high is not None
    # with so many answers the profile is a parabola, and the interval that of a standard error
    assert (found.raters_high - found.raters_low) / 2 == pytest.approx(student.ppf(0.975, 29) * spread, rel=0.05)


def unanimous(raters: int, people: int, outcome: float = 1.0) -> list[Choice]:
    return [
        Choice(f"r{r}", "a", "b", f"s{k}", f"p{k}", outcome) for r, k in itertools.product(range(raters), range(people))
    ]


def chances_of(found: Estimate) -> list[float]:
    """Ends of both intervals as chances."""
    ends = (found.low, found.high, found.raters_low, found.raters_high)
    assert None not in ends
    return [1 / (1 + math.exp(-end)) for end in ends if end is not None]


@pytest.mark.parametrize("raters", [6, 8, 12, 20])
def test_raters_of_one_mind_are_evidence_and_the_interval_is_that_of_so_many_raters(raters: int) -> None:
    found = preference(unanimous(raters, raters), "ab").differences["a", "b"]
    low, high, raters_low, raters_high = chances_of(found)
    t = student.ppf(0.975, raters - 1)
    assert low == pytest.approx(math.exp(-(t**2) / 2 / raters), abs=0.15 / raters)  # as if each had answered once
    assert (raters_low, raters_high) == pytest.approx((low, high))
    assert high > 0.999
    assert found.p is not None
    assert found.p < 0.05
    none = preference(unanimous(raters, raters, 0.0), "ab").differences["a", "b"]
    assert chances_of(none) == pytest.approx([1 - high, 1 - low, 1 - raters_high, 1 - raters_low], abs=1e-6)
    assert none.p == pytest.approx(found.p)


def test_one_rater_gives_no_interval_and_two_of_one_mind_next_to_none() -> None:
    alone = preference(unanimous(1, 8), "ab").differences["a", "b"]
    assert (alone.low, alone.high, alone.raters_low, alone.raters_high, alone.p) == (None,) * 5
    two = preference(unanimous(2, 8), "ab").differences["a", "b"]
    low, high, *_ = chances_of(two)
    assert low < 0.01
    assert high > 0.99
    assert two.p is None


def test_ties_alone_are_no_difference_and_have_an_interval() -> None:
    found = preference(unanimous(8, 8, 0.5), "ab").differences["a", "b"]
    low, high, *_ = chances_of(found)
    assert 0.2 < low < 0.5 < high < 0.8
    assert found.p == pytest.approx(1)


def test_many_answers_of_one_rater_do_not_make_him_many_raters() -> None:
    few, many = (preference(unanimous(8, people), "ab").differences["a", "b"] for people in (8, 30))
    assert chances_of(many)[0] == pytest.approx(chances_of(few)[0], abs=0.02)


def test_nothing_compared_is_said() -> None:
    with pytest.raises(UsageError, match="nothing was compared"):
        preference([], "ab")


def test_simulated_raters_give_back_the_order_they_were_given() -> None:
    choices = simulated_choices(
        np.random.default_rng(7), [1.2, 0.4, -0.4, -1.2], raters=15, shots=10, taste=0.3, luck=0.3
    )
    found = preference(choices, "abcd")
    strengths = [found.strength[name].point for name in "abcd"]
    assert strengths == sorted(strengths, reverse=True)
    adjusted, rank = ranked("abcd", found.differences)
    assert [rank[name] for name in "abcd"] == [1, 2, 3, 4]
    assert all(p is not None and p < 0.05 for p in adjusted.values())


def test_equal_models_share_the_first_rank() -> None:
    found = preference(simulated_choices(np.random.default_rng(8), [0, 0, 0], raters=12, shots=10), "abc")
    assert set(ranked("abc", found.differences)[1].values()) == {1}


# ---------------------------------------------------------------- coverage


def opinion_coverage(raters: int, people: int, studies: int, seed: int) -> float:
    """How often the interval holds the mean, where raters, people and what both make of each other vary."""
    rng, hits = np.random.default_rng(seed), 0
    for _study in range(studies):
        scores = (
            3 + rng.normal(0, 0.5, (raters, 1)) + rng.normal(0, 0.5, (1, people)) + rng.normal(0, 0.9, (raters, people))
        )
        hits += holds(mean_opinion(ratings_of(scores)), 3.0)
    return hits / studies


def strength_coverage(raters: int, people: int, studies: int, seed: int, *, vary: float) -> float:
    """The same of the difference between the best and the worst of three models."""
    rng, hits = np.random.default_rng(seed), 0
    given = [0.7, 0.0, -0.7]
    seen = pooled_difference(given, vary)
    for _study in range(studies):
        choices = simulated_choices(rng, given, raters=raters, shots=people, taste=vary, luck=vary)
        hits += holds(preference(choices, "abc").differences["a", "c"], seen)
    return hits / studies


def pooled_difference(given: Sequence[float], vary: float) -> float:
    """What the first and the last strength differ by when all answers are pooled: tastes and luck blur it."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    gaps = np.subtract.outer(given, given)[..., None] + 2 * vary * nodes  # four deviates of standard deviation `vary`
    chances = (weights / weights.sum() / (1 + np.exp(-gaps))).sum(axis=-1)
    np.fill_diagonal(chances, 0)
    strengths = bradley_terry(1e6 * chances)
    return float(strengths[0] - strengths[-1])


def holds(found: Estimate, value: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= value <= found.high


def extreme_coverage(raters: int, people: int, chance: float, studies: int, *, alike: bool) -> float:
    """Of intervals where ``a`` is preferred with a chance near 1: by all raters, or each rater always or never."""
    rng, hits = np.random.default_rng(11), 0
    for _study in range(studies):
        own = np.full(raters, chance) if alike else (rng.random(raters) < chance).astype(float)
        won = rng.random((raters, people)) < own[:, None]
        choices = [Choice(f"r{r}", "a", "b", f"s{k}", f"p{k}", float(won[r, k])) for r, k in np.ndindex(*won.shape)]
        low, high, *_ = chances_of(preference(choices, "ab").differences["a", "b"])
        hits += low <= chance <= high
    return hits / studies


@pytest.mark.parametrize("alike", [True, False])
def test_intervals_cover_a_preference_that_nearly_all_share(alike: bool) -> None:
    assert extreme_coverage(8, 4, 0.95, 25, alike=alike) >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("chance", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize(("raters", "people"), [(8, 8), (12, 4), (20, 6)])
def test_intervals_of_extreme_preferences_cover_over_many_studies(
    raters: int, people: int, chance: float, alike: bool
) -> None:
    assert extreme_coverage(raters, people, chance, 300, alike=alike) >= 0.92


def unanimity_coverage(raters: int, people: int, share: float, studies: int) -> float:
    """Of intervals of a mean opinion where a share of raters always says 4 and the others 5."""
    rng, hits = np.random.default_rng(12), 0
    for _study in range(studies):
        scores = np.repeat(5.0 - (rng.random(raters) < share)[:, None], people, axis=1)
        hits += holds(mean_opinion(ratings_of(scores)), 5 - share)
    return hits / studies


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2])
def test_intervals_cover_an_opinion_that_nearly_all_share(share: float) -> None:
    assert unanimity_coverage(10, 8, share, 150) >= 0.92


def test_intervals_of_opinions_cover() -> None:
    assert 0.90 <= opinion_coverage(15, 12, 150, seed=0) <= 0.99


def test_intervals_of_preferences_cover() -> None:
    assert 0.90 <= strength_coverage(12, 12, 60, seed=0, vary=0.5) <= 0.99


def test_intervals_are_found_where_the_posterior_is_flat() -> None:
    """In the 43rd of these studies a whole step of Newton's method leads to where no curvature is left in doubles."""
    rng = np.random.default_rng(1)
    for _study in range(43):
        choices = simulated_choices(rng, [0.7, 0.0, -0.7], raters=20, shots=8, taste=0.5, luck=0.5)
    found = preference(choices, "abc").differences["a", "c"]
    assert found.low is not None and found.high is not None
    assert found.low < found.point < found.high < found.point + 16  # the farthest that is looked


@pytest.mark.slow
@pytest.mark.parametrize(("raters", "people"), [(8, 8), (20, 8), (10, 4), (15, 12), (30, 12), (20, 20)])
def test_intervals_of_opinions_cover_over_many_studies(raters: int, people: int) -> None:
    most = 0.999 if people < 6 else 0.99  # the least variance makes intervals over few people wide
    assert 0.92 <= opinion_coverage(raters, people, 2000, seed=1) <= most


@pytest.mark.slow
@pytest.mark.parametrize("vary", [0.0, 0.5])
@pytest.mark.parametrize(("raters", "people"), [(8, 8), (20, 8), (12, 12), (20, 20)])
def test_intervals_of_preferences_cover_over_many_studies(raters: int, people: int, vary: float) -> None:
    assert 0.92 <= strength_coverage(raters, people, 600, seed=1, vary=vary) <= 1.0


def test_variances_of_several_estimates_at_once_are_those_one_by_one() -> None:
    rng = np.random.default_rng(9)
    influence = rng.normal(size=(60, 3))
    influence -= influence.mean(axis=0)
    raters, people = [f"r{k % 12}" for k in range(60)], [f"p{k % 11}" for k in range(60)]
    together = crossed_variances(influence, raters, people)
    assert together.both is not None
    assert together.raters is not None
    for k in range(3):
        alone = crossed_variances(influence[:, [k]], raters, people)
        assert alone.both == pytest.approx(together.both[[k]]) and alone.raters == pytest.approx(together.raters[[k]])


# ---------------------------------------------------------------- agreement


@pytest.mark.parametrize(("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_the_published_one(metric: str, published: float) -> None:
    units = {unit: [row[unit] for row in KRIPPENDORFF if row[unit] is not None] for unit in range(12)}
    assert krippendorff_alpha(units, metric) == pytest.approx(published, abs=5e-4)  # type: ignore[arg-type]


def test_raters_who_agree_have_an_alpha_of_one_and_raters_who_guess_one_near_zero() -> None:
    rng = np.random.default_rng(10)
    assert krippendorff_alpha({unit: [unit % 5] * 4 for unit in range(10)}) == pytest.approx(1)
    guessed = krippendorff_alpha({unit: list(rng.integers(1, 6, 6)) for unit in range(400)})
    assert guessed == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("units", [{}, {0: [3], 1: [4]}, {0: [3, 3], 1: [3, 3]}])
def test_alpha_needs_two_values_that_could_differ(units: dict[Hashable, list[float]]) -> None:
    assert krippendorff_alpha(units) is None


# ---------------------------------------------------------------- who is excluded

GOOD = {
    "checks": [True] * 4, "hurried": [False] * 20, "scores": [1, 2, 3, 4, 5] * 6, "sides": ["left", "right"] * 6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"checks": [True, True, False, False]}, "attention: 2 of 4 checks missed"),
        ({"checks": [True, False]}, "attention: 1 of 2 checks missed"),
        ({"hurried": [True] * 6 + [False] * 14}, "too fast: 6 of 20 trials"),
        ({"scores": [3] * 30}, r"constant: the same score \(3\) 30 times"),
        ({"sides": ["left"] * 12}, r"constant: the same side \(left\) 12 times"),
    ],
)
def test_a_rater_is_excluded_with_the_reason(change: dict[str, list[object]], reason: str) -> None:
    (found,) = reasons_to_exclude(Conduct(**{**GOOD, **change}))  # type: ignore[arg-type]
    assert re.search(reason, found)


@pytest.mark.parametrize(
    "change",
    [{}, {"checks": [True, True, True, False]}, {"hurried": [True] * 5 + [False] * 15}, {"sides": ["left"] * 7}],
)
def test_a_single_slip_is_forgiven(change: dict[str, list[object]]) -> None:
    assert reasons_to_exclude(Conduct(**{**GOOD, **change})) == []  # type: ignore[arg-type]


def test_all_reasons_are_told() -> None:
    lazy = Conduct([False, False], [True] * 10, [5] * 9, ["right"] * 8)
    kinds = [reason.partition(":")[0] for reason in reasons_to_exclude(lazy)]
    assert kinds == ["attention", "too fast", "constant", "constant"]
