"""What a reader who sees a page for the first time must be told of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from g4g_core import registry

_KINDS = {
    "truth": "the footage itself, through the same measures",
    "shuffled": "control: the clip's own mouth at the wrong time, warped to every pose",
    "external": "a program of its own, run on each clip",
    "precomputed": "finished videos of the crop",
    "recut": "finished videos, cut like the footage",
}


def what_they_are(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a model.

    Args:
        models: ``kind``, and of a generator the registered name as ``target``.
    """
    targets = {model["target"] for model in models if model["kind"] == "generator"}
    known = targets.intersection(registry.names(registry.MODELS))
    summaries = {name: str(registry.load(registry.MODELS, name).summary) for name in known}
    return [summaries.get(model["target"]) or _KINDS.get(model["kind"], "a model") for model in models]
