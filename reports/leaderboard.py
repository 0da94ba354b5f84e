"""The page of a run: one offline HTML file, and the same numbers as JSON and CSV.

It is a pure function of ``summary.json``, ``shots.json`` and ``run.json`` (and, where media are wanted, of outputs and
shards), and holds no date, duration, host or path: equal results give equal bytes, whenever and wherever the page is
rendered.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from evaluation.compare import read_summary
from evaluation.metrics import METRICS
from evaluation.run import RUN_FILE, SHOTS, SUMMARY
from evaluation.summary import POOLED
from g4g_core import storage
from g4g_core.errors import UsageError
from g4g_core.progress import format_bytes
from reports.board import all_cells, lead_metric, leaderboard, models_by_rank, shots_of_table
from reports.claims import is_loud
from reports.columns import lead_of
from reports.drawings import all_whiskers, offsets, trade_offs
from reports.embedded import embedded, script_json
from reports.exports import ablation_caption, board_csv, caption_of
from reports.facts import facts_of, marks_of
from reports.media import Choice, Media, licence_is_unknown, make_media
from reports.opinions import read_opinions
from reports.templating import asset, page_environment

PAGE, BOARD, TABLE = "report.html", "leaderboard.json", "leaderboard.csv"
SHOTS_SCHEMA_VERSION = 1

_STYLES = ("palette.css", "leaderboard.css", "charts.css", "clip.css")
_SCRIPTS = ("base.js", "tables.js", "export.js", "charts.js", "clips.js", "clip.js", "player.js")
"""In the order in which they lean on each other."""

_MEDIA_POLICY = {
    "none": "",
    "embed": "; media-src data:; img-src data:",
    "folder": "; media-src 'self' file:; img-src 'self' file:",
}


def write_report(run: str) -> str:
    """Write ``report.html`` without media, ``leaderboard.json`` and ``leaderboard.csv`` into a run's folder.

    Args:
        run: a folder made by ``g4g-eval``.

    Returns:
        The path of the page.

    Raises:
        UsageError: no such run, or one of another schema version.
        StorageError: a file that cannot be read or written.
    """
    return write_page(run, Choice())[0]


def write_page(run: str, choice: Choice, *, quiet: bool = True) -> tuple[str, Media]:
    """As :func:`write_report`, with media; also what was made. Raises as :func:`reports.media.make_media`, too."""
    with _no_collection():
        summary, shots, facts = read_run(run)
        board = leaderboard(summary, shots, facts, read_opinions(run))
    media = make_media(run, facts, summary, shots, choice, quiet=quiet)
    with _no_collection():
        text = render_page(board, summary, shots, media)
        # on one line: with a thousand identities, indenting would take longer than all the rest
        text_of_board = json.dumps(board, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    storage.write_bytes(storage.join(run, BOARD), f"{text_of_board}\n".encode())
    storage.write_bytes(storage.join(run, TABLE), board_csv(board).encode())
    page = storage.join(run, PAGE)
    storage.write_bytes(page, text.encode())
    return page, media


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """A tenth of the time of a large page goes into looking for cycles among numbers and texts, which have none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_board(run: str) -> dict[str, Any]:
    """What the page of a run shows, read from its results. Raises as :func:`write_report`."""
    return leaderboard(*read_run(run), read_opinions(run))


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


def render_page(board: Mapping[str, Any], summary: Mapping[str, Any], shots: Mapping[str, Any], media: Media) -> str:
    """The page as text."""
    environment = page_environment()
    for function in (facts_of, is_loud, marks_of, caption_of, ablation_caption):
        environment.globals[function.__name__] = function
    environment.filters["minus"] = lambda text: str(text).replace("-", "−")
    script = '"use strict";\n(() => {\n' + "".join(map(asset, _SCRIPTS)) + "})();\n"
    metrics = {metric["id"]: metric for metric in board["metrics"]}
    sync = lead_of("sync", board["metrics"])
    held, unlicensed = _held(board, shots)
    lead = lead_metric(board)
    return environment.get_template("leaderboard.html.j2").render(
        board=board,
        metrics=metrics,
        numbers={name: number for number, name in enumerate(metrics, 1)},
        definitions=sorted(board["metrics"], key=lambda metric: _written(metric["id"])),
        models={model["name"]: model for model in board["models"]},
        lead=lead,
        pooled=POOLED,
        extras=any("g4g[" in command for m in metrics.values() if m["missing"] for command in m["missing"]["commands"]),
        few=any(found.get("few") for found in all_cells(board)),
        ordered={source["source"]: models_by_rank(source, lead) for source in board["sources"]},
        truths={source["source"]: [row for row in source["rows"] if row["truth"]] for source in board["sources"]},
        whiskers=all_whiskers(board, summary),
        scatters={source["source"]: trade_offs(source, metrics, sync, summary) for source in board["sources"]},
        offsets={source["source"]: offsets(source, metrics, shots) for source in board["sources"]},
        media={
            "kind": media.kind,
            "shots": len(media.shots),
            "total": media.total,
            "size": format_bytes(media.size),
            "vouched": media.vouched,
        },
        held=held,
        unlicensed=unlicensed,
        render_command=" ".join([board["provenance"]["render"], *map(shlex.quote, media.words)]),
        style=Markup("".join(map(asset, _STYLES))),
        script=Markup(script),
        policy=_policy(script, media),
        embedded=Markup(script_json(embedded(board, shots, media))),
    )


def _held(board: Mapping[str, Any], shots: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Sources of which something may not be passed on: those whose licence forbids it, those that name none."""
    held: list[str] = []
    unlicensed: list[str] = []
    for name in (source["source"] for source in board["sources"] if source["source"] != POOLED):
        kept = [shot["about"] for shot in shots_of_table(name, shots) if not shot["about"]["redistributable"]]
        if kept:
            (unlicensed if all(map(licence_is_unknown, kept)) else held).append(name)
    return held, unlicensed


def _policy(script: str, media: Media) -> str:
    """What the browser may load and run: this script, these styles, and nothing from elsewhere."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return rules + _MEDIA_POLICY[media.kind]


def _written(metric: str) -> tuple[bool, int]:
    """Place in the order in which definitions were written: one may lean on the one before it."""
    known = list(METRICS)
    return metric not in METRICS, known.index(metric) if metric in METRICS else 0
