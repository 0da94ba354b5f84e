"""The embedded sample data set."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from g4g_core.errors import UsageError
from prep.sources.sample import _frames, _plan, make_sample
from prep.sources.sample_identity import all_identities, reshape, reshape_inverse
from prep.sources.sample_portrait import LANDMARKS
from prep.sources.sample_render import Framing, TalkingPortrait
from prep.sources.sample_speech import load_phrases, mouth_track


@pytest.fixture(scope="module")
def lrs2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lrs2") / "sample"
    make_sample(root, "lrs2", clips=3, av_offsets=(0, 3))
    return root


@pytest.fixture(scope="module")
def hdtf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hdtf") / "sample"
    make_sample(root, "hdtf", clips=3)
    return root


def _splits(root: Path) -> list[dict[str, str]]:
    with open(root / "splits.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _truth(root: Path) -> dict[str, Any]:
    return json.loads((root / "truth.json").read_text(encoding="utf-8"))["clips"]


def _digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def _seconds(path: Path) -> tuple[float, float, float, float]:
    """(video start, video end, audio start, audio end) by PTS, without the codec's padding."""
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        times = []
        for stream in (video, audio):
            assert stream.duration is not None and stream.time_base is not None
            start = max(0.0, float((stream.start_time or 0) * stream.time_base))
            times += [start, start + float(stream.duration * stream.time_base)]
    return times[0], times[1], times[2], times[3]


def test_the_same_arguments_give_the_same_bytes(lrs2: Path, tmp_path: Path) -> None:
    make_sample(tmp_path / "again", "lrs2", clips=3, av_offsets=(0, 3))
    assert _digests(tmp_path / "again") == _digests(lrs2)


def test_another_seed_moves_the_head() -> None:
    portrait = TalkingPortrait(all_identities()[0], Framing(160, 190.0, (224.0, 128.0)))
    closed = np.zeros((2, 3), dtype=np.float32)
    first, again, other = (
        list(_frames(portrait, closed, np.random.default_rng([seed, 0]))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[0].astype(int) - other[0]).mean() > 0.5


@pytest.mark.parametrize("layout", ["lrs2", "hdtf"])
def test_no_person_phrase_or_voice_is_in_two_splits_of_the_full_set(layout: str) -> None:
    plans = _plan(layout, None, None, (0,))
    split_of: dict[str, set[str]] = {}
    for plan in plans:
        for phrase in plan.phrases:
            for name in (plan.person, phrase.id, phrase.voice):
                split_of.setdefault(name, set()).add(plan.identity.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    people = {split: {p.person for p in plans if p.identity.split == split} for split in ("train", "test")}
    assert len(people["test"]) >= 10
    assert len(people["train"]) > len(people["test"])
    assert len({plan.name for plan in plans}) == len(plans)


def test_identities_can_be_limited_and_every_split_keeps_one() -> None:
    plans = _plan("lrs2", 12, 3, (0,))
    assert len({plan.person for plan in plans}) == 3
    assert {plan.identity.split for plan in plans} == {"train", "val", "test"}


def test_the_lrs2_layout_follows_the_rules_of_lrs2(lrs2: Path) -> None:
    listed = []
    for name in ("train", "val", "test"):
        lines = (lrs2 / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        assert all(re.fullmatch(r"\d{19}/\d{5}" + (" NF" if name == "test" else ""), line) for line in lines)
        listed += [f"mvlrs_v1/main/{line.split()[0]}.mp4" for line in lines]
    pretrain = (lrs2 / "pretrain.txt").read_text(encoding="utf-8").split()
    listed += [f"mvlrs_v1/pretrain/{line}.mp4" for line in pretrain]
    found = {path.relative_to(lrs2).as_posix() for path in lrs2.rglob("*.mp4")}
    assert set(listed) == found == {row["file"] for row in _splits(lrs2)}
    assert len(pretrain) == 1
    for file in found:
        text = (lrs2 / file).with_suffix(".txt").read_text(encoding="utf-8")
        assert re.match(r"Text:  [A-Z' ]+\nConf:  4\n", text)
    words = (lrs2 / f"mvlrs_v1/pretrain/{pretrain[0]}.txt").read_text(encoding="utf-8").splitlines()
    assert words[2:4] == ["", "WORD START END ASDSCORE"]
    assert [row.split()[0] for row in words[4:]] == words[0].split()[1:]
    starts = [float(row.split()[1]) for row in words[4:]]
    assert starts == sorted(starts)


def test_the_hdtf_layout_is_a_flat_folder_whose_names_tell_people_apart(hdtf: Path) -> None:
    files = sorted(path.name for path in hdtf.rglob("*.mp4"))
    assert all(re.fullmatch(r"WDA_Sample[A-Za-z]+_\d{3}\.mp4", file) for file in files)
    for row in _splits(hdtf):
        assert re.sub(r"_?\d+$", "", Path(row["file"]).stem) == row["identity"]


@pytest.mark.parametrize(("layout", "size", "rate"), [("lrs2", 160, 16_000), ("hdtf", 512, 44_100)])
def test_streams_are_what_the_layout_promises(
    layout: str, size: int, rate: int, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(layout)
    for file, truth in _truth(root).items():
        with av.open(str(root / file)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, video.width, video.height) == ("h264", size, size)
            assert video.average_rate == 25
            assert (audio.codec_context.name, audio.rate, audio.layout.nb_channels) == ("aac", rate, 1)
            assert sum(1 for _ in container.decode(video=0)) == len(truth["opening"])


@pytest.mark.parametrize("layout", ["lrs2", "hdtf"])
def test_sound_and_picture_start_together_and_end_within_a_frame(
    layout: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(layout)
    for file, truth in _truth(root).items():
        video_start, video_end, audio_start, audio_end = _seconds(root / file)
        assert abs(video_start - audio_start) < 0.005
        assert abs(video_end - audio_end) <= 0.04
        assert video_end - video_start == pytest.approx(len(truth["opening"]) / 25, abs=1e-3)


def test_a_late_picture_is_recorded_and_drawn_late(lrs2: Path) -> None:
    truth = list(_truth(lrs2).values())
    assert [clip["av_offset"] for clip in truth] == [0, 3, 0, 3]
    phrase = load_phrases()[0]
    in_sync, late = (mouth_track(phrase.phonemes, 60, offset) for offset in (0, 3))
    np.testing.assert_allclose(late[3:], in_sync[:-3], atol=1e-6)


def test_lips_meet_on_every_p_b_and_m() -> None:
    for phrase in load_phrases():
        n_frames = int(phrase.phonemes[-1][2] * 25) + 1
        opening = mouth_track(phrase.phonemes, n_frames)[:, 0]
        for symbol, start, end in phrase.phonemes:
            if symbol in ("p", "b", "m"):
                first = max(0, int(start * 25) - 1)
                assert opening[first : int(end * 25) + 2].min() < 0.1
        assert opening.max() > 0.5


def test_phoneme_and_word_times_lie_in_order_inside_the_sound() -> None:
    for phrase in load_phrases():
        seconds = len(phrase.audio) / 16_000
        times = [edge for _, start, end in phrase.phonemes for edge in (start, end)]
        assert times == sorted(times)
        assert times[0] >= 0 and times[-1] <= seconds
        assert " ".join(word.text for word in phrase.words) == phrase.text.rstrip(".?")
        assert phrase.words[-1].end <= seconds


def test_no_two_identities_look_alike_and_proportions_can_be_undone() -> None:
    everyone = all_identities()
    looks = {(identity.skin, identity.hair, identity.background) for identity in everyone}
    assert len(looks) == len(everyone) >= 24
    for identity in everyone:
        moved = reshape(identity, LANDMARKS)
        np.testing.assert_allclose(reshape_inverse(identity, moved), LANDMARKS, atol=0.02)


def test_dlib_finds_the_face_and_follows_the_drawn_opening(hdtf: Path) -> None:
    dlib = pytest.importorskip("dlib")
    models = pytest.importorskip("face_recognition_models")
    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(models.pose_predictor_model_location())
    file, truth = next(iter(_truth(hdtf).items()))
    measured, box = [], None
    with av.open(str(hdtf / file)) as container:
        for frame in container.decode(video=0):
            picture = frame.to_ndarray(format="rgb24")
            if box is None:
                boxes = detector(picture, 0)
                assert len(boxes) == 1
                box = boxes[0]
            points = predictor(picture, box)
            measured.append(sum(points.part(67 - k).y - points.part(61 + k).y for k in range(3)) / 3)
            if len(measured) == 60:
                break
    assert np.corrcoef(measured, truth["opening"][:60])[0, 1] > 0.8


def test_wrong_requests_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(UsageError, match="not an empty folder"):
        make_sample(full, "lrs2", clips=3)
    with pytest.raises(UsageError, match="no sample layout"):
        make_sample(tmp_path / "new", "grid")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="three splits"):
        make_sample(tmp_path / "new", "lrs2", clips=2)
    with pytest.raises(UsageError, match="identities"):
        make_sample(tmp_path / "new", "lrs2", identities=26)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_an_interrupted_render_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sample(tmp_path / "sample", "lrs2", clips=3, progress=stop)
    assert list(tmp_path.iterdir()) == []
