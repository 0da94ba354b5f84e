"""The folder of a training run: what it was begun with, its log, its curves and pictures, its checkpoints.

============================  =====================================================================================
run.json                      settings, the trainable's description, versions
log.jsonl                     a line per logged step: terms of the loss, learning rate, validation
tensorboard/                  the same as curves, and the pictures
pictures/faces-000500.png     what the network draws, at every validation
step-000500/                  a checkpoint: model.safetensors, optimizer.safetensors, and last state.json
best.json                     which of the steps with both a validation and a checkpoint was best
============================  =====================================================================================
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from g4g_core import provenance, storage
from g4g_core.errors import StorageError, UsageError

if TYPE_CHECKING:
    from g4g_core.training import Settings, Trainable

logger = logging.getLogger(__name__)

RUN_FILE, LOG_FILE, BEST_FILE, STATE_FILE = "run.json", "log.jsonl", "best.json", "state.json"
MODEL_FILE, OPTIMIZER_FILE = "model.safetensors", "optimizer.safetensors"
CURVES, PICTURES = "tensorboard", "pictures"

FREE = ("workers", "keep")
"""Settings that may differ when a run is resumed: they change no weight."""


def enter(folder: Path, trainable: Trainable, settings: Settings, resume: bool) -> int | None:
    """Make or check the run's folder; returns the step to go on from, ``None`` for a new run.

    Raises:
        UsageError: it holds something else, a run that is not to be resumed, or one begun with something else.
    """
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
    before = _mapping(place, ())
    for name in ("trainable", "description", "settings"):  # a preset changes both, and is part of the second
        then, now = (_binding(part.get(name)) for part in (before, about))
        if provenance.stable_json(then) != provenance.stable_json(now):
            raise UsageError(
                f"the run in {folder} was begun with another {_difference(then, now, name)}",
                "Resume with what it was begun with, or give another folder.",
            )
    start = _last_whole(folder, settings.steps)
    _cut_log(folder, start or 0)
    return start


def _last_whole(folder: Path, steps: int) -> int | None:
    """The newest checkpoint that is as it was saved; damaged ones after it are said, and will be written again."""
    for step in [step for step in reversed(checkpoints(folder)) if step <= steps]:
        try:
            _state(folder / step_name(step))
        except UsageError as error:
            logger.warning("%s; going on from the one before it", error.what)
        else:
            return step
    return None


def _mapping(path: Path, fields: Sequence[str]) -> dict[str, Any]:
    """A JSON file that holds an object with these fields. Raises UsageError."""
    try:
        found = storage.read_json(str(path))
    except (StorageError, ValueError):
        found = None
    if not isinstance(found, dict) or any(field not in found for field in fields):
        raise UsageError(f"{path} is damaged", "Use another checkpoint, or begin the run anew in another folder.")
    return found


def _binding(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in FREE} if isinstance(value, Mapping) else value


def _difference(before: Any, now: Any, name: str) -> str:
    """``settings.steps (500, now 600)``: the first place in which two JSON values differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}, key=lambda key: (key not in ("config", "preset"), key)):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{name}.{key}")
    return f"{name} ({before!r:.60}, now {now!r:.60})"


# ---------------------------------------------------------------- log, curves, pictures


class Journal:
    """Writes what a run says of itself: a line of the log, and the same for TensorBoard.

    Args:
        folder: of the run.
        start: steps that are done; curves that an interrupted run drew beyond them are hidden.
    """

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._curves = SummaryWriter(str(folder / CURVES), purge_step=start + 1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._curves.close()

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line: numbers by name, ``step``, and figures of the validation in a mapping of their own."""
        with open(self._folder / LOG_FILE, "a") as log:
            log.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if isinstance(value, Mapping):
                for figure, number in value.items():
                    self._curves.add_scalar(f"{name}/{figure}", number, line["step"])
            elif name != "step":
                group = "run" if name in ("learning_rate", "seconds", "waiting") else "loss"
                self._curves.add_scalar(f"{group}/{name}", value, line["step"])

    def show(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Keep pictures, uint8 [H, W, 3] RGB by name, as PNG and in TensorBoard."""
        for name, picture in pictures.items():
            self._curves.add_image(name, picture, step, dataformats="HWC")
            file = self._folder / PICTURES / f"{name}-{step:06d}.png"
            file.parent.mkdir(exist_ok=True)
            storage.write_bytes(str(file), cv2.imencode(".png", picture[..., ::-1])[1].tobytes())


def _cut_log(folder: Path, step: int) -> None:
    """Forget what the log says of steps after the checkpoint: they are taken again."""
    kept = [line for line in log_lines(folder) if line["step"] <= step]
    if (folder / LOG_FILE).exists():
        storage.write_bytes(str(folder / LOG_FILE), "".join(json.dumps(line) + "\n" for line in kept).encode())


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """The log; lines that are none, such as a last one that a kill cut off, are left out."""
    place = folder / LOG_FILE
    lines = []
    for text in place.read_bytes().splitlines() if place.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


# ---------------------------------------------------------------- checkpoints


def step_name(step: int) -> str:
    """Folder of the checkpoint after ``step`` steps."""
    return f"step-{step:06d}"


def checkpoints(folder: Path) -> list[int]:
    """Steps of the whole checkpoints of a run, ascending."""
    names = (path.parent.name.removeprefix("step-") for path in folder.glob(f"step-*/{STATE_FILE}"))
    return sorted(int(name) for name in names if name.isdecimal())


def came_of(folder: Path) -> dict[str, Any]:
    """``step``, ``settings``, ``torch`` and ``processor`` of a run's newest checkpoint; or nothing.

    Settings as far as weights depend on them.
    """
    steps = checkpoints(folder)
    if not steps:
        return {}
    state = storage.read_json(str(folder / step_name(steps[-1]) / STATE_FILE))
    settings = {name: value for name, value in state["settings"].items() if name not in FREE}
    return {"settings": settings, **{name: state.get(name) for name in ("step", "torch", "processor")}}


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
        "torch": torch.__version__.split("+")[0],
        "processor": _processor(trainable.module),
        "sha256": {name: provenance.file_sha256(str(folder / name)) for name in (MODEL_FILE, OPTIMIZER_FILE)},
    }
    storage.write_json(str(folder / STATE_FILE), state)


def _processor(module: torch.nn.Module) -> str:
    """What a module computes on, by its own name."""
    device = next(module.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else provenance.processor()


def load_checkpoint(
    folder: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Put a checkpoint's weights into ``module`` (and its moments into ``optimizer``); returns ``state.json``.

    Raises:
        UsageError: it is no whole checkpoint, or not one of this network.
    """
    from safetensors.torch import load

    state = _state(folder)
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


def _state(folder: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint whose files are those that were saved. Raises UsageError."""
    if not (folder / STATE_FILE).exists():
        raise UsageError(f"{folder} is no checkpoint: {STATE_FILE} is missing", "Name a folder step-... of a run.")
    state = _mapping(folder / STATE_FILE, ("sha256",))
    digests = state["sha256"] if isinstance(state["sha256"], dict) else {}
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        file = folder / name
        if not file.is_file() or provenance.file_sha256(str(file)) != digests.get(name):
            raise UsageError(f"{file} is damaged: not the file that was saved", "Use another checkpoint.")
    return state


def remember_best(folder: Path, step: int, figures: Mapping[str, float]) -> None:
    """Note ``step`` as the best one if the ``score`` among its figures is the highest so far."""
    score = figures.get("score")
    if score is None or not math.isfinite(score):
        return
    best = _best(folder)
    if best is None or score > best["score"]:
        storage.write_json(str(folder / BEST_FILE), {"step": step, "score": score})


def _best(folder: Path) -> dict[str, Any] | None:
    """What ``best.json`` says; a damaged one says nothing."""
    try:
        found = _mapping(folder / BEST_FILE, ("step", "score"))
    except UsageError:
        return None
    return found if isinstance(found["score"], (int, float)) else None


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints and the best one."""
    best = _best(folder)
    for step in checkpoints(folder)[:-keep]:
        if best is None or step != best["step"]:
            os.unlink(folder / step_name(step) / STATE_FILE)
            shutil.rmtree(folder / step_name(step))
