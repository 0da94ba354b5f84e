"""Runs of made-up numbers, summarised and written by the code that summarises and writes real ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.harness import Plan
from evaluation.metrics import METRICS
from evaluation.models import TRUTH, Model
from evaluation.protocols import ON_SHARDS, RECONSTRUCTION, Protocol
from evaluation.results import Results
from evaluation.run import write_run
from evaluation.shots import Shot
from evaluation.study_results import RESULTS_KIND
from evaluation.summary import summarise
from g4g_core.protocols import Training
from reports.opinions import identity_of

LPIPS = {name: "needs the weights lpips-alex: g4g-eval weights fetch lpips-alex" for name in METRICS if "lpips" in name}
SETS = {name: "left out" for name, metric in METRICS.items() if metric.kind == "set"}
GROUND_TRUTH = Model(TRUTH, "truth", "", fingerprint="truth/1")


def model(name: str, **facts: Any) -> Model:
    return Model(name, "generator", name, **{"fingerprint": f"print of {name}", **facts})


def training(**fields: Any) -> dict[str, Any]:
    """What ``run.json`` says of a training; ``met``: how many of the people shown it learned from."""
    command = "g4g-model train --model alpha --preset tiny --shards DATA --steps 200 --seed 0 --out RUNS/alpha"
    known = Training(
        "g4g-model train", "ab" * 32, 200, 0, 3, 5, splits=("train",), selected=False, samples=39, identities=24,
        minutes=1.89, footage_sha256="cd" * 32, command=command,
    )  # fmt: skip
    met = fields.pop("met", None)
    return {**dataclasses.asdict(dataclasses.replace(known, **fields)), "met": met}


def shot(number: int, source: str = "lrs2", identity: str | None = None) -> Shot:
    who = identity if identity is not None else f"person{number:04d}"
    about = {
        "licence": f"licence of {source}", "redistributable": False, "shot": 0, "yaw_max_abs": 3.0 + number % 7,
        "face_px": 90.0 + number, "brightness": 100.0 + number, "duration": 4.0 + number / 10, "text": "words spoken",
    }  # fmt: skip
    clip = f"clip{number:04d}"
    key = f"{source}-{clip}-000"
    return Shot(key, source, clip, who, "test", "test-00000", "sha", ((key, 0, 100),), 256, f"print {key}", about)


@dataclasses.dataclass(frozen=True)
class MadeUp(Results):
    """Results whose features are drawn, not read."""

    def features(self, model: str, shot: Shot, name: str) -> np.ndarray | None:
        if (model, shot.key) in self.failed:
            return None
        rng = np.random.default_rng([len(model), int(shot.clip[4:])])
        return rng.normal(len(model) % 5, 1.0, (20, 8)).astype(np.float32)


def write_synthetic_run(
    out: Path,
    models: Sequence[Model],
    shots: Sequence[Shot],
    *,
    failed: Mapping[tuple[str, str], tuple[str, str]] | None = None,
    unavailable: Mapping[str, str] | None = None,
    metrics: Sequence[str] = tuple(METRICS),
    protocol: Protocol = RECONSTRUCTION,
    effect: float = 0.0,
    pooled: bool = False,
    on_failure: str = "drop-everywhere",
    settings: Mapping[str, Any] | None = None,
    root: str = "/home/somebody/shards",
    frame_curves: bool = False,
) -> dict[str, Any]:
    """Write a run's files; ``effect`` makes every model better than the one before by so many standard deviations."""
    failed, unavailable = dict(failed or {}), dict(unavailable or {})
    plan = Plan(
        root=root, run=str(out), protocol=protocol, seed=0, timeout=1.0, models=models, shots=shots,
        excluded={}, speaker={s.key: s for s in shots}, measures=[], metrics=list(metrics), unavailable=unavailable,
        precision="fp32", dubbing={}, videos=None,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    values: dict[tuple[str, str, str], float] = {}
    missing: dict[tuple[str, str, str], tuple[str, str]] = {}
    curves: dict[tuple[str, str], dict[str, list[float | None]]] = {}
    for place, one in enumerate(models):
        for each in shots:
            if (one.name, each.key) in failed:
                continue
            for name in metrics:
                about = METRICS[name]
                if name in unavailable or about.kind == "set":
                    continue
                if about.full_reference and one.name == TRUTH:
                    missing[name, one.name, each.key] = ("identical", "compared with itself")
                else:
                    values[name, one.name, each.key] = _value(rng, about.better, effect * place)
            curve = 1.3 + 0.05 * rng.normal(size=31)
            curves[one.name, each.key] = {"judge": [round(float(v), 4) for v in curve]}
            if frame_curves:
                frames = 1.2 + 0.1 * np.random.default_rng(place).normal(size=each.n_frames - 4)
                by_frame = [None, None, *(round(float(v), 4) for v in frames), None, None]
                curves[one.name, each.key]["judge_frames"] = by_frame
            if "lse_d@crop1" not in unavailable:
                curves[one.name, each.key]["lse"] = [round(float(v), 4) for v in 10 * curve]
    prompted = [(one.name, each.key) for one in models if one.kind == "generator" for each in shots]
    prompts = {place: [f"prompt of {place[1]}"] for place in prompted if protocol.id in ON_SHARDS}
    results = MadeUp(plan, failed, values, missing, curves, {}, prompts)
    summary = summarise(results, on_failure=on_failure, pooled=pooled, precision="fp32", split="test")
    write_run(str(out), plan, results, summary, {"settings": dict(settings or {}), "seconds": 12.3})
    return summary


def _value(rng: np.random.Generator, better: str | float | None, shift: float) -> float:
    noise = float(rng.normal())
    if better == 0.0:
        return float(np.clip(round(3 * noise), -15, 15))
    if isinstance(better, float):
        return round(better + 0.1 * noise + 0.2 * (5 - shift), 6)
    return round(10 + noise + (shift if better == "higher" else -shift), 6)


def study_results(models: list[str], run: Path) -> dict[str, Any]:
    """As ``study collect`` writes them of a run, of made-up numbers."""
    sure = {"low": 3.1, "high": 3.9, "raters_low": 3.1, "raters_high": 3.9, "n": 40, "raters": 11, "identities": 8}
    opinion = {"models": {name: {"mean": 3.5, **sure, "few": True, "rank": 1} for name in models}, "pairs": []}
    strength = {"strength": 0.4, **sure, "chance": 0.6, "chance_low": 0.52, "chance_high": 0.68, "few": True, "rank": 1}
    return {
        "schema_version": 1, "kind": RESULTS_KIND, "study": "abc", "page": "p", "models": models,
        "facts": {"run": identity_of(str(run), models)},
        "questions": {name: f"about {name}?" for name in ("sync", "fidelity", "identity", "preference")},
        "trials": {"preference": 8, "rating": 8, "checks": 2}, "shots": 12, "identities": 8,
        "raters": {"counted": ["r1", "r2"], "excluded": [{"rater": "r3", "file": "c", "reasons": ["too fast"]}],
                   "refused": [{"file": "<b>d", "reason": "edited"}]},
        "opinion": {"fidelity": opinion, "sync": opinion, "identity": {"models": {}, "pairs": []}},
        "preference": {"models": {name: {**strength, "won": 9, "tied": 1, "lost": 3} for name in models}, "pairs": []},
        "agreement": {name: {"alpha": 0.61, "units": 9} for name in ("sync", "fidelity", "preference")}
        | {"identity": {"alpha": None, "units": 0}},
    }  # fmt: skip
