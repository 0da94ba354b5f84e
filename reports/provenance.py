"""Where the numbers come from, without anything that changes from one computation to the next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from evaluation.merge import MERGED

_OPTIONS = ("split", "selection", "footage", "protocol", "limit", "seed", "on_failure", "precision", "timeout")
_DEFAULTS = {"limit": None, "selection": None, "footage": None, "on_failure": "drop-everywhere", "precision": "fp32",
             "timeout": 600.0, "seed": 0}  # fmt: skip
_PLACES = {"selection": "FILE", "footage": "ROOT"}
"""Options that hold a path: the page names no folder of the machine it was made on."""


def provenance(summary: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Code, packages, seeds, digests and commands; no date, duration, host or absolute path."""
    environment = run["environment"]
    parts = [_part(summary, run, part) for part in run.get(MERGED, ())]
    return {
        "git_commit": environment["git_commit"],
        "python": environment["python"],
        "packages": dict(sorted(environment["packages"].items())),
        "data_fingerprint": summary["data"]["fingerprint"],
        "prompts": summary["prompts"],
        "seed": summary["seed"],
        "precision": summary["precision"],
        "command": "\n".join(part["command"] for part in parts) or _command(summary, run["settings"]),
        "render": shlex.join(["g4g-eval", "report", *(["RUN"] if not parts else [part["name"] for part in parts])]),
        "merged": parts,
    }


def _part(summary: Mapping[str, Any], run: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """A run that a merged one was made of."""
    names = [model["name"] for model in run["models"] if model["name"] in part["models"]]
    own = {part["models"][name]: summary["models"][name] for name in names}
    environment = part["environment"]
    return {
        "name": part["name"],
        "models": names,
        "git_commit": environment["git_commit"],
        "command": _command({**summary, "models": own}, part["settings"]),
    }


def _command(summary: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What computes the run again; words in capitals stand for places on the reader's machine."""
    kind = str(summary["protocol"]).partition("/")[0]
    models = [name for name, about in summary["models"].items() if about["kind"] != "truth"]
    if kind in ("videos", "videos-reference"):
        words = ["g4g-eval", "score", *(word for name in models for word in ("--videos", f"{name}=DIR"))]
        return shlex.join([*words, *(["--reference", "DIR"] if kind == "videos-reference" else [])])
    if kind == "pairs":
        return shlex.join(["g4g-eval", "pairs", "FILE", "--models", ",".join(models)])
    named = ",".join(map(_placeless, settings.get("models") or models))
    words = ["g4g-eval", "run", "--models", named, "--data", "DATA"]
    for name in sorted(settings.get("checkpoints") or {}):
        words += ["--checkpoint", f"{name}=PATH"]
    if settings.get("metrics"):
        words += ["--metrics", ",".join(settings["metrics"])]
    for name in _OPTIONS:
        value = settings.get(name, summary.get(name))
        if value not in (None, {}) and not (name in _DEFAULTS and value == _DEFAULTS[name]):
            words += [f"--{name.replace('_', '-')}", _PLACES.get(name, str(value))]
    return shlex.join([*words, *(["--pooled"] if settings.get("pooled") else [])])


def _placeless(model: str) -> str:
    """``mine=precomputed:/home/me/out`` without the path."""
    name, colon, _ = model.partition(":")
    return f"{name}:{'YAML' if name.endswith('=external') else 'DIR'}" if colon else model
