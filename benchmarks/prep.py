"""g4g-prep against the recipe that detects and fits landmarks on every frame, in one run.

    python benchmarks/prep.py --clips FOLDER_OF_512x512_VIDEOS --minutes 10 --out results.json

Three contenders take turns clip by clip in one process and one thread, so that whatever else the machine does hits
them alike: ours (both passes, as a worker runs them), the recipe (decode to RGB, HOG and landmarks on every frame,
crop, JPEG), and decoding alone. Then whole builds with one and with two workers take turns. The clips are looped under
new names until there is enough footage; start-up (imports, models, workers) is reported apart.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# a script's own folder comes first on the path, and there this very file would stand for the package ``prep``
sys.path[0] = str(Path(__file__).resolve().parents[1])
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported

import cv2
import numpy as np

from g4g_core.provenance import cpu_features, versions
from prep.config import BuildConfig
from prep.landmarks.dlib import DlibLandmarks
from prep.media import open_media
from prep.records import FPS, ClipSpec
from prep.run.encode_pass import encode_part
from prep.run.track_pass import track_clip
from prep.run.tracked import Backends, FrameCache, Timings, TrackedClip
from prep.stages.crop import crop_track
from prep.stages.decode import DecodeLog, video_frames
from prep.stages.detection import MAX_SIDE
from prep.stages.encode import jpeg
from prep.stages.geometry import interocular
from prep.stages.probe import Probe, probe

HDTF_HOURS, LRS2_MAIN_HOURS, LRS2_PRETRAIN_HOURS = 17.07, 29.5, 195.0


@dataclasses.dataclass
class Round:
    """One clip under all contenders."""

    clip: str
    frames: int
    ours: float
    recipe: float
    decode: float
    stages: dict[str, float]
    error: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--clips", type=Path, help="folder of videos; default: the sample, rendered now")
    parser.add_argument("--minutes", type=float, default=10.0, help="footage, looped under new names")
    parser.add_argument("--builds", type=int, default=2, help="rounds of whole builds with one and two workers")
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="g4g-bench-") as scratch:
        clips = arguments.clips or _sample(Path(scratch) / "sample")
        footage = _loop(clips, Path(scratch) / "footage", arguments.minutes)
        result = run(footage, arguments.builds, Path(scratch))
    result["footage"] = str(arguments.clips.name if arguments.clips else "sample (hdtf layout)")
    _print(result)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def _sample(folder: Path) -> Path:
    from prep.sources.sample import make_sample

    make_sample(folder, "hdtf", clips=6)
    return folder


def _loop(clips: Path, folder: Path, minutes: float) -> list[Path]:
    """Links to the clips under new names until they last ``minutes``."""
    folder.mkdir(parents=True)
    sources = sorted(path for path in clips.rglob("*") if path.suffix.lower() in (".mp4", ".mpg", ".avi", ".mov"))
    if not sources:
        raise SystemExit(f"{clips} holds no videos")
    seconds, links = 0.0, []
    while seconds < minutes * 60:
        source = sources[len(links) % len(sources)]
        with open_media(str(source)) as container:
            found = probe(container)
        if not isinstance(found, Probe):
            sources.remove(source)
            continue
        link = folder / f"clip{len(links):04d}{source.suffix}"
        shutil.copyfile(source, link)
        links.append(link)
        seconds += found.duration
    return links


def run(footage: list[Path], builds: int, scratch: Path) -> dict[str, Any]:
    cv2.setNumThreads(1)
    began = time.perf_counter()
    backends = Backends(DlibLandmarks())
    _ours(footage[0], backends)
    _recipe(footage[0], 10)
    startup = time.perf_counter() - began
    rounds = []
    for number, path in enumerate(footage):
        rounds.append(_round(path, backends))
        done = rounds[-1]
        print(
            f"\r{number + 1}/{len(footage)} ours {1e3 * done.ours / done.frames:.2f} "
            f"recipe {1e3 * done.recipe / done.frames:.2f} decode {1e3 * done.decode / done.frames:.2f} ms a frame",
            end="", flush=True,
        )  # fmt: skip
    print()
    frames = sum(item.frames for item in rounds)
    ours, recipe, decode = (sum(getattr(item, name) for item in rounds) for name in ("ours", "recipe", "decode"))
    ratios = sorted(item.recipe / item.ours for item in rounds)
    errors = np.array([value for item in rounds for value in item.error])
    stages: collections.Counter[str] = collections.Counter()
    for item in rounds:
        stages.update(item.stages)
    return {
        "clips": len(footage),
        "frames": frames,
        "minutes": round(frames / FPS / 60, 2),
        "startup_seconds": round(startup, 2),
        "ms_per_frame": {name: round(1e3 * value / frames, 3) for name, value in
                         (("ours", ours), ("recipe", recipe), ("decode_only", decode))},
        "x_realtime_per_core": {"ours": round(frames / FPS / ours, 2), "recipe": round(frames / FPS / recipe, 2)},
        "speedup": round(recipe / ours, 2),
        "speedup_p10_p90": [round(ratios[len(ratios) // 10], 2), round(ratios[-1 - len(ratios) // 10], 2)],
        "share_of_decode_rate": round(decode / ours, 3),
        "landmark_difference_percent": {
            "mean": round(100 * float(errors.mean()), 3), "p95": round(100 * float(np.percentile(errors, 95)), 3)},
        "ms_per_frame_by_stage": {name: round(1e3 * value / frames, 3) for name, value in stages.most_common()},
        "builds": _builds(footage, builds, scratch),
        "core_hours": {
            "HDTF": round(HDTF_HOURS * 25 * 3600 * ours / frames / 3600, 1),
            "LRS2 main": round(LRS2_MAIN_HOURS * 25 * 3600 * ours / frames / 3600, 1),
            "LRS2 pretrain": round(LRS2_PRETRAIN_HOURS * 25 * 3600 * ours / frames / 3600, 1),
        },
        "environment": {"packages": versions(("av", "dlib-bin", "numpy", "opencv-python-headless")),
                        "cpu_features": cpu_features(), "cores": os.cpu_count()},
    }  # fmt: skip


def _round(path: Path, backends: Backends) -> Round:
    began = time.perf_counter()
    clip, timings = _ours(path, backends)
    ours = time.perf_counter() - began
    began = time.perf_counter()
    landmarks = _recipe(path)
    recipe = time.perf_counter() - began
    began = time.perf_counter()
    frames = _decode(path)
    decode = time.perf_counter() - began
    error = []
    for shot in clip.shots:
        for row, index in enumerate(range(shot.track.start, shot.track.stop)):
            reference = landmarks[index]
            if reference is not None:
                distance = np.linalg.norm(shot.track.landmarks[row] - reference, axis=-1).mean()
                error.append(float(distance / interocular(reference)))
    return Round(path.name, frames, ours, recipe, decode, dict(timings.seconds), error)


def _ours(path: Path, backends: Backends) -> tuple[TrackedClip, Timings]:
    """Both passes over one clip, as a worker runs them, into memory."""
    config = BuildConfig()
    timings = Timings()
    cache = FrameCache(config.cache_mb << 20)
    spec = ClipSpec("bench", path.stem, path.stem, path.name, split="train")
    clip = track_clip(str(path), spec, config, backends, timings, cache)
    assert isinstance(clip, TrackedClip), clip
    for pieces in clip.parts(config.part_frames):
        encode_part(str(path), spec, clip, pieces, "0" * 64, config, cache.frames, io.BytesIO(), timings)
    return clip, timings


def _recipe(path: Path, limit: int | None = None) -> list[np.ndarray | None]:
    """Decode, HOG and landmarks on every frame, crop, JPEG: what users glue together, with our own backend."""
    import dlib

    landmarker = DlibLandmarks()
    detector = _detector()
    fitted: list[np.ndarray | None] = []
    crops: list[bytes] = []
    with open_media(str(path)) as container:
        found = probe(container)
    assert isinstance(found, Probe)
    with open_media(str(path)) as container:
        for item in video_frames(container, found, DecodeLog()):
            if limit is not None and item.index >= limit:
                break
            rgb = item.frame.rgb()
            scale = min(1.0, MAX_SIDE / max(rgb.shape[:2]))
            small = rgb if scale == 1 else cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            faces: list[dlib.rectangle] = list(detector(small, 0))
            if not faces:
                fitted.append(None)
                continue
            face = max(faces, key=lambda rectangle: rectangle.area())
            box = np.array([face.left(), face.top(), face.right() + 1, face.bottom() + 1]) / scale
            points = landmarker.fit_one(item.frame, box)
            fitted.append(points)
            crop = crop_track(points[None])
            crops.append(jpeg(item.frame.crop_rgb(float(crop.x[0]), float(crop.y[0]), float(crop.side[0]), 256)))
    return fitted


_cached: list[Any] = []


def _detector() -> Any:
    import dlib

    if not _cached:
        _cached.append(dlib.get_frontal_face_detector())
    return _cached[0]


def _decode(path: Path) -> int:
    with open_media(str(path)) as container:
        found = probe(container)
    assert isinstance(found, Probe)
    with open_media(str(path)) as container:
        return sum(1 for _ in video_frames(container, found, DecodeLog()))


def _builds(footage: list[Path], rounds: int, scratch: Path) -> dict[str, Any]:
    """Whole builds with one and two workers, taking turns."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    startup: list[float] = []
    for number in range(rounds):
        for workers in (1, 2):
            out = scratch / f"build{number}-{workers}"
            with _build(footage[0].parent, out, workers) as (spent, started):
                seconds[workers].append(spent)
                startup.append(started)
            shutil.rmtree(out)
    if not rounds:
        return {}
    one, two = (statistics.median(seconds[workers]) for workers in (1, 2))
    return {
        "seconds": {str(workers): [round(value, 2) for value in values] for workers, values in seconds.items()},
        "two_over_one": round(one / two, 3),
        "machine_two_over_one": round(_machine_two_over_one(), 3),
        "startup_seconds": round(statistics.median(startup), 2),
    }


_LOOP = "import time; t = time.perf_counter(); sum(i * i for i in range(20_000_000)); print(time.perf_counter() - t)"


def _machine_two_over_one(rounds: int = 5) -> float:
    """What two plain loops that share nothing do over one on this machine: no build can scale better."""
    ratios = []
    for _ in range(rounds):
        alone, together = (max(_loops(count)) for count in (1, 2))
        ratios.append(2 * alone / together)
    return statistics.median(ratios)


def _loops(count: int) -> list[float]:
    """Seconds of each of ``count`` loops at the same time."""
    processes = [subprocess.Popen([sys.executable, "-c", _LOOP], stdout=subprocess.PIPE) for _ in range(count)]
    return [float(process.communicate()[0]) for process in processes]


@contextlib.contextmanager
def _build(folder: Path, out: Path, workers: int) -> Iterator[tuple[float, float]]:
    from prep.run.build import Build
    from prep.run.runners import open_runner
    from prep.sources import SourceRoot

    job = Build([SourceRoot("bench", "folder", str(folder), {})], str(out), BuildConfig(), quiet=True)
    began = time.perf_counter()
    with open_runner(workers, None) as runner:
        plan = job.plan(runner)
        started = time.perf_counter() - began
        began = time.perf_counter()
        job.run(plan, runner)
        yield time.perf_counter() - began, started


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['minutes']} min of footage ({result['footage']}), one core, one run")
    for column in ("", "ms a frame", "x realtime"):
        table.add_column(column, justify="right" if column else "left")
    realtime = result["x_realtime_per_core"]
    names = {"ours": "g4g-prep", "recipe": "detect + fit every frame", "decode_only": "decode only"}
    for name, value in result["ms_per_frame"].items():
        table.add_row(names[name], f"{value:.2f}", f"{realtime[name]:.1f}" if name in realtime else "")
    console = Console(width=100)
    console.print(table)
    low, high = result["speedup_p10_p90"]
    print(f"speed-up {result['speedup']:.2f} (clips p10-p90 {low:.2f}-{high:.2f})")
    print(f"share of the decode-only rate {result['share_of_decode_rate']:.2f}")
    difference = result["landmark_difference_percent"]
    print(f"landmarks against per-frame ones: mean {difference['mean']:.2f} %, p95 {difference['p95']:.2f} % of IOD")
    print("ms a frame by stage:", ", ".join(f"{k} {v:.2f}" for k, v in result["ms_per_frame_by_stage"].items()))
    if result["builds"]:
        builds = result["builds"]
        print(f"whole builds, s: {builds['seconds']}; two workers over one {builds['two_over_one']:.2f} "
              f"(two plain loops over one on this machine: {builds['machine_two_over_one']:.2f}); "
              f"start-up apart {builds['startup_seconds']:.1f} s")  # fmt: skip
    print("core-hours at this rate:", ", ".join(f"{name} {hours}" for name, hours in result["core_hours"].items()))


if __name__ == "__main__":
    main()
