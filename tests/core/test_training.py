"""The training loop: what it learns, that it resumes the exact sequence of steps, how it ends when it must."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_core import runs  # noqa: E402
from g4g_core.errors import UsageError  # noqa: E402
from g4g_core.runs import checkpoints, load_checkpoint  # noqa: E402
from g4g_core.training import NonFiniteLoss, Settings, Turn, rate_at, train  # noqa: E402


@dataclasses.dataclass
class Points:
    keys: list[str]
    x: Any
    y: Any


class Line:
    """Learns y = 3 x - 1 with dropout and batch statistics, so that every kind of state matters."""

    name = "line"
    shared = False

    def __init__(self, seed: int = 0, stop_at: int | None = None, poison: int | None = None) -> None:
        torch.manual_seed(seed)
        self.module = torch.nn.Sequential(
            torch.nn.Linear(1, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 1)
        )
        self.calls, self.stop_at, self.poison = 0, stop_at, poison

    def describe(self) -> dict[str, Any]:
        return {"kind": "line"}

    def batch(self, rng: np.random.Generator, turn: Turn) -> Points:
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.calls += 1
        x = torch.from_numpy(rng.normal(size=(32, 1)).astype(np.float32))
        return Points([f"sample{self.calls}"], x, 3 * x - 1)

    def losses(self, batch: Points) -> dict[str, Any]:
        error = ((self.module(batch.x) - batch.y) ** 2).mean()
        if self.calls == self.poison:
            error = error * float("nan")
        return {"total": error, "size": batch.x.abs().mean()}

    def validate(self) -> dict[str, float]:
        x = torch.linspace(-1, 1, 20)[:, None]
        return {"score": -float(((self.module(x) - (3 * x - 1)) ** 2).mean())}


SETTINGS = Settings(steps=60, learning_rate=0.02, log_every=10, validate_every=20, checkpoint_every=20, warmup=5)


def weights(folder: Path, step: int) -> bytes:
    return (folder / f"step-{step:06d}" / runs.MODEL_FILE).read_bytes()


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / runs.LOG_FILE).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", "waiting")} for line in lines]


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    last = train(Line(), SETTINGS.model_copy(update={"steps": 300}), tmp_path / "run", quiet=True)
    lines = log(tmp_path / "run")
    assert last["step"] == 300
    assert last["total"] < 0.2 * lines[0]["total"]
    assert [line["step"] for line in lines] == list(range(10, 301, 10))
    assert lines[-1]["validation"]["score"] > -0.5
    assert json.loads((tmp_path / "run" / runs.BEST_FILE).read_text())["step"] in range(20, 301, 20)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(Line(seed), SETTINGS.model_copy(update={"seed": seed}), tmp_path / name, quiet=True)
    assert weights(tmp_path / "a", 60) == weights(tmp_path / "b", 60)
    assert weights(tmp_path / "a", 60) != weights(tmp_path / "c", 60)


@pytest.mark.parametrize("stop_at", [3, 15, 20, 37, 59])
def test_a_run_that_was_stopped_anywhere_resumes_the_exact_steps(tmp_path: Path, stop_at: int) -> None:
    train(Line(), SETTINGS, tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=stop_at), SETTINGS, tmp_path / "cut", quiet=True)
    other = 99 if stop_at >= 20 else 0  # from a checkpoint on, the weights it began with do not matter
    train(Line(seed=other), SETTINGS, tmp_path / "cut", resume=True, quiet=True)
    for name in (runs.MODEL_FILE, runs.OPTIMIZER_FILE):
        files = [tmp_path / run / "step-000060" / name for run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


def test_a_loss_that_is_not_finite_ends_the_run_with_the_samples_keys(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"step 31 is not finite .*samples: sample31"):
        train(Line(poison=31), SETTINGS, tmp_path / "run", quiet=True)
    assert checkpoints(tmp_path / "run") == [20]


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([1.0, 5.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(Line, "validate", lambda self: {"score": next(scores)})
    train(Line(), SETTINGS.model_copy(update={"steps": 100, "keep": 2}), tmp_path / "run", quiet=True)
    assert checkpoints(tmp_path / "run") == [40, 80, 100]


def test_a_folder_of_something_else_and_a_run_of_other_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no training run"):
        train(Line(), SETTINGS, tmp_path / "mine", quiet=True)
    train(Line(), SETTINGS, tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match="--resume"):
        train(Line(), SETTINGS, tmp_path / "run", quiet=True)
    other = SETTINGS.model_copy(update={"steps": 80})
    with pytest.raises(UsageError, match=r"settings\.steps \(60, now 80\)"):
        train(Line(), other, tmp_path / "run", resume=True, quiet=True)


def test_checkpoints_that_are_damaged_or_of_another_network_are_refused(tmp_path: Path) -> None:
    train(Line(), SETTINGS, tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "step-000060"
    with pytest.raises(UsageError, match="checkpoint of another network"):
        load_checkpoint(folder, torch.nn.Linear(2, 2))
    data = bytearray((folder / runs.MODEL_FILE).read_bytes())
    data[-1] ^= 1
    (folder / runs.MODEL_FILE).write_bytes(bytes(data))
    with pytest.raises(UsageError, match="is damaged"):
        load_checkpoint(folder, Line().module)
    (folder / runs.STATE_FILE).unlink()
    with pytest.raises(UsageError, match="is no checkpoint"):
        load_checkpoint(folder, Line().module)


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    settings = Settings(steps=100, warmup=10, learning_rate=1.0)
    rates = [rate_at(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1, abs=0.03)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


class Dropout(Line):
    """Its loss is what dropout leaves of ones."""

    def losses(self, batch: Points) -> dict[str, Any]:
        weights = 0 * self.module[0].weight.sum()
        return {"total": torch.nn.functional.dropout(torch.ones(64), 0.5).dot(torch.arange(64.0)) + weights}


def test_dropout_of_a_step_differs_between_seeds(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 10})
    totals = [
        train(Dropout(), settings.model_copy(update={"seed": seed}), tmp_path / str(seed), quiet=True)["total"]
        for seed in (0, 1)
    ]
    assert totals[0] != totals[1]


def test_a_log_line_that_a_kill_cut_off_is_dropped_and_a_finished_run_says_its_last_line(tmp_path: Path) -> None:
    last = train(Line(), SETTINGS, tmp_path / "run", quiet=True)
    with open(tmp_path / "run" / runs.LOG_FILE, "a") as file:
        file.write('{"step": 7')
    again = train(Line(), SETTINGS, tmp_path / "run", resume=True, quiet=True)
    assert again == last
    assert [line["step"] for line in log(tmp_path / "run")] == [10, 20, 30, 40, 50, 60]


def test_checkpoints_and_validation_come_with_a_line_of_the_log() -> None:
    with pytest.raises(ValueError, match=r"validate_every must be a multiple of log_every \(10\)"):
        Settings(log_every=10, validate_every=15, checkpoint_every=20)
