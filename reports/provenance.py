"""Where the numbers come from, without anything that changes from one computation to the next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from baselines.external import is_adapter
from evaluation.config import RunConfig
from evaluation.merge import MERGED, numbered
from evaluation.models import TRUTH
from evaluation.run import measuring_weights
from g4g_core.lineage import TRAIN_KEYS, VALIDATION_KEYS
from g4g_core.recipes import RUNS

_ALWAYS = ("split", "protocol")
"""Options of a run that are named even where they are the defaults: readers ask for them first."""

_OUT = " --out "
_TEST_KEYS = "TEST_KEYS"
"""Stands for the file of keys that says what is evaluated."""

_UNKNOWN = ("FILE", TRAIN_KEYS, VALIDATION_KEYS, _TEST_KEYS)
"""Files that are no places of the reader's choice, where no command makes them."""

_SYNCNET, _SYNCNET_PACKAGE, _HEADLESS = "syncnet-v2", "syncnet-python", "opencv-python-headless"
_LAYOUTS = ("lrs2", "hdtf")

_SCORING = ("on_failure", "precision", "timeout")
"""Options of every command that scores."""


def provenance(summary: Mapping[str, Any], run: Mapping[str, Any], samples: Sequence[str] = ()) -> dict[str, Any]:
    """Code, packages, seeds, digests and commands; no date, duration, host or absolute path.

    ``install`` are the commands that install what was used, ``data`` those that make the data, ``trainings`` those that
    train the models, as far as data set and checkpoints say; ``unmade`` are the files in them that no command makes.

    Args:
        samples: sources that are the rendered sample.

    The judge and the measuring weights of a merged run are those of all its parts: runs that differ in them are not
    merged.
    """
    environments, weights = _environments(run), measuring_weights(summary)
    parts = [_part(summary, run, part) for part in run.get(MERGED, ())]
    trained = {model["name"]: model["name"] for model in run["models"] if _told(model)}
    own = "" if parts else shlex.join([*_command(summary, run["settings"], trained), "--out", "RUN"])
    numbers = [f"{run['selected_by']}{_OUT}{_TEST_KEYS}"] if run.get("selected_by") else []
    numbers += [part["command"] for part in parts] or [own]
    built = [*(_sample(name) for name in samples), *filter(None, [run.get("built_by")])]
    trainings = _trainings(run["models"])
    return {
        **{fact: _said(environments, fact) for fact in ("git_commit", "python", "system", "processor", "gpu")},
        "packages": _packages(environments, weights),
        "install": _installs(environments, weights),
        "data_fingerprint": summary["data"]["fingerprint"],
        "prompts": summary["prompts"],
        "judge": summary["judge"],
        "judge_met": run.get("judge_met"),
        "weights": weights,
        "seed": summary["seed"],
        "precision": summary["precision"],
        "shards": str(summary["protocol"]).partition("/")[0] in ("reconstruction", "cross"),
        "leaks": run.get("leaks"),
        "selected": any(settings.get("selection") for settings in _settings(run)),
        "selected_by": run.get("selected_by"),
        "data": "\n".join(built),
        "trainings": trainings,
        "command": "\n".join(numbers),
        "told_by_nobody": any(word.endswith("=PATH") for line in [*trainings, *numbers] for word in shlex.split(line)),
        "unmade": [word for word in _UNKNOWN if word in _asked([*built, *trainings, *numbers])],
        "render": shlex.join(["g4g-eval", "report", *(["RUN"] if not parts else [part["name"] for part in parts])]),
        "merged": parts,
    }


def _settings(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What was chosen for a run, or for each that it was merged from."""
    return [part["settings"] for part in run.get(MERGED, ())] or [run["settings"]]


def _environments(run: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """What a run was computed with, or each that it was merged from, with its name."""
    return [(part["name"], part["environment"]) for part in run.get(MERGED, ())] or [("", run["environment"])]


def _said(environments: Iterable[tuple[str, Mapping[str, Any]]], fact: str) -> str | None:
    """What they say of a fact, each answer once; ``None``: none of them says anything."""
    return " and ".join(dict.fromkeys(filter(None, (one.get(fact) for _, one in environments)))) or None


def _packages(environments: Iterable[tuple[str, Mapping[str, Any]]], weights: Collection[str]) -> dict[str, str]:
    """Versions of packages in any of them."""
    found: dict[str, dict[str, None]] = {}
    for _, environment in environments:
        for name, version in _used(environment, weights).items():
            found.setdefault(name, {})[version] = None
    return {name: " and ".join(versions) for name, versions in sorted(found.items())}


def _installs(environments: Iterable[tuple[str, Mapping[str, Any]]], weights: Collection[str]) -> list[str]:
    """What one types for the same code and the same versions, run by run where they differ."""
    named: dict[tuple[str, ...], list[str]] = {}
    for name, environment in environments:
        named.setdefault(tuple(_install(environment, weights)), []).append(name)
    if len(named) == 1:
        return list(next(iter(named)))
    lines = []
    for number, (install, names) in enumerate(named.items(), 1):
        first, *others = install
        first = first.replace(" g4g && cd g4g", f" g4g-{number} && cd g4g-{number}")
        lines += [f"# for {', '.join(names)}", first, *others]
    return lines


def _used(environment: Mapping[str, Any], weights: Collection[str]) -> dict[str, str]:
    """Versions of packages that were there.

    Args:
        weights: names of those that metrics were measured with: what only serves others is left out.
    """
    aside = () if _SYNCNET in weights else (_SYNCNET_PACKAGE,)
    return {name: version for name, version in sorted(environment["packages"].items()) if version and name not in aside}


def _install(environment: Mapping[str, Any], weights: Collection[str]) -> list[str]:
    """What one types for the same code and the same versions."""
    commit = (environment["git_commit"] or "").removesuffix("-dirty")
    language = ".".join(environment["python"].split(".")[:2])
    versions = {name: v.partition("+")[0] for name, v in _used(environment, weights).items() if name != "g4g"}
    pinned = [f"{name}=={version}" for name, version in versions.items()]
    # SyncNet's package brings another OpenCV, whose files the headless one must overwrite
    headless = [pin for pin in pinned if _SYNCNET_PACKAGE in versions and pin.startswith(_HEADLESS)]
    return [
        "git clone REPOSITORY g4g && cd g4g" + (f" && git checkout {commit}" if commit else ""),
        f"python{language} -m venv .venv && . .venv/bin/activate",
        shlex.join(["pip", "install", ".", *pinned]),
        *(shlex.join(["pip", "install", "--force-reinstall", "--no-deps", pin]) for pin in headless),
    ]


def _sample(source: str) -> str:
    """The command that renders the sample, which is called by the layout that it has unless its owner renamed it."""
    layout = source if source in _LAYOUTS else "LAYOUT"
    return shlex.join(["g4g-prep", "make-sample", f"{source.upper()}_ROOT", "--layout", layout])


def _trainings(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Commands that train models, into folders that are called as the page calls the models.

    What a command needs is made by one before it: files of keys, and experts that teach. Equal ones are told once.
    """
    told = {model["name"]: _told(model) for model in models}
    used = {_place(name) for name, commands in told.items() if commands}
    used |= {keys for commands in told.values() for keys in _UNKNOWN if keys in _asked(commands)}
    lines: dict[str, str] = {}
    for name, commands in told.items():
        moved: dict[str, str] = {}
        for number, command in enumerate(commands, 1):
            for place, elsewhere in moved.items():
                command = command.replace(place, elsewhere)
            words, _, place = command.rpartition(_OUT)
            if number == len(commands):
                lines[f"{words}{_OUT}{shlex.quote(_place(name))}"] = ""
                break
            if words not in lines:
                lines[words] = next(free for free in numbered(place) if free not in used)
                used.add(lines[words])
            moved[place] = lines[words]
    return [f"{words}{_OUT}{place}" if place else words for words, place in lines.items()]


def _asked(commands: Sequence[str]) -> set[str]:
    """Words that commands want and none before them makes; of ``csv:FILE`` the file alone."""
    asked: set[str] = set()
    made: set[str] = set()
    for command in commands:
        words, _, place = command.rpartition(_OUT)
        asked |= {word.removeprefix("csv:") for word in shlex.split(words)} - made
        made.add(place)
    return asked


def _told(model: Mapping[str, Any]) -> list[str]:
    """The commands that train a model and, before it, its expert, as its checkpoint says them."""
    # at nothing but "\n": a condition may hold other characters that end lines
    return list(filter(None, str((model.get("training") or {}).get("command") or "").split("\n")))


def _place(name: str) -> str:
    return f"{RUNS}/{name}"


def _part(summary: Mapping[str, Any], run: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """A run that a merged one was made of."""
    names = [model["name"] for model in run["models"] if model["name"] in part["models"]]
    told = {model["name"] for model in run["models"] if _told(model)}
    trained = {called: name for called, name in part["called"].items() if name in told}
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
        words += ["--selection", _TEST_KEYS] if settings.get("selection") else []
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
