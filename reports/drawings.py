"""What is drawn into the page when it is rendered: intervals, trade-offs, offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from reports.board import TRUTH, shots_of_table
from reports.claims import taught
from reports.figures import OFFSETS, Axis, Point, offset_histogram, scatter, whiskers
from reports.in_step import IN_STEP, in_step, offsets_of

_OFFSET_METRICS = ("av_offset@crop1", "av_offset@s3fd", "av_offset@lrs", "sync_offset@judge")
_AGAINST_SYNC = ("m-lmd@20", "psnr@mouth", "cpbd@face256", "csim-dlib")


def all_whiskers(board: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[tuple[str, str, str], Markup]:
    """Drawings by (source, metric, model), from the numbers before rounding."""
    truth = _truth(board)
    found: dict[tuple[str, str, str], Markup] = {}
    for source in board["sources"]:
        rows = summary["tables"][source["source"]]["rows"]
        for metric in board["metrics"]:
            cells = {name: row["cells"][metric["id"]] for name, row in rows.items() if metric["id"] in row["cells"]}
            target = metric["better"] if isinstance(metric["better"], (int, float)) else None
            for name, drawing in whiskers(cells, target, truth).items():
                found[source["source"], metric["id"], name] = drawing
    return found


def _truth(board: Mapping[str, Any]) -> str | None:
    return next((model["name"] for model in board["models"] if model["kind"] == TRUTH), None)


def trade_offs(
    source: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    sync: Mapping[str, Any] | None,
    summary: Mapping[str, Any],
) -> list[Markup]:
    """Sync against two other metrics, where two models or more have both."""
    if sync is None:
        return []
    rows = summary["tables"][source["source"]]["rows"]
    drawn = []
    for other in (metrics[name] for name in _AGAINST_SYNC if name in metrics):
        points = []
        for name, row in rows.items():
            x, y = row["cells"].get(sync["id"], {}), row["cells"].get(other["id"], {})
            if x.get("mean") is not None and y.get("mean") is not None:
                model = summary["models"][name]
                aside = bool(taught(sync, model) or taught(other, model))
                points.append(Point(name, x["mean"], y["mean"], _ends(x), _ends(y), model["kind"] == TRUTH, aside))
        if len(points) > 1:
            drawn.append(scatter(points, _axis(sync), _axis(other)))
    return drawn[:2]


def _ends(cell: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if cell.get("low") is None else (cell["low"], cell["high"])


def _axis(metric: Mapping[str, Any]) -> Axis:
    unit = f", {metric['unit']}" if metric["unit"] else ""
    return Axis(f"{metric['name']}{unit} {metric['arrow']}".rstrip(), metric["better"])


def offsets(
    source: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], shots: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Histograms of the AV offset: a list by who measured it, each with a drawing a model."""
    own = shots_of_table(source["source"], shots)
    found = []
    for metric in (metrics[name] for name in _OFFSET_METRICS if name in metrics):
        by_model: dict[str, list[int]] = {}
        for row in source["rows"]:
            known = offsets_of(metric["id"], row["model"], own)
            if known:
                by_model[row["model"]] = [max(OFFSETS[0], min(OFFSETS[-1], offset)) for offset in known]
        most = max((known.count(o) / len(known) for known in by_model.values() for o in set(known)), default=0.0)
        if by_model:
            drawings = [_offset(name, known, most) for name, known in by_model.items()]
            found.append({"metric": metric, "drawings": drawings})
    return found


def _offset(name: str, known: Sequence[int], most: float) -> dict[str, Any]:
    near = in_step(known)
    text = f"{near} of {len(known)} shots within ±{IN_STEP} frame ({100 * near / len(known):.0f}\N{NO-BREAK SPACE}%)"
    drawing = offset_histogram({o: known.count(o) for o in set(known)}, most, f"AV offsets of {name}: {text}")
    return {"model": name, "text": text, "drawing": drawing}
