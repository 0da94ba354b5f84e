"""One file over HTTP(S), resumed where it broke off."""

from __future__ import annotations

import http.client
import os
import pathlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import BinaryIO

from g4g_core import __version__
from g4g_core.errors import WeightsError

ATTEMPTS = 3
RETRY_SECONDS = 2.0
TIMEOUT_SECONDS = 30.0

_CHUNK_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


def download(url: str, part: pathlib.Path, size: int | None, advance: Callable[[int], None]) -> None:
    """Fetches ``url`` into ``part``, going on after the bytes that are already there.

    Args:
        part: the unfinished file; after a fault it is kept only where the server can resume.
        size: exact bytes that the file must have, or ``None`` to trust the server.
        advance: called with the number of new bytes; negative when the server makes us start again.

    Raises:
        WeightsError: when the connection breaks for good, the server has a file of another size, the disk
            is full, or another process is fetching the same file.
    """
    if not url.startswith(("https://", "http://")):
        raise WeightsError(f"{url} is not an http(s) address")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        file = open(part, "ab", buffering=0)  # noqa: SIM115 - closed by the with below
    except OSError as error:
        raise WeightsError(
            f"cannot write {part}: {error.strerror}", "Set G4G_WEIGHTS to a folder of your own."
        ) from error
    with file:
        _lock(file, part)
        transfer = _Transfer(url, file, size, advance)
        try:
            transfer.run()
        except WeightsError:
            if not transfer.resumable:
                part.unlink()
            raise


class _Transfer:
    """The state of one download over its attempts."""

    def __init__(self, url: str, file: BinaryIO, size: int | None, advance: Callable[[int], None]) -> None:
        self._url, self._file, self._size, self._advance = url, file, size, advance
        self._done = file.seek(0, os.SEEK_END)
        self.resumable = True  # until the server says otherwise
        advance(self._done)

    def run(self) -> None:
        if self._size is not None and self._done > self._size:
            self._start_over()
        fault = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(attempt * RETRY_SECONDS)
            try:
                if self._is_complete(self._size) or self._go_on():
                    return
                fault = "the connection was closed too early"
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 416 and self._settle_range(error.headers.get("Content-Range", "")):
                        return
                fault = f"the server answers {error.code} {error.reason}"
                if 400 <= error.code < 500 and error.code not in (408, 416, 429):
                    break
            except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
                fault = str(getattr(error, "reason", None) or error or type(error).__name__)
        goal = f" of {self._size}" if self._size is not None else ""
        raise WeightsError(
            f"{self._url} broke off after {self._done}{goal} bytes: {fault}",
            "Run the same command again: it goes on from there."
            if self.resumable and self._done
            else "Check the network and try again.",
        )

    def _go_on(self) -> bool:
        """One request; whether the file is complete after it."""
        headers = {"User-Agent": f"g4g/{__version__}"}
        if self._done:
            headers["Range"] = f"bytes={self._done}-"
        request = urllib.request.Request(self._url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            total = self._total(response)
            while chunk := response.read(_CHUNK_BYTES):
                self._write(chunk)
        return self._is_complete(self._size if self._size is not None else total)

    def _total(self, response: http.client.HTTPResponse) -> int | None:
        """Bytes of the whole file as the server tells; starts over when it does not send what was asked for."""
        content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status == 206 and content_range and content_range[1] == str(self._done):
            self.resumable = True
            total: int | None = int(content_range[2])
        else:
            if response.status == 206:
                self.resumable = False
                raise WeightsError(f"{self._url} answers another range than asked for", "Try again.")
            self.resumable = response.headers.get("Accept-Ranges", "").lower() == "bytes"
            self._start_over()
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
        if self._size is not None and total is not None and total != self._size:
            self.resumable = False
            raise WeightsError(
                f"{self._url} has {total} bytes instead of {self._size}",
                "It is not the file we know: install the right one by hand.",
            )
        return total

    def _settle_range(self, content_range: str) -> bool:
        """After "range not satisfiable": whether we had everything already; else starts over."""
        match = _CONTENT_RANGE.fullmatch(content_range)
        if match and self._size is None and int(match[2]) == self._done:
            return True
        self._start_over()
        return False

    def _is_complete(self, total: int | None) -> bool:
        return self._done == total

    def _start_over(self) -> None:
        if self._done:
            self._advance(-self._done)
        self._file.seek(0)
        self._file.truncate()
        self._done = 0

    def _write(self, chunk: bytes) -> None:
        try:
            rest = memoryview(chunk)
            while rest:  # an unbuffered file may take less than it is given
                written = self._file.write(rest)
                rest = rest[written:]
        except OSError as error:
            raise WeightsError(
                f"cannot write {self._file.name}: {error.strerror}", "Free some space, then run it again."
            ) from error
        self._done += len(chunk)
        self._advance(len(chunk))


def _lock(file: BinaryIO, part: pathlib.Path) -> None:
    """Two processes that append to one file would spoil it. The lock dies with its process."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: the digest will tell
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WeightsError(f"another process is fetching {part.name}", "Wait for it to end.") from None
    except OSError:  # a file system without locks
        return
