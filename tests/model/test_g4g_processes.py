"""G4G trained by several processes: batches drawn ahead, and batches shared."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_people import SMALL, write_people  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from g4g_core.errors import UsageError  # noqa: E402
from g4g_core.protocols import TrainingData  # noqa: E402
from g4g_core.training import Settings, Turn, train  # noqa: E402
from g4g_model import data  # noqa: E402
from g4g_model.config import SETTINGS, VARIANTS  # noqa: E402
from g4g_model.data import G4GBatch  # noqa: E402
from g4g_model.trainable import G4GKind, G4GTrainable  # noqa: E402
from prep.shards.members import CorruptSample  # noqa: E402


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


def opened(people: Path, name: str = "g4g", **fields: Any) -> G4GTrainable:
    config = VARIANTS[name](**{**SMALL, "clips": 4, **fields})
    return G4GKind(name).open(config, TrainingData(str(people)), seed=0)


def settings(**fields: Any) -> Settings:
    plain = {**SETTINGS, "warmup": 0, "log_every": 1, "checkpoint_every": 2, "validate_every": 2, "learning_rate": 1e-3}
    return Settings(**{**plain, **fields})


def tensors(batch: G4GBatch) -> list[Any]:
    found: list[Any] = []

    def note(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                note(getattr(value, field.name))
        elif isinstance(value, dict):
            for item in value.values():
                note(item)

    note(batch)
    return found


def test_shares_of_a_batch_are_the_batch(people: Path) -> None:
    trainee = opened(people)
    whole = trainee.batch(np.random.default_rng(3), Turn(0))
    shares = [trainee.batch(np.random.default_rng(3), Turn(0, rank, 2)) for rank in range(2)]
    assert whole.keys == shares[0].keys + shares[1].keys
    for full, *parts in zip(tensors(whole), *map(tensors, shares), strict=True):
        assert torch.equal(full, torch.cat(parts))


def test_a_batch_that_processes_cannot_share_is_refused_beforehand(people: Path) -> None:
    trainee = opened(people)
    with pytest.raises(UsageError, match="4 clips cannot be shared by 3 processes"):
        trainee.check(1, 3)
    for ranks in (1, 2, 4):
        trainee.check(1, ranks)


def test_batches_that_are_drawn_ahead_are_those_that_are_drawn_in_time(people: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        train(opened(people), settings(steps=2, workers=workers), tmp_path / str(workers), quiet=True)
    one, two = (tmp_path / name / "step-000002" / "model.safetensors" for name in "02")
    assert one.read_bytes() == two.read_bytes()
    train(opened(people), settings(steps=2, workers=1), tmp_path / "2", resume=True, quiet=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_named_also_by_a_worker(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def broken(*_: Any) -> None:
        raise CorruptSample("toy-a_00-000-000", "00001.jpg", "is cut off")

    monkeypatch.setattr(data, "choose_references", broken)
    with pytest.raises(CorruptSample, match=r"toy-a_00-000-000\.00001\.jpg: is cut off"):
        train(opened(people), settings(steps=2, workers=workers), tmp_path / "run", quiet=True)


GRADIENTS = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path[:0] = sys.argv[3:]
from test_g4g_processes import opened, settings
from g4g_core.training import leads, train

people, out = Path(sys.argv[1]), Path(sys.argv[2])
for name in ("g4g", "g4g-pairwise"):
    trainee = opened(people, name)
    clipped = torch.nn.utils.clip_grad_norm_

    def seen(parameters, norm):
        learning = {key: p.grad for key, p in trainee.module.named_parameters() if p.grad is not None}
        found = {key: gradient.clone(memory_format=torch.contiguous_format) for key, gradient in learning.items()}
        if leads():
            save_file(found, out / f"{name}.safetensors")
        return clipped(parameters, norm)

    torch.nn.utils.clip_grad_norm_ = seen
    train(trainee, settings(steps=1), out / name, quiet=True)
    torch.nn.utils.clip_grad_norm_ = clipped
"""


def gradients(people: Path, out: Path, processes: int) -> dict[str, dict[str, Any]]:
    """Gradients of the first step by variant, of that many processes together."""
    out.mkdir()
    script = out / "script.py"
    script.write_text(GRADIENTS)
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    arguments = [str(script), str(people), str(out), *[path for path in sys.path if path]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *(start if processes > 1 else []), *arguments], env=environment, check=True, timeout=240
    )
    return {name: load_file(out / f"{name}.safetensors") for name in ("g4g", "g4g-pairwise")}


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(people: Path, tmp_path: Path) -> None:
    """The matrix of mouths and sounds is that of the whole batch, though each process sees half of it."""
    alone, together = (gradients(people, tmp_path / str(count), count) for count in (1, 2))
    for name, expected in alone.items():
        assert set(together[name]) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(
                together[name][key], value, rtol=2e-3, atol=2e-5, msg=lambda m, k=key: f"{k}: {m}"
            )
    log = [(tmp_path / count / "g4g" / "log.jsonl").read_text() for count in "12"]
    import json

    terms = [json.loads(text) for text in log]
    for term in ("total", "alignment", "sync", "reconstruction", "found"):
        assert terms[0][term] == pytest.approx(terms[1][term], rel=1e-4), term
