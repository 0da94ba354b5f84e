"""What a model is shown: references by the one rule, and prompts that hold nothing of the target."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from evaluation_data import fake_shot

from evaluation.prompts import has_references, prompts, scored_frames
from evaluation.shots import ShotReader, shots_of
from evaluation.work import _own_speech
from g4g_core.protocols import ERASED
from g4g_core.references import allowed_references, choose_references, gap_of, stretches
from prep.shards.index import Dataset


@pytest.mark.parametrize("window", [(0, 5), (60, 65), (120, 125)])
def test_references_of_a_window_lie_outside_its_segment_or_a_second_away(window: tuple[int, int]) -> None:
    segments = [(0, 125), (125, 125)]

    allowed = allowed_references(segments, 0, *window)

    distance = np.maximum(window[0] - allowed, allowed - (window[1] - 1))
    assert (distance[allowed < 125] >= 25).all()
    assert set(range(125, 250)) <= set(allowed.tolist())


@pytest.mark.parametrize("n", [20, 21, 47, 75, 100, 129])
def test_halves_of_a_one_segment_shot_refer_to_each_other_across_the_gap(n: int) -> None:
    shot = fake_shot(n)
    parts = stretches(shot.bounds)

    assert [part.start for part in parts] == [0, parts[0].stop] and parts[1].stop == n
    for part in parts:
        allowed = allowed_references(shot.bounds, 0, part.scored, part.scored_stop)
        distance = np.maximum(part.scored - allowed, allowed - (part.scored_stop - 1))
        assert len(allowed) and distance.min() >= gap_of(n)
    assert np.count_nonzero(~scored_frames(shot, n)) == gap_of(n)


@pytest.mark.parametrize(("n", "any_reference"), [(19, False), (20, True)])
def test_a_shot_under_twenty_frames_has_no_references(n: int, any_reference: bool) -> None:
    assert has_references(fake_shot(n)) is any_reference


def test_references_are_drawn_once_each_where_there_are_enough() -> None:
    chosen = choose_references(np.arange(100), np.random.default_rng(0))
    few = choose_references(np.arange(3), np.random.default_rng(0))

    assert len(set(chosen.tolist())) == len(chosen) == 5
    assert len(few) == 5 and set(few.tolist()) <= {0, 1, 2}
    with pytest.raises(ValueError, match="no frame"):
        choose_references(np.arange(0), np.random.default_rng(0))


def test_prompts_cover_the_shot_and_hold_grey_where_the_mouth_is(shards: str) -> None:
    for shot in shots_of(Dataset.open(shards), "test"):
        with ShotReader(shards, shot) as reader:
            found = list(prompts(reader, _own_speech(reader), seed=0))
            erase = reader.frames(np.arange(shot.n_frames)).erase

        assert sum(len(prompt.source) for prompt in found) == shot.n_frames
        for prompt in found:
            assert (prompt.source[prompt.erase > 0] == ERASED).all()
            assert len(prompt.pcm) == 640 * len(prompt.source)
            assert prompt.pose.shape == (len(prompt.source), 31, 2)
            assert prompt.references.shape[0] == 5
        assert (np.concatenate([prompt.erase for prompt in found]) == erase).all()


def test_a_prompt_says_the_same_whatever_the_target_s_mouth_does(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The intervention: other pixels inside erase, other jaw and mouth points, and not a bit of the prompt changes."""
    shot = shots_of(Dataset.open(shards), "test")[0]
    with ShotReader(shards, shot) as reader:
        speech = _own_speech(reader)
        before = [prompt.digest() for prompt in prompts(reader, speech, seed=0)]
        own = reader.frames

        def other_mouths(indices: np.ndarray) -> Any:
            frames = own(indices)
            pictures, landmarks = frames.pictures.copy(), frames.landmarks.copy()
            pictures[frames.erase > 0] = 255 - pictures[frames.erase > 0]
            landmarks[:, :17] += 3
            landmarks[:, 48:] -= 5
            masks = frames.masks & 8
            return dataclasses.replace(frames, pictures=pictures, landmarks=landmarks, masks=masks)

        monkeypatch.setattr(reader, "frames", other_mouths)
        after = [prompt.digest() for prompt in prompts(reader, speech, seed=0)]

    assert after == before


def test_references_follow_the_seed_and_nothing_else(shards: str) -> None:
    shot = shots_of(Dataset.open(shards), "test")[0]
    with ShotReader(shards, shot) as reader:
        speech = _own_speech(reader)
        digests = [[p.digest() for p in prompts(reader, speech, seed)] for seed in (0, 0, 1)]

    assert digests[0] == digests[1] != digests[2]
