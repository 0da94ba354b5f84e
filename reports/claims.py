"""What a paired test lets one say, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.models import JUDGED, MET
from evaluation.summary import ALPHA


def taught(metric: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    """The model's mark by which its number is shown and ranks it nowhere: what measures drove its training."""
    teachers = [JUDGED] if metric["by_judge"] else []
    teachers += [f"trained against {network}" for network in metric["weights"]]
    return next((mark for mark in teachers if mark in model["marks"]), None)


def is_loud(mark: str) -> bool:
    """Whether a mark must not be overlooked: the comparison is not a fair one."""
    return mark == JUDGED or mark.endswith(MET)


def p_text(p: float | None) -> str | None:
    """A p value to two digits; ``None`` stays: no claim."""
    if p is None:
        return None
    return f"{p:.2g}" if p >= 1e-4 else "<0.0001"


def says(metric: Mapping[str, Any], pair: Mapping[str, Any]) -> str | None:
    """The better model of a pair, ``not told apart``, ``they differ``, or ``None``: no claim."""
    if pair["p_holm"] is None:
        return None
    if pair["p_holm"] >= ALPHA or pair["effect"] == 0:
        return "not told apart"
    if metric["better"] is None:
        return "they differ"
    # for a value to be reached, a pair compares distances from it
    first = (pair["effect"] > 0) == (metric["better"] == "higher")
    return str(pair["a" if first else "b"])
