"""The contact sheet: one HTML file that shows what was cut from every clip, and why a clip was not taken.

The file needs no network, no server and no font. Equal data sets give equal bytes, wherever they lie.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from g4g_core import storage
from g4g_core.errors import UsageError
from g4g_core.storage import Url
from prep import drawing
from prep.records import FPS
from prep.shards.access import SampleReader
from prep.shards.index import Dataset
from prep.shards.rows import Row
from prep.shards.schema import MaskBit
from prep.stages.mel import mel_start
from prep.summary import Tables, human_bytes, human_duration, load_tables, partial_losses, records, summarise

if TYPE_CHECKING:
    import pandas as pd

CROPS = 6
THUMBNAIL = 144
LAYERS = (
    ("lower_face", "lower face", MaskBit.LOWER_FACE),
    ("mouth", "mouth", MaskBit.MOUTH),
    ("lips", "lips", MaskBit.LIPS),
    ("erase", "erase", MaskBit.ERASE),
)
"""(CSS class, label, bit), in the order of drawing: a nested mask lies above the one that holds it."""

# (column, label, unit, decimals): means over the frames of a clip
_MEANS = (
    ("face_px", "face", "px", 0),
    ("sharpness", "sharpness", "", 1),
    ("brightness", "brightness", "", 2),
    ("yaw", "yaw", "°", 1),
    ("pitch", "pitch", "°", 1),
    ("roll", "roll", "°", 1),
    ("loudness_dbfs", "loudness", "dBFS", 1),
    ("snr_db", "SNR", "dB", 1),
)


@dataclasses.dataclass(frozen=True)
class ContactSheet:
    """What was written.

    Attributes:
        path: the HTML file.
        cards: clips shown with pictures.
        left_out: {source: accepted clips without a card}.
        rejected: clips listed as rejected: always all of them.
        bytes: of the file.
    """

    path: str
    cards: int
    left_out: dict[str, int]
    rejected: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        missing = sum(self.left_out.values())
        more = f", {missing} more clips without a card" if missing else ""
        return f"{self.path}: {self.cards} clips{more}, {self.rejected} rejected ({human_bytes(self.bytes)})"


@dataclasses.dataclass(frozen=True)
class Number:
    """One number on a card: ``text`` is read, ``value`` is sorted by (``None``: not known, sorted last)."""

    key: str
    label: str
    text: str
    value: float | None
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Crop:
    """One face crop on a card: a JPEG as ``data:`` URI, and SVG paths to lay over it."""

    image: str
    second: str
    landmarks: str
    masks: tuple[tuple[str, str], ...]
    left: str  # where it lies on the mel strip, per cent


@dataclasses.dataclass(frozen=True)
class Card:
    """One accepted clip."""

    source: str
    clip: str
    split: str
    identity: str
    text: str | None
    crops: tuple[Crop, ...]
    mel: str
    borders: tuple[str, ...]  # of segments on the mel strip, per cent
    numbers: tuple[Number, ...]


def contact_sheet(
    root: Url, out: Url, *, per_source: int | None = None, limit: int = 200, seed: int = 0
) -> ContactSheet:
    """Write the contact sheet of the data set under ``root`` to the file ``out``.

    Args:
        root: the data set.
        out: the HTML file to write.
        per_source: at most so many cards of one source; ``None`` for no such limit.
        limit: at most so many cards in all, spread evenly over sources, and over identities inside a source.
        seed: chooses other clips where not all are shown.

    Raises:
        UsageError: a limit below 1.
        DatasetError, StorageError: the data set cannot be read, or ``out`` cannot be written.
    """
    if limit < 1 or (per_source is not None and per_source < 1):
        raise UsageError("a contact sheet of no cards shows nothing", "Give limits of 1 or more.")
    dataset = Dataset.open(root)
    tables = load_tables(root)
    chosen = choose_clips(tables.samples, per_source=per_source, limit=limit, seed=seed)
    clips = dict(iter(tables.samples.groupby(["source", "clip"], sort=True)))
    left_out: dict[str, int] = {}
    for source, _ in sorted(set(clips) - set(chosen)):
        left_out[str(source)] = left_out.get(str(source), 0) + 1
    cards = list(_cards(dataset, [clips[name] for name in chosen]))
    data = _render_page(tables, cards, left_out).encode()
    storage.write_bytes(out, data)
    return ContactSheet(os.fspath(out), len(cards), left_out, len(tables.rejected), len(data))


def choose_clips(
    samples: pd.DataFrame, *, per_source: int | None = None, limit: int = 200, seed: int = 0
) -> list[tuple[str, str]]:
    """(source, clip) of the clips to show, sorted: sources take turns, and inside a source identities do."""
    clips = samples[["source", "identity", "clip"]].drop_duplicates(["source", "clip"])
    queues = []
    for source, rows in clips.groupby("source", sort=True):
        people = [
            sorted(rows["clip"][rows["identity"] == identity], key=lambda clip: _draw(seed, source, clip))
            for identity in sorted(rows["identity"].unique(), key=lambda name: _draw(seed, source, name))
        ]
        queues.append([(str(source), clip) for clip in _take_turns(people)][:per_source])
    return sorted(list(_take_turns(queues))[:limit])


def _take_turns(queues: list[list[Any]]) -> Iterator[Any]:
    for turn in range(max(map(len, queues), default=0)):
        for queue in queues:
            if turn < len(queue):
                yield queue[turn]


def _draw(seed: int, *names: object) -> str:
    return hashlib.sha256("\0".join(map(str, (seed, *names))).encode()).hexdigest()


def _cards(dataset: Dataset, clips: list[pd.DataFrame]) -> Iterator[Card]:
    places: dict[str, Row] = {}
    for split in sorted({split for rows in clips for split in rows["split"]}):
        keys = {key for rows in clips for key in rows["key"][rows["split"] == split]}
        places.update((row.key, row) for row in dataset.rows(split, keys))
    reader = SampleReader(dataset)
    for rows in clips:
        yield _card(reader, rows, sorted((places[key] for key in rows["key"]), key=_time))
    reader.close()


def _time(row: Row) -> tuple[int, str]:
    return row.frame_start, row.key


def _card(reader: SampleReader, table: pd.DataFrame, rows: list[Row]) -> Card:
    first, about = rows[0], table.iloc[0]
    starts = sorted({row.frame_start for row in rows if row.frame_start > 0})
    columns = mel_start(first.clip_frames) + 1
    return Card(
        source=first.source,
        clip=first.clip,
        split=first.split,
        identity=first.identity,
        text=about["text"] if isinstance(about["text"], str) and about["text"].strip() else None,
        crops=tuple(_crops(reader, rows)),
        mel=drawing.mel_strip([(row.mel_start, reader.mel(row)) for row in rows], columns),
        borders=tuple(_percent(frame, first.clip_frames) for frame in starts),
        numbers=tuple(clip_numbers(table)),
    )


def _crops(reader: SampleReader, rows: list[Row]) -> Iterator[Crop]:
    """:data:`CROPS` crops in the middle of equal parts of what was taken of the clip."""
    total = sum(row.n_frames for row in rows)
    wanted = sorted({int(total * (part + 0.5) / CROPS) for part in range(CROPS)})
    begin = 0
    for row in rows:
        indices = [frame - begin for frame in wanted if begin <= frame < begin + row.n_frames]
        begin += row.n_frames
        if not indices:
            continue
        landmarks = reader.landmarks(row)
        frames, masks = reader.frames(row, indices), reader.masks(row, indices)
        for index, frame, mask in zip(indices, frames, masks, strict=True):
            at = row.frame_start + index
            yield Crop(
                image=drawing.thumbnail(frame, min(row.size, THUMBNAIL)),
                second=f"{at / FPS:.1f} s",
                landmarks=drawing.landmark_path(landmarks[index], row.size),
                masks=tuple((name, drawing.mask_path(mask, bit)) for name, _, bit in LAYERS),
                left=_percent(at + 0.5, row.clip_frames),
            )


def clip_numbers(rows: pd.DataFrame) -> list[Number]:
    """The numbers of a clip from the rows of its samples: sums, and means weighted by frames."""
    frames = rows["n_frames"].to_numpy(np.float64)
    total, guessed = int(frames.sum()), int(rows["n_interpolated"].sum())
    numbers = [
        Number("frames", "frames", f"{total}", total, "25 fps frames in shards"),
        Number("seconds", "seconds", f"{total / FPS:.2f}", round(total / FPS, 2)),
    ]
    for column, label, unit, decimals in _MEANS:
        mean = float(np.average(rows[column].to_numpy(np.float64), weights=frames))
        text = f"{mean:.{decimals}f}".replace("-", "\u2212")
        numbers.append(Number(column, label, _with_unit(text, unit), round(mean, 4), "mean over frames"))
    numbers.append(
        Number("n_interpolated", "interpolated", f"{guessed}", guessed, "frames with interpolated landmarks")
    )
    return [*numbers, *_sync_numbers(rows)]


def _sync_numbers(rows: pd.DataFrame) -> list[Number]:
    known = rows["av_offset"].dropna()
    if not len(known):
        reasons = sorted(rows["sync_reason"].dropna().unique())
        text = f"not measured: {'; '.join(reasons) or 'no reason given'}"
        return [Number("av_offset", "AV offset and confidence", text, None)]
    offset = float(known.median())
    confidence = float(rows["av_confidence"].dropna().median())
    title = "median over segments; above 0: the audio leads"
    signed = f"{offset:+.1f}".replace("-", "\u2212")
    return [
        Number("av_offset", "AV offset", f"{signed} frames", round(offset, 4), title),
        Number("av_confidence", "sync confidence", f"{confidence:.2f}", round(confidence, 4), title),
    ]


def _render_page(tables: Tables, cards: list[Card], left_out: dict[str, int]) -> str:
    import jinja2

    numbers = summarise(tables)
    restricted = tables.samples[~tables.samples["redistributable"].astype(bool)]
    licences = restricted[["source", "licence"]].drop_duplicates().sort_values(["source", "licence"])
    reasons = [
        (source, reason, count)
        for source, counts in numbers.rejected.items()
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    # autoescape by extension would not know "html.j2"
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prep", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = human_duration
    return environment.get_template("contact_sheet.html.j2").render(
        summary=numbers,
        size_on_disk=human_bytes(numbers.bytes),
        clips_in=len(tables.manifest),
        cards=cards,
        left_out=left_out,
        reasons=reasons,
        most=max((count for _, _, count in reasons), default=1),
        rejected=records(tables.rejected.sort_values(["source", "reason", "clip"])),
        losses=partial_losses(tables.manifest),
        licences=list(licences.itertuples(index=False, name=None)),
        layers=[(name, label) for name, label, _ in LAYERS],
        sort_keys={n.key: n.label for card in cards for n in card.numbers if n.value is not None},
        view=drawing.VIEW,
        thumbnail=THUMBNAIL,
        fps=FPS,
    )


def _percent(frame: float, clip_frames: int) -> str:
    return f"{100 * frame / max(1, clip_frames):.2f}%"


def _with_unit(text: str, unit: str) -> str:
    return text + unit if unit == "°" else f"{text} {unit}".rstrip()
