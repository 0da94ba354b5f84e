"""The fair race: models trained on the same shards for the same steps and frames, then scored by one harness.

    python -m benchmarks.race --shards demo/shards --steps 300 --out race
    python -m benchmarks.race --shards shards --selection model.parquet --test test.parquet --splits train,val,test \\
        --steps 600 --seeds 0,1,2 --out race

Every contestant is trained by ``g4g-model train`` and scored by ``g4g-eval run``, as a user would do it. What is done
already is kept, and a run that was interrupted is resumed: start the same command again. Writes ``race.json`` and
``race.md`` with the table, the intervals, the paired tests and what every contestant cost.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ABLATIONS = ("g4g-no-intra", "g4g-no-inter", "g4g-pairwise", "g4g-single-mask", "g4g-no-fusion")
MAIN = ("g4g", "wav2lip")
CONTESTANTS = (*MAIN, "dinet", *ABLATIONS)
EXPERT = "wav2lip-expert"
FRAMES = 5
"""Frames of a training window, for every contestant."""

SHOWN = (
    "m-lmd@20",
    "sync_score@judge",
    "psnr@mouth",
    "ssim@mouth",
    "cpbd@face256",
    "csim-dlib",
    "ffd-dlib",
    "motion@mouth",
)
POOLED = "pooled"


@dataclasses.dataclass(frozen=True)
class Race:
    """What all contestants share.

    Attributes:
        shards: the data set.
        splits: that are learned from.
        selection: file of keys that are learned from; ``None``: all of the splits.
        test: file of keys that are tested on; ``None``: all of the split ``test``.
        preset: of every model.
        steps: of every training.
        out: folder of runs and results.
        jobs: trainings at a time, a core each.
        assignments: NAME=VALUE for every training.
    """

    shards: str
    splits: str
    selection: str | None
    test: str | None
    preset: str
    steps: int
    out: Path
    jobs: int
    assignments: Sequence[str]

    def folder(self, model: str, seed: int) -> Path:
        return self.out / "runs" / f"{model}-{seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="data set that is learned from and tested on")
    parser.add_argument("--splits", default="train", help="splits that are learned from")
    parser.add_argument("--selection", help="samples that are learned from; made by g4g-prep select")
    parser.add_argument("--test", help="samples that are tested on, of any split; default: all of the split test")
    parser.add_argument("--models", default=",".join(CONTESTANTS), help="contestants; still and shuffled always race")
    parser.add_argument("--repeated", default=",".join(MAIN), help="contestants that every seed is run for")
    parser.add_argument("--seeds", default="0", help="the first one is that of all contestants")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time, a core each")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    race = Race(
        shards=str(Path(options.shards).resolve()), splits=options.splits, selection=_absolute(options.selection),
        test=_absolute(options.test), preset=options.preset, steps=options.steps, out=options.out.resolve(),
        jobs=options.jobs, assignments=options.assignments,
    )  # fmt: skip
    models = [name for name in options.models.split(",") if name]
    repeated = [name for name in options.repeated.split(",") if name in models]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    entries = [(model, seeds[0]) for model in models] + [(model, seed) for seed in seeds[1:] for model in repeated]
    race.out.mkdir(parents=True, exist_ok=True)
    train_all(race, entries)
    results = {seed: scored(race, models if seed == seeds[0] else repeated, seed) for seed in seeds}
    report = {
        "race": {**dataclasses.asdict(race), "out": race.out.name, "shards": Path(race.shards).name},
        "costs": {f"{model} {seed}": cost_of(race.folder(model, seed)) for model, seed in entries},
        "results": {str(seed): summary for seed, summary in results.items()},
    }
    (race.out / "race.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
    text = told(race, models, seeds, results, report["costs"])
    (race.out / "race.md").write_text(text)
    print(text)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


# ---------------------------------------------------------------- training


def train_all(race: Race, entries: Sequence[tuple[str, int]]) -> None:
    """Train whatever is not trained yet, the expert of Wav2Lip before those that learn from it."""
    judged = [seed for model, seed in entries if model.startswith("wav2lip")]
    with concurrent.futures.ThreadPoolExecutor(race.jobs) as pool:
        experts = {seed: pool.submit(trained, race, EXPERT, seed, ()) for seed in sorted(set(judged))}

        def contestant(entry: tuple[str, int]) -> None:
            model, seed = entry
            learns = model.startswith("wav2lip")
            trained(race, model, seed, (f"expert={experts[seed].result()}",) if learns else ())

        # those that must wait for an expert come last
        order = sorted(entries, key=lambda entry: entry[0].startswith("wav2lip"))
        try:
            for done in [pool.submit(contestant, entry) for entry in order]:
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun does not begin
            raise


def trained(race: Race, model: str, seed: int, assignments: Sequence[str]) -> Path:
    """The file of a trained model; trained now, or gone on with, where it is not there."""
    folder = race.folder(model, seed)
    file = folder / f"{model}.safetensors"
    if file.exists():
        steps = json.loads((folder / "run.json").read_text())["settings"]["steps"]
        if steps != race.steps:
            raise SystemExit(f"{folder} was trained for {steps} steps, not {race.steps}; give another --out")
        return file
    command = ["-m", "g4g_model", "train", "--model", model, "--preset", race.preset, "--shards", race.shards]
    command += ["--split", race.splits, "--validation", "none", "--out", str(folder), "--seed", str(seed)]
    command += ["--steps", str(race.steps), "--quiet"]
    for part in (*race.assignments, *assignments):
        command += ["--set", part]
    if race.selection is not None:
        command += ["--selection", race.selection]
    if (folder / "run.json").exists():
        command.append("--resume")
    print(f"training {model}, seed {seed}", flush=True)
    _run(command, race.out, race.out / f"{model}-{seed}.log")
    return file


def cost_of(folder: Path) -> dict[str, Any]:
    """What a training cost: steps, frames seen, seconds of its last uninterrupted stretch, parameters."""
    from safetensors import safe_open

    about = json.loads((folder / "run.json").read_text())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    file = next(folder.glob("*.safetensors"))
    with safe_open(str(file), "pt") as tensors:
        sizes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    clips = about["description"]["config"]["clips"]
    return {
        "steps": lines[-1]["step"],
        "frames": lines[-1]["step"] * clips * FRAMES,
        "seconds": lines[-1]["seconds"],
        "parameters": sum(_product(size) for size in sizes),
    }


def _product(size: Sequence[int]) -> int:
    total = 1
    for length in size:
        total *= length
    return total


# ---------------------------------------------------------------- scoring


def scored(race: Race, models: Sequence[str], seed: int) -> dict[str, Any]:
    """``summary.json`` of these models, trained with this seed."""
    folder = race.out / f"scores-{seed}"
    command = ["-m", "evaluation", "run", "--models", ",".join(("still", *models)), "--data", race.shards, "--pooled"]
    command += ["--out", str(folder), "--workers", str(race.jobs), "--quiet"]
    for model in models:
        command += ["--checkpoint", f"{model}={race.folder(model, seed)}"]
    if race.test is not None:
        command += ["--split", "train,val,test", "--selection", race.test]
    print(f"scoring {', '.join(models)}, seed {seed}", flush=True)
    _run(command, race.out, race.out / f"scores-{seed}.log")
    return dict(json.loads((folder / "summary.json").read_text()))


def told(
    race: Race,
    models: Sequence[str],
    seeds: Sequence[int],
    results: Mapping[int, Mapping[str, Any]],
    costs: Mapping[str, Mapping[str, Any]],
) -> str:
    """The race as Markdown; every model's name carries its preset."""
    first = results[seeds[0]]
    table = first["tables"].get(POOLED) or next(iter(first["tables"].values()))
    shown = [metric for metric in SHOWN if metric in first["metrics"]]
    lines = [
        f"{race.steps} steps each, preset {race.preset}, {table['shots']} shots of {table['identities']} people.",
        "",
    ]
    lines += ["| model | " + " | ".join(shown) + " |", "|---|" + "---|" * len(shown)]
    for model in ("ground-truth", "still", "shuffled", *models):
        cells = table["rows"].get(model, {}).get("cells", {})
        lines.append(f"| {_named(model, race)} | " + " | ".join(_cell(cells.get(metric)) for metric in shown) + " |")
    lines += ["", "Difference to `still`, 95 % interval, p (Holm over all pairs of models):", ""]
    lines += ["| model | " + " | ".join(shown) + " |", "|---|" + "---|" * len(shown)]
    for model in models:
        pairs = [_against(table["pairs"].get(metric, ()), model, "still") for metric in shown]
        lines.append(f"| {_named(model, race)} | " + " | ".join(pairs) + " |")
    lines += ["", "Every seed:", "", "| model | seed | " + " | ".join(shown) + " |", "|---|---|" + "---|" * len(shown)]
    for seed in seeds:
        tables = results[seed]["tables"]
        rows = (tables.get(POOLED) or next(iter(tables.values())))["rows"]
        for model in models:
            if model in rows:
                cells = rows[model]["cells"]
                values = " | ".join(_cell(cells.get(metric)) for metric in shown)
                lines.append(f"| {_named(model, race)} | {seed} | {values} |")
    lines += ["", "| run | steps | frames seen | seconds | parameters |", "|---|---|---|---|---|"]
    for name, cost in costs.items():
        figures = (f"{cost['steps']:,}", f"{cost['frames']:,}", f"{cost['seconds']:.0f}", f"{cost['parameters']:,}")
        lines.append(f"| {name} | " + " | ".join(figures) + " |")
    return "\n".join(lines) + "\n"


def _named(model: str, race: Race) -> str:
    return model if model in ("ground-truth", "still", "shuffled") else f"{model} ({race.preset})"


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell.get("mean") is None:
        return ""
    if cell.get("low") is None:
        return f"{cell['mean']:.4g}"
    return f"{cell['mean']:.4g} ({cell['low']:.4g} to {cell['high']:.4g})"


def _against(pairs: Sequence[Mapping[str, Any]], model: str, other: str) -> str:
    """The difference model - other, whichever way round it stands in the results."""
    for pair in pairs:
        if {pair["a"], pair["b"]} == {model, other} and pair.get("effect") is not None:
            sign = 1 if pair["a"] == model else -1
            text = f"{sign * pair['effect']:+.3g}"
            if pair.get("low") is not None:
                low, high = sorted((sign * pair["low"], sign * pair["high"]))
                text += f" ({low:+.3g} to {high:+.3g})"
            return text if pair.get("p_holm") is None else f"{text}, p {pair['p_holm']:.2g}"
    return ""


def _run(arguments: Sequence[str], folder: Path, log: Path) -> None:
    """Run a module of this environment in ``folder``; its words go to ``log``."""
    place = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join([place, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    with open(log, "ab") as words:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, stdout=words, stderr=words, check=False
        )
    if done.returncode not in (0, 4):
        last = log.read_text(errors="replace").strip().splitlines()[-3:]
        raise SystemExit(f"{' '.join(arguments[:5])} ended with {done.returncode}; {log}:\n" + "\n".join(last))


if __name__ == "__main__":
    main()
