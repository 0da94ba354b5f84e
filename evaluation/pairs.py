"""``pairs/1``: a user's list of speech and video, in Wav2Lip's layout."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.harness import Dub
from evaluation.models import TRUTH, models_of
from evaluation.prepared import by_clip, prepare, prepared_shots
from evaluation.protocols import PAIRS
from evaluation.run import Report, claim, evaluate_shots
from evaluation.shots import Shot
from evaluation.videos import read_sound
from g4g_core.errors import SourceError, UsageError
from g4g_core.provenance import file_sha256
from prep.records import SAMPLES_PER_FRAME
from prep.run.runners import Runner
from prep.sources.naming import clip_id

_FEWEST = 10
_UNREADABLE = -1
SOURCE = "pairs"


@dataclasses.dataclass(frozen=True)
class Pair:
    """One line of the list: ``number`` counts from 1."""

    number: int
    audio: Path
    video: Path


def read_pairs(file: str, root: str | None = None) -> list[Pair]:
    """The lines ``audio_path video_path`` of a list; empty lines are skipped.

    A path without a suffix is that of an ``.mp4``: so they stand in Wav2Lip's lists for LRS2.

    Args:
        root: what relative paths are relative to; by default the folder of ``file``.

    Raises:
        UsageError: the file is missing or empty, or a line has not two paths of files that exist.
    """
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"{file} is not there", "Name a list of pairs: a line 'audio_path video_path' each.")
    base = Path(root) if root is not None else path.parent
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise UsageError(f"{file}, line {number}: {len(words)} words, 'audio_path video_path' was due")
        audio, video = (_with_suffix(base / word) for word in words)
        for place in (audio, video):
            if not place.is_file():
                raise UsageError(f"{file}, line {number}: there is no {place}", "Relative paths start at --root.")
        pairs.append(Pair(number, audio, video))
    if not pairs:
        raise UsageError(f"{file} lists no pair")
    return pairs


def _with_suffix(place: Path) -> Path:
    return place if place.suffix or place.exists() else place.with_suffix(".mp4")


def evaluate_pairs(
    file: str,
    root: str | None,
    names: Sequence[str],
    checkpoints: Mapping[str, str],
    out: str,
    runner: Runner,
    *,
    quiet: bool,
    **options: Any,
) -> Report:
    """Dub every video of the list with its speech, paste the result back, and score it.

    The video speaks from its first frame on, as long as both last. Each shot of it is one unit.

    Args:
        names: registered models.
        options: as :func:`evaluation.run.evaluate_shots`.

    Raises:
        UsageError: a list that cannot be read, or models that take no prompts.
        SourceError: no video could be used.
    """
    pairs = read_pairs(file, root)
    models = [model for model in models_of(names, checkpoints) if model.name != TRUTH]
    foreign = [model.name for model in models if model.kind != "generator"]
    if foreign or not models:
        raise UsageError(f"pairs/1 runs registered models, not {', '.join(foreign) or 'none'}", "See g4g-eval models.")
    claim(out)
    originals = Path(out) / "data" / "originals"
    links = _linked(pairs, originals)
    data = prepare(str(originals), SOURCE, os.path.join(out, "data", "shards"), runner, quiet=quiet)
    shots, rejected = prepared_shots(data)
    units, dubbing, short = _units(pairs, links, by_clip(shots), str(originals.resolve()))
    if not units:
        raise SourceError("no pair has a face and enough speech", f"See {data}/manifest.parquet.")
    return evaluate_shots(
        data, out, PAIRS, models, units, runner, dubbing=dubbing, rejected={**rejected, **short}, quiet=quiet,
        settings={"pairs": file, "root": root, "models": list(names), "checkpoints": dict(checkpoints)}, **options,
    )  # fmt: skip


def _linked(pairs: Sequence[Pair], folder: Path) -> dict[Path, str]:
    """Every video once, as a link in a folder that prep can read: the name of the link by video."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.is_symlink():
            old.unlink()
    names: dict[Path, str] = {}
    for pair in pairs:
        video = pair.video.resolve()
        if video not in names:
            names[video] = f"{len(names) + 1:05d}-{video.name}"
            (folder / names[video]).symlink_to(video)
    return names


def _units(
    pairs: Sequence[Pair], links: Mapping[Path, str], shots: Mapping[str, Sequence[Shot]], footage: str
) -> tuple[list[Shot], dict[str, Dub], dict[str, str]]:
    """A unit per (pair, shot of its video); what each speaks; and the reason for pairs that give none."""
    units, dubbing, short = [], {}, {}
    lengths: dict[Path, tuple[int, str]] = {}
    for pair in pairs:
        if pair.audio not in lengths:
            try:
                frames = len(read_sound(pair.audio)) // SAMPLES_PER_FRAME
            except SourceError:
                frames = _UNREADABLE
            lengths[pair.audio] = frames, file_sha256(str(pair.audio))
        frames, digest = lengths[pair.audio]
        if frames == _UNREADABLE:
            short[f"{pair.number:05d}"] = "unreadable_speech"
            continue
        for shot in shots.get(clip_id(links[pair.video.resolve()]), ()):
            key = f"{pair.number:05d}-{shot.key}"
            common = min(shot.n_frames, frames - shot.segments[0][1])
            if common < _FEWEST:
                short[key] = "speech_too_short"
                continue
            units.append(dataclasses.replace(shot, key=key))
            dubbing[key] = Dub(str(pair.audio.resolve()), digest, footage, common)
    return units, dubbing, short
