"""What the page's script draws on demand: pairs, breakdowns, single clips."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.summary import POOLED
from reports.board import TRUTH
from reports.clips import ALPHABET, MISSING, pack_clips, pack_column, pack_curve
from reports.media import Media

FRAME_CURVES = {
    "judge_frames": "Sync distance (judge) at the clip's best offset: low is in sync, unrelated ones lie near 1.41",
    "lse_confidence": "SyncNet confidence: high is in sync",
    "m-lmd": "Distance of mouth landmarks from the ground truth, % (no line: not scored)",
}
"""Curves of a number a frame, and what they show."""


def script_json(obj: Any) -> str:
    """JSON that cannot end the ``<script>`` element around it: ASCII, and no ``<``, ``>`` or ``&``."""
    text = json.dumps(obj, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def embedded(board: Mapping[str, Any], shots: Mapping[str, Any], media: Media) -> dict[str, Any]:
    """What the page's script draws on demand."""
    names = [model["name"] for model in board["models"]]
    place = {name: position for position, name in enumerate(names)}
    known = ("id", "name", "unit", "better", "arrow", "group", "kind")
    pair = ("effect", "low", "high", "p", "p_holm", "n", "clusters", "verdict")
    sources = [
        {
            "source": source["source"],
            "pooled": source["source"] == POOLED,
            "cells": _cells(source, place),
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
        "media": {key: {**record, "curves": _frame_curves(shots["shots"][key])} for key, record in media.shots.items()},
        "frameCurves": FRAME_CURVES,
    }


def _frame_curves(shot: Mapping[str, Any]) -> dict[str, Any]:
    """Packed curves of a shot by kind, then by model."""
    found: dict[str, Any] = {}
    for kind in FRAME_CURVES:
        of_models = {name: pack_curve(row["curves"].get(kind) or ()) for name, row in shot["models"].items()}
        if any(of_models.values()):
            found[kind] = {name: packed for name, packed in of_models.items() if packed}
    return found


def _cells(source: Mapping[str, Any], place: Mapping[str, int]) -> dict[str, list[list[Any]]]:
    """[model, mean, low, high] as printed, by metric; ends are ``None`` where there is no interval."""
    found: dict[str, list[list[Any]]] = {}
    for row in source["rows"]:
        for metric, cell in row["cells"].items():
            if cell["kind"] == "value":
                ends = (cell.get("low_text"), cell.get("high_text"))
                found.setdefault(metric, []).append([place[row["model"]], cell["text"], *ends])
    return found


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
