"""``g4g-prep build-shards`` as a user meets it: exit codes, one clear line for every mistake, JSON for scripts."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from building import environment, footage_of, write_clip, write_tiny_footage
from click.testing import CliRunner, Result

from prep.cli import main
from prep.run.runners import close_guard


@pytest.fixture(scope="module", autouse=True)
def one_child() -> Iterator[None]:
    yield
    close_guard()


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory, sample_lrs2_clips: list[Path]) -> Path:
    return write_tiny_footage(tmp_path_factory.mktemp("tiny"), sample_lrs2_clips, n=3, frames=15)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def g4g(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def build_shards(*arguments: Any) -> Result:
    return g4g("build-shards", "--scheduler", "sync", "--quiet", "--size", 64, *arguments)


def one_error(result: Result) -> str:
    """The error's text: exit code 2, two lines at most, nothing else on standard error."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2
    return result.stderr


# ---- what a build prints


def test_a_build_ends_with_a_table_its_place_and_exit_code_0(footage: Path) -> None:
    result = build_shards("--folder", footage, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "3 samples" in result.stdout
    assert "contact-sheet out" in result.stdout


def test_a_build_is_noted_so_that_other_commands_find_it(footage: Path, tmp_path: Path) -> None:
    build_shards("--folder", footage, "--out", "out")
    assert str(tmp_path / "out") in Path("g4g.yaml").read_text()
    assert g4g("verify", "--quiet").exit_code == 0


def test_json_of_a_build_can_be_read_by_a_script(footage: Path) -> None:
    first = json.loads(build_shards("--folder", f"mine={footage}", "--out", "out", "--json").stdout)
    assert first["samples"] == 3
    assert first["sources"]["mine"]["ok"] == 3
    assert (first["leaks"], first["clips_done_before"]) == ([], 0)
    again = json.loads(build_shards("--folder", f"mine={footage}", "--out", "out", "--json").stdout)
    assert again["clips_done_before"] == 3


def test_a_dry_run_processes_nothing_and_prints_what_would_be_done(footage: Path) -> None:
    result = build_shards("--folder", footage, "--out", "out", "--dry-run")
    assert result.exit_code == 0
    for word in ("3 clips", "45 frames", "core-hours", "GPU-hours", "output", "shards"):
        assert word in result.stdout
    assert [path.name for path in Path("out").iterdir()] == [".work"]
    assert not list(Path("out").rglob("clip.json"))


def test_json_of_a_dry_run_has_the_numbers_and_the_rejects(footage: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "empty.mp4").touch()
    result = build_shards("--folder", footage, "--folder", "more", "--out", "out", "--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert (plan["clips"], plan["clips_to_process"], plan["frames"]) == (4, 3, 45)
    assert plan["hours"] == round(45 / 25 / 3600, 4)
    assert plan["bytes"] > 45 * 1000
    assert plan["rejected"] == {"unreadable": 1}
    assert {"core_hours", "gpu_hours", "shards"} <= set(plan)


def test_a_build_goes_on_after_a_dry_run(footage: Path) -> None:
    build_shards("--folder", footage, "--out", "out", "--dry-run")
    assert build_shards("--folder", footage, "--out", "out").exit_code == 0


# ---- findings: exit code 1


def test_an_identity_in_two_splits_ends_with_1_and_is_named(footage: Path, tmp_path: Path) -> None:
    table = "file,identity,split\nclip0.mp4,ann,train\nclip1.mp4,bob,val\nclip2.mp4,ann,test\n"
    mine = tmp_path / "mine"
    mine.mkdir()
    for path in footage.glob("*.mp4"):
        (mine / path.name).symlink_to(path)
    (mine / "people.csv").write_text(table)
    arguments = ("--folder", mine, "--out", "out", "--identity", "csv:mine/people.csv", "--split-by", "csv")
    result = build_shards(*arguments)
    assert result.exit_code == 1
    assert "leak: identity ann is in 2 splits" in result.stderr
    assert "mine/clip0" in result.stderr
    assert "mine/clip2" in result.stderr


def test_no_sample_at_all_ends_with_1_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"not a video")
    result = build_shards("--folder", "in", "--out", "out")
    assert result.exit_code == 1
    assert "no clip gave a sample" in result.stderr
    assert g4g("verify", "out", "--quiet").exit_code == 0


# ---- mistakes: exit code 2


def test_a_folder_that_holds_other_things_is_refused(footage: Path) -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("two years")
    assert "out is not empty and holds no data set (thesis.tex, ...)" in one_error(
        build_shards("--folder", footage, "--out", "out")
    )
    assert [path.name for path in Path("out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", 56], "field 'size': input should be greater than or equal to 64, not 56"),
        (["--size", 100], "field 'size': input should be a multiple of 8, not 100"),
        (["--size", 1024], "field 'size'"),
        (["--shard-mb", 0], "field 'shard_mb'"),
        (["--time-limit", -1], "field 'time_limit'"),
        (["--min-frames", 0], "field 'min_frames'"),
        (["--fractions", "0.5,0.5"], "'0.5,0.5' is not three numbers"),
        (["--fractions", "0.5,0.6,0.1"], "do not add up to 1"),
        (["--resource", "GPU=lots"], "--resource GPU=lots is no NAME=NUMBER"),
        (["--identity", "nobody"], "nobody"),
        (["--identity", "csv:missing.csv"], "missing.csv"),
        (["--split-by", "csv"], "--split-by csv needs a CSV"),
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_one_line(footage: Path, arguments: list[Any], message: str) -> None:
    assert message in one_error(build_shards("--folder", footage, "--out", "out", *arguments))
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments", [["--faces", "prettiest"], ["--landmarks", "psychic"], ["--workers", 0], ["--nope"]], ids=str
)
def test_an_option_that_does_not_exist_ends_with_2(footage: Path, arguments: list[Any]) -> None:
    result = build_shards("--folder", footage, "--out", "out", *arguments)
    assert result.exit_code == 2
    assert str(arguments[-1]) in result.stderr


def test_a_misspelt_field_of_a_yaml_file_suggests_the_right_one(footage: Path) -> None:
    Path("build.yaml").write_text("sise: 128\n")
    text = one_error(build_shards("--folder", footage, "--out", "out", "--config", "build.yaml"))
    assert "build.yaml: there is no field 'sise'" in text
    assert "Did you mean 'size'?" in text


def test_a_file_that_is_no_yaml_is_one_line(footage: Path) -> None:
    Path("build.yaml").write_text("a: [1, 2\nb: }")
    assert "build.yaml is not a YAML file" in one_error(
        build_shards("--folder", footage, "--out", "out", "--config", "build.yaml")
    )


def test_the_command_line_wins_over_the_yaml_file(footage: Path) -> None:
    Path("build.yaml").write_text("size: 128\nmin_frames: 5\n")
    build_shards("--folder", footage, "--out", "out", "--config", "build.yaml")
    settings = json.loads(Path("out/dataset.json").read_text())["config"]
    assert (settings["size"], settings["min_frames"]) == (64, 5)


def test_a_data_set_says_by_which_command_it_is_built_without_any_place(footage: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(footage)},somebody" for path in footage.rglob("*.mp4")]
    (footage.parent / "who.csv").write_text("\n".join(["file,identity", *(f"{footage.name}/{row}" for row in rows)]))
    options = ("--identity", f"csv:{footage.parent / 'who.csv'}", "--min-frames", 5, "--fractions", "0.5,0.25,0.25")
    about = ("--describe", "mine=our own  interviews; ours")
    assert build_shards("--folder", f"mine={footage}", "--out", "out", "--fix-offset", *options, *about).exit_code == 0

    assert json.loads(Path("out/dataset.json").read_text())["sources"]["mine"]["about"] == "our own interviews; ours"
    told = json.loads(Path("out/dataset.json").read_text())["command"]
    assert "csv:FILE" in told

    assert str(footage.parent) not in told
    again = shlex.split(told.replace("MINE_ROOT", str(footage)).replace("FILE", str(footage.parent / "who.csv")))
    assert again[:2] == ["g4g-prep", "build-shards"]
    again[again.index("DATA")] = "again"
    result = g4g(*again[1:], "--scheduler", "sync", "--quiet")
    assert result.exit_code == 0, result.output
    assert Path("again/dataset.json").read_bytes() == Path("out/dataset.json").read_bytes()
    assert [p.read_bytes() for p in sorted(Path("again").glob("*.tar"))] == [
        p.read_bytes() for p in sorted(Path("out").glob("*.tar"))
    ]


def test_a_table_that_lies_with_the_footage_is_told_by_its_place_there(footage: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(footage, tmp_path / "copy"))
    (copy / "who.csv").write_text("\n".join(["file,identity", *(f"{path.name},me" for path in copy.rglob("*.mp4"))]))
    rule = f"csv:{os.path.relpath(copy)}/who.csv"
    result = build_shards("--folder", f"mine={copy}", "--out", "out", "--identity", rule)
    assert result.exit_code == 0, result.output
    told = json.loads(Path("out/dataset.json").read_text())["command"]
    assert "--folder mine=MINE_ROOT --identity csv:MINE_ROOT/who.csv" in told and str(copy) not in told


def test_what_is_described_must_be_a_source(footage: Path) -> None:
    for text, says in (("other=x", "about no source"), ("mine", "says nothing"), ("mine= ", "says nothing")):
        result = build_shards("--folder", f"mine={footage}", "--out", "out", "--describe", text)
        assert says in one_error(result) and not Path("out").exists()


@pytest.mark.parametrize("kind", ["--folder", "--lrs2", "--hdtf"])
def test_a_source_that_is_not_there_is_one_line(kind: str) -> None:
    assert "nowhere" in one_error(build_shards(kind, "nowhere", "--out", "out"))
    assert not Path("out").exists()


def test_no_source_at_all_is_one_line() -> None:
    assert "no source is given" in one_error(build_shards("--out", "out"))


def test_two_sources_of_one_name_are_refused(footage: Path, tmp_path: Path, sample_lrs2_clips: list[Path]) -> None:
    write_clip(tmp_path / "b" / footage.name / "x.mp4", footage_of(sample_lrs2_clips[0]), 0, 12)
    text = one_error(build_shards("--folder", footage, "--folder", tmp_path / "b" / footage.name, "--out", "out"))
    assert "2 sources are called" in text
    assert "--folder NAME=PATH" in text


def test_fan_without_its_weights_says_what_to_fetch_and_what_needs_none(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("G4G_WEIGHTS", str(tmp_path / "no weights here"))
    text = one_error(build_shards("--folder", footage, "--out", "out", "--landmarks", "fan"))
    assert "g4g-prep weights fetch" in text
    assert "--landmarks dlib" in text
    assert not Path("out").exists()


def test_an_output_that_is_a_file_is_one_line(footage: Path) -> None:
    Path("out").write_text("a file")
    one_error(build_shards("--folder", footage, "--out", "out"))


# ---- speed of the first answer


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from prep.cli import main\n"
        "for arguments in (['--help'], ['build-shards', '--help']):\n"
        "    main(arguments, standalone_mode=False)\n"
        "heavy = {'torch', 'dask', 'distributed', 'cv2', 'pyarrow', 'pandas', 'av', 'dlib', 'numpy', 'webdataset'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "build-shards" in done.stdout
