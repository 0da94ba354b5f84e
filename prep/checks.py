"""What :mod:`prep.doctor` looks at: each check is a number beside its threshold, and a way to mend it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prep.records import FPS, SPLITS, Reason
from prep.sources.splits import Leak
from prep.stages.sync import SURE
from prep.summary import Tables, human_duration

if TYPE_CHECKING:
    import pandas as pd

FIT_IDENTITIES = 20
FIT_SECONDS = 30 * 60
IN_SYNC_FRAMES = 1.0
IN_SYNC_SHARE = 0.9
SURE_SHARE = 0.5
"""Clips whose offset must be sure before anything is said of sync."""

FACE_PX = 64.0
"""A smaller face shows its mouth in some 20 px, fewer than any published model draws."""
CROP_PX = 96
"""What Wav2Lip, the smallest of the models, works on."""
SMALL_SHARE = 0.25
SILENT_DBFS = -60.0
SILENT_SHARE = 0.05
SOUNDLESS_SHARE = 0.1
SEGMENT_FRAMES = 25.0
YAW_DEGREES = 60.0
YAW_SHARE = 0.1
INTERPOLATED_SHARE = 0.05
LOST_SHARE = 0.1

_ABSENT = {
    reason.value
    for reason in (
        Reason.SOURCE_MISSING,
        Reason.NO_ANNOTATION,
        Reason.INTERVAL_OUTSIDE_VIDEO,
        Reason.NOT_IN_SPLIT_LIST,
    )
}
_SOUNDLESS = {Reason.NO_AUDIO.value, Reason.SILENT_AUDIO.value}


class State(str, enum.Enum):
    """What a check found. The values are stable: they stand in the JSON output."""

    OK = "ok"
    WARN = "warn"
    FAULT = "fault"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of a diagnosis.

    Attributes:
        name: what was looked at.
        value: what was found, with its unit.
        threshold: what is expected; empty where nothing is.
        state: how the two compare.
        advice: one line that says how to mend it; empty where nothing is to be done.
        names: all clips, identities or sources concerned.
    """

    name: str
    value: str
    threshold: str = ""
    state: State = State.OK
    advice: str = ""
    names: tuple[str, ...] = ()


def all_checks(tables: Tables) -> Iterator[Check]:
    """Every check that the data set allows, in the order of reading."""
    samples = tables.samples
    if len(samples):
        yield from _size(samples)
        yield from _splits(samples)
        yield from _leaks(tables.leaks())
        yield from _picture(samples, int(tables.info["size"]))
        yield _silence(samples)
        yield from _sync(samples)
    else:
        advice = "Nothing was cut: read the reasons of the rejected clips."
        yield Check("samples", "0", "> 0", State.FAULT, advice)
    yield from _losses(tables.manifest)


def is_large_enough(samples: pd.DataFrame) -> bool:
    """Whether the people and the time suffice for ``fit``."""
    return samples["identity"].nunique() >= FIT_IDENTITIES and _seconds(samples) >= FIT_SECONDS


def _check(
    name: str, value: str, threshold: str, state: State, advice: str, names: Sequence[str] = ()
) -> Check:
    """A check that advises only where there is something to mend."""
    return Check(name, value, threshold, state, "" if state is State.OK else advice, tuple(names))


def _warn_if(bad: bool) -> State:
    return State.WARN if bad else State.OK


def _size(samples: pd.DataFrame) -> Iterator[Check]:
    seconds, people = _seconds(samples), int(samples["identity"].nunique())
    yield _check(
        "duration",
        human_duration(seconds),
        f">= {FIT_SECONDS // 60} min",
        _warn_if(seconds < FIT_SECONDS),
        "Enough for a demonstration; add footage before you train.",
    )
    yield _check(
        "identities",
        str(people),
        f">= {FIT_IDENTITIES}",
        _warn_if(people < FIT_IDENTITIES),
        "Add people: a model learns the faces that it sees.",
    )
    counts = samples.groupby("source")["identity"].nunique()
    alone = [str(source) for source in counts.index[counts == 1]]
    yield _check(
        "sources with one identity",
        _listed(alone) or "none",
        "none",
        _warn_if(bool(alone)),
        "If these are several people, see --identity.",
        alone,
    )
    frames = float(samples["n_frames"].mean())
    yield _check(
        "mean segment",
        f"{frames:.0f} frames ({frames / FPS:.1f} s)",
        f">= {SEGMENT_FRAMES:.0f} frames",
        _warn_if(frames < SEGMENT_FRAMES),
        "Shots are very short: look for hard cuts on the contact sheet.",
    )


def _splits(samples: pd.DataFrame) -> Iterator[Check]:
    for split in SPLITS:
        rows = samples[samples["split"] == split]
        clips = len(rows[["source", "clip"]].drop_duplicates())
        required = split != "val"
        yield _check(
            f"split {split}",
            f"{clips} clips, {rows['identity'].nunique()} identities, {human_duration(_seconds(rows))}",
            "not empty" if required else "",
            _warn_if(required and not clips),
            f"There is no {split} split: see --split-by and --fractions.",
        )


def _leaks(leaks: Sequence[Leak]) -> Iterator[Check]:
    for kind, name in (("identity", "identity in two splits"), ("video_id", "video in two splits")):
        named = [f"{leak.value} ({', '.join(leak.clips)})" for leak in leaks if leak.kind == kind]
        yield _check(
            name,
            _listed(named) or "none",
            "none",
            State.FAULT if named else State.OK,
            "Scores on test would mean nothing: build again with --split-by identity.",
            named,
        )


def _picture(samples: pd.DataFrame, size: int) -> Iterator[Check]:
    yield _check(
        "crop size",
        f"{size} px",
        f">= {CROP_PX} px",
        State.FAULT if size < CROP_PX else State.OK,
        "Crops are too small for the models: build again with --size 256.",
    )
    yield _face_size(samples)
    sharpness = samples["sharpness"]
    yield Check(
        "sharpness", f"median {sharpness.median():.3g}, 5th percentile {sharpness.quantile(0.05):.3g}"
    )
    turned = float((samples["yaw_max_abs"] > YAW_DEGREES).mean())
    yield _check(
        "head turned away",
        f"{turned:.1%} of samples beyond {YAW_DEGREES:.0f} degrees",
        f"<= {YAW_SHARE:.0%}",
        _warn_if(turned > YAW_SHARE),
        f"Leave them out: g4g-prep select --where 'yaw_max_abs <= {YAW_DEGREES:.0f}'.",
    )
    guessed = float(samples["n_interpolated"].sum() / max(1, samples["n_frames"].sum()))
    yield _check(
        "interpolated landmarks",
        f"{guessed:.1%} of frames",
        f"<= {INTERPOLATED_SHARE:.0%}",
        _warn_if(guessed > INTERPOLATED_SHARE),
        "The tracker lost faces often: look at the contact sheet.",
    )


def _face_size(samples: pd.DataFrame) -> Check:
    """A fault where a quarter of a source is too small: then it is the footage, not single clips."""
    small = samples["face_px"] < FACE_PX
    value = f"median {samples['face_px'].median():.0f} px"
    state = State.OK
    for source, rows in small.groupby(samples["source"]):
        if rows.any():
            fault = state is State.FAULT or rows.mean() >= SMALL_SHARE
            state = State.FAULT if fault else State.WARN
            value += f"; {source}: {int(rows.sum())} of {len(rows)} samples too small"
    return _check(
        "face size",
        value,
        f">= {FACE_PX:.0f} px",
        state,
        "Use footage of a larger format, or leave them out: "
        f"g4g-prep select --where 'face_px >= {FACE_PX:.0f}'.",
        _clips(samples[small]),
    )


def _silence(samples: pd.DataFrame) -> Check:
    """A pause may be silent, a clip may not."""
    silent = samples["loudness_dbfs"] < SILENT_DBFS
    whole_clip = silent.groupby([samples["source"], samples["clip"]]).all().any()
    fault = silent.mean() >= SILENT_SHARE or whole_clip
    named = _clips(samples[silent])
    return _check(
        "silent audio",
        f"{int(silent.sum())} of {len(samples)} samples" + (f": {_listed(named)}" if named else ""),
        f"none under {SILENT_DBFS:.0f} dBFS",
        State.FAULT if fault else _warn_if(bool(named)),
        "Fetch these clips again with sound, or leave them out: "
        f"g4g-prep select --where 'loudness_dbfs >= {SILENT_DBFS:.0f}'.",
        named,
    )


def _sync(samples: pd.DataFrame) -> Iterator[Check]:
    clips = samples.groupby(["source", "clip"])[["av_confidence"]].max()
    sure = samples[samples["av_offset"].notna() & (samples["av_confidence"] >= SURE)]
    known = sure.groupby(["source", "clip"])["av_offset"].median()
    expected = f">= {IN_SYNC_SHARE:.0%} of clips within {IN_SYNC_FRAMES:.0f} frame"
    if len(known) < SURE_SHARE * len(clips):
        reasons = sorted(samples.loc[samples["av_offset"].isna(), "sync_reason"].dropna().unique())
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        advice = f"Most clips are too short, or show nobody who speaks{why}."
        value = f"unknown: sure of {len(known)} of {len(clips)} clips"
        yield Check("AV offset", value, expected, State.UNKNOWN, advice)
        yield Check("sync confidence", value, "", State.UNKNOWN)
        return
    off = known[known.abs() > IN_SYNC_FRAMES]
    share = 1 - len(off) / len(known)
    yield _check(
        "AV offset",
        f"{share:.1%} within {IN_SYNC_FRAMES:.0f} frame, median {known.median():+.1f}; "
        f"sure of {len(known)} of {len(clips)} clips",
        expected,
        State.FAULT if share < IN_SYNC_SHARE else State.OK,
        "Build again with --fix-offset, or leave them out: g4g-prep select --where 'abs(av_offset) <= 1'.",
        [f"{source}/{clip}" for source, clip in off.index],
    )
    yield Check("sync confidence", f"median {clips['av_confidence'].median():.2f}")


def _losses(manifest: pd.DataFrame) -> Iterator[Check]:
    absent = manifest["reason"].isin(_ABSENT)
    present = manifest[~absent]
    rejected = present[present["outcome"] != "ok"]
    yield _lost("clips that are missing", manifest[absent], manifest, "Fetch them, or mend the lists.")
    yield _lost("rejected clips", rejected, present, "Read why on the contact sheet or in manifest.parquet.")
    soundless = present[present["reason"].isin(_SOUNDLESS)]
    if not len(soundless):
        return
    found, many = [], False
    for source, rows in soundless.groupby("source"):
        total = int((present["source"] == source).sum())
        found.append(f"{source}: {len(rows)} of {total} clips")
        many |= len(rows) > 1 and len(rows) / total >= SOUNDLESS_SHARE
    yield _check(
        "clips without sound",
        "; ".join(found),
        f"< {SOUNDLESS_SHARE:.0%} of a source",
        State.FAULT if many else State.WARN,
        "They were left out. Downloads without an audio track are the usual cause: fetch them again.",
        _clips(soundless),
    )


def _lost(name: str, lost: pd.DataFrame, total: pd.DataFrame, advice: str) -> Check:
    share = len(lost) / max(1, len(total))
    counts = sorted(lost["reason"].value_counts().items(), key=lambda item: (-item[1], str(item[0])))
    reasons = ", ".join(f"{reason} {number}" for reason, number in counts[:3])
    value = f"{len(lost)} of {len(total)} ({share:.1%})" + (f": {reasons}" if reasons else "")
    return _check(name, value, f"<= {LOST_SHARE:.0%}", _warn_if(share > LOST_SHARE), advice, _clips(lost))


def _seconds(samples: pd.DataFrame) -> float:
    return float(samples["n_frames"].sum()) / FPS


def _clips(rows: pd.DataFrame) -> list[str]:
    pairs: Iterable[tuple[str, str]] = zip(rows["source"], rows["clip"], strict=True)
    return sorted({f"{source}/{clip}" for source, clip in pairs})


def _listed(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
