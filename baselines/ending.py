"""The end of a program and of all that it started; also run by itself, as the watch over a process that may be killed.

Python's own library alone: the watch is ``python -I -S ending.py GROUP MARK``, which takes some hundredths of a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

_PROCESSES = "/proc"
_SWEEPS, _PAUSE_SECONDS = 100, 0.02


def end(group: int, mark: str) -> None:
    """Kill a process group, and, where Linux lists them, processes outside of it that carry the mark.

    A process that has left the group still carries the environment that it was started with, unless it was given an
    empty one.

    Args:
        group: of the program.
        mark: name of an environment variable that only the program and what it started have.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    for _ in range(_SWEEPS):  # until a sweep finds none: one of them may have started another in the meantime
        carriers = _carriers(f"{mark}=".encode())
        if not carriers:
            return
        for process in carriers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)


def _carriers(variable: bytes) -> list[int]:
    """Living processes of this user in whose environment the variable stands; none where the system lists none."""
    found = []
    for name in os.listdir(_PROCESSES) if os.path.isdir(_PROCESSES) else ():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if name.isdecimal() and _holds(name, variable):
                found.append(int(name))
    return found


def _holds(process: str, variable: bytes) -> bool:
    with open(f"{_PROCESSES}/{process}/environ", "rb") as environment:
        return any(text.startswith(variable) for text in environment.read().split(b"\0"))


if __name__ == "__main__":
    sys.stdin.read()  # ends with the process that holds the other end, however that ends
    end(int(sys.argv[1]), sys.argv[2])
