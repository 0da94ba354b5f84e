"""Columns of the leaderboard: metrics by what they look at, the one that a reader asks for first in front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("sync", "Lip sync", ("lse_d", "lse_c", "av_offset", "lse_d0", "sync_score", "sync_c", "sync_d", "sync_offset")),
    ("mouth", "Mouth shape", ("m-lmd", "lmd")),
    ("picture", "Picture", ("lpips-alex", "ssim", "psnr", "fid", "kid", "cpbd", "cpbd-matlab")),
    ("identity", "Identity", ("csim-dlib", "ffd-dlib")),
    ("motion", "Motion", ("motion", "flicker")),
    ("other", "Other", ()),
    ("unmeasured", "Not measured", ()),
)
"""(key, title, stems of metric ids in the order of columns). The stem of ``psnr@mouth`` is ``psnr``."""

UNMEASURED = "unmeasured"
"""Key of the group of what could not be measured: columns with a reason, behind all others."""


def group_of(metric: str) -> str:
    """Key of the group that a metric stands in; ``other`` for one that no group names."""
    stem = metric.partition("@")[0]
    return next((key for key, _, stems in GROUPS if stem in stems), "other")


def ordered(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Ids, measured before unavailable, by group, then by stem; of one stem, the mouth before the face."""
    return sorted(metrics, key=lambda metric: _place(metric, metrics[metric]))


def _place(metric: str, about: Mapping[str, Any]) -> tuple[bool, int, int, bool, str]:
    stem, _, region = metric.partition("@")
    number = [key for key, _, _ in GROUPS].index(group_of(metric))
    stems = GROUPS[number][2]
    position = stems.index(stem) if stem in stems else 0
    return about["unavailable"] is not None, number, position, region != "mouth", metric


def lead_of(group: str, metrics: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first metric of a group that was measured and has a direction: the one its verdict is about.

    Args:
        metrics: what is known of each (``id``, ``better``, ``unavailable``), in the order of columns.
    """
    fitting = (m for m in metrics if m["group"] == group and m["unavailable"] is None and m["better"] is not None)
    return next(fitting, None)


def direction(better: str | float | None) -> tuple[str, str]:
    """(arrow, words) for a metric's direction or the value to be reached."""
    if isinstance(better, (int, float)):
        return f"→ {better:g}", f"nearest to {better:g} is best"
    known = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}
    return known.get(better or "", ("", "no direction: neither end is better"))
