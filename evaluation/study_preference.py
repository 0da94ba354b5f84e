"""Which model raters prefer: strengths by Bradley and Terry, with intervals that hold where raters are of one mind."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.stats import t_quantile
from evaluation.study import Estimate, Variances, crossed_variances, two_sided
from g4g_core.errors import UsageError

_PRIOR = 0.5
"""Comparisons that every model is taken to have won, and to have lost, against a model of strength 0."""

_FARTHEST = 16.0
"""Ends of intervals are looked for so far from the point: a chance of 1 in 10^7."""

_HALVINGS = 24  # of the search for an end: to 1e-6
_MOST_STEPS = 50  # of Newton's method, which takes 5
_LONGEST_STEP = 4.0  # of a strength: where the posterior is flat, a step leads to where it has no curvature in doubles


@dataclasses.dataclass(frozen=True)
class Choice:
    """One comparison of two models on one clip by one rater.

    Attributes:
        outcome: 1 where ``first`` was preferred, 0 where ``second`` was, 0.5 where neither.
    """

    rater: str
    first: str
    second: str
    shot: str
    identity: str
    outcome: float


@dataclasses.dataclass(frozen=True)
class Preference:
    """Bradley and Terry's model of who is preferred.

    Attributes:
        strength: log-strength of every model, mean 0: ``first`` is preferred to ``second`` with the chance
            1 / (1 + exp(second - first)).
        differences: of the strengths, first less second, by pair of models in their order.
    """

    strength: Mapping[str, Estimate]
    differences: Mapping[tuple[str, str], Estimate]


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Log-strengths b of greatest posterior likelihood, by Newton's method.

    Bradley and Terry (Biometrika, 1952): i is preferred to j with the chance 1 / (1 + exp(b_j - b_i)). Every model is
    also taken to have won and lost half a comparison against one of strength 0, so that one that always won has a
    finite strength, and models that were never compared, not even through others, a known one. The logarithm of the
    posterior is strictly concave: a step that does not raise it is halved until it does.

    Args:
        wins: float [M, M], how often the row's model was preferred to the column's; a tie is half a win for both.

    Returns:
        float64 [M], mean 0.
    """
    strength = np.zeros(len(wins))
    reached = _log_posterior(wins, strength)
    while True:
        step = np.linalg.solve(_information(wins + wins.T, strength), _slope(wins, strength))
        if np.abs(step).max() < 1e-6:  # the next one would be of the order of its square
            strength = strength + step
            return np.asarray(strength - strength.mean())
        while (better := _log_posterior(wins, strength + step)) < reached - 1e-12 * abs(reached):
            step = step / 2
        strength, reached = strength + step, better


def _chances(strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [..., M, M] that the row's model is preferred to the column's, and [..., M] to one of strength 0."""
    from scipy.special import expit

    return expit(strength[..., :, None] - strength[..., None, :]), expit(strength)


def _log_posterior(wins: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """float64 [...] of strengths [..., M]."""
    lost = np.logaddexp(0, strength[..., None, :] - strength[..., :, None])
    prior = np.logaddexp(0, strength) + np.logaddexp(0, -strength)
    return np.asarray(-(wins * lost).sum(axis=(-2, -1)) - _PRIOR * prior.sum(axis=-1))


def _slope(wins: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """float64 [..., M]: the first derivative of the logarithm of the posterior."""
    chance, prior = _chances(strength)
    return np.asarray((wins * (1 - chance) - wins.T * chance).sum(axis=-1) + _PRIOR * (1 - 2 * prior))


def _information(games: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """float64 [..., M, M]: less the second derivative of the logarithm of the posterior."""
    chance, prior = _chances(strength)
    shared = games * chance * (1 - chance)
    own = shared.sum(axis=-1) + 2 * _PRIOR * prior * (1 - prior)
    return np.asarray(own[..., None] * np.eye(len(games)) - shared)


def preference(choices: Sequence[Choice], models: Sequence[str], *, level: float = 0.95) -> Preference:
    """Strengths and their differences.

    An interval holds the values whose profile of the posterior (the other strengths as they fit best) lies less than
    D t^2 / 2 below its top, in logarithms: t of Student with min(G) - 1 degrees of freedom, G the numbers of raters and
    of identities; p is the t at which 0 would be the end. D, the design effect, says how much answers of one rater, or
    about one person, repeat each other. It is the crossed variance of :func:`evaluation.study.crossed_variances` (the
    influence of an answer is that of a sandwich estimator: the inverse of the information times its score) over the
    variance that independent answers would have. Where few answers speak against the others, this quotient is known
    badly, and where none do, not at all: it is mixed with its greatest value, one answer's worth for all that a rater
    says of a model, which weighs as much as the prior's half comparison beside the information J that is left without
    it: D = (J V / V_independent + D_greatest / 2) / (J + 1 / 2), not less than 1.

    Unlike a standard error, this keeps its sense for a model that is always preferred: of two models, the interval of
    the chance then reaches down to about exp(-t^2 / 2 G). Coverage: see docs/study.md.

    Args:
        choices: all comparisons; those of models that are not named take no part.
        models: in the order of the result, 2 or more.

    Raises:
        UsageError: nothing was compared.
    """
    place = {model: k for k, model in enumerate(models)}
    kept = sorted(
        (c for c in choices if c.first in place and c.second in place),
        key=lambda c: (c.rater, c.shot, c.first, c.second),
    )
    if not kept:
        raise UsageError("nothing was compared", "A study needs answers to its preference trials.")
    first, second = (np.array([place[getattr(c, side)] for c in kept]) for side in ("first", "second"))
    outcome = np.array([c.outcome for c in kept])
    wins = np.zeros((len(models), len(models)))
    np.add.at(wins, (first, second), outcome)
    np.add.at(wins, (second, first), 1 - outcome)
    beta = bradley_terry(wins)

    design = np.zeros((len(kept), len(models)))
    design[np.arange(len(kept)), first] = 1
    design[np.arange(len(kept)), second] = -1
    covariance = np.linalg.inv(_information(wins + wins.T, beta))
    influence = ((outcome - _chances(beta)[0][first, second])[:, None] * design) @ covariance
    influence -= influence.mean(axis=0)  # the rest is the prior's

    pairs = list(itertools.combinations(range(len(models)), 2))
    alone = np.eye(len(models)) - 1 / len(models)
    contrasts = np.concatenate([alone, [alone[i] - alone[j] for i, j in pairs]])
    games = (wins + wins.T).sum(axis=1)
    most = np.concatenate([games, [max(games[i], games[j]) for i, j in pairs]])  # that bear on a contrast
    variances = crossed_variances(influence @ contrasts.T, [c.rater for c in kept], [c.identity for c in kept])
    independent = np.einsum("pi,ij,pj->p", contrasts, covariance, contrasts)
    found = _estimates(wins, beta, contrasts, variances, independent, most, len(kept), level)
    return Preference(
        strength=dict(zip(models, found, strict=False)),
        differences={(models[i], models[j]): found[len(models) + k] for k, (i, j) in enumerate(pairs)},
    )


def _estimates(
    wins: np.ndarray, beta: np.ndarray, contrasts: np.ndarray, variances: Variances, independent: np.ndarray,
    most: np.ndarray, n: int, level: float,
) -> list[Estimate]:  # fmt: skip
    """Of each contrast, float64 [P, M]: its point, its two intervals and its p value; see :func:`preference`."""
    profile = _Profile(wins, beta, contrasts)
    ends: dict[str, np.ndarray] = {}
    p = None
    # what is left of the information on a contrast, in units of comparisons, without the prior's
    known = np.maximum((contrasts**2).sum(axis=1) / (2 * independent) - _PRIOR, 0)
    for name, variance, groups in (
        ("raters_", variances.raters, variances.counts[0]), ("", variances.both, min(variances.counts))
    ):  # fmt: skip
        if variance is not None:
            mixed = (known * variance / independent + _PRIOR * most / groups) / (known + _PRIOR)
            effect = np.maximum(mixed, 1)
            reach = effect * t_quantile(level, groups - 1) ** 2 / 2
            ends[f"{name}low"], ends[f"{name}high"] = profile.end(reach, -1), profile.end(reach, 1)
            if not name and variances.claimed:
                t = np.sqrt(2 * profile.drop(np.zeros(len(contrasts))) / effect)
                p = [two_sided(one, groups - 1) for one in t]
    return [
        Estimate(
            point=float(point),
            **{
                name: float(ends[name][k]) if name in ends else None
                for name in ("low", "high", "raters_low", "raters_high")
            },
            p=None if p is None else p[k],
            n=n,
            raters=variances.counts[0],
            identities=variances.counts[1],
            few=variances.few,
        )
        for k, point in enumerate(contrasts @ beta)
    ]


class _Profile:
    """The greatest posterior at given values of contrasts, all contrasts at once.

    Args:
        wins: float64 [M, M].
        beta: float64 [M], the mode.
        contrasts: float64 [P, M], each with a sum of 0.
    """

    def __init__(self, wins: np.ndarray, beta: np.ndarray, contrasts: np.ndarray) -> None:
        self._wins, self._beta, self._contrasts = wins, beta, contrasts
        self._top = _log_posterior(wins, beta)
        # the first column of each Q is along the contrast, the others move nothing of it
        self._free = np.linalg.qr(contrasts[:, :, None], mode="complete").Q[:, :, 1:]

    def drop(self, values: np.ndarray) -> np.ndarray:
        """float64 [P], 0 or more: how far below its top the logarithm of the posterior stays at these values."""
        along = (values - self._contrasts @ self._beta) / (self._contrasts**2).sum(axis=1)
        strength = self._beta + along[:, None] * self._contrasts
        reached = _log_posterior(self._wins, strength)
        for _step in range(_MOST_STEPS):
            slope = np.einsum("pmf,pm->pf", self._free, _slope(self._wins, strength))
            bend = np.einsum(
                "pmf,pmn,png->pfg", self._free, _information(self._wins + self._wins.T, strength), self._free
            )
            step = np.linalg.solve(bend, slope[..., None])[..., 0]
            if (slope * step).sum(axis=1).max() < 1e-7:  # twice what is left to gain; far out a step says nothing
                break
            step = np.einsum("pmf,pf->pm", self._free, step)
            step *= _LONGEST_STEP / np.maximum(np.abs(step).max(axis=1, keepdims=True), _LONGEST_STEP)
            while (short := (better := _log_posterior(self._wins, strength + step)) < reached - 1e-9).any():
                step[short] /= 2
            strength, reached = strength + step, better
        return np.maximum(self._top - reached, 0)

    def end(self, reach: np.ndarray, side: int) -> np.ndarray:
        """float64 [P]: where, above (1) or below (-1) the top, the drop is ``reach``."""
        point = self._contrasts @ self._beta
        near, far = np.zeros(len(point)), np.full(len(point), _FARTHEST)
        for _halving in range(_HALVINGS):
            middle = (near + far) / 2
            inside = self.drop(point + side * middle) < reach
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        return np.asarray(point + side * (near + far) / 2)
