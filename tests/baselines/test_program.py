"""What a program started ends with it, also where it has a session of its own and its parent is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from baselines.external import External
from baselines.program import ProgramFailed, run_program

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="other systems list no processes")


def daemon(place: Path, then: str) -> str:
    """A program that starts another one in a session of its own, notes its number, and goes on to something else."""
    sleeper = "import time; time.sleep(600)"
    return (
        "import pathlib, subprocess, sys, time; "
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {sleeper!r}], start_new_session=True); "
        f"pathlib.Path({str(place / 'new')!r}).write_text(str(child.pid)); "
        f"pathlib.Path({str(place / 'new')!r}).rename({str(place / 'number')!r}); {then}"
    )


def lives(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a dead one may wait for its parent


def started(place: Path) -> int:
    return int((place / "number").read_text())


def run(place: Path, then: str, **fields: Any) -> Path:
    (place / "work").mkdir()
    program = External(command=[sys.executable, "-S", "-c", daemon(place, then), "{output}"], **fields)
    return run_program(program, place / "v", place / "a", place / "work")


def test_a_daemon_ends_with_the_program_that_hangs(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match="no end within 2 s"):
        run(tmp_path, "time.sleep(600)", timeout=2)
    assert not lives(started(tmp_path))


def test_a_daemon_ends_with_the_program_that_has_done_its_work(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        run(tmp_path, "pathlib.Path(sys.argv[1]).write_text('a video')")
        assert not lives(started(tmp_path)) and lives(os.getpid()) and lives(other.pid)
    finally:
        other.kill()
        other.wait()


def test_a_daemon_ends_with_the_process_that_runs_the_program(tmp_path: Path) -> None:
    """Killed without a chance to clean up."""
    code = (
        "import sys; from pathlib import Path; from baselines.external import External; "
        "from baselines.program import run_program; "
        f"run_program(External(command=[sys.executable, '-S', '-c', {daemon(tmp_path, 'time.sleep(600)')!r}]), "
        f"Path('v'), Path('a'), Path({str(tmp_path)!r}))"
    )
    runner = subprocess.Popen([sys.executable, "-c", code])
    waiting = time.monotonic() + 60
    try:
        while not (tmp_path / "number").exists() or not watched(runner.pid):
            assert runner.poll() is None and time.monotonic() < waiting
            time.sleep(0.05)
    finally:
        runner.kill()
        runner.wait()
    while lives(started(tmp_path)):
        assert time.monotonic() < waiting
        time.sleep(0.05)


def watched(runner: int) -> bool:
    """Whether the watch over a process has been started."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            words = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == runner and b"ending.py" in words:
            return True
    return False
