"""What stands behind a number of the tables: in full for readers of the page, in short for exports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def facts_of(cell: Mapping[str, Any], row: Mapping[str, Any], few: int) -> str:
    """Interval, shots, rank, distance from the truth, p and failures of a cell, in sentences.

    Args:
        cell: of the board.
        row: that it stands in.
        few: identities under which an interval is rough.
    """
    said = [_failures(row)] if row["failed"] else []
    if cell["kind"] != "value":
        return _sentences([_capital(cell["reason"]), *said])
    interval = "No interval can be given"
    if "low" in cell:
        interval = f"95 % interval {_minus(cell['low_text'])} to {_minus(cell['high_text'])}"
    rests = counted(cell["n"], "shot")
    if "clusters" in cell:
        rests += f" of {counted(cell['clusters'], 'identity', 'identities')}"
    if "frames" in cell:
        rests += f", {counted(cell['frames'], 'frame')}"
    found = [f"{interval}, {rests}"]
    if cell.get("few"):
        found.append(f"Fewer than {few} identities: the interval is rough")
    if "rank" in cell:
        found.append(f"Rank {cell['rank']}{', shared' if cell['shared'] else ''}")
    if "unranked" in cell:
        found.append(f"Shown, never ranked: {cell['unranked']}")
    if "gap" in cell:
        found.append(_gap(cell["gap"]))
    return _sentences([*found, *said])


def _gap(gap: Mapping[str, Any]) -> str:
    tested = "no claim" if gap["p"] is None else f"p {gap['p']}"
    beyond = ", significantly on its better side: a mark, not a win" if gap["beyond"] else ""
    return f"{gap['text']} from the ground truth ({tested}){beyond}"


def _failures(row: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{reason} × {count}" for reason, count in row["reasons"].items())
    return f"Failed on {counted(row['failed'], 'shot')}: {reasons}"


def marks_of(cell: Mapping[str, Any], compared: int | None) -> list[str]:
    """What must be said where a number is printed without its page.

    Args:
        cell: of the board.
        compared: shots that most cells of its table rest on.
    """
    marks = ["split-half floor"] if cell["kind"] == "floor" else []
    if "unranked" in cell:
        marks.append("not ranked")
    if cell.get("gap", {}).get("beyond"):
        marks.append("beyond the truth")
    if cell["kind"] == "value" and cell["n"] != compared:
        marks.append(f"n={cell['n']}")
    return [*marks, *(["few frames"] if cell.get("few_frames") else [])]


def counted(n: int, one: str, many: str = "") -> str:
    """``1 shot``, ``1,200 shots``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentences(parts: list[str]) -> str:
    return "".join(f"{part.rstrip('.')}. " for part in parts).rstrip()
