"""Changes to the tables of a synthetic data set, for tests of what reads tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from synthetic_shards import write_dataset, write_marker

from prep.shards import schema

Change = Callable[[dict[str, Any]], None]


def write_sound_dataset(root: Path, **options: Any) -> Path:
    """A synthetic data set whose numbers are those of good footage."""
    write_dataset(root, **{"size": 96, **options})

    def sound(row: dict[str, Any]) -> None:
        row.update(face_px=120.0, loudness_dbfs=-25.0, snr_db=30.0, sharpness=80.0, brightness=0.5)
        row.update(yaw=5.0, pitch=-2.0, roll=1.0, yaw_max_abs=15.0)

    edit_index(root, sound)
    return root


def edit_index(root: Path, change: Change) -> None:
    """Apply ``change`` to every row of every shard's index, and bring the markers up to date."""
    for path in sorted(root.glob("*-?????.parquet")):
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            change(row)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema.INDEX), path)
        write_marker(root, path.stem)


def edit_manifest(root: Path, change: Change) -> None:
    """Apply ``change`` to every row of the manifest."""
    path = root / schema.MANIFEST_FILE
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        change(row)
    rows.sort(key=lambda row: (row["source"], row["clip"]))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.MANIFEST), path)


def edit_description(root: Path, **fields: Any) -> None:
    """Change fields of ``dataset.json``."""
    path = root / schema.DATASET_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
