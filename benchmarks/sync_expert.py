"""How far the embedded lip-sync experts can be trusted: offsets, shifts, swaps, codecs, sizes, poses, on footage
that neither has learned from.

    python -m benchmarks.sync_expert --shards DIR --out docs/sync-expert

The shards carry a column ``role`` (``sync-a``, ``sync-b``, anything else), see docs/sync-expert.md. Writes
``study.json`` and plots as SVG. With ``--syncnet`` its readings stand beside ours, where its weights are at hand.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import collections
import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import click
import cv2
import numpy as np

from benchmarks import sync_plots
from benchmarks.syncnet_column import open_or_say_why
from g4g_core.progress import progress
from prep.records import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from prep.shards.access import SampleReader
from prep.shards.index import Dataset
from prep.shards.rows import Row
from prep.stages.sync import shifted
from prep.sync_expert import footage
from prep.sync_expert.design import DESIGNS
from prep.sync_expert.infer import Expert, load
from prep.sync_expert.mouths import mouth_patches
from prep.sync_expert.reading import MAX_SHIFT, Compared, Reading, read

LEAST_FRAMES = 72
LONGEST = max(DESIGNS.values(), key=lambda design: design.frames)
SHIFTS = range(-12, 13)
JUDGES = ("sync-a", "sync-b", "pair")
_STEP = 2
"""Conditions are read at every second window, and compared with the clip as it is read so."""

READ_AS_ZERO = ("lrs2", "grid")
"""Sources whose footage is counted as in sync."""


@dataclasses.dataclass(eq=False)
class Clip:
    """A shot, decoded: uint8 ``crops`` [T, S, S, 3], ``landmarks`` as fitted, int16 ``pcm``."""

    key: str
    source: str
    identity: str
    role: str
    yaw: float
    crops: np.ndarray
    landmarks: np.ndarray
    pcm: np.ndarray
    patches: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    def unseen_by(self, judge: str) -> bool:
        """Whether the expert (of the pair: both) has not learned from this person."""
        return self.role not in (("sync-a", "sync-b") if judge == "pair" else (judge,))


class Judges:
    """Both experts and their mean."""

    def __init__(self) -> None:
        self.experts: dict[str, Expert] = {name: load(name) for name in JUDGES[:2]}

    def seen(self, patches: np.ndarray, step: int = 1) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Embeddings of every ``step``-th window of picture and its middle, the same for both."""
        middles = LONGEST.middles(len(patches))[::step]
        return {name: (expert.see(patches, middles), middles) for name, expert in self.experts.items()}

    def heard(self, pcm: np.ndarray) -> dict[str, np.ndarray]:
        return {name: expert.hear(pcm) for name, expert in self.experts.items()}

    def read(self, seen: dict[str, tuple[np.ndarray, np.ndarray]], heard: dict[str, np.ndarray]) -> dict[str, Reading]:
        """By judge; judges that cannot read are left out."""
        own = {
            name: Compared(seen[name][0], heard[name], seen[name][1] - expert.design.frames // 2)
            for name, expert in self.experts.items()
        }
        found = {name: read([compared]) for name, compared in own.items()}
        found["pair"] = read(list(own.values()))
        return {name: reading for name, reading in found.items() if reading is not None}


def clips_of(dataset: Dataset, source: str | None = None) -> Iterator[Clip]:
    """Every shot of a data set, decoded, one after the other; ``source`` stands for the one that its rows name."""
    reader = SampleReader(dataset)
    rows: list[Row] = [row for split in dataset.splits for row in dataset.rows(split)]
    for key, group in footage.shots(rows):
        meta = reader.meta(group[0])
        yield Clip(
            key=key, source=source or (meta["path"].split("/")[0] if meta["source"] == "folder" else meta["source"]),
            identity=meta["identity"], role=meta["role"], yaw=abs(meta["quality"]["yaw"]),
            crops=np.concatenate([reader.frames(row, range(row.n_frames)) for row in group]),
            landmarks=np.concatenate([reader.landmarks(row, raw=True) for row in group]),
            pcm=np.concatenate([reader.pcm(row) for row in group]),
        )  # fmt: skip


# ---------------------------------------------------------------- what is done to a clip


def pictures_changed(clip: Clip) -> Iterator[tuple[str, np.ndarray]]:
    """Mouth pictures under conditions that do not change what is said."""
    mirrored = clip.landmarks[:, _MIRRORED].copy()
    mirrored[..., 0] = clip.crops.shape[2] - 1 - mirrored[..., 0]
    yield "mirrored", mouth_patches(np.ascontiguousarray(clip.crops[:, :, ::-1]), mirrored)
    for factor in (0.8, 1.2):
        lit = np.clip(clip.crops.astype(np.float32) * factor, 0, 255).astype(np.uint8)
        yield f"brightness x{factor:g}", mouth_patches(lit, clip.landmarks)
    size = clip.crops.shape[1]
    for side in (64, 96, 128, 256):
        small = np.stack([cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) for crop in clip.crops])
        yield f"crop {side} px", mouth_patches(small, (clip.landmarks + 0.5) * (side / size) - 0.5)
    for quality in (90, 60, 30):
        yield f"JPEG {quality}", mouth_patches(_jpeg(clip.crops, quality), clip.landmarks)
    for crf in (18, 28, 38):
        yield f"H.264 crf {crf}", mouth_patches(_h264(clip.crops, crf), clip.landmarks)


def sounds_changed(clip: Clip) -> Iterator[tuple[str, np.ndarray]]:
    """Sound under conditions that do not change what is said."""
    yield "AAC 64k", _coded(clip.pcm, "aac", "adts", 64_000)
    yield "MP3 64k", _coded(clip.pcm, "mp3", "mp3", 64_000)
    noise = np.random.default_rng(len(clip.pcm)).normal(size=len(clip.pcm))
    level = clip.pcm.astype(np.float64).std() / 10  # 20 dB
    yield "noise 20 dB", np.clip(clip.pcm + level * noise, -32768, 32767).astype(np.int16)


_MIRRORED = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
     41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)]
)  # fmt: skip


def _jpeg(crops: np.ndarray, quality: int) -> np.ndarray:
    coded = [cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for crop in crops]
    return np.stack([cv2.imdecode(data, cv2.IMREAD_COLOR) for data in coded])


def _h264(crops: np.ndarray, crf: int) -> np.ndarray:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = crops.shape[2], crops.shape[1], "yuv420p"
        for crop in crops:
            target.mux(stream.encode(av.VideoFrame.from_ndarray(crop, format="rgb24")))
        target.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as source:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)])


def _coded(pcm: np.ndarray, codec: str, container: str, rate: int) -> np.ndarray:
    """``pcm`` through a lossy codec, its delay taken out by cross-correlation."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as target:
        stream = target.add_stream(codec, rate=SAMPLE_RATE, layout="mono", bit_rate=rate)
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    buffer.seek(0)
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    with av.open(buffer) as source:
        pieces = [part.to_ndarray()[0] for frame in source.decode(audio=0) for part in resampler.resample(frame)]
    found = np.concatenate(pieces)
    size = 1 << int(np.ceil(np.log2(len(found) + len(pcm))))
    product = np.fft.rfft(found, size) * np.conj(np.fft.rfft(pcm, size))
    delay = int(np.argmax(np.fft.irfft(product)[:8192]))
    return np.pad(found[delay:], (0, len(pcm)))[: len(pcm)].astype(np.int16)


# ---------------------------------------------------------------- figures


def study(clips: Sequence[Clip], judges: Judges, quiet: bool) -> dict[str, Any]:
    """All figures, as plain values."""
    good = [clip for clip in clips if _is_truth(clip)]
    long = [clip for clip in good if len(clip.patches) >= LEAST_FRAMES]
    rows: list[dict[str, Any]] = []
    with progress(len(long), "study", "clips", quiet) as bar:
        for clip in long:
            rows.append(_clip_row(clip, judges))
            bar.advance(1, clip.key)
    result: dict[str, Any] = {"clips": rows, "offsets": {}, "robust": {}, "swapped": {}}
    for judge in JUDGES:
        chosen = [row for row in rows if row["unseen"][judge]]
        result["offsets"][judge] = _offset_figures(chosen, judge)
        result["robust"][judge] = _robust_figures(chosen, judge)
        result["swapped"][judge] = {f"{seconds} s": _swapped(good, judge, judges, seconds) for seconds in (1, 2, 4)}
    return result


def _is_truth(clip: Clip) -> bool:
    return clip.source != "sync" and "two_speakers" not in clip.key


def _clip_row(clip: Clip, judges: Judges) -> dict[str, Any]:
    seen, heard = judges.seen(clip.patches), judges.heard(clip.pcm)
    plain = judges.read(seen, heard)
    row: dict[str, Any] = {
        "key": clip.key, "source": clip.source, "role": clip.role, "frames": len(clip.patches), "yaw": clip.yaw,
        "unseen": {judge: clip.unseen_by(judge) for judge in JUDGES},
        "offset": {judge: reading.offset for judge, reading in plain.items()},
        "confidence": {judge: reading.confidence for judge, reading in plain.items()},
        "score": {judge: reading.score for judge, reading in plain.items()},
        "curve": {judge: _plain(reading.curve) for judge, reading in plain.items()},
    }  # fmt: skip
    row["shifted"] = {judge: {} for judge in JUDGES}
    for shift in SHIFTS:
        for judge, reading in judges.read(seen, judges.heard(shifted(clip.pcm, shift))).items():
            row["shifted"][judge][shift] = reading.offset
    row["changed"] = {judge: {} for judge in JUDGES}
    seen = judges.seen(clip.patches, _STEP)
    _note(row["changed"], "as it is", judges.read(seen, heard))
    for name, patches in pictures_changed(clip):
        _note(row["changed"], name, judges.read(judges.seen(patches, _STEP), heard))
    for name, pcm in sounds_changed(clip):
        _note(row["changed"], name, judges.read(seen, judges.heard(pcm)))
    rng = np.random.default_rng(0)
    frozen = clip.patches[len(clip.patches) // 2 :][:1].repeat(len(clip.patches), axis=0)
    for name, patches in (("frozen", frozen), ("shuffled", clip.patches[rng.permutation(len(clip.patches))])):
        _note(row["changed"], name, judges.read(judges.seen(patches, _STEP), heard))
    row["replaced"] = {judge: {} for judge in JUDGES}
    for part in (0, 25, 50, 75, 100):  # by its own sound backwards: the same voice and room, other words
        pcm = clip.pcm.copy()
        end = len(pcm) * part // 100
        pcm[:end] = clip.pcm[::-1][:end]
        for judge, reading in judges.read(seen, judges.heard(pcm)).items():
            row["replaced"][judge][part] = reading.confidence
    return row


def _note(table: dict[str, dict[str, Any]], name: str, readings: dict[str, Reading]) -> None:
    for judge, reading in readings.items():
        table[judge][name] = {"score": reading.score, "offset": reading.offset, "confidence": reading.confidence}


def _offset_figures(rows: Sequence[dict[str, Any]], judge: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    groups = collections.defaultdict(list)
    for row in rows:
        groups[_group(row)].append(row)
        core = row["source"] in READ_AS_ZERO or (row["source"] == "mocha" and row["role"] == "test")
        if core:
            groups["LRS2, GRID, mocha of role test"].append(row)
        if row["source"] not in ("mocha", "sample"):
            groups["all real footage"].append(row)
    for name, members in sorted(groups.items()):
        offsets = np.array([row["offset"][judge] for row in members])
        agree = [abs(row["offset"]["sync-a"] - row["offset"]["sync-b"]) <= 1 for row in members]
        follow = [
            abs((row["shifted"][judge][shift] - row["offset"][judge]) + shift) <= 1
            for row in members for shift in SHIFTS if abs(row["offset"][judge] - shift) <= MAX_SHIFT
        ]  # fmt: skip
        found[name] = {
            "clips": len(members), "within_1": float((abs(offsets) <= 1).mean()),
            "within_3": float((abs(offsets) <= 3).mean()), "median": float(np.median(offsets)),
            "a_and_b_agree": float(np.mean(agree)), "follows_shift": float(np.mean(follow)),
        }  # fmt: skip
    return found


def _group(row: dict[str, Any]) -> str:
    return "mocha (test)" if (row["source"], row["role"]) == ("mocha", "test") else str(row["source"])


def _robust_figures(rows: Sequence[dict[str, Any]], judge: str) -> dict[str, Any]:
    """How conditions move the score, against what two frames of offset do."""
    gaps = []
    for row in rows:
        curve, best = np.array(row["curve"][judge], float), row["offset"][judge] + MAX_SHIFT
        beside = [curve[place] for place in (best - 2, best + 2) if 0 <= place < len(curve)]
        gaps.append(float(np.nanmean(beside) - curve[best]))
    found: dict[str, Any] = {"gap of 2 frames": float(np.mean(gaps))}
    plain = [row["changed"][judge]["as it is"] for row in rows]
    for name in [name for name in rows[0]["changed"][judge] if name != "as it is"]:
        changed = [row["changed"][judge][name] for row in rows]
        moved = [now["score"] - before["score"] for now, before in zip(changed, plain, strict=True)]
        kept = [abs(now["offset"] - before["offset"]) <= 1 for now, before in zip(changed, plain, strict=True)]
        found[name] = {
            "mean_change": float(np.mean(moved)), "mean_abs_change": float(np.mean(np.abs(moved))),
            "below_truth": float(np.mean(np.array(moved) < 0)), "offset_kept": float(np.mean(kept)),
        }  # fmt: skip
    found["replaced"] = {
        part: float(np.mean([row["replaced"][judge][part] for row in rows])) for part in rows[0]["replaced"][judge]
    }
    return found


def _swapped(clips: Sequence[Clip], judge: str, judges: Judges, seconds: int) -> dict[str, Any]:
    """AUC of clips in sync against the same pictures with another person's sound, all cut to ``seconds``."""
    frames = seconds * FPS
    chosen = [clip for clip in clips if clip.unseen_by(judge) and len(clip.patches) >= frames]
    chosen = [clip for clip in chosen if clip.source != "sample"]
    seen = [judges.seen(clip.patches[:frames]) for clip in chosen]
    heard = [judges.heard(clip.pcm[: frames * SAMPLES_PER_FRAME]) for clip in chosen]
    rng = np.random.default_rng(0)
    true: list[Reading] = []
    false: list[Reading] = []
    for number, clip in enumerate(chosen):
        others = [other for other, another in enumerate(chosen) if another.identity != clip.identity]
        true += _kept(judges.read(seen[number], heard[number]), judge)
        for other in rng.choice(others, min(4, len(others)), replace=False):
            false += _kept(judges.read(seen[number], heard[other]), judge)
    names: tuple[tuple[str, Callable[[Reading], float]], ...] = (
        ("score", lambda reading: reading.score), ("confidence", lambda reading: reading.confidence),
        ("distance", lambda reading: -reading.distance),
    )  # fmt: skip
    return {
        "clips": len(true),
        **{name: auc([get(r) for r in true], [get(r) for r in false]) for name, get in names},
    }


def _kept(readings: dict[str, Reading], judge: str) -> list[Reading]:
    return [readings[judge]] if judge in readings else []


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """Chance that a good one scores above a bad one."""
    a, b = np.array(good)[:, None], np.array(bad)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def _plain(curve: np.ndarray) -> list[float | None]:
    return [round(float(value), 4) if np.isfinite(value) else None for value in curve]


def anchors(clips: Sequence[Clip], judges: Judges) -> dict[str, Any]:
    """Readings of the clips with known offsets and of those with swapped sound."""
    found: dict[str, Any] = {}
    for clip in clips:
        if clip.source == "sync":
            for judge, reading in judges.read(judges.seen(clip.patches), judges.heard(clip.pcm)).items():
                found.setdefault(clip.key, {})[judge] = {
                    "offset": reading.offset, "confidence": reading.confidence, "score": reading.score,
                }  # fmt: skip
    return found


def thresholds(result: dict[str, Any]) -> dict[str, Any]:
    """Score and confidence that 95 % of good unseen clips reach."""
    found: dict[str, Any] = {}
    for judge, name in itertools.product(JUDGES, ("score", "confidence")):
        values = [row[name][judge] for row in result["clips"] if row["unseen"][judge] and row["source"] != "sample"]
        found.setdefault(judge, {})[name] = float(np.percentile(values, 5))
    return found


def _syncnet_column(clips: Sequence[Clip]) -> dict[str, dict[str, float]]:
    """SyncNet's reading of every clip, empty without its weights."""
    network = open_or_say_why()
    return {} if network is None else {clip.key: network.read(clip.crops, clip.pcm) for clip in clips}


@click.command(help=__doc__.split("\n\n", 1)[0] if __doc__ else None)
@click.option("--shards", required=True, multiple=True, help="A data set with roles; may be repeated.")
@click.option("--sample", multiple=True, help="A data set of the rendered sample: its figures stand apart.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the results.")
@click.option("--syncnet", is_flag=True, help="Add SyncNet's readings (weights syncnet-v2, package syncnet-python).")
@click.option("--quiet", is_flag=True)
def main(shards: tuple[str, ...], sample: tuple[str, ...], out: Path, syncnet: bool, quiet: bool) -> None:
    cv2.setNumThreads(1)
    judges = Judges()
    clips = []
    sets = [(root, None) for root in shards] + [(root, "sample") for root in sample]
    for clip in itertools.chain.from_iterable(clips_of(Dataset.open(root), name) for root, name in sets):
        clip.patches = mouth_patches(clip.crops, clip.landmarks)
        clips.append(clip)
    result = study(clips, judges, quiet)
    result["anchors"] = anchors(clips, judges)
    result["thresholds"] = thresholds(result)
    result["syncnet"] = _syncnet_column(clips) if syncnet else {}
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.json").write_text(json.dumps(result, default=float) + "\n")
    sync_plots.main(out)
    for judge in JUDGES:
        for name, figures in result["offsets"][judge].items():
            click.echo(f"{judge:7} {name:32} " + "  ".join(f"{k} {v:.3g}" for k, v in figures.items()))
    for judge in JUDGES:
        click.echo(f"{judge:7} swapped {result['swapped'][judge]}")
        click.echo(f"{judge:7} thresholds {result['thresholds'][judge]}")
        for name, figures in result["robust"][judge].items():
            click.echo(f"{judge:7} {name:18} {figures}")
    for key, readings in result["anchors"].items():
        click.echo(f"{key:40} {readings}")


if __name__ == "__main__":
    main()
