"""The one training loop: every network of this project is trained by it.

What is trained is a :class:`Trainable`: a network, batches that are a pure function of (seed, step), and a loss. The
loop knows devices, processes, optimiser and schedule; :mod:`g4g_core.runs` knows the run's folder. Nothing random
outlives a step, so a run that was killed and resumed takes the same steps, bit for bit on a CPU, as one that was not.

One process, or several that share every batch (``torchrun --nproc-per-node 2 -m g4g_model train ...``, or
``accelerate launch``): the gradient is that of the whole batch either way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import pydantic
import torch

from g4g_core.config import Config
from g4g_core.errors import G4GError, UsageError
from g4g_core.progress import progress
from g4g_core.runs import (
    Journal,
    enter,
    load_checkpoint,
    log_lines,
    prune,
    remember_best,
    save_checkpoint,
    step_name,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


class Settings(Config):
    """How a network is trained; every field may stand in a YAML file or on the command line."""

    steps: int = pydantic.Field(1000, ge=1, description="optimiser steps")
    seed: int = pydantic.Field(0, ge=0, lt=2**32, description="of weights, batches and augmentation")
    learning_rate: float = pydantic.Field(2e-3, gt=0, description="peak; reached after the warm-up, then a cosine to 0")
    warmup: int = pydantic.Field(50, ge=0, description="steps of linear warm-up")
    weight_decay: float = pydantic.Field(0.05, ge=0, description="of AdamW")
    clip_norm: float = pydantic.Field(5.0, gt=0, description="largest norm of the gradient")
    device: Literal["auto", "cpu"] = pydantic.Field("auto", description="auto: a GPU where there is one")
    precision: Literal["fp32", "bf16"] = pydantic.Field("fp32", description="bf16: mixed; losses stay in 32 bits")
    threads: int = pydantic.Field(1, ge=1, description="CPU threads; the result depends on it in the last digits")
    workers: int = pydantic.Field(0, ge=0, description="processes that draw batches ahead; 0: the one that trains")
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


@dataclasses.dataclass(frozen=True)
class Turn:
    """Which batch is wanted.

    Attributes:
        step: counted from 0.
        rank: the process that asks, of ``ranks``: it draws its share of the batch.
    """

    step: int = 0
    rank: int = 0
    ranks: int = 1


class Batch(Protocol):
    """What one step learns from: a dataclass of tensors, and of lists, mappings and dataclasses of tensors."""

    @property
    def keys(self) -> Sequence[str]:
        """Keys of the samples in it, for messages."""
        ...


class Trainable(Protocol):
    """A network, its data and its loss.

    Attributes:
        name: under which it is registered.
        module: all that is learned.
        shared: whether several processes can share its batches.
    """

    name: str
    module: torch.nn.Module
    shared: bool

    def describe(self) -> dict[str, Any]:
        """What it is made of and learns from, as JSON: configuration, data, hashes. Part of every checkpoint."""
        ...

    def batch(self, rng: np.random.Generator, turn: Turn) -> Batch:
        """The batch of one step, or a rank's share of it: a function of ``rng`` and ``turn`` alone.

        Called in processes of their own where the settings have ``workers``.
        """
        ...

    def losses(self, batch: Any) -> dict[str, torch.Tensor]:
        """Terms of the loss as scalars; ``total`` is what is minimised. Means over ranks are those of the whole."""
        ...

    def validate(self) -> dict[str, float]:
        """Figures on data that is not trained on; ``score``, where there is one, decides which checkpoint is best."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A trainable that can tell beforehand that a run cannot be meant."""

    def check(self, steps: int, ranks: int) -> None:
        """Called before anything is written. Raises UsageError."""
        ...


@runtime_checkable
class Partitioned(Protocol):
    """A trainable of networks that learn from losses of their own."""

    def parts(self) -> Sequence[torch.nn.Module]:
        """Networks whose gradients are clipped each by itself, so that none shortens another's step."""
        ...


@runtime_checkable
class AfterStep(Protocol):
    """A trainable that keeps something up to date besides what the optimiser does, such as averaged weights.

    What it keeps belongs into ``module``, as buffers or as parameters without gradient, or a resumed run would differ.
    """

    def after_step(self) -> None:
        """Called after every step of the optimiser."""
        ...


@runtime_checkable
class Illustrated(Protocol):
    """A trainable that can show what it has learned."""

    def pictures(self) -> dict[str, np.ndarray]:
        """uint8 [H, W, 3] RGB by name; called with every validation, the module in evaluation mode."""
        ...


class NonFiniteLoss(G4GError):
    """The loss became NaN or infinite."""


def leads() -> bool:
    """Whether this process is the one, of those that train together, that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def train(
    trainable: Trainable, settings: Settings, out: str | Path, *, resume: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Train, and leave checkpoints, log, curves and best step in ``out``; several processes may call it together.

    Args:
        trainable: what is trained; its weights are set by the seed before the first step.
        settings: how.
        out: a new or empty folder, or with ``resume`` the folder of a run that was begun with the same settings.

    Returns:
        The last line of the log.

    Raises:
        UsageError: ``out`` holds something else, or another run; several processes, and what is trained is not shared;
            another precision than this process has trained in before.
        NonFiniteLoss: loss or gradient, with the keys of the batch that it happened on; checkpoints stay.
    """
    from accelerate.utils import broadcast_object_list

    folder, accelerator = Path(out), _accelerator(settings)
    if accelerator.num_processes > 1 and not trainable.shared:
        raise UsageError(f"{trainable.name} is trained by one process", "Start it without torchrun or accelerate.")
    if isinstance(trainable, Checked):
        trainable.check(settings.steps, accelerator.num_processes)
    entered = [enter(folder, trainable, settings, resume) if accelerator.is_main_process else None]
    start = broadcast_object_list(entered)[0]
    with threads(settings.threads):
        run = _Run(trainable, settings, folder, accelerator)
        if start is not None:
            load_checkpoint(folder / step_name(start), trainable.module, run.optimizer)
        return run.go(start or 0, quiet)


class _Run:
    """A trainable on its device, in the midst of its steps."""

    def __init__(self, trainable: Trainable, settings: Settings, folder: Path, accelerator: Accelerator) -> None:
        self.trainable, self.settings = trainable, settings
        self.folder, self.accelerator = folder, accelerator
        # convolutions are faster so (30 % of a step of Wav2Lip's tiny on a CPU); checkpoints hold the usual order
        for tensor in (*trainable.module.parameters(), *trainable.module.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        self._losses = accelerator.prepare(_Losses(trainable))
        self._parts = trainable.parts() if isinstance(trainable, Partitioned) else [trainable.module]
        self.optimizer = torch.optim.AdamW(_groups(trainable.module, settings), lr=settings.learning_rate)

    def go(self, start: int, quiet: bool) -> dict[str, Any]:
        """All steps from ``start`` on; see :func:`train`."""
        settings, main = self.settings, self.accelerator.is_main_process
        line = (log_lines(self.folder) or [{}])[-1]
        began = time.monotonic()
        waited, recent = 0.0, list[dict[str, torch.Tensor]]()
        journal = Journal(self.folder, start) if main else contextlib.nullcontext()
        title = f"training {self.trainable.name}"
        with journal, progress(settings.steps - start, title, "steps", quiet or not main) as bar:
            batches = iter(self._batches(start))
            for step in range(start, settings.steps):
                asked = time.monotonic()
                batch = _or_raise(next(batches))
                waited += time.monotonic() - asked
                recent.append(self._step(batch, step))
                done = step + 1
                last = done == settings.steps
                if done % settings.log_every == 0 or last:
                    spent = time.monotonic() - began
                    line = {"step": done, **self._means(recent), "learning_rate": rate_at(settings, step)}
                    line |= {"seconds": round(spent, 2), "waiting": round(waited / spent, 4)}
                    recent = []
                    if isinstance(journal, Journal):
                        self._report(journal, line, validate=done % settings.validate_every == 0 or last)
                if main and (done % settings.checkpoint_every == 0 or last):
                    # before the checkpoint counts: a run that is killed in between takes this step again
                    remember_best(self.folder, done, line.get("validation", {}))
                    save_checkpoint(self.folder / step_name(done), self.trainable, self.optimizer, settings, done)
                    prune(self.folder, settings.keep)
                bar.advance(1, f"loss {line['total']:.3f}" if "total" in line else "")
        self.accelerator.wait_for_everyone()
        return line

    def _batches(self, start: int) -> torch.utils.data.DataLoader[Any]:
        workers, gpu = self.settings.workers, self.accelerator.device.type == "cuda"
        turns = _Turns(self.trainable, self.settings, start, self.accelerator)
        return torch.utils.data.DataLoader(
            turns,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,  # what was read and opened is there at once
            worker_init_fn=_quiet_worker,
            pin_memory=gpu,
        )

    def _step(self, batch: Any, step: int) -> dict[str, torch.Tensor]:
        """One step; all randomness in it comes from (seed, step)."""
        settings = self.settings
        self.trainable.module.train()
        # torch keeps 32 bits of a seed: both numbers must be mixed into them
        torch.manual_seed(int(np.random.default_rng([settings.seed, step, 1]).integers(2**32)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(settings, step)
        self.optimizer.zero_grad(set_to_none=True)
        device = self.accelerator.device
        losses = self._losses(mapped(batch, lambda tensor: tensor.to(device, non_blocking=True)))
        self.accelerator.backward(losses["total"])
        # gradients are those of all processes here: they go on, or stop, together
        norms = [torch.nn.utils.clip_grad_norm_(part.parameters(), settings.clip_norm) for part in self._parts]
        if not all(torch.isfinite(value).all() for value in (losses["total"], *norms)):
            terms = ", ".join(f"{name} {float(value.detach()):g}" for name, value in losses.items())
            what = "gradient" if torch.isfinite(losses["total"]) else "loss"
            raise NonFiniteLoss(
                f"the {what} of step {step + 1} is not finite ({terms}); samples: {', '.join(batch.keys)}",
                "Look at these samples, or lower --set learning_rate; the last checkpoint is whole.",
            )
        self.optimizer.step()
        if isinstance(self.trainable, AfterStep):
            self.trainable.after_step()
        return {name: value.detach() for name, value in losses.items()}

    def _means(self, recent: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
        """Of every term, over steps and processes."""
        means = {name: sum(float(step[name]) for step in recent) / len(recent) for name in recent[0]}
        if self.accelerator.num_processes == 1:
            return means
        whole = self.accelerator.reduce(torch.tensor(list(means.values()), device=self.accelerator.device), "mean")
        return dict(zip(means, whole.tolist(), strict=True))

    def _report(self, journal: Journal, line: dict[str, Any], *, validate: bool) -> None:
        if validate:
            self.trainable.module.eval()
            with torch.no_grad():
                line["validation"] = self.trainable.validate()
                if isinstance(self.trainable, Illustrated):
                    journal.show(self.trainable.pictures(), line["step"])
        journal.add(line)


class _Losses(torch.nn.Module):
    """The loss as a module, for what wraps modules: gradients over processes, mixed precision."""

    def __init__(self, trainable: Trainable) -> None:
        super().__init__()
        self.module, self._trainable = trainable.module, trainable

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        return self._trainable.losses(batch)


class _Turns(torch.utils.data.Dataset[Any]):
    """The batches of all steps from ``start`` on."""

    def __init__(self, trainable: Trainable, settings: Settings, start: int, accelerator: Accelerator) -> None:
        self._trainable, self._seed, self._start = trainable, settings.seed, start
        self._steps = settings.steps - start
        self._rank, self._ranks = accelerator.process_index, accelerator.num_processes

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, number: int) -> _Drawn:
        step = self._start + number
        turn = Turn(step, self._rank, self._ranks)
        try:
            return _Drawn(self._trainable.batch(np.random.default_rng([self._seed, step]), turn))
        except G4GError as error:  # a DataLoader would make another error of it, with the worker's traceback
            return _Drawn(None, error)


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawn:
    """A batch in a form whose memory a DataLoader can pin, or why there is none."""

    batch: Any
    error: G4GError | None = None

    def pin_memory(self) -> _Drawn:
        return _Drawn(mapped(self.batch, torch.Tensor.pin_memory), self.error)


def _or_raise(drawn: _Drawn) -> Any:
    if drawn.error is not None:
        raise drawn.error
    return drawn.batch


def _quiet_worker(_: int) -> None:
    """A worker process ends by its parent's word, not by Ctrl-C of its own, and takes one core."""
    import signal

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A batch with all of its tensors changed: those of dataclasses, mappings, lists and tuples in it, too."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: mapped(getattr(value, f.name), change) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, Mapping):
        return {name: mapped(item, change) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(item, change) for item in value)
    return value


def rate_at(settings: Settings, step: int) -> float:
    """Learning rate of ``step`` (counted from 0): linear warm-up, then half a cosine down to 0."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _accelerator(settings: Settings) -> Accelerator:
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    try:
        return Accelerator(
            cpu=settings.device == "cpu" or not torch.accelerator.is_available(),  # or no processes would be seen
            mixed_precision="bf16" if settings.precision == "bf16" else "no",
            # a network may leave parts of itself aside for some steps, such as a discriminator that waits
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    except ValueError as error:  # accelerate keeps what it was first told for as long as the process lives
        raise UsageError(
            f"this process has trained on another device or in another precision: {error}", "Use a process for each."
        ) from error


def _groups(module: torch.nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Parameters of one dimension (biases, scales) are not decayed."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with this many CPU threads inside: the last digits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
