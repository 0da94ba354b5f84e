"""Progress of a long job: a live bar on a terminal, a plain line now and then everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 10.0
"""Least time between two plain lines."""

BYTES = "bytes"
"""The unit whose numbers read ``54.6 MB``."""


class Bar(Protocol):
    """What a job tells about its progress."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """``n`` more units are done; ``note`` names the current item."""


@contextmanager
def progress(
    total: int | None,
    label: str,
    unit: str = "clips",
    quiet: bool = False,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Bar]:
    """Shows count, rate, remaining time and current item on ``stream`` (standard error) while the block runs.

    Args:
        total: units in the whole job; ``None`` where that is not known.
        label: what is being done, e.g. ``tracking``.
        unit: what is counted; :data:`BYTES` is written in kB, MB, GB.
        quiet: show nothing.
        clock: seconds; replaced in tests.
    """
    stream = stream or sys.stderr
    if quiet:
        yield _Silent()
    elif stream.isatty():
        with _live(total, label, unit, stream) as bar:
            yield bar
    else:
        lines = _Lines(total, label, unit, stream, clock)
        try:
            yield lines
        finally:
            lines.finish()


def format_duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``, ``3 d 04 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def format_bytes(n: float) -> str:
    """``6009 B`` below 10 kB, then ``54.6 MB``: powers of 1000."""
    if abs(n) < 10_000:
        return f"{round(n)} B"
    for unit in ("kB", "MB", "GB"):
        n /= 1000
        if abs(n) < 999.95:
            return f"{n:.1f} {unit}"
    return f"{n / 1000:.1f} TB"


def summary(done: int, total: int | None, seconds: float, unit: str) -> str:
    """``12/40 clips, 0.8 clips/s, 35 s left``, as far as it can be known."""
    rate = done / seconds if seconds > 0 else 0.0
    if unit == BYTES:
        count = format_bytes(done) + (f" of {format_bytes(total)}" if total is not None else "")
        speed = f"{format_bytes(rate)}/s"
    else:
        count = f"{done}/{total} {unit}" if total is not None else f"{done} {unit}"
        speed = f"{rate:.{1 if rate >= 0.1 else 3}f} {unit}/s"
    parts = [count]
    if rate > 0:
        parts.append(speed)
    if total is not None and done >= total:
        parts.append(f"in {format_duration(seconds)}")
    elif total is not None and rate > 0:
        parts.append(f"{format_duration((total - done) / rate)} left")
    return ", ".join(parts)


class _Silent:
    def advance(self, n: int = 1, note: str = "") -> None:
        pass


class _Lines:
    def __init__(
        self, total: int | None, label: str, unit: str, stream: TextIO, clock: Callable[[], float]
    ) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._stream, self._clock = stream, clock
        self._start = self._printed_at = clock()
        self._done = 0
        self._printed: int | None = None

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        if self._clock() - self._printed_at >= LINE_SECONDS:
            self._print(note)

    def finish(self) -> None:
        if self._printed != self._done:
            self._print("")

    def _print(self, note: str) -> None:
        self._printed_at, self._printed = self._clock(), self._done
        line = summary(self._done, self._total, self._printed_at - self._start, self._unit)
        print(f"{self._label}: {line}{f' ({note})' if note else ''}", file=self._stream, flush=True)


class _Live:
    def __init__(self, bars: Progress, task: TaskID, total: int | None, unit: str) -> None:
        self._bars, self._task, self._total, self._unit = bars, task, total, unit
        self._start, self._done = time.monotonic(), 0

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        line = summary(self._done, self._total, time.monotonic() - self._start, self._unit)
        self._bars.update(self._task, completed=self._done, line=line, note=note)


@contextmanager
def _live(total: int | None, label: str, unit: str, stream: TextIO) -> Iterator[_Live]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    # No markup: a clip may be called [bold].
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[line]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False, style="dim"),
    )
    with Progress(*columns, console=Console(file=stream)) as bars:
        task = bars.add_task(label, total=total, line=summary(0, total, 0.0, unit), note="")
        yield _Live(bars, task, total, unit)
