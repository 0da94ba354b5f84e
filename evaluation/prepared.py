"""Footage that is evaluated as it comes: tracked and cut by prep into a data set of the run's own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from evaluation.shots import Shot, shots_of
from g4g_core import storage
from g4g_core.config import load_config
from g4g_core.errors import SourceError
from prep.config import BuildConfig
from prep.run.build import Build
from prep.run.runners import Runner
from prep.shards import schema
from prep.shards.index import Dataset
from prep.sources import SourceRoot
from prep.sources.naming import source_name

SPLIT = "test"


def prepare(folder: str, name: str, out: str, runner: Runner, *, quiet: bool) -> str:
    """Make (or complete) a data set of a folder of videos, all of it in one split.

    Args:
        name: of the source.
        out: where the data set goes.

    Returns:
        Its root.

    Raises:
        SourceError: no folder, or no video of it can be used; the reasons stand in its manifest.
    """
    if not os.path.isdir(folder):
        raise SourceError(f"{folder} is no folder", "Name a folder of videos.")
    config = load_config(BuildConfig, None, {"split_by": "identity", "fractions": [0.0, 0.0, 1.0]})
    job = Build([SourceRoot(name, "folder", os.path.abspath(folder), {})], os.path.abspath(out), config, None, quiet)
    job.run(job.plan(runner), runner)
    return job.out


def prepared_shots(root: str) -> tuple[list[Shot], dict[str, str]]:
    """The shots of such a data set, and the reason by clip for videos that gave none.

    Raises:
        SourceError: nothing could be used.
    """
    import io

    import pyarrow.parquet as pq

    data = storage.read_bytes(storage.join(root, schema.MANIFEST_FILE))
    rejected = {
        row["clip"]: row["reason"]
        for row in pq.read_table(io.BytesIO(data), columns=["clip", "outcome", "reason"]).to_pylist()
        if row["outcome"] != "ok"
    }
    dataset = Dataset.open(root)
    if SPLIT not in dataset.splits:
        reasons = ", ".join(sorted(set(rejected.values()))) or "there is no video"
        raise SourceError(f"no video could be tracked and cut: {reasons}", f"See {root}/{schema.MANIFEST_FILE}.")
    return shots_of(dataset, SPLIT), rejected


def named(text: str) -> str:
    """A source name out of a folder's: letters, digits and ``_``."""
    return source_name(text, None)[0]


def by_clip(shots: Sequence[Shot]) -> Mapping[str, list[Shot]]:
    """Shots by clip, in order."""
    found: dict[str, list[Shot]] = {}
    for shot in shots:
        found.setdefault(shot.clip, []).append(shot)
    return found
