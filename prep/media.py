"""Opening media: local paths and URLs, one thread per decoder, and why a file cannot be opened."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import av
import av.logging

from g4g_core import storage
from prep.records import Reason, Rejection

# broken input is the manifest's business: FFmpeg's own complaints would only garble progress bars
av.logging.set_level(av.logging.PANIC)

MAX_SIDE = 8192

CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg"
"""FFmpeg goes by content, not by name: without this list a text file called x.mp4 is a playlist or an edit script,
which opens other files of the machine."""


@contextlib.contextmanager
def open_media(url: str) -> Iterator[Any]:
    """An open PyAV container of a local file or an fsspec URL.

    Raises:
        OSError, av.error.FFmpegError: the file is missing or is not media; see :func:`explain_failure`.
    """
    with contextlib.ExitStack() as stack:
        # PyAV leaks unless containers are closed, hence the stack
        file: Any = url if storage.is_local(url) else stack.enter_context(storage.open_read(url))
        yield stack.enter_context(av.open(file, options={"format_whitelist": CONTAINERS}, metadata_errors="ignore"))


def explain_failure(url: str, error: Exception) -> Rejection:
    """Why ``url`` could not be opened as media, from its first bytes."""
    if not storage.exists(url):
        return Rejection("probe", Reason.SOURCE_MISSING, "the file is not there")
    n_bytes = storage.size(url)
    if n_bytes == 0:
        return Rejection("probe", Reason.UNREADABLE, "the file is empty")
    with storage.open_read(url) as stream:
        boxes = list(_top_level_boxes(stream, n_bytes))
    if boxes and boxes[0] == "ftyp" and "moov" not in boxes:
        return Rejection(
            "probe",
            Reason.TRUNCATED,
            f"MP4 of {n_bytes} bytes without its index (moov atom): copying or recording broke off",
        )
    return Rejection("probe", Reason.UNREADABLE, f"{n_bytes} bytes that are no media file: {describe(error)}")


def _top_level_boxes(stream: Any, n_bytes: int) -> Iterator[str]:
    """Four-letter types of the top-level boxes of an ISO media file (ISO/IEC 14496-12, 4.2)."""
    position = 0
    for _ in range(1000):
        if position + 8 > n_bytes:
            return
        stream.seek(position)
        length, kind = struct.unpack(">I4s", stream.read(8))
        header = 8
        if length == 1:
            (length,) = struct.unpack(">Q", stream.read(8).ljust(8, b"\0"))
            header = 16
        yield kind.decode("latin-1")
        if length == 0 or length < header:
            return
        position += length


def describe(error: Exception) -> str:
    """One line about an error from FFmpeg, without the path that it carries."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
