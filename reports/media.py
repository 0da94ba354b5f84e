"""What the page of a run plays: for every shot one video in which all views stand side by side, and its spectrogram.

The views are those that were scored: the clip with its erased region, the clip itself, and the lossless output of each
model. They are written into one picture, so that no view can run ahead of another. Nothing is made of footage that may
not be passed on.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from evaluation.cells import Cell, file_stem
from evaluation.merge import place_of
from evaluation.models import TRUTH
from evaluation.protocols import ON_SHARDS, protocol_named, speakers
from evaluation.shots import Shot, ShotReader, shots_of
from evaluation.videos import UnreadableOutput, blocks
from g4g_core import storage
from g4g_core.errors import UsageError
from g4g_core.progress import progress
from g4g_core.protocols import ERASED
from prep.records import SAMPLES_PER_FRAME
from prep.shards.index import Dataset
from prep.stages.mel import mel_start
from reports.webvideo import Grid, encode_video, mel_of_frames, mel_png

Kind = Literal["embed", "folder", "none"]
UNKNOWN_LICENCE = "unknown"
"""What shards hold where a source names no licence."""

FOLDER = "report-media"
"""Beside the page, where videos are not embedded in it."""

_MOUTH = slice(48, 68)
_MOUTH_ROOM = 1.7  # side of the mouth's view, in widths of the mouth: chin and nostrils are in it


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which shots' media are wanted, and where they go.

    Attributes:
        kind: ``embed``: into the page; ``folder``: beside it; ``none``.
        sources: names; empty: all.
        limit: at most so many shots of every source, spread over its people; a hash of their keys chooses.
        vouched: sources of footage of unknown licence that the user answers for passing on.
    """

    kind: Kind = "none"
    sources: Sequence[str] = ()
    limit: int | None = None
    vouched: Sequence[str] = ()

    def words(self) -> list[str]:
        """As they stand on the command line."""
        if self.kind == "none":
            return []
        limit = [] if self.limit is None else ["--media-limit", str(self.limit)]
        named = [word for name in self.sources for word in ("--media-source", name)]
        named += [word for name in self.vouched for word in ("--i-may-pass-on", name)]
        return ["--media", self.kind, *limit, *named]


@dataclasses.dataclass(frozen=True)
class Media:
    """What was made.

    Attributes:
        kind: as in :class:`Choice`.
        shots: by key, what the page's script needs to show one.
        total: of the shots of the run.
        size: of all files together, bytes.
        vouched: sources whose footage is shown on the user's word.
        words: the options that made it.
    """

    kind: Kind
    shots: Mapping[str, Mapping[str, Any]]
    total: int
    size: int
    vouched: Sequence[str] = ()
    words: Sequence[str] = ()


def make_media(
    run: str, facts: Mapping[str, Any], summary: Mapping[str, Any], shots: Mapping[str, Any], choice: Choice,
    *, quiet: bool = True,
) -> Media:  # fmt: skip
    """Make the videos of a run's page; files of an earlier page that are not made again are deleted.

    Args:
        run: its folder; ``facts``, ``summary`` and ``shots`` are its ``run.json``, ``summary.json``, ``shots.json``.

    Raises:
        UsageError: footage that may not be passed on, no such source, or outputs and shards that are no longer there.
        DatasetError: the shards cannot be read.
    """
    wanted = chosen(shots["shots"], choice) if choice.kind != "none" else []
    total, folder = len(shots["shots"]), storage.join(run, FOLDER)
    if not wanted:
        storage.delete_tree(folder)
        return Media("none", {}, total, 0)
    about = {key: {**shot["about"], "source": shot["source"]} for key, shot in shots["shots"].items()}
    if not storage.is_local(run):
        raise UsageError(
            f"{run}: the outputs that videos are made of must be local", "Copy the run, or use --media none."
        )
    refuse_footage_of_others({key: about[key] for key in wanted}, choice.vouched)
    known, speaker = stored_shots(facts, summary, shots)
    heard = {speaker[key].key: f"{speaker[key].key}, whose words {key} speaks," for key in wanted}
    refuse_footage_of_others({name: about[key] for key, name in heard.items()}, choice.vouched)
    on_my_word = {about[key]["source"] for key in (*wanted, *heard) if not about[key]["redistributable"]}
    storage.delete_tree(folder)
    made: dict[str, Mapping[str, Any]] = {}
    size = 0
    with progress(len(wanted), "making videos", "shots", quiet=quiet) as bar:
        for key in wanted:
            record, video, mel = _of_shot(run, facts, known[key], speaker[key], shots["shots"][key]["models"])
            for part, suffix, mime, data in (("video", "mp4", "video/mp4", video), ("mel", "png", "image/png", mel)):
                name = f"{FOLDER}/{file_stem(key)}.{suffix}"
                if choice.kind == "folder":
                    storage.write_bytes(storage.join(run, name), data)
                record[part] = name if choice.kind == "folder" else _data_url(mime, data)
                size += len(data)
            made[key] = record
            bar.advance(1, key)
    return Media(choice.kind, made, total, size, sorted(on_my_word), choice.words())


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def chosen(shots: Mapping[str, Mapping[str, Any]], choice: Choice) -> list[str]:
    """Keys of the shots that media are made of, in the order of ``shots``. Raises UsageError: no such source."""
    here = sorted({str(shot["source"]) for shot in shots.values()})
    for flag, names in (("--media-source", choice.sources), ("--i-may-pass-on", choice.vouched)):
        for name in names:
            if name not in here:
                raise UsageError(f"{flag} {name}: the run has no such source", f"It has {', '.join(here)}.")
    kept: set[str] = set()
    for source in choice.sources or here:
        here_of = sorted((key for key, shot in shots.items() if shot["source"] == source), key=_lot)
        kept.update(in_rounds(here_of, {key: shots[key]["identity"] for key in here_of})[: choice.limit])
    return [key for key in shots if key in kept]


def in_rounds(keys: Sequence[str], people: Mapping[str, str]) -> list[str]:
    """Everybody's first shot, then everybody's second, ...: the first few show as many people as they can.

    Args:
        keys: of shots.
        people: the identity in each.
    """
    shots_of: dict[str, list[str]] = {}
    for key in keys:
        shots_of.setdefault(people[key], []).append(key)
    return [key for one in itertools.zip_longest(*shots_of.values()) for key in one if key is not None]


def _lot(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def refuse_footage_of_others(about: Mapping[str, Mapping[str, Any]], vouched: Sequence[str] = ()) -> None:
    """Raise UsageError where the licence of a shot does not allow to pass it on.

    Args:
        about: facts by what the shot is called: ``redistributable``, ``licence``, ``source``.
        vouched: sources that the user answers for; a licence that is known and forbids it is not overruled by that.
    """
    held = [
        name
        for name, facts in about.items()
        if not facts["redistributable"] and not (facts["source"] in vouched and licence_is_unknown(facts))
    ]
    if held:
        facts = about[held[0]]
        also = f" (and {len(held) - 1} more)" if len(held) > 1 else ""
        own = f" Is it your own footage? --i-may-pass-on {facts['source']} says so: you answer for it."
        raise UsageError(
            f"{held[0]}{also} may not be passed on; its licence: {facts['licence'] or UNKNOWN_LICENCE}",
            "Leave --media at none, or name the sources that may be shown: --media-source NAME."
            + (own if licence_is_unknown(facts) else ""),
        )


def licence_is_unknown(about: Mapping[str, Any]) -> bool:
    """Whether the shards name no licence of a shot, as those of anybody's own footage."""
    return (about["licence"] or UNKNOWN_LICENCE) == UNKNOWN_LICENCE


def stored_shots(
    facts: Mapping[str, Any], summary: Mapping[str, Any], shots: Mapping[str, Any]
) -> tuple[dict[str, Shot], dict[str, Shot]]:
    """Shots of the run as the shards hold them, and whose words each speaks."""
    if summary["protocol"] not in ON_SHARDS:
        raise UsageError(f"a page of {summary['protocol']} shows no videos", "Media are made of runs of g4g-eval run.")
    dataset = Dataset.open(facts["data"])
    stored = {shot.key: shot for shot in shots_of(dataset, summary["split"])}
    for key, shot in shots["shots"].items():
        if key not in stored or stored[key].fingerprint != shot["fingerprint"]:
            raise UsageError(
                f"{facts['data']} no longer holds {key} as it was evaluated", "Evaluate again, then render the page."
            )
    known = {key: stored[key] for key in shots["shots"]}
    pairs, _ = speakers(protocol_named(summary["protocol"]), list(known.values()), summary["seed"])
    return known, {key: known[other] for key, other in pairs.items()}


def _of_shot(
    run: str, facts: Mapping[str, Any], shot: Shot, speaker: Shot, models: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], bytes, bytes]:
    """(what the page needs to know, video, spectrogram) of one shot."""
    n_frames = min(shot.n_frames, speaker.n_frames)
    outputs = {}
    for name in (str(model["name"]) for model in facts["models"]):
        if name != TRUTH and not models[name]["error"]:
            folder, own_name = place_of(run, facts, name)
            outputs[name] = Cell(folder, own_name, shot.key)
    views: list[dict[str, Any]] = [{"view": "source"}]
    views += [{"view": "truth", "model": TRUTH} for name in models if name == TRUTH]
    views += [{"view": "model", "model": name} for name in outputs]
    grid = Grid(len(views), shot.size + shot.size % 2)
    root = os.path.abspath(facts["data"]) if storage.is_local(facts["data"]) else facts["data"]
    with ShotReader(root, shot) as reader, ShotReader(root, speaker) as voice:
        try:
            video = encode_video(
                _joined(reader, n_frames, TRUTH in models, list(outputs.values()), grid),
                voice.pcm()[: SAMPLES_PER_FRAME * n_frames],
            )
        except (UnreadableOutput, EOFError) as error:
            raise UsageError(f"an output of {shot.key} cannot be read: {error}", "Evaluate again.") from error
        columns, first = voice.mel()
        start = voice.frame_start
        mel = mel_of_frames(columns, first, mel_start(start), mel_start(start + n_frames))
        box = mouth_box(reader.landmarks[:n_frames], shot.size)
    record = {
        "views": views,
        "columns": grid.columns, "side": grid.side, "frames": n_frames, "mouth": box,
        "speaker": speaker.key if speaker is not shot else None,
    }  # fmt: skip
    return record, video, mel_png(mel)


def _joined(
    reader: ShotReader, n_frames: int, with_truth: bool, outputs: Sequence[Cell], grid: Grid
) -> Iterator[np.ndarray]:
    """The views of a segment after the other."""
    bounds = [(start, min(count, n_frames - start)) for start, count in reader.shot.bounds if start < n_frames]
    videos = [blocks(cell.pictures(), (count for _, count in bounds)) for cell in outputs]
    for start, count in bounds:
        stored = reader.frames(np.arange(start, start + count))
        source = stored.pictures.copy()
        source[stored.erase > 0] = ERASED
        yield grid.joined([source, *([stored.pictures] if with_truth else []), *(next(video) for video in videos)])


def mouth_box(landmarks: np.ndarray, size: int) -> tuple[int, int, int]:
    """(left, top, side), px: a square inside the picture that holds the mouth in all frames.

    Args:
        landmarks: float [T, 68, 2], pixels.
        size: side of the picture, px.
    """
    mouth = landmarks[:, _MOUTH]
    low, high = mouth.min(axis=(0, 1)), mouth.max(axis=(0, 1))
    widest = float((mouth[..., 0].max(axis=1) - mouth[..., 0].min(axis=1)).max())
    side = int(min(size, max(8, round(max(float((high - low).max()), _MOUTH_ROOM * widest)))))
    left, top = (int(np.clip(round(float(middle) - side / 2), 0, size - side)) for middle in (low + high) / 2)
    return left, top, side
