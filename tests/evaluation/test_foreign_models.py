"""Programs and finished videos of others in the table: run without a shell, read on one clock, marked unguarded."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluating import InProcess, evaluated

from baselines.external import External, read_external
from baselines.precomputed import find_video
from baselines.program import ProgramFailed, run_program, user_environment
from evaluation.cells import Cell
from evaluation.shots import shots_of
from evaluation.videos import fitted, read_lossless, write_lossless
from g4g_core.errors import SourceError, UsageError
from prep.shards.index import Dataset

FAST = ["psnr", "temporal"]

PROGRAM = '''
"""A lip-sync program as others write them: reads a video and a sound, writes a video, prints as it goes."""
import sys, wave
import av

video, audio, out = sys.argv[1:4]
with wave.open(audio) as sound:
    assert sound.getframerate() == 16000 and sound.getnchannels() == 1
    seconds = sound.getnframes() / 16000
print("dubbing", seconds, "s of", video)
with av.open(video) as source, av.open(out, "w") as target:
    stream = target.add_stream("libx264", rate=25, options={"crf": "10"})
    stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
    for frame in source.decode(video=0):
        picture = frame.to_ndarray(format="rgb24")
        picture[picture.shape[0] // 2:] //= 2
        new = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(128, 128)
        new.pts = None
        target.mux(stream.encode(new))
    target.mux(stream.encode())
'''


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A YAML file of a real program, in folders with blanks and quotes in their names."""
    folder = tmp_path / 'it\'s "my" $HOME; model'
    folder.mkdir()
    (folder / "dub it.py").write_text(PROGRAM)
    config = {
        "command": [sys.executable, str(folder / "dub it.py"), "{video}", "{audio}", "{output}"],
        "output": "the result's.mp4",
        "environment": {"OMP_NUM_THREADS": "1"},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    return folder / "model.yaml"


def test_a_separate_program_stands_in_the_table_marked_unguarded(shards: str, tmp_path: Path, program: Path) -> None:
    report = evaluated(shards, tmp_path / "run", InProcess(), models=[f"theirs=external:{program}"], metrics=FAST)
    (table,) = report.summary["tables"].values()

    assert not report.failed
    assert report.summary["models"]["theirs"]["marks"] == ["unguarded"]
    cell = table["rows"]["theirs"]["cells"]["psnr@face"]
    assert cell["n"] == 3 and 5 < cell["mean"] < 25  # the lower half is half as bright
    shot = shots_of(Dataset.open(shards), "test")[0]
    picture = next(read_lossless(Cell(str(tmp_path / "run"), "theirs", shot.key).output))
    assert picture.shape == (256, 256, 3)  # resized to the shards' size


def test_another_version_of_the_program_s_file_runs_again(shards: str, tmp_path: Path, program: Path) -> None:
    models = [f"theirs=external:{program}"]
    evaluated(shards, tmp_path / "run", InProcess(), models=models, metrics=FAST)
    config = yaml.safe_load(program.read_text())
    program.write_text(yaml.safe_dump({**config, "timeout": 300}))
    runner = InProcess()

    evaluated(shards, tmp_path / "run", runner, models=models, metrics=FAST)

    assert {(op, model) for op, model, _ in runner.operations} == {("generate", "theirs"), ("score", "theirs")}


def run(tmp_path: Path, code: str, **fields: Any) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-c", code, "{output}", "{work}"]
    return run_program(External(command=command, **fields), tmp_path / "v", tmp_path / "a", work)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; print('CUDA out of memory'); sys.exit(3)", "exit status 3: CUDA out of memory"),
        ("pass", "left no output.mp4"),
        ("import os; os.abort()", "killed by signal 6"),
        ("import sys; open(sys.argv[1], 'w')", "left no output.mp4"),
    ],
)
def test_a_program_that_fails_says_its_last_words(tmp_path: Path, code: str, says: str) -> None:
    with pytest.raises(ProgramFailed) as failed:
        run(tmp_path, code)

    assert says in str(failed.value)


def test_a_program_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "grandchild"
    child = f"import time, pathlib; time.sleep(2.5); pathlib.Path({str(mark)!r}).touch()"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"

    with pytest.raises(ProgramFailed, match="no end within 1 s"):
        run(tmp_path, code, timeout=1)

    time.sleep(2)
    assert not mark.exists()


def test_a_program_gets_the_environment_of_its_user_and_not_that_of_our_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of another Python would load our libraries, or none, by the paths that our children are given."""
    original = user_environment({"PYTHONPATH": "/theirs"})
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "GLIBC_TUNABLES"):
        monkeypatch.setenv(name, "ours")
    code = "import os, sys, json; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    work = tmp_path / "work"
    work.mkdir()
    program = External(command=[sys.executable, "-S", "-E", "-c", code, "{output}"], environment={"A": "b"})

    found = json.loads(run_program(program, tmp_path / "v", tmp_path / "a", work, original).read_text())

    assert found["PYTHONPATH"] == "/theirs" and found["A"] == "b"
    assert "OMP_NUM_THREADS" not in found and "GLIBC_TUNABLES" not in found


def test_a_program_ends_with_the_process_that_runs_it(tmp_path: Path) -> None:
    """Killed without a chance to clean up, as the guard kills a child that takes too long."""
    mark, started = tmp_path / "lived on", tmp_path / "started"
    late = (
        f"import time, pathlib; pathlib.Path({str(started)!r}).touch(); time.sleep(2.5); "
        f"pathlib.Path({str(mark)!r}).touch()"
    )
    code = (
        "import sys; from pathlib import Path; from baselines.external import External; "
        "from baselines.program import run_program; "
        f"run_program(External(command=[sys.executable, '-c', {late!r}]), Path('v'), Path('a'), "
        f"Path({str(tmp_path)!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not started.exists():
        assert parent.poll() is None
        time.sleep(0.05)
    time.sleep(0.7)  # the watcher is there by then
    parent.kill()
    parent.wait()

    time.sleep(2.5)
    assert not mark.exists()


def test_footage_is_given_by_source(shards: str, videos: Path, tmp_path: Path, program: Path) -> None:
    """Whole frames as filmed go in; what comes back must have their size to be cut as the clip was cut."""
    config = yaml.safe_load(program.read_text())
    program.write_text(yaml.safe_dump({**config, "input": "footage"}))
    settings = {"models": [f"theirs=external:{program}"], "metrics": FAST, "limit": 1}

    wrong = evaluated(shards, tmp_path / "run", InProcess(), **settings, footage={"": str(tmp_path)})
    right = evaluated(shards, tmp_path / "run", InProcess(), **settings, footage={"people": str(videos)})

    assert "holds no person" in wrong.failed[0][3]
    assert "128x128 where 160x160 was due" in right.failed[0][3]


def test_a_program_that_shows_its_input_beside_its_result_is_scored_by_the_part_that_counts(
    shards: str, tmp_path: Path, program: Path
) -> None:
    both = PROGRAM.replace("= 128, 128,", "= 256, 128,").replace(
        "        picture[picture.shape[0] // 2:] //= 2\n",
        "        import numpy as np\n        picture = np.concatenate([0 * picture, picture], axis=1)\n",
    )
    (program.parent / "dub it.py").write_text(both.replace("reformat(128, 128)", "reformat(256, 128)"))
    settings = {"models": [f"theirs=external:{program}"], "metrics": FAST, "limit": 1}

    whole = evaluated(shards, tmp_path / "run", InProcess(), **settings)
    config = yaml.safe_load(program.read_text())
    program.write_text(yaml.safe_dump({**config, "keep": [0.5, 0, 1, 1]}))
    cut = evaluated(shards, tmp_path / "run", InProcess(), **settings)

    assert "256x128 is no whole crop" in whole.failed[0][3]
    (table,) = cut.summary["tables"].values()
    assert table["rows"]["theirs"]["cells"]["psnr@face"]["mean"] > 28


def test_an_adapter_of_the_package_runs_by_its_name_with_the_user_s_checkout(
    shards: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole frames go in and come back; moving the checkout runs it again."""
    script = """
import os, sys, yaml
flags = ("inference_config", "result_dir", "version")
config, folder, version = (sys.argv[sys.argv.index("--" + flag) + 1] for flag in flags)
(task,) = yaml.safe_load(open(config)).values()
os.makedirs(f"{folder}/{version}", exist_ok=True)
os.system(f"cp {task['video_path']} {folder}/{version}/video_audio.mp4")
"""
    for name in ("first home", "second home"):
        (tmp_path / name / "scripts").mkdir(parents=True)
        (tmp_path / name / "scripts" / "inference.py").write_text(script)
    monkeypatch.setenv("MUSETALK_PYTHON", sys.executable)
    settings = {"models": ["MuseTalk=external:musetalk"], "metrics": FAST, "limit": 1, "footage": {"": str(videos)}}
    operations = []

    for home in ("first home", "first home", "second home"):
        monkeypatch.setenv("MUSETALK_HOME", str(tmp_path / home))
        runner = InProcess()
        report = evaluated(shards, tmp_path / "run", runner, **settings)
        operations.append({op for op, model, _ in runner.operations if model == "MuseTalk"})

    assert not report.failed
    (table,) = report.summary["tables"].values()
    assert table["rows"]["MuseTalk"]["cells"]["psnr@face"]["mean"] > 28
    assert [("generate" in operation) for operation in operations] == [True, False, True]
    assert sorted(path.name for path in (tmp_path / "first home" / "scripts").glob("*.py")) == ["inference.py"]


def test_the_list_of_models_names_the_adapters_as_they_are_typed() -> None:
    from click.testing import CliRunner

    from evaluation.cli import main

    listed = json.loads(CliRunner().invoke(main, ["models", "--json"]).output)

    assert "untested here" in listed["musetalk=external:musetalk"]


def test_nothing_of_a_command_passes_through_a_shell(tmp_path: Path) -> None:
    words = ["$(touch pwned)", "; touch pwned", "`touch pwned`", "a b", "'"]
    code = "import sys, json; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))"
    work = tmp_path / "work"
    work.mkdir()

    out = run_program(
        External(command=[sys.executable, "-c", code, "{output}", *words]), tmp_path / "v", tmp_path / "a", work
    )

    assert json.loads(out.read_text()) == words
    assert not any(path.name == "pwned" for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"command": ["x"], "output": "../../etc/passwd"}, "inside the work folder"),
        ({"command": ["x"], "output": "/etc/passwd"}, "inside the work folder"),
        ({"command": ["x", "{vidoe}"]}, "knows no {vidoe}"),
        ({"command": []}, "at least 1"),
        ({"command": ["x"], "timeuot": 3}, "timeout"),
        ({"command": "x y"}, "list"),
    ],
)
def test_a_file_that_describes_no_program_is_refused(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(fields))

    with pytest.raises(UsageError) as refused:
        read_external(str(tmp_path / "x.yaml"))

    assert says in str(refused.value)


def test_finished_videos_score_as_the_model_that_made_them(shards: str, tmp_path: Path) -> None:
    """Lossless outputs of ``still``, handed in as somebody's videos."""
    evaluated(shards, tmp_path / "run", InProcess(), models=["still"], metrics=FAST)
    folder = tmp_path / "run" / "outputs" / "still"

    report = evaluated(
        shards, tmp_path / "again", InProcess(), models=["still", f"theirs=precomputed:{folder}"], metrics=FAST
    )

    (table,) = report.summary["tables"].values()
    ours, theirs = (table["rows"][name]["cells"] for name in ("still", "theirs"))
    assert theirs["psnr@mouth"]["mean"] == pytest.approx(ours["psnr@mouth"]["mean"], abs=0.05)
    assert report.summary["models"]["theirs"]["marks"] == ["unguarded"]


def test_a_video_that_is_missing_or_of_another_length_is_a_row(shards: str, tmp_path: Path) -> None:
    keys = [shot.key for shot in shots_of(Dataset.open(shards), "test")]
    folder = tmp_path / "videos"
    write_lossless(folder / f"{keys[0]}.avi", [np.zeros((9, 64, 64, 3), np.uint8)])
    write_lossless(folder / f"{keys[1]}.avi", [np.zeros((36, 64, 48, 3), np.uint8)])

    report = evaluated(shards, tmp_path / "run", InProcess(), models=[f"theirs=precomputed:{folder}"], metrics=FAST)

    reasons = {shot: detail for _, shot, _, detail in report.failed}
    assert "9 frames at 25 fps where" in reasons[keys[0]]
    assert "no whole crop" in reasons[keys[1]]
    assert f"holds no {keys[2]}" in reasons[keys[2]]
    assert {code for _, _, code, _ in report.failed} == {"bad_video"}


def test_one_shot_in_two_files_is_ambiguous(tmp_path: Path) -> None:
    for suffix in (".mp4", ".avi"):
        (tmp_path / f"a-b-000{suffix}").touch()

    with pytest.raises(SourceError, match="more than once"):
        find_video(tmp_path, "a-b-000")


def test_lossless_videos_give_back_every_bit_and_the_same_bytes_twice(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (7, 96, 96, 3), dtype=np.uint8)

    write_lossless(tmp_path / "a.avi", [pictures[:3], pictures[3:]])
    write_lossless(tmp_path / "b.avi", [pictures])

    assert (np.stack(list(read_lossless(tmp_path / "a.avi"))) == pictures).all()
    assert (tmp_path / "a.avi").read_bytes() == (tmp_path / "b.avi").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.avi", "b.avi"]


@pytest.mark.parametrize(
    ("given", "due", "fits"),
    [(10, 10, True), (8, 10, True), (12, 10, True), (7, 10, False), (13, 10, False), (0, 2, False)],
)
def test_a_few_frames_more_or_less_are_mended_and_more_are_refused(given: int, due: int, fits: bool) -> None:
    frames = (np.full((2, 2, 3), i) for i in range(given))
    if not fits:
        with pytest.raises(SourceError, match="were due"):
            list(fitted(frames, due, 2))
        return
    found = [int(frame[0, 0, 0]) for frame in fitted(frames, due, 2)]
    assert found == [min(i, given - 1) for i in range(due)]


def test_the_words_of_the_docs_example_are_a_program(tmp_path: Path) -> None:
    """The YAML of the module's own text is one that it reads."""
    import baselines.external as module

    text = (module.__doc__ or "").split("::")[1].split("``{video}``")[0]
    (tmp_path / "x.yaml").write_text("\n".join(line[4:] for line in text.splitlines()))

    program = read_external(str(tmp_path / "x.yaml"))

    assert shlex.join(program.command).startswith("python /opt/Wav2Lip")
    assert program.environment == {"CUDA_VISIBLE_DEVICES": "0"}
