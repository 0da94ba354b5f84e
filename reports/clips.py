"""Single clips in few bytes: what the page's script unpacks and draws row by row.

A column of numbers is written as base64 digits, most significant first, equally many a number: ``(value - low) * 10^d``
with the ``d`` decimals that are printed, so nothing that is shown is lost. 10 models x 1,000 clips x 20 metrics take
0.6 MB instead of 3. The few numbers that are too large for that, or are none (NaN, infinity), stand beside the
column as text. Sync curves, which are only drawn, are kept to a 63rd of each one's own range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
MISSING = "."
_CODES = np.frombuffer(ALPHABET.encode(), np.uint8)
CURVES = {"lse": "SyncNet", "judge": "judge (sync-b)"}
"""Curves of 31 distances, by AV offset from -15 to 15, and who measured them."""

_MOST_DIGITS = 12  # before and after the point: more a double of JavaScript would not hold
_FAR = 10.0 ** (_MOST_DIGITS + 1)  # units: a number from here on stands beside its column
_HUGE = 1e100  # differences of larger ones would overflow
_NEAR_HALF = 1e-3
_ABOUT = ("yaw_max_abs", "face_px", "brightness", "duration")


def decimals(values: Sequence[float]) -> int:
    """Decimals that leave four digits of the range in which most ``values`` lie, at most six; none where all are whole.

    One value far off must not cost the others their digits: the range is twice that of the middle half, where it is
    less than the whole, and what room there is before the point is asked of three values in four. NaN and infinity do
    not count.
    """
    return _decimals(np.array(values, np.float64))


def _decimals(values: NDArray[np.float64]) -> int:
    known = values[np.isfinite(values)].clip(-_HUGE, _HUGE)
    if (known == np.rint(known)).all():
        return 0
    lower, upper = np.quantile(known, [0.25, 0.75])
    whole = float(known.max() - known.min())
    spread = min(2 * float(upper - lower) or whole, whole) or abs(float(known[0]))
    most = float(np.quantile(np.abs(known), 0.75, method="lower"))
    room = _MOST_DIGITS - math.floor(math.log10(most)) if most >= 1 else _MOST_DIGITS
    return max(0, min(6, room, 3 - math.floor(math.log10(spread))))


def pack_column(values: Sequence[float | None], digits: int | None = None) -> dict[str, Any]:
    """Numbers of one metric: ``low`` (in units of the last decimal), ``digits`` (decimals), ``width`` and ``data``.

    ``far``, where there is need of it, holds the text of numbers that are no digits in ``data``, by place: six digits
    of what is too large, ``NaN``, ``Infinity`` and ``-Infinity``; JavaScript reads all of them.

    Args:
        values: ``None`` where there is none.
        digits: decimals that are kept; by default those of :func:`decimals`.
    """
    numbers = np.array(values, np.float64)  # None becomes NaN
    kept = _decimals(numbers) if digits is None else digits
    there = np.abs(numbers) < _FAR / 10.0**kept
    beside = ((at, values[at]) for at in np.flatnonzero(~there).tolist())
    far = {at: _far(value) for at, value in beside if value is not None}
    scaled = np.where(there, numbers, 0.0) * 10.0**kept
    units = np.rint(scaled).astype(np.int64)
    # next to a half, the printed text decides: what the page shows is what Python would print
    for at in np.flatnonzero(there & (np.abs(scaled - np.floor(scaled) - 0.5) < _NEAR_HALF)).tolist():
        units[at] = int(f"{values[at]:.{kept}f}".replace(".", ""))
    low = int(units[there].min()) if there.any() else 0
    most = int(units[there].max()) - low if there.any() else 0
    width = max(1, math.ceil(most.bit_length() / 6))
    places = (units[:, None] - low) >> (6 * np.arange(width)[::-1]) & 63
    digits_of_rows = np.where(there[:, None], _CODES[places], ord(MISSING)).astype(np.uint8)
    packed = {"low": low, "digits": kept, "width": width, "data": digits_of_rows.tobytes().decode("ascii")}
    return {**packed, "far": far} if far else packed


def _far(value: float) -> str:
    """As JavaScript reads it."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.6g}" if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def pack_curve(values: Sequence[float | None]) -> list[Any] | None:
    """``[least, greatest, data]`` of a curve, or ``None`` of one that holds nothing."""
    return pack_curves([values])[0]


def pack_curves(curves: Sequence[Sequence[float | None]]) -> list[list[Any] | None]:
    """As :func:`pack_curve`, of many at once."""
    lengths = [len(values) for values in curves]
    numbers = np.full((len(curves), max(lengths, default=0)), np.nan)
    for row, values in zip(numbers, curves, strict=True):
        row[: len(values)] = np.array(values, np.float64)  # None becomes NaN
    there = np.isfinite(numbers)
    some = there.any(axis=1)
    low = np.round(np.where(there, numbers, np.inf).min(axis=1, initial=np.inf), 4)
    high = np.round(np.where(there, numbers, -np.inf).max(axis=1, initial=-np.inf), 4)
    room = np.where(some & (high > low), high - low, 1.0)
    share = (np.where(there, numbers, 0.0) - np.where(some, low, 0.0)[:, None]) / room[:, None]
    letters = np.where(there, _CODES[np.clip(np.round(share * 63), 0, 63).astype(int)], ord(MISSING)).astype(np.uint8)
    return [
        [float(low[at]), float(high[at]), letters[at, :length].tobytes().decode("ascii")] if some[at] else None
        for at, length in enumerate(lengths)
    ]


def pack_clips(
    shots: Mapping[str, Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]], models: Sequence[str]
) -> dict[str, Any]:
    """Everything that the table of clips shows.

    Args:
        shots: ``shots`` of ``shots.json``.
        metrics: of the board; those of single shots are taken.
        models: names, in the order of the page.

    Returns:
        ``shots``: names and facts, a list each, and what only some shots have by place, see :func:`_names`;
        ``columns``: packed, by metric, a row a model and shot (shots run fastest);
        ``curves``: by kind, a packed curve or null a row; ``errors``: [row, code, text]; ``flags``: [row, text].
    """
    keys = list(shots)
    rows = [(name, shots[key]["models"].get(name)) for name in models for key in keys]
    measured = [{} if row is None else row["values"] for _, row in rows]
    columns: dict[str, Any] = {}
    for name in (metric["id"] for metric in metrics if metric["kind"] == "clip"):
        values = [of.get(name) for of in measured]
        if any(value is not None for value in values):
            columns[name] = pack_column(values)
    curves: dict[str, Any] = {}
    for kind in CURVES:
        packed = pack_curves([() if row is None else row["curves"].get(kind) or () for _, row in rows])
        if any(packed):
            curves[kind] = packed
    errors, flags = [], []
    for place, (_, row) in enumerate(rows):
        if row is not None and row["error"]:
            errors.append([place, *row["error"]])
        if row is not None and row.get("flags"):
            flags.append([place, ", ".join(row["flags"])])
    return {
        "shots": {**_facts([shots[key] for key in keys]), **_names(shots)},
        "columns": columns,
        "curves": curves,
        "curveNames": CURVES,
        "errors": errors,
        "flags": flags,
    }


def _names(shots: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[int, Any]]:
    """``keys`` that are not ``<source>-<clip>-<shot>``, and ``pairs``: numbers of pairs/1, which stand before it."""
    keys, pairs = {}, {}
    for place, (key, shot) in enumerate(shots.items()):
        usual = f"{shot['source']}-{shot['clip']}-{shot['about'].get('shot', 0):03d}"
        if key != usual:
            keys[place] = key
            number = key.removesuffix(f"-{usual}")
            if number != key and number.isdecimal():
                pairs[place] = int(number)
    return {"keys": keys, "pairs": pairs}


def _facts(shots: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    named = ("source", "clip", "identity", "frames")
    facts: dict[str, list[Any]] = {name: [shot[name] for shot in shots] for name in named}
    facts["shot"] = [shot["about"].get("shot", 0) for shot in shots]
    for name in _ABOUT:
        facts[name] = [shot["about"].get(name) for shot in shots]
    return facts
