"""The plots of docs/sync-expert.md from ``study.json``, as plain SVG.

python -m benchmarks.sync_plots docs/sync-expert
"""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 50
COLOURS = {"sync-a": "#0b6e99", "sync-b": "#c2410c", "pair": "#4d7c0f"}
JUDGES = tuple(COLOURS)
STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#1f2937}.t{font-weight:600;font-size:14px}"
    ".a{stroke:#6b7280;fill:none}.g{stroke:#e5e7eb}rect.bg{fill:#fff}</style>"
)


class Plot:
    """A picture with axes: data go in, pixels come out."""

    def __init__(
        self, title: str, x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str, left: int = LEFT
    ) -> None:
        self._x, self._y, self._left = x, y, left
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(title)}">{STYLE}<rect class="bg" width="{WIDTH}" height="{HEIGHT}"/>',
            f'<text class="t" x="{left}" y="20">{escape(title)}</text>',
            f'<text x="{(left + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">'
            f"{escape(x_label)}</text>",
            f'<text transform="translate(14 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>",
        ]

    def at(self, x: float, y: float) -> tuple[float, float]:
        low, high = self._x
        px = self._left + (x - low) / (high - low) * (WIDTH - self._left - RIGHT)
        bottom, top = self._y
        py = HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)
        return round(px, 1), round(py, 1)

    def ticks(self, xs: Sequence[tuple[float, str]], ys: Sequence[tuple[float, str]]) -> None:
        for value, label in ys:
            x0, y = self.at(self._x[0], value)
            x1, _ = self.at(self._x[1], value)
            self._parts.append(f'<line class="g" x1="{x0}" y1="{y}" x2="{x1}" y2="{y}"/>')
            self._parts.append(f'<text x="{x0 - 6}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        for value, label in xs:
            x, y = self.at(value, self._y[0])
            self._parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{escape(label)}</text>')

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str) -> None:
        places = " ".join(f"{px},{py}" for px, py in (self.at(x, y) for x, y in zip(xs, ys, strict=True)))
        self._parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>')

    def point(self, x: float, y: float, colour: str, radius: float = 3) -> None:
        px, py = self.at(x, y)
        self._parts.append(f'<circle cx="{px}" cy="{py}" r="{radius}" fill="{colour}" fill-opacity="0.55"/>')

    def bar(self, x: float, width: float, y: float, colour: str) -> None:
        x0, y0 = self.at(x, max(y, self._y[0]))
        x1, base = self.at(x + width, max(0.0, self._y[0]))
        top, height = min(y0, base), abs(base - y0)
        self._parts.append(f'<rect x="{x0}" y="{top}" width="{x1 - x0:.1f}" height="{height:.1f}" fill="{colour}"/>')

    def add(self, element: str) -> None:
        """One more SVG element, in pixels."""
        self._parts.append(element)

    def legend(self, names: Sequence[str]) -> None:
        for number, name in enumerate(names):
            x = WIDTH - RIGHT - 66 * (len(names) - number)
            self._parts.append(f'<rect x="{x}" y="10" width="10" height="10" fill="{COLOURS[name]}"/>')
            self._parts.append(f'<text x="{x + 15}" y="19">{name}</text>')

    def svg(self) -> str:
        x0, y0 = self.at(self._x[0], self._y[1])
        x1, y1 = self.at(self._x[1], self._y[0])
        self._parts.append(f'<path class="a" d="M{x0} {y0}V{y1}H{x1}"/></svg>')
        return "\n".join(self._parts) + "\n"


def _rows(study: dict[str, Any], judge: str) -> list[dict[str, Any]]:
    return [row for row in study["clips"] if row["unseen"][judge] and row["source"] != "sample"]


def _percent(values: Sequence[float]) -> list[tuple[float, str]]:
    return [(value, f"{100 * value:.0f} %") for value in values]


def offsets(study: dict[str, Any]) -> str:
    plot = Plot("Offset of unseen clips as they are", (-8.5, 8.5), (0, 0.6), "frames (beyond 8: at the edge)", "clips")
    plot.ticks([(k, str(k)) for k in range(-8, 9, 2)], _percent([0, 0.2, 0.4, 0.6]))
    for number, judge in enumerate(JUDGES):
        found = np.clip([row["offset"][judge] for row in _rows(study, judge)], -8, 8)
        for offset in range(-8, 9):
            plot.bar(offset - 0.42 + 0.28 * number, 0.26, float((found == offset).mean()), COLOURS[judge])
    plot.legend(JUDGES)
    return plot.svg()


def distance_by_shift(study: dict[str, Any]) -> str:
    plot = Plot("Mean distance by offset", (-15, 15), (0.8, 1.5), "offset, frames", "distance")
    plot.ticks([(k, str(k)) for k in range(-15, 16, 5)], [(v / 10, f"{v / 10:.1f}") for v in range(8, 16, 2)])
    for judge in JUDGES:
        curves = np.array([row["curve"][judge] for row in _rows(study, judge)], float)
        plot.line(range(-15, 16), np.nanmean(curves, axis=0).tolist(), COLOURS[judge])
    plot.legend(JUDGES)
    return plot.svg()


def follows(study: dict[str, Any]) -> str:
    plot = Plot("Readings that move with an injected shift", (-12.5, 12.5), (0, 1.05), "shift, frames", "clips")
    plot.ticks([(k, str(k)) for k in range(-12, 13, 4)], _percent([0, 0.25, 0.5, 0.75, 1]))
    for judge in JUDGES:
        shares = []
        for shift in range(-12, 13):
            found = [
                abs(row["shifted"][judge][str(shift)] - row["offset"][judge] + shift) <= 1
                for row in _rows(study, judge) if abs(row["offset"][judge] - shift) <= 15
            ]  # fmt: skip
            shares.append(float(np.mean(found)))
        plot.line(range(-12, 13), shares, COLOURS[judge])
    plot.legend(JUDGES)
    return plot.svg()


def durations(study: dict[str, Any]) -> str:
    plot = Plot("In sync against another person's sound", (0, 3), (0.5, 1), "length of the clip", "AUC of the score")
    names = list(study["swapped"]["pair"])
    plot.ticks([(k + 0.5, name) for k, name in enumerate(names)], [(v / 10, f"{v / 10:.1f}") for v in range(5, 11)])
    for number, judge in enumerate(JUDGES):
        for k, name in enumerate(names):
            plot.bar(k + 0.14 + 0.25 * number, 0.22, study["swapped"][judge][name]["score"], COLOURS[judge])
    plot.legend(JUDGES)
    return plot.svg()


def conditions(study: dict[str, Any]) -> str:
    names = [n for n in study["robust"]["pair"] if n not in ("gap of 2 frames", "replaced", "frozen", "shuffled")]
    top = max(0.3, *(study["robust"][judge]["gap of 2 frames"] for judge in JUDGES)) * 1.1
    plot = Plot("Change of the score; lines: 2 frames off", (0, len(names)), (0, top), "", "score")
    plot.ticks([], [(v / 10, f"{v / 10:.1f}") for v in range(int(top * 10) + 1)])
    for k, name in enumerate(names):
        x, y = plot.at(k + 0.5, 0)
        turned = f'transform="translate({x + 4} {y + 10}) rotate(-32)" text-anchor="end" style="font-size:9px"'
        plot.add(f"<text {turned}>{escape(name)}</text>")
        for number, judge in enumerate(JUDGES):
            change = study["robust"][judge][name]["mean_abs_change"]
            plot.bar(k + 0.14 + 0.25 * number, 0.22, change, COLOURS[judge])
    for judge in JUDGES:
        gap = study["robust"][judge]["gap of 2 frames"]
        plot.line([0, len(names)], [gap, gap], COLOURS[judge])
    plot.legend(JUDGES)
    return plot.svg()


def yaw(study: dict[str, Any]) -> str:
    plot = Plot("Score against how far the head is turned", (0, 60), (0, 0.9), "mean yaw, degrees", "score (pair)")
    plot.ticks([(k, str(k)) for k in range(0, 61, 15)], [(v / 10, f"{v / 10:.1f}") for v in range(0, 10, 3)])
    for row in _rows(study, "pair"):
        plot.point(min(60, row["yaw"]), row["score"]["pair"], COLOURS["pair"])
    return plot.svg()


def agreement(study: dict[str, Any]) -> str:
    plot = Plot("Clips that neither has seen", (-15.5, 15.5), (-15.5, 15.5), "sync-a, frames", "sync-b, frames")
    plot.ticks([(k, str(k)) for k in range(-15, 16, 5)], [(k, str(k)) for k in range(-15, 16, 5)])
    places = collections.Counter((row["offset"]["sync-a"], row["offset"]["sync-b"]) for row in _rows(study, "pair"))
    for (a, b), count in places.items():
        plot.point(a, b, COLOURS["pair"], 2 + 1.5 * count**0.5)
    return plot.svg()


PLOTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "offsets": offsets, "distance": distance_by_shift, "shifts": follows, "durations": durations,
    "conditions": conditions, "yaw": yaw, "agreement": agreement,
}  # fmt: skip


def main(folder: Path) -> None:
    study = json.loads((folder / "study.json").read_text())
    for name, draw in PLOTS.items():
        (folder / f"{name}.svg").write_text(draw(study))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
