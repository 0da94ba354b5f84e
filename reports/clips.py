"""Single clips in few bytes: what the page's script unpacks and draws row by row.

A column of numbers is written as base64 digits, most significant first, equally many a number: ``(value - low) * 10^d``
with the ``d`` decimals that are printed, so nothing that is shown is lost. 10 models x 1,000 clips x 20 metrics take
0.6 MB instead of 3. Sync curves, which are only drawn, are kept to a 63rd of each one's own range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
MISSING = "."
_CODES = np.frombuffer(ALPHABET.encode(), np.uint8)
CURVES = {"lse": "SyncNet", "judge": "judge (sync-b)"}
"""Curves of 31 distances, by AV offset from -15 to 15, and who measured them."""

_ABOUT = ("yaw_max_abs", "face_px", "brightness", "duration")


def decimals(values: Sequence[float]) -> int:
    """Decimals that leave four digits of the range of ``values``, at most six; none where all are whole."""
    if not values or all(value == round(value) for value in values):
        return 0
    spread = max(values) - min(values) or abs(values[0])
    return min(6, max(0, 3 - math.floor(math.log10(spread))))


def pack_column(values: Sequence[float | None], digits: int | None = None) -> dict[str, Any]:
    """Numbers of one metric: ``low`` (in units of the last decimal), ``digits`` (decimals), ``width`` and ``data``.

    Args:
        values: finite, ``None`` where there is none.
        digits: decimals that are kept; by default those of :func:`decimals`.
    """
    known = [value for value in values if value is not None]
    kept = decimals(known) if digits is None else digits
    # through the printed text: what the page shows is what Python would print
    units = np.array([0 if value is None else int(f"{value:.{kept}f}".replace(".", "")) for value in values], np.int64)
    there = np.array([value is not None for value in values], bool)
    low = int(units[there].min()) if known else 0
    most = int(units[there].max()) - low if known else 0
    width = max(1, math.ceil(most.bit_length() / 6))
    places = (units[:, None] - low) >> (6 * np.arange(width)[::-1]) & 63
    digits_of_rows = np.where(there[:, None], _CODES[places], ord(MISSING)).astype(np.uint8)
    return {"low": low, "digits": kept, "width": width, "data": digits_of_rows.tobytes().decode("ascii")}


def pack_curve(values: Sequence[float | None]) -> list[Any] | None:
    """``[least, greatest, data]`` of a curve, or ``None`` of one that holds nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = float(f"{min(known):.4f}"), float(f"{max(known):.4f}")
    room = (high - low) or 1.0
    levels = [None if value is None else min(63, max(0, round((value - low) / room * 63))) for value in values]
    return [low, high, "".join(MISSING if level is None else ALPHABET[level] for level in levels)]


def pack_clips(
    shots: Mapping[str, Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]], models: Sequence[str]
) -> dict[str, Any]:
    """Everything that the table of clips shows.

    Args:
        shots: ``shots`` of ``shots.json``.
        metrics: of the board; those of single shots are taken.
        models: names, in the order of the page.

    Returns:
        ``shots``: names and facts, a list each; ``columns``: packed, by metric, a row a model and shot (shots run
        fastest); ``curves``: by kind, a packed curve or null a row; ``errors``: [row, code,
        text] and ``flags``: [row, text].
    """
    keys = list(shots)
    rows = [(name, shots[key]["models"].get(name)) for name in models for key in keys]
    columns: dict[str, Any] = {}
    for metric in metrics:
        values = [None if row is None else row["values"].get(metric["id"]) for _, row in rows]
        if metric["kind"] == "clip" and any(value is not None for value in values):
            columns[metric["id"]] = pack_column(values)
    curves: dict[str, Any] = {}
    for kind in CURVES:
        packed = [None if row is None else pack_curve(row["curves"].get(kind) or ()) for _, row in rows]
        if any(packed):
            curves[kind] = packed
    errors, flags = [], []
    for place, (_, row) in enumerate(rows):
        if row is not None and row["error"]:
            errors.append([place, *row["error"]])
        if row is not None and row.get("flags"):
            flags.append([place, ", ".join(row["flags"])])
    return {
        "shots": _facts([shots[key] for key in keys]),
        "columns": columns,
        "curves": curves,
        "curveNames": CURVES,
        "errors": errors,
        "flags": flags,
    }


def _facts(shots: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    named = ("source", "clip", "identity", "frames")
    facts: dict[str, list[Any]] = {name: [shot[name] for shot in shots] for name in named}
    facts["shot"] = [shot["about"].get("shot", 0) for shot in shots]
    for name in _ABOUT:
        facts[name] = [shot["about"].get(name) for shot in shots]
    return facts
