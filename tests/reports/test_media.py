from __future__ import annotations

import dataclasses
import io
import re
import shutil
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from playable_run import ALPHA, BETA, SIZE, frame_of, pictures, write_playable_run
from synthetic_run import GROUND_TRUTH, model, shot, write_synthetic_run

from evaluation.cells import Cell
from evaluation.cli import main
from evaluation.shots import ShotReader, shots_of
from g4g_core import storage
from g4g_core.errors import UsageError
from g4g_core.protocols import ERASED
from prep.shards.index import Dataset
from reports.leaderboard import write_page, write_report
from reports.media import FOLDER, Choice, chosen, make_media, mouth_box
from reports.webvideo import KEYFRAME_EVERY, Grid, encode_video, mel_of_frames, mel_png

KEY = "toy-d_00-000"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_playable_run(tmp_path_factory.mktemp("playable"))


@pytest.fixture(scope="module")
def folder(run: Path) -> Any:
    """What a page with a folder of media was made of, and the record of one shot."""
    _, media = write_page(str(run), Choice("folder"))
    return media


def decoded(path: Path) -> tuple[np.ndarray, list[bool]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [frame.key_frame for frame in frames]


def luma(pictures: np.ndarray) -> np.ndarray:
    """float [..., 3] RGB to [...]: what 4:2:0 keeps of single pixels."""
    return np.asarray(pictures @ np.array([0.299, 0.587, 0.114]))


def test_every_view_has_the_same_frames_and_a_keyframe_is_near_every_one(run: Path, folder: Any) -> None:
    path = run / folder.shots[KEY]["video"]
    pixels, keys = decoded(path)
    assert len(pixels) == folder.shots[KEY]["frames"] == 40
    assert [at for at, key in enumerate(keys) if key] == list(range(0, 40, KEYFRAME_EVERY))
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt, video.average_rate) == ("h264", "yuv420p", 25)
        assert float(sound.duration * sound.time_base) == pytest.approx(40 / 25, abs=0.1)


def test_the_views_are_the_erased_source_the_truth_and_each_output_frame_by_frame(run: Path, folder: Any) -> None:
    record = folder.shots[KEY]
    pixels, _ = decoded(run / record["video"])
    assert [view.get("model") for view in record["views"]] == [None, "ground-truth", ALPHA, BETA]
    source, truth, alpha, beta = (
        pixels[:, SIZE * (n // 2) : SIZE * (n // 2 + 1), SIZE * (n % 2) : SIZE * (n % 2 + 1)] for n in range(4)
    )
    shots = {one.key: one for one in shots_of(Dataset.open(str(run.parent / "shards")), "test")}
    with ShotReader(str(run.parent / "shards"), shots[KEY]) as reader:
        stored = reader.frames(np.arange(40))
    clip = luma(stored.pictures)
    assert np.abs(luma(truth) - clip).mean() < 4 < np.abs(luma(truth)[1:] - clip[:-1]).mean() / 5
    erased = stored.erase[0] > 0
    inside = cv2.erode(erased.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert np.abs(source[:, inside].astype(int) - np.array(ERASED)).mean() < 3
    assert np.abs(luma(source) - clip)[:, ~erased].mean() < 4
    for view in (alpha, beta):
        assert [frame_of(frame[8:-8, 8:-8].mean()) for frame in view] == list(range(40))


def test_rendering_with_media_twice_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        copy = Path(shutil.copytree(run, tmp_path / name))
        pages.append(Path(write_page(str(copy), Choice("embed"))[0]).read_bytes())
    assert pages[0] == pages[1]


def test_the_command_says_how_much_the_media_weigh_and_the_page_where_they_are(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    done = CliRunner().invoke(main, ["report", str(copy), "--media", "folder", "--media-limit", "2"])
    assert done.exit_code == 0, done.output
    files = sorted((copy / FOLDER).iterdir())
    size = sum(file.stat().st_size for file in files)
    assert [file.suffix for file in files] == [".mp4", ".png"] * 2
    assert f"2 of 3 clips, {size / 1000:.1f} kB beside the page" in done.output
    text = " ".join((copy / "report.html").read_text(encoding="utf-8").split())
    assert f"Videos: 2 of 3 clips, {size / 1000:.1f} kB, in the folder report-media" in text
    assert CliRunner().invoke(main, ["report", str(copy)]).exit_code == 0
    assert not (copy / FOLDER).exists()
    assert "it was rendered without them" in (copy / "report.html").read_text(encoding="utf-8")


def test_footage_that_may_not_be_passed_on_is_refused_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model(ALPHA)], [shot(1), shot(2)], metrics=["psnr@mouth"])
    done = CliRunner().invoke(main, ["report", str(tmp_path), "--media", "embed"])
    assert done.exit_code == 2
    assert "lrs2-clip0001-000 (and 1 more) may not be passed on; its licence: licence of lrs2" in done.output
    assert "--media-source" in done.output
    assert not (tmp_path / "report.html").exists()
    write_report(str(tmp_path))
    assert "footage of lrs2 may not be passed on" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_only_what_is_chosen_must_be_free(run: Path) -> None:
    shots = storage.read_json(run / "shots.json")
    facts, summary = (storage.read_json(run / name) for name in ("run.json", "summary.json"))
    shots["shots"]["toy-e_00-000"]["about"]["redistributable"] = False
    shots["shots"]["toy-e_00-000"]["source"] = "other"
    with pytest.raises(UsageError, match="toy-e_00-000 may not be passed on; its licence: made up"):
        make_media(str(run), facts, summary, shots, Choice("embed"))
    made = make_media(str(run), facts, summary, shots, Choice("embed", ("toy",)))
    assert sorted(made.shots) == [KEY, "toy-f_00-000"]
    with pytest.raises(UsageError, match="no such source"):
        make_media(str(run), facts, summary, shots, Choice("embed", ("nothing",)))


def test_a_failed_model_has_no_view_and_an_output_that_is_gone_is_said(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shots = storage.read_json(copy / "shots.json")
    shots["shots"][KEY]["models"][ALPHA] |= {"error": ["timeout", "too slow"], "values": {}, "curves": {}}
    storage.write_json(copy / "shots.json", shots)
    _, media = write_page(str(copy), Choice("embed"))
    assert [view.get("model") for view in media.shots[KEY]["views"]] == [None, "ground-truth", BETA]
    output = Cell(str(copy), BETA, KEY).output
    data = bytearray(output.read_bytes())
    data[len(data) // 2] ^= 1
    output.write_bytes(data)
    with pytest.raises(UsageError, match="not what was stored"):
        write_page(str(copy), Choice("embed"))
    output.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        write_page(str(copy), Choice("embed"))


def test_shards_that_have_changed_since_are_refused(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shots = storage.read_json(copy / "shots.json")
    shots["shots"][KEY]["fingerprint"] = "another"
    storage.write_json(copy / "shots.json", shots)
    with pytest.raises(UsageError, match=f"no longer holds {KEY}"):
        write_page(str(copy), Choice("embed"))


def test_in_cross_the_speaker_is_heard_and_the_picture_cut_to_the_speech(tmp_path: Path) -> None:
    run = write_playable_run(tmp_path, cross=True)
    _, media = write_page(str(run), Choice("folder"))
    for key, record in media.shots.items():
        assert record["speaker"] not in (None, key)
        pixels, _ = decoded(run / record["video"])
        assert len(pixels) == record["frames"]


def test_in_cross_the_sound_must_be_free_too(tmp_path: Path) -> None:
    run = write_playable_run(tmp_path, cross=True)
    facts, summary, shots = (storage.read_json(run / name) for name in ("run.json", "summary.json", "shots.json"))
    choice = Choice("embed", limit=1)
    made = make_media(str(run), facts, summary, shots, choice)
    ((seen, record),) = made.shots.items()
    shots["shots"][record["speaker"]]["about"] |= {"redistributable": False, "licence": "for my ears only"}
    with pytest.raises(
        UsageError, match=f"{record['speaker']}, whose words {seen} speaks, may not be passed on"
    ) as told:
        make_media(str(run), facts, summary, shots, choice)
    assert "for my ears only" in str(told.value)


def test_footage_without_a_licence_is_shown_on_the_word_of_its_owner_and_the_page_says_so(
    run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shots = storage.read_json(copy / "shots.json")
    for one in shots["shots"].values():
        one["about"] |= {"redistributable": False, "licence": "unknown"}
    storage.write_json(copy / "shots.json", shots)

    def text() -> str:
        return re.sub(r"\s+", " ", re.sub("<[^>]*>", "", (copy / "report.html").read_text(encoding="utf-8")))

    refused = CliRunner().invoke(main, ["report", str(copy), "--media", "embed"])
    assert refused.exit_code == 2
    assert "--i-may-pass-on toy" in refused.output
    write_report(str(copy))
    assert "The shards name no licence for toy; who may pass this footage on" in text()
    words = ["report", str(copy), "--media", "embed", "--media-limit", "1", "--i-may-pass-on", "toy"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert "its footage is shown on the word of whoever rendered this page" in text()
    assert "rendered anew: g4g-eval report RUN --media embed --media-limit 1 --i-may-pass-on toy " in text()
    shots["shots"][KEY]["about"]["licence"] = "not to be passed on"
    storage.write_json(copy / "shots.json", shots)
    forbidden = CliRunner().invoke(main, [*words[:4], "--i-may-pass-on", "toy"])
    assert forbidden.exit_code == 2
    assert "its licence: not to be passed on" in forbidden.output
    assert "--i-may-pass-on" not in forbidden.output


def test_a_few_clips_are_spread_over_people() -> None:
    shots = {f"k{at}": {"source": "s", "identity": "talker" if at < 20 else f"p{at}"} for at in range(24)}
    for limit, people in ((1, 1), (4, 4), (5, 5), (6, 5), (24, 5)):
        kept = chosen(shots, Choice("embed", limit=limit))
        assert len(kept) == limit
        assert len({shots[key]["identity"] for key in kept}) == people
        assert kept == [key for key in shots if key in kept]


def test_choices_without_media_are_refused(run: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(run), "--media-limit", "2"])
    assert done.exit_code == 2
    assert "--media embed" in done.output


def test_the_mouth_stays_inside_its_box_and_the_box_inside_the_picture() -> None:
    landmarks = np.zeros((5, 68, 2), np.float32)
    angles = np.linspace(0, 2 * np.pi, 20)
    for frame in range(5):
        landmarks[frame, 48:] = np.stack([50 + 2 * frame + 12 * np.cos(angles), 60 + 5 * np.sin(angles)], 1)
    left, top, side = mouth_box(landmarks, 80)
    mouth = landmarks[:, 48:]
    assert (mouth >= (left, top)).all()
    assert (mouth <= (left + side, top + side)).all()
    assert min(left, top) >= 0
    assert max(left, top) + side <= 80


def test_grids_place_views_row_by_row() -> None:
    grid = Grid(5, 4)
    views = [np.full((2, 4, 4, 3), number, np.uint8) for number in range(1, 6)]
    joined = grid.joined(views)
    assert joined.shape == (2, 8, 12, 3)
    assert joined[0, ::4, ::4, 0].tolist() == [[1, 2, 3], [4, 5, 0]]


def test_silence_stands_where_the_spectrogram_has_no_column() -> None:
    mel = np.arange(80 * 3, dtype=np.float32).reshape(3, 80)
    cut = mel_of_frames(mel, 10, 8, 15)
    assert np.array_equal(cut[2:5], mel)
    assert (cut[[0, 1, 5, 6]] == -4).all()
    picture = cv2.imdecode(np.frombuffer(mel_png(np.full((7, 80), -4.0)), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (80, 7)
    assert not picture.any()


def test_sound_and_picture_begin_together() -> None:
    clicks = (3200, 9600, 16000)  # samples: frames 5, 15 and 25
    pcm = np.zeros(30 * 640, np.int16)
    for click in clicks:
        pcm[click : click + 64] = 20000 * np.sin(np.arange(64) / 3)
    pictures = np.zeros((30, 32, 32, 3), np.uint8)
    pictures[[5, 15, 25]] = 255
    with av.open(io.BytesIO(encode_video([pictures], pcm))) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        container.seek(0)
        seen = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert [at for at, grey in enumerate(seen) if grey > 128] == [5, 15, 25]
    for click in clicks:
        around = np.abs(heard[click - 640 : click + 640])
        assert abs(int(around.argmax()) - 640 - 32) < 48  # 3 ms


def test_a_video_without_sound_can_be_made(tmp_path: Path) -> None:
    data = encode_video([np.zeros((3, 32, 32, 3), np.uint8)])
    with av.open(io.BytesIO(data)) as container:
        assert not container.streams.audio
        assert len(list(container.decode(video=0))) == 3


def test_the_shades_of_the_test_tell_frames_apart() -> None:
    one = dataclasses.replace(shot(1), segments=(("k", 0, 40),))
    assert [frame_of(picture.mean()) for picture in pictures(one)] == list(range(40))
