"""What tests of the evaluation share: a runner in this process, the head of a module of models, one evaluation."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prep.run.runners import Handler, Task

Register = Callable[..., None]


class InProcess:
    """Runs tasks in this process: what tests patch is seen, and every task is written down."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.done: list[Task] = []
        self._stop_after = stop_after

    def run(self, tasks: Iterable[Task], handle: Handler) -> None:
        waiting = list(tasks)
        while waiting:
            if self._stop_after is not None and len(self.done) >= self._stop_after:
                raise KeyboardInterrupt
            task = waiting.pop(0)
            module, _, function = task["op"].partition(":")
            result = getattr(importlib.import_module(module), function)(task)
            self.done.append(task)
            waiting = [*handle(task, result), *waiting]

    @property
    def operations(self) -> list[tuple[str, str, str]]:
        """(generate or score, model, shot) of every task."""
        return [(task["op"].rpartition(":")[2], task["model"]["name"], task["shot"]["key"]) for task in self.done]


KIND = """
import numpy as np
from baselines.redraw import redraw
from g4g_core.protocols import POSE_POINTS

class Base:
    native_size = None
    mel_offset = 0
    trained_against = ()
    losses_off = ()
    preset = None
    training = False  # as torch's modules have it; no account of a training

class Kind:
    summary = "of a test"
    needs_weights = ()
    needs_checkpoint = False
    def __init__(self, generator):
        self.generator = generator
    def fingerprint(self, checkpoint):
        return self.generator.__name__
    def open(self, checkpoint):
        return self.generator()
"""
"""The head of a module of test models."""


def evaluated(shards: str, out: Path, runner: Any, **settings: Any) -> Any:
    """One evaluation through the front door of the package."""
    from evaluation.config import RunConfig
    from evaluation.run import evaluate_shards

    retry = settings.pop("retry_failed", False)
    settings.setdefault("controls", False)
    return evaluate_shards(RunConfig(data=shards, **settings), str(out), runner, quiet=True, retry_failed=retry)
