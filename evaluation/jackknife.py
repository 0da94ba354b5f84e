"""Intervals of set metrics (FID, FFD, KID): one number of all shots, which is no mean of scores of single shots.

A bootstrap resample holds shots twice, which moves a Frechet distance away from its own point: the bootstrap's interval
need not hold it. The delete-a-group jackknife leaves out one group of identities at a time instead, and is as near to
the whole as the metric can be.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from evaluation.stats import FEW_CLUSTERS, MIN_CLUSTERS_FOR_SIGNIFICANCE, Difference, Interval, t_quantile
from g4g_core.errors import UsageError

SetMetric = Callable[[np.ndarray], float]
"""From the rows to keep, int64 [k] ascending, to the set metric of these rows."""


def delete_groups(clusters: Sequence[str], at_most: int = 20) -> list[np.ndarray]:
    """Groups of whole identities, with about equally many shots each, to be left out one at a time.

    The identity with the most shots comes first (by label where they have the same number) and goes to the group that
    has the fewest so far. No chance is in it, and the order of the rows does not matter.

    Args:
        clusters: [n], the identity of each shot.
        at_most: groups at most, each a run of the metric; every identity is its own group where there are no more.

    Returns:
        For each group its rows, int64 ascending; together every row once.
    """
    shots = Counter(clusters)
    free = [(0, group) for group in range(min(at_most, len(shots)))]
    group_of: dict[str, int] = {}
    for label in sorted(shots, key=lambda label: (-shots[label], label)):
        held, group = free[0]
        group_of[label] = group
        heapq.heapreplace(free, (held + shots[label], group))
    groups = np.asarray([group_of[label] for label in clusters], dtype=np.int64)
    return [np.flatnonzero(groups == group) for group in range(len(free))]


def jackknife_interval(full: float, leave_out: Sequence[float], *, n: int, level: float = 0.95) -> Interval:
    """The interval of a set metric by the delete-a-group jackknife.

    The variance is (g - 1) / g times the sum of squares of the leave-outs about their mean (Shao and Tu, The Jackknife
    and Bootstrap, 1995, 2.3), and Student's t has g - 1 degrees of freedom. The interval lies about ``full``: it tells
    how far the metric of as many shots of other identities would lie. The bias that a Frechet distance of ``n`` shots
    has is not in it.

    Args:
        full: the metric of all shots.
        leave_out: the metric without each group; empty where all shots are of one group.
        n: shots.
        level: as in :func:`evaluation.stats.mean_interval`.

    Raises:
        UsageError: a metric that is not finite, or a level that is not between 0 and 1.
    """
    groups = max(len(leave_out), 1)
    error = _standard_error(full, leave_out)
    few = groups < FEW_CLUSTERS
    if error is None:
        return Interval(full, None, None, n, groups, "none", few)
    half = t_quantile(level, groups - 1) * error
    return Interval(full, full - half, full + half, n, groups, "jackknife", few)


def jackknife_set_metric(metric: SetMetric, groups: Sequence[np.ndarray], *, level: float = 0.95) -> Interval:
    """:func:`jackknife_interval` of ``metric``, computed on all rows and without each of ``groups``.

    Raises:
        UsageError: as :func:`jackknife_interval`.
    """
    kept = _kept_rows(groups)
    full, *leave_out = (metric(rows) for rows in kept)
    return jackknife_interval(full, leave_out, n=len(kept[0]), level=level)


def jackknife_set_difference(
    a: SetMetric, b: SetMetric, groups: Sequence[np.ndarray], *, level: float = 0.95
) -> Difference:
    """The set metric of model a less that of model b, both computed without the same groups.

    What makes a group of identities hard for both models, and most of the bias, cancels in the difference. The p value
    is that of Student's t, effect over standard error, with g - 1 degrees of freedom.

    Args:
        a: model a's metric of the rows to keep.
        b: model b's metric of the same rows.
        groups: as :func:`delete_groups` gives them.
        level: as in :func:`evaluation.stats.mean_interval`.

    Raises:
        UsageError: as :func:`jackknife_interval`.
    """
    kept = _kept_rows(groups)
    effect, *leave_out = (a(rows) - b(rows) for rows in kept)
    interval = jackknife_interval(effect, leave_out, n=len(kept[0]), level=level)
    possible = interval.clusters >= MIN_CLUSTERS_FOR_SIGNIFICANCE
    return Difference(
        effect=effect,
        low=interval.low,
        high=interval.high,
        p=_t_test(effect, leave_out) if possible else None,
        n=interval.n,
        clusters=interval.clusters,
        significant_possible=possible,
    )


def _kept_rows(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All rows; then, for each of two groups or more, all rows but these."""
    rows = np.sort(np.concatenate(groups))
    if len(groups) < 2:
        return [rows]
    return [rows, *(np.setdiff1d(rows, group, assume_unique=True) for group in groups)]


def _standard_error(full: float, leave_out: Sequence[float]) -> float | None:
    """The jackknife's; ``None`` without leave-outs."""
    if not np.isfinite([full, *leave_out]).all():
        raise UsageError(
            "A set metric is not finite for all shots, or without one group of identities.",
            "Score more shots: without any one group there must be enough for the metric.",
        )
    groups = len(leave_out)
    return float(np.sqrt(groups - 1) * np.std(leave_out)) if groups else None


def _t_test(effect: float, leave_out: Sequence[float]) -> float:
    """Two-sided p value of no effect."""
    from scipy.special import stdtr  # scipy.stats computes the same and takes a second to import

    error = _standard_error(effect, leave_out)
    if not error:
        return 1.0 if effect == 0 else 0.0
    return float(2 * stdtr(len(leave_out) - 1, -abs(effect) / error))
