"""Configurations from files and the command line."""

from __future__ import annotations

import os
import pathlib

import pydantic
import pytest

from g4g_core.config import Config, load_config, read_project_file, update_project_file
from g4g_core.errors import StorageError, UsageError


class Crop(Config):
    size: int = pydantic.Field(default=256, ge=64, le=512)
    margin: float = 0.1


class Build(Config):
    out: str
    workers: int = 1
    crop: Crop = Crop()
    extra_crops: tuple[Crop, ...] = ()
    backup_crop: Crop | None = None


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "build.yaml"


def test_the_command_line_wins_over_the_file_and_the_file_over_the_project(file: pathlib.Path) -> None:
    file.write_text("workers: 3\ncrop:\n  size: 128\n")
    config = load_config(
        Build,
        file,
        overrides={"workers": 4, "out": None, "crop.margin": 0.3},
        project_defaults={"out": "shards", "workers": 2, "crop": {"size": 96}},
    )
    assert config == Build(out="shards", workers=4, crop=Crop(size=128, margin=0.3))


def test_an_empty_file_changes_nothing(file: pathlib.Path) -> None:
    file.write_text("# nothing\n")
    assert load_config(Build, file, {"out": "a"}) == Build(out="a")


@pytest.mark.parametrize(
    ("text", "field", "near"),
    [
        ("worker: 2\n", "worker", "workers"),
        ("crop:\n  Size: 2\n", "crop.Size", "crop.size"),
        ("backup_crop:\n  sizes: 2\n", "backup_crop.sizes", "backup_crop.size"),
        ("extra_crops:\n  - sise: 2\n", "extra_crops.0.sise", "extra_crops.0.size"),
    ],
)
def test_an_unknown_field_names_the_file_and_the_near_miss(
    file: pathlib.Path, text: str, field: str, near: str
) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_config(Build, file, {"out": "a"})
    assert caught.value.what == f"{file}: there is no field '{field}'"
    assert caught.value.mend == f"Did you mean '{near}'?"


def test_an_unknown_field_of_the_command_line_says_so() -> None:
    with pytest.raises(UsageError) as caught:
        load_config(Build, None, {"out": "a", "zzz": 1})
    assert caught.value.what == "command line: there is no field 'zzz'"
    assert "workers" in caught.value.mend


def test_every_fault_is_one_line_with_its_field_and_origin(file: pathlib.Path) -> None:
    file.write_text("crop:\n  size: 1000\nworker: 2\n")
    with pytest.raises(UsageError) as caught:
        load_config(Build, file, {"workers": "many"})
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert len(lines) == 4
    assert "field 'out' is missing" in lines
    assert any(
        line.startswith(f"{file}: field 'crop.size': ") and line.endswith("not 1000") for line in lines
    )
    assert any(line.startswith("command line: field 'workers': ") for line in lines)
    assert f"{file}: there is no field 'worker'. Did you mean 'workers'?" in lines


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        setattr(Build(out="a"), "workers", 2)  # noqa: B010 - a type checker would refuse the assignment


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "a: [\n", "1: 2\n"])
def test_a_file_that_is_no_mapping_is_refused_by_name(file: pathlib.Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=r"build\.yaml"):
        load_config(Build, file)


def test_yaml_cannot_make_objects(file: pathlib.Path) -> None:
    file.write_text("out: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UsageError, match="not a YAML file"):
        load_config(Build, file)


def test_a_missing_file_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.yaml"):
        load_config(Build, tmp_path / "absent.yaml")


def test_the_project_file_keeps_other_sections_and_fields(tmp_path: pathlib.Path) -> None:
    assert read_project_file(tmp_path) == {}
    update_project_file(tmp_path, "prep", {"out": "shards", "crop": {"size": 96}})
    update_project_file(tmp_path, "eval", {"models": {"g4g": "run/1"}})
    update_project_file(tmp_path, "prep", {"workers": 2, "crop": {"margin": 0.2}})
    assert read_project_file(tmp_path) == {
        "prep": {"out": "shards", "workers": 2, "crop": {"size": 96, "margin": 0.2}},
        "eval": {"models": {"g4g": "run/1"}},
    }
    assert os.listdir(tmp_path) == ["g4g.yaml"]


def _noted(folder: str, number: int) -> None:
    update_project_file(folder, "checkpoints", {f"model-{number}": f"runs/{number}"})


def test_commands_that_end_at_the_same_time_all_leave_their_note(tmp_path: pathlib.Path) -> None:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_noted, args=(str(tmp_path), number)) for number in range(12)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(read_project_file(str(tmp_path))["checkpoints"]) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["g4g.yaml"]
