"""The loader benchmark runs, and compares like with like."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prep.shards.index import Dataset
from tests.prep.synthetic_shards import SyntheticClip, clip_mel, write_dataset

CLIPS = (
    SyntheticClip("a/00", "anna", "train", ((0, 110), (110, 110)), 220),
    SyntheticClip("b/00", "ben", "train", ((0, 30),), 30),
    SyntheticClip("b/01", "ben", "train", ((0, 4),), 4),
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("shards") / "set", CLIPS)


@pytest.mark.slow
def test_the_quick_benchmark_writes_its_numbers(shards, tmp_path):
    pytest.importorskip("librosa")
    from click.testing import CliRunner

    from benchmarks.loader import main

    out = tmp_path / "loader.json"
    result = CliRunner().invoke(main, ["--shards", str(shards), "--quick", "--out", str(out)])
    assert result.exit_code == 0, result.output
    numbers = json.loads(out.read_text())
    assert numbers["clips"] == 1
    assert [row["seconds"] for row in numbers["by_clip_length"]] == [[0, 4], [8, 16]]
    assert all(rate > 0 for rate in numbers["items_per_second"].values())
    assert str(shards) not in out.read_text()


@pytest.mark.slow
def test_the_peer_gets_whole_clips_and_hears_the_same_mel(shards, tmp_path):
    pytest.importorskip("librosa")
    from benchmarks.wav2lip_recipe import PeerRecipe, unpack

    folders, keys = unpack(Dataset.open(shards), "train", tmp_path)
    clip = folders["toy-a_00"]
    assert clip.frames == len(list(clip.folder.glob("*.jpg"))) == 220
    assert len(keys["toy-a_00"]) == 2
    assert "toy-b_01" not in folders  # shorter than a window
    peer = PeerRecipe([clip])
    np.testing.assert_allclose(peer._mel(clip.folder / "audio.wav"), clip_mel(CLIPS[0]), atol=1e-4)
    window, reference, mel = peer.item()
    assert window.shape == reference.shape == (5, 96, 96, 3)
    assert mel.shape == (80, 16)
