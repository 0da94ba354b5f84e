"""A run whose shards and outputs exist, so that videos can be made of it: every output frame says its own number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from synthetic_run import GROUND_TRUTH, model, write_synthetic_run
from synthetic_shards import SyntheticClip, write_dataset

from evaluation.cells import Cell
from evaluation.models import TRUTH, Model
from evaluation.protocols import CROSS, RECONSTRUCTION
from evaluation.shots import Shot, shots_of
from prep.shards.index import Dataset

SIZE = 64
CLIPS = (
    SyntheticClip("d/00", "dora", "test", ((10, 40),), 60),
    SyntheticClip("e/00", "emil", "test", ((0, 20), (20, 16)), 36),
    SyntheticClip("f/00", "fay", "test", ((5, 30),), 40),
)
ALPHA, BETA = "alpha", "beta"
METRICS = ("lse_d@crop1", "m-lmd@20", "psnr@mouth", "sync_offset@judge", "sync_score@judge")
STEP, FIRST = 5, 20


def level(frame: int) -> int:
    """The grey of a whole output frame: far enough from its neighbours' that a codec cannot confuse them."""
    return FIRST + STEP * frame


def frame_of(grey: float) -> int:
    return round((grey - FIRST) / STEP)


def write_playable_run(
    root: Path, models: Sequence[Model] = (GROUND_TRUTH, model(ALPHA), model(BETA)), *, cross: bool = False
) -> Path:
    """Write ``root/shards`` and ``root/run``; returns the run's folder."""
    shards, run = root / "shards", root / "run"
    if not shards.exists():
        write_dataset(shards, CLIPS, size=SIZE)
    shots = shots_of(Dataset.open(str(shards)), "test")
    protocol = CROSS if cross else RECONSTRUCTION
    metrics = [name for name in METRICS if not cross or name not in ("m-lmd@20", "psnr@mouth")]
    write_synthetic_run(run, models, shots, metrics=metrics, root=str(shards), protocol=protocol, frame_curves=True)
    for one in models:
        for shot in shots:
            if one.name != TRUTH:
                store(run, one.name, shot.key, pictures(shot))
    return run


def store(run: Path, model: str, key: str, drawn: np.ndarray) -> None:
    """Keep uint8 [T, S, S, 3] as a model's output, as the harness does."""
    cell = Cell(str(run), model, key)
    cell.write({"output": cell.keep_output([drawn]), "measures": {}})


def pictures(shot: Shot) -> np.ndarray:
    """uint8 [T, S, S, 3]."""
    greys = np.array([level(frame) for frame in range(shot.n_frames)], np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (len(greys), SIZE, SIZE, 3)).copy()
