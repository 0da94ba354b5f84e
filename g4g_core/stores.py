"""Where a path or URL leads, and how the faults found there read."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from typing import Any, Union

from g4g_core.errors import G4GError, MissingDependency, StorageError

Url = Union[str, "os.PathLike[str]"]
"""A local path, ``file://`` included, or an fsspec URL."""

_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.\-]+::)*[A-Za-z][A-Za-z0-9+.\-]+://")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_OBJECT_STORES = frozenset(_EXTRAS)


def is_local(url: Url) -> bool:
    """Whether ``url`` is a path of this machine's file system."""
    text = os.fspath(url)
    return text.startswith("file://") or _URL.match(text) is None


def local_path(url: Url) -> str:
    """``url`` as an operating system path. Raises StorageError when it is not local."""
    text = os.fspath(url)
    if not is_local(text):
        raise StorageError(f"{text} is not a local path", "This step needs a folder on a local disk.")
    return text.removeprefix("file://")


def scheme(url: Url) -> str:
    """The (outermost) protocol of a URL, in lower case."""
    return os.fspath(url).partition("://")[0].lower()


def has_folders(url: Url) -> bool:
    """Whether folders must be made before files can be put into them (false for S3 and GCS)."""
    return scheme(url) not in _OBJECT_STORES


def open_store(url: Url) -> tuple[Any, str]:
    """The fsspec file system of ``url`` with no stale listing, and the path inside it."""
    text = os.fspath(url)
    protocol = scheme(text).rpartition("::")[2]
    try:
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(text)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        mend = (
            f"pip install 'g4g[{extra}]'"
            if extra
            else f"Install the fsspec driver for {protocol}://: {error}"
        )
        raise MissingDependency(f"{protocol}:// needs a driver that is not installed", mend) from error
    except ValueError as error:
        raise StorageError(
            f"{text}: {error}", "Use a local path, s3://, gs:// or another fsspec URL."
        ) from error
    # Other processes write to the same place: listings are never kept between calls.
    fs.invalidate_cache()
    return fs, path


@contextlib.contextmanager
def faults(verb: str, url: Url) -> Iterator[None]:
    """Turns what the operating system or a store's client raises into a :class:`StorageError`."""
    try:
        yield
    except G4GError:
        raise
    except OSError as error:
        raise as_storage_error(verb, url, error) from error
    except Exception as error:
        # Clients of stores raise types of their own (no credentials, no such bucket); a NameError is our bug.
        foreign = type(error).__module__ != "builtins" or isinstance(error, ValueError)
        if is_local(url) or not foreign:
            raise
        raise StorageError(
            f"cannot {verb} {os.fspath(url)}: {error}", "Check the address, the credentials and the network."
        ) from error


def as_storage_error(verb: str, url: Url, error: OSError) -> StorageError:
    where = os.fspath(url)
    if isinstance(error, FileNotFoundError):
        return StorageError(f"cannot {verb} {where}: there is no such file or folder", "Check the path.")
    if isinstance(error, PermissionError):
        return StorageError(
            f"cannot {verb} {where}: not allowed", "Check the owner and the rights of the folder."
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"cannot {verb} {where}: no space left", "Free some space or choose another folder."
        )
    if isinstance(error, IsADirectoryError):
        return StorageError(f"cannot {verb} {where}: it is a folder", "Name a file.")
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return StorageError(
            f"cannot {verb} {where}: a file is in the way of a folder", "Choose another path."
        )
    return StorageError(f"cannot {verb} {where}: {error.strerror or error}")
