"""A run of G4G as its user sees it: curves, pictures, stages, precision, and a kill in the midst of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_people import SMALL, write_people  # noqa: E402
from pydantic import ValidationError  # noqa: E402

from g4g_core.errors import UsageError  # noqa: E402
from g4g_core.protocols import TrainingData  # noqa: E402
from g4g_core.references import COUNT  # noqa: E402
from g4g_core.runs import checkpoints  # noqa: E402
from g4g_core.training import Settings, Turn, train  # noqa: E402
from g4g_model import data, validation  # noqa: E402
from g4g_model.config import PRESETS, SETTINGS, VARIANTS, G4GConfig  # noqa: E402
from g4g_model.inputs import Inputs  # noqa: E402
from g4g_model.parts import Parts  # noqa: E402
from g4g_model.trainable import G4GKind, G4GTrainable  # noqa: E402


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


def opened(people: Path, validated: str | None = None, name: str = "g4g", **fields: Any) -> G4GTrainable:
    found = TrainingData(str(people), validation=validated)
    return G4GKind(name).open(VARIANTS[name](**{**SMALL, **fields}), found, seed=0)


def settings(**fields: Any) -> Settings:
    return Settings(**{**SETTINGS, "warmup": 0, "log_every": 1, "checkpoint_every": 1, "validate_every": 1, **fields})


@pytest.mark.slow
def test_tensorboard_shows_every_term_the_validation_and_pictures(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(validation, "WINDOWS", 2)
    trainee = opened(people, "test")
    train(trainee, settings(steps=2), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    terms = {"total", "found", "discriminator", *G4GConfig().weights.model_dump()} - {
        "perception",
        "expert",
        "identity",
    }
    figures = {"mouth_psnr", "mouth_l1", "found_true", "found_drawn", "score"}
    assert set(lines[-1]["validation"]) == figures
    tags = {f"loss/{term}" for term in terms} | {f"validation/{name}" for name in figures}
    assert set(events.Tags()["scalars"]) == tags | {"run/learning_rate", "run/seconds", "run/waiting"}
    for term in terms:
        assert [event.value for event in events.Scalars(f"loss/{term}")] == pytest.approx(
            [line[term] for line in lines]
        )
    assert [event.step for event in events.Images("faces")] == [1, 2]

    picture = cv2.imread(str(tmp_path / "run" / "pictures" / "faces-000002.png"))[..., ::-1]
    rows, columns = validation.SHOWN, 5  # source, drawn, true, difference, reference
    assert picture.shape == (rows * 64 + 4 * (rows - 1), columns * 64 + 4 * (columns - 1), 3)
    trainee.module.eval()
    with torch.no_grad():
        np.testing.assert_array_equal(picture, trainee.pictures()["faces"])


@pytest.mark.slow
def test_what_is_drawn_finds_its_sound_by_chance_as_often_as_chance_has_it(people: Path) -> None:
    """The figures count multiples of chance: a network that knows nothing has about 1."""
    trainee = opened(people, "test")
    trainee.module.eval()
    with torch.no_grad():
        found = trainee.validate()
    assert found["found_true"] == pytest.approx(1, abs=0.6)


def test_training_grows_through_its_stages(people: Path, tmp_path: Path) -> None:
    stages = [{"size": 96, "steps": 1}, {"size": 128, "steps": 2}]
    trainee = opened(people, size=256, channels=(8, 8, 8), stages=stages)
    sizes = [trainee.batch(np.random.default_rng(0), Turn(step)).truth.shape[-1] for step in range(4)]
    assert sizes == [96, 128, 128, 256]
    smaller = opened(people, size=128, channels=(8, 8, 8), stages=stages[:1])
    at_the_end = settings(steps=2, validate_every=2, checkpoint_every=2)
    assert train(smaller, at_the_end, tmp_path / "run", quiet=True)["step"] == 2
    with pytest.raises(ValidationError, match="must grow towards size 128"):
        G4GConfig(size=128, stages=[{"size": 128, "steps": 1}])
    with pytest.raises(ValidationError, match="other strides"):
        G4GConfig(size=128, stages=[{"size": 64, "steps": 1}])
    assert G4GConfig(**PRESETS["g4g-256"]["model"]).size_at(0) == 128


def test_stages_that_last_as_long_as_the_run_are_refused_before_anything_is_written(
    people: Path, tmp_path: Path
) -> None:
    stages = [{"size": 96, "steps": 1}, {"size": 128, "steps": 2}]
    trainee = opened(people, size=256, channels=(8, 8, 8), stages=stages)
    trainee.check(4, 1)
    for steps in (1, 2, 3):
        with pytest.raises(UsageError, match=f"all {steps} steps lie in stages .* no step would see 256 px"):
            trainee.check(steps, 1)
    with pytest.raises(UsageError, match="all 3 steps"):
        train(trainee, settings(steps=3), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    opened(people).check(1, 1)


@pytest.mark.parametrize("channels", [(56, 112, 160), (88, 88, 88), (8, 16, 24)])
def test_channels_may_be_any_multiples_of_8(channels: tuple[int, int, int]) -> None:
    parts = Parts(G4GConfig(size=128, channels=channels, embedding=8))
    inputs = Inputs(
        source=torch.zeros(1, 1, 3, 128, 128),
        erase=torch.ones(1, 1, 1, 128, 128),
        references=torch.rand(1, COUNT, 3, 128, 128),
        source_sketch=torch.rand(1, 1, 1, 128, 128),
        reference_sketch=torch.rand(1, COUNT, 1, 128, 128),
        poses=torch.eye(2, 3).expand(1, 1, COUNT, 2, 3),
        mel=torch.zeros(1, 1, 1, 80, 16),
    )
    with torch.no_grad():
        drawn = parts.generator(inputs)
        judged = parts.discriminator(drawn.picture)
    assert [face.shape[-1] for face in drawn.faces] == [32, 64, 128]
    assert drawn.picture.shape == (1, 3, 128, 128) and torch.isfinite(drawn.picture).all()
    assert all(torch.isfinite(features).all() for features in judged)
    with pytest.raises(ValidationError, match="multiples of 8"):
        G4GConfig(size=128, channels=(channels[0] + 4, *channels[1:]))


def test_a_sample_in_a_mirror_is_that_sample_in_a_mirror(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = opened(people, mirror=True)
    found = []
    for chance in (0.0, 1.0):
        monkeypatch.setattr(data, "_MIRRORED", chance)
        found.append(trainee.batch(np.random.default_rng(4), Turn()))
    plain, mirrored = found
    assert plain.keys == mirrored.keys
    for one, other in (
        (plain.truth, mirrored.truth), (plain.inputs.source, mirrored.inputs.source),
        (plain.inputs.erase, mirrored.inputs.erase), (plain.inputs.references, mirrored.inputs.references),
        (plain.regions["lips"], mirrored.regions["lips"]),
    ):  # fmt: skip
        assert torch.equal(one, other.flip(-1))
    for one, other in (
        (plain.inputs.source_sketch, mirrored.inputs.source_sketch), (plain.stacks, mirrored.stacks),
        (plain.inputs.reference_sketch, mirrored.inputs.reference_sketch),
    ):  # fmt: skip
        assert 10 * (one - other.flip(-1)).abs().mean() < (one - other).abs().mean()
    assert torch.equal(plain.inputs.mel, mirrored.inputs.mel) and torch.equal(plain.sounds, mirrored.sounds)


@pytest.fixture
def another_precision() -> Iterator[None]:
    """accelerate keeps one precision a process; a test wants another one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.usefixtures("another_precision")
@pytest.mark.parametrize("name", ["g4g", "g4g-pairwise"])
def test_mixed_precision_takes_about_the_same_step(people: Path, tmp_path: Path, name: str) -> None:
    trainee = opened(people, name=name)
    terms = trainee.losses(trainee.batch(np.random.default_rng([0, 0]), Turn()))
    plain = {term: float(value.detach()) for term, value in terms.items()}
    line = train(opened(people, name=name), settings(steps=1, precision="bf16"), tmp_path / "run", quiet=True)
    for term in ("reconstruction", "alignment", "sync", "discriminator"):
        assert line[term] == pytest.approx(plain[term], rel=0.1)
        assert line[term] != plain[term]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_from_its_last_whole_checkpoint(people: Path, tmp_path: Path) -> None:
    fields = [f"{name}={value}" for name, value in SMALL.items() if name not in ("channels", "weights")]
    fields += ["channels=[8,8,16]", "weights.perception=0", "log_every=1", "checkpoint_every=2", "validate_every=30"]
    command = [sys.executable, "-m", "g4g_model", "train", "--model", "g4g", "--shards", str(people), "--quiet"]
    command += ["--steps", "30", "--validation", "none", *[part for field in fields for part in ("--set", field)]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", "whole"], cwd=tmp_path, env=environment, check=True)
    for least in (3, 11):
        begun = (tmp_path / "cut").exists()
        process = subprocess.Popen([*command, "--out", "cut", *["--resume"] * begun], cwd=tmp_path, env=environment)
        while process.poll() is None and max(checkpoints(tmp_path / "cut"), default=0) < least:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert 11 <= checkpoints(tmp_path / "cut")[-1] < 30
    subprocess.run([*command, "--out", "cut", "--resume"], cwd=tmp_path, env=environment, check=True)
    for file in ("g4g.safetensors", "step-000030/model.safetensors", "step-000030/optimizer.safetensors"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
