"""Which model raters prefer: strengths by Bradley and Terry, with intervals."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.study import Estimate, crossed_estimates
from g4g_core.errors import UsageError

_PRIOR = 0.5
"""Comparisons that every model is taken to have won, and to have lost, against a model of strength 0."""


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
        chance, prior = _chances(strength)
        slope = (wins * (1 - chance) - wins.T * chance).sum(axis=1) + _PRIOR * (1 - 2 * prior)
        step = np.linalg.solve(_information(wins + wins.T, strength), slope)
        if np.abs(step).max() < 1e-6:  # the next one would be of the order of its square
            strength = strength + step
            return np.asarray(strength - strength.mean())
        while (better := _log_posterior(wins, strength + step)) < reached - 1e-12 * abs(reached):
            step = step / 2
        strength, reached = strength + step, better


def _chances(strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [M, M] that the row's model is preferred to the column's, and [M] to one of strength 0."""
    return 1 / (1 + np.exp(strength - strength[:, None])), 1 / (1 + np.exp(-strength))


def _log_posterior(wins: np.ndarray, strength: np.ndarray) -> float:
    prior = np.logaddexp(0, strength) + np.logaddexp(0, -strength)
    return -float((wins * np.logaddexp(0, strength - strength[:, None])).sum() + _PRIOR * prior.sum())


def _information(games: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """float64 [M, M]: less the second derivative of the logarithm of the posterior."""
    chance, prior = _chances(strength)
    shared = games * chance * (1 - chance)
    return np.asarray(np.diag(shared.sum(axis=1) + 2 * _PRIOR * prior * (1 - prior)) - shared)


def preference(choices: Sequence[Choice], models: Sequence[str], *, level: float = 0.95) -> Preference:
    """Strengths and their differences.

    The influence of an answer is that of a sandwich estimator: the inverse of the information times its score.

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

    chance = 1 / (1 + np.exp(beta[second] - beta[first]))
    design = np.zeros((len(kept), len(models)))
    design[np.arange(len(kept)), first] = 1
    design[np.arange(len(kept)), second] = -1
    influence = ((outcome - chance)[:, None] * design) @ np.linalg.inv(_information(wins + wins.T, beta))
    influence -= influence.mean(axis=1, keepdims=True)  # strengths add up to 0
    influence -= influence.mean(axis=0)  # the rest is the prior's

    pairs = list(itertools.combinations(range(len(models)), 2))
    contrast = np.array([[(k == i) - (k == j) for k in range(len(models))] for i, j in pairs], float)
    found = crossed_estimates(
        np.concatenate([beta, contrast @ beta]),
        np.concatenate([influence, influence @ contrast.T], axis=1),
        [c.rater for c in kept],
        [c.identity for c in kept],
        level=level,
    )
    return Preference(
        strength=dict(zip(models, found, strict=False)),
        differences={(models[i], models[j]): found[len(models) + k] for k, (i, j) in enumerate(pairs)},
    )
