"""The training loop: what it learns, that it resumes the exact sequence of steps, how it ends when it must."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_core import runs, training  # noqa: E402
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


def test_weights_of_any_rank_are_trained(tmp_path: Path) -> None:
    line = Line()
    for rank in range(7):
        line.module.register_buffer(f"rank{rank}", torch.zeros([1] * rank))
    assert train(line, SETTINGS, tmp_path / "run", quiet=True)["step"] == SETTINGS.steps


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


# ---------------------------------------------------------------- gradients


class Steep(Line):
    """Its loss is finite in step 40, where the gradient is not: the root is 0, its slope infinite."""

    before: list[Any]

    def losses(self, batch: Points) -> dict[str, Any]:
        self.before = [value.detach().clone() for value in self.module.parameters()]
        terms = super().losses(batch)
        if self.calls == 40:
            terms["total"] = terms["total"] + (0 * self.module[0].weight).sum().sqrt()
        return terms


def test_a_gradient_that_is_not_finite_ends_the_run_before_it_changes_a_weight(tmp_path: Path) -> None:
    line = Steep()
    with pytest.raises(NonFiniteLoss, match=r"the gradient of step 40 is not finite .*samples: sample40") as caught:
        train(line, SETTINGS, tmp_path / "run", quiet=True)
    assert "nan" not in caught.value.what
    assert checkpoints(tmp_path / "run") == [20]
    for value, before in zip(line.module.parameters(), line.before, strict=True):
        assert torch.equal(value, before)
    load_checkpoint(tmp_path / "run" / "step-000020", line.module)
    assert all(torch.isfinite(value).all() for value in line.module.state_dict().values())


class Twins:
    """Two networks with losses of their own, one of them a thousand times as loud; keeps the gradients of a step."""

    name = "twins"
    shared = False

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
        self.seen: list[list[Any]] = []

    def describe(self) -> dict[str, Any]:
        return {}

    def batch(self, rng: np.random.Generator, turn: Turn) -> Points:
        x = torch.from_numpy(rng.normal(size=(8, 4)).astype(np.float32))
        return Points(["sample"], x, x)

    def losses(self, batch: Points) -> dict[str, Any]:
        loud, quiet = ((network(batch.x) - batch.y).square().mean() for network in self.module)
        return {"total": 1000 * loud + quiet}

    def validate(self) -> dict[str, float]:
        return {}

    def after_step(self) -> None:
        self.seen.append([torch.cat([p.grad.flatten() for p in part.parameters()]).clone() for part in self.module])


class Parted(Twins):
    def parts(self) -> list[Any]:
        return list(self.module)


def test_networks_with_losses_of_their_own_are_clipped_each_by_itself(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 1, "clip_norm": 2.0})
    free = Twins()
    train(free, settings.model_copy(update={"clip_norm": 1e9}), tmp_path / "free", quiet=True)
    together, parted = Twins(), Parted()
    train(together, settings, tmp_path / "together", quiet=True)
    train(parted, settings, tmp_path / "parted", quiet=True)

    loud, quiet = free.seen[0]
    assert loud.norm() > 100 and 0.1 < quiet.norm() < 2
    torch.testing.assert_close(parted.seen[0][0], 2 * loud / loud.norm())
    assert torch.equal(parted.seen[0][1], quiet)
    assert together.seen[0][1].norm() < 0.05 * quiet.norm()


# ---------------------------------------------------------------- refusals


def test_a_run_that_cannot_be_meant_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Doubtful(Line):
        def check(self, steps: int, ranks: int) -> None:
            raise UsageError(f"{steps} steps by {ranks} process", "Don't.")

    with pytest.raises(UsageError, match="60 steps by 1 process"):
        train(Doubtful(), SETTINGS, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- what is best


class Scored(Line):
    """Its scores are given; the count of its steps is a part of its checkpoints."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.module.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self.scores = dict(zip((20, 40, 60), scores, strict=True))

    def after_step(self) -> None:
        self.module.taken += 1

    def validate(self) -> dict[str, float]:
        return {"score": self.scores[int(self.module.taken)]}


@pytest.mark.parametrize(
    ("scores", "best"),
    [((1.0, math.nan, 0.5), 20), ((math.nan, 1.0, 0.5), 40), ((1.0, math.inf, 0.5), 20), ((math.nan,) * 3, None)],
)
def test_a_score_that_is_not_finite_is_never_the_best(
    tmp_path: Path, scores: tuple[float, float, float], best: int | None
) -> None:
    train(Scored(*scores), SETTINGS.model_copy(update={"keep": 1}), tmp_path / "run", quiet=True)
    place = tmp_path / "run" / runs.BEST_FILE
    assert (json.loads(place.read_text())["step"] if place.exists() else None) == best
    assert checkpoints(tmp_path / "run") == [*([best] if best else []), 60]
    np.testing.assert_equal([x["validation"]["score"] for x in log(tmp_path / "run") if "validation" in x], scores)


def raise_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """Let a function of the loop end the process, so to say, before its n-th call."""
    plain, calls = getattr(training, name), iter(range(1, 100))

    def cut(*arguments: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(training, name, cut)


@pytest.mark.parametrize("place", ["remember_best", "save_checkpoint", "prune"])
def test_a_kill_around_a_checkpoint_changes_neither_what_is_kept_nor_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    settings, scores = SETTINGS.model_copy(update={"keep": 1}), (1.0, 3.0, 2.0)
    train(Scored(*scores), settings, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        raise_at(patched, place, 2)
        train(Scored(*scores), settings, tmp_path / "cut", quiet=True)
    train(Scored(*scores), settings, tmp_path / "cut", resume=True, quiet=True)

    assert checkpoints(tmp_path / "cut") == checkpoints(tmp_path / "whole") == [40, 60]
    best = [json.loads((tmp_path / name / runs.BEST_FILE).read_text()) for name in ("cut", "whole")]
    assert best == [{"step": 40, "score": 3.0}] * 2
    assert [weights(tmp_path / "cut", step) for step in (40, 60)] == [
        weights(tmp_path / "whole", step) for step in (40, 60)
    ]
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


# ---------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps with checkpoints after 40 and 60. Not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(Line(), SETTINGS, out, quiet=True)
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flipped(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(bytes(data))

    return damage


def written(name: str, text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text)

    return damage


def deleted(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


DAMAGES = {
    "a bit of the weights is another": flipped(runs.MODEL_FILE),
    "a bit of the moments is another": flipped(runs.OPTIMIZER_FILE),
    "the weights are cut off": written(runs.MODEL_FILE, "cut"),
    "the weights are gone": deleted(runs.MODEL_FILE),
    "the moments are gone": deleted(runs.OPTIMIZER_FILE),
    "the state is an empty object": written(runs.STATE_FILE, "{}"),
    "the state is a list": written(runs.STATE_FILE, "[]"),
    "the state is no JSON": written(runs.STATE_FILE, "\x00\x01{"),
}


def same_end(folder: Path, finished: Path) -> bool:
    files = ("step-000060/" + name for name in (runs.MODEL_FILE, runs.OPTIMIZER_FILE, runs.STATE_FILE))
    alike = all((folder / file).read_bytes() == (finished / file).read_bytes() for file in files)
    return alike and log(folder) == log(finished) and checkpoints(folder) == checkpoints(finished)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    copied: Path, finished: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    DAMAGES[damage](copied / "step-000060")
    with caplog.at_level(logging.WARNING):
        train(Line(seed=99), SETTINGS, copied, resume=True, quiet=True)
    assert "step-000060" in caplog.text and "going on from the one before it" in caplog.text
    assert same_end(copied, finished)


def test_a_run_without_a_whole_checkpoint_begins_anew(
    copied: Path, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in checkpoints(copied):
        flipped(runs.MODEL_FILE)(copied / f"step-{step:06d}")
    with caplog.at_level(logging.WARNING):
        train(Line(), SETTINGS, copied, resume=True, quiet=True)
    assert len(caplog.records) == len(checkpoints(finished))
    assert same_end(copied, finished)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '"run"', '{"trainable": "li', "\x00", '{"trainable": "line"}'])
def test_a_run_whose_first_file_is_damaged_is_refused_in_words(copied: Path, text: str) -> None:
    (copied / runs.RUN_FILE).write_text(text)
    with pytest.raises(UsageError, match=r"run\.json is damaged|was begun with another"):
        train(Line(), SETTINGS, copied, resume=True, quiet=True)
    assert weights(copied, 60)


@pytest.mark.parametrize("odd", ["{}", "[]", "7", '{"step": "60"}', '{"step": 5', ""])
def test_odd_lines_of_the_log_are_dropped(copied: Path, finished: Path, odd: str) -> None:
    with open(copied / runs.LOG_FILE, "a") as file:
        file.write(f"{odd}\n")
    deleted(runs.STATE_FILE)(copied / "step-000060")
    train(Line(seed=99), SETTINGS, copied, resume=True, quiet=True)
    assert same_end(copied, finished)


def test_folders_that_only_look_like_checkpoints_are_left_alone(copied: Path, finished: Path) -> None:
    for name in ("step-old", "step-000020-copy", "step-"):
        (copied / name).mkdir()
        (copied / name / runs.STATE_FILE).write_text("mine")
    deleted(runs.STATE_FILE)(copied / "step-000060")
    train(Line(seed=99), SETTINGS, copied, resume=True, quiet=True)
    assert same_end(copied, finished)
    assert (copied / "step-old" / runs.STATE_FILE).read_text() == "mine"


@pytest.mark.parametrize("text", ["[]", "{}", '{"step": 20, "sc', '{"step": 20, "score": "x"}'])
def test_a_damaged_note_of_the_best_step_is_forgotten(tmp_path: Path, text: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=30), SETTINGS, tmp_path / "run", quiet=True)
    (tmp_path / "run" / runs.BEST_FILE).write_text(text)
    train(Line(), SETTINGS, tmp_path / "run", resume=True, quiet=True)
    assert json.loads((tmp_path / "run" / runs.BEST_FILE).read_text())["step"] in (40, 60)


def test_a_checkpoint_from_beyond_the_run_is_not_gone_on_from(tmp_path: Path) -> None:
    import shutil

    train(Line(), SETTINGS, tmp_path / "run", quiet=True)
    shutil.copytree(tmp_path / "run" / "step-000060", tmp_path / "run" / "step-000080")
    assert train(Line(), SETTINGS, tmp_path / "run", resume=True, quiet=True)["step"] == 60


def test_a_log_keeps_its_good_lines_whatever_stands_between_them(tmp_path: Path) -> None:
    train(Line(), SETTINGS, tmp_path / "run", quiet=True)
    place = tmp_path / "run" / runs.LOG_FILE
    lines = place.read_bytes().splitlines()
    place.write_bytes(b"\n".join([lines[0], b"{}", b"\xff\xfe", *lines[1:]]) + b"\n")
    train(Line(), SETTINGS, tmp_path / "run", resume=True, quiet=True)
    assert [line["step"] for line in log(tmp_path / "run")] == [10, 20, 30, 40, 50, 60]
