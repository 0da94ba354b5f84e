"""The command that trains a network again, from what its checkpoint says of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from g4g_core import registry
from g4g_core.config import Config
from g4g_core.lineage import TRAIN_KEYS

RUNS = "RUNS"
"""Stands for the folder of all trainings."""

_PATH = "PATH"
_CHANGED = ", changed"


def train_command(
    name: str, config: Config, settings: Mapping[str, Any], learned_from: Mapping[str, Any]
) -> str | None:
    """What one types, line by line; words in capitals stand for places. ``None`` where the checkpoint tells too little.

    Args:
        name: of the trainable.
        config: of its network; a preset is named by it, and what differs from it is given field by field.
        settings: of the training loop, as far as weights depend on them.
        learned_from: what the trainable says of its data, see :func:`g4g_core.lineage.learned_from`, and of the sync
            expert that it was ``taught_by``: how it was named, and the command that trains it. Commands that make files
            of keys come first, and those of the expert before them.
    """
    if "splits" not in learned_from or "steps" not in settings or name not in registry.names(registry.TRAINABLES):
        return None
    from g4g_core.runs import FREE
    from g4g_core.training import Settings

    kind = registry.load(registry.TRAINABLES, name)
    preset = (getattr(config, "preset", None) or "").removesuffix(_CHANGED)
    begun = dict(kind.presets.get(preset, {}))
    words = ["--model", name, *(["--preset", preset] if begun else []), "--shards", "DATA"]
    if list(learned_from["splits"]) != ["train"]:
        words += ["--split", ",".join(learned_from["splits"])]
    words += ["--selection", TRAIN_KEYS] if learned_from.get("selected") else []
    words += ["--validation", learned_from["validation"]] if "validation" in learned_from else []
    words += ["--steps", str(settings["steps"]), "--seed", str(settings["seed"])]
    usual = Settings(**{**kind.settings, **begun.get("training", {})}).model_dump(mode="json")
    aside = {*FREE, "device", "steps", "seed"}
    given = {key: value for key, value in settings.items() if key not in aside and value != usual.get(key)}
    flat = _flat(config.model_dump(mode="json"))
    base = _flat(kind.Config.model_validate(begun.get("model", {})).model_dump(mode="json"))
    aside = {*getattr(config, "places", ()), "preset"}  # where an expert lay is told by its own name, see below
    given |= {key: value for key, value in flat.items() if key not in aside and value != base.get(key)}
    teacher = learned_from.get("taught_by") or {}
    before = str(teacher.get("command") or "")
    given |= {"expert": teacher["expert"].replace(_PATH, before.rpartition(" ")[2] or _PATH)} if teacher else {}
    for key, value in given.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    own = shlex.join(["g4g-model", "train", *words, "--out", f"{RUNS}/{name}"])
    if "\n" in own:
        return None  # commands are told line by line
    lines = [*filter(None, before.split("\n")), *filter(None, (learned_from.get("selections") or {}).values()), own]
    return "\n".join(dict.fromkeys(lines))  # the expert's files of keys are mostly its pupil's


def _flat(fields: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """``{"weights": {"gan": 0}}`` as ``{"weights.gan": 0}``."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return found
