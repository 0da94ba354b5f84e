"""How fast training windows come from shards, beside the recipe of Wav2Lip's users, and beside bare decoding.

The peer recipe, from its published facts: a folder of JPEG crops and an ``audio.wav`` per clip; an item is a
random window of five frames and a random reference window of five more, each read with ``cv2.imread`` and
resized to 96 px, and the mel of the whole clip, made anew for every item with ``librosa.load`` and an STFT,
from which 16 columns are cut. Ours gives the same ten frames, the masks of five of them, landmarks and the mel
windows. Both give uint8 pictures.

All are measured in one process with one thread each, by turns, so that a busy machine slows all alike.

    python -m benchmarks.loader --shards DIR [--split train] [--out loader.json] [--quick]
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import collections
import dataclasses
import functools
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import simplejpeg
from rich.console import Console
from rich.table import Table

from benchmarks.wav2lip_recipe import FRAMES, PEER_SIZE, ClipFolder, PeerRecipe, unpack
from g4g_core import storage
from g4g_core.errors import UsageError
from prep.records import FPS
from prep.shards import schema
from prep.shards.access import SampleReader
from prep.shards.index import Dataset
from prep.shards.order import Draw
from prep.shards.reader import IndexedReader

LENGTH_BINS = ((0, 4), (4, 8), (8, 16), (16, 32), (32, 10_000))  # seconds


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure: rounds and items of each contender a round; the same for each bin of lengths.

    Many short rounds: what else the machine does then falls on all contenders of a round, or is an outlier.
    """

    rounds: int
    items: int
    bin_rounds: int
    bin_items: int


FULL = Effort(rounds=80, items=12, bin_rounds=20, bin_items=12)
QUICK = Effort(rounds=2, items=3, bin_rounds=2, bin_items=2)


class OurReader:
    """Windows from the indexed reader, epoch after epoch, and the draws they came from."""

    def __init__(self, dataset: Dataset, split: str, size: int | None, keys: frozenset[str] | None = None) -> None:
        self._reader = IndexedReader(dataset, split, frames=FRAMES, size=size, selection=keys)
        self._windows = itertools.chain.from_iterable(iter(self._reader) for _ in itertools.count())
        self._given = 0

    def item(self) -> Any:
        self._given += 1
        return next(self._windows)

    def last_draws(self, count: int) -> list[Draw]:
        """What the last ``count`` items were made of (skipped samples would shift them: none is expected)."""
        if self._reader.skipped:
            raise UsageError("the data set has damaged samples", "Measure on one that 'g4g-prep verify' passes.")
        places = (divmod(n, self._reader.windows_per_epoch) for n in range(self._given - count, self._given))
        return [self._reader.draw(epoch, position) for epoch, position in places]


class DecodeFloor:
    """Nothing but decoding: the JPEGs and PNGs of given draws, whose bytes are in memory already."""

    def __init__(self, dataset: Dataset, size: int | None) -> None:
        self._samples = SampleReader(dataset)
        self._size = size

    def prepare(self, draws: Sequence[Draw]) -> list[tuple[list[bytes], list[np.ndarray], int]]:
        """(JPEGs, PNGs, side) of each draw."""
        prepared = []
        for draw in draws:
            frames = [schema.frame_suffix(int(i)) for i in (*draw.indices, *draw.references)]
            masks = [schema.mask_suffix(int(i)) for i in draw.indices]
            data = [bytes(d) for d in self._samples.read(draw.row, [*frames, *masks])]
            planes = [np.frombuffer(d, np.uint8) for d in data[len(frames) :]]
            prepared.append((data[: len(frames)], planes, self._size or draw.row.size))
        return prepared

    def decode(self, prepared: Sequence[tuple[list[bytes], list[np.ndarray], int]]) -> None:
        """As :func:`prep.shards.members.decode_frame` does: the decoder shrinks where it can."""
        for frames, masks, side in prepared:
            for data in frames:
                simplejpeg.decode_jpeg(data, "RGB", min_height=side, min_width=side, min_factor=1)
            for plane in masks:
                cv2.imdecode(plane, cv2.IMREAD_UNCHANGED)


def measure(shards: str, split: str | None, effort: Effort, scratch: Path, min_seconds: float = 8.0) -> dict[str, Any]:
    """All measurements, as plain values.

    Args:
        shards: a built data set.
        split: of it; the largest by default.
        effort: how long.
        scratch: an empty folder for the peer's files.
        min_seconds: clips shorter than this are used only for the table of lengths.

    Raises:
        UsageError: no clip is that long.
    """
    cv2.setNumThreads(1)
    dataset = Dataset.open(shards)
    split = split or max(dataset.splits, key=lambda name: dataset.info["splits"][name]["frames"])
    started = time.perf_counter()
    folders, keys = unpack(dataset, split, scratch)
    unpacked = time.perf_counter() - started
    long_clips = [name for name, clip in folders.items() if clip.frames >= min_seconds * FPS]
    if not long_clips:
        raise UsageError(
            f"no clip of the split {split!r} has {min_seconds:g} s or more",
            "Build a data set of longer clips.",
        )
    long_keys = frozenset(key for name in long_clips for key in keys[name])
    peer, peer_start = _timed(lambda: _first(PeerRecipe([folders[name] for name in long_clips])))
    stored, our_start = _timed(lambda: _first(OurReader(Dataset.open(shards), split, None, long_keys)))
    small = _first(OurReader(dataset, split, PEER_SIZE, long_keys))
    rounds = _rounds(peer, (stored, DecodeFloor(dataset, None)), (small, DecodeFloor(dataset, PEER_SIZE)), effort)
    return {
        "what": "training windows: 5 frames + 5 reference frames + mel (ours: with masks and landmarks)",
        "split": split,
        "clips": len(long_clips),
        "samples": len(long_keys),
        "size": int(dataset.info["size"]),
        "median_clip_seconds": statistics.median(folders[name].frames / FPS for name in long_clips),
        "effort": dataclasses.asdict(effort),
        "startup_seconds": {"peer": peer_start, "ours": our_start, "unpacking_for_peer": unpacked},
        "items_per_second": {
            name: effort.items / statistics.median(times[name] for times in rounds) for name in rounds[0]
        },
        "ratios": {
            "ours_over_peer": _ratio(rounds, "peer", "ours"),
            "ours_96_over_peer": _ratio(rounds, "peer", "ours_96"),
            "ours_time_over_floor": _ratio(rounds, "ours", "floor"),
            "ours_96_time_over_floor": _ratio(rounds, "ours_96", "floor_96"),
        },
        "by_clip_length": _by_length(dataset, split, folders, keys, effort),
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "opencv": cv2.__version__,
            "numpy": np.__version__,
            "librosa": sys.modules["librosa"].__version__,
        },
    }


def _rounds(
    peer: PeerRecipe,
    stored: tuple[OurReader, DecodeFloor],
    small: tuple[OurReader, DecodeFloor],
    effort: Effort,
) -> list[dict[str, float]]:
    """Seconds for ``effort.items`` items of each contender, round by round; the first round only warms up."""
    rounds = []
    for _ in range(effort.rounds + 1):
        times = {"peer": _seconds(peer.item, effort.items)}
        for suffix, (ours, floor) in (("", stored), ("_96", small)):
            times[f"ours{suffix}"] = _seconds(ours.item, effort.items)
            prepared = floor.prepare(ours.last_draws(effort.items))
            times[f"floor{suffix}"] = _timed(functools.partial(floor.decode, prepared))[1]
        rounds.append(times)
    return rounds[1:]


def _by_length(
    dataset: Dataset, split: str, folders: dict[str, ClipFolder], keys: dict[str, list[str]], effort: Effort
) -> list[dict[str, Any]]:
    """Milliseconds an item for clips of different lengths, contenders and bins by turns."""
    contenders: list[tuple[tuple[int, int], int, PeerRecipe, OurReader]] = []
    for low, high in LENGTH_BINS:
        names = [name for name, clip in folders.items() if low * FPS <= clip.frames < high * FPS]
        usable = {key for name in names for key in keys[name]}
        # a sample shorter than a window is in no order, and a bin of nothing else has no reader
        usable &= {row.key for row in dataset.rows(split) if row.n_frames >= FRAMES}
        if usable:
            peer = PeerRecipe([folders[name] for name in names])
            ours = OurReader(dataset, split, None, frozenset(usable))
            contenders.append(((low, high), len(names), peer, ours))
    times: dict[tuple[int, int], list[tuple[float, float]]] = collections.defaultdict(list)
    for _ in range(effort.bin_rounds + 1):
        for bounds, _count, peer, ours in contenders:
            times[bounds].append((_seconds(peer.item, effort.bin_items), _seconds(ours.item, effort.bin_items)))
    return [
        {
            "seconds": list(bounds),
            "clips": count,
            "peer_ms": 1000 * statistics.median(t[0] for t in times[bounds][1:]) / effort.bin_items,
            "ours_ms": 1000 * statistics.median(t[1] for t in times[bounds][1:]) / effort.bin_items,
        }
        for bounds, count, _peer, _ours in contenders
    ]


def _ratio(rounds: Sequence[dict[str, float]], above: str, below: str) -> dict[str, float]:
    """time(above) / time(below) within a round: median and the 10th and 90th percentile of the rounds."""
    ratios = sorted(times[above] / times[below] for times in rounds)
    tenth = len(ratios) // 10
    return {"median": statistics.median(ratios), "p10": ratios[tenth], "p90": ratios[-1 - tenth]}


def _first(contender: Any) -> Any:
    contender.item()
    return contender


def _timed(action: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = action()
    return result, time.perf_counter() - started


def _seconds(item: Callable[[], Any], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        item()
    return time.perf_counter() - started


def tables(result: dict[str, Any]) -> Iterator[Table]:
    """The result for people."""
    rates, ratios = result["items_per_second"], result["ratios"]
    title = f"{result['clips']} clips of {result['median_clip_seconds']:.1f} s (median), {result['size']} px"
    table = Table("contender", "items/s", "ms/item", "against the peer", "against its decode floor", title=title)

    def against(name: str) -> str:
        if name not in ratios:
            return ""
        return f"{ratios[name]['median']:.2f}x ({ratios[name]['p10']:.2f}-{ratios[name]['p90']:.2f})"

    labels = {
        "peer": "Wav2Lip's recipe, 96 px",
        "ours": "indexed reader, stored size",
        "floor": "decoding alone, stored size",
        "ours_96": "indexed reader, 96 px",
        "floor_96": "decoding alone, for 96 px",
    }
    for name, label in labels.items():
        rate = rates[name]
        over_floor = against(f"{name}_time_over_floor")
        table.add_row(label, f"{rate:.1f}", f"{1000 / rate:.2f}", against(f"{name}_over_peer"), over_floor)
    yield table
    lengths = Table("clip length", "clips", "peer ms/item", "ours ms/item", "ratio", title="cost against clip length")
    for row in result["by_clip_length"]:
        low, high = row["seconds"]
        label = f"{low}-{high} s" if high < LENGTH_BINS[-1][1] else f"{low} s and more"
        peer, ours = row["peer_ms"], row["ours_ms"]
        lengths.add_row(label, str(row["clips"]), f"{peer:.2f}", f"{ours:.2f}", f"{peer / ours:.2f}x")
    yield lengths
    startup = Table("start-up", "seconds", title="until the first item (imports of the peer included)")
    for name, seconds in result["startup_seconds"].items():
        startup.add_row(name.replace("_", " "), f"{seconds:.2f}")
    yield startup


@click.command(help=__doc__.split("\n", 1)[0] if __doc__ else None)
@click.option("--shards", required=True, help="A data set made by g4g-prep build-shards (folder or URL).")
@click.option("--split", default=None, help="Which split to read; the largest by default.")
@click.option("--min-seconds", default=8.0, show_default=True, help="Shorter clips only count in the length table.")
@click.option("--out", type=click.Path(dir_okay=False), default=None, help="Write the numbers there, as JSON.")
@click.option("--quick", is_flag=True, help="A few items only: does it run? The numbers then mean little.")
def main(shards: str, split: str | None, min_seconds: float, out: str | None, quick: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="loader-bench-") as scratch:
        result = measure(shards, split, QUICK if quick else FULL, Path(scratch), min_seconds)
    console = Console()
    for table in tables(result):
        console.print(table)
    if out is not None:
        storage.write_bytes(out, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
