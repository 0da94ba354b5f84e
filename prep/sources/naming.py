"""Names that stand in every table: of sources, and of clips inside a source."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable

from g4g_core import storage
from g4g_core.errors import SourceError, UsageError
from prep.records import ClipSpec

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    *(".flv", ".wmv", ".ts", ".m2ts", ".mts", ".3gp", ".ogv"),
)
"""What counts as a video, in lower case; the probe decides whether it is one."""

_SOURCE_NAME = re.compile(r"[A-Za-z0-9_]+")
_ODD = re.compile(r"[^A-Za-z0-9_-]")


def source_name(text: str, default: str | None = None) -> tuple[str, str]:
    """``(name, path)`` of ``NAME=PATH``, or of ``PATH``, which is called ``default`` or after its last folder.

    ``./a=b`` is the way to write a relative path that has ``=`` in its first folder.

    Raises:
        UsageError: for a name with other characters than letters, digits and ``_``: a sample's key is
            ``<source>-<clip>-<shot>-<segment>``, so a source must hold neither ``-`` nor a dot.
    """
    before, equals, after = text.partition("=")
    if equals and not re.search(r"[/\\:]", before):
        name, path = before, after
    else:
        name, path = default or _last_folder(text), text
    if not path:
        raise UsageError(f"{text!r} names no folder", "Write PATH or NAME=PATH.")
    if not _SOURCE_NAME.fullmatch(name):
        mended = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "NAME"
        raise UsageError(
            f"{name!r} cannot name a source: only letters, digits and _ are allowed", f"Write {mended}={path}"
        )
    return name, path


def check_source_names(names: Iterable[str]) -> None:
    """Raises UsageError when a name is not allowed, or two sources share one."""
    for name, count in Counter(names).items():
        if not _SOURCE_NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a source: only letters, digits and _ are allowed", "Write NAME=PATH."
            )
        if count > 1:
            raise UsageError(
                f"{count} sources are called {name!r}: tables could not tell them apart",
                "Give one of them another name: --folder NAME=PATH.",
            )


def clip_id(path: str) -> str:
    """The id of the clip at ``path``, a POSIX path relative to its source's root.

    The suffix goes, ``/`` becomes ``_``, and every character outside ``[A-Za-z0-9_-]`` (dots too, because
    WebDataset cuts keys at the first one) is percent-encoded as UTF-8: ``a/b c.v2.mp4`` -> ``a_b%20c%2Ev2``.

    Raises:
        SourceError: when the name is not UTF-8, so that no table could hold it.
    """
    stem = posixpath.splitext(path)[0].replace("/", "_")
    try:
        return _ODD.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), stem)
    except UnicodeEncodeError:
        raise SourceError(f"{path!a} is a file name that is not UTF-8", "Rename the file.") from None


def is_video(path: str) -> bool:
    """Whether the last suffix of ``path`` is a video's."""
    return posixpath.splitext(path)[1].lower() in VIDEO_SUFFIXES


def check_collisions(specs: Iterable[ClipSpec]) -> None:
    """Raises SourceError when two files get one id: ``a/b.mp4`` and ``a_b.mp4``, ``a.mp4`` and ``a.mkv``."""
    seen: dict[str, ClipSpec] = {}
    for spec in specs:
        other = seen.setdefault(spec.uid, spec)
        if other is not spec:
            raise SourceError(
                f"{other.path!r} and {spec.path!r} of source {spec.source} would both be clip {spec.clip!r}",
                "Rename or move one of them, or give their folders as two sources: --folder NAME=PATH.",
            )


def _last_folder(path: str) -> str:
    if storage.is_local(path):
        return os.path.basename(os.path.abspath(storage.local_path(path)))
    return path.rstrip("/").rpartition("/")[2]
