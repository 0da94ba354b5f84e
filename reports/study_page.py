"""The page of a blind user study: one offline HTML file, made of a run's outputs, and the key file that unlocks it.

The page holds clips, questions and tokens. What a token stands for is in the key file alone. The same run, options and
seed give the same bytes of both.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from evaluation.models import TRUTH
from evaluation.protocols import CROSS, ON_SHARDS
from evaluation.shots import Shot
from evaluation.study_design import PREFERENCE_QUESTION, SCALES, Study, Trial, key_of, plan_trials, run_identity
from g4g_core import storage
from g4g_core.errors import UsageError
from g4g_core.registry import unknown
from prep.records import FPS
from reports.embedded import script_json
from reports.leaderboard import read_run
from reports.media import in_rounds, stored_shots
from reports.study_media import CLIP_TYPE, ClipMaker, Media
from reports.templating import asset, page_environment

PAGE, KEY = "study.html", "study.json"
SECONDS = 8.0
"""Longest part of a clip that is shown."""

_SECONDS_FROM, _SECONDS_TO = 0.2, 600.0

_SECONDS_A_TRIAL = 12  # of thinking and choosing, besides looking


@dataclasses.dataclass(frozen=True)
class BuiltStudy:
    """What was written.

    Attributes:
        page: for the raters.
        key: for the researcher.
        bytes: of the page.
        minutes: that a rater needs, about.
        left_out: licence by shot of those whose picture or sound may not be passed on.
    """

    page: str
    key: str
    bytes: int
    study: Study
    clips: int
    minutes: int
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        kinds = [trial.is_check for trial in self.study.trials]
        people = {"scored": self.study.people("rating"), "compared": self.study.people("preference")}
        return {
            "page": self.page, "key": self.key, "bytes": self.bytes, "study": self.study.id, "clips": self.clips,
            "minutes": self.minutes, "models": list(self.study.models), "trials": kinds.count(False),
            "checks": kinds.count(True), "people": people, "left_out": dict(self.left_out),
            "facts": dict(self.study.facts),
        }  # fmt: skip


def build_study(
    run: str,
    out: str | None = None,
    *,
    models: Sequence[str] = (),
    clips: int | None = None,
    trials: int = 40,
    seed: int | None = None,
    seconds: float = SECONDS,
    i_may_show_them: bool = False,
    quiet: bool = False,
) -> BuiltStudy:
    """Write ``study.html`` and ``study.json`` of a finished run.

    Args:
        run: a folder made by ``g4g-eval run``.
        out: folder of both files; the run's own by default.
        models: of the run; by default all, without the ground truth where it says other words (``cross``).
        clips: at most so many shots.
        trials: comparisons and scored clips; attention checks are added.
        seed: of the key and of the choice of shots; drawn, and kept in the key file, by default.
        seconds: longest part of a clip that is shown, from 0.2 to 600.
        i_may_show_them: the user answers for showing footage whose licence forbids passing it on.

    Raises:
        UsageError: no such run or model, footage that may not be shown, a data set that has changed, too few trials,
            seconds out of range, or another study in ``out``.
        G4GError: files that cannot be read or written.
    """
    if not _SECONDS_FROM <= seconds <= _SECONDS_TO:  # nor nan
        raise UsageError(f"{seconds:g} s of a clip cannot be shown", "Choose seconds from 0.2 to 600.")
    summary, known, facts = read_run(run)
    out = run if out is None else out
    if storage.exists(storage.join(out, KEY)):
        raise UsageError(
            f"{out} holds a study: answers to its page need its {KEY}",
            "Give another folder with --out, or move the study away.",
        )
    if summary["protocol"] not in ON_SHARDS:
        raise UsageError(f"{run} is a run of {summary['protocol']}", "A study shows runs of g4g-eval run.")
    cross = ON_SHARDS[summary["protocol"]] is CROSS
    chosen = _models(models, [str(model["name"]) for model in facts["models"]], cross)
    shots, speaker = stored_shots(facts, summary, known)
    complete = {k: s for k, s in shots.items() if all(known["shots"][k]["models"][m]["error"] is None for m in chosen)}
    shown, left_out = _allowed(complete, speaker, i_may_show_them)

    seed = secrets.randbits(63) if seed is None else seed
    identity = run_identity(summary, chosen)
    key = key_of(seed, identity, chosen, sorted(shown), clips, trials, seconds)
    identities = {k: s.identity for k, s in _at_most(shown, clips, seed).items()}
    planned = plan_trials(key, chosen, identities, trials, seed)
    photographed = [name for name, shot in shots.items() if i_may_show_them or _free(shot)]
    maker = ClipMaker(run, facts, shots, speaker, photographed, key, round(seconds * FPS))
    media, lengths = maker.media(planned, quiet=quiet)
    planned = [dataclasses.replace(trial, seconds=lengths[trial.shot]) for trial in planned]

    restricted = sorted({str(one.about["licence"]) for trial in planned for one in _held(shots, speaker, trial.shot)})
    study = Study(
        key, chosen, planned,
        {"protocol": summary["protocol"], "split": summary["split"], "run_seed": summary["seed"], "run": identity,
         "data_fingerprint": summary["data"]["fingerprint"], "seconds": seconds, "restricted_licences": restricted},
        seed=seed,
    )  # fmt: skip
    text, study, minutes = render_page(study, media)
    data = text.encode()
    storage.write_json(storage.join(out, KEY), study.to_json())
    storage.write_bytes(storage.join(out, PAGE), data)
    return BuiltStudy(
        storage.join(out, PAGE), storage.join(out, KEY), len(data), study,
        sum(kind == CLIP_TYPE for kind, _ in media.files.values()), minutes,
        {name: str(_held(shots, speaker, name)[0].about["licence"]) for name in left_out},
    )  # fmt: skip


def render_page(study: Study, media: Media) -> tuple[str, Study, int]:
    """The page as text, the study with the page's hash, and the minutes it takes.

    The hash is the SHA-256 of what the page's definition says: trials, questions, hashes of clips and of the program.
    """
    script = asset("study.js")
    looking = sum(trial.seconds * len(trial.clips) + _SECONDS_A_TRIAL for trial in study.trials)
    minutes = max(1, round(looking / 60))
    definition = script_json(
        {
            "study": study.id,
            "seal": study.seal,
            "program": hashlib.sha256(script.encode()).hexdigest(),
            "preference": PREFERENCE_QUESTION,
            "scales": [{"id": name, **dataclasses.asdict(of)} for name, of in SCALES.items()],
            "trials": [_shown(trial, media) for trial in study.trials],
            "media": {
                token: {"type": kind, "sha256": hashlib.sha256(data).hexdigest()}
                for token, (kind, data) in sorted(media.files.items())
            },
        }
    )
    environment = page_environment()
    text = environment.get_template("study.html.j2").render(
        style=Markup(asset("palette.css") + asset("study.css")),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        definition=Markup(definition),
        media=[(token, base64.b64encode(data).decode()) for token, (_, data) in sorted(media.files.items())],
        trials=len(study.trials),
        minutes=minutes,
        restricted=bool(study.facts["restricted_licences"]),
    )
    page = hashlib.sha256(definition.encode()).hexdigest()
    return text, dataclasses.replace(study, page=page), minutes


def _shown(trial: Trial, media: Media) -> dict[str, Any]:
    """A trial as the page knows it: a check that is a comparison looks like any other."""
    ask = {"preference": "pair", "check-look": "pair", "rating": "rate", "check-read": "read"}[trial.kind]
    shown: dict[str, Any] = {"id": trial.token, "ask": ask, "clips": sorted(trial.clips)}
    if ask == "rate":
        shown["picture"] = media.photos[trial.shot]
    if ask == "read":
        shown["choose"] = trial.expected
    return shown


def _models(wanted: Sequence[str], known: Sequence[str], cross: bool) -> list[str]:
    for name in wanted:
        if name not in known:
            raise unknown("model in this run", name, known)
    if cross and TRUTH in wanted:
        raise UsageError(f"{TRUTH} says other words than the models of a cross run", "Leave it out of --models.")
    return [name for name in known if (name in wanted if wanted else not (cross and name == TRUTH))]


def _free(shot: Shot) -> bool:
    return bool(shot.about["redistributable"])


def _held(shots: Mapping[str, Shot], speaker: Mapping[str, Shot], name: str) -> list[Shot]:
    """Those of picture and sound of a shot that may not be passed on."""
    return [one for one in (shots[name], speaker[name]) if not _free(one)]


def _allowed(
    shots: Mapping[str, Shot], speaker: Mapping[str, Shot], i_may_show_them: bool
) -> tuple[dict[str, Shot], list[str]]:
    """The shots that may be shown, and the keys of those that may not. Raises UsageError when none may."""
    left_out = [] if i_may_show_them else sorted(name for name in shots if _held(shots, speaker, name))
    shown = {name: shot for name, shot in shots.items() if name not in left_out}
    if left_out and not shown:
        licences = sorted({str(one.about["licence"]) for name in left_out for one in _held(shots, speaker, name)})
        raise UsageError(
            f"no shot of this run may be passed on, and raters would be handed the footage (licences: "
            f"{'; '.join(licences)})",
            "If you hold the right to show it to your raters, say so with --i-may-show-them: you answer for it.",
        )
    return shown, left_out


def _at_most(shots: Mapping[str, Shot], clips: int | None, seed: int) -> dict[str, Shot]:
    """So many of them, of as many people as that allows."""
    if clips is None or clips >= len(shots):
        return dict(shots)
    order = sorted(shots, key=lambda key: hashlib.sha256(f"{seed} clips {key}".encode()).hexdigest())
    order = in_rounds(order, {key: shot.identity for key, shot in shots.items()})
    return {key: shots[key] for key in sorted(order[:clips])}
