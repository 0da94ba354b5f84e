"""Speed and equality of CPBD, FID's features and LSE beside the packages that people use, in one run.

    python -m benchmarks.metrics --shards demo/shards --out benchmarks/results/metrics.json

Contenders take turns, item by item, on one core; ratios are of medians, with the 10th and 90th percentile over rounds.
Networks have seeded random weights, the same for both sides: their speed and the equality of the two do not depend on
what was learned. Loading, and the first call of each, are not timed.
"""

from __future__ import annotations

import argparse
import os
import sys

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import contextlib
import functools
import io
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cv2
import numpy as np

from evaluation.metrics.base import FACE
from evaluation.shots import Shot, ShotReader, shots_of
from g4g_core.provenance import environment
from g4g_core.resize import resize
from prep.shards.index import Dataset
from prep.shards.sample import wav_bytes

PEER_BATCH = 50

Contenders = dict[str, Callable[[Any], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", help="data set that gives faces and sound")
    parser.add_argument("--peaks", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", help="JSON file for the numbers")
    parser.add_argument("--faces", type=int, default=40, help="faces for CPBD and Inception")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of LSE and Inception")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    import torch

    torch.set_num_threads(1)
    if options.peaks:
        _peaks()
        return
    if options.shards is None:
        parser.error("--shards is needed")
    shots = shots_of(Dataset.open(options.shards), options.split)
    faces = _faces(options.shards, shots, options.faces)
    rows = [
        *_cpbd(faces),
        *_inception(faces, options.rounds),
        *_lse(options.shards, max(shots, key=lambda shot: shot.n_frames), options.rounds),
        *_memory(),
    ]
    _print(rows)
    if options.out:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        Path(options.out).write_text(json.dumps({"rows": rows, "environment": environment()}, indent=2) + "\n")


def _faces(root: str, shots: Sequence[Shot], count: int) -> np.ndarray:
    """uint8 [n, 256, 256, 3]: face boxes of frames spread over the shots."""
    found = []
    for number in range(count):
        shot = shots[number % len(shots)]
        with ShotReader(root, shot) as reader:
            picture = reader.pictures(np.array([(7 * number) % shot.n_frames]))
        crop = resize(picture, 256)[0]
        found.append(resize(np.ascontiguousarray(crop[FACE])[None], 256)[0])
    return np.stack(found)


def _turns(contenders: Contenders, items: Sequence[Any]) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Seconds per item of every contender, and what they answered; each item goes round before the next."""
    for run in contenders.values():
        run(items[0])
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    answers = []
    for number, item in enumerate(items):
        names = list(contenders)
        found = {}
        for name in names if number % 2 == 0 else reversed(names):  # who comes first finds the cache cold
            started = time.perf_counter()
            found[name] = contenders[name](item)
            seconds[name].append(time.perf_counter() - started)
        answers.append(found)
    return {name: np.array(values) for name, values in seconds.items()}, answers


def _row(what: str, unit: str, peer: np.ndarray, ours: np.ndarray, goal: float | None, **more: Any) -> dict[str, Any]:
    ratios = peer / ours
    return {
        "what": what,
        "unit": unit,
        "peer": float(np.median(peer)),
        "ours": float(np.median(ours)),
        "ratio": float(np.median(peer) / np.median(ours)),
        "p10": float(np.percentile(ratios, 10)),
        "p90": float(np.percentile(ratios, 90)),
        "goal": goal,
        **more,
    }


# ---------------------------------------------------------------- CPBD


def _cpbd(faces: np.ndarray) -> list[dict[str, Any]]:
    import cpbd as peer

    from evaluation.metrics.cpbd import cpbd, luma

    rows = []
    for side in (256, 512):
        pictures = list(luma(resize(faces, side)))
        seconds, answers = _turns({"peer": lambda y: peer.compute(y.astype(np.float64)), "ours": cpbd}, pictures)
        apart = max(abs(found["peer"] - found["ours"]) for found in answers)
        rows.append(
            _row(f"CPBD {side}x{side}", "ms an image", 1000 * seconds["peer"], 1000 * seconds["ours"], 12.0,
                 difference=float(apart), peer_name="cpbd-py312")
        )  # fmt: skip
    return rows


# ---------------------------------------------------------------- Inception


def _inception(faces: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    """Features of 50 pictures at a time, pytorch-fid's default batch, and the FID of faces against softer ones."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    from evaluation.metrics.frechet import frechet_distance
    from evaluation.metrics.inception import Inception

    network, peer = _random_inception()
    contenders: dict[str, Callable[[np.ndarray], np.ndarray]] = {"peer": functools.partial(_peer_features, peer)}
    for precision in ("fp32", "bf16"):
        contenders[precision] = Inception(network, precision=precision).features  # type: ignore[arg-type]
    batch = faces[np.arange(PEER_BATCH) % len(faces)]
    soft = np.stack([cv2.GaussianBlur(face, (0, 0), 3) for face in batch])
    seconds, answers = _turns(contenders, [batch if number % 2 == 0 else soft for number in range(max(2, rounds))])
    per_image = {name: 1000 * values / PEER_BATCH for name, values in seconds.items()}
    fids = {name: frechet_distance(answers[0][name], answers[1][name]) for name in contenders}
    moments = [(found.mean(0), np.cov(found, rowvar=False)) for found in (answers[0]["peer"], answers[1]["peer"])]
    theirs = calculate_frechet_distance(*moments[0], *moments[1])
    return [
        _row(f"Inception features, {name}", "ms an image", per_image["peer"], per_image[name], goal,
             difference=float(abs(fids[name] - theirs) / theirs), fid=float(fids[name]), fid_theirs=float(theirs),
             peer_name=f"pytorch-fid, batch {PEER_BATCH}")
        for name, goal in (("fp32", 2.2), ("bf16", 4.0))
    ]  # fmt: skip


def _random_inception() -> tuple[Any, Any]:
    """FID's Inception with seeded random weights and statistics, bare and as pytorch-fid wraps it; no download."""
    import torch
    from pytorch_fid import inception as module
    from torchvision.models.inception import Inception3

    torch.manual_seed(0)
    with (
        mock.patch.object(module, "load_state_dict_from_url", return_value={}),
        mock.patch.object(Inception3, "load_state_dict", return_value=None),
    ):
        network = module.fid_inception_v3()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.8, 1.2)
            torch.nn.init.normal_(layer.bias, std=0.1)
            torch.nn.init.normal_(layer.running_mean, std=0.1)
            torch.nn.init.uniform_(layer.running_var, 0.8, 1.2)
    with mock.patch.object(module, "fid_inception_v3", return_value=network):
        peer = module.InceptionV3([module.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    return network.eval(), peer.eval()


def _peer_features(peer: Any, batch: np.ndarray) -> np.ndarray:
    """As pytorch-fid's loader hands pictures over: planes of floats."""
    import torch

    with torch.no_grad():
        pictures = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous().float() / 255
        return np.asarray(peer(pictures)[0].squeeze(-1).squeeze(-1).numpy(), np.float64)


# ---------------------------------------------------------------- LSE


def _lse(root: str, shot: Shot, rounds: int) -> list[dict[str, Any]]:
    import torch

    from evaluation.metrics.lse import lip_frames, lse
    from evaluation.metrics.syncnet import SyncNet, untrained

    with ShotReader(root, shot) as reader:
        count = min(125, shot.n_frames)
        crops, pcm = reader.pictures(np.arange(count)), reader.pcm()[: 640 * count]
    torch.manual_seed(0)
    network = untrained().eval()
    contenders: dict[str, Callable[[np.ndarray], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, frame in enumerate(lip_frames(crops)):
            cv2.imwrite(f"{folder}/{number:06d}.jpg", frame)
        (Path(folder) / "audio.wav").write_bytes(wav_bytes(pcm))
        seen = np.stack([cv2.imread(f"{folder}/{number:06d}.jpg")[..., ::-1] for number in range(count)])
        contenders["peer"] = _peer_evaluation(network, folder)
        for precision in ("fp32", "bf16"):
            syncnet = SyncNet(network, precision=precision)  # type: ignore[arg-type]
            contenders[precision] = lambda frames, syncnet=syncnet: lse(frames, pcm, syncnet)  # type: ignore[misc]
        seconds, answers = _turns(contenders, [seen] * rounds)
    per_frame = {name: 1000 * values / count for name, values in seconds.items()}
    offset, confidence, distance = answers[0]["peer"]
    rows = []
    for name, goal in (("fp32", 1.5), ("bf16", 3.0)):
        found = answers[0][name]
        rows.append(
            _row(f"LSE of {count} frames, {name}", "ms a frame", per_frame["peer"], per_frame[name], goal,
                 difference=float(max(abs(found.distance - distance), abs(found.confidence - confidence))),
                 same_offset=bool(found.offset == offset), peer_name="SyncNetInstance.evaluate, batch 20")
        )  # fmt: skip
    return rows


def _peer_evaluation(network: Any, folder: str) -> Callable[[np.ndarray], tuple[int, float, float]]:
    """As users run it, its printing aside."""
    from syncnet_python.SyncNetInstance import SyncNetInstance

    instance = SyncNetInstance(network, device="cpu")
    options = SimpleNamespace(tmp_dir=folder, batch_size=20, vshift=15)

    def evaluate(_: np.ndarray) -> tuple[int, float, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            found: tuple[int, float, float] = instance.evaluate(options)
        return found

    return evaluate


# ---------------------------------------------------------------- memory


def _memory() -> list[dict[str, Any]]:
    """Growth of the peak from 250 to 1,250 frames, in a process of its own: the peak of this one is the peers'."""
    command = [sys.executable, "-m", "benchmarks.metrics", "--peaks"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    small, large = json.loads(done.stdout)
    return [{"what": "peak memory, LSE of 250 and of 1,250 frames", "unit": "MB", "small": small, "large": large}]


def _peaks() -> None:
    from evaluation.metrics.syncnet import SIDE, LipStream, SyncNet, untrained

    syncnet = SyncNet(untrained().eval())
    frames = np.random.default_rng(0).integers(0, 256, (50, SIDE, SIDE, 3), dtype=np.uint8)
    peaks = []
    for blocks in (5, 25):
        lips = LipStream(syncnet)
        for _ in range(blocks):
            lips.add(frames)
        lips.features()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(peaks))


def _print(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        if "ratio" not in row:
            print(f"{row['what']}: {row['small']:.0f} and {row['large']:.0f} {row['unit']}")
            continue
        print(
            f"{row['what']:28} {row['peer_name']} {row['peer']:.2f}, ours {row['ours']:.2f} {row['unit']}: "
            f"{row['ratio']:.2f}x ({row['p10']:.2f}-{row['p90']:.2f}; goal {row['goal']:g}), "
            f"difference {row['difference']:.2g}"
        )


if __name__ == "__main__":
    sys.exit(main())
