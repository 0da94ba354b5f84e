"""Where tasks run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from prep.run.runners import LateRunner, open_runner


def test_each_local_worker_sees_a_gpu_of_its_own() -> None:
    with open_runner(2, None, gpus=["3", "5"]) as runner:
        seen = runner._client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
    assert sorted(seen.values()) == ["3", "5"]


def test_a_late_runner_is_opened_by_its_first_task_once_and_closed() -> None:
    told: list[Any] = []

    class Told:
        def run(self, tasks: Any, handle: Any) -> None:
            told.append([handle(task, {}) for task in tasks])

    @contextlib.contextmanager
    def opened() -> Iterator[Told]:
        told.append("opened")
        try:
            yield Told()
        finally:
            told.append("closed")

    def handle(task: Any, result: Any) -> Any:
        return task["n"]

    with LateRunner(opened) as runner:
        runner.run([], handle)
    assert told == []
    with pytest.raises(KeyError), LateRunner(opened) as runner:
        runner.run(iter([{"n": 1}, {"n": 2}]), handle)
        runner.run([{"n": 3}], handle)
        runner.run([{"no": 4}], handle)
    assert told == ["opened", [1, 2], [3], "closed"]
