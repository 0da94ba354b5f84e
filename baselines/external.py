"""Other people's programs as models: a command per shot, without a shell. ``--models NAME=external:YAML``.

The YAML file::

    command: [python, /opt/Wav2Lip/inference.py, --face, "{video}", --audio, "{audio}", --outfile, "{output}"]
    input: crop            # {video} is the whole face crop without loss; or footage: the shot's frames as filmed
    timeout: 600           # seconds a shot
    directory: /opt/Wav2Lip
    environment: {CUDA_VISIBLE_DEVICES: "0"}
    output: result.mp4     # where the program leaves its video, inside {work}; {output} stands for it
    tolerance: 5           # frames that its video may be longer or shorter

``{video}``, ``{audio}`` (WAV, 16 kHz mono), ``{output}`` and ``{work}`` (an empty folder of this shot) are put into the
words of the command, which then go to the program as they are: blanks and quotes in paths mean nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pydantic

from g4g_core.config import Config, load_config
from g4g_core.errors import G4GError, UsageError

PLACES = ("video", "audio", "output", "work")
_PLACE = re.compile(r"\{(\w+)\}")
_LAST_LINES = 3


class ProgramFailed(G4GError):
    """A program that ended with an error, took too long or left no video: a row in the results."""


class External(Config):
    """One program; see the module's text for the fields."""

    command: list[str] = pydantic.Field(min_length=1)
    input: Literal["crop", "footage"] = "crop"
    timeout: float = pydantic.Field(600.0, gt=0)
    directory: str | None = None
    environment: dict[str, str] = pydantic.Field(default_factory=dict)
    output: str = "output.mp4"
    tolerance: int = pydantic.Field(5, ge=0)

    @pydantic.field_validator("output")
    @classmethod
    def _inside(cls, value: str) -> str:
        path = Path(value)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError("must lie inside the work folder")
        return value

    @pydantic.field_validator("command")
    @classmethod
    def _known_places(cls, value: list[str]) -> list[str]:
        named = {place for word in value for place in _PLACE.findall(word)}
        foreign = sorted(named - set(PLACES))
        if foreign:
            raise ValueError(f"knows no {{{foreign[0]}}}; there are: {', '.join('{' + p + '}' for p in PLACES)}")
        return value


def read_external(path: str) -> External:
    """The program that a YAML file describes. Raises UsageError for a file that is no such thing."""
    if not Path(path).is_file():
        raise UsageError(f"{path} is not there", "Name the YAML file of a program, see docs/external.md.")
    return load_config(External, path)


OURS = (
    *("PYTHONPATH", "PYTHONHOME", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("OPENCV_FOR_THREADS_NUM", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_"),
)
"""Variables that our own workers change for themselves: a program of another Python would load our libraries."""


def user_environment(environment: Mapping[str, str]) -> dict[str, str | None]:
    """What :data:`OURS` are where the user typed the command; ``None``: not set."""
    return {name: environment.get(name) for name in OURS}


def run_program(
    program: External, video: Path, audio: Path, work: Path, original: Mapping[str, str | None] | None = None
) -> Path:
    """Run the program on one shot and return the video that it left.

    It runs in a process group of its own, which is killed as a whole when time is up, and when this process dies.

    Args:
        work: an empty folder.
        original: from :func:`user_environment`; by default the variables are as they are here.

    Raises:
        ProgramFailed: it cannot be started, fails, hangs, or leaves nothing.
    """
    output = work / program.output
    output.parent.mkdir(parents=True, exist_ok=True)
    places = {"video": str(video), "audio": str(audio), "output": str(output), "work": str(work)}
    words = [_PLACE.sub(lambda match: places[match.group(1)], word) for word in program.command]
    log = work / "program.log"
    with log.open("wb") as stream:
        try:
            process = subprocess.Popen(
                words,
                cwd=program.directory or work,
                env={**_restored(original or {}), **program.environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramFailed(f"{words[0]} cannot be started: {error.strerror}") from error
        # reads until the end of its standard input, which is the end of this process, however that comes
        watcher = subprocess.Popen(
            [sys.executable, "-S", "-c", _WATCH, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            code = process.wait(program.timeout)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"no end within {program.timeout:g} s") from None
        finally:
            _end_group(process)
            watcher.kill()
            watcher.wait()
            if watcher.stdin is not None:
                watcher.stdin.close()
    if code != 0:
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        raise ProgramFailed(f"{how}: {_last_words(log)}")
    if not output.is_file() or output.stat().st_size == 0:
        raise ProgramFailed(f"it ended well but left no {program.output}: {_last_words(log)}")
    return output


_WATCH = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


def _restored(original: Mapping[str, str | None]) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in original}
    return environment | {name: value for name, value in original.items() if value is not None}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """What the program started goes with it, also after it has ended itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(log: Path) -> str:
    lines = log.read_bytes()[-4000:].decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return " | ".join(said[-_LAST_LINES:]) or "it said nothing"
