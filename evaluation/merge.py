"""Runs of the same protocol on the same data as one: all models in one table, compared as if evaluated together."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.cells import CELLS, Cell
from evaluation.compare import read_summary
from evaluation.harness import Plan
from evaluation.metrics import METRICS
from evaluation.models import TRUTH, Model
from evaluation.protocols import ON_SHARDS, VIDEOS_REFERENCE, Protocol, speakers
from evaluation.results import Reason, Results, features_of
from evaluation.run import RUN_FILE, SCORES, SHOTS, SUMMARY, claim, write_run
from evaluation.shots import Shot
from evaluation.summary import POOLED, summarise
from g4g_core import storage
from g4g_core.errors import UsageError

MERGED = "merged"
"""Key of ``run.json`` under which a merged run names its parts."""

_PROTOCOLS = {**ON_SHARDS, VIDEOS_REFERENCE.id: VIDEOS_REFERENCE}
_MUST_AGREE = {
    "protocol": "another protocol asks another question",
    "split": "other clips",
    "seed": "other references, or other pairs of speech and picture",
    "precision": "another version of LSE and FID",
    "on_failure": "failures count differently",
    "judge": "another sync expert judges",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """A run to be merged: its folder, what the merged run calls it, and its files."""

    folder: str
    name: str
    summary: Mapping[str, Any]
    shots: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def models(self) -> list[Model]:
        return [Model.from_json(model) for model in self.facts["models"]]

    @property
    def prompts(self) -> dict[str, Sequence[str]] | None:
        """Digests of the prompts by shot, of shots for which any model answered; ``None``: they were not noted."""
        found: dict[str, Sequence[str]] = {}
        for key, shot in self.shots.items():
            for row in shot["models"].values():
                if "prompts" not in row:
                    return None
                if row["prompts"]:
                    found[key] = row["prompts"]
        return found

    @classmethod
    def read(cls, folder: str, name: str) -> Part:
        """A run's files. Raises UsageError where they are missing or of another schema version."""
        summary = read_summary(storage.join(folder, SUMMARY))
        for file in (SHOTS, RUN_FILE, SCORES):
            if not storage.exists(storage.join(folder, file)):
                raise UsageError(f"{folder} has no {file}", "Evaluate again: what was computed is kept.")
        shots, facts = (storage.read_json(storage.join(folder, file)) for file in (SHOTS, RUN_FILE))
        if MERGED in facts:
            raise UsageError(f"{folder} is itself merged", "Name the runs that it was made of.")
        return cls(folder, name, summary, shots["shots"], facts)


@dataclasses.dataclass(frozen=True)
class MergedResults(Results):
    """Results whose features lie in several runs.

    Attributes:
        places: (folder of the run, name there) by model.
    """

    places: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    def features(self, model: str, shot: Shot, name: str) -> np.ndarray | None:
        folder, own_name = self.places[model]
        return features_of(Cell(folder, own_name, shot.key), name)


def merge_runs(folders: Sequence[str], out: str) -> dict[str, Any]:
    """Write a run that holds the models of several, with means, tests and ranks computed anew over all of them.

    A model of the same fingerprint in several runs counts once, under its first name; one of the same name and another
    fingerprint gets its run's name behind its own. Metrics that not every run has measured become columns with that
    reason. What is said of a metric is what its runs measured, not what this version of the program would. A run that
    adds no model to those before it is no part of the merged one.

    Args:
        folders: of runs by ``g4g-eval run`` or ``score --reference``.
        out: folder of the merged run; made, or one that holds a merged run.

    Returns:
        The merged ``summary.json``.

    Raises:
        UsageError: runs whose numbers cannot stand in one table, with the reason.
    """
    for folder, again in itertools.combinations(folders, 2):
        if os.path.realpath(folder) == os.path.realpath(again):
            raise UsageError(f"{folder} and {again} are one run", "Name it once.")
    parts = [Part.read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    for one, other in itertools.combinations(parts, 2):
        _refuse_unlike(one, other)
    protocol = _PROTOCOLS.get(parts[0].summary["protocol"])
    if protocol is None:
        raise UsageError(
            f"runs of {parts[0].summary['protocol']} cannot be merged", "Each of them is on footage of its own."
        )
    places = _places(parts)
    adding = {folder for folder, _ in places.values()}
    parts = [part for part in parts if os.path.abspath(part.folder) in adding]
    if len(parts) == 1:
        alone = parts[0].folder
        raise UsageError(f"{alone} holds all models of the others", f"Show it: g4g-eval report {alone}")
    results = _results(parts, protocol, places, os.path.abspath(out))
    if not set(results.plan.metrics).difference(results.plan.unavailable):
        raise UsageError(
            f"no metric is measured in all of {', '.join(part.folder for part in parts)}",
            "Evaluate them with the same --metrics into the same folders: what was computed is kept.",
        )
    _claim_merged(out)
    first = parts[0].summary
    summary = summarise(
        results, on_failure=first["on_failure"], pooled=any(POOLED in part.summary["tables"] for part in parts),
        precision=first["precision"], split=first["split"],
    )  # fmt: skip
    if summary["prompts"] is None:  # runs of an earlier version note one digest only
        summary["prompts"] = next((part.summary["prompts"] for part in parts if part.summary["prompts"]), None)
    summary["judge"] = first["judge"]
    summary["metrics"] = {name: _as_measured(name, about, parts) for name, about in summary["metrics"].items()}
    made_of = [
        {
            "run": os.path.abspath(part.folder),
            "name": part.name,
            "models": {name: own for name, (folder, own) in places.items() if folder == os.path.abspath(part.folder)},
            "called": _called(part, parts, places),
            "settings": part.facts.get("settings", {}),
            "environment": part.facts["environment"],
        }
        for part in parts
    ]
    facts = {name: summary[name] for name in ("protocol", "split", "seed", "precision", "on_failure", "judge")}
    of_data = ("built_by", "selected_by", "leaks", "about", "judge_met")  # the same for all parts, as their data are
    facts |= {name: parts[0].facts.get(name) for name in ("timeout", *of_data)}
    facts |= {"settings": {}, MERGED: made_of}
    write_run(out, results.plan, results, summary, facts)
    return summary


def numbered(name: str) -> Iterator[str]:
    """The name, then the same with 2, 3, ... behind it."""
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def _names(folders: Sequence[str]) -> list[str]:
    """What folders are called without their place, which is nobody's business; numbered where several share a name."""
    names: list[str] = []
    for folder in folders:
        names.append(next(name for name in numbered(os.path.basename(os.path.abspath(folder))) if name not in names))
    return names


def _as_measured(name: str, about: Mapping[str, Any], parts: Sequence[Part]) -> dict[str, Any]:
    """What the runs say of a metric, which they agree on; and why it is not in the tables, if it is not."""
    own = next(part.summary["metrics"][name] for part in parts if name in part.summary["metrics"])
    return {**own, "unavailable": about["unavailable"]}


def place_of(run: str, facts: Mapping[str, Any], model: str) -> tuple[str, str]:
    """(folder, name there) of a model's cells and outputs, for a run's ``run.json``, merged or not."""
    for part in facts.get(MERGED, ()):
        if model in part["models"]:
            return part["run"], part["models"][model]
    return run, model


def _refuse_unlike(first: Part, other: Part) -> None:
    """Raise UsageError where the numbers of two runs cannot stand in one table."""
    for name, why in _MUST_AGREE.items():
        one, two = first.summary[name], other.summary[name]
        if one != two:
            raise UsageError(
                f"{first.folder} and {other.folder} differ in {name} ({one} and {two}): {why}", "Evaluate both alike."
            )
    if first.summary["data"]["fingerprint"] != other.summary["data"]["fingerprint"]:
        prints = [{key: shot["fingerprint"] for key, shot in part.shots.items()} for part in (first, other)]
        common = sum(prints[1].get(key) == value for key, value in prints[0].items())
        raise UsageError(
            f"{first.folder} and {other.folder} are of other data: {len(prints[0])} and {len(prints[1])} shots, "
            f"{common} of them the same",
            "Evaluate both on one data set with the same --split, --selection and --limit.",
        )
    if not _prompted_alike(first, other):
        raise UsageError(f"{first.folder} and {other.folder} prompted their models differently", "Evaluate both again.")
    for metric in first.summary["metrics"].keys() & other.summary["metrics"].keys():
        one, two = (part.summary["metrics"][metric] for part in (first, other))
        for name, what in (("version", "version"), ("weights_sha256", "weights")):
            if one[name] != two[name]:
                raise UsageError(
                    f"{metric} has other {what} in {first.folder} than in {other.folder}", "Evaluate both again."
                )


def _prompted_alike(first: Part, other: Part) -> bool:
    """Shot by shot, for a shot on which all models of a run failed tells nothing of what they were asked."""
    asked = [part.prompts for part in (first, other)]
    if asked[0] is None or asked[1] is None:  # noted as one digest only, by an earlier version
        digests = [part.summary["prompts"] for part in (first, other)]
        return None in digests or digests[0] == digests[1]
    return all(asked[1].get(key, digests) == digests for key, digests in asked[0].items())


def _claim_merged(out: str) -> None:
    place = os.path.join(out, RUN_FILE)
    if os.path.exists(place) and MERGED not in storage.read_json(place):
        raise UsageError(f"{out} holds a run of its own", "Give the merged one another folder: --out.")
    claim(out, {MERGED: []})


def _places(parts: Sequence[Part]) -> dict[str, tuple[str, str]]:
    """(folder, name there) by the name in the merged run; the ground truth first."""
    found: dict[str, tuple[str, str]] = {}
    known: set[tuple[str, str, str]] = set()
    for part in parts:
        new = [model for model in part.models if not model.fingerprint or _same(model) not in known]
        for model in new:  # of one run all: who evaluates a model under two names wants two rows
            name = model.name
            if name in found:
                name = next(free for free in numbered(f"{name} ({part.name})") if free not in found)
            found[name] = (os.path.abspath(part.folder), model.name)
        known |= {_same(model) for model in new}
    return dict(sorted(found.items(), key=lambda item: item[0] != TRUTH))


def _called(part: Part, parts: Sequence[Part], places: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Names in the merged run of all models of a part, those too whose numbers are another part's, by its own names."""
    by_folder = {os.path.abspath(other.folder): {model.name: model for model in other.models} for other in parts}
    merged = {name: by_folder[folder][own] for name, (folder, own) in places.items()}
    own = {own: name for name, (folder, own) in places.items() if folder == os.path.abspath(part.folder)}
    for model in part.models:
        if model.name not in own:
            own[model.name] = next(name for name, other in merged.items() if _same(other) == _same(model))
    return own


def _same(model: Model) -> tuple[str, str, str]:
    """What two models have in common that give the same pictures, whatever they are called."""
    return model.kind, model.target if model.kind == "generator" else "", model.fingerprint


def _results(
    parts: Sequence[Part], protocol: Protocol, places: Mapping[str, tuple[str, str]], out: str
) -> MergedResults:
    by_folder = {os.path.abspath(part.folder): part for part in parts}
    shots = [_shot(key, facts, parts[0].summary["split"]) for key, facts in parts[0].shots.items()]
    metrics, unavailable = _metrics(parts)
    models = []
    for name, (folder, own) in places.items():
        model = next(model for model in by_folder[folder].models if model.name == own)
        models.append(dataclasses.replace(model, name=name))
    by_key = {shot.key: shot for shot in shots}
    pairs, _ = speakers(protocol, shots, parts[0].summary["seed"])
    plan = Plan(
        root=parts[0].facts["data"], run=out, protocol=protocol, seed=parts[0].summary["seed"], timeout=0.0,
        models=models, shots=shots, excluded=parts[0].summary["data"]["excluded"],
        speaker={key: by_key[other] for key, other in pairs.items()}, measures=[], metrics=metrics,
        unavailable=unavailable, precision=parts[0].summary["precision"], dubbing={}, videos=None,
    )  # fmt: skip
    scores = {folder: _scores(part) for folder, part in by_folder.items()}
    failed: dict[tuple[str, str], Reason] = {}
    values: dict[tuple[str, str, str], float] = {}
    missing: dict[tuple[str, str, str], Reason] = {}
    curves, flags, prompts = {}, {}, {}
    for name, (folder, own) in places.items():
        for key in by_key:
            row = by_folder[folder].shots[key]["models"][own]
            if row.get("prompts"):
                prompts[name, key] = row["prompts"]
            if row["error"]:
                failed[name, key] = (row["error"][0], row["error"][1])
                continue
            curves[name, key], flags[name, key] = row["curves"], row["flags"]
            for metric in metrics:
                value, why = scores[folder].get((metric, own, key), (None, None))
                if metric in unavailable:
                    continue
                if value is not None:
                    values[metric, name, key] = value
                elif why is not None:
                    missing[metric, name, key] = why
    return MergedResults(plan, failed, values, missing, curves, flags, prompts, places)


def _shot(key: str, facts: Mapping[str, Any], split: str) -> Shot:
    """A shot as ``shots.json`` knows it: without its place in the shards, which statistics do not ask for."""
    return Shot(
        key=key, source=facts["source"], clip=facts["clip"], identity=facts["identity"], split=split, shard="",
        shard_sha256="", segments=((key, 0, facts["frames"]),), size=0, fingerprint=facts["fingerprint"],
        about=facts["about"],
    )  # fmt: skip


def _metrics(parts: Sequence[Part]) -> tuple[list[str], dict[str, str]]:
    """Ids of the metrics that any part has, and why some of them are not available for all models."""
    wanted = [name for name in METRICS if any(name in part.summary["metrics"] for part in parts)]
    unavailable: dict[str, str] = {}
    for name in wanted:
        for part in parts:
            about = part.summary["metrics"].get(name)
            if about is None:
                unavailable[name] = f"not measured in {part.name}"
            elif about["unavailable"]:
                unavailable[name] = about["unavailable"]
            elif METRICS[name].kind == "set" and about["version"] != METRICS[name].version:
                unavailable[name] = f"version {about['version']} was measured; here it is {METRICS[name].version}"
            elif METRICS[name].kind == "set" and not os.path.isdir(os.path.join(part.folder, CELLS)):
                unavailable[name] = f"the features of {part.name} are not there (its folder {CELLS})"
    return wanted, unavailable


def _scores(part: Part) -> dict[tuple[str, str, str], tuple[float | None, Reason | None]]:
    """Value, or (code, detail) of a missing one, by (metric, model, shot)."""
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(storage.read_bytes(storage.join(part.folder, SCORES))))
    return {
        (row["metric"], row["model"], row["shot"]): (
            row["value"],
            (row["error"], row["detail"] or "") if row["error"] else None,
        )
        for row in table.to_pylist()
    }
