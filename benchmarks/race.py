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
import concurrent.futures
import dataclasses
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from baselines.wav2lip.config import EXPERT, GENERATORS
from benchmarks.race_report import SHOWN, Outcome, Story, cost_of, told
from evaluation.shots import shots_of
from g4g_core import provenance, registry, storage
from g4g_core.errors import DatasetError, ExitCode, G4GError, UsageError
from g4g_core.registry import unknown
from g4g_core.runs import FREE
from prep.shards.index import Dataset, read_selection

ABLATIONS = ("g4g-no-intra", "g4g-no-inter", "g4g-pairwise", "g4g-single-mask", "g4g-no-fusion")
MAIN = ("g4g", "wav2lip")
CONTESTANTS = (*MAIN, "dinet", *ABLATIONS)
TRAINED_BY = ("g4g_core", "prep", "g4g_model", "baselines")
"""Packages that a trained model depends on."""

Entry = tuple[str, int]
"""A model and its seed."""


@dataclasses.dataclass(frozen=True)
class Race:
    """What all contestants share.

    Attributes:
        shards: the data set.
        splits: that are learned from.
        selection: file of keys that are learned from; ``None``: all of the splits.
        test: file of keys that are tested on, of any split; ``None``: all of the split ``test``.
        preset: of every model.
        steps: of every contestant's training.
        out: folder of runs and results.
        jobs: trainings at a time, a core each.
        assignments: NAME=VALUE by model, the expert's among them.
    """

    shards: str
    splits: str
    selection: str | None
    test: str | None
    preset: str
    steps: int
    out: Path
    jobs: int
    assignments: Mapping[str, Sequence[str]]

    def folder(self, model: str, seed: int) -> Path:
        return self.out / "runs" / f"{model}-{seed}"

    def file(self, model: str, seed: int) -> Path:
        """What a training leaves when it is done."""
        return self.folder(model, seed) / f"{model}.safetensors"

    def training(self, model: str, seed: int) -> list[str]:
        """``g4g-model train`` of a model, as arguments of Python."""
        command = ["-m", "g4g_model", "train", "--model", model, "--preset", self.preset, "--shards", self.shards]
        command += ["--split", self.splits, "--validation", "none", "--out", str(self.folder(model, seed))]
        command += ["--seed", str(seed), "--quiet"]
        given = self.assignments.get(model, ())
        if not any(text.startswith("steps=") for text in given):
            command += ["--steps", str(self.steps)]
        for text in given:
            command += ["--set", text]
        return command if self.selection is None else [*command, "--selection", self.selection]


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
    seeds = list(dict.fromkeys(int(seed) for seed in options.seeds.split(",")))
    race = Race(
        shards=str(Path(options.shards).resolve()), splits=options.splits, selection=_absolute(options.selection),
        test=_absolute(options.test), preset=options.preset, steps=options.steps, out=options.out.resolve(),
        jobs=options.jobs, assignments=assignments_of(options.assignments, models),
    )  # fmt: skip
    entries = [(model, seed) for seed in seeds for model in models if seed == seeds[0] or model in repeated]
    entries = [*((EXPERT, s) for s in seeds if any((m, s) in entries for m in GENERATORS)), *entries]
    tested, tested_splits = tested_on(race)
    race.out.mkdir(parents=True, exist_ok=True)
    with Programs(race.out) as programs:
        plans = _plans(race, entries, programs)
        learned = same_for_all({model: plans[model] for model in models})
        settings = {"preset": race.preset, "steps": race.steps, "settings": options.assignments, "tested on": tested}
        settle(race.out, {**settings, "learned from": learned["footage_sha256"]})
        code = provenance.code_fingerprint(TRAINED_BY)
        for entry in entries:
            require_same(race, entry, plans[entry[0]], None if options.mixed_code else code)
        reasons = train_all(race, entries, programs)
        ready = {seed: _scorable(race, [entry for entry in entries if entry[1] == seed], reasons) for seed in seeds}
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


# ---------------------------------------------------------------- the rules


def _contestants(text: str) -> list[str]:
    """Names between commas, of what can be trained and can draw. Raises UsageError."""
    offered = sorted(set(registry.names(registry.MODELS)) & set(registry.names(registry.TRAINABLES)))
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in offered:
            raise unknown("contestant", name, offered)
    return list(dict.fromkeys(names))


def assignments_of(texts: Sequence[str], models: Sequence[str]) -> dict[str, list[str]]:
    """NAME=VALUE by model: one without a model is every contestant's, and not the expert's, who is none.

    Raises:
        UsageError: a model that does not race, or a field that the race itself sets.
    """
    found: dict[str, list[str]] = {model: [] for model in models}
    if set(models) & set(GENERATORS):
        found[EXPERT] = []
    for text in texts:
        model, colon, field = text.partition("=")[0].rpartition(":")
        if colon and model not in found:
            raise unknown("model in this race", model, list(found))
        if field == "seed" or (field == "steps" and model != EXPERT):
            raise UsageError(f"--set {text}: contestants must not differ in it", f"Use --{field} (seeds: --seeds).")
        if field == "expert" and model in GENERATORS:
            raise UsageError(f"--set {text}: the race trains {model}'s expert itself", f"Use {EXPERT}:NAME=VALUE.")
        for name in [model] if colon else models:
            found[name].append(text[len(model) + 1 :] if colon else text)
    return found


def tested_on(race: Race) -> tuple[str, str]:
    """A hash of the shots that are tested on, and the splits they are of.

    Raises:
        DatasetError: somebody is learned from and tested on, or nobody is tested on.
    """
    dataset = Dataset.open(race.shards)
    splits = "test" if race.test is None else ",".join(dataset.splits)
    shots = shots_of(dataset, splits, selection=race.test)
    keys = None if race.selection is None else read_selection(race.selection)
    learned = {
        row.identity
        for split in race.splits.split(",")
        for row in dataset.rows(split.strip())
        if keys is None or row.key in keys
    }
    shared = sorted(learned & {shot.identity for shot in shots})
    if shared:
        raise DatasetError(
            f"{shared[0]} is learned from and tested on (so are {len(shared)} people in all)",
            "Select people to test on that --selection and --splits leave out.",
        )
    return provenance.digest(sorted(shot.fingerprint for shot in shots)), splits


def same_for_all(plans: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """What contestants learn from, as each describes it: clips a batch and samples must be equal. Raises UsageError."""
    described = {model: plan["description"] for model, plan in plans.items()}
    clips = {model: about["config"]["clips"] for model, about in described.items()}
    if len(set(clips.values())) > 1:
        listed = ", ".join(f"{model} {count}" for model, count in clips.items())
        raise UsageError(f"clips a batch differ, and with them the frames: {listed}", "Add --set clips=N for all.")
    if len({about["footage_sha256"] for about in described.values()}) > 1:
        listed = ", ".join(f"{model} {about['samples']}" for model, about in described.items())
        raise UsageError(f"contestants would not learn from the same samples: {listed}", "Give all the same windows.")
    return next(iter(described.values()))


def settle(out: Path, settings: Mapping[str, Any]) -> None:
    """Note what a race was begun with, and refuse another one in the same folder. Raises UsageError."""
    place = out / "settings.json"
    if place.exists():
        before = storage.read_json(str(place))
        for name, value in settings.items():
            if before.get(name) != value:
                raise UsageError(
                    f"the race in {out} was begun with other {name} ({before.get(name)!r:.60}, now {value!r:.60})",
                    "Go on with what it was begun with, or give another --out.",
                )
    storage.write_json(str(place), dict(settings))


def require_same(race: Race, entry: Entry, plan: Mapping[str, Any], code: str | None) -> None:
    """Refuse a run that was begun with anything but what this race would begin it with.

    Args:
        race: this one.
        entry: model and seed of the run.
        plan: what ``g4g-model train --dry-run`` says of it, without the expert that the race gives it.
        code: of what trains now; ``None``: any.

    Raises:
        UsageError: settings, data, expert, torch or code of the run were others, or it was not trained by a race.
    """
    (model, seed), folder = entry, race.folder(*entry)
    if not (folder / "run.json").exists():
        return
    before = storage.read_json(str(folder / "run.json"))
    torch = str(provenance.versions(("torch",))["torch"]).split("+")[0]
    description = {**plan["description"], "trained_against": _experts(race, model, seed, plan)}
    settings = {**plan["training"], "seed": seed}
    now = {"trainable": model, "torch": torch, "description": description, "settings": settings}
    then_flat, now_flat = _flat(before), _flat(now)
    for name in sorted({*then_flat, *now_flat}):
        free = name.rpartition(".")[2] in (*FREE, "preset", *(("losses_off",) if model in GENERATORS else ()))
        if not free and then_flat.get(name) != now_flat.get(name):
            raise UsageError(
                f"{folder} was trained with another {name} "
                f"({then_flat.get(name)!r:.60}, now {now_flat.get(name)!r:.60})",
                "Give another --out, or delete this folder to train it anew.",
            )
    codes = codes_of(race, model, seed)
    if not codes:
        raise UsageError(f"{folder} was not trained by a race", "Give another --out, or delete this folder.")
    if code is not None and set(codes) != {code}:
        raise UsageError(
            f"the code that trains has changed since {folder} was begun",
            "Go back to that code, give another --out, or go on with --mixed-code: the table will say so.",
        )


def _experts(race: Race, model: str, seed: int, plan: Mapping[str, Any]) -> list[str]:
    """Hashes of the experts that a model is trained against."""
    file = race.file(EXPERT, seed)
    if model not in GENERATORS:
        return list(plan["description"].get("trained_against", ()))
    return [provenance.file_sha256(str(file))] if file.exists() else []


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Values of nested mappings by dotted names."""
    if not isinstance(value, Mapping):
        return {name: value}
    parts = (_flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}


def codes_of(race: Race, model: str, seed: int) -> list[str]:
    """Fingerprints of the code at every start of a training, as noted beside its folder."""
    place = race.folder(model, seed).with_suffix(".json")
    return list(storage.read_json(str(place))["code"]) if place.exists() else []


# ---------------------------------------------------------------- training


class Programs:
    """Programs that a race starts: they end with it, and while one of them runs no other race begins in its folder.

    Args:
        folder: of the race; it is where programs work.

    Raises:
        UsageError: another race is under way there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._running, self._ended = folder, set[subprocess.Popen[str]](), False
        self._turn = threading.Lock()
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise UsageError(f"a race is under way in {folder}", "Wait until it has ended, or end it.") from error

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        os.close(self._lock)

    def stop(self) -> None:
        """End all of them, and start no more."""
        with self._turn:
            self._ended = True
            for process in self._running:
                process.terminate()

    def ask(self, arguments: Sequence[str]) -> str:
        """Standard output of a module of this environment. Raises UsageError with what it says when it fails."""
        code, words, errors = self._run(arguments, subprocess.PIPE, subprocess.PIPE)
        if code:
            raise UsageError(_last(errors))
        return words

    def run(self, arguments: Sequence[str], log: Path, fine: Sequence[int] = (0,)) -> None:
        """Run a module of this environment; its words go to ``log``. Raises G4GError with the last of them."""
        with open(log, "ab") as words:
            start = words.tell()
            code, _, _ = self._run(arguments, words, words)
        if code not in fine:
            said = _last(log.read_bytes()[start:].decode(errors="replace"))
            raise G4GError(said or f"it ended with {code} and said nothing")

    def _run(self, arguments: Sequence[str], out: Any, errors: Any) -> tuple[int, str, str]:
        place = str(Path(__file__).resolve().parents[1])
        paths = os.pathsep.join([place, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        with self._turn:
            if self._ended:
                raise G4GError("the race was stopped")
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=self._folder, env=environment, stdout=out, stderr=errors, text=True,
                pass_fds=(self._lock,),  # the lock is theirs, too: a race that is killed may leave them behind
            )  # fmt: skip
            self._running.add(process)
        try:
            words, said = process.communicate()
        finally:
            self._running.discard(process)
        if self._ended:
            raise G4GError("the race was stopped")
        return process.returncode, words or "", said or ""


def _last(words: str) -> str:
    """The error a program ended with, else its last line, in one line."""
    lines = words.strip().splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    return " ".join(" ".join(lines[errors[-1] if errors else -1 :]).removeprefix("error: ").split())


def _plans(race: Race, entries: Sequence[Entry], programs: Programs) -> dict[str, dict[str, Any]]:
    """What every model would be and learn from, by its own dry run."""
    seeds = dict(reversed(entries))
    print(f"asking {', '.join(seeds)} what they would do", flush=True)

    def plan(entry: Entry) -> dict[str, Any]:
        return dict(json.loads(programs.ask([*race.training(*entry), "--dry-run", "--json"])))

    return dict(zip(seeds, _at_once(race, plan, list(seeds.items()), programs), strict=True))


def train_all(race: Race, entries: Sequence[Entry], programs: Programs) -> dict[Entry, str]:
    """Train whatever is not trained yet, experts first; returns why trainings failed."""

    def outcome(entry: Entry) -> str | None:
        model, seed = entry
        given = [f"expert={race.file(EXPERT, seed)}"] if model in GENERATORS else []
        try:
            train(race, entry, given, programs)
        except G4GError as error:
            print(f"failed: {model}, seed {seed}: {error.what}", flush=True)
            return error.what.replace(str(race.out), race.out.name)
        return None

    experts = [entry for entry in entries if entry[0] == EXPERT]
    first = [entry for entry in entries if entry[0] != EXPERT and entry[0] not in GENERATORS]
    reasons = dict(zip([*experts, *first], _at_once(race, outcome, [*experts, *first], programs), strict=True))
    last = [entry for entry in entries if entry[0] in GENERATORS]
    orphans = {(m, s): f"its expert failed: {reasons[EXPERT, s]}" for m, s in last if reasons[EXPERT, s] is not None}
    last = [entry for entry in last if entry not in orphans]
    reasons |= dict(zip(last, _at_once(race, outcome, last, programs), strict=True))
    return {entry: why for entry, why in {**reasons, **orphans}.items() if why is not None}


def _at_once(race: Race, work: Callable[[Entry], Any], entries: Sequence[Entry], programs: Programs) -> list[Any]:
    """``work`` for every entry, as many at a time as the race has jobs; when one raises, no other begins."""
    with concurrent.futures.ThreadPoolExecutor(race.jobs) as pool:
        try:
            return [done.result() for done in [pool.submit(work, entry) for entry in entries]]
        except BaseException:
            programs.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def train(race: Race, entry: Entry, assignments: Sequence[str], programs: Programs) -> None:
    """Train a model, or go on with it, where it is not done. Raises G4GError with why it failed."""
    (model, seed), folder = entry, race.folder(*entry)
    if race.file(model, seed).exists():
        return
    command = race.training(model, seed)
    for text in assignments:
        command += ["--set", text]
    if (folder / "run.json").exists():
        command.append("--resume")
    folder.parent.mkdir(exist_ok=True)
    now = provenance.code_fingerprint(TRAINED_BY)  # it may have changed since the race began
    storage.write_json(str(folder.with_suffix(".json")), {"code": [*codes_of(race, model, seed), now]})
    print(f"training {model}, seed {seed}", flush=True)
    programs.run(command, race.out / f"{model}-{seed}.log")


# ---------------------------------------------------------------- scoring


def _scorable(race: Race, entries: Sequence[Entry], reasons: dict[Entry, str]) -> list[str]:
    """Models whose checkpoints can be opened; why others cannot goes into ``reasons``."""
    found = []
    for model, seed in entries:
        if model == EXPERT or (model, seed) in reasons:
            continue
        try:
            registry.load(registry.MODELS, model).open(str(race.file(model, seed)))
        except G4GError as error:
            reasons[model, seed] = error.what.replace(str(race.out), race.out.name)
        else:
            found.append(model)
    return found


def scored(
    race: Race, models: Sequence[str], seed: int, splits: str, programs: Programs, *, controls: bool
) -> dict[str, Any]:
    """``summary.json`` of these models, trained with this seed.

    ``g4g-eval run`` keeps outputs by the hashes of checkpoints and prompts: those of another checkpoint are made anew.
    """
    folder = race.out / f"scores-{seed}"
    command = ["-m", "evaluation", "run", "--models", ",".join(models), "--data", race.shards, "--pooled"]
    command += ["--metrics", ",".join(SHOWN)]
    if not controls:
        command.append("--no-controls")  # they are the same for every seed
    command += ["--split", splits, "--out", str(folder), "--workers", str(race.jobs), "--quiet"]
    command.append("--retry-failed")  # what broke in a former try is no property of the model
    for model in models:
        command += ["--checkpoint", f"{model}={race.file(model, seed)}"]
    if race.test is not None:
        command += ["--selection", race.test]
    print(f"scoring {', '.join(models)}, seed {seed}", flush=True)
    programs.run(command, race.out / f"scores-{seed}.log", (ExitCode.OK, ExitCode.SOME_FAILED))
    return dict(json.loads((folder / "summary.json").read_text()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
