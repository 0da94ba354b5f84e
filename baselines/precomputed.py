"""Finished videos of any system: ``--models NAME=precomputed:DIR``."""

from __future__ import annotations

from pathlib import Path

from g4g_core.errors import SourceError

SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm")


def find_video(folder: Path, key: str) -> Path:
    """The video of one shot: ``<folder>/<source>-<clip>-<shot>.mp4`` or another of :data:`SUFFIXES`.

    Raises:
        SourceError: there is none, or there are several.
    """
    return one_of(folder, key)


def one_of(folder: Path, stem: str) -> Path:
    """``<folder>/<stem>`` with any one of :data:`SUFFIXES`. Raises as :func:`find_video`."""
    found = [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    if not found:
        raise SourceError(f"{folder} holds no {stem}{SUFFIXES[0]}")
    if len(found) > 1:
        raise SourceError(f"{folder} holds {stem} more than once: {', '.join(path.name for path in found)}")
    return found[0]
