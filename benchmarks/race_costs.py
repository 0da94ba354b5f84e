"""What every training of a race cost, read from the folder of its run; nothing is measured here."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from baselines.wav2lip.config import EXPERT
from benchmarks.race_rules import starts_of
from g4g_core.references import COUNT
from g4g_core.runs import log_lines
from g4g_model.config import FRAMES

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a training cost.

    Attributes:
        steps: that were taken and kept.
        wanted: steps that were to be taken.
        drawn: frames that were drawn and compared with the truth; 0 for an expert.
        seen: frames that were shown in training: those, references, the matrix of mouths and sounds; of an expert the
            pictures of its pairs. A frame that is shown twice counts twice.
        seconds: of all stretches together; steps that a kill undid are not among them.
        stretches: 1 where the run was never resumed.
        step_seconds: median over the lines of the log.
        parameters: of what draws, without the running figures of batch norm; ``None``: it was not exported.
        learned: parameters of all that learns: discriminators and judges of its own, too.
    """

    steps: int
    wanted: int
    drawn: int
    seen: int
    seconds: float
    stretches: int
    step_seconds: float | None
    parameters: int | None
    learned: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a training: its cost, if it began; why it failed; other code than the race's that took part."""

    cost: Cost | None
    failed: str | None = None
    mixed: bool = False


def cost_of(folder: Path, model: str, learned: int) -> Cost | None:
    """The cost of the run in ``folder``; ``None`` where none was begun."""
    if not (folder / "run.json").exists():
        return None
    about = json.loads((folder / "run.json").read_text())
    lines = log_lines(folder)
    stretches = stretches_of(lines, starts_of(folder))
    steps = lines[-1]["step"] if lines else 0
    file = folder / f"{model}.safetensors"
    return Cost(
        steps, about["settings"]["steps"], *frames_of(model, about["description"]["config"], steps),
        seconds=sum(part[-1]["seconds"] for part in stretches),
        stretches=len(stretches), step_seconds=step_seconds(stretches),
        parameters=parameters_of(file) if file.exists() else None, learned=learned,
    )  # fmt: skip


def frames_of(model: str, config: Mapping[str, Any], steps: int) -> tuple[int, int]:
    """Frames drawn and frames seen in ``steps``, see :class:`Cost`."""
    if model == EXPERT:
        return 0, steps * config["pairs"] * FRAMES
    matrix = config["windows"] * FRAMES if config.get("inter") else 0
    windows = steps * config["clips"]
    return windows * FRAMES, windows * (FRAMES + COUNT + matrix)


def stretches_of(lines: Sequence[Mapping[str, Any]], starts: Sequence[int]) -> list[list[Mapping[str, Any]]]:
    """The log cut where a run was resumed.

    Args:
        lines: of the log.
        starts: steps that were done at every start that the race noted. Of a run that was resumed outside of a race
            they tell nothing; there the clock, which counts the seconds of a process, is seen to fall back. It need
            not, where a checkpoint is written with every line: then such a run is told with too few seconds. A start
            from an older checkpoint than the newest, because that was damaged, is noted as one from the newest.
    """
    cuts = {start for number, start in enumerate(starts) if start <= min(starts[number:])}  # else it was undone
    found: list[list[Mapping[str, Any]]] = []
    for line in lines:
        if not found or _resumed(found[-1][-1], line, cuts):
            found.append([])
        found[-1].append(line)
    return found


def _resumed(before: Mapping[str, Any], line: Mapping[str, Any], cuts: Collection[int]) -> bool:
    noted = any(before["step"] <= cut < line["step"] for cut in cuts)
    return bool(noted or line["seconds"] <= before["seconds"])


def step_seconds(stretches: Sequence[Sequence[Mapping[str, Any]]]) -> float | None:
    """Median seconds of a step, over the lines of a log; ``None`` where there is none."""
    rates, step = [], 0
    for part in stretches:
        clock = 0.0
        for line in part:
            rates.append((line["seconds"] - clock) / (line["step"] - step))
            clock, step = line["seconds"], line["step"]
    return statistics.median(rates) if rates else None


def parameters_of(file: Path) -> int:
    """Parameters in a file of weights: batch norm's running figures are none."""
    from safetensors import safe_open

    with safe_open(str(file), "pt") as tensors:
        names = [name for name in tensors.keys() if name.rpartition(".")[2] not in _BUFFERS]  # noqa: SIM118
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
