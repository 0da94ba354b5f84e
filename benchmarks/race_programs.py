"""The programs of a race: every training and scoring is a process of its own, as a user would start it.

They end with the race, and no second race begins in a folder while one of them runs.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from baselines.wav2lip.config import EXPERT, GENERATORS
from benchmarks.race_report import SHOWN
from benchmarks.race_rules import Entry, Race, note_start
from g4g_core import registry
from g4g_core.errors import ExitCode, G4GError, UsageError


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


# ---------------------------------------------------------------- training


def plans_of(race: Race, entries: Sequence[Entry], programs: Programs) -> dict[str, dict[str, Any]]:
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
    note_start(folder)
    print(f"training {model}, seed {seed}", flush=True)
    programs.run(command, race.out / f"{model}-{seed}.log")


# ---------------------------------------------------------------- scoring


def scorable(race: Race, entries: Sequence[Entry], reasons: dict[Entry, str]) -> list[str]:
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
