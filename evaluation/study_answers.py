"""Answers of raters: read, checked against the study they are about, and refused with a reason if they do not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic

from evaluation.study import Rating
from evaluation.study_design import SCALES, Study, Trial, left_of, place_in_order
from evaluation.study_preference import Choice
from evaluation.study_raters import Conduct
from g4g_core import storage
from g4g_core.errors import StorageError

ANSWERS_KIND = "g4g-study-answers"
NEITHER = "same"
"""In place of a clip: no difference is seen."""

_LARGEST_FILE = 10_000_000
_LONGEST_REASON = 200

RATER_CODE = r"^[A-Za-z0-9_-]{1,32}$"

Token = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{1,64}$")]
Score = Annotated[int, pydantic.Field(ge=1, le=5)]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)


class Answer(_Strict):
    """What a rater said in one trial.

    Attributes:
        trial: its token.
        left: the clip shown on the left, of a comparison.
        choice: the clip that was preferred, or :data:`NEITHER`; of a comparison.
        scores: by scale (``check`` for an instruction).
        ms: how long the trial was on the screen, milliseconds.
        plays: how often clips of it were started.
    """

    trial: Token
    left: Token | None
    choice: Token | Literal["same"] | None
    scores: dict[str, Score]
    ms: Annotated[int, pydantic.Field(ge=0, le=2**53)]
    plays: Annotated[int, pydantic.Field(ge=0, le=2**53)]


class Answers(_Strict):
    """An answers file, without its checksum.

    Attributes:
        study: id of the study.
        page: SHA-256 of what the page showed.
        rater: the code that the rater typed.
        started: when, milliseconds since 1970.
        answers: in the order given.
    """

    schema_version: Literal[1]
    kind: Literal["g4g-study-answers"]
    study: Token
    page: Token
    rater: Annotated[str, pydantic.Field(pattern=RATER_CODE)]
    started: Annotated[int, pydantic.Field(ge=0, le=2**53)]
    answers: list[Answer]


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A file that does not count, and why.

    What the file says stands in ``reason``; it may be anything, and reaches terminals and pages: characters that cannot
    be seen are written as escapes, and no more than 200 characters are kept.

    Attributes:
        file: its name without its folder.
        reason: in a line.
    """

    file: str
    reason: str

    def __post_init__(self) -> None:
        shown = printable(self.reason)
        object.__setattr__(self, "file", printable(self.file))
        object.__setattr__(
            self, "reason", shown if len(shown) <= _LONGEST_REASON else shown[: _LONGEST_REASON - 1] + "…"
        )


@dataclasses.dataclass(frozen=True)
class Submission:
    """A file that fits the study; ``file`` is its name without its folder, as :func:`printable` writes it."""

    file: str
    checksum: str
    answers: Answers


def printable(text: str) -> str:
    r"""``text`` with characters that cannot be seen (controls, turned directions, broken Unicode) as ``\x1b``."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def checksum_of(content: Mapping[str, Any], seal: str) -> str:
    """Hex HMAC-SHA256 under ``seal`` of the content as JSON with sorted keys and no blanks.

    The page must hold the seal, so this finds files that were edited, mixed up or cut; it is no proof against someone
    who takes the page's program apart.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(bytes.fromhex(seal), text.encode(), hashlib.sha256).hexdigest()


def read_submissions(files: Sequence[str], study: Study) -> tuple[list[Submission], list[Refusal]]:
    """Files that fit the study, and those that do not, with their reasons.

    Of several files of one rater the first begun counts: what is done again has been seen before. Codes that differ in
    small and capital letters alone are one rater's. In which order the files are named changes nothing.
    """
    read: list[Submission] = []
    refused: list[Refusal] = []
    for path in sorted(files, key=lambda path: (_name(path), path)):
        found = read_submission(path, study)
        if isinstance(found, Refusal):
            refused.append(found)
        else:
            read.append(found)
    kept: dict[str, Submission] = {}
    for one in sorted(read, key=lambda one: (one.answers.started, one.checksum, one.file)):
        former = kept.setdefault(one.answers.rater.casefold(), one)
        if former is one:
            continue
        if former.checksum == one.checksum:
            refused.append(Refusal(one.file, f"duplicate: the same answers as {former.file}"))
        else:
            spelt = "" if former.answers.rater == one.answers.rater else f" as {former.answers.rater}"
            reason = f"duplicate: rater {one.answers.rater} had answered before{spelt}, in {former.file}"
            refused.append(Refusal(one.file, reason))
    return sorted(kept.values(), key=lambda one: one.answers.rater), sorted(refused, key=lambda one: one.file)


def read_submission(path: str, study: Study) -> Submission | Refusal:
    """One file, or why it does not fit the study."""
    name = _name(path)
    try:
        if storage.size(path) > _LARGEST_FILE:
            return Refusal(name, "unreadable: too large for an answers file")
        data = json.loads(storage.read_bytes(path))
    except (StorageError, ValueError, RecursionError) as error:
        why = error.what.replace(path, name) if isinstance(error, StorageError) else "not a JSON file"
        return Refusal(name, f"unreadable: {why}")
    if not isinstance(data, dict) or data.get("kind") != ANSWERS_KIND:
        return Refusal(name, "unreadable: not an answers file of g4g-eval study")
    content = {key: value for key, value in data.items() if key != "checksum"}
    try:
        answers = Answers.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        return Refusal(name, f"malformed: {'.'.join(map(str, first['loc']))}: {first['msg']}")
    except UnicodeError:
        return Refusal(name, "malformed: text that is no Unicode")
    if answers.study != study.id:
        return Refusal(name, f"another study: answers of {answers.study}, the key file is of {study.id}")
    checksum = data.get("checksum")
    if not isinstance(checksum, str) or not hmac.compare_digest(
        checksum.encode("utf-8", "replace"), checksum_of(content, study.seal).encode()
    ):
        return Refusal(name, "tampered: the checksum does not fit the answers")
    if answers.page != study.page:
        return Refusal(name, "tampered: the page that was answered is not the one that was built")
    wrong = _misfit(answers, study)
    return Submission(printable(name), checksum, answers) if wrong is None else Refusal(name, wrong)


def _name(path: str) -> str:
    """Of a file or folder: where it lies is nobody's business who reads the results."""
    return os.path.basename(path.rstrip("/")) or "/"


def _misfit(answers: Answers, study: Study) -> str | None:
    """Why answers with a right checksum cannot have come from the page; ``None`` where they can."""
    trials = {trial.token: trial for trial in study.trials}
    given = [answer.trial for answer in answers.answers]
    unknown = [token for token in given if token not in trials]
    if unknown:
        return f"tampered: {unknown[0]} is no trial of this study"
    if len(set(given)) < len(given):
        return "tampered: a trial is answered twice"
    if len(given) < len(trials):
        return f"incomplete: {len(given)} of {len(trials)} trials are answered"
    if given != sorted(given, key=lambda token: place_in_order(study.id, answers.rater, token)):
        return "tampered: the trials are not in the order that this rater was shown"
    for answer in answers.answers:
        trial = trials[answer.trial]
        if len(trial.clips) == 2:
            left = left_of(study.id, answers.rater, trial.token, list(trial.clips))
            fits = answer.left == left and not answer.scores and answer.choice in (*trial.clips, NEITHER)
        else:
            asked = {"check"} if trial.is_check else set(SCALES)
            fits = answer.left is None and answer.choice is None and set(answer.scores) == asked
        if not fits:
            return f"tampered: trial {trial.token} cannot be answered like this"
    return None


def conduct_of(submission: Submission, study: Study) -> Conduct:
    """How the rater went about it."""
    trials = {trial.token: trial for trial in study.trials}
    pairs = [(trials[answer.trial], answer) for answer in submission.answers.answers]
    return Conduct(
        checks=[_passed(trial, answer) for trial, answer in pairs if trial.is_check],
        hurried=[answer.ms < 1000 * trial.seconds for trial, answer in pairs],
        scores=[score for trial, answer in pairs if not trial.is_check for score in answer.scores.values()],
        sides=[
            "left" if answer.choice == answer.left else "right"
            for trial, answer in pairs
            if trial.kind == "preference" and answer.choice != NEITHER
        ],
    )


def _passed(trial: Trial, answer: Answer) -> bool:
    return trial.expected == (answer.choice if trial.kind == "check-look" else answer.scores["check"])


def ratings_of(submission: Submission, study: Study) -> list[Rating]:
    """All scores but those of checks."""
    trials = {trial.token: trial for trial in study.trials if trial.kind == "rating"}
    return [
        Rating(submission.answers.rater, scale, model, trial.shot, trial.identity, score)
        for answer in submission.answers.answers
        if (trial := trials.get(answer.trial)) is not None
        for model in trial.clips.values()
        for scale, score in sorted(answer.scores.items())
    ]


def choices_of(submission: Submission, study: Study) -> list[Choice]:
    """All comparisons but those of checks; ``first`` is the model that comes first in the study."""
    found = []
    trials = {trial.token: trial for trial in study.trials if trial.kind == "preference"}
    for answer in submission.answers.answers:
        trial = trials.get(answer.trial)
        if trial is None:
            continue
        first, second = sorted(trial.clips.values(), key=list(study.models).index)
        preferred = trial.clips.get(str(answer.choice))
        outcome = 0.5 if preferred is None else float(preferred == first)
        found.append(Choice(submission.answers.rater, first, second, trial.shot, trial.identity, outcome))
    return found
