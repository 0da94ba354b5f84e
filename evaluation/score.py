"""``g4g-eval score``: finished videos of any system."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from evaluation.models import TRUTH, Model
from evaluation.prepared import named, prepare, prepared_shots
from evaluation.protocols import VIDEOS, VIDEOS_REFERENCE
from evaluation.run import Report, claim, evaluate_shots
from g4g_core.errors import UsageError
from prep.run.runners import Runner


def score_videos(
    videos: Sequence[tuple[str, str]], reference: str | None, out: str, runner: Runner, *, quiet: bool, **options: Any
) -> Report:
    """Score folders of finished videos.

    With a reference the originals are tracked and cut, every video is cut by its original's track, and all metrics
    apply. Without, the videos themselves are.

    Args:
        videos: (name, folder).
        reference: folder of the originals, under the same relative names.
        options: as :func:`evaluation.run.evaluate_shots`.

    Raises:
        UsageError: several folders without a reference: their tracks differ, so that nothing is paired.
        SourceError: a folder that is none, or no video of it can be used.
    """
    if not videos:
        raise UsageError("no folder of videos is given", "Use --videos DIR.")
    for name, folder in videos:
        if not os.path.isdir(folder):
            raise UsageError(f"{folder!r} is no folder of videos", f"Write --videos {name}=DIR.")
    if reference is None and len(videos) > 1:
        raise UsageError(
            "several folders are compared through their originals only", "Add --reference DIR, or score one by one."
        )
    names = [name for name, _ in videos]
    if len(set(names)) < len(names) or TRUTH in names:
        raise UsageError(f"the folders are called {', '.join(names)}", "Give each its own name: --videos NAME=DIR.")
    claim(out)
    folder = reference if reference is not None else videos[0][1]
    root = prepare(folder, _source(folder), os.path.join(out, "data", _place(folder)), runner, quiet=quiet)
    shots, rejected = prepared_shots(root)
    if reference is None:
        models = [Model(names[0], "truth", "", fingerprint="truth/1")]
        protocol = VIDEOS
    else:
        truth = Model(TRUTH, "truth", "", fingerprint="truth/1")
        models = [truth, *(Model(n, "recut", os.path.abspath(path), marks=("unguarded",)) for n, path in videos)]
        protocol = VIDEOS_REFERENCE
    return evaluate_shots(
        root,
        out,
        protocol,
        models,
        shots,
        runner,
        split="",
        prompted=False,
        rejected=rejected,
        videos=os.path.abspath(folder),
        settings={"videos": dict(videos), "reference": reference},
        quiet=quiet,
        **options,
    )


def _source(folder: str) -> str:
    import re

    return named(re.sub(r"[^A-Za-z0-9_]+", "_", os.path.basename(os.path.abspath(folder))).strip("_") or "videos")


def _place(folder: str) -> str:
    """A folder's own place among the data sets of a run: another folder scored there does not disturb it."""
    import hashlib

    return f"{_source(folder)}-{hashlib.sha256(os.path.abspath(folder).encode()).hexdigest()[:8]}"
