"""A tar read once from front to back, header by header, without ever writing what it holds to a disk."""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
MAX_KEPT = 64 << 20  # a member larger than this is none of ours and is not taken into memory
_MAX_NAME = 1 << 16
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Entry:
    """A member: ``offset`` and ``size`` of its data in bytes; ``data`` only where :class:`TarWalk` was to keep it.

    ``plain`` is false for links, devices, folders and other things that are no files; ``link`` is where a link leads.
    """

    name: str
    plain: bool
    link: str
    offset: int
    size: int
    data: bytes | None


class BrokenTar(ValueError):
    """A tar whose headers cannot be followed any further."""


class TarWalk:
    """Iterates over the members of the tar in ``stream`` and hashes every byte of it.

    Headers are those that :class:`prep.shards.sample.TarAppender` writes: plain ones, and GNU long names. Extended
    (pax) headers, which could rename what follows, come out as members that are no files.

    Args:
        stream: read from its position to its end; need not be seekable.
        keep: suffixes of names whose data the entries carry.

    Raises:
        BrokenTar: while iterating: a damaged header, a member that is cut off, or no end mark. What is left is still
            hashed.
    """

    def __init__(self, stream: BinaryIO, keep: tuple[str, ...] = ()) -> None:
        self._stream = stream
        self._keep = keep
        self._hash = hashlib.sha256()
        self.position = 0

    def __iter__(self) -> Iterator[Entry]:
        try:
            yield from self._entries()
        finally:
            self._skip(None)

    @property
    def sha256(self) -> str:
        """Of all bytes, once the iteration has ended in whatever way."""
        return self._hash.hexdigest()

    def _entries(self) -> Iterator[Entry]:
        long_name: str | None = None
        while True:
            start = self.position
            header = self._read(BLOCK)
            if header == bytes(BLOCK):
                break
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise BrokenTar(f"byte {start}: {error}") from error
            padded = info.size + -info.size % BLOCK
            if info.size < 0:
                raise BrokenTar(f"byte {start}: a member of {info.size} bytes")
            if info.type == tarfile.GNUTYPE_LONGNAME and info.size <= _MAX_NAME:
                data = self._read(padded)[: info.size]
                long_name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
                continue
            name, offset = long_name if long_name is not None else info.name, self.position
            long_name = None
            plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
            kept: bytes | None = None
            if plain and info.size <= MAX_KEPT and name.endswith(self._keep):
                kept = self._read(padded)[: info.size]
            else:
                self._skip(padded)
            yield Entry(name, plain, info.linkname, offset, info.size, kept)
        if self._read(BLOCK) != bytes(BLOCK):
            raise BrokenTar(f"byte {self.position - BLOCK}: the end mark is half")
        if self._skip(None, zeros=True):
            raise BrokenTar("there is something after the end mark")

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self._stream.read(size - len(data))):
            data += piece
        self._hash.update(data)
        self.position += len(data)
        if len(data) < size:
            raise BrokenTar(f"byte {self.position}: the tar ends here, too early")
        return data

    def _skip(self, size: int | None, zeros: bool = False) -> bool:
        """Hash ``size`` bytes, or all that are left; whether ``zeros`` were due and something else was there."""
        other = False
        while size is None or size > 0:
            piece = self._stream.read(_CHUNK if size is None else min(size, _CHUNK))
            if not piece:
                if size is not None:
                    raise BrokenTar(f"byte {self.position}: the tar ends here, too early")
                break
            self._hash.update(piece)
            self.position += len(piece)
            other |= zeros and any(piece)
            size = None if size is None else size - len(piece)
        return other
