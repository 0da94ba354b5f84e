"""Where the numbers come from, without anything that changes from one computation to the next."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from baselines.external import is_adapter
from evaluation.config import RunConfig
from evaluation.merge import MERGED
from evaluation.models import TRUTH
from evaluation.run import measuring_weights
from g4g_core.recipes import RUNS

_ALWAYS = ("split", "protocol")
"""Options of a run that are named even where they are the defaults: readers ask for them first."""

_OUT = " --out "
_LAYOUTS = ("lrs2", "hdtf")

_SCORING = ("on_failure", "precision", "timeout")
"""Options of every command that scores."""


def provenance(summary: Mapping[str, Any], run: Mapping[str, Any], samples: Sequence[str] = ()) -> dict[str, Any]:
    """Code, packages, seeds, digests and commands; no date, duration, host or absolute path.

    ``data`` are the commands that make the data, ``trainings`` those that train the models, as far as data set and
    checkpoints say.

    Args:
        samples: sources that are the rendered sample.

    The judge and the measuring weights of a merged run are those of all its parts: runs that differ in them are not
    merged.
    """
    environment = run["environment"]
    parts = [_part(summary, run, part) for part in run.get(MERGED, ())]
    trained = {model["name"]: model["name"] for model in run["models"] if _told(model)}
    own = "" if parts else shlex.join([*_command(summary, run["settings"], trained), "--out", "RUN"])
    return {
        "git_commit": environment["git_commit"],
        "python": environment["python"],
        "packages": dict(sorted(environment["packages"].items())),
        "data_fingerprint": summary["data"]["fingerprint"],
        "prompts": summary["prompts"],
        "judge": summary["judge"],
        "weights": measuring_weights(summary),
        "seed": summary["seed"],
        "precision": summary["precision"],
        "shards": str(summary["protocol"]).partition("/")[0] in ("reconstruction", "cross"),
        "data": "\n".join([*(_sample(name) for name in samples), *filter(None, [run.get("built_by")])]),
        "trainings": _trainings(run["models"]),
        "command": "\n".join(part["command"] for part in parts) or own,
        "render": shlex.join(["g4g-eval", "report", *(["RUN"] if not parts else [part["name"] for part in parts])]),
        "merged": parts,
    }


def _sample(source: str) -> str:
    """The command that renders the sample, which is called by the layout that it has unless its owner renamed it."""
    layout = source if source in _LAYOUTS else "LAYOUT"
    return shlex.join(["g4g-prep", "make-sample", f"{source.upper()}_ROOT", "--layout", layout])


def _trainings(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Commands that train models, into folders that are called as the page calls the models, experts before pupils."""
    told = {model["name"]: _told(model) for model in models}
    lines: dict[str, str] = {}
    used = {_place(name) for name, commands in told.items() if commands}
    for name, commands in told.items():
        if not commands:
            continue
        *before, own = commands
        for teacher in before:
            words, _, place = teacher.rpartition(_OUT)
            if words not in lines:
                lines[words] = next(free for free in _numbered(place) if free not in used)
                used.add(lines[words])
            own = own.replace(place, lines[words])
        lines[f"{own.rpartition(_OUT)[0]}{_OUT}{shlex.quote(_place(name))}"] = ""
    return [f"{words}{_OUT}{place}" if place else words for words, place in lines.items()]


def _told(model: Mapping[str, Any]) -> list[str]:
    """The commands that train a model and, before it, its expert, as its checkpoint says them."""
    return str((model.get("training") or {}).get("command") or "").splitlines()


def _numbered(place: str) -> Iterator[str]:
    yield place
    yield from (f"{place}-{number}" for number in itertools.count(2))


def _place(name: str) -> str:
    return f"{RUNS}/{name}"


def _part(summary: Mapping[str, Any], run: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """A run that a merged one was made of."""
    names = [model["name"] for model in run["models"] if model["name"] in part["models"]]
    told = {model["name"] for model in run["models"] if _told(model)}
    trained = {part["models"][name]: name for name in names if name in told}
    own = {part["models"][name]: summary["models"][name] for name in names}
    words = _command({**summary, "models": own}, part["settings"], trained)
    environment = part["environment"]
    return {
        "name": part["name"],
        "models": names,
        "git_commit": environment["git_commit"],
        "command": shlex.join([*words, "--out", part["name"]]),
    }


def _command(summary: Mapping[str, Any], settings: Mapping[str, Any], trained: Mapping[str, str]) -> list[str]:
    """Words of what computes the run again; words in capitals stand for places on the reader's machine.

    Args:
        trained: models whose training is told, with their names on the page.
    """
    kind = str(summary["protocol"]).partition("/")[0]
    names = [name for name in summary["models"] if name != TRUTH]
    models = ",".join(map(_placeless, settings.get("models") or names))
    if kind in ("videos", "videos-reference"):
        words = ["score", *(word for name in names for word in ("--videos", f"{name}=DIR"))]
        words += ["--reference", "DIR"] if kind == "videos-reference" else []
    elif kind == "pairs":
        words = ["pairs", "FILE", "--models", models, *(["--root", "DIR"] if settings.get("root") else [])]
        words += _options(("seed",), summary, settings)
    else:
        words = ["run", "--models", models, "--data", "DATA", *_options((*_ALWAYS, "limit", "seed"), summary, settings)]
        words += ["--selection", "FILE"] if settings.get("selection") else []
        for source in sorted(settings.get("footage") or {}):
            words += ["--footage", f"{source}=ROOT" if source else "ROOT"]
        words += ["--no-controls"] if settings.get("controls") is False else []
        words += ["--pooled"] if settings.get("pooled") else []
    for name in sorted(settings.get("checkpoints") or {}):
        words += ["--checkpoint", f"{name}={_place(trained[name]) if name in trained else 'PATH'}"]
    if settings.get("metrics"):
        words += ["--metrics", ",".join(settings["metrics"])]
    return ["g4g-eval", *words, *_options(_SCORING, summary, settings)]


def _options(names: Sequence[str], summary: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Words for what was chosen otherwise than it is by default."""
    words = []
    for name in names:
        default = RunConfig.model_fields[name].default
        value = settings.get(name, summary.get(name, default))
        if name in _ALWAYS or value != default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _placeless(model: str) -> str:
    """``mine=precomputed:/home/me/out`` without the path; a program whose YAML is packaged keeps its name."""
    name, colon, target = model.partition(":")
    if not colon or (name.endswith("=external") and is_adapter(target)):
        return model
    return f"{name}:{'YAML' if name.endswith('=external') else 'DIR'}"
