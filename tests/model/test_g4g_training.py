"""G4G in training: what each term and switch moves, and that a run is the same however often it is interrupted."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_people import SMALL, write_people  # noqa: E402

from g4g_core import weights as known_weights  # noqa: E402
from g4g_core.errors import DatasetError, UsageError  # noqa: E402
from g4g_core.protocols import TrainingData  # noqa: E402
from g4g_core.training import NonFiniteLoss, Settings, train  # noqa: E402
from g4g_model import losses, trainable, validation  # noqa: E402
from g4g_model.config import SETTINGS, VARIANTS  # noqa: E402
from g4g_model.data import G4GBatch  # noqa: E402
from g4g_model.parts import Parts  # noqa: E402
from g4g_model.trainable import G4GKind, G4GTrainable  # noqa: E402
from prep.config import BuildConfig  # noqa: E402
from prep.run.build import Build  # noqa: E402
from prep.run.runners import SyncRunner, close_guard  # noqa: E402
from prep.shards.sample import Sample  # noqa: E402
from prep.sources import SourceRoot  # noqa: E402

WEIGHTED = ("reconstruction", "attribute", "alignment", "sync", "gan", "features", "discriminator")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


def opened(people: Path, name: str = "g4g", validation: str | None = None, **fields: Any) -> G4GTrainable:
    merged = {**SMALL, **fields, "weights": {**SMALL["weights"], **fields.get("weights", {})}}
    data = TrainingData(str(people), validation=validation)
    return G4GKind(name).open(VARIANTS[name](**merged), data, seed=0)


def drawn(trainee: G4GTrainable, seed: int = 0) -> G4GBatch:
    return trainee.batch(np.random.default_rng(seed))


def terms_of(people: Path, name: str = "g4g", **fields: Any) -> dict[str, float]:
    trainee = opened(people, name, **fields)
    return {term: float(value.detach()) for term, value in trainee.losses(drawn(trainee)).items()}


def learns(module: Any) -> bool:
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def gradients(people: Path, term: str, name: str = "g4g") -> Parts:
    """The parts of a network after the gradient of one term alone."""
    trainee = opened(people, name)
    trainee.losses(drawn(trainee))[term].backward()
    return trainee.module


# ---------------------------------------------------------------- terms


def test_the_total_is_the_weighted_sum_of_the_terms(people: Path) -> None:
    trainee = opened(people)
    terms = {name: float(value.detach()) for name, value in trainee.losses(drawn(trainee)).items()}
    weights = {**trainee.config.weights.model_dump(), "discriminator": 1.0}

    assert set(terms) == {"total", "found", *WEIGHTED}
    assert terms["total"] == pytest.approx(sum(weights[name] * terms[name] for name in WEIGHTED), rel=1e-5)
    assert all(terms[name] > 0 for name in WEIGHTED)


@pytest.mark.parametrize("term", ["reconstruction", "attribute", "alignment", "sync", "gan", "features"])
def test_a_term_of_weight_nought_changes_no_other(people: Path, term: str) -> None:
    plain, without = terms_of(people), terms_of(people, weights={term: 0.0})
    for name in set(plain) & set(without) - {"total"}:
        assert without[name] == plain[name], name
    weight = opened(people).config.weights.model_dump()[term]
    assert without["total"] == pytest.approx(plain["total"] - weight * plain[term], rel=1e-4)
    gone = {"alignment": {"alignment", "found"}, "reconstruction": set()}.get(term, {term})
    assert set(plain) - set(without) == gone
    assert term in opened(people, weights={term: 0.0}).losses_off


def test_without_gan_and_feature_matching_there_is_no_discriminator(people: Path) -> None:
    trainee = opened(people, weights={"gan": 0.0, "features": 0.0})
    assert trainee.module.discriminator is None
    assert "discriminator" not in trainee.losses(drawn(trainee))


def test_gan_and_sync_wait_until_the_face_has_settled(people: Path) -> None:
    waiting = opened(people, settle=2)
    early = waiting.losses(drawn(waiting))
    waits = {"sync", "gan", "features", "discriminator"}
    assert {name for name, value in early.items() if value == 0} - {"found"} == waits
    for _ in range(2):
        waiting.after_step()
    late = waiting.losses(drawn(waiting))
    assert set(late) == set(early)
    assert not [name for name, value in late.items() if value == 0 and name != "found"]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("g4g-pairwise", {"alignment", "sync"}),
        ("g4g-single-mask", {"reconstruction"}),
        ("g4g-no-fusion", {"reconstruction", "attribute", "sync", "gan", "features", "discriminator"}),
    ],
)
def test_a_switch_changes_what_it_names(people: Path, name: str, changed: set[str]) -> None:
    """With the weights of one network: only these terms differ."""
    full, other = opened(people), opened(people, name)
    other.module.load_state_dict(full.module.state_dict(), strict=name != "g4g-no-fusion")
    plain, switched = (
        {term: float(value.detach()) for term, value in trainee.losses(drawn(trainee)).items()}
        for trainee in (full, other)
    )
    assert {term for term in plain if plain[term] != switched[term]} - {"total"} == changed


def test_without_inter_nothing_compares_mouths_and_sounds(people: Path) -> None:
    trainee = opened(people, "g4g-no-inter")
    assert trainee.module.mouth is None and trainee.module.average.mouth is None
    assert set(trainee.losses(drawn(trainee))) == {"total", *WEIGHTED} - {"alignment", "sync"}
    assert trainee.losses_off == ("perception",)


def test_without_intra_there_are_no_sketches(people: Path) -> None:
    trainee = opened(people, "g4g-no-intra")
    assert trainee.module.generator.intra is None
    batch = drawn(trainee)
    empty = dataclasses.replace(batch.inputs, source_sketch=torch.zeros_like(batch.inputs.source_sketch))
    for term, value in trainee.losses(dataclasses.replace(batch, inputs=empty)).items():
        assert torch.equal(value, trainee.losses(batch)[term])


@pytest.mark.parametrize("name", VARIANTS)
def test_switches_of_another_variant_are_refused(people: Path, name: str) -> None:
    other = "g4g-no-intra" if name != "g4g-no-intra" else "g4g"
    with pytest.raises(UsageError, match="Every switch has a name"):
        G4GKind(name).open(VARIANTS[other](**SMALL), TrainingData(str(people)), seed=0)


# ---------------------------------------------------------------- who learns from what


@pytest.mark.parametrize("name", ["g4g", "g4g-pairwise"])
def test_lip_sync_teaches_the_generator_and_never_the_encoder_that_judges(people: Path, name: str) -> None:
    parts = gradients(people, "sync", name)
    assert parts.mouth is not None
    assert learns(parts.generator.decoder)
    assert not learns(parts.mouth) and not learns(parts.average)


def test_alignment_alone_teaches_the_mouth_encoder(people: Path) -> None:
    for term in WEIGHTED:
        parts = gradients(people, term)
        assert parts.mouth is not None
        assert learns(parts.mouth) == (term == "alignment"), term
    aligned = gradients(people, "alignment")
    assert learns(aligned.generator.audio)
    assert not learns(aligned.generator.decoder) and not learns(aligned.generator.pictures)


def test_generator_and_discriminator_do_not_see_each_other_s_gradient(people: Path) -> None:
    for term in ("gan", "features"):
        parts = gradients(people, term)
        assert learns(parts.generator) and not learns(parts.discriminator)
    parts = gradients(people, "discriminator")
    assert learns(parts.discriminator) and not learns(parts.generator)
    assert parts.discriminator is not None and all(p.requires_grad for p in parts.discriminator.parameters())


def test_attribute_is_judged_by_the_average_which_learns_nothing(people: Path) -> None:
    parts = gradients(people, "attribute")
    assert learns(parts.generator.decoder) and not learns(parts.average)


def test_perception_joins_in_where_its_weights_are_registered(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    widths = [width for width in losses._VGG19 if width]
    state, before, number = {}, 3, 0
    for width in losses._VGG19:
        if width:
            state[f"features.{number}.weight"] = 0.05 * torch.randn(width, before, 3, 3)
            state[f"features.{number}.bias"] = torch.zeros(width)
            before, number = width, number + 2
        else:
            number += 1
    assert len(state) == 2 * len(widths)
    monkeypatch.setattr(trainable, "vgg_features", lambda: losses.VGGFeatures(state))
    trainee = opened(people, weights={"perception": 0.5})
    terms = trainee.losses(drawn(trainee))
    assert terms["perception"] > 0 and trainee.losses_off == ()
    terms["perception"].backward()
    assert learns(trainee.module.generator.decoder)
    assert not [name for name in trainee.module.state_dict() if "vgg" in name]


def test_missing_weights_of_perception_are_said(
    people: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(known_weights.FOLDER_VARIABLE, str(tmp_path))
    with caplog.at_level(logging.WARNING):
        trainee = opened(people, weights={"perception": 1.0})
    assert "perception: off" in caplog.text
    assert trainee.losses_off == ("perception",)
    assert trainee.describe()["losses_off"] == ["perception"]
    assert "perception" not in trainee.losses(drawn(trainee))


def test_the_average_follows_the_weights(people: Path) -> None:
    trainee = opened(people, average=0.5)
    average, generator = trainee.module.average, trainee.module.generator
    before = average.generator.audio.layers[-1].weight.clone()
    with torch.no_grad():
        generator.audio.layers[-1].weight += 1
    left = []
    for _ in range(12):
        trainee.after_step()
        left.append(1 - float((average.generator.audio.layers[-1].weight - before).mean()))
    expected = np.cumprod([min(0.5, (1 + n) / (10 + n)) for n in range(12)])
    np.testing.assert_allclose(left, expected, atol=1e-5)
    assert int(average.updates) == 12


# ---------------------------------------------------------------- runs


def settings(**fields: Any) -> Settings:
    return Settings(**{**SETTINGS, "warmup": 0, "log_every": 1, "checkpoint_every": 2, "validate_every": 2, **fields})


@pytest.mark.parametrize("name", ["g4g", "g4g-pairwise"])
def test_a_resumed_run_is_the_run_that_was_never_stopped(people: Path, tmp_path: Path, name: str) -> None:
    fields = {"settle": 1, "average": 0.9}
    for out in ("one", "two"):
        trainee = opened(people, name, **fields)
        train(trainee, settings(steps=4, learning_rate=1e-3), tmp_path / out, quiet=True)
    for file in (tmp_path / "two" / "step-000004").iterdir():
        file.unlink()
    again = opened(people, name, **fields)
    train(again, settings(steps=4, learning_rate=1e-3), tmp_path / "two", resume=True, quiet=True)

    for file in ("model.safetensors", "optimizer.safetensors"):
        one, two = ((tmp_path / out / "step-000004" / file).read_bytes() for out in ("one", "two"))
        assert one == two, file
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["sync"] == 0 and lines[-1]["sync"] > 0
    assert int(trainee.module.average.updates) == int(again.module.average.updates) == 4
    assert {"total", *WEIGHTED} <= set(lines[-1])
    files = [G4GKind(name).export(x, tmp_path / out)[0] for x, out in ((trainee, "one"), (again, "two"))]
    assert files[0].read_bytes() == files[1].read_bytes()


def losses_of(trainee: G4GTrainable, out: Path, steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """Means of the terms over the first and the last three steps of a short run."""
    run = settings(steps=steps, learning_rate=4e-3, checkpoint_every=steps, validate_every=steps)
    train(trainee, run, out, quiet=True)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    first, last = (
        {term: float(np.mean([line[term] for line in part])) for term in ("reconstruction", "total")}
        for part in (lines[:3], lines[-3:])
    )
    return first, last


def test_a_short_training_learns_a_picture(tmp_path: Path) -> None:
    """One face for all frames of all people: soon it is known by heart."""
    face: list[bytes] = []

    def alike(sample: Sample) -> Sample:
        face.append(sample.frames[0])
        return dataclasses.replace(sample, frames=[face[0]] * len(sample.frames))

    trainee = opened(write_people(tmp_path / "people", edit=alike), settle=1000)
    first, last = losses_of(trainee, tmp_path / "run", 16)
    assert all(last[term] < 0.8 * first[term] for term in first), (first, last)


@pytest.mark.slow
def test_a_short_training_on_rendered_faces_lowers_the_loss(sample_hdtf_clips: list[Path], tmp_path: Path) -> None:
    config = BuildConfig.model_validate({"size": 64, "fractions": (1.0, 0.0, 0.0)})
    job = Build(
        [SourceRoot("sample", "folder", str(sample_hdtf_clips[0].parent))], str(tmp_path / "shards"), config, quiet=True
    )
    job.run(job.plan(SyncRunner()), SyncRunner())
    close_guard()
    trainee = opened(tmp_path / "shards", settle=1000)
    first, last = losses_of(trainee, tmp_path / "run", 14)
    assert all(last[term] < 0.8 * first[term] for term in first), (first, last)


def test_a_loss_that_is_not_finite_names_its_samples(people: Path, tmp_path: Path) -> None:
    trainee = opened(people)
    with torch.no_grad():
        trainee.module.generator.decoder.heads["1"][0].bias.fill_(float("nan"))
    keys = drawn_keys(trainee)
    with pytest.raises(NonFiniteLoss) as caught:
        train(trainee, settings(steps=2), tmp_path / "run", quiet=True)
    for key in keys:
        assert key in caught.value.what


def drawn_keys(trainee: G4GTrainable) -> list[str]:
    return trainee.batch(np.random.default_rng([0, 0])).keys


def test_validation_is_taken_on_others_and_by_the_average(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "WINDOWS", 2)
    keys = tmp_path / "val.txt"
    keys.write_text("toy-d_00-000-000\n")
    trainee = opened(people, validation=str(keys))
    figures = trainee.validate()
    assert figures == trainee.validate()
    assert figures["score"] == figures["mouth_psnr"] > 0 and 0 < figures["mouth_l1"] < 2
    with torch.no_grad():
        for value in trainee.module.generator.parameters():
            value += 0.1
    assert trainee.validate() == figures
    assert opened(people).validate() == {}
    keys.write_text("toy-c_00-000-000\n")
    with pytest.raises(DatasetError, match="cleo is trained on and in the validation"):
        opened(people, validation=str(keys))


def test_a_description_says_what_was_learned_from(people: Path) -> None:
    about = opened(people).describe()
    assert (about["samples"], about["left_out"], about["identities"]) == (4, 1, 3)
    assert about["config"]["mel_offset"] == -2 and about["trained_against"] == []
    json.dumps(about)
