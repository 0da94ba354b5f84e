"""The guarded child: answers, deaths, time limits, and that it never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import environment, kill, processes_with, wait_until

from g4g_core.errors import G4GError
from prep.run import guard as guard_module
from prep.run.guard import ChildDied, ChildTimeout, GuardedProcess
from prep.run.runners import SyncRunner, close_guard, execute


@pytest.fixture
def guard() -> Iterator[GuardedProcess]:
    guard = GuardedProcess()
    yield guard
    guard.close()


def pid_of(guard: GuardedProcess) -> int:
    assert guard._process is not None
    return guard._process.pid


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_answers_many_requests(guard: GuardedProcess) -> None:
    assert guard.call({"op": "sleep", "seconds": 0}, timeout=20) == {}
    first = pid_of(guard)
    assert guard.call({"op": "sleep", "seconds": 0}, timeout=20) == {}
    assert pid_of(guard) == first


def test_a_child_that_hangs_is_killed_and_the_next_request_gets_a_new_one(guard: GuardedProcess) -> None:
    guard.call({"op": "sleep", "seconds": 0}, timeout=20)
    first = pid_of(guard)
    with pytest.raises(ChildTimeout):
        guard.call({"op": "sleep", "seconds": 600}, timeout=0.2)
    assert not is_alive(first)
    assert guard.call({"op": "sleep", "seconds": 0}, timeout=20) == {}


def test_a_child_that_aborts_is_reported_with_its_signal_and_replaced(guard: GuardedProcess) -> None:
    with pytest.raises(ChildDied, match="killed by signal 6"):
        guard.call({"op": "crash"}, timeout=20)
    assert guard.call({"op": "sleep", "seconds": 0}, timeout=20) == {}


def test_a_child_that_was_killed_between_requests_is_replaced(guard: GuardedProcess) -> None:
    guard.call({"op": "sleep", "seconds": 0}, timeout=20)
    os.kill(pid_of(guard), signal.SIGKILL)
    wait_until(lambda: guard._process is not None and guard._process.poll() is not None)
    assert guard.call({"op": "sleep", "seconds": 0}, timeout=20) == {}


def test_a_fault_of_ours_is_an_answer_with_its_trace(guard: GuardedProcess) -> None:
    answer = guard.call({"op": "no such operation"}, timeout=20)
    assert answer["bug"] == "KeyError: 'no such operation'"
    assert "Traceback" in answer["traceback"]


def test_a_fault_that_the_user_can_mend_comes_back_as_one(guard: GuardedProcess, tmp_path: Path) -> None:
    request = {"op": "part", "spec": {}, "config": {"size": 1}, "folder": str(tmp_path), "fingerprint": "", "part": 0}
    assert "bug" in guard.call(request, timeout=20)
    parts = [{"record": str(tmp_path / "no.json")}]
    missing = {"op": "assemble", "stem": str(tmp_path / "x"), "clip_seconds": {}, "parts": parts}
    with pytest.raises(G4GError, match=r"cannot read .*no\.json"):
        guard.call(missing, timeout=20)


def test_a_child_that_cannot_start_ends_the_run_instead_of_rejecting_every_clip(
    guard: GuardedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module.sys, "executable", "/bin/false")
    with pytest.raises(G4GError, match=r"cannot be started \(exit status 1\)"):
        guard.call({"op": "sleep", "seconds": 0}, timeout=20)
    close_guard()
    with pytest.raises(G4GError, match="cannot be started"):
        SyncRunner().run([{"op": "sleep", "seconds": 0, "timeout": 5, "cost": 1}], lambda task, result: [])


def test_what_an_environment_prints_at_start_is_no_answer(
    guard: GuardedProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello', flush=True)\nprint('world', flush=True)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert guard.call({"op": "sleep", "seconds": 0}, timeout=20) == {}
    assert "bug" in guard.call({"op": "unknown"}, timeout=20)


def test_execute_turns_deaths_and_time_limits_into_results() -> None:
    tasks = [
        {"op": "sleep", "seconds": 600, "timeout": 0.2},
        {"op": "crash", "timeout": 20},
        {"op": "sleep", "seconds": 0, "timeout": 20},
    ]
    assert execute(tasks) == [{"timeout": 0.2}, {"died": "killed by signal 6"}, {}]
    close_guard()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent_even_in_mid_work(how: int) -> None:
    marker = f"G4G_TEST_{os.getpid()}_{time.monotonic_ns()}"
    code = (
        "from prep.run.guard import GuardedProcess\n"
        "guard = GuardedProcess(); guard.call({'op': 'sleep', 'seconds': 0}, timeout=60); print('ready', flush=True)\n"
        "guard.call({'op': 'sleep', 'seconds': 600}, timeout=900)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment(**{marker: "1"}), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    assert len(processes_with(marker)) == 2
    kill(parent, how)
    wait_until(lambda: not processes_with(marker), 20)
