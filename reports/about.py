"""What a reader who sees a page for the first time must be told of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from g4g_core import registry
from reports.facts import counted
from reports.verdicts import joined

_KINDS = {
    "truth": "the footage itself, through the same measures",
    "shuffled": "control: the clip's own mouth at the wrong time, warped to every pose",
    "external": "a program of its own, run on each clip",
    "precomputed": "finished videos of the crop",
    "recut": "finished videos, cut like the footage",
}
_OFF = ": off"
_FOREIGN = ("external", "precomputed", "recut")


def what_they_are(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a model.

    Args:
        models: ``kind``, and of a generator the registered name as ``target``.
    """
    targets = {model["target"] for model in models if model["kind"] == "generator"}
    known = targets.intersection(registry.names(registry.MODELS))
    summaries = {name: str(registry.load(registry.MODELS, name).summary) for name in known}
    return [summaries.get(model["target"]) or _KINDS.get(model["kind"], "a model") for model in models]


def how_made(model: Mapping[str, Any]) -> str:
    """How a model's weights came to be, in a sentence without a full stop.

    Args:
        model: ``kind``, ``control``, and ``training`` as ``run.json`` has it, if it has.
    """
    training = model.get("training")
    if training is None:
        learns = model["kind"] == "generator" and not model["control"]
        unknown = "its file does not say" if learns else "nothing is known here"
        return unknown if learns or model["kind"] in _FOREIGN else "nothing is learned"
    said = [training["origin"] if training["step"] is None else counted(training["step"], "step")]
    if training["clips"] is not None:
        said[-1] += f" of {counted(training['clips'], 'window')} of {training['frames']} frames"
    if training["samples"] is not None:
        people = counted(training["identities"], "identity", "identities")
        chosen = "some samples" if training["selected"] else "all samples"
        of = f" ({chosen} of {', '.join(training['splits'])})" if training["splits"] else ""
        footage = f"{training['minutes']:g} min of footage"
        said.append(f"on {counted(training['samples'], 'segment')} of {people}{of}, {footage}")
    if training["seed"] is not None:
        said.append(f"seed {training['seed']}")
    off = _off(model)
    said += [f"without its {' and '.join(off)} loss{'es' if len(off) > 1 else ''}"] if off else []
    return ", ".join(said)


def learned_alike(models: Sequence[Mapping[str, Any]]) -> str:
    """In what the trainings agree that are known, and in what not; "" for fewer than 2.

    Args:
        models: as for :func:`how_made`, with their ``name`` and ``marks``.
    """
    known = [model for model in models if (model.get("training") or {}).get("footage_sha256")]
    if len(known) < 2:
        return ""
    trainings = [model["training"] for model in known]
    facts: Mapping[str, set[Any]] = {
        "footage": {training["footage_sha256"] for training in trainings},
        "steps": {training["step"] for training in trainings},
        "frames a step": {_seen(training) for training in trainings},
        "losses left out": {tuple(_off(model)) for model in known},
    }
    parts: dict[str, list[str]] = {"the same": [], "different": []}
    for what, values in facts.items():
        if values == {None}:
            continue
        parts["the same" if len(values) == 1 else "different"].append(what)
    said = "; ".join(f"{how} {joined(whats)}" for how, whats in parts.items() if whats)
    return f"Trainings of {joined([model['name'] for model in known])}: {said}."


def _off(model: Mapping[str, Any]) -> list[str]:
    """Losses that its training left out."""
    return sorted(mark.removesuffix(_OFF) for mark in model["marks"] if mark.endswith(_OFF))


def _seen(training: Mapping[str, Any]) -> int | None:
    return None if training["clips"] is None else training["clips"] * training["frames"]
