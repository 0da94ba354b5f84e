"""The numbers of a data set, as ``g4g-prep stats`` prints them, and the tables that they come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from g4g_core import storage
from g4g_core.storage import Url
from prep.records import FPS
from prep.shards import schema
from prep.shards.index import Dataset
from prep.sources.splits import Leak, leaks

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

BYTE_COLUMNS = ("members", "offsets", "sizes")
"""Columns of the index that say where bytes lie; thousands of numbers a row that no table needs."""


@dataclasses.dataclass(frozen=True)
class Tables:
    """All tables of a data set, in memory.

    Attributes:
        info: what ``dataset.json`` holds.
        samples: a row per sample: the scalar columns of :data:`prep.shards.schema.INDEX` and ``shard``,
            in the order of splits, shards and tars.
        manifest: a row per input clip, columns of :data:`prep.shards.schema.MANIFEST`.
        markers: {shard stem: what its ``.stats.json`` holds}.
    """

    info: Mapping[str, Any]
    samples: pd.DataFrame
    manifest: pd.DataFrame
    markers: Mapping[str, Mapping[str, Any]]

    @property
    def rejected(self) -> pd.DataFrame:
        """The rows of ``manifest`` that gave no sample."""
        return self.manifest[self.manifest["outcome"] != "ok"]

    def leaks(self) -> list[Leak]:
        """Identities and videos with samples in two splits or more."""
        return leaks(records(self.samples[["source", "clip", "identity", "video_id", "split"]]))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the hashes of all shards: the same for the same samples, in whatever folder."""
        lines = [
            f"{stem} {marker['sha256']} {marker['index_sha256']}"
            for stem, marker in sorted(self.markers.items())
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Group:
    """Numbers of one source in one split. Medians are over samples; ``None`` where nothing was measured."""

    source: str
    split: str
    clips: int
    identities: int
    samples: int
    frames: int
    seconds: float
    face_px: float | None
    sharpness: float | None
    av_offset: float | None
    av_confidence: float | None
    sync_measured: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """What ``g4g-prep stats`` says.

    Attributes:
        crop, size, landmarks: how the faces were cut (version, px) and by which backend landmarks were found.
        groups: per source and split, sorted.
        total: all groups as one (source and split are ``""``).
        rejected: {source: {reason: clips}}.
        partial: {source: {reason: stretches of accepted clips that were not taken}}.
        bytes: of all tars.
        shards: how many.
        stage_seconds: {stage: processor seconds}, as the markers add up.
        footage_seconds: of the footage that these seconds were spent on.
        fingerprint: see :attr:`Tables.fingerprint`.
    """

    crop: str
    size: int
    landmarks: str
    groups: tuple[Group, ...]
    total: Group
    rejected: Mapping[str, Mapping[str, int]]
    partial: Mapping[str, Mapping[str, int]]
    bytes: int
    shards: int
    stage_seconds: Mapping[str, float]
    footage_seconds: float
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary: floats are finite, unknown numbers are ``None``."""
        speed = {
            stage: None if seconds <= 0 else round(self.footage_seconds / seconds, 2)
            for stage, seconds in self.stage_seconds.items()
        }
        return {**dataclasses.asdict(self), "times_realtime": speed}


def load_tables(root: Url) -> Tables:
    """Read every table of the data set under ``root``.

    Raises:
        DatasetError: there is no data set, or it was never finished.
        StorageError: a file cannot be read.
    """
    dataset = Dataset.open(root)
    import pyarrow as pa

    columns = [name for name in schema.INDEX.names if name not in BYTE_COLUMNS]
    fields = pa.schema([schema.INDEX.field(name) for name in columns])
    parts = [fields.append(pa.field("shard", pa.string())).empty_table()]
    markers = {}
    for split in dataset.splits:
        for shard in dataset.committed(split):
            table = shard.table(columns).select(columns).cast(fields)
            parts.append(table.append_column("shard", pa.array([shard.stem] * len(table), pa.string())))
            markers[shard.stem] = shard.marker
    return Tables(dataset.info, pa.concat_tables(parts).to_pandas(use_threads=False), read_manifest(root), markers)


def read_manifest(root: Url) -> pd.DataFrame:
    """``manifest.parquet`` of the data set under ``root``."""
    from prep.shards.tables import read_table

    table = read_table(storage.read_bytes(storage.join(root, schema.MANIFEST_FILE)))
    rows: pd.DataFrame = table.to_pandas(use_threads=False)
    return rows


def summary(root: Url) -> Summary:
    """Count the data set under ``root``; see :class:`Summary`. Raises what :func:`load_tables` raises."""
    return summarise(load_tables(root))


def summarise(tables: Tables) -> Summary:
    """:func:`summary` of tables that are already in memory."""
    samples = tables.samples
    groups = [_group(str(source), str(split), rows) for (source, split), rows in samples.groupby(["source", "split"])]
    stage_seconds: dict[str, float] = {}
    for _, marker in sorted(tables.markers.items()):
        for stage, seconds in marker.get("stage_seconds", {}).items():
            stage_seconds[stage] = stage_seconds.get(stage, 0.0) + float(seconds)
    rejected: dict[str, dict[str, int]] = {}
    for (source, reason), rows in tables.rejected.groupby(["source", "reason"]):
        rejected.setdefault(str(source), {})[str(reason)] = len(rows)
    partial: dict[str, dict[str, int]] = {}
    for loss in partial_losses(tables.manifest):
        counts = partial.setdefault(loss["source"], {})
        counts[loss["reason"]] = counts.get(loss["reason"], 0) + 1
    return Summary(
        crop=str(tables.info["crop"]),
        size=int(tables.info["size"]),
        landmarks=str(tables.info["landmarks"]),
        groups=tuple(groups),
        total=_group("", "", samples),
        rejected=rejected,
        partial={source: dict(sorted(counts.items())) for source, counts in sorted(partial.items())},
        bytes=sum(int(marker["bytes"]) for marker in tables.markers.values()),
        shards=len(tables.markers),
        stage_seconds={stage: round(seconds, 3) for stage, seconds in sorted(stage_seconds.items())},
        footage_seconds=round(float(samples["n_frames"].sum()) / FPS, 2),
        fingerprint=tables.fingerprint,
    )


def partial_losses(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    """The stretches of accepted clips that were not taken: dictionaries of ``source``, ``clip``, ``stage``,
    ``reason``, ``detail``, ``frame_start`` and ``n_frames`` (25 fps clip frames, or ``None``)."""
    return [
        {"source": row.source, "clip": row.clip, **loss}
        for row in manifest[manifest["partial"] != "[]"].itertuples()
        for loss in json.loads(row.partial)
    ]


def median(values: pd.Series) -> float | None:
    """Median of what is known, rounded to 1e-3; ``None`` where nothing is."""
    known = values.dropna()
    return round(float(known.median()), 3) if len(known) else None


def render(result: Summary) -> RenderableType:
    """:class:`Summary` as tables for a terminal."""
    from rich.console import Group as Stack
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [
        f"{result.crop} at {result.size} px, landmarks {result.landmarks}, "
        f"{result.shards} shards, {human_bytes(result.bytes)}"
    ]
    table = Table("source", "split")
    for title in (
        "clips",
        "identities",
        "samples",
        "frames",
        "duration",
        "face px",
        "sharpness",
        "offset",
        "confidence",
    ):
        table.add_column(title, justify="right")
    for group in result.groups:
        table.add_row(*_cells(group))
    table.add_section()
    table.add_row(*_cells(dataclasses.replace(result.total, source="all")))
    parts.append(table)
    for title, counts in (("rejected clips", result.rejected), ("stretches not taken", result.partial)):
        if counts:
            losses = Table("source", "reason", title=title, title_justify="left")
            losses.add_column("number", justify="right")
            for source, reasons in counts.items():
                for reason, number in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
                    losses.add_row(Text(source), reason, str(number))
            parts.append(losses)
    if result.stage_seconds:
        stages = Table("stage", title="processor time", title_justify="left")
        stages.add_column("seconds", justify="right")
        stages.add_column("x realtime", justify="right")
        for stage, speed in result.to_json()["times_realtime"].items():
            stages.add_row(
                stage, f"{result.stage_seconds[stage]:.1f}", "-" if speed is None else f"{speed:.1f}"
            )
        parts.append(stages)
    return Stack(*parts)


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """A dictionary per row, with ``None`` where nothing is known (pandas would say NaN)."""
    known = rows.astype(object)
    found: list[dict[str, Any]] = known.where(known.notna(), None).to_dict("records")
    return found


def human_bytes(count: int) -> str:
    """``1.2 GB``: decimal units, as disks are sold."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def human_duration(seconds: float) -> str:
    """``12 s``, ``3.4 min`` or ``5.6 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _group(source: str, split: str, rows: pd.DataFrame) -> Group:
    frames = int(rows["n_frames"].sum())
    return Group(
        source=source,
        split=split,
        clips=len(rows[["source", "clip"]].drop_duplicates()),
        identities=int(rows["identity"].nunique()),
        samples=len(rows),
        frames=frames,
        seconds=round(frames / FPS, 2),
        face_px=median(rows["face_px"]),
        sharpness=median(rows["sharpness"]),
        av_offset=median(rows["av_offset"]),
        av_confidence=median(rows["av_confidence"]),
        sync_measured=int(rows["av_offset"].notna().sum()),
    )


def _cells(group: Group) -> list[RenderableType]:
    from rich.text import Text

    numbers = [group.clips, group.identities, group.samples, group.frames]
    measured = [("face_px", ".0f"), ("sharpness", ".3g"), ("av_offset", "+.1f"), ("av_confidence", ".2f")]
    return [
        Text(group.source),  # a folder's name may look like markup
        group.split,
        *(f"{number:,}" for number in numbers),
        human_duration(group.seconds),
        *("-" if (value := getattr(group, name)) is None else format(value, form) for name, form in measured),
    ]
