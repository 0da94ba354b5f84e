"""The rules of a race: what all contestants share, and what is refused because it would make the race unfair.

Refused are other frames or samples for one contestant, people who are learned from and tested on, another race in the
same folder, and runs begun with other data, settings, expert, torch or code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from baselines.wav2lip.config import EXPERT, GENERATORS
from evaluation.shots import shots_of
from g4g_core import provenance, storage
from g4g_core.errors import DatasetError, UsageError
from g4g_core.registry import unknown
from g4g_core.runs import FREE, checkpoints
from prep.shards.index import Dataset, read_selection

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


# ---------------------------------------------------------------- the same for all


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


def people_apart(race: Race) -> tuple[str, str]:
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


# ---------------------------------------------------------------- what may be taken again


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
    return list(_journal(race.folder(model, seed)).get("code", ()))


def starts_of(folder: Path) -> list[int]:
    """Steps that were done at every start of the training in ``folder``, as noted beside it."""
    return list(_journal(folder).get("starts", ()))


def note_start(folder: Path) -> None:
    """Note beside the folder of a training that it is about to begin, or to be resumed; see the two above."""
    journal = _journal(folder)
    code = provenance.code_fingerprint(TRAINED_BY)  # it may have changed since the race began
    noted = {
        "code": [*journal.get("code", ()), code],
        "starts": [*journal.get("starts", ()), max(checkpoints(folder), default=0)],
    }
    storage.write_json(str(folder.with_suffix(".json")), noted)


def _journal(folder: Path) -> dict[str, Any]:
    place = folder.with_suffix(".json")
    return dict(storage.read_json(str(place))) if place.exists() else {}
