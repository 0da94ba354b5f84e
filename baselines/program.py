"""Running other people's programs on a shot: a folder of their own, no shell, and an end for all that they start."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from baselines import ending
from baselines.external import LOG, External, put, values_of
from g4g_core.errors import G4GError, UsageError

_LAST_LINES = 3
_MARK = "G4G_PROGRAM_"


class ProgramFailed(G4GError):
    """A program that ended with an error, took too long or left no video: a row in the results."""


OURS = (
    *("PYTHONPATH", "PYTHONHOME", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("OPENCV_FOR_THREADS_NUM", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_"),
)
"""Variables that our own workers change for themselves: a program of another Python would load our libraries."""


def user_environment(environment: Mapping[str, str], names: Iterable[str] = ()) -> dict[str, str | None]:
    """What :data:`OURS` and ``names`` are where the user typed the command; ``None``: not set."""
    return {name: environment.get(name) for name in (*OURS, *names)}


def run_program(
    program: External, video: Path, audio: Path, work: Path, original: Mapping[str, str | None] | None = None
) -> Path:
    """Run the program on one shot and return the video that it left.

    Each command runs in a process group of its own, which is killed as a whole when the command has ended, when time is
    up, and when this process dies. On Linux so is what has left the group, see :func:`baselines.ending.end`; elsewhere
    a program that starts another one in a session of its own leaves it behind.

    Args:
        work: an empty folder.
        original: from :func:`user_environment`; by default the variables are as they are here.

    Raises:
        ProgramFailed: it cannot be started, fails, hangs, or leaves nothing; or its checkout is gone.
    """
    environment = _restored(original or {})
    places = {"video": str(video), "audio": str(audio), "output": str(work / program.output), "work": str(work)}
    try:
        places |= values_of(program, environment)
    except UsageError as error:  # told before the run where it begins; here it has changed since
        raise ProgramFailed(error.what) from error
    _furnish(program, video, audio, work, places)
    environment |= put(program.environment, places)
    where = work if program.directory is None else Path(put(program.directory, places))
    commands, end = [*program.before, program.command], time.monotonic() + program.timeout
    log = work / LOG
    with log.open("wb") as stream:
        for number, command in enumerate(commands, start=1):
            step = f" of command {number} of {len(commands)}" if program.before else ""
            try:
                code = _run(put(command, places), where, environment, stream, end)
            except subprocess.TimeoutExpired:
                raise ProgramFailed(f"no end{step} within {program.timeout:g} s") from None
            if code != 0:
                how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
                raise ProgramFailed(f"{how}{step}: {_last_words(log)}")
    found = _left(program.output, work)
    if len(found) != 1 or not (work / found[0]).is_file() or (work / found[0]).stat().st_size == 0:
        what = f"{len(found)} files {program.output}" if len(found) > 1 else f"no {program.output}"
        raise ProgramFailed(f"it ended well but left {what}: {_last_words(log)}")
    return work / found[0]


def _furnish(program: External, video: Path, audio: Path, work: Path, places: Mapping[str, str]) -> None:
    """What a program finds in its work folder: links to the inputs and to its checkout, and its files."""
    for kind, name in program.inputs.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).symlink_to(os.path.abspath(video if kind == "video" else audio))
    for name, content in program.files.items():
        content = put(content, places)
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text, encoding="utf-8")
    if program.checkout is not None:
        names = (program.output, *program.inputs.values(), *program.files, *program.own, LOG)
        kept = {Path(name).parts[0] for name in names}
        checkout = Path(put(program.checkout, places))
        for entry in sorted(checkout.iterdir()):
            if not any(fnmatch.fnmatchcase(entry.name, name) for name in kept):
                (work / entry.name).symlink_to(entry)
    before_star = Path(program.output.partition("*")[0] + "x").parent
    (work / before_star).mkdir(parents=True, exist_ok=True)


def _run(words: list[str], where: Path, environment: Mapping[str, str], stream: IO[bytes], end: float) -> int:
    """Exit status of one command. Raises ProgramFailed where it cannot be started, and TimeoutExpired."""
    mark = f"{_MARK}{secrets.token_hex(8)}"
    try:
        process = subprocess.Popen(
            words,
            cwd=where,
            env={**environment, mark: "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ProgramFailed(f"{words[0]} cannot be started: {error.strerror}") from error
    # reads until the end of its standard input, which is the end of this process, however that comes
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", ending.__file__, str(process.pid), mark],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    finally:
        ending.end(process.pid, mark)  # what it started goes with it, also after it has ended itself
        process.wait()
        watcher.kill()
        watcher.wait()
        if watcher.stdin is not None:
            watcher.stdin.close()


def _left(output: str, work: Path) -> list[str]:
    """Names inside the work folder that are the output's, or match it where it is a pattern."""
    return sorted(glob.glob("*".join(map(glob.escape, output.split("*"))), root_dir=work))


def _restored(original: Mapping[str, str | None]) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in original}
    return environment | {name: value for name, value in original.items() if value is not None}


def _last_words(log: Path) -> str:
    lines = log.read_bytes()[-4000:].decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return " | ".join(said[-_LAST_LINES:]) or "it said nothing"
