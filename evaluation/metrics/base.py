"""What a metric says of itself, and how the harness feeds it: in blocks of frames, so that memory stays flat."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, Protocol

import numpy as np

from g4g_core.resize import resize

SIDE = 256
"""Pictures are compared at this side, whatever the shards' is: SSIM, PSNR and sharpness all depend on it."""

FACE = (slice(0, 183), slice(37, 220))
"""The face box of ``crop/1`` in a crop of 256 px: 2 b of its 2.8 b, from b left of the centre to b below it."""

EVERY = 5
"""Frames from one to the next where a metric samples (five a second)."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """What is known about a metric before it is measured.

    Attributes:
        id: says everything that makes two numbers incomparable, e.g. ``cpbd@face256``.
        name: as tables show it.
        unit: ``dB``, ``frames`` ... or "".
        better: ``higher``, ``lower``, or the number that a perfect model reaches (then nearer is better); ``None``
            where neither end is better.
        kind: ``clip`` (a number a shot) or ``set`` (a number for all shots together).
        definition: one or two sentences for the reader of a table.
        version: counted up whenever its values change.
        full_reference: needs the clip itself frame by frame: only where a protocol is full-reference.
        needs_frames: looks at the whole frames of a finished video.
        needs_clip: needs footage of the same person, though not frame by frame.
        near_truth: tables show |model - ground truth| beside it: better than the truth is a mark, not a win.
        weights: names in the weights registry.
        by_judge: measured by an embedded expert that a model may have been trained against.
    """

    id: str
    name: str
    unit: str
    better: Literal["higher", "lower"] | float | None
    kind: Literal["clip", "set"]
    definition: str
    version: int = 1
    full_reference: bool = False
    needs_frames: bool = False
    needs_clip: bool = False
    near_truth: bool = False
    weights: tuple[str, ...] = ()
    by_judge: bool = False

    def badness(self, values: np.ndarray | float) -> np.ndarray:
        """Values turned so that lower is better: what ranks and tests compare."""
        array = np.asarray(values, np.float64)
        if self.better == "higher":
            return -array
        if isinstance(self.better, (int, float)):
            return np.abs(array - self.better)
        return array


@dataclasses.dataclass(frozen=True)
class Context:
    """What a measure knows of a shot before its frames come.

    Attributes:
        size: S of the blocks, px.
        n_frames: T, of all blocks together.
        pcm: int16 [640 T]: what the mouth should be saying.
        full_reference: blocks hold the clip's own frames, and comparing with them makes sense.
        is_truth: the output is the clip itself.
        precision: of the networks behind LSE and FID, ``fp32`` or ``bf16``.
        truth_features: features that were measured of the clip itself before, by name, or ``None``: they are the same
            for every model, and some take longer than everything else.
        whole_frames: reads the shot's frames as the video holds them, uint8 [H, W, 3] RGB; ``None``: there is no video.
    """

    size: int
    n_frames: int
    pcm: np.ndarray
    full_reference: bool
    is_truth: bool
    precision: str = "fp32"
    truth_features: Callable[[str], np.ndarray | None] = lambda name: None
    whole_frames: Callable[[], Iterator[np.ndarray]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Consecutive frames of a shot.

    Attributes:
        first: number of the first one in the shot.
        output: uint8 [n, S, S, 3] RGB, as the model returned it.
        truth: uint8 [n, S, S, 3], the clip's own frames.
        masks: uint8 [n, S, S] of :class:`prep.shards.schema.MaskBit`.
        landmarks: float32 [n, 68, 2] of the clip, pixels of ``output``.
        scored: bool [n]: the frames on which pictures are compared.
        is_truth: ``output`` is ``truth``.
    """

    first: int
    output: np.ndarray
    truth: np.ndarray
    masks: np.ndarray
    landmarks: np.ndarray
    scored: np.ndarray
    is_truth: bool

    def sampled(self, every: int = EVERY) -> np.ndarray:
        """int64: the scored frames among every fifth (or ``every``-th) of the shot, positions in this block."""
        numbers = self.first + np.arange(len(self.output))
        return np.flatnonzero(self.scored & (numbers % every == 0))

    @functools.cached_property
    def output256(self) -> np.ndarray:
        """uint8 [n, 256, 256, 3]."""
        return resize(self.output, SIDE)

    @functools.cached_property
    def truth256(self) -> np.ndarray:
        """uint8 [n, 256, 256, 3]."""
        return self.output256 if self.is_truth else resize(self.truth, SIDE)

    @functools.cached_property
    def mouth256(self) -> np.ndarray:
        """bool [n, 256, 256]: the clip's own mouth region, nose base to chin."""
        from prep.shards.schema import MaskBit

        mask = (self.masks & MaskBit.MOUTH) > 0
        if mask.shape[1] == SIDE:
            return np.asarray(mask)
        levels = mask.astype(np.uint8) * 255
        return np.asarray(resize(levels[..., None].repeat(3, axis=-1), SIDE)[..., 0] > 127)

    def stored_faces(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [k, 256, 256, 3]: face boxes of these frames of the output as a shard would store them.

        The clip's own frames have been through JPEG; where sharpness and texture are compared, the output goes through
        the same once, and nothing else is encoded on the way from a model to its score.
        """
        from prep.shards.members import decode_frame
        from prep.stages.encode import jpeg

        faces = []
        for frame in frames:
            picture = self.output[frame]
            if not self.is_truth:
                stored = np.empty_like(picture)
                decode_frame(jpeg(picture), picture.shape[0], stored)
                picture = stored
            crop = resize(picture[None], SIDE)[0]
            faces.append(resize(np.ascontiguousarray(crop[FACE])[None], SIDE)[0])
        return np.stack(faces) if faces else np.zeros((0, SIDE, SIDE, 3), np.uint8)


LARGEST = 1e100
"""No score lies further from 0: whatever does comes of a broken measure, and its square would be no number."""

Missing = tuple[str, str]
"""Why a value is not there: (code, detail). ``identical`` says that truth was compared with itself."""

IDENTICAL: Missing = ("identical", "compared with itself")


@dataclasses.dataclass
class Measured:
    """What a measure found in a shot. A value that is no score goes to ``missing`` with the reason.

    Attributes:
        values: by metric id, finite and at most :data:`LARGEST` in size.
        missing: reason by metric id where there is no value.
        curves: numbers to draw, by name.
        features: float32 [n, d] for metrics over sets, by name.
        flags: what a reader of this shot's values should know, e.g. ``offset_at_edge``.
    """

    values: dict[str, float] = dataclasses.field(default_factory=dict)
    missing: dict[str, Missing] = dataclasses.field(default_factory=dict)
    curves: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = {name: why for name, value in self.values.items() if (why := _no_score(value))}
        self.values = {name: value for name, value in self.values.items() if name not in wrong}
        self.missing = {**self.missing, **wrong}


class Session(Protocol):
    """A measure at work on one shot."""

    def add(self, block: Block) -> None:
        """The next frames."""
        ...

    def result(self) -> Measured:
        """After the last block."""
        ...


class Measure(Protocol):
    """Metrics that are measured together.

    Attributes:
        name: of the measure.
        metrics: what it gives, clip metrics and the set metrics that are made of its features.
        packages: (module, command that installs it) of optional Python packages that it needs.
    """

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    @property
    def packages(self) -> tuple[tuple[str, str], ...]: ...

    def start(self, context: Context) -> Session: ...


@dataclasses.dataclass
class Mean:
    """A mean over frames, as blocks come."""

    total: float = 0.0
    count: int = 0

    def add(self, values: np.ndarray) -> None:
        self.total += float(np.sum(values, dtype=np.float64))
        self.count += int(np.size(values))

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


def one_value(metric: Metric, mean: Mean, context: Context) -> Measured:
    """The result of a measure of one metric that compares with the truth."""
    return values_of({metric: mean.value}, context)


def values_of(found: Mapping[Metric, float | None], context: Context) -> Measured:
    """Values by metric: ``identical`` where truth was compared with itself, a reason where no frame was scored."""
    values: dict[str, float] = {}
    missing: dict[str, Missing] = {}
    for metric, value in found.items():
        if metric.full_reference and context.is_truth:
            missing[metric.id] = IDENTICAL
        elif value is None:
            missing[metric.id] = ("no_frames", "no frame of the shot could be scored")
        else:
            values[metric.id] = float(value)
    return Measured(values, missing)


def _no_score(value: float) -> Missing | None:
    if not np.isfinite(value):
        return "not_finite", f"the value is {value}"
    if abs(value) > LARGEST:
        return "too_large", f"the value is {value:.3g}, which is no score"
    return None
