from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest

from g4g_core.errors import UsageError
from prep.records import ClipSpec, Reason, Rejection
from prep.sources import splits

UNLISTED = Rejection("source", Reason.NOT_IN_SPLIT_LIST, "")
MISSING = Rejection("source", Reason.SOURCE_MISSING, "")


def spec(
    clip: str,
    identity: str,
    *,
    source: str = "s",
    split: str | None = None,
    video_id: str | None = None,
    absent: Rejection | None = None,
) -> ClipSpec:
    return ClipSpec(
        source=source,
        clip=clip,
        identity=identity,
        path=f"{clip}.mp4",
        split=split,
        video_id=video_id,
        absent=absent,
    )


def people(n: int, source: str = "s", absent: Rejection | None = None) -> list[ClipSpec]:
    return [spec(f"c{i}", f"{source}-{i}", source=source, absent=absent) for i in range(n)]


def random_specs(seed: int, n: int = 120, n_people: int = 40) -> list[ClipSpec]:
    """Clips of three sources that share identities and uploads across sources."""
    rng = random.Random(seed)
    return [
        spec(
            f"c{i}",
            f"person{rng.randrange(n_people)}",
            source=rng.choice("abc"),
            video_id=f"video{rng.randrange(2 * n_people)}" if rng.random() < 0.4 else None,
            absent=MISSING if rng.random() < 0.1 else None,
        )
        for i in range(n)
    ]


def split_of(specs: list[ClipSpec]) -> dict[str, str | None]:
    return {clip.uid: clip.split for clip in specs}


@pytest.mark.parametrize("seed", range(20))
def test_no_identity_and_no_upload_is_ever_in_two_splits(seed: int) -> None:
    assigned = splits.assign(random_specs(seed))
    assert all(clip.split in ("train", "val", "test") for clip in assigned)
    assert splits.leaks(assigned) == []


@pytest.mark.parametrize("seed", range(20))
def test_listed_clips_draw_their_whole_component_with_them(seed: int) -> None:
    specs = random_specs(seed)
    whole = splits.assign(specs, salt="as lists")
    listed = [old if i % 3 else new for i, (old, new) in enumerate(zip(specs, whole, strict=True))]
    assigned = splits.assign(listed)
    assert splits.leaks(assigned) == []
    assert all(new.split == old.split for old, new in zip(listed, assigned, strict=True) if old.split)


@pytest.mark.parametrize("seed", range(20))
def test_adding_a_clip_moves_no_other(seed: int) -> None:
    specs = random_specs(seed, n=600, n_people=300)
    before = split_of(splits.assign(specs))
    for extra in (
        spec("new", "person7", source="a"),  # of a person who is there
        spec("new", "somebody new", source="a"),
        spec("new", "somebody new", source="a", video_id="a new upload"),
    ):
        after = split_of(splits.assign([extra, *specs]))
        assert {uid: after[uid] for uid in before} == before


def test_the_order_of_the_clips_does_not_matter() -> None:
    specs = random_specs(1)
    shuffled = random.Random(2).sample(specs, len(specs))
    assert split_of(splits.assign(specs)) == split_of(splits.assign(shuffled))


def test_identities_are_joined_through_a_chain_of_uploads() -> None:
    chain = [spec(f"c{i}{side}", f"p{i + side}", video_id=f"v{i}") for i in range(30) for side in (0, 1)]
    assert len({clip.split for clip in splits.assign(chain)}) == 1


def test_shares_of_identities_are_near_the_fractions_in_every_source() -> None:
    assigned = splits.assign(people(2000, "a") + people(2000, "b"), fractions=(0.6, 0.3, 0.1))
    for source in "ab":
        counts = Counter(clip.split for clip in assigned if clip.source == source)
        assert counts["train"] == pytest.approx(1200, abs=100)
        assert counts["val"] == pytest.approx(600, abs=100)
        assert counts["test"] == pytest.approx(200, abs=60)


def test_another_salt_is_another_split() -> None:
    assert split_of(splits.assign(people(50))) != split_of(splits.assign(people(50), salt="another"))


@pytest.mark.parametrize("salt", [f"salt {i}" for i in range(10)])
def test_three_identities_of_a_source_give_at_least_one_in_test(salt: str) -> None:
    assigned = splits.assign(people(3, "a") + people(5, "b"), salt=salt, fractions=(0.9, 0.05, 0.05))
    for source in "ab":
        assert "test" in {clip.split for clip in assigned if clip.source == source}


def test_two_identities_are_left_to_the_draw() -> None:
    splits_of_two = {
        tuple(clip.split for clip in splits.assign(people(2), salt=f"{i}", fractions=(0.98, 0.01, 0.01)))
        for i in range(10)
    }
    assert ("train", "train") in splits_of_two


def test_the_identity_that_goes_to_test_is_the_only_one_that_moves() -> None:
    fractions = (0.98, 0.01, 0.01)
    for count in range(3, 20):
        smaller, larger = (
            split_of(splits.assign(people(n), fractions=fractions)) for n in (count, count + 1)
        )
        assert sum(smaller[uid] != larger[uid] for uid in smaller) <= 1


def test_a_test_set_of_absent_clips_is_no_test_set() -> None:
    specs = people(200, absent=MISSING)
    assert "test" in {clip.split for clip in splits.assign(specs)}
    drawn = [clip for clip in splits.assign(specs) if clip.split == "train"][:3]
    present = {clip.uid: spec(clip.clip, clip.identity) for clip in drawn}
    assigned = splits.assign([present.get(clip.uid, clip) for clip in specs])
    assert "test" in {clip.split for clip in assigned if clip.absent is None}


def test_no_test_set_is_forced_on_who_asks_for_none() -> None:
    assert {clip.split for clip in splits.assign(people(30), fractions=(1, 0, 0))} == {"train"}


def test_a_listed_test_set_is_enough() -> None:
    specs = [spec("t", "tested", split="test"), *people(6)]
    free = split_of(splits.assign(specs, fractions=(0.999, 0, 0.001)))
    assert Counter(free.values()) == {"train": 6, "test": 1}


def test_a_clip_of_another_source_follows_the_list_that_knows_the_person() -> None:
    specs = [spec("a", "anna", source="lrs2", split="val"), spec("b", "anna", source="own")]
    assert [clip.split for clip in splits.assign(specs)] == ["val", "val"]


def test_lists_that_contradict_each_other_stay_and_are_reported() -> None:
    specs = [
        spec("a", "anna", split="train"),
        spec("b", "anna", split="test"),
        spec("c", "anna"),
        spec("d", "dora", split="train", video_id="v"),
        spec("e", "emil", split="val", video_id="v"),
    ]
    assigned = splits.assign(specs)
    assert [clip.split for clip in assigned] == ["train", "test", "test", "train", "val"]
    found = splits.leaks(assigned)
    assert [(leak.kind, leak.value) for leak in found] == [("identity", "anna"), ("video_id", "v")]
    assert found[0].clips == {"train": ("s/a",), "test": ("s/b", "s/c")}
    assert str(found[0]) == "identity anna is in 2 splits (train: s/a; test: s/b, s/c)"


def test_leaks_are_found_in_rows_of_a_table_and_rows_without_split_do_not_count() -> None:
    row = {"source": "s", "identity": "anna", "video_id": None}
    rows = [
        {**row, "clip": f"c{i}", "split": split} for i, split in enumerate(["train"] * 5 + ["test", None])
    ]
    (leak,) = splits.leaks(rows)
    assert leak.clips == {"train": ("s/c0", "s/c1", "s/c2", "s/c3", "s/c4"), "test": ("s/c5",)}
    assert "s/c2 and 2 more" in str(leak)


def test_a_clip_that_no_list_names_gets_no_split_unless_lists_are_ignored() -> None:
    specs = [spec("a", "anna", split="train"), spec("b", "bert", absent=UNLISTED)]
    assert [clip.split for clip in splits.assign(specs)] == ["train", None]
    by_identity = splits.assign(specs, by="identity")
    assert all(clip.split for clip in by_identity)
    assert all(clip.absent is None for clip in by_identity)


def test_splitting_by_identity_ignores_lists() -> None:
    listed = [spec(f"c{i}", f"p{i}", split="test") for i in range(50)]
    unlisted = [spec(f"c{i}", f"p{i}") for i in range(50)]
    assert split_of(splits.assign(listed, by="identity")) == split_of(splits.assign(unlisted))


def test_splitting_by_lists_refuses_a_present_clip_that_is_on_none() -> None:
    listed = [
        spec("a", "anna", split="train"),
        spec("b", "bert", absent=UNLISTED),
        spec("c", "carl", absent=MISSING),
    ]
    assert splits.assign(listed, by="lists")[0].split == "train"
    with pytest.raises(UsageError, match="1 clips of wild are on no split list, wild/x among them"):
        splits.assign([*listed, spec("x", "xaver", source="wild")], by="lists")


@pytest.mark.parametrize("text", ["0.8,0.1", "a,b,c", "0.8,0.1,0.2", "1.2,-0.1,-0.1", "nan,0.5,0.5", ""])
def test_fractions_that_are_no_shares_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        splits.parse_fractions(text)


def test_fractions_are_train_val_and_test() -> None:
    assert splits.parse_fractions("0.7, 0.2,0.1") == (0.7, 0.2, 0.1)


def test_an_unknown_way_to_split_is_refused() -> None:
    with pytest.raises(UsageError, match="'colour'"):
        splits.assign([], by="colour")


def test_no_clips_give_no_splits() -> None:
    assert splits.assign([]) == []
    assert splits.leaks(defaultdict(list)) == []
