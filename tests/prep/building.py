"""Builds of tiny footage, for tests: clips of about a second, shards of a few kilobytes, and what came of it."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
from synthetic_media import write_media

from g4g_core import storage
from prep.config import BuildConfig
from prep.records import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from prep.run.build import Build, BuildReport
from prep.run.runners import Handler, Result, SyncRunner, Task
from prep.sources import SourceRoot
from prep.sources.identity import IdentityRule, parse_rule

Footage = tuple[np.ndarray, np.ndarray]
"""Pictures uint8 [n, H, W, 3] and sound int16 [640 n] at 16 kHz."""

SPLITS = ("train", "train", "train", "train", "val", "test")


@functools.lru_cache(maxsize=8)
def footage_of(path: Path) -> Footage:
    """A 25 fps clip in memory."""
    with av.open(str(path)) as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path)) as container:
        frames = [*container.decode(audio=0), None]
        sound = np.concatenate([piece.to_ndarray()[0] for frame in frames for piece in resampler.resample(frame)])
    n = min(len(pictures), len(sound) // SAMPLES_PER_FRAME)
    return pictures[:n], sound[: n * SAMPLES_PER_FRAME]


def write_clip(path: Path, footage: Footage, start: int = 0, stop: int | None = None) -> Path:
    """Frames [start, stop) of ``footage`` with their sound as an MP4 of H.264 and AAC."""
    pictures, sound = footage
    stop = len(pictures) if stop is None else min(stop, len(pictures))
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_media(
        path,
        [index / FPS for index in range(stop - start)],
        lambda seconds: pictures[start + round(seconds * FPS)],
        audio=sound[start * SAMPLES_PER_FRAME : stop * SAMPLES_PER_FRAME],
        options={"preset": "superfast", "crf": "18"},
        own_clock=False,
    )


def looped(footage: Footage, n_frames: int) -> Footage:
    """``footage`` there and back again until it has ``n_frames``: picture without cuts, sound without end."""
    pictures, sound = footage
    there_and_back = np.concatenate([pictures, pictures[-2:0:-1]])
    order = np.arange(n_frames) % len(there_and_back)
    repeats = -(-n_frames * SAMPLES_PER_FRAME // len(sound))
    return there_and_back[order], np.tile(sound, repeats)[: n_frames * SAMPLES_PER_FRAME]


def write_tiny_footage(root: Path, clips: Sequence[Path], n: int = 6, frames: int = 20) -> Path:
    """``n`` clips of ``frames`` frames, and ``splits.csv`` that puts two thirds of them into train."""
    lines = ["file,identity,split"]
    for index in range(n):
        footage = footage_of(clips[index % len(clips)])
        start = (index * 7) % max(1, len(footage[0]) - frames)
        write_clip(root / f"clip{index}.mp4", footage, start, start + frames)
        lines.append(f"clip{index}.mp4,person{index},{SPLITS[index % len(SPLITS)]}")
    (root / "splits.csv").write_text("\n".join(lines) + "\n")
    return root


def config(**values: Any) -> BuildConfig:
    """Crops of 64 px, and shards so small that a split has several."""
    return BuildConfig(**{"size": 64, "shard_mb": 0.15, "split_by": "csv", **values})


def rule(root: Path) -> IdentityRule:
    return parse_rule(f"csv:{root / 'splits.csv'}")


def build(
    root: Path,
    out: Path | str,
    runner: Any = None,
    identity: IdentityRule | None = None,
    **values: Any,
) -> BuildReport:
    """Build (or continue) a data set of the folder ``root``, in this process unless a runner is given."""
    if identity is None and (root / "splits.csv").exists():
        identity = rule(root)
    settings = config(**values) if identity is not None else config(**{"split_by": "auto", **values})
    job = Build([SourceRoot("tiny", "folder", str(root))], str(out), settings, identity, quiet=True)
    runner = runner or SyncRunner()
    return job.run(job.plan(runner), runner)


def data_bytes(out: Path) -> dict[str, str]:
    """SHA-256 by name of everything that must be the same twice: tars, tables, lists, ``dataset.json``."""
    names = [name for name in storage.list_files(str(out)) if name.endswith((".tar", ".parquet", "dataset.json"))]
    names += [f"splits/{name}" for name in storage.list_files(str(out / "splits"))]
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}


def tar_hashes(out: Path) -> dict[str, str]:
    return {name: value for name, value in data_bytes(out).items() if name.endswith(".tar")}


def manifest(out: Path) -> dict[str, dict[str, Any]]:
    """Rows of the manifest by clip id."""
    return {row["clip"]: row for row in pq.read_table(out / "manifest.parquet").to_pylist()}


def unit_times(out: Path) -> dict[str, int]:
    """When each clip was last processed: change time of its record, ns, by uid."""
    found = {}
    for path in (out / ".work" / "units").rglob("clip.json"):
        try:
            found[storage.read_json(str(path))["uid"]] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return found


class Sabotaged:
    """A runner that swaps the tasks of some clips for others, as poison in their files would.

    Args:
        inner: does the work.
        swap: file name of a clip -> fields of its task that change.
    """

    def __init__(self, inner: Any, swap: Mapping[str, Mapping[str, Any]]) -> None:
        self.inner, self.swap = inner, swap
        self.seen: list[str] = []

    def run(self, tasks: Iterable[Task], handle: Handler) -> None:
        def note(task: Task, result: Result) -> Iterable[Task]:
            if task["op"] not in ("probe", "assemble"):
                self.seen.append(task["uid"])
            return handle(task, result)

        self.inner.run([self._swapped(task) for task in tasks], note)

    def _swapped(self, task: Task) -> Task:
        name = os.path.basename(task.get("url", ""))
        return {**task, **self.swap[name]} if name in self.swap and task["op"] == "clip" else task


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prep.cli", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Of a subprocess that is to find the packages where this process finds them, whatever its folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path))), **more}


def build_command(root: Path, out: Path | str, *more: str) -> list[str]:
    """The command line of :func:`build`."""
    return command(
        *("build-shards", "--folder", f"tiny={root}", "--out", str(out), "--size", "64", "--shard-mb", "0.15"),
        *("--identity", f"csv:{root / 'splits.csv'}", "--split-by", "csv", "--quiet", *more),
    )


def processes_with(marker: str) -> list[int]:
    """Ids of living processes with ``marker`` in their environment, this one aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            if alive and marker.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has just ended, or is not ours
            continue
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of ``condition``."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"still not so after {seconds:.0f} s"
        time.sleep(0.02)


def kill(process: subprocess.Popen[Any], how: int = signal.SIGKILL) -> None:
    if process.poll() is None:
        process.send_signal(how)
    process.wait(60)


def samples(out: Path) -> dict[str, dict[str, bytes]]:
    """All samples of a data set: members by suffix, by key."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, suffix = member.name.partition(".")
                stream = archive.extractfile(member)
                assert stream is not None
                found.setdefault(key, {})[suffix] = stream.read()
    return found
