"""``g4g-eval selfcheck``: known answers, computed on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from g4g_core import weights
from g4g_core.errors import G4GError, WeightsError

GOLDEN = {"offset": 3.0, "distance": 5.353, "confidence": 10.021}
"""What the authors of SyncNet publish for their ``example.avi``, run directly."""

GOLDEN_TOLERANCE = {"offset": 0.0, "distance": 0.1, "confidence": 0.1}
"""Decoders differ: third parties report 5.348 and 10.081 for the same file."""

GOLDEN_FILE = "sync/syncnet_example.avi"


@dataclasses.dataclass(frozen=True)
class Check:
    """One known answer: what, the value that was due, and how far off counts as right."""

    name: str
    due: float
    tolerance: float
    compute: Callable[[], float]


def selfchecks(clips: str | None = None) -> list[dict[str, Any]]:
    """All checks: ``name``, ``due``, ``found``, ``outcome`` (``right``, ``wrong`` or ``unchecked``) and ``why``.

    Args:
        clips: folder that holds ``sync/syncnet_example.avi``, or ``None``.
    """
    found = []
    for check in (*_embedded(), *_frechet()):
        found.append(_run(check))
    found += _golden_lse(clips)
    found += _pretrained()
    return found


def _run(check: Check) -> dict[str, Any]:
    try:
        value = check.compute()
    except Exception as error:  # a check that cannot even run is the finding
        return _row(check.name, check.due, None, "wrong", f"{type(error).__name__}: {error}")
    good = abs(value - check.due) <= check.tolerance
    why = None if good else f"it must lie within {check.tolerance:g}"
    return _row(check.name, check.due, value, "right" if good else "wrong", why)


def _row(name: str, due: float | None, found: float | None, outcome: str, why: str | None) -> dict[str, Any]:
    return {"name": name, "due": due, "found": found, "outcome": outcome, "why": why}


def _embedded() -> list[Check]:
    from evaluation.metrics.cpbd import cpbd, cpbd_matlab, luma
    from evaluation.metrics.identity import cosine, embed
    from evaluation.metrics.landmarks import fit, landmark_distance
    from evaluation.metrics.psnr import psnr
    from evaluation.metrics.ssim import ssim

    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)

    def portrait() -> tuple[np.ndarray, np.ndarray]:
        from skimage.data import astronaut

        from prep.stages.geometry import MEAN_FACE

        # where the face of the portrait stands, to a few pixels: centre of the eyes and their distance
        return astronaut(), (MEAN_FACE * 54.0 + (224.0, 108.0)).astype(np.float32)

    def refit() -> float:
        picture, points = portrait()
        once = fit(picture[None], points[None])
        return float(landmark_distance(1.5 * once + 7, once)[0])

    def same_person() -> float:
        picture, points = portrait()
        found = fit(picture[None], points[None])
        return float(cosine(embed(picture[None], found), embed(picture[None], found))[0])

    return [
        Check("PSNR, black against white", 0.0, 1e-6, lambda: psnr(black, white)),
        Check("SSIM, a picture with itself", 1.0, 1e-9, lambda: ssim(portrait()[0], portrait()[0])),
        Check("CPBD, scikit-image's astronaut (python-cpbd)", CPBD_ASTRONAUT, 1e-6, lambda: cpbd(luma(portrait()[0]))),
        Check("CPBD, the same (MATLAB)", CPBD_MATLAB_ASTRONAUT, 1e-6, lambda: cpbd_matlab(luma(portrait()[0]))),
        Check("LMD, points shifted and scaled", 0.0, 1e-3, refit),
        Check("CSIM, a face with itself", 1.0, 1e-6, same_person),
        Check("judge, sound 5 frames late", -5.0, 0.0, _judge_offset),
    ]


CPBD_ASTRONAUT = 0.383609416
CPBD_MATLAB_ASTRONAUT = 0.403691814


def _judge_offset() -> float:
    """Offsets are read from embeddings; here from ones whose partner is known."""
    from prep.sync_expert.reading import Compared, read

    rng = np.random.default_rng(0)
    seen = rng.normal(size=(60, 64)).astype(np.float32)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    heard = np.roll(seen, 5, axis=0)
    reading = read([Compared(seen, heard, np.arange(60))])
    return float("nan") if reading is None else float(reading.offset)


def _frechet() -> list[Check]:
    from evaluation.metrics.frechet import frechet_distance

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 16))
    # the same cloud, shifted by 3 along one axis and doubled about its mean: closed form from its own covariance
    y = 2 * (x - x.mean(axis=0)) + x.mean(axis=0)
    y[:, 0] += 3
    due = 9 + float(np.trace(np.cov(x, rowvar=False)))
    return [
        Check("Frechet distance, closed form", due, 1e-6 * due, lambda: frechet_distance(x, y)),
        Check("Frechet distance, a set with itself", 0.0, 1e-6, lambda: frechet_distance(x, x)),
    ]


def _golden_lse(clips: str | None) -> list[dict[str, Any]]:
    """SyncNet's published values, where its weights and its example are here."""
    names = {key: f"SyncNet example: {key}" for key in GOLDEN}

    def unchecked(why: str) -> list[dict[str, Any]]:
        return [_row(name, GOLDEN[key], None, "unchecked", why) for key, name in names.items()]

    try:
        weights.path("syncnet-v2")
    except WeightsError as error:
        return unchecked(str(error).replace("\n", " "))
    if clips is None:
        return unchecked("its video is not named: --clips DIR with sync/syncnet_example.avi")
    video = Path(clips) / GOLDEN_FILE
    if not video.is_file():
        return unchecked(f"{video} is not there")
    try:
        found = lse_of_video(video)
    except G4GError as error:
        return [_row(name, GOLDEN[key], None, "wrong", error.what) for key, name in names.items()]
    rows = []
    for key, name in names.items():
        good = abs(found[key] - GOLDEN[key]) <= GOLDEN_TOLERANCE[key]
        rows.append(_row(name, GOLDEN[key], found[key], "right" if good else "wrong", None))
    return rows


def lse_of_video(video: Path) -> dict[str, float]:
    """SyncNet's reading of a video that is cropped already, whole frames at 224 px."""
    from evaluation.metrics.lse import lse, pretrained
    from evaluation.videos import frames_of, read_sound

    frames = np.stack([frame.rgb() for frame in frames_of(video)])
    found = lse(frames, read_sound(video), pretrained("fp32"))
    return {"offset": float(found.offset), "distance": found.distance, "confidence": found.confidence}


def _pretrained() -> list[dict[str, Any]]:
    """Whether the weights that metrics need are here, and are the files we know."""
    from evaluation.metrics import METRICS

    rows = []
    for name in dict.fromkeys(name for metric in METRICS.values() for name in metric.weights):
        try:
            weights.path(name)
        except WeightsError as error:
            outcome = "unchecked" if weights.find(name) is None else "wrong"
            rows.append(_row(f"weights {name}", None, None, outcome, str(error).replace("\n", " ")))
        else:
            rows.append(_row(f"weights {name}", None, None, "right", "SHA-256 as known"))
    return rows


def print_checks(rows: Sequence[dict[str, Any]]) -> None:
    """A line each."""
    for row in rows:
        values = "" if row["found"] is None else f": {row['found']:.6g} (due {row['due']:.6g})"
        why = f": {row['why']}" if row["why"] else ""
        click.echo(f"{row['outcome']:9}  {row['name']}{values}{why}")
