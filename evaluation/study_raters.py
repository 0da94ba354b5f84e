"""Whether raters agree, and whose answers do not count, with the reasons."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

import numpy as np

MOST_MISSED = 0.25
"""Of the attention checks: a rater who misses more is excluded."""

MOST_HURRIED = 0.25
"""Of the trials: a rater who answers more of them before the clip can have ended is excluded."""

FEWEST_FOR_CONSTANT = 8
"""Equal scores, or equal sides, say something from so many on: 8 sides by chance alone are 1 in 128."""


@dataclasses.dataclass(frozen=True)
class Conduct:
    """How a rater went about it.

    Attributes:
        checks: whether each attention check was passed.
        hurried: whether each trial was answered before its clip can have ended.
        scores: all scores, in any order.
        sides: which side was preferred, of the trials in which one was.
    """

    checks: Sequence[bool]
    hurried: Sequence[bool]
    scores: Sequence[int]
    sides: Sequence[Literal["left", "right"]]


def reasons_to_exclude(conduct: Conduct) -> list[str]:
    """Why a rater's answers do not count, one line each; empty where they do."""
    reasons = []
    missed, hurried = conduct.checks.count(False), sum(conduct.hurried)
    if missed > MOST_MISSED * len(conduct.checks):
        reasons.append(f"attention: {missed} of {len(conduct.checks)} checks missed")
    if hurried > MOST_HURRIED * len(conduct.hurried):
        reasons.append(f"too fast: {hurried} of {len(conduct.hurried)} trials answered before the clip can have ended")
    for what, given in (("score", conduct.scores), ("side", conduct.sides)):
        if len(given) >= FEWEST_FOR_CONSTANT and len(set(given)) == 1:
            reasons.append(f"constant: the same {what} ({given[0]}) {len(given)} times out of {len(given)}")
    return reasons


def krippendorff_alpha(
    units: Mapping[Hashable, Sequence[float]], metric: Literal["nominal", "ordinal", "interval"] = "ordinal"
) -> float | None:
    """Krippendorff's alpha: 1 where raters agree, 0 where they agree as chance would have it.

    alpha = 1 - (n - 1) sum_ck o_ck d_ck / sum_ck n_c n_k d_ck, with coincidences o_ck of values c and k within units,
    their sums n_c, and squared differences d: 0 or 1 (nominal), (sum_{g=c..k} n_g - (n_c + n_k) / 2)^2 (ordinal) or
    (c - k)^2 (interval). Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.

    Args:
        units: the values that each thing was given, one a rater, in any order; raters may be missing.

    Returns:
        -1 ... 1; ``None`` where no unit has two values or all values are equal.
    """
    paired = [list(values) for values in units.values() if len(values) >= 2]
    known = sorted({value for values in paired for value in values})
    if len(known) < 2:
        return None
    place = {value: k for k, value in enumerate(known)}
    coincidences = np.zeros((len(known), len(known)))
    for values in paired:
        counts = np.zeros(len(known))
        for value, count in Counter(values).items():
            counts[place[value]] = count
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
    n = coincidences.sum(axis=1)
    if metric == "nominal":
        distance = 1.0 - np.eye(len(known))
    elif metric == "interval":
        distance = (np.array(known)[:, None] - np.array(known)) ** 2
    else:
        middle = np.cumsum(n) - n / 2  # sum_{g=c..k} n_g - (n_c + n_k) / 2 lies between the middles of both
        distance = (middle[:, None] - middle) ** 2
    expected = (np.outer(n, n) * distance).sum()
    return float(1 - (n.sum() - 1) * (coincidences * distance).sum() / expected)
