"""The guarded child: reads requests as JSON lines, answers with JSON lines, and dies with its parent."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any, BinaryIO

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = int(sys.argv[1])
    die_with_parent(parent)
    # answers go to a private copy of stdout, so that nothing a library prints can garble them
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = _Requests(sys.stdin.buffer)

    import cv2

    from prep.run import work

    cv2.setNumThreads(1)
    _answer(answers, {"ready": True})
    while (line := requests.next()) is not None:
        _answer(answers, _handle(work, json.loads(line)))


def _handle(work: Any, request: dict[str, Any]) -> dict[str, Any]:
    from g4g_core.errors import G4GError

    try:
        return dict(_operation(work, request["op"])(request))
    except G4GError as error:
        return {"user_error": [error.what, error.mend]}
    except Exception as error:  # a fault of ours in one clip must not end a run of thousands: it becomes a row
        return {"bug": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def _operation(work: Any, name: str) -> Any:
    """One of prep's own, or ``package.module:function``: what other packages let the same guarded child do."""
    module, colon, function = name.partition(":")
    return getattr(importlib.import_module(module), function) if colon else work.OPERATIONS[name]


def _answer(stream: BinaryIO, value: dict[str, Any]) -> None:
    stream.write(json.dumps(value).encode() + b"\n")
    stream.flush()


class _Requests:
    """Lines of standard input, read on a thread of their own: its end is the parent's end, also in mid-work."""

    def __init__(self, stream: BinaryIO) -> None:
        import queue

        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def next(self) -> bytes | None:
        return self._lines.get()

    def _read(self, stream: BinaryIO) -> None:
        for line in stream:
            self._lines.put(line)
        os._exit(0)


def die_with_parent(parent: int) -> None:
    """On Linux the kernel kills the child with its parent; elsewhere the closed pipe does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


if __name__ == "__main__":
    main()
