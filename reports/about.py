"""What a reader who sees a page for the first time must be told of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from g4g_core import registry
from reports.facts import counted

_KINDS = {
    "truth": "the footage itself, through the same measures",
    "shuffled": "control: the clip's own mouth at the wrong time, warped to every pose",
    "external": "a program of its own, run on each clip",
    "precomputed": "finished videos of the crop",
    "recut": "finished videos, cut like the footage",
}
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
        said.append(f"on {counted(training['samples'], 'segment')} of {people}{of}, {training['minutes']:g} min")
    if training["seed"] is not None:
        said.append(f"seed {training['seed']}")
    return ", ".join(said)


def learned_alike(models: Sequence[Mapping[str, Any]]) -> str:
    """Whether the models that say what they learned from learned from the same for as many steps; "" for fewer than 2.

    Args:
        models: as for :func:`how_made`, with their ``name``.
    """
    known = [model for model in models if (model.get("training") or {}).get("footage_sha256")]
    if len(known) < 2:
        return ""
    differ = []
    for field, what in (("footage_sha256", "footage"), ("step", "steps"), ("seen", "frames a step")):
        values = {_seen(model["training"]) if field == "seen" else model["training"][field] for model in known}
        if len(values) > 1:
            differ.append(what)
    names = ", ".join(model["name"] for model in known)
    if not differ:
        return f"{names} were trained on the same footage, for the same number of steps, with as many frames in each."
    return f"{names} were not trained alike: they differ in {' and '.join(differ)}. Compare them with that in mind."


def _seen(training: Mapping[str, Any]) -> int | None:
    return None if training["clips"] is None else training["clips"] * training["frames"]
