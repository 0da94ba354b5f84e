"""The figures of docs/sync-expert.md on real footage that the experts have not learned from."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from prep.config import BuildConfig
from prep.run.build import Build
from prep.run.runners import open_runner
from prep.shards.index import Dataset
from prep.sources import SourceRoot
from prep.sources.identity import parse_rule
from prep.stages.sync import EXPERTS, SURE, shifted
from prep.sync_expert.footage import Footage, read_footage
from prep.sync_expert.infer import compare, load
from prep.sync_expert.reading import Reading

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

JUDGES = {"sync-a": ["sync-a"], "sync-b": ["sync-b"], "pair": list(EXPERTS)}


@dataclasses.dataclass(frozen=True)
class Shot:
    footage: Footage
    path: str
    role: str

    def unseen_by(self, judge: str) -> bool:
        return self.role not in JUDGES[judge]


@pytest.fixture(scope="module")
def shots(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Shot]:
    """Every shot of the real clips of 72 frames or more, but for the one with two speakers."""
    out = tmp_path_factory.mktemp("figures") / "out"
    sources = [SourceRoot(name, name, str(clips / name)) for name in ("lrs2", "hdtf")]
    sources += [SourceRoot(name, "folder", str(clips / name)) for name in ("folder", "mocha", "sync")]
    rule = parse_rule(f"csv:{clips / 'identities.csv'}")
    job = Build(sources, str(out), BuildConfig(), rule, quiet=True)
    with open_runner(2, None) as runner:
        job.run(job.plan(runner), runner)
    dataset = Dataset.open(str(out))
    about = {
        row["key"].rpartition("-")[0]: (f"{row['source']}/{row['path']}", row["role"])
        for split in dataset.splits
        for row in dataset.table(split, ["key", "source", "path", "role"]).to_pylist()
    }
    found = [Shot(shot, *about[shot.key]) for shot in read_footage(dataset, dataset.splits, quiet=True)]
    return [shot for shot in found if shot.footage.frames >= 72 and "two_speakers" not in shot.path]


def reading(shot: Shot, judge: str, shift: int = 0) -> Reading:
    experts = [load(name) for name in JUDGES[judge]]
    found = compare(experts, shot.footage.patches, shifted(shot.footage.pcm, shift))
    assert found is not None
    return found


def offsets(shots: list[Shot], judge: str) -> np.ndarray:
    return np.array([reading(shot, judge).offset for shot in shots])


@pytest.mark.parametrize(("judge", "least"), [("sync-a", 0.75), ("sync-b", 0.75), ("pair", 0.8)])
def test_lrs2_grid_and_unseen_mocha_are_read_within_a_frame(shots: list[Shot], judge: str, least: float) -> None:
    chosen = [shot for shot in shots if shot.unseen_by(judge) and _is_core(shot)]
    assert len(chosen) > 20
    assert (np.abs(offsets(chosen, judge)) <= 1).mean() >= least


def _is_core(shot: Shot) -> bool:
    unseen_mocha = shot.path.startswith("mocha/") and shot.role == "test"
    return unseen_mocha or "/grid/" in shot.path or shot.path.startswith("lrs2/")


@pytest.mark.parametrize("judge", JUDGES)
def test_all_unseen_real_footage_is_read_within_three_frames(shots: list[Shot], judge: str) -> None:
    real = [shot for shot in shots if shot.unseen_by(judge) and not shot.path.startswith(("mocha/", "sync/"))]
    assert (np.abs(offsets(real, judge)) <= 3).mean() >= 0.85


def test_the_experts_agree_on_footage_that_neither_has_seen(shots: list[Shot]) -> None:
    chosen = [shot for shot in shots if shot.unseen_by("pair") and not shot.path.startswith("sync/")]
    apart = np.abs(offsets(chosen, "sync-a") - offsets(chosen, "sync-b"))
    assert (apart <= 1).mean() >= 0.8


@pytest.mark.parametrize("judge", JUDGES)
def test_readings_follow_injected_shifts(shots: list[Shot], judge: str) -> None:
    chosen = [shot for shot in shots if shot.unseen_by(judge) and not shot.path.startswith("sync/")]
    followed = []
    for shot in chosen:
        plain = reading(shot, judge).offset
        wanted = [shift for shift in (-12, -6, 5, 12) if abs(plain - shift) <= 15]
        followed += [abs(reading(shot, judge, shift).offset - (plain - shift)) <= 1 for shift in wanted]
    assert np.mean(followed) >= 0.9


def test_swapped_sound_scores_below_what_good_clips_reach(shots: list[Shot]) -> None:
    good = [reading(shot, "pair").score for shot in shots if shot.unseen_by("pair") and "sync/" not in shot.path]
    swapped = [reading(shot, "pair").score for shot in shots if "swapped" in shot.path]
    assert len(swapped) == 5
    assert max(swapped) < np.percentile(good, 5)


def test_the_anchors_lie_as_far_apart_as_their_streams_do(shots: list[Shot]) -> None:
    """Sound 6.7 and 13.7 frames late, picture two frames late by its timestamps: 4.7 and 11.7 frames apart."""
    found: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for judge in JUDGES:
        for shot in shots:
            if "anchor_offset_" in shot.path:
                found[judge][shot.path.rpartition("_")[2]] = reading(shot, judge).offset
        late = {name: found[judge]["0.avi"] - offset for name, offset in found[judge].items()}
        assert late["5.avi"] == pytest.approx(4.7, abs=1)
        assert late["12.avi"] == pytest.approx(11.7, abs=1)


def test_most_unseen_clips_in_sync_are_read_with_certainty(shots: list[Shot]) -> None:
    chosen = [shot for shot in shots if shot.unseen_by("pair") and not shot.path.startswith("sync/")]
    assert np.mean([reading(shot, "pair").confidence >= SURE for shot in chosen]) >= 0.9
