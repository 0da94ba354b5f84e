"""The rows of a table: which models are evaluated, and what is known of each before it runs."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from evaluation.shots import Shot
from g4g_core import registry, weights
from g4g_core.errors import UsageError
from g4g_core.lineage import people
from g4g_core.protocols import Marked, Training
from g4g_core.provenance import file_sha256
from g4g_core.registry import unknown

if TYPE_CHECKING:
    from evaluation.metrics.base import Metric

TRUTH = "ground-truth"
SHUFFLED = "shuffled"
CONTROLS = ("still", SHUFFLED)

Kind = Literal["truth", "shuffled", "generator", "external", "precomputed", "recut"]

JUDGED = "trained against the judge"
"""Mark of a model that the judge's metrics show and never rank; other networks that measure have theirs."""

MET = "of these people"
"""How the mark of a model ends that learned from people whom it is shown here."""

_CONTROL_VERSIONS = {"truth": "truth/1", "shuffled": "shuffled/1"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._()+-]{0,63}")
_UNGUARDED = ("external", "precomputed")


@dataclasses.dataclass(frozen=True)
class Model:
    """One row.

    Attributes:
        name: as tables show it; unique in a run.
        kind: where its pictures come from; ``recut``: finished videos of whole frames, cut like the clip itself.
        target: of a generator its registered name, of a packaged adapter its name, else the path of the YAML file or of
            the folder.
        checkpoint: of a generator, or ``None``.
        fingerprint: what its outputs depend on, besides the prompts; of finished videos "", they are hashed one by one.
        marks: shown beside its name: ``tiny``, ``unguarded``, ``perception: off`` ...
        judged_by_its_teacher: the embedded judge drove its training, so the judge's metrics rank it nowhere.
        taught_by: names in the weights registry of networks that drove its training and that metrics measure with.
        footage: roots of the original videos by source ("" for all others), for a program that wants whole frames.
        training: fields of :class:`g4g_core.protocols.Training`, of a generator that knows it; ``met`` instead of
            ``people``: how many of those that are shown here it learned from, ``None`` where that is not known.
    """

    name: str
    kind: Kind
    target: str
    checkpoint: str | None = None
    fingerprint: str = ""
    marks: tuple[str, ...] = ()
    judged_by_its_teacher: bool = False
    taught_by: tuple[str, ...] = ()
    footage: Mapping[str, str] = dataclasses.field(default_factory=dict)
    training: Mapping[str, Any] | None = None

    def footage_of(self, source: str) -> str | None:
        """The root under which a source's videos lie, where this model is given them."""
        return self.footage.get(source, self.footage.get(""))

    def is_taught_by(self, metric: Metric) -> bool:
        """Whether the network that measures has driven its training: then the metric ranks it nowhere."""
        own = metric.by_judge and self.judged_by_its_teacher
        return own or not set(self.taught_by).isdisjoint(metric.weights)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Model:
        return cls(**{**data, "marks": tuple(data["marks"]), "taught_by": tuple(data.get("taught_by", ()))})

    @property
    def is_control(self) -> bool:
        return self.kind in ("truth", "shuffled") or (self.kind == "generator" and self.target == "still")


def models_of(
    names: Sequence[str],
    checkpoints: Mapping[str, str] | None = None,
    footage: Mapping[str, str] | None = None,
    *,
    controls: bool = False,
    identities: Collection[str] | None = None,
) -> list[Model]:
    """The models that the user named, the ground truth first.

    Args:
        names: registered names, ``shuffled``, ``ground-truth``, ``NAME=external:YAML``, ``NAME=external:ADAPTER``,
            ``NAME=precomputed:DIR``, or ``NAME=REGISTERED`` to show a registered model under a name of its own (two
            checkpoints of one model).
        checkpoints: path of a checkpoint by name.
        footage: see :attr:`Model.footage`.
        controls: add ``still`` and ``shuffled`` where they are not named.
        identities: who is shown, by the names that a data set gives them; a model that learned from one is marked.

    Raises:
        UsageError: an unknown or doubled name, a checkpoint for nobody, or a model that lacks the one it needs.
        G4GError: a checkpoint that its model cannot read.
    """
    checkpoints = dict(checkpoints or {})
    names = [*names, *(name for name in CONTROLS if controls and name not in names)]
    found = [Model(TRUTH, "truth", "", fingerprint=_CONTROL_VERSIONS["truth"])]
    for text in names:
        if text in (TRUTH, ""):
            continue
        before, equals, after = text.partition("=")
        name, target = (before, after) if equals else (text, text)
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name for a model", "Use up to 64 letters, digits, blanks, . _ + - ( ).")
        if any(name == model.name for model in found):
            raise UsageError(f"--models names {name!r} twice", "Give one of them another name: NAME=...")
        found.append(_model(name, target, checkpoints.pop(name, None), footage, identities))
    if checkpoints:
        raise UsageError(f"--checkpoint {min(checkpoints)}=... belongs to no model of --models")
    return found


def _model(
    name: str,
    target: str,
    checkpoint: str | None,
    footage: Mapping[str, str] | None,
    identities: Collection[str] | None,
) -> Model:
    kind, colon, path = target.partition(":")
    if colon and kind in _UNGUARDED:
        if checkpoint is not None:
            raise UsageError(f"{name} is {kind}: it takes no checkpoint")
        return _unguarded(name, kind, path, footage)
    if target == SHUFFLED:
        return Model(name, "shuffled", "", fingerprint=_CONTROL_VERSIONS["shuffled"])
    return _generator(name, target, checkpoint, identities)


def _unguarded(name: str, kind: str, path: str, footage: Mapping[str, str] | None) -> Model:
    if kind == "external":
        from baselines import external

        program = external.read_external(path)
        digest = external.fingerprint(program, external.values_of(program, os.environ))
        if program.input == "footage" and not footage:
            raise UsageError(f"{name} wants footage: say where it lies", "Add --footage ROOT, or SOURCE=ROOT.")
        wanted = {source: os.path.abspath(root) for source, root in (footage or {}).items()}
        wanted = wanted if program.input == "footage" else {}
        # a packaged one is found by its name wherever a worker has this package
        target = path if external.is_adapter(path) else os.path.abspath(path)
        fingerprint = f"external/1 {digest}"
        return Model(name, "external", target, fingerprint=fingerprint, marks=("unguarded",), footage=wanted)
    if not os.path.isdir(path):
        raise UsageError(f"{path!r} is no folder of videos", f"Write {name}=precomputed:DIR.")
    return Model(name, "precomputed", os.path.abspath(path), None, "", ("unguarded",))


def _generator(name: str, target: str, checkpoint: str | None, identities: Collection[str] | None) -> Model:
    offered = registry.names(registry.MODELS)
    if target not in offered:
        from baselines.external import adapters

        packaged = [f"{adapter}=external:{adapter}" for adapter in adapters()]
        others = [SHUFFLED, TRUTH, *packaged, "NAME=external:YAML", "NAME=precomputed:DIR"]
        raise unknown("model", target, [*offered, *others])
    kind = registry.load(registry.MODELS, target)
    if kind.needs_checkpoint and checkpoint is None:
        raise UsageError(
            f"{name} needs a checkpoint", f"Train one with g4g-model train, or name it: --checkpoint {name}=PATH."
        )
    for needed in kind.needs_weights:
        weights.path(needed)
    fingerprint = kind.fingerprint(checkpoint)
    generator = kind.open(checkpoint)
    marks: tuple[str, ...] = () if generator.preset is None else (generator.preset,)
    marks += tuple(f"{term}: off" for term in generator.losses_off)
    if isinstance(generator, Marked):
        marks += tuple(generator.marks)
    same = judge_fingerprint() in generator.trained_against
    if same:
        marks += (JUDGED,)
    taught_by = tuple(n for n in _measured_with() if weights.get(n).sha256 in generator.trained_against)
    marks += tuple(f"trained against {network}" for network in taught_by)
    known = getattr(generator, "training", None)  # torch's modules have a flag of this name
    training = None
    if isinstance(known, Training):
        training = dataclasses.asdict(known)
        learned = training.pop("people")
        training["met"] = met = None if learned is None or identities is None else _met(learned, identities)
        marks += (f"learned from {met} {MET}",) if met else ()
    return Model(name, "generator", target, checkpoint, fingerprint, marks, same, taught_by, training=training)


def _met(learned: Collection[str], identities: Collection[str]) -> int:
    """How many of those that are shown a model learned from."""
    return len(set(learned).intersection(people(identities)))


def _measured_with() -> list[str]:
    """Names in the weights registry of all networks of metrics."""
    from evaluation.metrics import METRICS

    return sorted({name for metric in METRICS.values() for name in metric.weights})


@functools.cache
def judge_fingerprint() -> str:
    """SHA-256 of the embedded judge's weights."""
    from prep.sync_expert.infer import fingerprint
    from prep.sync_expert.judge import JUDGE

    return fingerprint(JUDGE)


def output_fingerprint(model: Model, shot: Shot) -> str:
    """What the output of ``model`` for a shot depends on, besides the prompt.

    Raises:
        SourceError: finished videos that lack this one.
    """
    from pathlib import Path

    if model.kind == "precomputed":
        from baselines.precomputed import find_video

        return "precomputed/1 " + file_sha256(find_video(Path(model.target), shot.key))
    if model.kind == "recut":
        from evaluation.footage import same_named

        return "recut/1 " + file_sha256(same_named(Path(model.target), str(shot.about["path"])))
    if model.kind == "external":
        return f"{model.fingerprint} {model.footage_of(shot.source)}"
    return model.fingerprint
