"""Drawings as inline SVG. Every text goes through escaping; colours come from the page's style sheet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

_WIDTH, _HEIGHT, _PAD = 112, 14, 5


def whiskers(
    cells: Mapping[str, Mapping[str, Any]], target: float | None = None, truth: str | None = None
) -> dict[str, Markup]:
    """An interval a model, all on the scale of one column.

    Args:
        cells: cells of ``summary.json`` by model; those without a mean get no drawing, and a split-half floor, which is
            no value of the same kind, neither.
        target: the value to be reached, drawn as a thin line.
        truth: whose mean is drawn as a dashed line through all of them.
    """
    drawn = {name: cell for name, cell in cells.items() if cell.get("mean") is not None and "reason" not in cell}
    if not drawn:
        return {}
    groups = [[cell[end] for end in ("mean", "low", "high") if cell.get(end) is not None] for cell in drawn.values()]
    scale = Scale.clear([*groups, *([] if target is None else [[target]])], _PAD, _WIDTH - _PAD)
    real = drawn.get(truth or "", {}).get("mean")
    return {name: _whisker(scale, cell, target, real) for name, cell in drawn.items()}


def _whisker(scale: Scale, cell: Mapping[str, Any], target: float | None, real: float | None) -> Markup:
    middle = _HEIGHT / 2
    parts = [_line("axis", 0, middle, _WIDTH, middle)]
    if target is not None:
        parts.append(_line("target", scale(target), 0, scale(target), _HEIGHT))
    if real is not None:
        parts.append(_line("real", scale(real), 0, scale(real), _HEIGHT))
    if not scale.holds(cell["mean"]):
        mean = cell["mean"]
        return _svg("whisker", _WIDTH, _HEIGHT, [*parts, _beyond(scale(mean), middle, scale.side(mean), 0)])
    if cell.get("low") is not None:
        low, high = scale(cell["low"]), scale(cell["high"])
        parts.append(_line("span", low, middle, high, middle))
        parts += [_line("span", x, middle - 3, x, middle + 3) for x in (low, high)]
    parts.append(Markup('<circle class="dot" cx="{}" cy="{}" r="3"/>').format(_f(scale(cell["mean"])), _f(middle)))
    return _svg("whisker", _WIDTH, _HEIGHT, parts)


def _beyond(x: float, y: float, right: int, down: int, kind: str = "") -> Markup:
    """An arrow at the border, towards where the value lies far off the scale: -1, 0 or 1 in each direction."""
    turned = f"translate({_f(x)} {_f(y)}) rotate({math.degrees(math.atan2(down, right)):.0f})"
    return Markup('<path class="{}" transform="{}" d="M-5 -4l6 4l-6 4z"/>').format(f"beyond {kind}".rstrip(), turned)


@dataclasses.dataclass(frozen=True)
class Point:
    """A model in a scatter: means and intervals (``None`` where not known) of two metrics."""

    label: str
    x: float
    y: float
    x_interval: tuple[float, float] | None
    y_interval: tuple[float, float] | None
    truth: bool = False
    unranked: bool = False
    """Trained against the expert behind one of the metrics: it is drawn, and takes no part in the front."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """What one direction of a scatter shows; ``better`` as in :class:`evaluation.metrics.base.Metric`."""

    title: str
    better: str | float | None


Box = tuple[float, float, float, float]
"""Left, top, right, bottom, px."""

_SCATTER_W, _SCATTER_H, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 330, 58, 18, 18, 46


def scatter(points: Sequence[Point], x: Axis, y: Axis) -> Markup:
    """Models by two metrics, with their intervals, the Pareto front, and a note in the corner where both are best.

    A model far off is drawn as an arrow at the border.
    """
    xs = Scale.clear([[p.x, *(p.x_interval or ())] for p in points], _LEFT, _SCATTER_W - _RIGHT, 0.08)
    ys = Scale.clear([[p.y, *(p.y_interval or ())] for p in points], _SCATTER_H - _BOTTOM, _TOP, 0.08)
    front = pareto_front(points, x.better, y.better)
    bottom, right = _SCATTER_H - _BOTTOM, _SCATTER_W - _RIGHT
    parts = [_rect("plot", _LEFT, _TOP, right - _LEFT, bottom - _TOP)]
    for value, text in xs.ticks(5):
        parts += [_line("grid", xs(value), _TOP, xs(value), bottom), _text(xs(value), bottom + 15, text, "middle")]
    for value, text in ys.ticks(5):
        parts += [_line("grid", _LEFT, ys(value), right, ys(value)), _text(_LEFT - 6, ys(value) + 4, text, "end")]
    parts.append(_text((_LEFT + right) / 2, _SCATTER_H - 8, x.title, "middle", "title"))
    upright = _text(-(_TOP + bottom) / 2, 13, y.title, "middle", "title")
    parts.append(Markup('<g transform="rotate(-90)">{}</g>').format(upright))
    boxes: list[Box] = [(xs(p.x) - 6, ys(p.y) - 6, xs(p.x) + 6, ys(p.y) + 6) for p in points]
    if isinstance(x.better, str) and isinstance(y.better, str):
        left, top = x.better == "lower", y.better == "higher"
        at = (_LEFT + 6 if left else right - 6, _TOP + 15 if top else bottom - 7)
        arrow = {(True, True): "↖", (False, True): "↗", (True, False): "↙", (False, False): "↘"}[left, top]
        parts.append(_text(*at, f"{arrow} better", "start" if left else "end", "best"))
        boxes.append(_box(*at, 9, "start" if left else "end"))
    inside = [point for point in front if xs.holds(point.x) and ys.holds(point.y)]
    if len(inside) > 1:
        places = " ".join(f"{_f(xs(point.x))},{_f(ys(point.y))}" for point in inside)
        parts.append(Markup('<polyline class="front" points="{}"/>').format(places))
    for point in points:
        kind = "model real" if point.truth else "model aside" if point.unranked else "model"
        px, py = xs(point.x), ys(point.y)
        if point.x_interval:
            parts.append(_line(f"span {kind}", xs(point.x_interval[0]), py, xs(point.x_interval[1]), py))
        if point.y_interval:
            parts.append(_line(f"span {kind}", px, ys(point.y_interval[0]), px, ys(point.y_interval[1])))
        if xs.holds(point.x) and ys.holds(point.y):
            parts.append(Markup('<circle class="dot {}" cx="{}" cy="{}" r="4.5"/>').format(kind, _f(px), _f(py)))
        else:
            parts.append(_beyond(px, py, xs.side(point.x), ys.side(point.y), kind))
    for point in points:
        parts.append(_label(point, xs(point.x), ys(point.y), boxes))
    known = "; ".join(f"{p.label}: {p.x:.4g}, {p.y:.4g}{' (not ranked)' if p.unranked else ''}" for p in points)
    best = f". Pareto front: {', '.join(point.label for point in front)}" if len(front) > 1 else ""
    return _svg("scatter", _SCATTER_W, _SCATTER_H, parts, f"{y.title} against {x.title}. {known}{best}")


def pareto_front(points: Sequence[Point], x: str | float | None, y: str | float | None) -> list[Point]:
    """Models that no other beats in both directions by their means, by ``x``; none where a direction is missing.

    The ground truth is no model and takes no part, nor does a model that is not ranked.
    """
    if not (isinstance(x, str) and isinstance(y, str)):
        return []
    own = [point for point in points if not point.truth and not point.unranked]
    turned = [((p.x if x == "higher" else -p.x), (p.y if y == "higher" else -p.y), p) for p in own]
    kept = [
        (right, point)
        for right, up, point in turned
        if not any(a >= right and b >= up and (a, b) != (right, up) for a, b, _ in turned)
    ]
    return [point for _, point in sorted(kept, key=lambda item: item[0])]


def _label(point: Point, px: float, py: float, boxes: list[Box]) -> Markup:
    """The name beside its dot, at the first of some places where it covers nothing; ``boxes`` grows by it."""
    text = point.label if len(point.label) <= 24 else point.label[:23] + "…"
    tried = [(9.0, -7.0, "start"), (-9.0, -7.0, "end"), (9.0, 15.0, "start"), (-9.0, 15.0, "end")]
    tried += [(side * 9.0, dy, "start" if side > 0 else "end") for dy in (-20.0, 28.0, -33.0, 41.0) for side in (1, -1)]
    for dx, dy, anchor in tried:
        box = _box(px + dx, py + dy, len(text), anchor)
        inside = box[0] >= _LEFT and box[2] <= _SCATTER_W and box[1] >= 0 and box[3] <= _SCATTER_H - _BOTTOM + 4
        if inside and not any(_overlap(box, other) for other in boxes):
            break
    else:
        dx, dy, anchor = tried[0]
        box = _box(px + dx, py + dy, len(text), anchor)
    boxes.append(box)
    return _text(px + dx, py + dy, text, anchor, "label real" if point.truth else "label")


def _box(x: float, y: float, letters: int, anchor: str) -> Box:
    width = 6.6 * letters
    left = x if anchor == "start" else x - width
    return left, y - 10, left + width, y + 3


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


_BAR, _BARS_H = 7, 54
OFFSETS = range(-15, 16)
"""Frames by which sound may lead (above 0) or lag."""


def offset_histogram(counts: Mapping[int, int], most: float, label: str) -> Markup:
    """Shots by AV offset.

    Args:
        counts: shots by offset, -15 ... 15.
        most: share (0 ... 1) that a full bar stands for; the same in all histograms that are compared.
        label: for readers who do not see it.
    """
    total = max(1, sum(counts.values()))
    parts = [_rect("sync", 14 * _BAR, 0, 3 * _BAR, _BARS_H)]
    for offset in OFFSETS:
        height = _BARS_H * counts.get(offset, 0) / total / most if most else 0.0
        if height:
            parts.append(_rect("bar", (offset + 15) * _BAR + 1, _BARS_H - height, _BAR - 2, height))
    parts.append(_line("axis", 0, _BARS_H, 31 * _BAR, _BARS_H))
    for offset, anchor in ((-15, "start"), (0, "middle"), (15, "end")):
        at = {-15: 0.0, 0: 15.5 * _BAR, 15: 31.0 * _BAR}[offset]
        parts.append(_text(at, _BARS_H + 13, f"{offset:+d}".replace("-", "−") if offset else "0", anchor))
    return _svg("histogram", 31 * _BAR, _BARS_H + 16, parts, label)


FAR_OFF = 30
"""So many times the range of all others, and a model is left out of a drawing's scale."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """Values to pixels, linear."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def clear(cls, groups: Sequence[Sequence[float]], start: float, end: float, margin: float = 0.0) -> Scale:
        """As :meth:`around`, without groups (a model's mean and ends) so far off that the others would be one dot."""
        kept = [(min(group), max(group)) for group in groups if group]
        for _ in range(len(kept) // 3):
            low, high = min(ends[0] for ends in kept), max(ends[1] for ends in kept)
            fewer = [[e for e in kept if e[0] != low], [e for e in kept if e[1] != high]]
            fewer = [some for some in fewer if len(some) > 1]
            nearest = min(fewer, key=lambda some: max(e[1] for e in some) - min(e[0] for e in some), default=None)
            if nearest is None:
                break
            left = max(e[1] for e in nearest) - min(e[0] for e in nearest)
            if left == 0 or left * FAR_OFF >= high - low:
                break
            kept = nearest
        return cls.around([value for ends in kept for value in ends], start, end, margin)

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, margin: float = 0.0) -> Scale:
        """Spans ``values`` and a margin on both sides; one value alone stands in the middle."""
        low, high = min(values), max(values)
        room = (high - low) * margin or (0.0 if high > low else abs(high) * 0.05 or 1.0)
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        """Pixels; a value off the scale lies at its border."""
        inside = min(self.high, max(self.low, value))
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def side(self, value: float) -> int:
        """Which way the border lies that ``value`` is beyond: -1 towards smaller pixels, 1 larger, 0 on the scale."""
        if self.holds(value):
            return 0
        return 1 if (value > self.high) == (self.end > self.start) else -1

    def ticks(self, about: int) -> list[tuple[float, str]]:
        """Round values inside, near ``about`` of them, as (value, text)."""
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(i * step, f"{i * step:.{digits}f}".replace("-", "−")) for i in range(first, last + 1)]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, *map(_f, (x1, y1, x2, y2)))


def _rect(kind: str, x: float, y: float, width: float, height: float) -> Markup:
    drawn = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
    return drawn.format(kind, *map(_f, (x, y, width, height)))


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> Markup:
    name = Markup(' class="{}"').format(kind) if kind else ""
    return Markup('<text{} x="{}" y="{}" text-anchor="{}">{}</text>').format(name, _f(x), _f(y), anchor, text)


def _svg(kind: str, width: float, height: float, parts: Sequence[Markup], label: str | None = None) -> Markup:
    spoken = Markup('role="img" aria-label="{}"').format(label) if label else Markup('aria-hidden="true"')
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" {}>')
    size = (_f(width), _f(height))
    return head.format(kind, *size, *size, spoken) + Markup("").join(parts) + Markup("</svg>")


def _f(value: float) -> str:
    """At most one decimal: a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
