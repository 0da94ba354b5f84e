"""The one training loop: every network of this project is trained by it.

What is trained is a :class:`Trainable`: a network, batches that are a pure function of (seed, step), and a loss. The
loop knows optimiser, schedule, checkpoints and logs. Nothing random outlives a step, so a run that was killed and
resumed takes the same steps, bit for bit on a CPU, as one that was not.

A run's folder:

    run.json                     settings, the trainable's description, versions
    log.jsonl                    a line per logged step: terms of the loss, learning rate, validation
    step-000500/                 a checkpoint: model.safetensors, optimizer.safetensors, and last state.json
    best.json                    which step was best in validation
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pydantic
import torch

from g4g_core import provenance, storage
from g4g_core.config import Config
from g4g_core.errors import G4GError, UsageError
from g4g_core.progress import progress

RUN_FILE, LOG_FILE, BEST_FILE, STATE_FILE = "run.json", "log.jsonl", "best.json", "state.json"
MODEL_FILE, OPTIMIZER_FILE = "model.safetensors", "optimizer.safetensors"


class Settings(Config):
    """How a network is trained; every field may stand in a YAML file or on the command line."""

    steps: int = pydantic.Field(1000, ge=1, description="optimiser steps")
    seed: int = pydantic.Field(0, ge=0, lt=2**32, description="of weights, batches and augmentation")
    learning_rate: float = pydantic.Field(2e-3, gt=0, description="peak; reached after the warm-up, then a cosine to 0")
    warmup: int = pydantic.Field(50, ge=0, description="steps of linear warm-up")
    weight_decay: float = pydantic.Field(0.05, ge=0, description="of AdamW")
    clip_norm: float = pydantic.Field(5.0, gt=0, description="largest norm of the gradient")
    threads: int = pydantic.Field(1, ge=1, description="CPU threads; the result depends on it in the last digits")
    log_every: int = pydantic.Field(50, ge=1, description="steps between two lines of the log")
    validate_every: int = pydantic.Field(500, ge=1, description="steps between two validations; several of log_every")
    checkpoint_every: int = pydantic.Field(500, ge=1, description="steps between two checkpoints; several of log_every")
    keep: int = pydantic.Field(2, ge=1, description="newest checkpoints that are kept, besides the best one")

    @pydantic.model_validator(mode="after")
    def _in_step(self) -> Settings:
        for name in ("validate_every", "checkpoint_every"):
            if getattr(self, name) % self.log_every:
                raise ValueError(f"{name} must be a multiple of log_every ({self.log_every})")
        return self


class Batch(Protocol):
    """What one step learns from."""

    @property
    def keys(self) -> Sequence[str]:
        """Keys of the samples in it, for messages."""
        ...


class Trainable(Protocol):
    """A network, its data and its loss.

    Attributes:
        name: under which it is registered.
        module: all that is learned.
    """

    name: str
    module: torch.nn.Module

    def describe(self) -> dict[str, Any]:
        """What it is made of and learns from, as JSON: configuration, data, hashes. Part of every checkpoint."""
        ...

    def batch(self, rng: np.random.Generator) -> Batch:
        """The batch of one step, a function of ``rng`` alone."""
        ...

    def losses(self, batch: Any) -> dict[str, torch.Tensor]:
        """Terms of the loss as scalars; ``total`` is what is minimised."""
        ...

    def validate(self) -> dict[str, float]:
        """Figures on data that is not trained on; ``score``, where there is one, decides which checkpoint is best."""
        ...


@runtime_checkable
class AfterStep(Protocol):
    """A trainable that keeps something up to date besides what the optimiser does, such as averaged weights.

    What it keeps belongs into ``module``, as buffers or as parameters without gradient, or a resumed run would differ.
    """

    def after_step(self) -> None:
        """Called after every step of the optimiser."""
        ...


class NonFiniteLoss(G4GError):
    """The loss became NaN or infinite."""


def train(
    trainable: Trainable, settings: Settings, out: str | Path, *, resume: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Train, and leave checkpoints, log and best step in ``out``.

    Args:
        trainable: what is trained; its weights are set by the seed before the first step.
        settings: how.
        out: a new or empty folder, or with ``resume`` the folder of a run that was begun with the same settings.

    Returns:
        The last line of the log.

    Raises:
        UsageError: ``out`` holds something else, or another run.
        NonFiniteLoss: with the keys of the batch that it happened on; checkpoints stay.
    """
    folder = Path(out)
    start = _enter(folder, trainable, settings, resume)
    optimizer = torch.optim.AdamW(_groups(trainable.module, settings), lr=settings.learning_rate)
    with _threads(settings.threads):
        if start is not None:
            load_checkpoint(folder / _step_name(start), trainable.module, optimizer)
        return _steps(trainable, settings, optimizer, folder, start or 0, quiet)


def _steps(
    trainable: Trainable, settings: Settings, optimizer: torch.optim.Optimizer, folder: Path, start: int, quiet: bool
) -> dict[str, Any]:
    line = _last_line(folder)
    began = time.monotonic()
    recent: list[dict[str, float]] = []
    with progress(settings.steps - start, f"training {trainable.name}", "steps", quiet) as bar:
        for step in range(start, settings.steps):
            terms = _step(trainable, settings, optimizer, step)
            recent.append(terms)
            done = step + 1
            last = done == settings.steps
            if done % settings.log_every == 0 or last:
                line = {"step": done, **{name: _mean(recent, name) for name in terms}}
                line |= {"learning_rate": rate_at(settings, step), "seconds": round(time.monotonic() - began, 2)}
                recent = []
                if done % settings.validate_every == 0 or last:
                    line["validation"] = _validated(trainable)
                _append(folder, line)
            if done % settings.checkpoint_every == 0 or last:
                save_checkpoint(folder / _step_name(done), trainable, optimizer, settings, done)
                _remember_best(folder, done, line.get("validation", {}))
                _prune(folder, settings.keep)
            bar.advance(1, f"loss {terms['total']:.3f}")
    return line


def _step(
    trainable: Trainable, settings: Settings, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, float]:
    """One step; all randomness in it comes from (seed, step)."""
    trainable.module.train()
    # torch keeps 32 bits of a seed: both numbers must be mixed into them
    torch.manual_seed(int(np.random.default_rng([settings.seed, step, 1]).integers(2**32)))
    batch = trainable.batch(np.random.default_rng([settings.seed, step]))
    for group in optimizer.param_groups:
        group["lr"] = rate_at(settings, step)
    optimizer.zero_grad(set_to_none=True)
    losses = trainable.losses(batch)
    total = losses["total"]
    if not torch.isfinite(total):
        terms = ", ".join(f"{name} {float(value.detach()):g}" for name, value in losses.items())
        raise NonFiniteLoss(
            f"the loss of step {step + 1} is not finite ({terms}); samples: {', '.join(batch.keys)}",
            "Look at these samples, or lower --set learning_rate; the last checkpoint is whole.",
        )
    torch.autograd.backward(total)
    torch.nn.utils.clip_grad_norm_(trainable.module.parameters(), settings.clip_norm)
    optimizer.step()
    if isinstance(trainable, AfterStep):
        trainable.after_step()
    return {name: float(value.detach()) for name, value in losses.items()}


def _mean(steps: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(step[name] for step in steps) / len(steps)


def _validated(trainable: Trainable) -> dict[str, float]:
    trainable.module.eval()
    with torch.no_grad():
        return trainable.validate()


def rate_at(settings: Settings, step: int) -> float:
    """Learning rate of ``step`` (counted from 0): linear warm-up, then half a cosine down to 0."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _groups(module: torch.nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Parameters of one dimension (biases, scales) are not decayed."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------- the run's folder


def _enter(folder: Path, trainable: Trainable, settings: Settings, resume: bool) -> int | None:
    """Make or check the run's folder; returns the step to go on from, ``None`` for a new run."""
    about = {
        "trainable": trainable.name,
        "settings": settings.model_dump(),
        "description": trainable.describe(),
        "torch": torch.__version__.split("+")[0],
    }
    place = folder / RUN_FILE
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "Give an empty or new folder.")
    if not place.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty and holds no training run", "Give an empty or new folder.")
        folder.mkdir(parents=True, exist_ok=True)
        storage.write_json(str(place), about)
        return None
    if not resume:
        raise UsageError(f"{folder} holds a training run", "Continue it with --resume, or give another folder.")
    before = storage.read_json(str(place))
    for name in ("trainable", "settings", "description"):
        if provenance.stable_json(before.get(name)) != provenance.stable_json(about[name]):
            raise UsageError(
                f"the run in {folder} was begun with another {_difference(before.get(name), about[name], name)}",
                "Resume with what it was begun with, or give another folder.",
            )
    done = checkpoints(folder)
    _cut_log(folder, done[-1] if done else 0)
    return done[-1] if done else None


def _difference(before: Any, now: Any, name: str) -> str:
    """``settings.steps (500, now 600)``: the first place in which two JSON values differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{name}.{key}")
    return f"{name} ({before!r:.60}, now {now!r:.60})"


def _cut_log(folder: Path, step: int) -> None:
    """Forget what the log says of steps after the checkpoint: they are taken again."""
    kept = [line for line in _log_lines(folder) if line["step"] <= step]
    if (folder / LOG_FILE).exists():
        storage.write_bytes(str(folder / LOG_FILE), "".join(json.dumps(line) + "\n" for line in kept).encode())


def _append(folder: Path, line: Mapping[str, Any]) -> None:
    with open(folder / LOG_FILE, "a") as log:
        log.write(json.dumps(line) + "\n")


def _log_lines(folder: Path) -> list[dict[str, Any]]:
    """The log; a last line that was cut off by a kill is left out."""
    place = folder / LOG_FILE
    lines = []
    for text in place.read_text().splitlines() if place.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _last_line(folder: Path) -> dict[str, Any]:
    lines = _log_lines(folder)
    return lines[-1] if lines else {}


def _step_name(step: int) -> str:
    return f"step-{step:06d}"


def checkpoints(folder: Path) -> list[int]:
    """Steps of the whole checkpoints of a run, ascending."""
    return sorted(int(path.parent.name.removeprefix("step-")) for path in folder.glob(f"step-*/{STATE_FILE}"))


def save_checkpoint(
    folder: Path, trainable: Trainable, optimizer: torch.optim.Optimizer, settings: Settings, step: int
) -> None:
    """Write a checkpoint; it counts as one when its last file is there."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE_FILE).unlink(missing_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in trainable.module.state_dict().items()}
    moments = {
        f"{number}.{name}": value.detach().cpu().contiguous()
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    storage.write_bytes(str(folder / MODEL_FILE), save(weights))
    storage.write_bytes(str(folder / OPTIMIZER_FILE), save(moments))
    state = {
        "step": step,
        "trainable": trainable.name,
        "settings": settings.model_dump(),
        "description": trainable.describe(),
        "sha256": {name: provenance.file_sha256(str(folder / name)) for name in (MODEL_FILE, OPTIMIZER_FILE)},
    }
    storage.write_json(str(folder / STATE_FILE), state)


def load_checkpoint(
    folder: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Put a checkpoint's weights into ``module`` (and its moments into ``optimizer``); returns ``state.json``.

    Raises:
        UsageError: it is no whole checkpoint, or not one of this network.
    """
    from safetensors.torch import load

    if not (folder / STATE_FILE).exists():
        raise UsageError(f"{folder} is no checkpoint: {STATE_FILE} is missing", "Name a folder step-... of a run.")
    state: dict[str, Any] = storage.read_json(str(folder / STATE_FILE))
    for name, digest in state["sha256"].items():
        if not (folder / name).exists() or provenance.file_sha256(str(folder / name)) != digest:
            raise UsageError(f"{folder / name} is damaged: not the file that was saved", "Use another checkpoint.")
    try:
        module.load_state_dict(load((folder / MODEL_FILE).read_bytes()))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UsageError(
            f"{folder} is a checkpoint of another network: {first}", "Check --model and --preset."
        ) from error
    if optimizer is not None:
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in load((folder / OPTIMIZER_FILE).read_bytes()).items():
            number, _, field = name.partition(".")
            moments.setdefault(int(number), {})[field] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return state


def _remember_best(folder: Path, step: int, figures: Mapping[str, float]) -> None:
    score = figures.get("score")
    if score is None:
        return
    place = folder / BEST_FILE
    if not place.exists() or score > storage.read_json(str(place))["score"]:
        storage.write_json(str(place), {"step": step, "score": score})


def _prune(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints and the best one."""
    best = storage.read_json(str(folder / BEST_FILE))["step"] if (folder / BEST_FILE).exists() else None
    for step in checkpoints(folder)[:-keep]:
        if step != best:
            os.unlink(folder / _step_name(step) / STATE_FILE)
            shutil.rmtree(folder / _step_name(step))
