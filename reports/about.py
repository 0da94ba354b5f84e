"""What a reader who sees a page for the first time must be told of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.summary import POOLED
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
_GIVEN = (
    "Models are given the frames with the mouth, jaw and chin filled grey, the points of brows, eyes and nose, five "
    "other frames of the same shot with all their points, {speech}; nothing of the mouth that they are to draw."
)
_ASKED = {
    "reconstruction": _GIVEN.format(speech="and the clip's own speech")
    + " What they draw is compared with the clip; other people's speech is not tried.",
    "cross": _GIVEN.format(speech="and the speech of another person of the same source")
    + " There is no true mouth to compare with.",
    "pairs": "Models are given a video and speech from a list; what they draw is pasted back into the frames, and cut "
    "out again to be scored.",
    "videos": "Finished videos, tracked and cut like footage.",
    "videos-reference": "Finished videos, each cut as its original is, and compared with it.",
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


def what_it_is(source: Mapping[str, Any], sources: Sequence[Mapping[str, Any]], said: Mapping[str, str]) -> str:
    """What a table's footage is.

    Args:
        source: of the board.
        sources: all of the board.
        said: of the sources, by whoever built the data set.
    """
    if source["source"] == POOLED:
        largest = max((one for one in sources if one is not source), key=lambda one: one["shots"])
        return f"all others together: {largest['shots']} of its {source['shots']} shots are {largest['source']}'s"
    if source["sample"]:
        return "rendered by g4g-prep make-sample"
    return said.get(source["source"]) or "whoever built the data set did not say"


def what_is_asked(protocol: str) -> str:
    """What models are given, and what is made of it; "" for a protocol that this program does not know."""
    return _ASKED.get(protocol.partition("/")[0], "")


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
        at = f" at {training['size']} px" if training.get("size") else ""
        said[-1] += f" of {counted(training['clips'], 'window')} of {training['frames']} frames{at}"
    if training["samples"] is not None:
        said.append(_footage(training))
    if training.get("teacher") and not _off(model).intersection(("sync", "expert")):
        # a run of before this was noted has no hash
        expert = training.get("teacher_sha256")
        digest = f" (hash {expert[:12]})" if expert else ""
        said.append(f"against the sync expert {_named(training['teacher'])}{digest}")
    if training["seed"] is not None:
        said.append(f"seed {training['seed']}")
    why = training.get("off_because") or {}
    said += [f"without its {term} loss{f' ({why[term]})' if term in why else ''}" for term in sorted(_off(model))]
    if training.get("processor"):
        said.append(f"on {training['processor']} with torch {training['torch']}")
    return ", ".join(said)


def _footage(training: Mapping[str, Any]) -> str:
    """How much was learned from, whose it is, and whether they are shown here, too."""
    chosen = "some samples" if training["selected"] else "all samples"
    sources = f": {joined(training['sources'])}" if training.get("sources") else ""
    of = f" ({chosen} of {joined(training['splits'])}{sources})" if training["splits"] else ""
    people = counted(training["identities"], "identity", "identities")
    met = training.get("met")
    shown = "" if met is None else f", {met or 'none'} of whom {'is' if met == 1 else 'are'} shown here"
    segments = counted(training["samples"], "segment")
    digest = f" (hash {training['footage_sha256'][:12]})" if training["footage_sha256"] else ""
    return f"on {segments} of {people}{shown}{of}, {training['minutes']:g} min of footage{digest}"


def _named(teacher: str) -> str:
    """A sync expert without the place of its weights."""
    return teacher.removesuffix(":PATH") if teacher != "PATH" else "that was trained before it"


def miniatures(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of those that were trained to try things out, at a size that says nothing of the method."""
    return [model["name"] for model in models if any(mark.partition(",")[0] == "tiny" for mark in model["marks"])]


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
        "losses left out": {frozenset(_off(model)) for model in known},
    }
    parts: dict[str, list[str]] = {"the same": [], "different": []}
    for what, values in facts.items():
        if values == {None}:
            continue
        parts["the same" if len(values) == 1 else "different"].append(what)
    said = "; ".join(f"{how} {joined(whats)}" for how, whats in parts.items() if whats)
    return f"Trainings of {joined([model['name'] for model in known])}: {said}."


def _off(model: Mapping[str, Any]) -> set[str]:
    """Losses that its training left out."""
    return {mark.removesuffix(_OFF) for mark in model["marks"] if mark.endswith(_OFF)}


def _seen(training: Mapping[str, Any]) -> int | None:
    return None if training["clips"] is None else training["clips"] * training["frames"]
