"""What a reader who sees a page for the first time must be told of its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from g4g_core import registry

_KINDS = {
    "truth": "the footage itself, through the same measures",
    "shuffled": "control: the clip's own mouth at the wrong time, warped to every pose",
    "external": "a program of its own, run on each clip",
    "precomputed": "finished videos of the crop",
    "recut": "finished videos, cut like the footage",
}


def what_it_is(model: Mapping[str, Any]) -> str:
    """One line.

    Args:
        model: ``kind``, and of a generator the registered name as ``target``.
    """
    if model["kind"] == "generator" and model["target"] in registry.names(registry.MODELS):
        return str(registry.load(registry.MODELS, model["target"]).summary)
    return _KINDS.get(model["kind"], "a model")
