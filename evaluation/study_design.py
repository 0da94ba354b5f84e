"""What raters of a blind study are shown: chosen by a seed, named by tokens, kept in the study's key file.

The page that raters get names nothing but tokens: HMACs under a secret key, which only the key file holds. Every clip
of every trial has a token of its own, so none says that two trials show the same, and attention checks show clips of
models drawn by the key, so that none says which clip is real. Whoever has the page alone cannot tell which model a
clip is of. The key follows from the run, the options and a seed, so a study can be built again; the seed is a secret,
too. The order of the trials, and which clip of a pair stands on the left, follow from the rater's code by a rule that
the page and :mod:`evaluation.study_answers` both know, so that an answers file can be checked against it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from g4g_core import storage
from g4g_core.errors import UsageError

STUDY_SCHEMA_VERSION = 2
STUDY_KIND = "g4g-study"
DAMAGED = ""
"""In place of a model: the other clip of the trial as a coarse mosaic, for attention checks. No model has this name."""

RATED_SHARE = 0.6
"""Of the trials: those with scores; the rest are comparisons."""

_CHECK_EVERY = 10  # trials
_FEWEST_CHECKS = 2
_TO_CHOOSE = (1, 2, 4, 5)  # what a check asks for; the middle is what a careless rater may well choose

TrialKind = Literal["preference", "rating", "check-look", "check-read"]


@dataclasses.dataclass(frozen=True)
class Scale:
    """A question with a score from 1 (``worst``) to 5 (``best``)."""

    question: str
    worst: str
    best: str


SCALES = {
    "sync": Scale("How well do the lips fit the speech?", "not at all", "perfectly"),
    "fidelity": Scale("How real does the picture look, sharpness and flaws considered?", "clearly fake", "real"),
    "identity": Scale("How much does the face look like the person in the photo?", "someone else", "the same person"),
}
PREFERENCE_QUESTION = "Which of the two looks more like a real recording of the person speaking?"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One thing a rater is asked.

    Attributes:
        token: what the page and the answers call it.
        kind: a comparison, scores, a comparison whose answer is plain, or an instruction to be followed.
        shot: key of the shot that is shown.
        identity: the person in it.
        clips: model by token of its clip; two of them in a comparison.
        expected: of a check: the token of the clip, or the score, that passes.
        seconds: a clip lasts.
    """

    token: str
    kind: TrialKind
    shot: str
    identity: str
    clips: Mapping[str, str]
    expected: str | int | None = None
    seconds: float = 0.0

    @property
    def is_check(self) -> bool:
        return self.expected is not None


@dataclasses.dataclass(frozen=True)
class Study:
    """The key file of a study: what every token stands for. It stays with the researcher.

    Attributes:
        key: secret, 32 bytes in hex.
        models: in the order of the run.
        trials: in the order of their tokens.
        facts: of the run: protocol, split, seed, data_fingerprint, its hash (:func:`run_identity`); and of the study:
            seconds, licences.
        page: SHA-256 of what the page shows, see :func:`reports.study_page.render_page`.
        seed: of the key and of the choice of shots.
    """

    key: str
    models: Sequence[str]
    trials: Sequence[Trial]
    facts: Mapping[str, Any]
    page: str = ""
    seed: int = 0

    @property
    def id(self) -> str:
        return token_of(self.key, "study")

    @property
    def seal(self) -> str:
        """What the page's checksums are made with; the page holds it, another study's page does not."""
        return token_of(self.key, "seal", length=64)

    def people(self, kind: TrialKind) -> int:
        """How many people the clips of one kind of trials show."""
        return len({trial.identity for trial in self.trials if trial.kind == kind})

    def to_json(self) -> dict[str, Any]:
        trials = [dataclasses.asdict(trial) for trial in self.trials]
        return {
            "schema_version": STUDY_SCHEMA_VERSION, "kind": STUDY_KIND, "id": self.id, "key": self.key,
            "seed": self.seed, "models": list(self.models), "trials": trials, "facts": dict(self.facts),
            "page": self.page,
        }  # fmt: skip


def read_study(path: str) -> Study:
    """The study of a key file.

    Raises:
        UsageError: it is none, or one of another version.
        StorageError: it cannot be read.
    """
    data = storage.read_json(path)
    if not isinstance(data, dict) or data.get("kind") != STUDY_KIND:
        raise UsageError(f"{path} is no study's key file", "Name the study.json that g4g-eval study build wrote.")
    if data.get("schema_version") != STUDY_SCHEMA_VERSION:
        version = data.get("schema_version")
        raise UsageError(f"{path} has schema version {version}; this program reads {STUDY_SCHEMA_VERSION}")
    try:
        trials = [Trial(**trial) for trial in data["trials"]]
        found = Study(data["key"], data["models"], trials, data["facts"], data["page"], data["seed"])
        _require_whole(found, data["id"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is damaged: {what}", "Restore it from a copy; the page does not hold it.") from error
    return found


def _require_whole(study: Study, known_as: str) -> None:
    """Raise KeyError, TypeError or ValueError where a key file lacks something that answers are read by."""
    if study.id != known_as:
        raise ValueError(f"its key is that of study {study.id}, not of {known_as}")
    if len(study.models) < 2 or not study.trials:
        raise ValueError("it has no models or no trials")
    if not isinstance(study.facts["run"], str):
        raise TypeError("the hash of its run is no text")
    for trial in study.trials:
        float(trial.seconds)
        if trial.kind not in get_args(TrialKind):
            raise ValueError(f"trial {trial.token} is of no known kind")
        expected = {"check-look": trial.clips, "check-read": _TO_CHOOSE}.get(trial.kind, (None,))
        if trial.expected not in expected:
            raise ValueError(f"trial {trial.token} expects {trial.expected!r}")
        if len(trial.clips) != (1 if trial.kind in ("rating", "check-read") else 2):
            raise ValueError(f"trial {trial.token} has {len(trial.clips)} clips")
        if set(trial.clips.values()) - {*study.models, DAMAGED}:
            raise ValueError(f"trial {trial.token} shows a model that the study does not name")


def token_of(key: str, *parts: str, length: int = 16) -> str:
    """Hex HMAC-SHA256 of ``parts`` under the secret ``key`` (RFC 2104)."""
    return hmac.new(bytes.fromhex(key), json.dumps(parts).encode(), hashlib.sha256).hexdigest()[:length]


def run_identity(summary: Mapping[str, Any], models: Sequence[str]) -> str:
    """SHA-256 of what these models of a run (its ``summary.json``) were asked, in hex.

    It does not depend on where the run lies, on its other models, or on what was measured.

    Raises:
        KeyError: the run has no such model.
    """
    facts = {name: summary[name] for name in ("protocol", "split", "seed", "precision")}
    facts["data"] = summary["data"]["fingerprint"]
    facts["models"] = {name: summary["models"][name]["fingerprint"] for name in models}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def key_of(seed: int, *facts: Any) -> str:
    """The secret of a study, 32 bytes in hex: who does not know the seed cannot compute it."""
    return hashlib.sha256(json.dumps(["g4g-study", seed, *facts], sort_keys=True).encode()).hexdigest()


def place_in_order(study: str, rater: str, token: str) -> str:
    """Trials are shown in ascending order of this: hex SHA-256."""
    return hashlib.sha256(f"{study}|{rater}|{token}".encode()).hexdigest()


def left_of(study: str, rater: str, token: str, clips: Sequence[str]) -> str:
    """The clip that a rater is shown on the left: a coin thrown for every rater and trial."""
    first, second = sorted(clips)
    coin = int(hashlib.sha256(f"{study}|{rater}|{token}|left".encode()).hexdigest()[0], 16)
    return first if coin % 2 == 0 else second


def plan_trials(key: str, models: Sequence[str], shots: Mapping[str, str], n_trials: int, seed: int) -> list[Trial]:
    """Comparisons and scores of models on shots, and attention checks among them.

    Scores: every model on the same shots, so that no model has the easier ones. Comparisons: pairs of models in turn,
    each on another shot every time, so that their numbers differ by 1 at most. Shots of people who are not in the
    study yet come first. ``n_trials // 10`` checks are added, at least 2: a clip beside a coarse mosaic of itself, and
    clips at which the page says what to choose, of models drawn by the key.

    Args:
        key: the study's secret.
        models: 2 or more.
        shots: identity by key.
        n_trials: comparisons and scored clips; there are fewer where the shots give no more.
        seed: of the choice.

    Returns:
        Sorted by token; seconds are 0 still.

    Raises:
        UsageError: fewer than 2 models, no shots, or too few trials for a comparison and a score of every model.
    """
    if len(models) < 2:
        raise UsageError(f"a study compares models, and there is only {', '.join(models) or 'none'}", "Name two.")
    if not shots:
        raise UsageError("there is no shot that all of these models have an output for", "Name other models.")
    fewest = 2 * len(models) - 1
    if n_trials < fewest:
        raise UsageError(f"{n_trials} trials are too few for {len(models)} models", f"Ask for {fewest} or more.")
    order = _new_people_first(shots, seed)
    models = sorted(models, key=lambda model: token_of(key, "place", model))  # who has a comparison more says nothing
    pairs = sorted(itertools.combinations(range(len(models)), 2), key=lambda pair: (pair[1] - pair[0], pair))
    rounds = min(len(order), _scored_shots(n_trials, len(models)))
    compared = min(n_trials - rounds * len(models), len(pairs) * len(order))

    planned: list[tuple[TrialKind, str, tuple[str, ...], int | None]] = []
    for shot in order[:rounds]:
        planned += [("rating", shot, (model,), None) for model in models]
    for k in range(compared):
        first, second = pairs[k % len(pairs)]
        shot = order[(k // len(pairs) + k % len(pairs)) % len(order)]
        planned.append(("preference", shot, (models[first], models[second]), None))
    for k in range(max(_FEWEST_CHECKS, len(planned) // _CHECK_EVERY)):
        shot = order[-1 - (k // 2) % len(order)]
        lot = int(token_of(key, "check", str(k)), 16)
        model = models[lot % len(models)]
        if k % 2 == 0:
            planned.append(("check-look", shot, (model, DAMAGED), None))
        else:
            planned.append(("check-read", shot, (model,), _TO_CHOOSE[lot // len(models) % len(_TO_CHOOSE)]))
    trials = [_trial(key, number, shots, *each) for number, each in enumerate(planned)]
    return sorted(trials, key=lambda trial: trial.token)


def _scored_shots(n_trials: int, n_models: int) -> int:
    """Shots of which every model's clip is scored: what is left of the trials for comparisons shall link all models."""
    linked = (n_trials - n_models + 1) // n_models
    return max(1, min(int(RATED_SHARE * n_trials / n_models), linked))


def trials_to_score(shots: int, n_models: int) -> int:
    """The fewest trials of which so many shots are scored."""
    return next(n for n in itertools.count(2 * n_models - 1) if _scored_shots(n, n_models) >= shots)


def _trial(
    key: str, number: int, shots: Mapping[str, str], kind: TrialKind, shot: str, of: Sequence[str], score: int | None
) -> Trial:
    tokens = {model: token_of(key, "clip", str(number), model) for model in of}
    clips = {token: model for model, token in tokens.items()}
    expected = tokens[of[0]] if kind == "check-look" else score
    return Trial(
        token_of(key, "trial", str(number)),
        kind,
        shot,
        shots[shot],
        dict(sorted(clips.items())),
        expected,
    )


def _new_people_first(shots: Mapping[str, str], seed: int) -> list[str]:
    """Shots in an order drawn by the seed: one of every identity, then a second one of each, and so on."""
    drawn = sorted(shots, key=lambda shot: hashlib.sha256(f"{seed} {shot}".encode()).hexdigest())
    turn: dict[str, int] = {}
    seen: dict[str, int] = {}
    for shot in drawn:
        turn[shot] = seen.get(shots[shot], 0)
        seen[shots[shot]] = turn[shot] + 1
    return sorted(drawn, key=lambda shot: turn[shot])
