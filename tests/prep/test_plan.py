"""Which clips share a shard: bounded sizes, and boundaries that stay where they are when clips come and go."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from prep.shards.plan import bytes_per_frame, shards_of

TARGET = 100.0

Draw = Callable[[random.Random], float]
SIZES: dict[str, Draw] = {
    "tiny": lambda rng: rng.uniform(0.2, 2.0),
    "middle": lambda rng: rng.uniform(1.0, 60.0),
    "of all kinds": lambda rng: rng.lognormvariate(3.0, 1.5),
    "larger than a shard": lambda rng: rng.uniform(140.0, 400.0),
}


def clips_of(draw: Draw, n: int, seed: int) -> dict[str, float]:
    rng = random.Random(seed)
    return {f"source/clip{index}": draw(rng) for index in range(n)}


def as_set(shards: list[list[str]]) -> set[tuple[str, ...]]:
    return {tuple(shard) for shard in shards}


@pytest.mark.parametrize("first", SIZES)
@pytest.mark.parametrize("kind", SIZES)
def test_a_new_clip_makes_at_most_two_new_shards(first: str, kind: str) -> None:
    sizes = clips_of(SIZES[first], 300, seed=1)
    before = as_set(shards_of(sizes, TARGET))
    rng = random.Random(2)
    for index in range(150):
        after = as_set(shards_of({**sizes, f"source/new{index}": SIZES[kind](rng)}, TARGET))
        assert len(after - before) <= 2
        assert len(before - after) <= 1


def test_many_new_clips_one_after_the_other_each_make_at_most_two_new_shards() -> None:
    rng = random.Random(5)
    sizes: dict[str, float] = {}
    before: set[tuple[str, ...]] = set()
    for index in range(600):
        sizes[f"source/clip{index}"] = SIZES["of all kinds"](rng)
        after = as_set(shards_of(sizes, TARGET))
        assert len(after - before) <= 2
        before = after


def test_removing_a_clip_changes_one_shard() -> None:
    sizes = clips_of(SIZES["of all kinds"], 300, seed=3)
    before = as_set(shards_of(sizes, TARGET))
    for gone in list(sizes)[:100]:
        after = as_set(shards_of({clip: size for clip, size in sizes.items() if clip != gone}, TARGET))
        assert len(after - before) <= 1


@pytest.mark.parametrize("kind", SIZES)
def test_every_clip_is_in_one_shard_and_no_shared_shard_is_too_large(kind: str) -> None:
    sizes = clips_of(SIZES[kind], 500, seed=4)
    shards = shards_of(sizes, TARGET)
    assert sorted(clip for shard in shards for clip in shard) == sorted(sizes)
    for shard in shards:
        assert len(shard) == 1 or sum(sizes[clip] for clip in shard) <= 1.5 * TARGET


def test_shards_of_small_clips_are_near_the_target() -> None:
    sizes = clips_of(SIZES["tiny"], 20_000, seed=6)
    filled = [sum(sizes[clip] for clip in shard) for shard in shards_of(sizes, TARGET)]
    assert min(filled) > 0.6 * TARGET
    assert 0.75 * TARGET <= sum(filled) / len(filled) <= 1.5 * TARGET


def test_a_small_set_of_small_clips_is_one_shard() -> None:
    assert len(shards_of(clips_of(SIZES["tiny"], 40, seed=7), TARGET)) == 1


def test_the_order_in_which_clips_are_listed_does_not_matter() -> None:
    sizes = clips_of(SIZES["of all kinds"], 200, seed=8)
    names = list(sizes)
    random.Random(9).shuffle(names)
    assert shards_of(sizes, TARGET) == shards_of({name: sizes[name] for name in names}, TARGET)


def test_no_clips_make_no_shards() -> None:
    assert shards_of({}, TARGET) == []


def test_a_frame_of_256_pixels_is_expected_to_take_about_29_kilobytes() -> None:
    assert 27_000 < bytes_per_frame(256) < 31_000
    assert bytes_per_frame(128) < bytes_per_frame(256) / 2
