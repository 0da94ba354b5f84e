"""Finished videos and lists of pairs, from files to a table."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from building import footage_of, write_clip
from evaluating import InProcess

from evaluation.pairs import evaluate_pairs, read_pairs
from evaluation.score import score_videos
from evaluation.shots import ShotReader, shots_of
from g4g_core import storage
from g4g_core.errors import SourceError, UsageError
from prep.run.runners import SyncRunner, Task, close_guard
from prep.shards.index import Dataset


class Both(InProcess):
    """Prep's tasks in its guarded child, ours in this process."""

    def run(self, tasks: object, handle: object) -> None:
        listed: list[Task] = list(tasks)  # type: ignore[call-overload]
        if listed and ":" in listed[0]["op"]:
            super().run(listed, handle)  # type: ignore[arg-type]
            return
        try:
            SyncRunner().run(listed, handle)  # type: ignore[arg-type]
        finally:
            close_guard()


@pytest.fixture(scope="module")
def results(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of three videos as some system returns them: encoded again, mouths darkened, one in another container."""
    folder = tmp_path_factory.mktemp("results")
    for name in ("person0.mp4", "person1.mkv"):
        pictures, sound = footage_of(videos / f"{name[:7]}.mp4")
        changed = pictures.copy()
        changed[:, 90:130, 60:100] //= 2
        write_clip(folder / name, (changed, sound))
    return folder


def test_videos_with_originals_are_cut_like_them_and_compared(videos: Path, results: Path, tmp_path: Path) -> None:
    report = score_videos(
        [("dark", str(results)), ("same", str(videos))], str(videos), str(tmp_path / "run"), Both(),
        wanted=["psnr", "judge", "cpbd"], quiet=True,
    )  # fmt: skip

    assert report.summary["protocol"] == "videos-reference/1"
    settings = storage.read_json(tmp_path / "run" / "run.json")["settings"]
    assert settings["videos"] == {"dark": str(results), "same": str(videos)} and settings["reference"] == str(videos)
    assert settings["metrics"] == ["psnr", "judge", "cpbd"] and settings["on_failure"] == "drop-everywhere"
    (table,) = report.summary["tables"].values()
    assert [(model, code) for model, _, code, _ in report.failed] == [("dark", "bad_video")]
    rows = table["rows"]
    assert rows["same"]["cells"]["psnr@face"]["mean"] > 45
    assert rows["dark"]["cells"]["psnr@face"]["mean"] < 30
    assert rows["same"]["cells"]["psnr@face"]["n"] == 2  # the clip that one folder lacks counts for none
    assert rows["dark"]["cells"]["cpbd@face256"]["mean"] is not None
    assert report.summary["models"]["dark"]["marks"] == ["unguarded"]


def test_a_finished_video_is_judged_by_its_own_sound(videos: Path, tmp_path: Path) -> None:
    """Sound that is 5 frames late in the video, and right in the original."""
    late = tmp_path / "late"
    for path in sorted(videos.iterdir()):
        pictures, sound = footage_of(path)
        write_clip(late / path.name, (pictures, np.concatenate([np.zeros(640 * 5, np.int16), sound])[: len(sound)]))

    report = score_videos(
        [("late", str(late))], str(videos), str(tmp_path / "run"), Both(), wanted=["judge"], quiet=True
    )

    (table,) = report.summary["tables"].values()
    late_offset, truth = (
        table["rows"][name]["cells"]["sync_offset@judge"]["mean"] for name in ("late", "ground-truth")
    )
    assert late_offset == pytest.approx(truth - 5, abs=1.5)


def test_a_video_without_a_face_counts_as_its_system_s_failure(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    pictures, sound = footage_of(videos / "person0.mp4")
    write_clip(folder / "good.mp4", (pictures, sound))
    write_clip(folder / "noise.mp4", (np.random.default_rng(0).integers(0, 256, pictures.shape, dtype=np.uint8), sound))

    report = score_videos([("theirs", str(folder))], None, str(tmp_path / "run"), Both(), wanted=["judge"], quiet=True)

    (table,) = report.summary["tables"].values()
    row = table["rows"]["theirs"]
    assert (row["scored"], row["failed"], row["reasons"]) == (1, 1, {"no_face": 1})
    assert report.failed == [("theirs", "noise", "unusable", "no_face")]


def test_videos_alone_are_measured_by_what_needs_no_original(results: Path, tmp_path: Path) -> None:
    report = score_videos([("theirs", str(results))], None, str(tmp_path / "run"), Both(), quiet=True)

    assert report.summary["protocol"] == "videos/1"
    (table,) = report.summary["tables"].values()
    cells = table["rows"]["theirs"]["cells"]
    assert cells["sync_score@judge"]["n"] == 2 and cells["cpbd@face256"]["mean"] is not None
    assert not any(m["full_reference"] or m["needs_clip"] for m in report.summary["metrics"].values())


@pytest.mark.parametrize(
    ("videos", "reference", "says"),
    [
        ([("a", "/nowhere")], None, "no folder"),
        ([], None, "no folder"),
        ([("a", "/tmp"), ("b", "/tmp")], None, "originals"),
        ([("a", "/tmp"), ("a", "/tmp")], "/tmp", "own name"),
    ],
)
def test_folders_that_make_no_table_are_refused(
    videos: list[tuple[str, str]], reference: str | None, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as refused:
        score_videos(videos, reference, str(tmp_path / "run"), Both(), quiet=True)

    assert says in str(refused.value)


def test_a_folder_without_a_face_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "noise"
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    sound = np.random.default_rng(1).integers(-9000, 9000, 640 * 30).astype(np.int16)
    write_clip(folder / "a.mp4", (noise, sound))

    with pytest.raises(SourceError, match="no_face"):
        score_videos([("noise", str(folder))], None, str(tmp_path / "run"), Both(), quiet=True)


def write_sound(path: Path, pcm: np.ndarray) -> None:
    from prep.shards.sample import wav_bytes

    path.write_bytes(wav_bytes(pcm))


def test_pairs_are_dubbed_pasted_back_and_scored(videos: Path, tmp_path: Path) -> None:
    """Speech of another clip, longer and shorter than the picture; the same video twice."""
    _, sound = footage_of(videos / "person1.mp4")
    write_sound(tmp_path / "long.wav", np.tile(sound, 3))
    write_sound(tmp_path / "short.wav", sound[: 640 * 24])
    write_sound(tmp_path / "tiny.wav", sound[: 640 * 5])
    (tmp_path / "broken.wav").write_bytes(b"no sound at all")
    lines = [f"{name}.wav {videos / 'person0.mp4'}" for name in ("long", "short", "tiny", "broken")]
    (tmp_path / "pairs.txt").write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")

    report = evaluate_pairs(
        str(tmp_path / "pairs.txt"), None, ["still", "shuffled=still"], {}, str(tmp_path / "run"), Both(),
        wanted=["judge", "identity", "cpbd"], quiet=True,
    )  # fmt: skip

    assert report.summary["protocol"] == "pairs/1" and not report.failed
    settings = storage.read_json(tmp_path / "run" / "run.json")["settings"]
    assert settings["pairs"] == str(tmp_path / "pairs.txt") and settings["models"] == ["still", "shuffled=still"]
    assert settings["metrics"] == ["judge", "identity", "cpbd"] and settings["seed"] == 0
    (table,) = report.summary["tables"].values()
    assert table["shots"] == 2 and table["frames"] == 36 + 24
    assert list(report.summary["data"]["excluded"].values()) == ["speech_too_short", "unreadable_speech"]
    assert "ground-truth" not in table["rows"]
    assert table["rows"]["still"]["cells"]["sync_score@judge"]["n"] == 2


def test_pasting_back_keeps_everything_outside_the_mouth(videos: Path, tmp_path: Path) -> None:
    from evaluation.footage import through_frames

    (tmp_path / "s.txt").write_text(f"{videos / 'person0.mp4'} {videos / 'person0.mp4'}")
    evaluate_pairs(
        str(tmp_path / "s.txt"), None, ["still"], {}, str(tmp_path / "run"), Both(), wanted=["judge"], quiet=True
    )
    root = str(tmp_path / "run" / "data" / "shards")
    shot = shots_of(Dataset.open(root), "test")[0]
    with ShotReader(root, shot) as reader:
        stored = reader.frames(np.arange(shot.n_frames))
        green = stored.pictures.copy()
        green[:] = (0, 255, 0)
        back = np.concatenate(
            list(through_frames(iter([green]), tmp_path / "run" / "data" / "originals", reader, len(green)))
        )

    far = stored.erase == 0
    for frame in range(len(far)):
        import cv2

        far[frame] = cv2.dilate(stored.erase[frame], np.ones((41, 41), np.uint8)) == 0
    assert np.abs(back[far].astype(int) - stored.pictures[far]).mean() < 2
    assert (back[stored.erase > 0][:, 1] > 200).mean() > 0.95


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "lists no pair"), ("a.wav", "line 1: 1 words"), ("\na.wav b.mp4", "line 2: there is no")],
)
def test_a_list_that_cannot_be_read_names_the_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)

    with pytest.raises(UsageError) as refused:
        read_pairs(str(tmp_path / "pairs.txt"))

    assert says in str(refused.value)


def test_names_of_a_list_may_lack_their_mp4(tmp_path: Path) -> None:
    for name in ("a/00001.mp4", "b/00002.mp4", "c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "pairs.txt").write_text("a/00001 b/00002\nc.wav b/00002.mp4\n")
    found = [(pair.audio.relative_to(tmp_path), pair.video.name) for pair in read_pairs(str(tmp_path / "pairs.txt"))]
    assert found == [(Path("a/00001.mp4"), "00002.mp4"), (Path("c.wav"), "00002.mp4")]


def test_sound_is_read_from_any_media_file_as_16_khz_mono(videos: Path, tmp_path: Path) -> None:
    from evaluation.videos import read_sound

    _, sound = footage_of(videos / "person0.mp4")
    stereo = np.stack([sound, sound])
    path = tmp_path / "stereo 48.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.repeat(stereo, 3, axis=1).T.reshape(1, -1).copy(), "s16", "stereo")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())

    found = read_sound(path)

    assert found.dtype == np.int16 and abs(len(found) - len(sound)) < 40
    assert np.corrcoef(found[: len(sound) - 40], sound[: len(sound) - 40])[0, 1] > 0.95
    with pytest.raises(SourceError):
        read_sound(tmp_path / "nothing.wav")
