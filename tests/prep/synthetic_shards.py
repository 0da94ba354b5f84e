"""Writes a small, valid data set folder without any video: noise for faces, a sweep for speech."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prep.records import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from prep.shards import schema
from prep.shards.sample import Sample, TarAppender, json_bytes
from prep.stages.mel import mel_spectrogram, segment_columns


@dataclasses.dataclass(frozen=True)
class SyntheticClip:
    """A clip to write: ``segments`` are (first clip frame, frames), ``clip_frames`` its length."""

    clip: str
    identity: str
    split: str
    segments: tuple[tuple[int, int], ...]
    clip_frames: int
    video_id: str | None = None


CLIPS = (
    SyntheticClip("a/00", "anna", "train", ((0, 30), (30, 25)), 55),
    SyntheticClip("a/01", "anna", "train", ((5, 27),), 40),
    SyntheticClip("b/00", "ben", "train", ((0, 4),), 4),
    SyntheticClip("b/01", "ben", "train", ((0, 26),), 26, "upload-b"),
    SyntheticClip("c/00", "cleo", "val", ((0, 28),), 28),
    SyntheticClip("d/00", "dora", "test", ((10, 26),), 60),
)
REJECTED = ("e/00", "eve")


def clip_pcm(clip: SyntheticClip) -> np.ndarray:
    """int16 [640 clip_frames]: the sound of the whole clip."""
    n = SAMPLES_PER_FRAME * clip.clip_frames
    seconds = np.arange(n) / SAMPLE_RATE
    rate = 300 + 40 * len(clip.clip) + 700 * seconds
    noise = np.random.default_rng(n).normal(0, 300, n)
    return (8000 * np.sin(2 * np.pi * rate * seconds) + noise).astype(np.int16)


@functools.cache
def clip_mel(clip: SyntheticClip) -> np.ndarray:
    """float32 [n, 80]: mel of the whole clip."""
    return mel_spectrogram(clip_pcm(clip))


def write_dataset(root: Path, clips: Sequence[SyntheticClip] = CLIPS, *, size: int = 32, per_shard: int = 3) -> Path:
    """Write the data set of ``clips`` under ``root``, at most ``per_shard`` samples a shard; returns ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    splits: dict[str, dict[str, Any]] = {}
    rows_by_clip: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for split in dict.fromkeys(clip.split for clip in clips):
        samples = [pair for clip in clips if clip.split == split for pair in clip_samples(clip, size)]
        stems, rows = [], []
        for number, first in enumerate(range(0, len(samples), per_shard)):
            stem = schema.shard_name(split, number)
            shard_rows = write_shard(root, stem, samples[first : first + per_shard])
            stems.append(stem)
            rows += shard_rows
        for row in rows:
            rows_by_clip[row["clip"]].append(row)
        splits[split] = {"shards": stems, **_counts(rows)}
        names = sorted({f"{row['source']}/{row['clip']}" for row in rows})
        (root / schema.SPLITS_FOLDER).mkdir(exist_ok=True)
        (root / schema.SPLITS_FOLDER / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    _write_manifest(root, clips, rows_by_clip)
    every_row = [row for rows in rows_by_clip.values() for row in rows]
    info = {
        "schema_version": schema.SCHEMA_VERSION,
        "crop": "crop/1",
        "size": size,
        "fps": FPS,
        "landmarks": "synthetic",
        "config": {},
        "splits": splits,
        "sources": {
            "toy": {
                "ok": len(clips),
                "rejected": {"no_face": 1},
                **_counts(every_row),
                "clips": len(clips) + 1,
            }
        },
        "leaks": [],
    }
    (root / schema.DATASET_FILE).write_text(json.dumps(info, sort_keys=True, indent=2) + "\n")
    return root


def clip_samples(clip: SyntheticClip, size: int) -> Iterator[tuple[Sample, dict[str, Any]]]:
    """(sample, its row of the index without the bytes) of every segment of ``clip``."""
    mel, pcm = clip_mel(clip), clip_pcm(clip)
    for segment, (frame_start, n_frames) in enumerate(clip.segments):
        first, last = segment_columns(frame_start, n_frames, len(mel))
        name = clip.clip.replace("/", "_")
        seed = int.from_bytes(hashlib.sha256(f"{name} {segment}".encode()).digest()[:4], "big")
        generator = np.random.default_rng(seed)
        row: dict[str, Any] = dict.fromkeys(schema.INDEX.names)
        row |= {
            "key": schema.sample_key("toy", name, 0, segment),
            "source": "toy",
            "clip": name,
            "shot": 0,
            "segment": segment,
            "identity": clip.identity,
            "video_id": clip.video_id,
            "split": clip.split,
            "subset": "",
            "role": "",
            "path": f"{clip.clip}.mp4",
            "content_sha256": hashlib.sha256(name.encode()).hexdigest(),
            "licence": "made up",
            "redistributable": True,
            "frame_start": frame_start,
            "n_frames": n_frames,
            "mel_start": first,
            "n_mel": last - first,
            "sample_start": SAMPLES_PER_FRAME * frame_start,
            "clip_frames": clip.clip_frames,
            "duration": n_frames / FPS,
            "size": size,
            "n_interpolated": 0,
            "sync_reason": "no estimator",
        }
        for field in schema.INDEX:
            if pa.types.is_float32(field.type) and not field.nullable:
                row[field.name] = 1.0
        bytes_columns = ("members", "offsets", "sizes")
        meta = {name: value for name, value in row.items() if name not in bytes_columns}
        begin, end = SAMPLES_PER_FRAME * frame_start, SAMPLES_PER_FRAME * (frame_start + n_frames)
        sample = Sample(
            key=row["key"],
            meta={"schema_version": schema.SCHEMA_VERSION, **meta},
            frames=[jpeg(crop(generator, size)) for _ in range(n_frames)],
            masks=[png(mask_plane(size)) for _ in range(n_frames)],
            landmarks=generator.uniform(0, size, (n_frames, 68, 2)).astype(np.float32),
            landmarks_raw=generator.uniform(0, size, (n_frames, 68, 2)).astype(np.float32),
            mel=mel[first:last],
            pcm=pcm[begin:end],
        )
        yield sample, row


def write_shard(root: Path, stem: str, samples: Sequence[tuple[Sample, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Write the three files of one shard; returns its rows."""
    stream = io.BytesIO()
    tar = TarAppender(stream)
    rows = [{**row, **tar.add_sample(sample)} for sample, row in samples]
    tar.finish()
    (root / f"{stem}.tar").write_bytes(stream.getvalue())
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.INDEX), root / f"{stem}.parquet")
    counts = _counts(rows)
    del counts["identities"]
    write_marker(root, stem, shard=stem, fingerprint="synthetic", reasons={}, **counts)
    return rows


def write_marker(root: Path, stem: str, **fields: Any) -> None:
    """Write the commit marker that fits the shard's two other files as they are now, or bring it up to date."""
    path = root / f"{stem}.stats.json"
    old = json.loads(path.read_bytes()) if path.exists() else {}
    tar = (root / f"{stem}.tar").read_bytes()
    marker = {
        "schema_version": schema.SCHEMA_VERSION,
        "stage_seconds": {},
        "environment": {},
        **old,
        "sha256": hashlib.sha256(tar).hexdigest(),
        "bytes": len(tar),
        "index_sha256": hashlib.sha256((root / f"{stem}.parquet").read_bytes()).hexdigest(),
        **fields,
    }
    path.write_bytes(json_bytes(marker))


def crop(generator: np.random.Generator, size: int) -> np.ndarray:
    """uint8 [size, size, 3] RGB: soft noise that a JPEG keeps nearly as it is."""
    noise = generator.uniform(0, 255, (8, 8, 3)).astype(np.float32)
    soft = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    grain = generator.normal(0, 2, (size, size, 1))
    return np.clip(soft + grain, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    """RGB picture as a JPEG of quality 95, 4:4:4."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return bytes(cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes())


def mask_plane(size: int) -> np.ndarray:
    """uint8 [size, size]: nested regions and the erase bit."""
    plane = np.zeros((size, size), np.uint8)
    half, eighth = size // 2, size // 8
    plane[half:, eighth:-eighth] |= int(schema.MaskBit.LOWER_FACE | schema.MaskBit.ERASE)
    plane[half + eighth : -eighth, 2 * eighth : -2 * eighth] |= int(schema.MaskBit.MOUTH)
    plane[-2 * eighth - 1 : -eighth - 1, 3 * eighth : -3 * eighth] |= int(schema.MaskBit.LIPS)
    return plane


def png(plane: np.ndarray) -> bytes:
    """Grey plane as a PNG."""
    options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 6]
    return bytes(cv2.imencode(".png", plane, options)[1].tobytes())


def _counts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "clips": len({row["clip"] for row in rows}),
        "identities": len({row["identity"] for row in rows}),
        "samples": len(rows),
        "frames": sum(row["n_frames"] for row in rows),
        "seconds": sum(row["duration"] for row in rows),
    }


def _write_manifest(root: Path, clips: Sequence[SyntheticClip], rows_by_clip: dict[str, list[dict[str, Any]]]) -> None:
    rows = []
    for clip in clips:
        name = clip.clip.replace("/", "_")
        rows.append(
            {
                "source": "toy",
                "clip": name,
                "identity": clip.identity,
                "video_id": clip.video_id,
                "split": clip.split,
                "subset": "",
            "role": "",
                "path": f"{clip.clip}.mp4",
                "licence": "made up",
                "outcome": "ok",
                "partial": "[]",
                "n_samples": len(rows_by_clip[name]),
                "n_frames": sum(row["n_frames"] for row in rows_by_clip[name]),
                "clip_frames": clip.clip_frames,
            }
        )
    name, identity = REJECTED
    rejected = {**rows[0], "clip": name.replace("/", "_"), "identity": identity, "path": f"{name}.mp4"}
    rejected |= {
        "outcome": "rejected",
        "stage": "tracking",
        "reason": "no_face",
        "detail": "no face in 9 frames",
    }
    rejected |= {"n_samples": 0, "n_frames": 0}
    pq.write_table(pa.Table.from_pylist([*rows, rejected], schema=schema.MANIFEST), root / schema.MANIFEST_FILE)
