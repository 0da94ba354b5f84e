"""DINet: its network against the public structure, its training on G4G's windows, and its answers to prompts."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

from g4g_people import write_people  # noqa: E402

from baselines.dinet import trainable as training  # noqa: E402
from baselines.dinet.config import PRESETS, SETTINGS, DINetConfig  # noqa: E402
from baselines.dinet.inputs import pictures_in, pictures_out, source_in  # noqa: E402
from baselines.dinet.model import CHUNK, DINET, DINetGenerator  # noqa: E402
from baselines.dinet.network import AdaAT, DINet  # noqa: E402
from baselines.dinet.trainable import DINET_TRAINABLE, DINetTrainable, batch_of  # noqa: E402
from baselines.redraw import FEATHER  # noqa: E402
from baselines.trained import About, write  # noqa: E402
from baselines.windows import Windows  # noqa: E402
from g4g_core import weights  # noqa: E402
from g4g_core.errors import DatasetError, UsageError, WeightsError  # noqa: E402
from g4g_core.protocols import ERASED, POSE_POINTS, ClipPrompt, Movable, SelfDescribing, TrainingData  # noqa: E402
from g4g_core.provenance import file_sha256, processor  # noqa: E402
from g4g_core.training import Settings, train  # noqa: E402
from g4g_model.losses import VGGFeatures  # noqa: E402
from prep.shards.index import Dataset  # noqa: E402
from prep.shards.sample import Sample  # noqa: E402
from prep.stages.geometry import MEAN_FACE  # noqa: E402
from prep.stages.masks import erase_region  # noqa: E402

NARROW: dict[str, Any] = {"size": 64, "width": 0.0625}
QUIET = {"perception": 0.0, "gan": 0.0}
SIZE, FRAMES = 96, CHUNK + 2


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "no weights"))
    monkeypatch.setattr(training, "WINDOWS", 2)


def opened(people: Path, validation: str | None = None, losses: dict[str, float] | None = None, **fields: Any) -> Any:
    config = DINetConfig(**{**NARROW, "clips": 2, **fields}, weights=QUIET if losses is None else losses)
    return DINET_TRAINABLE.open(config, TrainingData(str(people), validation=validation), seed=0)


def drawn(trainee: DINetTrainable, seed: int = 0) -> Any:
    return trainee.batch(np.random.default_rng(seed))


def learns(module: Any) -> bool:
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


# ---------------------------------------------------------------- the network


def test_the_full_network_has_the_parameters_of_the_public_one() -> None:
    """Counted layer by layer from the public code's table, with 80 bands of mel for 29 DeepSpeech features."""

    def conv(before: int, after: int, kernel: int, dimensions: int = 2) -> int:
        return before * after * kernel**dimensions + after

    def normed(before: int, after: int, kernel: int, dimensions: int = 2) -> int:
        return conv(before, after, kernel, dimensions) + 2 * after

    def residual(channels: int, dimensions: int = 2) -> int:
        return 2 * (conv(channels, channels, 3, dimensions) + 2 * channels)

    encoders = sum(normed(n, 64, 7) + normed(64, 128, 3) + normed(128, 256, 3) for n in (3, 15))
    alignment = normed(512, 128, 3) + 2 * normed(128, 128, 11) + 2 * normed(128, 128, 7) + 6 * normed(128, 128, 3)
    audio = normed(80, 128, 5, 1) + 2 * residual(128, 1) + 3 * normed(128, 128, 3, 1)
    motion = conv(256, 256, 1) + conv(256, 1024, 1)
    decoder = normed(512, 128, 3) + 2 * normed(128, 128, 3) + residual(128) + conv(128, 3, 7)
    with torch.device("meta"):
        network = DINet(DINetConfig())
    assert sum(p.numel() for p in network.parameters()) == (
        encoders + alignment + audio + 8 * residual(256) + motion + decoder
    )


@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_pictures_of_every_size_come_out_as_they_went_in(size: int) -> None:
    with torch.device("meta"):
        network = DINet(DINetConfig(size=size, width=0.25))
        out = network(torch.empty(2, 5, 3, size, size), torch.empty(2, 5, 3, size, size), torch.empty(2, 5, 1, 80, 16))
    assert out.shape == (2, 5, 3, size, size)


def public_motion(features: Any, scale: Any, angle: Any, translation: Any) -> Any:
    """AdaAT as an explicit loop over channels: the point (x, y) looks at scale R (x, y) + translation."""
    n, channels, height, width = features.shape
    y, x = torch.meshgrid(
        (torch.arange(height) * 2 + 1) / height - 1, (torch.arange(width) * 2 + 1) / width - 1, indexing="ij"
    )
    moved = torch.empty_like(features)
    for i in range(n):
        for c in range(channels):
            s, a, (tx, ty) = scale[i, c], angle[i, c], translation[i, c]
            grid = torch.stack(
                [s * (torch.cos(a) * x - torch.sin(a) * y) + tx, s * (torch.sin(a) * x + torch.cos(a) * y) + ty], -1
            )
            moved[i, c] = torch.nn.functional.grid_sample(
                features[i : i + 1, c : c + 1], grid[None], padding_mode="border", align_corners=False
            )[0, 0]
    return moved


def test_every_channel_moves_by_its_own_bounded_motion() -> None:
    torch.manual_seed(0)
    layer, features, code = AdaAT(8, 3), torch.rand(2, 3, 10, 10), torch.randn(2, 8)
    torch.testing.assert_close(layer(features, code), features, atol=1e-5, rtol=0)  # none to begin with
    torch.nn.init.normal_(layer.motion.weight)
    raw = layer.motion(layer.shared(code)).view(2, 3, 4)
    scale, angle = 2 * torch.sigmoid(raw[..., 0]), math.pi * torch.tanh(raw[..., 1])
    expected = public_motion(features, scale, angle, torch.tanh(raw[..., 2:]))
    torch.testing.assert_close(layer(features, code), expected, atol=1e-5, rtol=0)
    assert (layer(features, code) - features).abs().mean() > 0.05


def test_source_references_and_sound_all_matter_and_every_parameter_learns(people: Path) -> None:
    torch.manual_seed(0)
    trainee = opened(people)
    network, batch = trainee.module.network, drawn(trainee)
    torch.nn.init.normal_(network.motion.motion.weight, std=0.5)
    plain = network.eval()(batch.source, batch.references, batch.mel)
    for other in (
        (1 - batch.source, batch.references, batch.mel),
        (batch.source, 1 - batch.references, batch.mel),
        (batch.source, batch.references, -batch.mel),
    ):
        assert (network(*other) - plain).abs().max() > 1e-4
    network.train()(batch.source, batch.references, batch.mel).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert all(learns(part) for part in network.children())


# ---------------------------------------------------------------- training


def test_nothing_under_erase_is_shown_and_all_of_it_is_in_the_truth(people: Path) -> None:
    (window, _) = Windows(Dataset.open(str(people)), ("train",), 2).draw(np.random.default_rng(0))
    other = dataclasses.replace(window, pictures=np.where(window.erase[..., None] > 0, 7, window.pictures))
    one, two = (batch_of([w], DINetConfig(**NARROW)) for w in (window, other))
    assert torch.equal(one.source, two.source) and not torch.equal(one.truth, two.truth)
    hidden = one.erase.expand_as(one.source) > 0
    assert not one.source[hidden].any()
    torch.testing.assert_close(one.source[~hidden], one.truth[~hidden])
    assert one.references.shape == (1, 5, 3, 64, 64) and one.mel.shape == (1, 5, 1, 80, 16)


def test_the_total_is_the_weighted_sum_of_the_terms(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small_vgg() -> VGGFeatures:
        torch.manual_seed(1)
        widths = [64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512]
        state, before, number = {}, 3, 0
        for width in widths:
            if width:
                state[f"features.{number}.weight"] = 0.05 * torch.randn(width, before, 3, 3)
                state[f"features.{number}.bias"] = torch.zeros(width)
                before, number = width, number + 2
            else:
                number += 1
        return VGGFeatures(state)

    monkeypatch.setattr(training, "vgg_features", small_vgg)
    trainee = opened(people, losses={"reconstruction": 10.0, "perception": 0.5, "gan": 2.0})
    terms = {name: float(value.detach()) for name, value in trainee.losses(drawn(trainee)).items()}
    assert set(terms) == {"total", "reconstruction", "perception", "gan", "discriminator"}
    expected = 10 * terms["reconstruction"] + 0.5 * terms["perception"] + 2 * terms["gan"] + terms["discriminator"]
    assert terms["total"] == pytest.approx(expected, rel=1e-5) and all(value > 0 for value in terms.values())
    assert trainee.about.losses_off == ("sync",)
    assert not [name for name in trainee.module.state_dict() if "vgg" in name]


def test_generator_and_discriminator_do_not_see_each_other_s_gradient(people: Path) -> None:
    for term, by in {"gan": "network", "discriminator": "discriminator", "reconstruction": "network"}.items():
        trainee = opened(people, losses={"perception": 0.0})
        trainee.losses(drawn(trainee))[term].backward()
        for part in ("network", "discriminator"):
            assert learns(getattr(trainee.module, part)) == (part == by), (term, part)


def test_what_is_off_is_said(people: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        trainee = opened(people, losses={})
    assert "perception: off" in caplog.text and trainee.about.losses_off == ("perception", "sync")
    assert opened(people).describe()["losses_off"] == ["gan", "perception", "sync"]
    with pytest.raises(DatasetError, match="is trained on and in the validation"):
        opened(people, validation="train")


def settings(**fields: Any) -> Settings:
    short = {"warmup": 0, "log_every": 1, "checkpoint_every": 2, "validate_every": 2, "learning_rate": 1e-3}
    return Settings(**{**SETTINGS, **short, "device": "cpu", **fields})


def test_a_resumed_run_is_the_run_that_was_never_stopped(people: Path, tmp_path: Path) -> None:
    losses, told = {"perception": 0.0, "gan": 1.0}, {"preset": "tiny, changed"}
    for out in ("one", "two"):
        train(opened(people, "test", losses, **told), settings(steps=4), tmp_path / out, quiet=True)
    for file in (tmp_path / "two" / "step-000004").iterdir():
        file.unlink()
    again = opened(people, "test", losses, **told)
    train(again, settings(steps=4), tmp_path / "two", resume=True, quiet=True)

    for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
        one, two = ((tmp_path / out / "step-000004" / file).read_bytes() for out in ("one", "two"))
        assert one == two, file
    figures = json.loads((tmp_path / "two" / "log.jsonl").read_text().splitlines()[-1])["validation"]
    assert figures["score"] == figures["mouth_psnr"] > 0 and 0 < figures["mouth_l1"] < 2
    shown = cv2.imread(str(tmp_path / "two" / "pictures" / "faces-000004.png"))
    assert shown.shape == (4 * 64, 5 * 64, 3)

    (file,) = DINET_TRAINABLE.export(again, tmp_path / "two")
    for place in (file, tmp_path / "two", tmp_path / "two" / "step-000004"):
        model = DINET.open(str(place))
        assert (model.native_size, model.mel_offset, model.losses_off) == (64, -2, ("perception", "sync"))
        why = model.training.off_because
        assert why["perception"] == "weight 0 in its settings" and why["sync"].startswith("the public code's own")
        assert model.training.processor == processor()
        assert model.preset == "tiny, changed" and isinstance(model, Movable)
        for key, value in model._network.state_dict().items():
            assert torch.equal(value, again.module.network.state_dict()[key])


def test_a_short_training_learns_a_picture(tmp_path: Path) -> None:
    """One face for all frames of all people: soon it is known by heart."""
    face: list[bytes] = []

    def alike(sample: Sample) -> Sample:
        face.append(sample.frames[0])
        return dataclasses.replace(sample, frames=[face[0]] * len(sample.frames))

    trainee = opened(write_people(tmp_path / "people", edit=alike), mirror=False)
    run = settings(steps=12, learning_rate=4e-3, checkpoint_every=12, validate_every=12)
    train(trainee, run, tmp_path / "run", quiet=True)
    totals = [json.loads(line)["total"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert np.mean(totals[-3:]) < 0.8 * np.mean(totals[:3]), totals


def test_presets_and_settings_fit() -> None:
    for preset in PRESETS.values():
        DINetConfig(**preset["model"])
        Settings(**{**SETTINGS, **preset.get("training", {})})
    assert DINetConfig(**PRESETS["full"]["model"]) == DINetConfig()


# ---------------------------------------------------------------- at work


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = DINetConfig(**NARROW)
    network = DINet(config)
    for weight in network.parameters():
        if weight.ndim > 1:
            torch.nn.init.kaiming_normal_(weight)
    torch.nn.init.normal_(network.motion.motion.weight, std=0.3)  # what is heard shows in how features move
    torch.nn.init.normal_(network.decoder[-2].weight, std=0.005)  # and no pixel is black or white whatever is heard
    path = tmp_path_factory.mktemp("run") / "dinet.safetensors"
    write(path, About("dinet", config, ("sync",)), network.state_dict())
    return str(path)


@pytest.fixture(scope="module")
def prompt() -> ClipPrompt:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    waves = np.stack([np.sin(x / rng.uniform(5, 15) + y / rng.uniform(5, 15)) for _ in range(3 * (FRAMES + 5))], -1)
    pictures = np.asarray(127 + 100 * waves, np.uint8).reshape(SIZE, SIZE, FRAMES + 5, 3).transpose(2, 0, 1, 3)
    sway = rng.normal(0, 0.5, (FRAMES + 5, 1, 2))
    points = np.asarray(MEAN_FACE * 35.4 + (47.5, 19.2) + sway, np.float32)
    erase = np.stack([erase_region(p, SIZE) for p in points[:FRAMES]])
    source = pictures[:FRAMES].copy()
    source[erase > 0] = ERASED
    mel = rng.uniform(-4, 4, (140, 80)).astype(np.float32)
    return ClipPrompt(
        source, erase, points[:FRAMES, POSE_POINTS].copy(), pictures[FRAMES:].copy(), points[FRAMES:], mel, 16, 10,
        np.zeros(640 * FRAMES, np.int16), 25, 0,
    )  # fmt: skip


class Spy(torch.nn.Module):
    """Draws one colour, and notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Any] = []

    def forward(self, *shown: Any) -> Any:
        self.shown.append(shown)
        return torch.tensor([1.0, 0.2, 0.0]).view(3, 1, 1).expand(*shown[0].shape[:2], 3, 64, 64)


def test_the_network_is_shown_what_training_shows_it(prompt: ClipPrompt) -> None:
    spy = Spy()
    made = DINetGenerator(About("dinet", DINetConfig(**NARROW)), spy).generate(prompt)
    source, mel = (torch.cat([shown[part][0] for shown in spy.shown]) for part in (0, 2))
    assert torch.equal(source, source_in(prompt.source, prompt.erase, 64))
    assert torch.equal(spy.shown[0][1][0], pictures_in(prompt.references, 64))
    for t in range(FRAMES):
        first = int(3.2 * (prompt.frame_start + t - 2)) - prompt.mel_start
        np.testing.assert_array_equal(mel[t, 0], prompt.mel[first : first + 16].T)
    for t in range(FRAMES):
        far = cv2.distanceTransform(1 - prompt.erase[t], cv2.DIST_L2, 5) > FEATHER * SIZE + 2
        np.testing.assert_array_equal(made[t][far], prompt.source[t][far])
        assert (made[t][prompt.erase[t] > 0] == (255, 51, 0)).all()  # red, green, blue


def test_nothing_is_read_from_under_erase_and_speech_drives_the_drawing(prompt: ClipPrompt, checkpoint: str) -> None:
    before, model = prompt.digest(), DINET.open(checkpoint)
    made = model.generate(prompt)
    assert made.shape == prompt.source.shape and made.dtype == np.uint8 and prompt.digest() == before
    source = prompt.source.copy()
    source[prompt.erase > 0] = 7
    np.testing.assert_array_equal(model.generate(dataclasses.replace(prompt, source=source)), made)
    np.testing.assert_array_equal(DINET.open(checkpoint).generate(prompt), made)
    other = model.generate(dataclasses.replace(prompt, mel=-prompt.mel))
    assert (made != other)[prompt.erase > 0].mean() > 0.1
    assert (made[prompt.erase > 0] == ERASED).all(-1).mean() < 0.01


def test_looking_the_model_up_and_hashing_its_checkpoint_loads_no_network(checkpoint: str) -> None:
    code = (
        "import sys; from baselines.dinet.model import DINET; DINET.fingerprint(sys.argv[1]); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, checkpoint], check=True)


def test_info_tells_of_a_preset_and_of_a_checkpoint(checkpoint: str) -> None:
    assert isinstance(DINET, SelfDescribing)
    told = DINET.info(None, "tiny")
    assert (told["preset"], told["size"], told["parameters"]["total"]) == ("tiny", 64, 1_229_923)
    assert DINET.info(None, None)["size"] == 256 and "checkpoint" not in told
    held = DINET.info(checkpoint, None)
    assert held["checkpoint"] == {
        "path": checkpoint, "sha256": file_sha256(checkpoint), "origin": "g4g-model train", "losses_off": ["sync"],
        "trained_against": [], "findings": [], "marks": [], "step": None, "steps": None, "seed": None, "command": None,
        "torch": None, "processor": None,
    }  # fmt: skip
    with pytest.raises(UsageError, match="tiyn"):
        DINET.info(None, "tiyn")


def test_pictures_go_in_and_out_unchanged() -> None:
    pictures = np.arange(2 * 64 * 64 * 3, dtype=np.int64).reshape(2, 64, 64, 3).astype(np.uint8)
    np.testing.assert_array_equal(pictures_out(pictures_in(pictures, 64)), pictures)


def test_checkpoints_that_do_not_fit_are_refused(checkpoint: str, tmp_path: Path) -> None:
    for act in (DINET.open, DINET.fingerprint):
        with pytest.raises(WeightsError, match="dinet needs a checkpoint"):
            act(None)
        with pytest.raises(WeightsError, match="there is no checkpoint"):
            act(str(tmp_path / "nowhere"))
    odd = tmp_path / "dinet.safetensors"
    odd.write_bytes(Path(checkpoint).read_bytes()[:-8])
    with pytest.raises(WeightsError, match="no checkpoint of DINet"):
        DINET.open(str(odd))
    wide = DINetConfig(size=64, width=0.25)
    write(odd, About("dinet", wide), DINet(DINetConfig(**NARROW)).state_dict())
    with pytest.raises(WeightsError, match="does not fit DINet"):
        DINET.open(str(odd))
    assert DINET.fingerprint(checkpoint).startswith("dinet/1 ") and DINET.open(checkpoint).losses_off == ("sync",)
