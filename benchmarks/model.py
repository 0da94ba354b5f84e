"""What training and drawing with G4G cost: steps and frames a second, the share of waiting for data, memory.

    python -m benchmarks.model --shards demo/shards --out benchmarks/results/model.json
    python -m benchmarks.model --shards shards --presets g4g-256 --precisions bf16 --steps 100 --workers 8

Every row is a process of its own, so that its memory is its own: it trains a preset through ``g4g_core.training`` with
all terms of the loss switched on from the first step, and draws the data set's prompts with what came of it. Steps are
counted after a warm-up, without validation and checkpoints. A preset that grows in stages is measured at full size.

A machine without a GPU measures the ``tiny`` preset, a few steps of ``g4g-128``, and gives the arithmetic of the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from g4g_core.provenance import environment

MODEL = "g4g"
WARM = 2
"""Steps before counting starts: allocators, kernels and file caches are cold."""

DRAWN = 3
"""Prompts that are drawn; the first does not count."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One row that can be measured here.

    Attributes:
        steps: that are counted.
        workers: processes that draw batches.
        video: is dubbed with its own sound.
    """

    preset: str
    device: str
    precision: str
    steps: int
    workers: int
    shards: str
    split: str
    video: str | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--shards", help="data set to learn from")
    parser.add_argument("--split", default="train")
    parser.add_argument("--presets", default="tiny,g4g-128,g4g-256", metavar="NAMES")
    parser.add_argument("--precisions", default="fp32,bf16", metavar="NAMES", help="on a GPU; a CPU takes fp32 alone")
    parser.add_argument("--steps", type=int, help="steps that are counted  [default: 100 on a GPU; 10 tiny, 2 g4g-128]")
    parser.add_argument("--workers", type=int, help="processes that draw batches  [default: 8 on a GPU, else 0]")
    parser.add_argument("--video", metavar="FILE", help="also dub this video, with its own sound")
    parser.add_argument("--out", help="JSON file for the numbers")
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(measured(Case(**json.loads(options.case)))))
        return
    if options.shards is None:
        parser.error("--shards is needed")
    rows, left = [], []
    for preset in options.presets.split(","):
        cases, word = _cases(preset, options)
        rows.append(_arithmetic(preset))
        rows += [_apart(case) for case in cases]
        left += [word] if word else []
    _print(rows, left)
    if options.out:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        report = {"rows": rows, "not_measured": left, "environment": environment(), "hardware": _hardware()}
        Path(options.out).write_text(json.dumps(report, indent=2) + "\n")


def _cases(preset: str, options: argparse.Namespace) -> tuple[list[Case], str]:
    """What of a preset can be measured on this machine, and a word on what cannot."""
    import torch

    data = {"shards": options.shards, "split": options.split, "video": options.video}
    if torch.cuda.is_available():
        workers = 8 if options.workers is None else options.workers
        return [
            Case(preset, "cuda", precision, options.steps or 100, workers, **data)
            for precision in options.precisions.split(",")
        ], ""
    word = (
        f"{preset} on a GPU, which is not here: steps/s in {options.precisions}, waiting (aim: under 5 %), its memory"
        f"{', drawn frames/s (aim: over 100)' if preset == 'g4g-256' else ', drawn frames/s'}"
    )
    few = {"tiny": 10, "g4g-128": 2}
    if options.steps is None and preset not in few:
        return [], word
    return [Case(preset, "cpu", "fp32", options.steps or few[preset], options.workers or 0, **data)], word


def _arithmetic(preset: str) -> dict[str, Any]:
    """What needs no machine."""
    from g4g_model.info import of_preset

    about = of_preset(MODEL, preset)
    trained = about["parameters"]["total"] + sum(about["parameters_in_training_only"].values())
    return {
        "preset": preset,
        "parameters": about["parameters"]["total"],
        "parameters_in_training": trained,
        "gflops_per_frame": about["gflops_per_frame"]["total"],
    }


def _apart(case: Case) -> dict[str, Any]:
    """A case in a process of its own."""
    print(f"measuring {case.preset} on {case.device}, {case.precision} ...", file=sys.stderr)
    command = [sys.executable, "-m", "benchmarks.model", "--case", json.dumps(dataclasses.asdict(case))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(case: Case) -> dict[str, Any]:
    """Train, then draw."""
    import torch

    from g4g_core import registry
    from g4g_core.protocols import TrainingData
    from g4g_core.runs import log_lines
    from g4g_core.training import Settings, train
    from g4g_model.config import PRESETS

    kind = registry.load(registry.TRAINABLES, MODEL)
    config = kind.Config(**{**PRESETS[case.preset]["model"], "stages": (), "settle": 0, "preset": case.preset})
    steps = WARM + case.steps
    once = {"steps": steps, "log_every": 1, "validate_every": steps, "checkpoint_every": steps, "warmup": 0}
    where: dict[str, Any] = {"device": "cpu" if case.device == "cpu" else "auto", "precision": case.precision}
    settings = Settings.model_validate(
        {**kind.settings, **PRESETS[case.preset]["training"], **once, **where, "workers": case.workers}
    )
    with tempfile.TemporaryDirectory() as folder:
        trainable = kind.open(config, TrainingData(case.shards, (case.split,)), seed=0, quiet=True)
        train(trainable, settings, Path(folder) / "run", quiet=True)
        lines = log_lines(Path(folder) / "run")
        gpu = case.device == "cuda"
        row = dataclasses.asdict(case) | {
            "size": config.size,
            "clips": config.clips,
            "losses_off": list(trainable.losses_off),
            **_speed(lines[WARM - 1], lines[-1]),
            "train_rss_mb": _peak_mb(),
            "train_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if gpu else None,
        }
        (file,) = kind.export(trainable, Path(folder))
        del trainable
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        row |= _drawing(case, str(file))
        if case.video is not None:
            row["dubbed_frames_per_second"] = _dubbing(case, file)
        row |= {
            "draw_rss_mb": _peak_mb(),
            "draw_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if gpu else None,
        }
    return row


def _speed(warm: dict[str, Any], last: dict[str, Any]) -> dict[str, float]:
    """Between two lines of the log, whose seconds and share of waiting are counted from the run's beginning."""
    seconds = last["seconds"] - warm["seconds"]
    waited = last["waiting"] * last["seconds"] - warm["waiting"] * warm["seconds"]
    return {"steps_per_second": (last["step"] - warm["step"]) / seconds, "waiting": max(0.0, waited / seconds)}


def _drawing(case: Case, checkpoint: str) -> dict[str, float]:
    """Frames a second that the generator draws, from prompts to pictures, as for ``dub`` and the evaluation."""
    from evaluation.prompts import Speech, has_references, prompts
    from evaluation.shots import ShotReader, shots_of
    from g4g_core import registry
    from prep.shards.index import Dataset

    generator = registry.load(registry.MODELS, MODEL).open(checkpoint)
    if case.device == "cuda":
        generator.to("cuda")
    frames, seconds = 0, 0.0
    shots = [shot for shot in shots_of(Dataset.open(case.shards), case.split) if has_references(shot)]
    for number, shot in enumerate(itertools.islice(itertools.cycle(shots), DRAWN)):
        with ShotReader(case.shards, shot) as reader:
            prompt = next(prompts(reader, Speech(*reader.mel(), reader.frame_start, reader.pcm()), 0))
        began = time.perf_counter()
        generator.generate(prompt)
        if number:
            seconds, frames = seconds + time.perf_counter() - began, frames + len(prompt.source)
    return {"drawn_frames_per_second": frames / seconds}


def _dubbing(case: Case, checkpoint: Path) -> float:
    """Frames a second of the whole of ``g4g-model dub``: reading, tracking, drawing, pasting, writing."""
    from g4g_model.dub import Order, dub

    assert case.video is not None
    out = checkpoint.with_name("dubbed.mp4")
    order = Order(case.video, case.video, MODEL, out, str(checkpoint), device="cpu" if case.device == "cpu" else "auto")
    done = dub(order, quiet=True)
    return float(done["frames"] / done["took"])


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _hardware() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"gpus": gpus, "cores": os.cpu_count(), "torch_threads": torch.get_num_threads()}


def _print(rows: Sequence[dict[str, Any]], left: Sequence[str]) -> None:
    for row in rows:
        if "gflops_per_frame" in row:
            print(
                f"{row['preset']}: {row['parameters']:,} parameters draw, {row['parameters_in_training']:,} are "
                f"trained; {row['gflops_per_frame']:.3g} GFLOP a frame"
            )
            continue
        memory = f"{row['train_rss_mb']:.0f} MB"
        if row["train_gpu_mb"] is not None:
            memory += f", GPU {row['train_gpu_mb']:.0f} MB (drawing {row['draw_gpu_mb']:.0f} MB)"
        print(
            f"  {row['device']} {row['precision']}, {row['clips']} clips of {row['size']} px: "
            f"{row['steps_per_second']:.3g} steps/s, {row['waiting']:.1%} waiting for data, {memory}; "
            f"draws {row['drawn_frames_per_second']:.1f} frames/s"
            + (f", dubs {row['dubbed_frames_per_second']:.1f}" if row["video"] is not None else "")
            + "".join(f" ({term}: off)" for term in row["losses_off"])
        )
    for word in left:
        print(f"not measured: {word}")


if __name__ == "__main__":
    main()
