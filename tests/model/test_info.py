"""``g4g-model info``: what it tells of networks and checkpoints, and that it is true."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from g4g_people import SMALL, write_people  # noqa: E402

from g4g_core.lineage import people as hashed  # noqa: E402
from g4g_core.protocols import TrainingData  # noqa: E402
from g4g_core.provenance import processor  # noqa: E402
from g4g_core.training import Settings, train  # noqa: E402
from g4g_model.checkpoint import read  # noqa: E402
from g4g_model.cli import main  # noqa: E402
from g4g_model.config import PRESETS, SETTINGS, VARIANTS, G4GConfig  # noqa: E402
from g4g_model.g4g import G4G  # noqa: E402
from g4g_model.info import costs, nothing_seen, of_network  # noqa: E402
from g4g_model.trainable import G4GKind  # noqa: E402
from prep.shards.index import Dataset  # noqa: E402

CONFIG = VARIANTS["g4g"](**SMALL)


@functools.cache
def of_small(name: str) -> dict[str, Any]:
    return of_network(name, VARIANTS[name](**SMALL))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of a small G4G, exported."""
    out = tmp_path_factory.mktemp("run") / "g4g"
    config = CONFIG.model_copy(update={"preset": "tiny, changed"})
    trainee = G4GKind("g4g").open(config, TrainingData(str(people)), seed=3)
    steps = {"steps": 2, "log_every": 1, "validate_every": 2, "checkpoint_every": 2, "seed": 3, "workers": 1}
    train(trainee, Settings(**{**SETTINGS, **steps}), out, quiet=True)
    G4GKind("g4g").export(trainee, out)
    return out


def told(*arguments: Any) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["info", "--json", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(*arguments: Any) -> str:
    result = CliRunner().invoke(main, ["info", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) <= 2
    return result.stderr


# ---------------------------------------------------------------- networks


def test_the_parts_of_a_network_are_all_of_it() -> None:
    parameters = dict(of_small("g4g")["parameters"])
    total = parameters.pop("total")
    assert total == sum(parameters.values()) == sum(value.numel() for value in G4G(CONFIG).parameters())
    assert all(parameters.values())


def test_operations_are_those_of_the_convolutions_and_matrix_products() -> None:
    """Counted by hand with hooks: two for every multiplication of a weight with a value."""
    seen: list[float] = []

    def convolution(layer: Any, _: Any, result: Any) -> None:
        taps = math.prod(layer.kernel_size) * layer.in_channels // layer.groups
        seen.append(2 * taps * result.numel())

    network = G4G(CONFIG)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(convolution)
        elif isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda layer, _, result: seen.append(2 * layer.in_features * result.numel()))
    frames = 5
    with torch.no_grad():
        network(nothing_seen(CONFIG, frames))

    found = costs(G4G(CONFIG).to("meta"), CONFIG)
    assert found["total"] == pytest.approx(sum(seen) / frames / 1e9, rel=0.01)
    parts = [found[name] for name, _ in network.named_children()]
    assert sum(parts) == pytest.approx(found["total"], rel=0.01)
    assert found["total_of_16_frames_at_once"] < found["total"]  # references are encoded once


@pytest.mark.parametrize(
    ("name", "switch", "without"),
    [("g4g-no-intra", "intra", "intra"), ("g4g-no-fusion", "fusion", "fusion"), ("g4g-no-inter", "inter", None)],
)
def test_a_variant_lacks_what_its_name_says(name: str, switch: str, without: str | None) -> None:
    whole, less = of_small("g4g"), of_small(name)
    assert whole["switches"][switch] is True and less["switches"][switch] is False
    assert {field for field in whole["switches"] if whole["switches"][field] != less["switches"][field]} == {switch}
    missing = set(whole["parameters"]) - set(less["parameters"])
    assert missing == ({without} if without else set())
    if name == "g4g-no-inter":
        assert "mouth encoder" not in less["parameters_in_training_only"]


def test_a_preset_is_described_before_it_is_trained() -> None:
    found = told("--model", "g4g", "--preset", "tiny")
    assert (found["model"], found["preset"], found["mel_offset"]) == ("g4g", "tiny", -2)
    assert found["inputs"]["source"].startswith("[B, T, 3, 64, 64]")
    assert found["inputs"]["mel"].startswith("[B, T, 1, 80, 16]")
    assert "checkpoint" not in found
    trained = found["parameters"]["total"] + sum(found["parameters_in_training_only"].values())
    assert of_network("g4g", VARIANTS["g4g"](**PRESETS["tiny"]["model"]))["parameters"] == found["parameters"]
    assert 100_000 < found["parameters"]["total"] < trained


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_knows_what_it_was_trained_on(run: Path, people: Path) -> None:
    found = told("--checkpoint", run)["checkpoint"]
    assert (found["preset"], found["step"], found["steps"], found["seed"]) == ("tiny, changed", 2, 2, 3)
    assert (found["samples"], found["identities"], found["left_out"]) == (4, 3, 1)
    described = G4GKind("g4g").open(CONFIG, TrainingData(str(people)), seed=0).describe()
    assert found["footage_sha256"] == described["footage_sha256"]
    assert found["losses_off"] == ["perception"] and found["trained_against"] == []
    assert found["torch"] == torch.__version__.split("+")[0] and found["processor"] == processor()
    assert found["sources"] == ["toy"] and "people" not in found  # hashes, for programs


def test_a_model_that_learned_from_people_whom_it_is_shown_is_marked(run: Path, people: Path) -> None:
    from evaluation.models import models_of

    learned = {row.identity for row in Dataset.open(people).rows("train")}
    strangers = {"nobody", "somebody"}
    for shown, met, mark in (
        (learned | strangers, 3, ("learned from 3 of these people",)),
        (strangers, 0, ()),
        (None, None, ()),  # names of people are not known
    ):
        _, model = models_of(["g4g"], {"g4g": str(run)}, identities=shown)
        assert model.training is not None and model.training["met"] == met and "people" not in model.training
        assert model.marks == ("tiny, changed", "perception: off", *mark)
        json.dumps(model.to_json())
    about, _ = read(str(run))
    assert about.learned_from["people"] == hashed(learned)


def test_why_a_loss_was_off_is_known() -> None:
    config = G4GConfig.model_validate({"weights": {"gan": 0.0}})
    assert config.why_off("gan", taught=False) == "weight 0 in its settings"
    assert config.why_off("perception", taught=False) == "the weights vgg19 were not there"


def test_a_step_of_a_run_says_the_same_as_the_exported_file(run: Path) -> None:
    file, step = (told("--checkpoint", run / name) for name in ("g4g.safetensors", "step-000002"))
    for found in (file, step):
        del found["checkpoint"]["path"], found["checkpoint"]["torch"]
    assert file == step == {**told("--model", "g4g", "--checkpoint", run), "checkpoint": file["checkpoint"]}


def test_what_changes_no_weight_changes_no_byte_of_a_checkpoint(run: Path) -> None:
    about, _ = read(str(run))
    assert about.settings["steps"] == 2
    assert not {"workers", "keep"} & set(about.settings)
    assert not {"time", "host", "seconds"} & {*about.settings, *about.learned_from}


# ---------------------------------------------------------------- presets


def configured(people: Path, *arguments: str) -> Any:
    words = ["train", "--model", "g4g", "--shards", str(people), "--out", "never", "--dry-run", "--json", *arguments]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["description"]["config"]["preset"]


def test_a_configuration_keeps_the_name_of_its_preset(people: Path) -> None:
    assert configured(people, "--preset", "tiny") == "tiny"
    assert configured(people, "--preset", "tiny", "--steps", "5", "--set", "warmup=1") == "tiny"  # the loop's, not its
    assert configured(people, "--preset", "tiny", "--set", "size=64") == "tiny"  # as it was
    assert configured(people, "--preset", "tiny", "--set", "embedding=16") == "tiny, changed"
    assert configured(people, "--set", "clips=2") is None
    words = ["train", "--model", "g4g", "--shards", str(people), "--out", "never", "--set", "preset=tiny"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "named by --preset" in result.stderr


def test_tables_show_the_preset_beside_the_name(run: Path) -> None:
    from evaluation.models import models_of

    rows = {model.name: model.marks for model in models_of(["g4g", "still"], {"g4g": str(run)})}
    assert rows == {"ground-truth": (), "g4g": ("tiny, changed", "perception: off"), "still": ()}


def test_people_read_it_as_lines(run: Path) -> None:
    result = CliRunner().invoke(main, ["info", "--checkpoint", str(run)], catch_exceptions=False)
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    parameters = of_small("g4g")["parameters"]["total"]
    expected = {f"total {parameters:,}", "identities 3", "losses off perception", "trained against none", "intra on"}
    assert expected <= set(lines)


def test_what_cannot_be_told_is_one_clear_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    assert "nothing to tell of" in refused()
    assert "a checkpoint knows its own" in refused("--checkpoint", run, "--preset", "tiny")
    assert "there is no preset 'tini'" in refused("--model", "g4g", "--preset", "tini")
    assert "there is no model 'g4h'" in refused("--model", "g4h")
    assert "still offers no description" in refused("--model", "still")
    assert "sync-a draws nothing" in refused("--model", "sync-a")
    assert "there is no checkpoint" in refused("--checkpoint", tmp_path / "nowhere")
    assert "does not say what it is a checkpoint of" in refused("--checkpoint", tmp_path / "x.safetensors")
    assert "does not say what it is a checkpoint of" in refused("--checkpoint", tmp_path)
    assert "a checkpoint of g4g, not of g4g-no-inter" in refused("--model", "g4g-no-inter", "--checkpoint", run)
