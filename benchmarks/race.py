"""The fair race: models trained on the same shards for the same steps and frames, then scored by one harness.

    python -m benchmarks.race --shards demo/shards --steps 300 --out race
    python -m benchmarks.race --shards shards --selection model.parquet --test test.parquet --splits train,val,test \\
        --steps 600 --seeds 0,1,2 --set wav2lip-expert:steps=2000 --out race

Every contestant is trained by ``g4g-model train`` and scored by ``g4g-eval run``, as a user would do it. What is done
already is kept, and a run that was interrupted is resumed: start the same command again; another race in the same
folder is refused. Writes ``race.json`` and ``race.md``. Exit codes: 0 fine, 2 a fault that you can mend, 4 contestants
failed (each is a row with its reason).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from baselines.wav2lip.config import EXPERT, GENERATORS
from benchmarks.race_costs import Outcome, cost_of
from benchmarks.race_programs import Programs, plans_of, scorable, scored, train_all
from benchmarks.race_report import Story, told
from benchmarks.race_rules import (
    TRAINED_BY,
    Race,
    assignments_of,
    codes_of,
    people_apart,
    require_same,
    same_for_all,
    settle,
)
from g4g_core import provenance, registry, storage
from g4g_core.errors import ExitCode, G4GError, UsageError
from g4g_core.registry import unknown

ABLATIONS = ("g4g-no-intra", "g4g-no-inter", "g4g-pairwise", "g4g-single-mask", "g4g-no-fusion")
MAIN = ("g4g", "wav2lip")
CONTESTANTS = (*MAIN, "dinet", *ABLATIONS)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options().parse_args(arguments)
    try:
        code = run(options)
    except G4GError as error:
        print(f"error: {error}", file=sys.stderr)
        code = ExitCode.USAGE
    raise SystemExit(int(code))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="data set that is learned from and tested on")
    parser.add_argument("--splits", default="train", help="splits that are learned from")
    parser.add_argument("--selection", help="samples that are learned from; made by g4g-prep select")
    parser.add_argument("--test", help="samples that are tested on, of any split; default: all of the split test")
    parser.add_argument("--models", default=",".join(CONTESTANTS), help="contestants; still and shuffled always race")
    parser.add_argument("--repeated", default=",".join(MAIN), help="contestants that every seed is run for")
    parser.add_argument("--seeds", default="0", help="the first one is that of all contestants")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=300, help="of every contestant")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="[MODEL:]NAME=VALUE",
        help="a field of g4g-model train, of all contestants or of one model; wav2lip's expert takes only its own: "
        f"{EXPERT}:NAME=VALUE",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time, a core each")
    parser.add_argument("--mixed-code", action="store_true", help="go on although code has changed; the table says so")
    parser.add_argument("--out", required=True, type=Path)
    return parser


def run(options: argparse.Namespace) -> ExitCode:
    """The race, from options to tables. Raises G4GError for all that would make it unfair."""
    models, repeated = _contestants(options.models), set(_contestants(options.repeated))
    seeds = _seeds(options.seeds)
    if not models:
        raise UsageError("--models names no contestant", f"The default is {','.join(CONTESTANTS)}.")
    if options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs}: trainings at a time are 1 or more")
    race = Race(
        shards=str(Path(options.shards).resolve()), splits=options.splits, selection=_absolute(options.selection),
        test=_absolute(options.test), preset=options.preset, steps=options.steps, out=options.out.resolve(),
        jobs=options.jobs, assignments=assignments_of(options.assignments, models),
    )  # fmt: skip
    entries = [(model, seed) for seed in seeds for model in models if seed == seeds[0] or model in repeated]
    entries = [*((EXPERT, s) for s in seeds if any((m, s) in entries for m in GENERATORS)), *entries]
    tested, tested_splits = people_apart(race)
    race.out.mkdir(parents=True, exist_ok=True)
    with Programs(race.out) as programs:
        plans = plans_of(race, entries, programs)
        learned = same_for_all({model: plans[model] for model in models})
        settings = {"preset": race.preset, "steps": race.steps, "settings": options.assignments, "tested on": tested}
        settle(race.out, {**settings, "learned from": learned["footage_sha256"]})
        code = provenance.code_fingerprint(TRAINED_BY)
        for entry in entries:
            require_same(race, entry, plans[entry[0]], None if options.mixed_code else code)
        reasons = train_all(race, entries, programs)
        ready = {seed: scorable(race, [entry for entry in entries if entry[1] == seed], reasons) for seed in seeds}
        if not ready[seeds[0]]:
            raise UsageError(
                "there is nothing to score", "\n  ".join(f"{m} {s}: {why}" for (m, s), why in reasons.items())
            )
        results = {
            seed: scored(race, ready[seed], seed, tested_splits, programs, controls=seed == seeds[0])
            for seed in seeds
            if ready[seed]
        }
    outcomes = {
        (model, seed): Outcome(
            cost_of(race.folder(model, seed), model, plans[model]["parameters"]), reasons.get((model, seed)),
            bool(set(codes_of(race, model, seed)) - {code}),
        )
        for model, seed in entries
    }  # fmt: skip
    facts = {
        "preset": race.preset, "steps": race.steps, "clips": learned["config"]["clips"], "jobs": race.jobs,
        "settings": options.assignments, "machine": _machine(), "commit": provenance.git_commit(),
        "versions": {"Python": platform.python_version(), **provenance.versions(("g4g", "torch", "numpy"))},
        "learned": {name: learned[name] for name in ("samples", "minutes", "identities")},
    }  # fmt: skip
    names = {model: f"{model} ({plan['description']['config']['preset']})" for model, plan in plans.items()}
    story = Story(facts, names, models, seeds, outcomes, results)
    _write(race, story)
    missed = any(row["failed"] for seed in results for row in story.table(seed)["rows"].values())
    return ExitCode.SOME_FAILED if reasons or missed else ExitCode.OK


def _write(race: Race, story: Story) -> None:
    named = {f"{model} {seed}": dataclasses.asdict(outcome) for (model, seed), outcome in story.outcomes.items()}
    results = {str(seed): summary for seed, summary in story.results.items()}
    storage.write_json(str(race.out / "race.json"), {"race": story.facts, "outcomes": named, "results": results})
    text = told(story)
    storage.write_bytes(str(race.out / "race.md"), text.encode())
    print(text)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _machine() -> str:
    import torch

    device = "a GPU" if torch.accelerator.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {device}"


def _seeds(text: str) -> list[int]:
    """Numbers between commas. Raises UsageError."""
    try:
        return list(dict.fromkeys(int(seed) for seed in text.split(",")))
    except ValueError:
        raise UsageError(f"--seeds {text!r}: seeds are whole numbers between commas, such as 0,1,2") from None


def _contestants(text: str) -> list[str]:
    """Names between commas, of what can be trained and can draw. Raises UsageError."""
    offered = sorted(set(registry.names(registry.MODELS)) & set(registry.names(registry.TRAINABLES)))
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in offered:
            raise unknown("contestant", name, offered)
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
