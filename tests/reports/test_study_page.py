from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import playable_run
import pytest
import simplejpeg
from click.testing import CliRunner, Result
from playable_run import ALPHA, BETA, frame_of, write_playable_run
from study_rating import SimulatedRater
from synthetic_shards import SyntheticClip

from evaluation.models import TRUTH
from evaluation.protocols import CROSS, speakers
from evaluation.shots import Shot, ShotReader, shots_of
from evaluation.study_design import DAMAGED, read_study
from g4g_core import storage
from g4g_core.cli_base import RootGroup
from g4g_core.errors import UsageError
from prep.records import SAMPLE_RATE
from prep.shards.index import Dataset
from reports.leaderboard import write_report
from reports.opinions import STUDY, read_opinions
from reports.study_cli import study as study_command
from reports.study_media import mosaic
from reports.study_page import BuiltStudy, build_study

TRIALS = 12
SEED = 5
CLIPS = ("d_00", "e_00", "f_00")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_playable_run(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def built(run: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltStudy:
    out = str(tmp_path_factory.mktemp("built"))
    return build_study(str(run), out, trials=TRIALS, seed=SEED, quiet=True)


@pytest.fixture(scope="module")
def source(built: BuiltStudy) -> str:
    return Path(built.page).read_text(encoding="utf-8")


def media_of(source: str) -> dict[str, bytes]:
    found = re.findall(r'<script id="m-([0-9a-f]+)" type="text/plain">([^<]*)</script>', source)
    return {token: base64.b64decode(data) for token, data in found}


def definition_of(source: str) -> str:
    return source.split('<script id="study" type="application/json">')[1].split("</script>", maxsplit=1)[0]


def invoke(*words: str) -> Result:
    root = RootGroup(name="g4g-eval")
    root.add_command(study_command)
    return CliRunner().invoke(root, ["study", *words])


# ---------------------------------------------------------------- what the page gives away


def test_nothing_in_the_page_names_a_model_a_clip_or_a_person(source: str, built: BuiltStudy, run: Path) -> None:
    texts = re.sub(r">[A-Za-z0-9+/=]{200,}<", "><", source)  # clips are looked at below
    shots = {(trial.shot, trial.identity) for trial in built.study.trials}
    for secret in (ALPHA, BETA, TRUTH, "truth", built.study.key, str(run), *(name for pair in shots for name in pair)):
        assert secret not in texts
    for data in media_of(source).values():
        for name in (ALPHA, BETA, TRUTH):
            assert name.encode() not in data


def tokens_of(built: BuiltStudy, model: str, shot: str | None = None) -> list[str]:
    return [
        token for trial in built.study.trials for token, name in trial.clips.items()
        if name == model and shot in (None, trial.shot)
    ]  # fmt: skip


def test_neither_bytes_nor_sizes_tell_clips_of_a_shot_from_each_other(source: str, built: BuiltStudy) -> None:
    media = media_of(source)
    tokens = [token for trial in built.study.trials for token in trial.clips]
    assert len({hashlib.sha256(media[token]).digest() for token in tokens}) == len(tokens)
    for shot in {trial.shot for trial in built.study.trials}:
        of_shot = [token for trial in built.study.trials if trial.shot == shot for token in trial.clips]
        assert len({len(media[token]) for token in of_shot}) == 1 < len(of_shot)
        counts = set()
        for token in of_shot:
            with av.open(io.BytesIO(media[token])) as container:
                counts.add(sum(1 for _ in container.decode(video=0)))
        assert len(counts) == 1


def test_a_photo_is_no_frame_of_the_clips_beside_it(source: str, built: BuiltStudy, run: Path) -> None:
    """Else the clip that holds it is the recording."""
    media, shown = media_of(source), json.loads(definition_of(source))["trials"]
    pictures = {trial["id"]: trial["picture"] for trial in shown if "picture" in trial}
    for trial in built.study.trials:
        if trial.token in pictures:
            photo = simplejpeg.decode_jpeg(media[pictures[trial.token]]).astype(float)
            with ShotReader(str(run.parent / "shards"), shots_in(run)[trial.shot]) as reader:
                frames = reader.pictures(np.arange(reader.shot.n_frames)).astype(float)
            nearest = int(np.abs(frames - photo).mean(axis=(1, 2, 3)).argmin())
            assert nearest == len(frames) - 1 > round(25 * trial.seconds)


@pytest.mark.parametrize(("trials", "unshown"), [(5, True), (99, False)])
def test_a_photo_is_no_frame_of_any_clip_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int, unshown: bool
) -> None:
    """A person with four shots: the photo is of one that is not shown, or of what comes after the clips."""
    of_dora = [SyntheticClip(f"d/0{n}", "dora", "test", ((5, 30 + 3 * n),), 40 + 3 * n) for n in range(4)]
    monkeypatch.setattr(playable_run, "CLIPS", tuple(of_dora))
    run = write_playable_run(tmp_path)
    built = build_study(str(run), str(tmp_path / "out"), trials=trials, seed=SEED, quiet=True)
    source = Path(built.page).read_text(encoding="utf-8")
    seconds = {trial.shot: trial.seconds for trial in built.study.trials}
    assert (len(seconds) < 4) == unshown
    frames = []
    for key, shot in shots_in(run).items():
        with ShotReader(str(run.parent / "shards"), shot) as reader:
            for number, picture in enumerate(reader.pictures(np.arange(shot.n_frames))):
                frames.append((key, number, picture.astype(float)))
    shown = json.loads(definition_of(source))["trials"]
    photos = {trial["picture"] for trial in shown if "picture" in trial}
    for photo in photos:
        picture = simplejpeg.decode_jpeg(media_of(source)[photo]).astype(float)
        key, number, _ = min(frames, key=lambda frame: np.abs(frame[2] - picture).mean())
        assert key not in seconds or number >= round(25 * seconds[key])


def test_videos_carry_no_title_date_or_program(source: str) -> None:
    for data in media_of(source).values():
        if data[4:8] == b"ftyp":
            with av.open(io.BytesIO(data)) as container:
                assert not {"title", "comment", "creation_time", "encoder"} & set(container.metadata)


def test_a_check_by_eye_looks_like_any_comparison(source: str, built: BuiltStudy) -> None:
    trials = {trial["id"]: trial for trial in json.loads(definition_of(source))["trials"]}
    shapes: dict[str, set[str]] = {"preference": set(), "check-look": set()}
    for trial in built.study.trials:
        if trial.kind in shapes:
            shown = trials[trial.token]
            shapes[trial.kind].add(f"{sorted(shown)} {shown['ask']} {len(shown['clips'])}")
    assert shapes["preference"] == shapes["check-look"] != set()


def test_tokens_stand_in_an_order_that_says_nothing(source: str) -> None:
    trials = json.loads(definition_of(source))["trials"]
    assert [trial["id"] for trial in trials] == sorted(trial["id"] for trial in trials)
    assert all(trial["clips"] == sorted(trial["clips"]) for trial in trials)
    assert list(media_of(source)) == sorted(media_of(source))


def test_the_page_asks_the_network_for_nothing(source: str) -> None:
    outside = re.sub(r"<script[^>]*>.*?</script>", "", source, flags=re.DOTALL)
    assert not re.search(r"https?:|//\w|\bsrc=|\bhref=|url\(|@import", outside)
    assert "default-src 'none'" in source
    assert "connect-src" not in source
    assert not re.search(r"fetch\(|XMLHttpRequest|sendBeacon|WebSocket|https?:", source.rsplit("<script>", 1)[1])


# ---------------------------------------------------------------- what it shows


def test_clips_are_the_models_outputs_frame_by_frame(source: str, built: BuiltStudy) -> None:
    media, checked = media_of(source), 0
    for trial in built.study.trials:
        for token, name in trial.clips.items():
            if name in (ALPHA, BETA):
                with av.open(io.BytesIO(media[token])) as container:
                    frames = [frame_of(f.to_ndarray(format="rgb24").mean()) for f in container.decode(video=0)]
                assert frames == list(range(round(25 * trial.seconds)))
                checked += 1
    assert checked


def sound_of(data: bytes) -> np.ndarray:
    """float32 [n], 16 kHz, from the time 0 of the file on."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].time == 0
    return np.concatenate([p.to_ndarray()[0] for f in [*frames, None] for p in resampler.resample(f)])


def likeness(sound: np.ndarray, pcm: np.ndarray, lag: int = 0) -> float:
    """Correlation, -1 ... 1, if the sound comes ``lag`` samples late."""
    n = min(len(sound), len(pcm)) - 400
    return float(np.corrcoef(sound[200 + lag : 200 + lag + n], pcm[200 : 200 + n])[0, 1])


def shots_in(run: Path) -> dict[str, Shot]:
    return {shot.key: shot for shot in shots_of(Dataset.open(str(run.parent / "shards")), "test")}


def pcm_of(run: Path, shot: Shot) -> np.ndarray:
    with ShotReader(str(run.parent / "shards"), shot) as reader:
        return reader.pcm()


def test_sound_and_picture_begin_together(source: str, run: Path, built: BuiltStudy) -> None:
    for key, shot in shots_in(run).items():
        sound, pcm = sound_of(media_of(source)[tokens_of(built, TRUTH, key)[0]]), pcm_of(run, shot)
        shown = next(trial.seconds for trial in built.study.trials if trial.shot == key)
        pcm = pcm[: round(SAMPLE_RATE * shown)]
        fits = {lag: likeness(sound, pcm, lag) for lag in range(-160, 161, 4)}
        assert fits[0] == max(fits.values()) > 0.9  # to a quarter of a millisecond
        assert len(sound) >= SAMPLE_RATE * shown


def test_a_clip_is_cut_to_the_seconds_asked_for(run: Path, tmp_path: Path) -> None:
    built = build_study(str(run), str(tmp_path), trials=5, seconds=0.4, quiet=True)
    assert {trial.seconds for trial in built.study.trials} == {0.4}
    for data in media_of(Path(built.page).read_text()).values():
        if data[4:8] == b"ftyp":
            with av.open(io.BytesIO(data)) as container:
                assert sum(1 for _ in container.decode(video=0)) == 10


def test_a_mosaic_is_twelve_flat_blocks_a_side() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    coarse = mosaic(picture)
    assert coarse.shape == picture.shape
    assert len(np.unique(coarse.reshape(-1, 3), axis=0)) <= 144
    assert (coarse[:4, :4] == coarse[0, 0]).all()


def test_checks_show_the_damaged_clip(source: str, built: BuiltStudy) -> None:
    tokens = {token for trial in built.study.trials for token, name in trial.clips.items() if name == DAMAGED}
    assert tokens
    assert tokens <= set(media_of(source))


def test_in_a_cross_run_models_say_the_others_words_and_the_truth_is_left_out(tmp_path: Path) -> None:
    run = write_playable_run(tmp_path, cross=True)
    built = build_study(str(run), str(tmp_path / "out"), trials=9, quiet=True)
    assert list(built.study.models) == [ALPHA, BETA]
    media, shots = media_of(Path(built.page).read_text()), shots_in(run)
    speaker, _ = speakers(CROSS, list(shots.values()), 0)
    for key, other in speaker.items():
        sound = sound_of(media[tokens_of(built, ALPHA, key)[0]])
        shown = len(sound) // 640 * 640
        assert likeness(sound, pcm_of(run, shots[other])[:shown]) > 0.9
        assert likeness(sound, pcm_of(run, shots[key])[:shown]) < 0.9
    with pytest.raises(UsageError, match="other words"):
        build_study(str(run), str(tmp_path / "b"), models=[ALPHA, TRUTH], quiet=True)


# ---------------------------------------------------------------- key, hash, bytes


def test_the_key_file_unlocks_the_page(source: str, built: BuiltStudy) -> None:
    found = read_study(built.key)
    shown = json.loads(definition_of(source))
    assert {trial["id"] for trial in shown["trials"]} == {trial.token for trial in found.trials}
    assert (shown["study"], shown["seal"]) == (found.id, found.seal)
    assert found.page == hashlib.sha256(definition_of(source).encode()).hexdigest()
    for token, about in shown["media"].items():
        assert hashlib.sha256(media_of(source)[token]).hexdigest() == about["sha256"]


def test_the_same_seed_gives_the_same_bytes_and_none_gives_others(run: Path, built: BuiltStudy, tmp_path: Path) -> None:
    again = build_study(str(run), str(tmp_path / "a"), trials=TRIALS, seed=SEED, quiet=True)
    assert Path(again.page).read_bytes() == Path(built.page).read_bytes()
    assert Path(again.key).read_bytes() == Path(built.key).read_bytes()
    first, second = (build_study(str(run), str(tmp_path / name), trials=5, quiet=True).study for name in "bc")
    assert first.seed != second.seed
    assert not {t for trial in first.trials for t in trial.clips} & {t for trial in second.trials for t in trial.clips}
    assert read_study(str(tmp_path / "b" / "study.json")).seed == first.seed


def test_the_seed_is_in_the_key_file_alone(source: str, run: Path, tmp_path: Path) -> None:
    seed = 7_120_934_518_823
    made = invoke("build", str(run), "--trials", "5", "--seed", str(seed), "--out", str(tmp_path), "--json")
    assert str(seed) not in made.output
    assert str(seed) not in (tmp_path / "study.html").read_text()
    assert str(seed) in (tmp_path / "study.json").read_text()


def test_other_options_are_another_study(run: Path, built: BuiltStudy, tmp_path: Path) -> None:
    other = build_study(str(run), str(tmp_path), trials=TRIALS - 1, seed=SEED, quiet=True)
    assert other.study.id != built.study.id


# ---------------------------------------------------------------- refusals


def close(monkeypatch: pytest.MonkeyPatch, *clips: str) -> None:
    """These clips may not be passed on."""

    def closed(*words: Any, **settings: Any) -> list[Shot]:
        return [
            dataclasses.replace(shot, about={**shot.about, "redistributable": False, "licence": "for research only"})
            if shot.clip in clips else shot
            for shot in shots_of(*words, **settings)
        ]  # fmt: skip

    monkeypatch.setattr("reports.media.shots_of", closed)


def test_footage_that_may_not_be_passed_on_is_refused_unless_the_user_answers_for_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(monkeypatch, *CLIPS)
    refused = invoke("build", str(run), "--trials", "5", "--out", str(tmp_path / "a"))
    assert refused.exit_code == 2
    assert "for research only" in refused.output
    assert "--i-may-show-them" in refused.output
    assert not (tmp_path / "a").exists()
    taken = invoke("build", str(run), "--trials", "5", "--out", str(tmp_path / "b"), "--i-may-show-them")
    assert taken.exit_code == 0
    assert "you answer for whom you give it to" in taken.output
    assert "Do not copy them" in (tmp_path / "b" / "study.html").read_text()
    facts = read_study(str(tmp_path / "b" / "study.json")).facts
    assert facts["restricted_licences"] == ["for research only"]


def test_shots_that_may_not_be_passed_on_are_left_out_and_counted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(monkeypatch, CLIPS[0])
    made = invoke("build", str(run), "--trials", "5", "--out", str(tmp_path))
    assert made.exit_code == 0, made.output
    assert "passing them on: 1 of the shots" in made.output
    study = read_study(str(tmp_path / "study.json"))
    assert not any(CLIPS[0] in trial.shot for trial in study.trials)
    assert study.facts["restricted_licences"] == []


def test_in_a_cross_run_the_licence_of_the_sound_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_playable_run(tmp_path, cross=True)
    shots = shots_in(run)
    speaker, _ = speakers(CROSS, list(shots.values()), 0)
    silent = next(iter(set(speaker.values())))
    close(monkeypatch, shots[silent].clip)
    held = {key for key, other in speaker.items() if silent in (key, other)}
    assert len(held) > 1
    if held == set(shots):
        with pytest.raises(UsageError, match="for research only"):
            build_study(str(run), str(tmp_path / "out"), trials=3, quiet=True)
        return
    built = build_study(str(run), str(tmp_path / "out"), trials=3, quiet=True)
    assert set(built.left_out) == held
    assert not held & {trial.shot for trial in built.study.trials}


def test_a_study_is_not_written_over_another(run: Path, built: BuiltStudy) -> None:
    with pytest.raises(UsageError, match="holds a study"):
        build_study(str(run), os.path.dirname(built.key), quiet=True)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"models": ["alpa"]}, "alpha"),
        ({"models": [ALPHA]}, "compares models"),
        ({"trials": 3}, "too few"),
        ({"seconds": math.nan}, "nan s"),
        ({"seconds": math.inf}, "from 0.2 to 600"),
        ({"seconds": 0.1}, "from 0.2 to 600"),
    ],
)
def test_a_wrong_option_is_explained(run: Path, tmp_path: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError) as error:
        build_study(str(run), str(tmp_path), quiet=True, **settings)
    assert why in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_that_has_changed_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shots = storage.read_json(copy / "shots.json")
    next(iter(shots["shots"].values()))["fingerprint"] = "other"
    storage.write_json(copy / "shots.json", shots)
    with pytest.raises(UsageError, match="no longer holds"):
        build_study(str(copy), quiet=True)


def test_an_output_that_is_damaged_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for path in (copy / "outputs" / ALPHA).iterdir():
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UsageError, match="Evaluate again"):
        build_study(str(copy), trials=TRIALS, quiet=True)


# ---------------------------------------------------------------- the commands


def test_build_says_what_was_made_and_how_large_it_is(run: Path, tmp_path: Path) -> None:
    made = invoke("build", str(run), "--trials", "5", "--out", str(tmp_path))
    assert made.exit_code == 0, made.output
    assert "3 models, 5 trials and 2 checks" in made.output
    assert "misses more than 0 of the checks is excluded" in made.output
    assert "scores rest on 1 person: under 7 they tell none of 3 models apart" in made.output
    assert "(--trials 35 scores 7, where so many can be shown)" in made.output
    assert "kB)" in made.output
    assert str(tmp_path / "study.html") in made.output
    assert str(tmp_path / "study.json") in made.output


@pytest.mark.parametrize("seconds", ["inf", "nan", "0.1", "601"])
def test_build_with_seconds_that_cannot_be_is_explained(run: Path, tmp_path: Path, seconds: str) -> None:
    made = invoke("build", str(run), "--trials", "5", "--seconds", seconds, "--out", str(tmp_path))
    assert made.exit_code == 2
    assert "0.2" in made.output and "600" in made.output
    assert list(tmp_path.iterdir()) == []


def test_build_as_json_is_json_alone(run: Path, tmp_path: Path) -> None:
    made = invoke("build", str(run), "--models", f"{ALPHA},{BETA}", "--clips", "2", "--trials", "99", "--out",
                  str(tmp_path), "--json")  # fmt: skip
    facts = json.loads(made.stdout)
    assert facts["models"] == [ALPHA, BETA]
    assert facts["trials"] == 2 * 2 + 2  # two shots of two models, and one pair on each
    assert facts["bytes"] == (tmp_path / "study.html").stat().st_size
    assert "key" in facts
    assert read_study(facts["key"]).key not in made.stdout


def test_collect_writes_the_results_beside_the_key_and_tells_refusals(built: BuiltStudy, tmp_path: Path) -> None:
    shutil.copy(built.key, tmp_path / "study.json")
    merits = {TRUTH: 1.0, ALPHA: 0.0, BETA: -1.0}
    files = [SimulatedRater(f"P{n}", merits, n).write(tmp_path, built.study) for n in range(7)]
    files[0].write_text(files[0].read_text().replace("P0", "P9"))
    SimulatedRater("P1", merits, 1, passes=False).write(tmp_path, built.study)
    done = invoke("collect", *map(str, files), "--study", str(tmp_path / "study.json"))
    assert done.exit_code == 1
    assert "refused  P0.json: tampered: the checksum does not fit the answers" in done.output
    assert "excluded P1 (P1.json): attention" in done.output
    assert "raters: 5 counted, 1 excluded; files refused: 1" in done.output
    results = storage.read_json(tmp_path / "study_results.json")
    assert (results["schema_version"], results["kind"]) == (1, "g4g-study-results")
    assert results["raters"]["counted"] == ["P2", "P3", "P4", "P5", "P6"]


def test_collect_exits_with_0_when_all_is_well_and_3_when_nobody_counts(built: BuiltStudy, tmp_path: Path) -> None:
    merits = {TRUTH: 1.0, ALPHA: 0.0, BETA: -1.0}
    good = SimulatedRater("P1", merits, 1).write(tmp_path, built.study)
    bad = SimulatedRater("P2", merits, 1, passes=False).write(tmp_path, built.study)
    out = str(tmp_path / "results.json")
    fine = invoke("collect", str(good), "--study", built.key, "--out", out, "--json")
    assert (fine.exit_code, json.loads(fine.stdout)) == (0, storage.read_json(out))
    assert invoke("collect", str(bad), "--study", built.key, "--out", out).exit_code == 3


def test_collect_keeps_earlier_results_where_nobody_counts_any_more(built: BuiltStudy, tmp_path: Path) -> None:
    merits = {TRUTH: 1.0, ALPHA: 0.0, BETA: -1.0}
    good = SimulatedRater("P1", merits, 1).write(tmp_path, built.study)
    bad = SimulatedRater("P2", merits, 1, passes=False).write(tmp_path, built.study)
    out = tmp_path / "results.json"
    first = invoke("collect", str(bad), "--study", built.key, "--out", str(out))
    assert first.exit_code == 3
    assert storage.read_json(out)["raters"]["counted"] == []  # nothing was there
    assert invoke("collect", str(good), "--study", built.key, "--out", str(out)).exit_code == 0
    before = out.read_bytes()
    for more in ((), ("--json",)):
        again = invoke("collect", str(bad), "--study", built.key, "--out", str(out), *more)
        assert again.exit_code == 3
        assert f"{out} keeps its results of 1 before" in again.stderr
        assert f"results: {out}" not in again.stdout
        assert out.read_bytes() == before


@pytest.mark.parametrize("wanted", ["study.json", "P1.json", "study.html"])
def test_collect_does_not_write_over_the_key_the_page_or_answers(
    built: BuiltStudy, tmp_path: Path, wanted: str
) -> None:
    for path in (built.key, built.page):
        shutil.copy(path, tmp_path)
    answers = SimulatedRater("P1", {TRUTH: 1.5, ALPHA: 0.0, BETA: -1.5}, 1).write(tmp_path, built.study)
    before = (tmp_path / wanted).read_bytes()
    failed = invoke("collect", str(answers), "--study", str(tmp_path / "study.json"), "--out", str(tmp_path / wanted))
    assert failed.exit_code == 2
    assert "something else than results" in failed.output
    assert (tmp_path / wanted).read_bytes() == before


def test_a_study_built_outside_its_run_is_folded_into_it_and_into_no_other(run: Path, tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    shutil.copytree(run, own)
    shutil.copytree(run, other)
    summary = storage.read_json(other / "summary.json")
    summary["models"][ALPHA]["fingerprint"] = "trained again"
    storage.write_json(other / "summary.json", summary)
    built = build_study(str(own), str(tmp_path / "study"), trials=5, quiet=True)
    answers = str(SimulatedRater("P1", {TRUTH: 1.5, ALPHA: 0.0, BETA: -1.5}, 1).write(tmp_path, built.study))
    refused = invoke("collect", answers, "--study", built.key, "--run", str(other))
    assert refused.exit_code == 2
    assert "is not the run" in refused.output
    assert not (other / STUDY).exists()
    alone = invoke("collect", answers, "--study", built.key)
    assert alone.exit_code == 0, alone.output
    assert "name it with --run" in alone.output
    assert read_opinions(str(own)) is None
    folded = invoke("collect", answers, "--study", built.key, "--run", str(own))
    assert folded.exit_code == 0, folded.output
    opinions = read_opinions(str(own))
    assert opinions is not None
    assert opinions["study"] == built.study.id
    assert not opinions["ranked"]  # one rater: no claim, no rank
    assert {row["preferred"]["rank"] for row in opinions["rows"]} == {None}
    shutil.copy(own / STUDY, other / STUDY)
    assert read_opinions(str(other)) is None


def test_no_rank_is_shown_where_no_claim_can_be_made(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(run, own)
    built = build_study(str(own), trials=TRIALS, quiet=True)
    people = [SimulatedRater(f"P{n}", {TRUTH: 1.0, ALPHA: 0.0, BETA: -1.0}, n) for n in range(8)]
    done = invoke("collect", *(str(one.write(tmp_path, built.study)) for one in people), "--study", built.key)
    assert done.exit_code == 0, done.output
    assert "#" not in done.output  # three people in the clips
    write_report(str(own))
    page = (own / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<h2 id="study">') :].split("</section>", maxsplit=1)[0]
    assert "no rank is shown" in section
    assert "#1" not in section
    assert section.count("too few to tell 3 models apart") == 4  # three scores, and preferences
    assert "8 raters, 3 people: too few to tell 3 models apart" in section


def test_the_results_of_another_study_of_a_run_are_not_written_over(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(run, own)
    for name in ("first", "second"):
        built = build_study(str(own), str(tmp_path / name), trials=5, seed=len(name), quiet=True)
        answers = str(SimulatedRater("P1", {TRUTH: 1.5, ALPHA: 0.0, BETA: -1.5}, 1).write(tmp_path, built.study))
        collected = invoke("collect", answers, "--study", built.key, "--run", str(own))
        if name == "first":
            assert collected.exit_code == 0, collected.output
            before = (own / STUDY).read_bytes()
    assert collected.exit_code == 2
    assert f"{own / STUDY} holds the results of another study" in collected.output
    assert (own / STUDY).read_bytes() == before and not (tmp_path / "second" / STUDY).exists()


@pytest.mark.parametrize("damage", ["[]", "{}", '{"kind": "g4g-study-results", "schema_version": 1}'])
def test_damaged_results_of_a_study_are_told_in_a_line(run: Path, tmp_path: Path, damage: str) -> None:
    own = tmp_path / "own"
    shutil.copytree(run, own)
    (own / STUDY).write_text(damage)
    with pytest.raises(UsageError, match=r"study_results.json (holds no results|is damaged)"):
        read_opinions(str(own))


def test_collect_with_a_wrong_key_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{}")
    failed = invoke("collect", "x.json", "--study", str(tmp_path / "study.json"))
    assert failed.exit_code == 2
    assert "no study's key file" in failed.output
