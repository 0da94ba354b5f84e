"""What a blind user study says: mean opinions, and how sure we are of them and of preferences.

Raters and the people in the clips are both samples: another group of raters, or other faces, would have given other
numbers. Every estimate has two intervals, one over both (the one to quote) and one over raters alone (these clips,
other raters). Their variances follow from what each answer adds to the estimate: :func:`crossed_variances`.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.stats import (
    FEW_CLUSTERS,
    MIN_CLUSTERS_FOR_SIGNIFICANCE,
    cluster_interval,
    holm,
    ranks,
    sign_flip_p,
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
        low: of the interval over raters and identities; ``None`` with fewer than 2 of either.
        high: as ``low``.
        raters_low: of the interval over raters, for these very clips; ``None`` with fewer than 2.
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


@dataclasses.dataclass(frozen=True)
class Variances:
    """Of K estimates, float64 [K] each; ``None`` with fewer than 2 raters, or of either.

    Attributes:
        raters: over raters, for these very clips.
        both: over raters and identities.
        counts: of raters, and of identities.
    """

    raters: np.ndarray | None
    both: np.ndarray | None
    counts: tuple[int, int]

    @property
    def claimed(self) -> bool:
        """Whether there are enough raters and identities to call a difference significant."""
        return min(self.counts) >= MIN_CLUSTERS_FOR_SIGNIFICANCE

    @property
    def few(self) -> bool:
        return min(self.counts) < FEW_CLUSTERS


def crossed_variances(influence: np.ndarray, raters: Sequence[str], identities: Sequence[str]) -> Variances:
    """Variances of estimates from what each answer adds to them.

    Over raters and identities: V = V_raters + V_identities - V_cells (Cameron, Gelbach and Miller, Journal of Business
    & Economic Statistics, 2011), each V_c = G / (G - 1) sum_g (sum of the influence in g)^2, not less than the larger
    of the first two. With raters who all say the same it is 0, which is no estimate: callers set a floor.

    Args:
        influence: float [n, K], how far each answer moves each estimate; every column adds up to 0.
        raters: [n], who gave the answer.
        identities: [n], the person in the clip it is about.
    """
    by_rater, by_identity = cluster_sums(influence, raters), cluster_sums(influence, identities)
    cells = cluster_sums(
        influence, [f"{len(rater)} {rater} {who}" for rater, who in zip(raters, identities, strict=True)]
    )
    counts = (len(by_rater), len(by_identity))
    if min(counts) < 2:
        return Variances(None if counts[0] < 2 else _variance(by_rater), None, counts)
    parts = [_variance(sums) for sums in (by_rater, by_identity, cells)]
    both = np.maximum(parts[0] + parts[1] - parts[2], np.maximum(parts[0], parts[1]))
    return Variances(parts[0], both, counts)


def mean_opinion(ratings: Sequence[Rating], *, level: float = 0.95) -> Estimate:
    """The mean score of one model on one scale (mean opinion score, ITU-T P.800.1).

    Over raters and identities the interval is that of Student's t with min(G) - 1 degrees of freedom, over raters
    alone the bootstrap of whole raters of :func:`evaluation.stats.cluster_interval` (t under 10 raters). Raters who
    all say the same do not show that others would: no mean is taken to be known better than if one rater (and one
    person in the clips) had been scored one step off the others, so the variance is at least 1 / raters^2 (+ 1 /
    identities^2). No interval leaves the scale.

    Coverage at a level of 0.95: see docs/study.md. Over raters alone the mean over other people, too, is held by 0.77
    to 0.87: that interval is about these clips.

    Raises:
        UsageError: there are no ratings.
    """
    return _mean([r.score for r in ratings], [r.rater for r in ratings], [r.identity for r in ratings], level, (1, 5))


def opinion_difference(ratings: Sequence[Rating], first: str, second: str, *, level: float = 0.95) -> Estimate | None:
    """Mean of (score of ``first`` less score of ``second``) over what one rater said of the same clip of both.

    The interval is made as that of :func:`mean_opinion`. The p value is that of the same t, and never less than the
    signs of whole raters, or of whole identities, flipped give (:func:`evaluation.stats.sign_flip_p`).

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
    raters, identities = [place[0] for place in both], [place[2] for place in both]
    estimate = _mean(list(both.values()), raters, identities, level, (-4, 4))
    if estimate.p is None:
        return estimate
    values = np.array(list(both.values()), float)[:, None]
    flipped = [float(sign_flip_p(cluster_sums(values, labels)[:, 0])) for labels in (raters, identities)]
    return dataclasses.replace(estimate, p=max(estimate.p, *flipped))


def ranked(
    models: Sequence[str], differences: Mapping[tuple[str, str], Estimate]
) -> tuple[dict[tuple[str, str], float | None], dict[str, int | None]]:
    """p values adjusted over all pairs (Holm), and ranks: 1 + the number of models that are significantly better.

    Where no pair was tested nothing can be said of any rank, and all are ``None``.

    Args:
        models: those to be ranked.
        differences: first less second, higher is better; a pair that was never compared may be missing.
    """
    adjusted = dict(zip(differences, holm([found.p for found in differences.values()]), strict=True))
    if all(p is None for p in adjusted.values()):
        return adjusted, dict.fromkeys(models)
    effects: dict[tuple[str, str], tuple[float, float | None]] = {
        pair: (differences[pair].point, adjusted[pair]) if pair in differences else (0.0, None)
        for pair in itertools.combinations(models, 2)
    }
    return adjusted, {**ranks(models, effects, higher_is_better=True)}


def fewest_to_tell_apart(n_models: int, alpha: float = 0.05) -> int:
    """Raters, and people in the clips, from which on scores can tell any two of so many models apart.

    Where all of n agree, the signs of whole people, flipped, give a p value of 2 / 2^n, and Holm multiplies it by the
    number of pairs. For up to 30 models: of more no number is enough, for p values end where flips are drawn.
    """
    pairs = math.comb(n_models, 2)
    n = MIN_CLUSTERS_FOR_SIGNIFICANCE
    while pairs * 2.0 ** (1 - n) >= alpha:
        n += 1
    return n


def cluster_sums(influence: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """float64 [G, K]: what the answers (float [n, K]) under each label add up to."""
    names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), influence.shape[1]))
    np.add.at(sums, codes, influence)
    return sums


def two_sided(t: float, freedom: int) -> float:
    """Chance that Student's t with ``freedom`` degrees of freedom is at least as far from 0 as ``t``."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))


def _mean(
    values: Sequence[float], raters: Sequence[str], identities: Sequence[str], level: float, ends: tuple[float, float]
) -> Estimate:
    if not values:
        raise UsageError("there are no ratings to take the mean of", "Collect answers first.")
    order = sorted(range(len(values)), key=lambda k: (raters[k], identities[k], values[k]))  # sums follow no file order
    scores = np.array([values[k] for k in order], float)
    raters, identities = [raters[k] for k in order], [identities[k] for k in order]
    point = float(scores.mean())
    influence = ((scores - point) / len(scores))[:, None]
    found = crossed_variances(influence, raters, identities)
    least_raters, least_both = 1 / found.counts[0] ** 2, (1 / np.array(found.counts) ** 2).sum()
    low = high = raters_low = raters_high = p = None
    if found.raters is not None:
        if found.raters[0] <= least_raters:
            half = t_quantile(level, found.counts[0] - 1) * math.sqrt(least_raters)
            raters_low, raters_high = point - half, point + half
        else:
            pseudo = point + found.counts[0] * cluster_sums(influence, raters)[:, 0]
            drawn_low, drawn_high, _ = cluster_interval(pseudo, np.ones(len(pseudo)), level=level)
            raters_low, raters_high = float(drawn_low), float(drawn_high)
    if found.both is not None:
        error, freedom = math.sqrt(max(found.both[0], least_both)), min(found.counts) - 1
        half = t_quantile(level, freedom) * error
        low, high = point - half, point + half
        p = two_sided(point / error, freedom) if found.claimed else None
    low, high, raters_low, raters_high = (
        None if end is None else min(max(end, ends[0]), ends[1]) for end in (low, high, raters_low, raters_high)
    )
    return Estimate(point, low, high, raters_low, raters_high, p, len(scores), *found.counts, found.few)


def _variance(sums: np.ndarray) -> np.ndarray:
    """float64 [K]."""
    groups = len(sums)
    return np.asarray(groups / (groups - 1) * (sums**2).sum(axis=0))
