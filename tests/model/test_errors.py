"""What goes wrong with data and checkpoints is one clear line, in every command, and leaves no traceback."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")

from g4g_people import SMALL as NETWORK  # noqa: E402
from g4g_people import write_people  # noqa: E402

from g4g_core.provenance import file_sha256  # noqa: E402
from g4g_model.checkpoint import FORMAT, About, write  # noqa: E402
from g4g_model.cli import main  # noqa: E402
from g4g_model.config import VARIANTS  # noqa: E402
from g4g_model.g4g import G4G  # noqa: E402
from prep.shards.sample import Sample  # noqa: E402
from prep.shards.schema import MaskBit  # noqa: E402
from prep.stages.encode import png  # noqa: E402

SMALL = (
    "channels=[8, 8, 16]", "embedding=16", "clips=2", "windows=6", "warmup=0", "log_every=1", "checkpoint_every=1",
    "validate_every=2",
)  # fmt: skip


def g4g_model(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def train(shards: Path, out: Path, *more: Any, preset: str = "tiny", model: str = "g4g") -> Result:
    given = [word for value in SMALL for word in ("--set", value)]
    return g4g_model(
        "train", "--model", model, "--preset", preset, "--shards", shards, "--out", out, "--steps", 2, "--quiet",
        *given, *more,
    )  # fmt: skip


def refused(result: Result) -> str:
    """The line and its mend."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert 1 <= len(result.stderr.splitlines()) <= 2, result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def trained(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        out = tmp_path_factory.mktemp("trained") / "run"
        result = train(people, out)
        assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run of one's own to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------- data


def a_file(place: Path) -> None:
    place.write_bytes(b"a tar, perhaps")


def a_folder_of_pictures(place: Path) -> None:
    place.mkdir()
    (place / "face.jpg").write_bytes(b"jpeg")


def another_json(place: Path) -> None:
    place.mkdir()
    (place / "dataset.json").write_text('{"name": "of another program"}')


def a_broken_json(place: Path) -> None:
    place.mkdir()
    (place / "dataset.json").write_text('{"schema_ver')


@pytest.mark.parametrize("make", [lambda _: None, a_file, a_folder_of_pictures, another_json, a_broken_json])
def test_shards_that_are_none(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "data")
    assert str(tmp_path / "data") in refused(train(tmp_path / "data", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_missing_is_named_with_those_that_are_there(people: Path, tmp_path: Path) -> None:
    said = refused(train(people, tmp_path / "out", "--split", "trian"))
    assert "'trian'" in said and "train" in said.replace("trian", "")
    said = refused(train(people, tmp_path / "out", "--validation", "evening"))
    assert "evening" in said
    assert not (tmp_path / "out").exists()


def test_too_little_to_learn_from_says_how_much_there_is(people: Path, tmp_path: Path) -> None:
    said = refused(train(people, tmp_path / "out", "--split", "test", "--set", "clips=8"))
    assert "a batch needs 8" in said


def test_an_empty_erase_mask_names_its_sample(tmp_path: Path) -> None:
    def nothing_to_redraw(sample: Sample) -> Sample:
        blank = png(np.full((64, 64), MaskBit.MOUTH, np.uint8))
        return dataclasses.replace(sample, masks=[blank] * len(sample.masks))

    said = refused(train(write_people(tmp_path / "people", edit=nothing_to_redraw), tmp_path / "out"))
    assert "toy-" in said and "an erase mask is empty" in said


# ---------------------------------------------------------------- runs that cannot be meant


def test_a_dry_run_refuses_what_training_refuses(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dry = refused(train(people, tmp_path / "out", "--dry-run", preset="g4g-256"))
    assert "all 2 steps lie in stages of smaller pictures" in dry
    assert dry == refused(train(people, tmp_path / "out", preset="g4g-256"))
    assert train(people, tmp_path / "out", "--dry-run").exit_code == 0
    monkeypatch.setenv("WORLD_SIZE", "3")  # as torchrun and accelerate set it
    assert "2 clips cannot be shared by 3 processes" in refused(train(people, tmp_path / "out", "--dry-run"))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- other checkpoints


def test_a_run_is_not_resumed_as_another(people: Path, run: Path) -> None:
    assert "was begun with another" in refused(train(people, run, "--resume", preset="g4g-128"))
    assert "'g4g', now 'g4g-no-intra'" in refused(train(people, run, "--resume", model="g4g-no-intra"))
    assert "windows (6, now 7)" in refused(train(people, run, "--resume", "--set", "windows=7"))
    assert "--resume" in refused(train(people, run))


def test_a_network_that_does_not_fit_its_own_configuration(run: Path, dubbed: Callable[[Path], Result]) -> None:
    """As of another version of the program."""
    edited(run / "step-000002" / "state.json", lambda state: state["description"]["config"].update(embedding=24))
    assert "does not fit its own configuration" in refused(dubbed(run / "step-000002"))
    edited(run / "step-000002" / "state.json", lambda state: state["description"]["config"].update(size=65))
    for result in (dubbed(run / "step-000002"), info(run / "step-000002")):
        assert "its configuration does not fit this version (size: " in refused(result)


def test_a_variant_that_held_weights_without_a_use_is_refused(
    people: Path, tmp_path: Path, dubbed: Callable[..., Result]
) -> None:
    """As older versions made them: heads for small faces that no single mask looks at, a temperature without a use."""
    from safetensors.torch import load_file, save_file

    single = VARIANTS["g4g-single-mask"](**NETWORK)
    older = tmp_path / "older.safetensors"
    write(older, About("g4g-single-mask", single), G4G(VARIANTS["g4g"](**NETWORK)).state_dict())
    for result in (dubbed(older, model="g4g-single-mask"), g4g_model("info", "--checkpoint", older)):
        said = refused(result)
        assert str(older) in said and "decoder.heads.2" in said and "another version of this program" in said

    run = tmp_path / "run"
    assert train(people, run, model="g4g-pairwise").exit_code == 0
    place = run / "step-000002" / "model.safetensors"
    save_file({**load_file(place), "mouth.log_scale": torch.zeros(())}, place)
    edited(run / "step-000002" / "state.json", lambda s: s["sha256"].update({place.name: file_sha256(str(place))}))
    said = refused(train(people, run, "--resume", model="g4g-pairwise"))
    assert "is a checkpoint of another network" in said and "mouth.log_scale" in said


def test_a_checkpoint_of_a_variant_is_refused_by_its_name(run: Path, dubbed: Callable[..., Result]) -> None:
    said = refused(dubbed(run, model="g4g-no-intra"))
    assert "is a checkpoint of g4g, not of g4g-no-intra" in said and "Ask for the model g4g" in said


def test_a_file_in_an_older_format_says_so(run: Path, dubbed: Callable[[Path], Result]) -> None:
    from safetensors.torch import save

    (run / "g4g.safetensors").write_bytes(save({"x": torch.zeros(1)}, {"g4g": json.dumps({"format": 1})}))
    assert f"its format is 1, this version reads {FORMAT}" in refused(dubbed(run))


# ---------------------------------------------------------------- damaged checkpoints


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    """One bit of the last weight."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def garbled(file: Path) -> None:
    """The header, where names and shapes stand."""
    data = bytearray(file.read_bytes())
    data[20:40] = b"\xff" * 20
    file.write_bytes(data)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def of_others(file: Path) -> None:
    from safetensors.torch import save

    file.write_bytes(save({"x": torch.zeros(1)}))


DAMAGES = (cut, flipped, garbled, emptied, of_others)


def edited(file: Path, edit: Callable[[Any], Any]) -> None:
    value = json.loads(file.read_text())
    edit(value)
    file.write_text(json.dumps(value))


@pytest.fixture
def dubbed(sample_lrs2_clips: list[Path], tmp_path: Path) -> Callable[..., Result]:
    """Dubs a clip with a checkpoint, which is looked at before the video is read."""

    def run(checkpoint: Path, model: str = "g4g") -> Result:
        clip = sample_lrs2_clips[0]
        result = g4g_model("dub", "--video", clip, "--audio", clip, "--model", model, "--checkpoint", checkpoint,
                           "--out", tmp_path / "dubbed.mp4", "--quiet")  # fmt: skip
        assert not (tmp_path / "dubbed.mp4").exists()
        return result

    return run


def info(checkpoint: Path, *more: str) -> Result:
    return g4g_model("info", "--model", "g4g", "--checkpoint", checkpoint, *more)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_dub_and_info(
    run: Path, dubbed: Callable[[Path], Result], damage: Callable[[Path], None]
) -> None:
    damage(run / "g4g.safetensors")
    for result in (dubbed(run), dubbed(run / "g4g.safetensors"), info(run)):
        assert str(run) in refused(result)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_refused_by_dub_and_info_and_left_behind_by_resume(
    people: Path, run: Path, dubbed: Callable[[Path], Result], damage: Callable[[Path], None]
) -> None:
    step = run / "step-000002"
    whole = (step / "model.safetensors").read_bytes()
    damage(step / "model.safetensors")
    for result in (dubbed(step), info(step)):
        assert str(step) in refused(result)
    assert train(people, run, "--resume").exit_code == 0
    assert (step / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("name", ["optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [cut, emptied])
def test_a_damaged_optimiser_or_state_is_said_and_the_step_taken_again(
    people: Path, run: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    place = run / "step-000002" / name
    whole = place.read_bytes()
    damage(place)
    with caplog.at_level(logging.WARNING):
        assert train(people, run, "--resume").exit_code == 0
    assert f"{place} is damaged" in caplog.text
    assert place.read_bytes() == whole


@pytest.mark.parametrize("text", ["", "[]", "{}", '"x"', '{"trainable": "g4g", "description": 3}', "\xff"])
def test_a_state_that_is_none_is_refused(run: Path, dubbed: Callable[[Path], Result], text: str) -> None:
    step = run / "step-000002"
    (step / "state.json").write_text(text, encoding="latin-1")
    for result in (dubbed(step), info(step)):
        assert str(step) in refused(result)


def test_a_damaged_beginning_of_a_run_is_refused(people: Path, run: Path) -> None:
    cut(run / "run.json")
    assert str(run / "run.json") in refused(train(people, run, "--resume"))


def test_the_step_before_a_damaged_one_can_be_resumed(people: Path, run: Path) -> None:
    shutil.rmtree(run / "step-000002")
    assert train(people, run, "--resume").exit_code == 0
    assert (run / "step-000002" / "state.json").exists()
