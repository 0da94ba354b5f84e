"""Picture and sound in step: in how many shots, and so how far the measure that says it can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

IN_STEP = 1
"""Frames: what LRS2's own clips vary by."""


def offsets_of(metric: str, model: str, shots: Iterable[Mapping[str, Any]]) -> list[int]:
    """AV offsets of a model's shots in whole frames, where they were measured."""
    values = (shot["models"].get(model, {}).get("values", {}).get(metric) for shot in shots)
    return [round(value) for value in values if value is not None]


def in_step(offsets: Iterable[int]) -> int:
    """How many of them are in step."""
    return sum(abs(offset) <= IN_STEP for offset in offsets)


def offset_of(metric: str) -> str:
    """The offset that the same measure finds as gives a score: ``sync_offset@judge`` for ``sync_score@judge``."""
    stem, _, place = metric.partition("@")
    return f"{'sync' if stem.startswith('sync') else 'av'}_offset@{place}"


def trust_in(
    offset: Mapping[str, Any], truth: str, others: Mapping[str, str], shots: Sequence[Mapping[str, Any]]
) -> str | None:
    """How well what measures lip sync hears the footage itself, beside what it makes of others, in a sentence.

    Args:
        offset: a metric: ``id``, ``name``.
        truth: name of the ground truth.
        others: names as sentences call them, by name.
        shots: those of a table.

    Returns:
        ``None`` where that offset was not measured of the ground truth.
    """
    own = offsets_of(offset["id"], truth, shots)
    if not own:
        return None
    said = [f"{truth} in {in_step(own)} of {len(own)} shots"]
    for name, called in others.items():
        if found := offsets_of(offset["id"], name, shots):
            said.append(f"{called} in {in_step(found)} of {len(found)}")
    return f"{offset['name']} finds sound and lips in step (±{IN_STEP} frame): {', '.join(said)}."
