"""HDTF as it is downloaded: full-frame originals and annotation files, warts and all; and long LRS2 clips."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from building import Footage, config, footage_of, looped, manifest, samples, write_clip
from synthetic_media import write_media

from prep.records import FPS, SAMPLES_PER_FRAME
from prep.run.build import Build
from prep.run.runners import SyncRunner, close_guard
from prep.shards.sample import read_npy, read_wav
from prep.shards.verify import verify
from prep.sources import SourceRoot
from prep.stages.geometry import transform

WIDTH, HEIGHT, LISTED = 640, 360, 720
SMALL = (40, 120, 210)  # x, y and side of the annotated person's picture, px of the composed video
LARGE = (300, 30, 320)
SPEAKS_FROM = 25  # frame of the composed video at which the annotated person's clip begins
SECONDS = 7
STARTS = {"WDA_TwoPeople_000": 4 * FPS, "WDA_TwoPeople_001": 1 * FPS, "WDA_TwoPeople_003": 5 * FPS}


@pytest.fixture(scope="module", autouse=True)
def one_child() -> Iterator[None]:
    yield
    close_guard()


def build_source(root: Path, out: Path, kind: str, options: dict[str, str], **values: Any) -> None:
    settings = config(**{"split_by": "auto", "shard_mb": 5, **values})
    job = Build([SourceRoot(kind, kind, str(root), options)], str(out), settings, quiet=True)
    job.run(job.plan(SyncRunner()), SyncRunner())


def compose(small: Footage, large: Footage) -> Footage:
    """Two people in one frame; the sound is that of the smaller one, who starts a second late."""
    n = SECONDS * FPS
    pictures = np.full((n, HEIGHT, WIDTH, 3), 70, np.uint8)
    sound = np.zeros(n * SAMPLES_PER_FRAME, np.int16)
    speech = small[1][: len(sound) - SPEAKS_FROM * SAMPLES_PER_FRAME]
    sound[SPEAKS_FROM * SAMPLES_PER_FRAME :][: len(speech)] = speech
    for index in range(n):
        own = np.clip(index - SPEAKS_FROM, 0, len(small[0]) - 1)
        for (x, y, side), picture in ((SMALL, small[0][own]), (LARGE, large[0][index % len(large[0])])):
            small_picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
            pictures[index, y : y + side, x : x + side] = small_picture
    return pictures, sound


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, sample_hdtf_clips: list[Path]) -> Path:
    """A data set of four originals: one good, one without sound, one missing, one that is silent on its track."""
    root = tmp_path_factory.mktemp("hdtf")
    small, large = (footage_of(path) for path in sample_hdtf_clips[:2])
    full = compose(small, large)
    write_clip(root / "videos" / "TwoPeople.mp4", full)
    times = [index / FPS for index in range(50)]
    write_media(root / "videos" / "NoSound.mp4", times, lambda seconds: full[0][round(seconds * FPS)], own_clock=False)
    write_clip(root / "videos" / "Hushed.mp4", (full[0][:50], full[1][:1].repeat(50 * SAMPLES_PER_FRAME) * 0))
    write_annotations(root / "HDTF_dataset")
    out = tmp_path_factory.mktemp("built") / "out"
    build_source(root / "videos", out, "hdtf", {"annotations": str(root)})
    return out


def write_annotations(folder: Path) -> None:
    folder.mkdir()
    factor = LISTED / HEIGHT
    x, y, side = (round(value * factor) for value in SMALL)
    names = ["TwoPeople", "NoSound", "NeverFetched", "Hushed"]
    urls = "".join(f"{name} https://www.youtube.com/watch?v=id_{name}  \n" for name in names)
    (folder / "WDA_video_url.txt").write_bytes(b"\xef\xbb\xbf" + urls.encode())
    (folder / "WDA_annotion_time.txt").write_text(
        "TwoPeople.mp4 00:04-00:06 00:01-00:04 01:10-01:20 00:05-00:09  \n"
        "NoSound.mp4 00:00-00:01 \n"
        "NeverFetched.mp4 00:00-00:05 00:07-00:09\n"
        "Hushed.mp4 00:00-00:02\n"
        "\n"
    )
    boxes = [f"{name}_{i}.mp4 {x} {side} {y} {side} \n" for name in names for i in range(4)]
    (folder / "WDA_crop_wh.txt").write_text("".join(boxes))
    (folder / "WDA_resolution.txt").write_text("".join(f"{name}.mp4 {LISTED}  \n" for name in names))


def mouth_opening(members: dict[str, bytes]) -> np.ndarray:
    """float [T]: distance of the inner lips over that of the eyes."""
    points = read_npy(members["landmarks.npy"]).astype(np.float64)
    eyes = np.linalg.norm(points[:, 36:42].mean(1) - points[:, 42:48].mean(1), axis=1)
    return np.asarray(np.linalg.norm(points[:, 62] - points[:, 66], axis=1) / eyes)


def opening_of(clip: Path) -> np.ndarray:
    return np.array(json.loads((clip.parent / "truth.json").read_text())["clips"][clip.name]["opening"])


def test_every_interval_and_every_download_is_a_row_with_its_own_outcome(built: Path) -> None:
    outcomes = {clip: row["reason"] or row["outcome"] for clip, row in manifest(built).items()}
    assert outcomes == {
        "WDA_TwoPeople_000": "ok",
        "WDA_TwoPeople_001": "ok",
        "WDA_TwoPeople_002": "interval_outside_video",
        "WDA_TwoPeople_003": "ok",
        "WDA_NoSound_000": "no_audio",
        "WDA_NeverFetched_000": "source_missing",
        "WDA_NeverFetched_001": "source_missing",
        "WDA_Hushed_000": "silent_audio",
    }
    rows = manifest(built)
    assert "downloaded without sound?" in rows["WDA_NoSound_000"]["detail"]
    assert "watch?v=id_NeverFetched" in rows["WDA_NeverFetched_000"]["detail"]
    assert rows["WDA_TwoPeople_000"]["video_id"] == "id_TwoPeople"
    assert verify(str(built), deep=True).findings == ()


def test_the_part_of_an_interval_that_a_short_download_lacks_has_a_reason(built: Path) -> None:
    row = manifest(built)["WDA_TwoPeople_003"]
    assert row["clip_frames"] == 2 * FPS
    (lost,) = json.loads(row["partial"])
    assert (lost["reason"], lost["frame_start"], lost["n_frames"]) == ("interval_outside_video", 2 * FPS, 2 * FPS)
    assert "ends 2.00 s before" in lost["detail"]


def test_intervals_keep_the_numbers_of_their_unsorted_order(built: Path) -> None:
    rows = manifest(built)
    assert rows["WDA_TwoPeople_000"]["clip_frames"] == 2 * FPS
    assert rows["WDA_TwoPeople_001"]["clip_frames"] == 3 * FPS


def test_the_annotated_face_is_cut_out_although_another_is_larger(built: Path) -> None:
    x, y, side = SMALL
    for key, members in samples(built).items():
        meta = json.loads(members["json"])
        back = np.array([cv2.invertAffineTransform(np.array(affine)) for affine in meta["affines"]])
        nose = transform(back, read_npy(members["landmarks.npy"]))[:, 30]
        assert ((nose > (x, y)) & (nose < (x + side, y + side))).all(), key
        assert meta["frame_size"] == [WIDTH, HEIGHT]
        assert meta["quality"]["face_px"] < 0.75 * side


def test_the_face_is_cut_out_at_the_right_time(built: Path, sample_hdtf_clips: list[Path]) -> None:
    """The mouth moves as the truth of the sample says, no frame earlier, no frame later."""
    own, other = (opening_of(path) for path in sample_hdtf_clips[:2])
    keys = sorted(samples(built))
    assert {key.split("-")[1] for key in keys} == set(STARTS)
    for key, members in samples(built).items():
        meta = json.loads(members["json"])
        first = STARTS[meta["clip"]] + meta["frame_start"] - SPEAKS_FROM
        seen = mouth_opening(members)
        n = min(len(seen), len(own) - first)
        fits = {}
        for lag in range(-8, 9):
            expected = own[max(0, first + lag) : first + lag + n]
            compared = seen[n - len(expected) : n] if first + lag < 0 else seen[: len(expected)]
            fits[lag] = np.corrcoef(compared, expected)[0, 1]
        best = max(fits, key=lambda lag: fits[lag])
        assert best == 0, (key, fits)
        assert fits[0] > 0.8
        mixed_up = np.resize(other, 400)[STARTS[meta["clip"]] + meta["frame_start"] :][:n]
        assert np.corrcoef(seen[:n], mixed_up)[0, 1] < fits[0] - 0.2


def test_the_sound_is_that_of_the_interval(built: Path, sample_hdtf_clips: list[Path]) -> None:
    speech = footage_of(sample_hdtf_clips[0])[1].astype(np.float64)
    for members in samples(built).values():
        meta = json.loads(members["json"])
        pcm = read_wav(members["wav"]).astype(np.float64)
        first = (STARTS[meta["clip"]] + meta["frame_start"] - SPEAKS_FROM) * SAMPLES_PER_FRAME
        expected = speech[first : first + len(pcm)]
        pcm = pcm[: len(expected)]
        spectrum = np.fft.rfft(pcm, 2 * len(pcm)) * np.conj(np.fft.rfft(expected, 2 * len(pcm)))
        lag = int(np.argmax(np.fft.irfft(spectrum)))
        assert min(lag, 2 * len(pcm) - lag) < 160  # 10 ms: the sound was encoded twice


# ---- LRS2 pretrain


def write_pretrain(root: Path, clip: Path, seconds: int) -> list[tuple[str, float, float]]:
    """One clip of ``seconds`` with a word every 0.4 s; returns its words."""
    programme = "6330311066473698535"
    write_clip(root / "mvlrs_v1" / "pretrain" / programme / "00007.mp4", looped(footage_of(clip), seconds * FPS))
    words = [(f"WORD{index}", index * 0.4 + 0.05, index * 0.4 + 0.35) for index in range(int(seconds / 0.4))]
    rows = "".join(f"{word} {start:.2f} {end:.2f} 5.3\n" for word, start, end in words)
    text = f"Text:  {' '.join(word for word, *_ in words)}\nConf:  4\n\nWORD START END ASDSCORE\n{rows}"
    (root / "mvlrs_v1" / "pretrain" / programme / "00007.txt").write_text(text)
    (root / "pretrain.txt").write_text(f"{programme}/00007\n")
    for name in ("train", "val", "test"):
        (root / f"{name}.txt").write_text("")
    return words


@pytest.mark.parametrize(
    ("seconds", "part_seconds"), [(12, 5), pytest.param(60, 30, marks=pytest.mark.slow)], ids=["12 s", "60 s"]
)
def test_words_of_a_long_pretrain_clip_are_in_the_segments_that_hear_them(
    tmp_path: Path, sample_lrs2_clips: list[Path], seconds: int, part_seconds: int
) -> None:
    words = write_pretrain(tmp_path / "lrs2", sample_lrs2_clips[0], seconds)
    out = tmp_path / "out"
    build_source(tmp_path / "lrs2", out, "lrs2", {}, part_seconds=part_seconds)
    (row,) = manifest(out).values()
    assert (row["outcome"], row["subset"], row["split"]) == ("ok", "pretrain", "train")
    assert row["clip_frames"] == seconds * FPS
    (marker,) = out.glob("train-*.stats.json")
    assert len(json.loads(marker.read_text())["parts"]) >= seconds // part_seconds
    heard: dict[str, int] = {}
    for members in samples(out).values():
        meta = json.loads(members["json"])
        start, stop = meta["frame_start"] / FPS, (meta["frame_start"] + meta["n_frames"]) / FPS
        expected = [word for word, first, last in words if last > start and first < stop]
        assert [word["text"] for word in meta["words"]] == expected
        for word in expected:
            heard[word] = heard.get(word, 0) + 1
        assert meta["text"].split()[0] == "WORD0"
    assert set(heard) == {word for word, *_ in words}
    assert set(heard.values()) <= {1, 2}  # two where a word straddles a border
    assert verify(str(out), deep=True).findings == ()
