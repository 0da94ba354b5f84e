"""Files, on a local disk or behind any fsspec URL (``s3://``, ``gs://``, ``memory://``), through one set of names.

A local path never imports fsspec. Everything is written so that a reader sees a whole file or none: locally
through a temporary file in the same folder and a rename, on a store through an upload that appears when it ends.
Every fault is a :class:`StorageError` (or :class:`MissingDependency`) that names the place.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn, cast

from g4g_core.atomic import TEMPORARY_PREFIX, atomic_writer, sync_folder
from g4g_core.errors import StorageError
from g4g_core.stores import Url, faults, has_folders, is_local, local_path, open_store, scheme

__all__ = [
    "Url", "atomic_writer", "copy", "delete", "delete_leftovers", "delete_tree", "exists", "is_local", "join",
    "list_files", "local_path", "make_folder", "move", "open_read", "parent", "read_bytes", "read_json",
    "read_range", "size", "write_bytes", "write_json",
]  # fmt: skip

_DRIVE = re.compile(r"[A-Za-z]:")
_GLOB = re.compile(r"[*?\[\]]")


def join(root: Url, *parts: str) -> str:
    """``root`` and ``parts`` as one path or URL that stays inside ``root``.

    A part may hold ``/``. Raises:
        StorageError: when a part is empty, absolute, has a drive, a backslash, a NUL, ``::`` or a component
            that is empty, ``.`` or ``..``.
    """
    joined = os.fspath(root)
    for part in parts:
        components = part.split("/")
        if (
            any(component in ("", ".", "..") for component in components)
            or any(bad in part for bad in ("\\", "\0", "::"))
            or _DRIVE.match(part)
        ):
            raise StorageError(
                f"{part!r} is not a name inside {joined}",
                "Names must be relative, without '..' or backslashes.",
            )
        if joined and not joined.endswith("/"):
            joined += "/"
        joined += part
    return joined


def parent(url: Url) -> str:
    """The folder that holds ``url``; ``.`` for a bare local name."""
    if is_local(url):
        return os.path.dirname(local_path(url)) or "."
    return os.fspath(url).rstrip("/").rpartition("/")[0]


def exists(url: Url) -> bool:
    """Whether a file or folder is there."""
    with faults("look at", url):
        if is_local(url):
            return os.path.exists(local_path(url))
        fs, path = open_store(url)
        return bool(fs.exists(path))


def size(url: Url) -> int:
    """Bytes of a file."""
    with faults("look at", url):
        if is_local(url):
            return os.stat(local_path(url)).st_size
        fs, path = open_store(url)
        return int(fs.size(path))


def read_bytes(url: Url) -> bytes:
    """The whole file."""
    with faults("read", url):
        if is_local(url):
            with open(local_path(url), "rb") as file:
                return file.read()
        fs, path = open_store(url)
        return bytes(fs.cat_file(path))


def read_range(url: Url, offset: int, size: int) -> bytes:
    """Exactly ``size`` bytes from byte ``offset``. Raises StorageError when the file ends before."""
    if offset < 0 or size < 0:
        raise StorageError(f"bytes {offset}+{size} of {os.fspath(url)} make no sense")
    if size == 0:
        return b""
    with faults("read", url):
        if is_local(url):
            with open(local_path(url), "rb", buffering=0) as file:
                data = _read_exactly(file, offset, size)
        else:
            fs, path = open_store(url)
            data = bytes(fs.cat_file(path, start=offset, end=offset + size))
    if len(data) != size:
        raise StorageError(
            f"{os.fspath(url)} ends inside bytes {offset}..{offset + size}",
            "The file is truncated: make it again.",
        )
    return data


def open_read(url: Url) -> BinaryIO:
    """A seekable binary file; the caller closes it."""
    with faults("read", url):
        if is_local(url):
            return open(local_path(url), "rb")
        fs, path = open_store(url)
        return cast(BinaryIO, fs.open(path, "rb"))


def read_json(url: Url) -> Any:
    """What a JSON file holds. Raises StorageError when it is not JSON; NaN and infinity are not."""
    try:
        return json.loads(read_bytes(url), parse_constant=_no_number)
    except ValueError as error:
        raise StorageError(f"{os.fspath(url)} is not a JSON file: {error}") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


def write_bytes(url: Url, data: bytes) -> None:
    """Writes a whole file, or nothing."""
    with atomic_writer(url) as file:
        file.write(data)


def write_json(url: Url, obj: Any) -> None:
    """Writes ``obj`` as ASCII JSON: the same object gives the same bytes; NaN and infinity raise ValueError."""
    # ASCII, because a file name that is not valid UTF-8 holds surrogates, which UTF-8 cannot encode.
    text = json.dumps(obj, sort_keys=True, indent=2, allow_nan=False)
    write_bytes(url, (text + "\n").encode("ascii"))


def list_files(root: Url, recursive: bool = False) -> list[str]:
    """Names of the files under ``root``, relative to it, POSIX, sorted; unfinished files are left out.

    A folder that is not there holds no files.
    """
    with faults("list", root):
        if is_local(root):
            names = list(_walk(local_path(root), "", recursive, frozenset()))
        else:
            names = _list_remote(root, recursive)
    return sorted(name for name in names if not _is_temporary(name))


def delete(url: Url, missing_ok: bool = True) -> None:
    """Removes one file."""
    with faults("delete", url):
        try:
            if is_local(url):
                os.unlink(local_path(url))
                return
            fs, path = open_store(url)
            if not fs.isfile(path):  # a store's own delete is silent about a missing object
                raise FileNotFoundError(errno.ENOENT, "No such file", path)
            fs.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise


def delete_tree(root: Url) -> None:
    """Removes a folder and all that is in it; links are removed, not followed. A missing one is fine."""
    with faults("delete", root):
        if is_local(root):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(local_path(root))
            return
        fs, path = open_store(root)
        found = fs.find(path)
        plain = [name for name in found if not _GLOB.search(name)]
        if plain:
            fs.rm(plain)
        for name in set(found) - set(plain):  # rm() would take these for patterns
            fs.rm_file(name)
        fs.invalidate_cache()
        if has_folders(root) and fs.isdir(path):
            fs.rm(path, recursive=True)


def delete_leftovers(root: Url) -> int:
    """Removes the unfinished files that killed processes left under a local ``root``; returns how many.

    Call it only while nobody writes there. Stores keep no such files.
    """
    if not is_local(root):
        return 0
    count = 0
    with faults("delete", root):
        for name in _walk(local_path(root), "", True, frozenset()):
            if _is_temporary(name):
                os.unlink(os.path.join(local_path(root), name))
                count += 1
    return count


def copy(src: Url, dst: Url) -> None:
    """Copies one file; ``dst`` appears whole."""
    if not is_local(src) and not is_local(dst) and scheme(src) == scheme(dst):
        with faults("copy", src):
            fs, path = open_store(src)
            fs.cp_file(path, open_store(dst)[1])
            fs.invalidate_cache()
        return
    with open_read(src) as source, atomic_writer(dst) as target, faults("copy", src):
        shutil.copyfileobj(source, target, 1 << 20)


def move(src: Url, dst: Url) -> None:
    """Moves one file, over ``dst`` if that exists: atomic on one local disk, else copy, then delete."""
    if is_local(src) and is_local(dst):
        target = local_path(dst)
        with faults("move", src):
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
            try:
                os.replace(local_path(src), target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
            else:
                sync_folder(os.path.dirname(target) or ".")
                return
    copy(src, dst)
    delete(src, missing_ok=False)


def make_folder(url: Url) -> None:
    """Makes a folder and those above it. Object stores have none: nothing happens there."""
    with faults("make", url):
        if is_local(url):
            os.makedirs(local_path(url), exist_ok=True)
        elif has_folders(url):
            fs, path = open_store(url)
            fs.makedirs(path, exist_ok=True)


def _read_exactly(file: io.FileIO, offset: int, size: int) -> bytes:
    """Up to ``size`` bytes; one read() may give fewer although more follow (over 2 GiB, network disks)."""
    file.seek(offset)
    pieces = []
    while size > 0 and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _walk(folder: str, prefix: str, recursive: bool, above: frozenset[str]) -> Iterator[str]:
    """Relative names of files; linked folders are entered unless they lead back to a folder above."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    above = above | {os.path.realpath(folder)}
    for entry in entries:
        if not entry.is_dir():
            yield prefix + entry.name
        elif recursive and not (entry.is_symlink() and os.path.realpath(entry.path) in above):
            yield from _walk(entry.path, f"{prefix}{entry.name}/", True, above)


def _list_remote(root: Url, recursive: bool) -> list[str]:
    fs, path = open_store(root)
    base = path.rstrip("/") + "/"
    try:
        if recursive:
            found = list(fs.find(path))
        else:
            found = [entry["name"] for entry in fs.ls(path, detail=True) if entry["type"] == "file"]
    except FileNotFoundError:
        return []
    # A store may hold a zero-byte object named like the folder itself.
    return [name[len(base) :] for name in found if name.startswith(base) and len(name) > len(base)]


def _is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMPORARY_PREFIX)
