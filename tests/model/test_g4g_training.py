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
from g4g_model.g4g import Drawn  # noqa: E402
from g4g_model.networks.alignment import mouth_pictures  # noqa: E402
from g4g_model.networks.fusion import dilated  # noqa: E402
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
    keys = other.module.load_state_dict(full.module.state_dict(), strict=False)
    assert not keys.missing_keys  # what a switch takes away has no weights
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


# ---------------------------------------------------------------- what terms look at


def shaken(module: Any, seed: int) -> None:
    """Other weights, nearby."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value += 0.1 * value.abs().mean() * torch.randn_like(value)


def unit(values: Any) -> np.ndarray:
    array = values.detach().double().numpy()
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True))


def near_windows(batch: G4GBatch) -> G4GBatch:
    """The same windows, as if some of them began at nearly the same time."""
    starts = torch.tensor([[5, 7, 8, 20, 21, 30, 3], [0, 0, 2, 9, 12, 15, 40]])
    wrong = torch.tensor([[4, 6, 5, 1, 2, 3, 5], [3, 4, 5, 6, 1, 2, 3]])
    return dataclasses.replace(batch, starts=starts, wrong=wrong)


def seen_and_heard(trainee: G4GTrainable, batch: G4GBatch) -> tuple[np.ndarray, np.ndarray]:
    """float64 [2, 7, E]: mouths (the drawn one first) and sounds of both clips, by the averaged encoders."""
    average, size = trainee.module.average, trainee.config.mouth_size
    with torch.no_grad():
        picture = trainee.module.generator(batch.inputs).picture
        mouths = [
            torch.cat([mouth_pictures(picture[5 * clip : 5 * clip + 5], batch.places[clip], size)[None], stacks])
            for clip, stacks in enumerate(batch.stacks)
        ]
        seen = [unit(average.mouth(stacks)) for stacks in mouths]
        heard = [unit(average.generator.audio(sounds)) for sounds in batch.sounds]
    return np.stack(seen), np.stack(heard)


def settled(people: Path, name: str = "g4g") -> tuple[G4GTrainable, G4GBatch]:
    """A network whose average is not what is trained, and a batch with windows that are near to each other."""
    trainee = opened(people, name)
    shaken(trainee.module.average.mouth, 1)
    shaken(trainee.module.average.generator.audio, 2)
    return trainee, near_windows(drawn(trainee))


def test_lip_sync_is_the_cross_entropy_of_drawn_windows_as_the_averaged_encoders_find_them(people: Path) -> None:
    trainee, batch = settled(people)
    seen, heard = seen_and_heard(trainee, batch)
    scale = float(trainee.module.average.mouth.scale)
    assert scale != float(trainee.module.mouth.scale.detach())
    terms = []
    for clip in range(2):
        far = np.abs(batch.starts.numpy() - batch.starts[clip, 0].item()) > 2
        far[1 - clip], far[clip, 0] = True, True  # windows of other clips are never too near, nor is it to itself
        assert not far.all()
        rows = scale * heard[far] @ seen[clip, 0]
        columns = scale * seen[far] @ heard[clip, 0]
        own = scale * seen[clip, 0] @ heard[clip, 0]
        terms += [np.log(np.exp(values).sum()) - own for values in (rows, columns)]
    assert float(trainee.losses(batch)["sync"].detach()) == pytest.approx(np.mean(terms), rel=1e-4)


def test_lip_sync_by_pairs_is_that_of_a_drawn_window_with_its_own_and_with_a_wrong_sound(people: Path) -> None:
    trainee, batch = settled(people, "g4g-pairwise")
    seen, heard = seen_and_heard(trainee, batch)
    terms = []
    for clip in range(2):
        own, wrong = seen[clip, 0] @ heard[clip, 0], seen[clip, 0] @ heard[clip, int(batch.wrong[clip, 0])]
        terms += [-np.log((1 + own) / 2), -np.log(1 - (1 + wrong) / 2)]
    assert float(trainee.losses(batch)["sync"].detach()) == pytest.approx(np.mean(terms), rel=1e-4)


@pytest.mark.parametrize("name", ["g4g", "g4g-pairwise"])
def test_the_encoders_that_are_trained_have_no_say_in_lip_sync(people: Path, name: str) -> None:
    trainee, batch = settled(people, name)
    before = trainee.losses(batch)
    shaken(trainee.module.mouth, 3)
    shaken(trainee.module.generator.audio, 4)  # moves nothing yet: motion begins as none
    after = trainee.losses(batch)
    assert torch.equal(before["reconstruction"], after["reconstruction"])
    assert torch.equal(before["sync"], after["sync"]) and not torch.equal(before["alignment"], after["alignment"])


def draws(monkeypatch: pytest.MonkeyPatch, trainee: G4GTrainable, picture: Any) -> None:
    """Let the network draw this; its average, which judges, stays what it is."""
    faces = [torch.nn.functional.avg_pool2d(picture, factor) for factor in (4, 2, 1)]
    monkeypatch.setattr(trainee.module.generator, "forward", lambda inputs: Drawn(faces, picture))


class Pixels(torch.nn.Module):
    """Takes VGG's place: its features are the pixels, so that what is looked at is known to the pixel."""

    def forward(self, pictures: Any) -> list[Any]:
        return [pictures] * len(losses.VGG_FACTORS)


def test_perception_looks_at_all_that_may_differ_from_the_source_and_at_nothing_else(
    people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "vgg_features", Pixels)
    trainee = opened(people, weights={"perception": 1.0})
    batch = drawn(trainee)
    truth, erase = batch.truth.flatten(0, 1), batch.inputs.erase.flatten(0, 1)

    def told(where: Any) -> float:
        draws(monkeypatch, trainee, torch.where(where > 0, -truth, truth))
        return float(trainee.losses(batch)["perception"])

    def cells(mask: Any) -> Any:  # at half the size a feature counts where one of its four pixels does
        return torch.nn.functional.max_pool2d(mask, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)

    ring = dilated(erase) * (1 - cells(erase))
    outside = 1 - cells(dilated(erase))
    assert ring.sum() > 0 and outside.sum() > 0
    assert told(torch.zeros_like(erase)) == told(outside) == 0
    assert told(ring) > 0 and told(erase) > 0


def test_attribute_compares_what_is_drawn_with_the_references_and_not_with_the_truth(
    people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee = opened(people)
    batch = drawn(trainee)
    with torch.no_grad():
        draws(monkeypatch, trainee, trainee.module.generator(batch.inputs).picture)

    def told(changed: G4GBatch) -> float:
        return float(trainee.losses(changed)["attribute"])

    def shown(references: Any, sketches: Any) -> G4GBatch:
        inputs = dataclasses.replace(batch.inputs, references=references, reference_sketch=sketches)
        return dataclasses.replace(batch, inputs=inputs)

    references, sketches = batch.inputs.references, batch.inputs.reference_sketch
    plain = told(batch)
    assert told(dataclasses.replace(batch, truth=batch.truth.flip(-1) * 0.5)) == plain > 0
    assert told(shown(references * 0.5, sketches)) != plain
    assert told(shown(references.flip(0), sketches.flip(0))) != plain  # a clip's own ones
    assert told(shown(references.flip(1), sketches.flip(1))) == pytest.approx(plain, rel=1e-5)  # in any order
    # one reference, drawn as it is with its own sketch: alike in all statistics
    one, lines = references[:, :1].expand_as(references), sketches[:, :1].expand_as(sketches)
    draws(monkeypatch, trainee, one.flatten(0, 1))
    alike = shown(one, lines)
    alike = dataclasses.replace(alike, inputs=dataclasses.replace(alike.inputs, source_sketch=lines))
    assert told(alike) == pytest.approx(0, abs=1e-5)


# ---------------------------------------------------------------- mixed precision


def mixed() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_term_is_in_32_bits_though_the_networks_are_not(
    people: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(trainable, "vgg_features", Pixels)
    trainee = opened(people, name, expert="sync-a", weights={"perception": 1.0})
    batch = drawn(trainee)
    plain = trainee.losses(batch)
    with mixed():
        terms = trainee.losses(batch)
    assert set(terms) == set(plain) >= {"perception", "expert", "attribute", "discriminator"}
    assert {term.dtype for term in terms.values()} == {torch.float32}
    for term in set(terms) - {"found"}:
        assert float(terms[term].detach()) == pytest.approx(float(plain[term].detach()), rel=0.1), term
    assert not torch.equal(terms["reconstruction"], plain["reconstruction"])  # the networks are in 16 bits
    # 32 bits are no 16 bits in a larger box: they have digits of their own
    assert not [term for term in set(terms) - {"found"} if torch.equal(terms[term], terms[term].bfloat16().float())]
    terms["total"].backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in trainee.module.parameters())


@pytest.mark.parametrize("context", [mixed, torch.enable_grad])
def test_pairs_that_all_look_alike_have_a_finite_loss(people: Path, context: Any) -> None:
    """Cosines near 1 are 1 in 16 bits, and the logarithm of what is left of 1 infinite."""
    trainee = opened(people, "g4g-pairwise")
    parts = trainee.module
    with torch.no_grad():
        for encoder in (parts.mouth, parts.average.mouth, parts.generator.audio, parts.average.generator.audio):
            encoder.layers[-1].bias.fill_(100.0)
    with context():
        terms = trainee.losses(drawn(trainee))
    for term in ("alignment", "sync"):
        assert 3 < float(terms[term].detach()) < 8, term  # half of -log(1 - p), p of at most 1 - 1e-6
    terms["total"].backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in parts.parameters())


def test_places_are_found_in_32_bits() -> None:
    from g4g_model.networks.deformation import warp

    torch.manual_seed(0)
    features, pictures = torch.randn(2, 3, 32, 32), torch.rand(4, 3, 64, 64)
    motion = torch.randn(2, 3, 4) * torch.tensor([0.1, 0.5, 0.2, 0.2]) + torch.tensor([1.0, 0.0, 0.0, 0.0])
    places = torch.eye(3)[:2] * 0.3 + 0.1 * torch.rand(4, 2, 3)
    plain = warp(features, motion), mouth_pictures(pictures, places, 32)
    with mixed():
        found = warp(features, motion), mouth_pictures(pictures, places, 32)
    for one, other in zip(plain, found, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- runs


def settings(**fields: Any) -> Settings:
    return Settings(**{**SETTINGS, "warmup": 0, "log_every": 1, "checkpoint_every": 2, "validate_every": 2, **fields})


@pytest.mark.parametrize("name", ["g4g", pytest.param("g4g-pairwise", marks=pytest.mark.slow)])
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
