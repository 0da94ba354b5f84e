"""Which shots are scored."""

from __future__ import annotations

import pytest
from synthetic_shards import SyntheticClip, write_dataset

from evaluation.shots import shots_of
from g4g_core.errors import DatasetError
from prep.shards.index import Dataset

CLIPS = (
    SyntheticClip("a/00", "anna", "train", ((0, 30), (30, 25)), 55),
    SyntheticClip("b/00", "ben", "train", ((0, 40),), 40),
    SyntheticClip("c/00", "cleo", "test", ((0, 45),), 45),
)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("people"), CLIPS, size=64))


def test_the_shots_of_several_splits_are_scored_together(people: Dataset) -> None:
    assert [shot.clip for shot in shots_of(people, "test")] == ["c_00"]
    both = shots_of(people, "train, test")
    assert {(shot.clip, shot.split) for shot in both} == {("a_00", "train"), ("b_00", "train"), ("c_00", "test")}
    with pytest.raises(DatasetError, match="val"):
        shots_of(people, "test,val")


def test_a_selection_may_cut_across_splits(people: Dataset) -> None:
    keys = ["toy-a_00-000-001", "toy-c_00-000-000"]
    chosen = shots_of(people, "train,test", selection=keys)
    assert [(shot.clip, len(shot.segments)) for shot in chosen] == [("a_00", 2), ("c_00", 1)]
