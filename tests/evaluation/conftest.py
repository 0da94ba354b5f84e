"""A small data set of rendered people, made once, and models that tests register for themselves."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from building import footage_of, write_clip

from prep.run.runners import Handler, SyncRunner, Task, close_guard


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


@pytest.fixture(scope="session")
def videos(sample_lrs2_clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three talking people, 160 px, a second and a half each."""
    folder = tmp_path_factory.mktemp("talking")
    for number, clip in enumerate(sample_lrs2_clips[:3]):
        write_clip(folder / f"person{number}.mp4", footage_of(clip), 0, 36)
    return folder


@pytest.fixture(scope="session")
def shards(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Their shots, all in the split ``test``."""
    from evaluation.prepared import prepare

    try:
        return prepare(str(videos), "people", str(tmp_path_factory.mktemp("data") / "shards"), SyncRunner(), quiet=True)
    finally:
        close_guard()


Register = Callable[..., None]


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Installs a module with generators and their entry points where this process and its children find them."""

    def install(source: str, **kinds: str) -> None:
        folder = tmp_path / "site packages"
        (folder / "extra_models-1.dist-info").mkdir(parents=True)
        (folder / "extra_models.py").write_text(textwrap.dedent(source), encoding="utf-8")
        (folder / "extra_models-1.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: extra-models\nVersion: 1\n"
        )
        lines = [f"{name.replace('_', '-')} = extra_models:{kind}" for name, kind in kinds.items()]
        (folder / "extra_models-1.dist-info" / "entry_points.txt").write_text(
            "[g4g.models]\n" + "\n".join(lines) + "\n"
        )
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "extra_models", raising=False)

    return install


KIND = """
import numpy as np
from baselines.redraw import redraw
from g4g_core.protocols import POSE_POINTS

class Base:
    native_size = None
    mel_offset = 0
    trained_against = ()
    losses_off = ()

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
    return evaluate_shards(RunConfig(data=shards, **settings), str(out), runner, quiet=True, retry_failed=retry)
