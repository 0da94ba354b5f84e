"""Builds that are killed, and workers that die: nothing is lost, nothing is wrong, nobody is left behind."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from building import (
    Sabotaged,
    build,
    build_command,
    data_bytes,
    environment,
    kill,
    manifest,
    processes_with,
    unit_times,
    wait_until,
    write_tiny_footage,
)

from g4g_core import storage
from prep.run.runners import DaskRunner, SyncRunner, close_guard, open_runner
from prep.shards.verify import verify


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory, sample_lrs2_clips: list[Path]) -> Path:
    return write_tiny_footage(tmp_path_factory.mktemp("tiny"), sample_lrs2_clips, n=8)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, footage: Path) -> tuple[dict[str, str], float]:
    """Bytes of one run in peace, and the seconds that it took."""
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    started = time.monotonic()
    build(footage, out)
    seconds = time.monotonic() - started
    close_guard()
    return data_bytes(out), seconds


@pytest.fixture
def marker() -> Iterator[str]:
    """A name in the environment of everything that a test starts; nothing of it may be left."""
    name = f"G4G_TEST_{os.getpid()}_{time.monotonic_ns()}"
    yield name
    wait_until(lambda: not processes_with(name), 20)


def start(footage: Path, out: Path, marker: str, *where: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        build_command(footage, out, *where),
        cwd=out.parent,
        env=environment(**{marker: "1"}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def killed_at_random(footage: Path, out: Path, marker: str, kills: int, seconds: float, seed: int) -> list[int]:
    """Start the command over and over, kill it at random moments; returns clips done at each kill."""
    rng = random.Random(seed)
    done = []
    for number in range(kills):
        process = start(footage, out, marker, *(["--workers", "2"] if number % 2 else ["--scheduler", "sync"]))
        if number:  # past the imports, so that most kills hit work; the first may hit anything
            wait_until(lambda: processes_with(marker + "=") and (out / ".work" / "plan.parquet").exists())
        time.sleep(rng.uniform(0.0, seconds))
        kill(process)
        wait_until(lambda: not processes_with(marker), 20)
        done.append(len(unit_times(out)))
        assert not (out / "dataset.json").exists() or verify(str(out)).findings == ()
    return done


@pytest.mark.slow
def test_a_build_killed_three_times_and_resumed_gives_the_bytes_of_one_run(
    tmp_path: Path, footage: Path, uninterrupted: tuple[dict[str, str], float], marker: str
) -> None:
    expected, seconds = uninterrupted
    killed_at_random(footage, tmp_path / "out", marker, 3, seconds, seed=1)
    build(footage, tmp_path / "out")
    close_guard()
    assert data_bytes(tmp_path / "out") == expected
    assert verify(str(tmp_path / "out"), deep=True).findings == ()
    assert not list((tmp_path / "out").rglob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_build_killed_ten_times_and_resumed_gives_the_bytes_of_one_run(
    tmp_path: Path, footage: Path, uninterrupted: tuple[dict[str, str], float], marker: str
) -> None:
    expected, seconds = uninterrupted
    killed_at_random(footage, tmp_path / "out", marker, 10, seconds, seed=2)
    build(footage, tmp_path / "out")
    close_guard()
    assert data_bytes(tmp_path / "out") == expected


def test_a_build_that_ends_between_any_two_moves_of_files_is_resumed(
    tmp_path: Path, footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moments in which shards are put into place are too short to be hit at random."""
    smaller = tmp_path / "smaller"
    shutil.copytree(footage, smaller)
    build(footage, tmp_path / "grown")
    expected = data_bytes(tmp_path / "grown")
    for _, clip, *_ in storage.read_json(str(tmp_path / "grown" / "train-00000.stats.json"))["parts"]:
        (smaller / f"{clip}.mp4").unlink()  # so that all other shards of train change their numbers
    build(smaller, tmp_path / "old")
    cuts = 0
    for n_steps in itertools.count(0, 4):
        out = tmp_path / f"out{n_steps}"
        shutil.copytree(tmp_path / "old", out)
        if not _power_cut_after(n_steps, footage, out, monkeypatch):
            break
        cuts += 1
        assert not (out / "dataset.json").exists() or verify(str(out)).ok
        build(footage, out)
        assert data_bytes(out) == expected
    close_guard()
    assert cuts >= 3


def _power_cut_after(n_steps: int, footage: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Build, but break off before the move or deletion number ``n_steps``; whether it came to that."""

    class PowerCut(BaseException):
        pass

    left = [n_steps]

    def cut_off(real: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*arguments: Any, **options: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise PowerCut
            real(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("move", "delete"):
            patch.setattr(storage, name, cut_off(getattr(storage, name)))
        try:
            build(footage, out)
        except PowerCut:
            return True
    return False


@pytest.mark.parametrize(
    "where", [pytest.param(["--scheduler", "sync"], marks=pytest.mark.slow), ["--workers", "2"]], ids="=".join
)
def test_control_c_ends_the_build_with_130_and_leaves_no_process(
    tmp_path: Path, footage: Path, marker: str, where: list[str]
) -> None:
    process = subprocess.Popen(
        build_command(footage, tmp_path / "out", *where),
        cwd=tmp_path,
        env=environment(**{marker: "1"}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        # a shell starts background jobs, and with them the tests, with SIGINT ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    wait_until(lambda: unit_times(tmp_path / "out"))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted" in errors


@pytest.mark.slow
def test_a_worker_killed_in_mid_clip_costs_what_was_not_committed(
    tmp_path: Path, footage: Path, uninterrupted: tuple[dict[str, str], float]
) -> None:
    out = tmp_path / "out"
    at_kill: dict[str, int] = {}
    killed: list[int] = []
    with open_runner(1, None) as runner:
        (worker,) = runner._client.run(os.getpid).values()

        def assassin() -> None:
            wait_until(lambda: len(unit_times(out)) >= 3)
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)
            time.sleep(0.2)  # its child may have been about to commit one more
            at_kill.update(unit_times(out))

        thread = threading.Thread(target=assassin)
        thread.start()
        build(footage, out, runner)
        thread.join()
        assert list(runner._client.run(os.getpid).values()) != killed
    after = unit_times(out)
    assert len(after) == 8 > len(at_kill) >= 3
    assert {uid: after[uid] for uid in at_kill} == at_kill
    assert data_bytes(out) == uninterrupted[0]


@pytest.mark.slow
def test_a_clip_that_kills_its_workers_is_a_crashed_row_and_its_neighbours_are_there(
    tmp_path: Path, footage: Path
) -> None:
    class Deadly(DaskRunner):
        """One clip has its worker killed each time that it is tried."""

        def _submit(self, batch):  # type: ignore[no-untyped-def]
            if not any(task["op"] == "clip" and task["url"].endswith("clip2.mp4") for task in batch):
                return super()._submit(batch)
            self._sent += 1
            return self._client.submit(os._exit, 1, key=f"{self._name}-{self._sent}", pure=False)

    with open_runner(1, None) as runner:
        build(footage, tmp_path / "out", Deadly(runner._client))
    rows = manifest(tmp_path / "out")
    assert rows["clip2"]["reason"] == "crashed"
    assert "Dask worker was killed" in rows["clip2"]["detail"]
    assert [row["outcome"] for clip, row in rows.items() if clip != "clip2"] == ["ok"] * 7


@pytest.mark.slow
def test_on_workers_too_poison_is_a_row_and_neighbours_are_there(tmp_path: Path, footage: Path) -> None:
    swap = {"clip0.mp4": {"op": "crash"}, "clip3.mp4": {"op": "sleep", "seconds": 600, "timeout": 0.5}}
    with open_runner(2, None) as runner:
        build(footage, tmp_path / "out", Sabotaged(runner, swap))
    rows = manifest(tmp_path / "out")
    assert (rows["clip0"]["reason"], rows["clip3"]["reason"]) == ("crashed", "timeout")
    assert [row["outcome"] for clip, row in rows.items() if clip not in ("clip0", "clip3")] == ["ok"] * 6
    seen = Sabotaged(SyncRunner(), {})
    build(footage, tmp_path / "out", seen)
    close_guard()
    assert sorted(seen.seen) == ["tiny/clip0", "tiny/clip3"]
