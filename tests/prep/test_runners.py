"""Where tasks run."""

from __future__ import annotations

import os

from prep.run.runners import open_runner


def test_each_local_worker_sees_a_gpu_of_its_own() -> None:
    with open_runner(2, None, gpus=["3", "5"]) as runner:
        seen = runner._client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
    assert sorted(seen.values()) == ["3", "5"]
