"""The source ``folder``: any tree of videos."""

from __future__ import annotations

import os
import posixpath

from g4g_core import storage
from g4g_core.errors import SourceError
from prep.records import ClipSpec
from prep.sources import naming


def scan(root: storage.Url, *, name: str) -> list[ClipSpec]:
    """One clip per video file under ``root``, sorted by path; its identity is its file name without suffix.

    Hidden files and folders, and those that end in ``.tmp``, are skipped. Links are followed, wherever they
    lead: a folder of links is how many people select clips. A link that leads nowhere is a clip like any
    other, which the probe then rejects.

    Raises:
        SourceError: when there is no such folder, or no video in it.
    """
    paths = list_videos(root)
    if not paths:
        if not storage.exists(root):
            raise SourceError(f"there is no folder {root}", "Check the path.")
        raise SourceError(
            f"{root} holds no video",
            f"Videos are files that end in {' '.join(naming.VIDEO_SUFFIXES)}",
        )
    return [
        ClipSpec(
            source=name,
            clip=naming.clip_id(path),
            identity=posixpath.splitext(posixpath.basename(path))[0],
            path=path,
        )
        for path in paths
    ]


def list_videos(root: storage.Url) -> list[str]:
    """Sorted relative POSIX paths of the videos under ``root``; none where there is no such folder."""
    if storage.is_local(root) and os.path.isfile(storage.local_path(root)):
        raise SourceError(f"{root} is a file", "Name the folder that holds it.")
    paths = [
        path
        for path in storage.list_files(root, recursive=True)
        if naming.is_video(path) and not _hidden(path)
    ]
    for path in paths:
        storage.join(root, path)  # refuses now what no later step could open, such as a backslash
    return paths


def _hidden(path: str) -> bool:
    return any(part.startswith(".") or part.endswith(".tmp") for part in path.split("/"))
