"""Studies without footage, and raters who answer them as the page would write it down."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.study_answers import NEITHER, checksum_of
from evaluation.study_design import SCALES, Study, Trial, left_of, place_in_order, plan_trials

MODELS = ("ground-truth", "alpha", "beta")
SECRET = "5a" * 32
STARTED = 1_760_000_000_000


def study_of(
    models: Sequence[str] = MODELS, *, shots: int = 12, trials: int = 60, seed: int = 0, key: str = SECRET
) -> Study:
    """A study of shots of as many people, two seconds each."""
    found = plan_trials(key, models, {f"shot{n:02d}": f"person{n:02d}" for n in range(shots)}, trials, seed)
    facts = {"protocol": "reconstruction/1", "run": "cd" * 32}
    return Study(key, models, [_lasting(trial, 2.0) for trial in found], facts, "ab" * 32)


def _lasting(trial: Trial, seconds: float) -> Trial:
    return Trial(**{**vars(trial), "seconds": seconds})


class SimulatedRater:
    """Follows Bradley and Terry on the models' merits, and scores 3 + merit with some noise.

    Args:
        merits: by model; the higher the better.
    """

    def __init__(self, code: str, merits: Mapping[str, float], seed: int, *, passes: bool = True) -> None:
        self.code, self._merits, self._passes, self._seed = code, merits, passes, seed

    def content(self, study: Study) -> dict[str, Any]:
        """What the page would write, without the checksum."""
        self._rng = np.random.default_rng(self._seed)
        self._mood = self._rng.normal(0, 0.3)
        order = sorted(study.trials, key=lambda trial: place_in_order(study.id, self.code, trial.token))
        return {
            "schema_version": 1, "kind": "g4g-study-answers", "study": study.id, "page": study.page, "rater": self.code,
            "started": STARTED, "answers": [self._answer(study, trial) for trial in order],
        }  # fmt: skip

    def _answer(self, study: Study, trial: Trial) -> dict[str, Any]:
        answer: dict[str, Any] = {"trial": trial.token, "left": None, "choice": None, "scores": {}}
        answer |= {"ms": int(5000 + 3000 * self._rng.random()), "plays": 2}
        if len(trial.clips) == 2:
            answer |= {
                "left": left_of(study.id, self.code, trial.token, list(trial.clips)),
                "choice": self._choice(trial),
            }
        elif trial.is_check:
            answer["scores"] = {"check": trial.expected if self._passes else 3}
        else:
            (model,) = trial.clips.values()
            scores = 3 + self._merits[model] + self._mood + self._rng.normal(0, 0.7, len(SCALES))
            answer["scores"] = {name: int(np.clip(round(s), 1, 5)) for name, s in zip(SCALES, scores, strict=True)}
        return answer

    def _choice(self, trial: Trial) -> str:
        tokens = sorted(trial.clips)
        if trial.is_check:
            return str(trial.expected) if self._passes else next(token for token in tokens if token != trial.expected)
        if self._rng.random() < 0.1:
            return NEITHER
        gap = self._merits[trial.clips[tokens[0]]] - self._merits[trial.clips[tokens[1]]]
        return tokens[0] if self._rng.random() < 1 / (1 + math.exp(-gap)) else tokens[1]

    def write(self, folder: Path, study: Study, **changes: Any) -> Path:
        """The answers file, with ``changes`` made before it is sealed."""
        return sealed(folder / f"{self.code}.json", {**self.content(study), **changes}, study)


def sealed(path: Path, content: Mapping[str, Any], study: Study) -> Path:
    path.write_text(json.dumps({**content, "checksum": checksum_of(content, study.seal)}), encoding="utf-8")
    return path
