"""The page of a run: one offline HTML file, and the same numbers as JSON and CSV.

It is a pure function of ``summary.json``, ``shots.json`` and ``run.json``, and holds no date, duration, host or path:
equal results give equal bytes, whenever and wherever the page is rendered.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from markupsafe import Markup

from evaluation.compare import read_summary
from evaluation.metrics import METRICS
from evaluation.run import RUN_FILE, SHOTS, SUMMARY
from g4g_core import storage
from g4g_core.errors import UsageError
from reports.board import TRUTH, all_cells, leaderboard, models_by_rank, shots_of_table
from reports.clips import ALPHABET, MISSING, pack_clips, pack_column
from reports.columns import lead_of
from reports.exports import board_csv
from reports.figures import OFFSETS, Axis, Point, offset_histogram, scatter, whiskers

PAGE, BOARD, TABLE = "report.html", "leaderboard.json", "leaderboard.csv"
SHOTS_SCHEMA_VERSION = 1

_OFFSET_METRICS = ("av_offset@crop1", "av_offset@s3fd", "av_offset@lrs", "sync_offset@judge")
_AGAINST_SYNC = ("m-lmd@20", "psnr@mouth", "cpbd@face256", "csim-dlib")
_IN_SYNC = 1  # frames: what LRS2's own clips vary by


def write_report(run: str) -> str:
    """Write ``report.html``, ``leaderboard.json`` and ``leaderboard.csv`` into a run's folder.

    Args:
        run: a folder made by ``g4g-eval``.

    Returns:
        The path of the page.

    Raises:
        UsageError: no such run, or one of another schema version.
        StorageError: a file that cannot be read or written.
    """
    summary, shots, facts = read_run(run)
    board = leaderboard(summary, shots, facts)
    text = render_page(board, summary, shots)
    storage.write_json(storage.join(run, BOARD), board)
    storage.write_bytes(storage.join(run, TABLE), board_csv(board).encode())
    page = storage.join(run, PAGE)
    storage.write_bytes(page, text.encode())
    return page


def read_board(run: str) -> dict[str, Any]:
    """What the page of a run shows, read from its results. Raises as :func:`write_report`."""
    return leaderboard(*read_run(run))


def read_run(run: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """``summary.json``, ``shots.json`` and ``run.json`` of a run. Raises as :func:`write_report`."""
    summary = read_summary(storage.join(run, SUMMARY))
    for name in (SHOTS, RUN_FILE):
        if not storage.exists(storage.join(run, name)):
            raise UsageError(f"{run} has no {name}", "Evaluate again into the same folder: what was computed is kept.")
    shots = storage.read_json(storage.join(run, SHOTS))
    version = shots.get("schema_version")
    if version != SHOTS_SCHEMA_VERSION:
        raise UsageError(
            f"{run}/{SHOTS} has schema version {version}; this program reads {SHOTS_SCHEMA_VERSION}",
            "Evaluate again into the same folder: what was computed is kept.",
        )
    return summary, dict(shots), dict(storage.read_json(storage.join(run, RUN_FILE)))


def render_page(board: Mapping[str, Any], summary: Mapping[str, Any], shots: Mapping[str, Any]) -> str:
    """The page as text."""
    import jinja2

    # autoescape by extension would not know "html.j2"
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = lambda text: str(text).replace("-", "−")
    script = _asset("leaderboard.js")
    metrics = {metric["id"]: metric for metric in board["metrics"]}
    sync = lead_of("sync", board["metrics"])
    lead = sync or next((metric for metric in board["metrics"] if metric["unavailable"] is None), None)
    kinds = {model["name"]: model for model in board["models"]}
    return environment.get_template("leaderboard.html.j2").render(
        board=board,
        metrics=metrics,
        numbers={name: number for number, name in enumerate(metrics, 1)},
        definitions=sorted(board["metrics"], key=lambda metric: _written(metric["id"])),
        models=kinds,
        lead=lead,
        few=any(found.get("few") for found in all_cells(board)),
        ordered={source["source"]: models_by_rank(source, lead) for source in board["sources"]},
        truths={source["source"]: [row for row in source["rows"] if row["truth"]] for source in board["sources"]},
        whiskers=_whiskers(board, summary),
        scatters={source["source"]: _scatters(source, metrics, sync, summary) for source in board["sources"]},
        offsets={source["source"]: _offsets(source, metrics, shots) for source in board["sources"]},
        style=Markup(_asset("leaderboard.css")),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        embedded=Markup(script_json(_embedded(board, shots))),
    )


def _written(metric: str) -> tuple[bool, int]:
    """Place in the order in which definitions were written: one may lean on the one before it."""
    known = list(METRICS)
    return metric not in METRICS, known.index(metric) if metric in METRICS else 0


def script_json(obj: Any) -> str:
    """JSON that cannot end the ``<script>`` element around it: ASCII, and no ``<``, ``>`` or ``&``."""
    text = json.dumps(obj, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return resources.files("reports").joinpath("templates").joinpath(name).read_text(encoding="utf-8")


def _whiskers(board: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[tuple[str, str, str], Markup]:
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


def _scatters(
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
                truth = summary["models"][name]["kind"] == TRUTH
                points.append(Point(name, x["mean"], y["mean"], _ends(x), _ends(y), truth))
        if len(points) > 1:
            drawn.append(scatter(points, _axis(sync), _axis(other)))
    return drawn[:2]


def _ends(cell: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if cell.get("low") is None else (cell["low"], cell["high"])


def _axis(metric: Mapping[str, Any]) -> Axis:
    unit = f", {metric['unit']}" if metric["unit"] else ""
    return Axis(f"{metric['name']}{unit} {metric['arrow']}".rstrip(), metric["better"])


def _offsets(
    source: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]], shots: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Histograms of the AV offset: a list by who measured it, each with a drawing a model."""
    own = shots_of_table(source["source"], shots)
    found = []
    for metric in (metrics[name] for name in _OFFSET_METRICS if name in metrics):
        by_model: dict[str, list[int]] = {}
        for row in source["rows"]:
            values = [shot["models"].get(row["model"], {}).get("values", {}).get(metric["id"]) for shot in own]
            known = [max(OFFSETS[0], min(OFFSETS[-1], round(value))) for value in values if value is not None]
            if known:
                by_model[row["model"]] = known
        most = max((known.count(o) / len(known) for known in by_model.values() for o in set(known)), default=0.0)
        if by_model:
            drawings = [_offset(name, known, most) for name, known in by_model.items()]
            found.append({"metric": metric, "drawings": drawings})
    return found


def _offset(name: str, known: Sequence[int], most: float) -> dict[str, Any]:
    near = sum(abs(offset) <= _IN_SYNC for offset in known)
    text = f"{near} of {len(known)} shots within ±{_IN_SYNC} frame ({100 * near / len(known):.0f}\N{NO-BREAK SPACE}%)"
    drawing = offset_histogram({o: known.count(o) for o in set(known)}, most, f"AV offsets of {name}: {text}")
    return {"model": name, "text": text, "drawing": drawing}


def _embedded(board: Mapping[str, Any], shots: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script draws on demand."""
    names = [model["name"] for model in board["models"]]
    place = {name: position for position, name in enumerate(names)}
    known = ("id", "name", "unit", "better", "arrow", "group", "kind")
    pair = ("effect", "low", "high", "p", "p_holm", "n", "clusters", "verdict")
    sources = [
        {
            "source": source["source"],
            "pairs": {
                metric: [[place[row["a"]], place[row["b"]], *(row[key] for key in pair)] for row in rows]
                for metric, rows in source["pairs"].items()
            },
            "breakdowns": [
                _packed(each, [row["model"] for row in source["rows"]], place) for each in source["breakdowns"]
            ],
        }
        for source in board["sources"]
    ]
    return {
        "alphabet": ALPHABET,
        "missing": MISSING,
        "models": [{"name": model["name"], "truth": model["kind"] == TRUTH} for model in board["models"]],
        "metrics": [{key: metric[key] for key in known} for metric in board["metrics"] if not metric["unavailable"]],
        "sources": sources,
        "clips": pack_clips(shots["shots"], board["metrics"], names),
    }


def _packed(breakdown: Mapping[str, Any], names: Sequence[str], place: Mapping[str, int]) -> dict[str, Any]:
    """Means of a breakdown as columns of models x parts (parts run fastest)."""
    columns = {
        metric: pack_column([of.get(name) for name in names for of in means["parts"]], means["digits"])
        for metric, means in breakdown["means"].items()
    }
    return {
        "by": breakdown["by"],
        "unit": breakdown["unit"],
        "labels": [part["label"] for part in breakdown["parts"]],
        "shots": [part["shots"] for part in breakdown["parts"]],
        "models": [place[name] for name in names],
        "columns": columns,
    }
