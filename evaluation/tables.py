"""A run's answer on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from evaluation.protocols import VIDEOS

_DECIMALS = 6
_SMALL = 1e-3
"""From here on six decimals hold four digits."""
_NOISE = 9
"""Decimals behind which there is none but rounding error."""


def number(value: float, low: float | None = None, high: float | None = None) -> str:
    """``value`` with as many digits as its interval leaves meaningful: two of its half width; else four in all.

    Nothing is rounded before the point: from a half width of 10 on, whole numbers stand. There are six decimals at
    most; under a thousandth, what needs more is written as ``3.2e-7``. What is under 1e-9 is rounding error of the
    arithmetic (the Frechet distance of equal sets) and reads as 0.
    """
    import math

    if low is not None and high is not None and high > low:
        digits = max(0, 1 - math.floor(math.log10((high - low) / 2)))
    else:
        digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    if digits > _DECIMALS and abs(value) < _SMALL:
        return _scientific(value, min(digits, _NOISE))
    text = f"{value:.{min(digits, _DECIMALS)}f}"
    return text.removeprefix("-") if float(text) == 0 else text  # no "-0"


def _scientific(value: float, digits: int) -> str:
    """A number under 1 rounded to so many decimals, as ``-3.2e-7``."""
    rounded = round(value, digits)
    if rounded == 0:
        return "0"
    power = int(f"{rounded:e}".partition("e")[2])
    return f"{rounded:.{digits + power}e}".partition("e")[0] + f"e{power}"


def cell_text(cell: Mapping[str, Any] | None, shots: int | None = None, *, ranked: bool = True) -> str:
    """``0.412 ±0.03 #1``, with ``n=17`` where fewer than all ``shots`` count; or why there is no number."""
    if cell is None:
        return "-"
    if cell.get("mean") is None:
        return str(cell.get("reason") or "-")
    low, high = cell.get("low"), cell.get("high")
    text = number(cell["mean"], low, high)
    if low is not None and high is not None and high > low:
        text += f" ±{number((high - low) / 2, low, high)}"
    if ranked and cell.get("rank") is not None:
        text += f" #{cell['rank']}"
    if cell.get("few"):
        text += " *"
    if shots is not None and cell.get("n") is not None and cell["n"] < shots:
        text += f" n={cell['n']}"
    return text


def direction(better: str | float | None) -> str:
    """An arrow up or down, or ``→ 1`` for a value to be reached."""
    if isinstance(better, (int, float)):
        return f"→ {better:g}"
    return {"higher": "↑", "lower": "↓"}.get(better or "", "")


def print_report(report: Any, page: str | None) -> None:
    """One table a source, failures with reasons, and where to look further."""
    from rich.console import Console
    from rich.table import Table

    summary = report.summary
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    for source, content in summary["tables"].items():
        rows = content["rows"]
        ranked = len(rows) > 2  # the truth and two models: else there is nobody to be better than
        table = Table(
            title=f"{source}: {content['shots']} shots, {content['identities']} identities, {summary['protocol']}",
            title_justify="left",
        )
        table.add_column("metric")
        for name in rows:
            marks = summary["models"][name]["marks"]
            table.add_column(name + (f" ({', '.join(marks)})" if marks else ""), justify="right")
        table.add_row("scored / failed", *(f"{row['scored']} / {row['failed']}" for row in rows.values()))
        for metric, about in summary["metrics"].items():
            if about["unavailable"] is not None:
                continue
            unit = f" [{about['unit']}]" if about["unit"] else ""
            title = f"{about['name']}{unit} {direction(about['better'])}"
            cells = (row["cells"].get(metric) for row in rows.values())
            table.add_row(title, *(cell_text(cell, content["shots"], ranked=ranked) for cell in cells))
        console.print(table)
    _print_notes(report)
    click.echo(f"run: {report.out}  ({report.kept} of {report.cells} cells were there, {report.seconds:.0f} s)")
    if page is not None:
        click.echo(f"look at it: {page}")


def _print_notes(report: Any) -> None:
    summary = report.summary
    if summary["refused"]:
        click.echo(f"no table: {summary['refused']}")
    cells = [c for t in summary["tables"].values() for row in t["rows"].values() for c in row["cells"].values()]
    if any(cell.get("few") for cell in cells):
        click.echo("* fewer than 10 identities: the interval is rough, and under 6 no difference is called significant")
    if any(len(table["rows"]) > 2 for table in summary["tables"].values()):
        click.echo("#n: 1 + the number of models that are significantly better (Holm over all pairs)")
    for reason in dict.fromkeys(m["unavailable"] for m in summary["metrics"].values() if m["unavailable"]):
        names = [m["name"] for m in summary["metrics"].values() if m["unavailable"] == reason]
        click.echo(f"not measured: {', '.join(names)}: {reason}")
    excluded = summary["data"]["excluded"]
    if excluded and summary["protocol"] != VIDEOS.id:
        click.echo(f"left out: {len(excluded)} shots ({', '.join(sorted(set(excluded.values())))})")
    for model, shot, code, detail in report.failed[:10]:
        click.echo(f"failed: {model} on {shot}: {code}: {detail}")
    if len(report.failed) > 10:
        click.echo(f"failed: {len(report.failed) - 10} more, see scores.parquet")


def print_metrics(rows: Sequence[Mapping[str, Any]]) -> None:
    """The list of ``g4g-eval metrics``."""
    for row in rows:
        better = row["better"]
        way = f"{better} is better" if isinstance(better, str) else f"{better:g} is best" if better is not None else ""
        click.echo(f"{row['id']}  ({row['name']}, group {row['group']}, {way or 'no direction'})")
        click.echo(f"    {row['definition']}")
        if row["missing"]:
            click.echo(f"    not here: {row['missing']}")
