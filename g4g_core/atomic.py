"""Writing a file so that a reader sees all of it or none."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from g4g_core.stores import Url, as_storage_error, faults, has_folders, is_local, local_path, open_store

TEMPORARY_PREFIX = ".tmp-"
"""Names of unfinished local files start with this; ``storage.list_files`` does not show them."""

_SPOOL_BYTES = 32 << 20


@contextlib.contextmanager
def atomic_writer(url: Url) -> Iterator[BinaryIO]:
    """A binary file that becomes ``url`` when the block ends well, and leaves nothing when it raises.

    A file that was there before stays until then. Missing folders are made. The file need not be seekable.
    """
    if is_local(url):
        writer = _local_writer(local_path(url))
    elif has_folders(url):
        writer = _spooled_writer(url)
    else:
        writer = _streamed_writer(url)
    with writer as file:
        try:
            yield file
        except OSError as error:
            # Other errors of the block are the caller's own; a full disk is nearly always this file's.
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise as_storage_error("write", url, error) from error
            raise


@contextlib.contextmanager
def _local_writer(path: str) -> Iterator[BinaryIO]:
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}")
    with faults("write", path):
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", path)
        os.makedirs(folder, exist_ok=True)
        file = open(temporary, "xb")  # noqa: SIM115 - closed below, before the rename
    try:
        yield file
        with faults("write", path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()  # flushes: may fail once more on a full disk
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(folder)


@contextlib.contextmanager
def _streamed_writer(url: Url) -> Iterator[BinaryIO]:
    """For S3 and GCS, which show nothing before close() and can discard what was sent."""
    with faults("write", url):
        fs, path = open_store(url)
        file = fs.open(path, "wb")
    send = file.write

    def write(data: bytes) -> int:
        with faults("write", url):  # a full block is sent from here: the store may refuse it
            return int(send(data))

    file.write = write
    try:
        yield file
        with faults("write", url):
            file.close()
    except BaseException:
        # Marked closed first: if discard() fails, the garbage collector must not close() and so finish it.
        file.closed = True
        with contextlib.suppress(Exception):  # the first error is the one to show
            file.discard()
        fs.invalidate_cache()
        raise
    fs.invalidate_cache()


@contextlib.contextmanager
def _spooled_writer(url: Url) -> Iterator[BinaryIO]:
    """For the rest: e.g. ``memory://`` shows a file from the moment it is opened."""
    with faults("write", url):
        fs, path = open_store(url)
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
        yield cast(BinaryIO, spool)
        spool.seek(0)
        with faults("write", url):
            fs.makedirs(fs._parent(path), exist_ok=True)
            fs.pipe_file(path, spool.read())


def sync_folder(folder: str) -> None:
    """Makes a rename survive a power cut, where the system allows a folder to be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
