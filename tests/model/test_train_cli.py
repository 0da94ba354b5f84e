"""``g4g-model train`` as a user meets it, on the sync experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")

from g4g_core.runs import checkpoints  # noqa: E402
from g4g_model.cli import main  # noqa: E402
from prep.config import BuildConfig  # noqa: E402
from prep.run.build import Build  # noqa: E402
from prep.run.runners import SyncRunner, close_guard  # noqa: E402
from prep.sources import SourceRoot  # noqa: E402
from prep.sync_expert import infer  # noqa: E402
from prep.sync_expert.trainable import diagonal_loss, pairwise_loss  # noqa: E402


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, sample_hdtf_clips: list[Path]) -> Path:
    out = tmp_path_factory.mktemp("train") / "shards"
    config = BuildConfig(size=96, fractions=(1.0, 0.0, 0.0))
    job = Build([SourceRoot("sample", "folder", str(sample_hdtf_clips[0].parent))], str(out), config, quiet=True)
    job.run(job.plan(SyncRunner()), SyncRunner())
    close_guard()
    return out


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def g4g_model(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def train(shards: Path, *arguments: Any, model: str = "sync-a", out: str = "run") -> Result:
    small = ("--set", "clips=2", "--set", "windows=8", "--set", "log_every=1")
    return g4g_model("train", "--model", model, "--shards", shards, "--out", out, "--quiet", *small, *arguments)


@pytest.mark.parametrize("model", ["sync-a", "sync-b"])
def test_an_expert_learns_which_sound_belongs_to_which_mouth(shards: Path, model: str) -> None:
    result = train(shards, "--steps", 40, "--set", "dropout=0", model=model)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    found = [line["found"] for line in lines]
    assert np.mean(found[-10:]) > np.mean(found[:10]) + 0.15
    assert np.mean([line["total"] for line in lines[-10:]]) < 0.85 * np.mean([line["total"] for line in lines[:5]])
    expert = infer.load(model, f"run/{model}.safetensors")
    assert expert.see(np.zeros((12, 64, 64), np.uint8)).shape == (12 - expert.design.frames + 1, 64)


def test_training_is_the_same_twice_and_resumes(shards: Path) -> None:
    arguments = ("--steps", 6, "--set", "checkpoint_every=3")
    for out in ("one", "two"):
        assert train(shards, *arguments, out=out).exit_code == 0
    assert Path("one/sync-a.safetensors").read_bytes() == Path("two/sync-a.safetensors").read_bytes()
    for path in Path("two/step-000006").iterdir():
        path.unlink()
    assert checkpoints(Path("two")) == [3]
    assert train(shards, *arguments, "--resume", out="two").exit_code == 0
    assert Path("one/sync-a.safetensors").read_bytes() == Path("two/sync-a.safetensors").read_bytes()


def test_a_dry_run_describes_and_trains_nothing(shards: Path) -> None:
    result = train(shards, "--dry-run", "--set", "late.sample=0.25", "--json")
    about = json.loads(result.stdout)
    assert about["model"] == "sync-a"
    assert about["training"]["steps"] == 1500
    assert about["description"]["config"]["late"] == {"sample": 0.25}
    assert about["description"]["shots"] == 3
    assert not Path("run").exists()


def test_settings_come_from_a_file_and_the_command_line_wins(shards: Path) -> None:
    Path("c.yaml").write_text("training:\n  steps: 7\n  warmup: 3\nmodel:\n  windows: 6\n  dropout: 0.5\n")
    about = json.loads(train(shards, "--dry-run", "--json", "--config", "c.yaml", "--steps", 9).stdout)
    assert (about["training"]["steps"], about["training"]["warmup"]) == (9, 3)
    config = about["description"]["config"]
    assert (config["windows"], config["dropout"]) == (8, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "sync-x"), "there is no trainable 'sync-x'"),
        (("--set", "stepps=4"), "there is no field 'stepps'"),
        (("--set", "steps"), "no NAME=VALUE"),
        (("--set", "steps=0"), "field 'steps'"),
        (("--preset", "tiny"), "there is no preset 'tiny'"),
        (("--split", "dev"), "has no split 'dev'"),
        (("--shards", "nowhere"), "holds no dataset.json"),
        (("--selection", "keys.txt"), "keys.txt"),
        (("--config", "odd.yaml"), "there is no section 'modell'"),
    ],
)
def test_mistakes_are_one_clear_line(shards: Path, arguments: tuple[str, str], message: str) -> None:
    Path("odd.yaml").write_text("modell:\n  windows: 6\n")
    given = {"--model": "sync-a", "--shards": str(shards), "--out": "run", "--split": "train"}
    given[arguments[0]] = arguments[1]
    result = g4g_model("train", "--quiet", *[text for pair in given.items() for text in pair])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert not Path("run").exists()


def test_shards_come_from_the_project_file(shards: Path) -> None:
    Path("g4g.yaml").write_text(f"data:\n  root: {shards}\n")
    result = g4g_model("train", "--model", "sync-b", "--out", "run", "--set", "clips=3",
                       "--dry-run")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "sync-b: 273,153 parameters" in result.stdout
    bare = CliRunner()
    with bare.isolated_filesystem():
        assert "no shards are given" in g4g_model("train", "--model", "sync-b", "--out", "run").stderr


def test_the_models_are_listed() -> None:
    assert {"sync-a", "sync-b"} <= set(json.loads(g4g_model("list", "--json").stdout))


def test_the_diagonal_loss_is_the_cross_entropy_without_neighbours() -> None:
    similar = torch.tensor([[[2.0, 9.0, 0.0], [1.0, 3.0, 9.0], [0.5, 9.0, 1.0]]])
    near = torch.tensor([[[False, True, False], [False, False, True], [False, True, False]]])
    e = np.exp
    rows = -np.log([e(2) / (e(2) + e(0)), e(3) / (e(1) + e(3)), e(1) / (e(0.5) + e(1))]).mean()
    mirrored = near.transpose(1, 2)
    assert not torch.equal(mirrored, near)
    columns = -np.log([e(2) / (e(2) + e(1) + e(0.5)), 1.0, e(1) / (e(0) + e(1))]).mean()
    assert float(diagonal_loss(similar, near)) == pytest.approx(rows + columns, rel=1e-5)


def test_the_pairwise_loss_never_takes_a_neighbour_or_the_sound_itself_as_wrong() -> None:
    similar = torch.full((4, 6, 6), -1.0)
    similar.diagonal(dim1=1, dim2=2).fill_(1.0)
    near = (torch.arange(6)[:, None] - torch.arange(6)[None]).abs() == 1
    near = near.expand(4, -1, -1)
    similar = similar.masked_fill(near, 1.0)  # would cost much if it were drawn
    for seed in range(20):
        torch.manual_seed(seed)
        assert float(pairwise_loss(similar, near)) < 1e-4


def test_a_model_that_can_generate_is_noted_for_the_other_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trains and generates is found by g4g-eval run and dub; an expert, which draws nothing, is not noted."""
    import yaml

    from g4g_core import registry, training

    class Kind:
        Config, presets, settings = training.Settings, {}, {}  # type: ignore[var-annotated]

        def open(self, config: object, data: object, **_: object) -> None:
            """Nothing is trained here."""

        def export(self, trainable: object, folder: Path) -> list[Path]:
            return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "load", lambda group, name: Kind())
    monkeypatch.setattr(training, "train", lambda *_, **__: {})
    for name in ("g4g", "sync-a"):
        data = ["--shards", "x", "--validation", "none"]
        result = CliRunner().invoke(main, ["train", "--model", name, *data, "--out", f"runs/{name}"])
        assert result.exit_code == 0, result.output

    noted = yaml.safe_load((tmp_path / "g4g.yaml").read_text())["checkpoints"]
    assert noted == {"g4g": str(tmp_path / "runs" / "g4g")}
