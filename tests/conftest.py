"""Fixtures for all tests: real clips where they are at hand, and the rendered sample, made once per session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# one thread a process: tests run side by side, and the numbers are those of a worker
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def clips() -> Path:
    """Folder of real clips: ``G4G_CLIPS``, or ``shared/clips`` beside or above the repository."""
    named = os.environ.get("G4G_CLIPS")
    places = [Path(named)] if named else [parent / "shared" / "clips" for parent in (_ROOT, *_ROOT.parents)]
    for place in places:
        if place.is_dir():
            return place
    pytest.skip(f"no real clips: {named or 'shared/clips'} is not there (set G4G_CLIPS to their folder)")


@pytest.fixture(scope="session")
def sample_clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a few rendered clips in both layouts: ``lrs2`` (160 px) and ``hdtf`` (512 px). Not to be changed."""
    from prep.sources.sample import make_sample

    root = tmp_path_factory.mktemp("sample")
    make_sample(root / "lrs2", "lrs2", clips=3)
    make_sample(root / "hdtf", "hdtf", clips=3)
    return root


@pytest.fixture(scope="session")
def sample_lrs2_clips(sample_clip_dir: Path) -> list[Path]:
    """The main clips of the LRS2 sample, 160 px, 1.5 to 3 s each."""
    return sorted((sample_clip_dir / "lrs2" / "mvlrs_v1" / "main").rglob("*.mp4"))


@pytest.fixture(scope="session")
def sample_hdtf_clips(sample_clip_dir: Path) -> list[Path]:
    """The clips of the HDTF sample, 512 px, about 5 s each, three people."""
    return sorted((sample_clip_dir / "hdtf").glob("*.mp4"))


@pytest.fixture(scope="session")
def tracked_sample(sample_hdtf_clips: list[Path]) -> tuple[Any, dict[int, Any]]:
    """(:class:`prep.run.tracked.TrackedClip`, frames by clip frame) of one rendered 512 px clip."""
    from prep.config import BuildConfig
    from prep.landmarks.dlib import DlibLandmarks
    from prep.records import ClipSpec
    from prep.run.track_pass import track_clip
    from prep.run.tracked import Backends, FrameCache, Timings, TrackedClip

    path = sample_hdtf_clips[0]
    cache = FrameCache(1 << 30)
    spec = ClipSpec("hdtf", path.stem, "someone", path.name)
    found = track_clip(str(path), spec, BuildConfig(), Backends(DlibLandmarks()), Timings(), cache)
    assert isinstance(found, TrackedClip), found
    assert cache.frames is not None
    return found, dict(cache.frames)
