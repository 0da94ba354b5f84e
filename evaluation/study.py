"""What a blind user study says: mean opinions, and how sure we are of them and of preferences.

Raters and the people in the clips are both samples: another group of raters, or other faces, would have given other
numbers. Every estimate has two intervals, one over both (the one to quote) and one over raters alone (these clips,
other raters). All are linear in the answers or made so, therefore one function makes them all: it is given what each
answer adds to the estimate.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.stats import (
    FEW_CLUSTERS,
    MIN_CLUSTERS_FOR_SIGNIFICANCE,
    cluster_interval,
    holm,
    ranks,
    t_quantile,
)
from g4g_core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Rating:
    """One score of one clip by one rater.

    Attributes:
        scale: ``sync``, ``fidelity`` or ``identity``.
        identity: the person in the clip.
        score: 1 (worst) ... 5 (best).
    """

    rater: str
    scale: str
    model: str
    shot: str
    identity: str
    score: int


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its intervals.

    Attributes:
        point: in the unit of what is estimated.
        low: of the interval over raters and identities; ``None`` with fewer than 2 of either, or without any spread.
        high: as ``low``.
        raters_low: of the interval over raters, for these very clips; ``None`` with fewer than 2, or without spread.
        raters_high: as ``raters_low``.
        p: two-sided p value of "it is 0", over raters and identities; ``None`` with fewer than 6 of either.
        n: answers.
        raters: who gave them.
        identities: people in the clips.
        few: fewer than 10 of either: to be marked.
    """

    point: float
    low: float | None
    high: float | None
    raters_low: float | None
    raters_high: float | None
    p: float | None
    n: int
    raters: int
    identities: int
    few: bool


def crossed_estimates(
    points: np.ndarray,
    influence: np.ndarray,
    raters: Sequence[str],
    identities: Sequence[str],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> list[Estimate]:
    """Intervals of estimates from what each answer adds to them.

    Over raters and identities: V = V_raters + V_identities - V_cells (Cameron, Gelbach and Miller, Journal of Business
    & Economic Statistics, 2011), each V_c = G / (G - 1) sum_g (sum of the influence in g)^2, not less than the larger
    of the first two, and Student's t with min(G) - 1 degrees of freedom. Over raters alone: the bootstrap of whole
    raters of :func:`evaluation.stats.cluster_interval` (t under 10 raters).

    Coverage at a level of 0.95 where answers depend on the rater, on the person and on chance, measured with 2,000
    simulated studies of opinions each: 0.95 to 0.96 for 8 to 30 raters and 8 to 20 people, 0.99 for 10 raters and 4
    people; with 600 of preferences each: 0.95 to 0.99. Over raters alone the same truth (other people, too) is held by
    0.77 to 0.87: that interval is about these clips.

    Args:
        points: float [K], the estimates.
        influence: float [n, K], how far each answer moves each estimate; every column adds up to 0.
        raters: [n], who gave the answer.
        identities: [n], the person in the clip it is about.
        level: share of such intervals that hold the true value, 0 ... 1.
        seed: of the resamples of raters.
    """
    by_rater, by_identity = _sums(influence, raters), _sums(influence, identities)
    cells = _sums(influence, [f"{len(rater)} {rater} {who}" for rater, who in zip(raters, identities, strict=True)])
    counts = (len(by_rater), len(by_identity))
    noise = 1e-18 * (np.abs(influence).sum(axis=0) ** 2)  # what rounding alone leaves of sums that cancel
    spread, error = np.zeros(len(points), bool), np.zeros(len(points))
    if min(counts) >= 2:
        parts = [_variance(sums) for sums in (by_rater, by_identity, cells)]
        variance = np.maximum(parts[0] + parts[1] - parts[2], np.maximum(parts[0], parts[1]))
        spread, error = variance > noise, np.sqrt(variance)
    alone_low = alone_high = np.zeros(len(points))
    if counts[0] >= 2:
        pseudo = points[:, None] + counts[0] * by_rater.T
        alone_low, alone_high, _ = cluster_interval(pseudo, np.ones(counts[0]), level=level, seed=seed)
    alone = np.zeros(len(points), bool) if counts[0] < 2 else _variance(by_rater) > noise
    t = t_quantile(level, min(counts) - 1) if min(counts) >= 2 else 0.0
    claimed = min(counts) >= MIN_CLUSTERS_FOR_SIGNIFICANCE
    return [
        Estimate(
            point=float(point),
            low=float(point - t * error[k]) if spread[k] else None,
            high=float(point + t * error[k]) if spread[k] else None,
            raters_low=float(alone_low[k]) if alone[k] else None,
            raters_high=float(alone_high[k]) if alone[k] else None,
            p=_two_sided(point / error[k], min(counts) - 1) if claimed and spread[k] else None,
            n=len(influence),
            raters=counts[0],
            identities=counts[1],
            few=min(counts) < FEW_CLUSTERS,
        )
        for k, point in enumerate(points)
    ]


def mean_opinion(ratings: Sequence[Rating], *, level: float = 0.95) -> Estimate:
    """The mean score of one model on one scale (mean opinion score, ITU-T P.800.1).

    Raises:
        UsageError: there are no ratings.
    """
    return _mean([r.score for r in ratings], [r.rater for r in ratings], [r.identity for r in ratings], level)


def opinion_difference(ratings: Sequence[Rating], first: str, second: str, *, level: float = 0.95) -> Estimate | None:
    """Mean of (score of ``first`` less score of ``second``) over what one rater said of the same clip of both.

    Args:
        ratings: of one scale.

    Returns:
        ``None`` where nobody rated a clip of both.
    """
    found: dict[tuple[str, str, str], dict[str, int]] = collections.defaultdict(dict)
    for rating in ratings:
        found[rating.rater, rating.shot, rating.identity][rating.model] = rating.score
    both = {place: of[first] - of[second] for place, of in sorted(found.items()) if first in of and second in of}
    if not both:
        return None
    return _mean(list(both.values()), [place[0] for place in both], [place[2] for place in both], level)


def ranked(
    models: Sequence[str], differences: Mapping[tuple[str, str], Estimate]
) -> tuple[dict[tuple[str, str], float | None], dict[str, int]]:
    """p values adjusted over all pairs (Holm), and ranks: 1 + the number of models that are significantly better.

    Args:
        models: those to be ranked.
        differences: first less second, higher is better; a pair that was never compared may be missing.
    """
    adjusted = dict(zip(differences, holm([found.p for found in differences.values()]), strict=True))
    effects: dict[tuple[str, str], tuple[float, float | None]] = {
        pair: (differences[pair].point, adjusted[pair]) if pair in differences else (0.0, None)
        for pair in itertools.combinations(models, 2)
    }
    return adjusted, ranks(models, effects, higher_is_better=True)


def _mean(values: Sequence[float], raters: Sequence[str], identities: Sequence[str], level: float) -> Estimate:
    if not values:
        raise UsageError("there are no ratings to take the mean of", "Collect answers first.")
    order = sorted(range(len(values)), key=lambda k: (raters[k], identities[k], values[k]))  # sums follow no file order
    scores = np.array([values[k] for k in order], float)
    point = scores.mean()
    influence = ((scores - point) / len(scores))[:, None]
    (found,) = crossed_estimates(
        np.array([point]), influence, [raters[k] for k in order], [identities[k] for k in order], level=level
    )
    return found


def _sums(influence: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """float64 [G, K]: what the answers under each label add up to."""
    names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), influence.shape[1]))
    np.add.at(sums, codes, influence)
    return sums


def _variance(sums: np.ndarray) -> np.ndarray:
    """float64 [K]."""
    groups = len(sums)
    return np.asarray(groups / (groups - 1) * (sums**2).sum(axis=0))


def _two_sided(t: float, freedom: int) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))
