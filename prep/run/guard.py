"""A subprocess that does the dangerous work: native decoders and detectors, on files that may be poison.

A Dask worker is daemonic and may not start ``multiprocessing`` children, and a decoder that crashes would take the
worker with it. So each worker keeps one plain subprocess, talks to it in JSON lines, kills it when a clip takes too
long and starts another. The child ends when its parent does, however that ends.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from g4g_core.errors import G4GError

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
}
"""Two threads sum floats in another order than one: bytes would depend on the machine."""

_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""dlib's predictor reads 4 MB in 64 thousand places of a 100 MB model for every face: with huge pages it waits for the
page table a quarter less. Other C libraries ignore it."""

_START_SECONDS = 120.0

READY = b'{"ready": true}'
"""The child's first line."""


class ChildTimeout(Exception):
    """The child did not answer in time and was killed."""


class ChildDied(Exception):
    """The child ended while it worked; the message says how."""


class GuardedProcess:
    """One persistent child that runs :mod:`prep.run.child`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def call(self, request: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            ChildTimeout: no answer within ``timeout`` seconds; the child has been killed.
            ChildDied: the child crashed.
            G4GError: the child met an error that the user can mend, or cannot be started at all.
        """
        process = self._process
        if process is None or process.poll() is not None:
            process = self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request, default=_to_json).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise ChildDied(self._last_words(process)) from None
        answer = self._read_line(process, time.monotonic() + timeout)
        result: dict[str, Any] = json.loads(answer)
        if "user_error" in result:
            raise G4GError(*result["user_error"])
        return result

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        self._buffer = b""
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "prep.run.child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**_HUGE_PAGES, **os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            # "ready": loading models is not the clip's time, and failing to is not the clip's fault
            deadline = time.monotonic() + _START_SECONDS
            while self._read_line(process, deadline) != READY:
                pass  # what the environment prints before the child has taken standard output for itself
        except (ChildTimeout, ChildDied) as error:
            how = str(error) or f"not ready within {_START_SECONDS:.0f} s"
            raise G4GError(
                f"the process that reads videos cannot be started ({how})", "Its own message stands above."
            ) from error
        return process

    def _read_line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, left))
            if not ready:
                self.close()
                raise ChildTimeout
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise ChildDied(self._last_words(process))
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        code = process.wait()
        self.close()
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


def _to_json(value: Any) -> Any:
    """Records inside requests: they become dictionaries only when they are sent, for work lists are long."""
    return value.to_json()
