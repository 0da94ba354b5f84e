"""Wav2Lip and its expert in training: the windows of G4G, the public losses in their time, runs that resume exactly."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

from g4g_people import SMALL, write_people  # noqa: E402

from baselines.trained import About, write  # noqa: E402
from baselines.wav2lip import trainable as generators  # noqa: E402
from baselines.wav2lip.box import boxes_of, cut_out  # noqa: E402
from baselines.wav2lip.checkpoint import fingerprint, read  # noqa: E402
from baselines.wav2lip.config import CONFIGS, EXPERT_PRESETS, GENERATOR_PRESETS, SETTINGS, ExpertConfig  # noqa: E402
from baselines.wav2lip.data import face_batch, pair_batch  # noqa: E402
from baselines.wav2lip.expert import SyncExpert  # noqa: E402
from baselines.wav2lip.expert_trainable import EXPERT_TRAINABLE, ExpertTrainable  # noqa: E402
from baselines.wav2lip.losses import CHANCE, Plateau, cross_entropy, sync_loss  # noqa: E402
from baselines.wav2lip.model import WAV2LIP, WAV2LIP_GAN, Wav2LipGenerator  # noqa: E402
from baselines.wav2lip.pixels import expert_faces, pictures_in  # noqa: E402
from baselines.wav2lip.sync_expert import WAV2LIP_SYNC_EXPERT, FrozenExpert  # noqa: E402
from baselines.wav2lip.trainable import Wav2LipTrainable, Wav2LipTrainableKind  # noqa: E402
from baselines.windows import Window, Windows  # noqa: E402
from g4g_core import weights  # noqa: E402
from g4g_core.errors import DatasetError, UsageError, WeightsError  # noqa: E402
from g4g_core.protocols import ERASED, ClipPrompt, Movable, SelfDescribing, Speech, TrainingData  # noqa: E402
from g4g_core.provenance import file_sha256  # noqa: E402
from g4g_core.resize import resize  # noqa: E402
from g4g_core.training import Settings, train  # noqa: E402
from g4g_model.config import FRAMES, G4GConfig  # noqa: E402
from g4g_model.data import Batches  # noqa: E402
from g4g_model.inputs import pictures_in as g4g_pictures  # noqa: E402
from g4g_model.trainable import G4GTrainable, Judges  # noqa: E402
from prep.shards.index import Dataset  # noqa: E402
from prep.shards.sample import Sample  # noqa: E402

NARROW: dict[str, Any] = {"size": 64, "width": 0.0625}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file as the training of an expert leaves it."""
    torch.manual_seed(1)
    config = ExpertConfig(**NARROW, mel_offset=-1)
    path = tmp_path_factory.mktemp("expert") / "wav2lip-expert.safetensors"
    write(path, About("wav2lip-expert", config), SyncExpert(config).state_dict())
    return str(path)


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "no weights"))
    monkeypatch.setattr(generators, "WINDOWS", 2)


def opened(people: Path, name: str = "wav2lip", validation: str | None = None, **fields: Any) -> Wav2LipTrainable:
    config = CONFIGS[name](**{**NARROW, "clips": 2, **fields})
    return Wav2LipTrainableKind(name).open(config, TrainingData(str(people), validation=validation), seed=0)


def opened_expert(people: Path, validation: str | None = None, **fields: Any) -> ExpertTrainable:
    config = ExpertConfig(**{**NARROW, "pairs": 4, **fields})
    return EXPERT_TRAINABLE.open(config, TrainingData(str(people), validation=validation), seed=0)


def windows_of(people: Path, mirror: bool = False) -> Windows:
    return Windows(Dataset.open(str(people)), ("train",), 2, mirror=mirror)


def drawn(trainee: Any, seed: int = 0) -> Any:
    return trainee.batch(np.random.default_rng(seed))


def terms_of(trainee: Any, seed: int = 0) -> dict[str, float]:
    torch.manual_seed(0)
    return {name: float(value.detach()) for name, value in trainee.losses(drawn(trainee, seed)).items()}


def learns(module: Any) -> bool:
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


# ---------------------------------------------------------------- what is seen


def test_windows_and_references_are_those_of_g4g_mirrors_included(people: Path) -> None:
    theirs = Batches(Dataset.open(str(people)), ("train",), G4GConfig(**{**SMALL, "windows": 12}))
    ours = windows_of(people, mirror=theirs._config.mirror)
    assert len(theirs) == len(ours) and theirs.left_out == ours.left_out > 0
    for step in range(6):
        batch, windows = theirs.draw(np.random.default_rng([3, step])), ours.draw(np.random.default_rng([3, step]))
        assert [window.key for window in windows] == batch.keys
        assert [window.start for window in windows] == batch.starts[:, 0].tolist()
        for number, window in enumerate(windows):
            assert torch.equal(g4g_pictures(resize(window.pictures, 64)), batch.truth[number])
            assert torch.equal(g4g_pictures(resize(window.references, 64)), batch.inputs.references[number])


def test_a_mirror_turns_pictures_points_and_boxes_alike(people: Path) -> None:
    for window in windows_of(people).draw(np.random.default_rng(0)):
        turned, side = window.mirrored(), window.pictures.shape[1]
        again = turned.mirrored()
        for field in dataclasses.fields(Window):
            one, two = getattr(window, field.name), getattr(again, field.name)
            points = field.name in ("pose", "reference_landmarks")
            assert np.allclose(one, two, atol=1e-4) if points else np.array_equal(one, two), field.name
        x = boxes_of(window.pose, side)[:, [0, 2]]
        assert np.abs(side - boxes_of(turned.pose, side)[:, [2, 0]] - x).max() <= 1  # halves are rounded up


class Spy(torch.nn.Module):
    """Notes what the network is shown at work."""

    def __init__(self) -> None:
        super().__init__()
        self.mel: list[Any] = []
        self.faces: list[Any] = []

    def forward(self, mel: Any, faces: Any) -> Any:
        self.mel.append(mel)
        self.faces.append(faces)
        return torch.zeros(len(faces), 3, 64, 64)


def test_training_shows_what_work_shows(people: Path) -> None:
    """The same sample as a prompt, frame for frame: boxes as smooth, hidden what is hidden, heard what is heard."""
    windows, config = windows_of(people), CONFIGS["wav2lip"](**NARROW, mel_offset=-1)
    rows = {row.key: row for row in windows.rows}
    for seed in range(3):
        for window in windows.draw(np.random.default_rng(seed)):
            row = rows[window.key]
            frames = np.arange(row.n_frames)
            source, masks = windows.reader.frames(row, frames).copy(), windows.reader.masks(row, frames)
            erase = np.asarray(masks & 8 > 0, np.uint8)
            erase[window.start : window.start + FRAMES] = window.erase
            source[erase > 0] = ERASED
            spy = Spy()
            prompt = ClipPrompt(
                source, erase, window.pose, window.references, window.reference_landmarks, window.mel, window.mel_start,
                row.frame_start, np.zeros(640 * len(frames), np.int16), 25, 0,
            )  # fmt: skip
            Wav2LipGenerator(About("wav2lip", config), spy).generate(prompt)
            batch, here = face_batch([window], config, 0), slice(window.start, window.start + FRAMES)
            assert torch.equal(batch.mel[0], torch.cat(spy.mel)[here])
            # the first frame has the first reference, as all have at work
            assert torch.equal(batch.faces[0, :, 0], torch.cat(spy.faces)[window.start])


def test_nothing_under_erase_reaches_the_network_and_all_of_it_is_in_the_truth(people: Path) -> None:
    (window, _), config = windows_of(people).draw(np.random.default_rng(0)), CONFIGS["wav2lip"](**NARROW)
    other = dataclasses.replace(window, pictures=np.where(window.erase[..., None] > 0, 7, window.pictures))
    one, two = (face_batch([w], config, 0) for w in (window, other))
    assert torch.equal(one.faces, two.faces)
    assert (one.truth != two.truth).float().mean() > 0.1
    assert not one.faces[:, :3, :, 32:].any() and one.faces[:, :3, :, :32].all(1).float().mean() > 0.9
    assert 0 < one.mouth.mean() < 0.5 and one.truth.min() >= 0 and one.truth.max() <= 1


def test_every_frame_of_a_window_has_a_reference_of_its_own(people: Path) -> None:
    (window, _), config = windows_of(people).draw(np.random.default_rng(0)), CONFIGS["wav2lip"](**NARROW)
    known = face_batch([window], config, 0).faces[0, 3:]
    for t in range(FRAMES):
        box = boxes_of(window.reference_landmarks[t : t + 1, 17:48], window.pictures.shape[1])
        assert torch.equal(known[:, t], pictures_in(cut_out(window.references[t : t + 1], box, 64))[0])


def test_the_expert_hears_the_first_frame_at_its_own_offset(people: Path) -> None:
    (window, _), config = windows_of(people).draw(np.random.default_rng(0)), CONFIGS["wav2lip"](**NARROW)
    batch = face_batch([window], config.model_copy(update={"mel_offset": -2}), -2)
    assert torch.equal(batch.speech[0], batch.mel[0, 0])
    assert not torch.equal(face_batch([window], config, 0).speech, batch.speech)


@pytest.mark.parametrize("many", [None, 4])
def test_the_expert_compares_sounds_and_pictures_of_one_sample_and_knows_which_fit(
    people: Path, many: int | None
) -> None:
    """By default a pair of a sample, every other one wrong; with ``windows`` each sound with all pictures."""
    windows, config = windows_of(people), ExpertConfig(**NARROW, pairs=16, windows=many)
    batch = pair_batch(windows, config, np.random.default_rng(0))
    keys = [key for key in batch.keys for _ in range(many or 1)]
    rows = {row.key: row for row in windows.rows}
    shown, heard = [], []
    for number, key in enumerate(keys):
        row = rows[key]
        boxes = boxes_of(windows.reader.landmarks(row)[:, 17:48], row.size)
        faces = pictures_in(cut_out(windows.reader.frames(row, np.arange(row.n_frames)), boxes, 64)).transpose(0, 1)
        starts = range(row.n_frames - FRAMES + 1)
        shown += [[s for s in starts if torch.equal(expert_faces(faces[None, :, s : s + 5])[0], batch.faces[number])]]
        first = [int(3.2 * (row.frame_start + s)) - row.mel_start for s in starts]
        mel = torch.from_numpy(windows.reader.mel(row).T.copy())
        heard += [
            [s for s, c in zip(starts, first, strict=True) if torch.equal(mel[:, c : c + 16], batch.mel[number, 0])]
        ]
        assert len(shown[-1]) == 1 and heard[-1]
    compared = list(zip(batch.said.tolist(), batch.seen.tolist(), strict=True))
    for (said, seen), fits in zip(compared, batch.fits.tolist(), strict=True):
        assert keys[said] == keys[seen] and (shown[seen][0] in heard[said]) == fits
    if many is None:
        assert compared == [(n, n) for n in range(16)] and batch.fits.tolist() == [True, False] * 8
    else:
        assert len(batch.keys) == 4 and len(set(compared)) == 16 * 4 and int(batch.fits.sum()) == 16


def test_right_and_wrong_pairs_weigh_the_same(people: Path) -> None:
    trainee = opened_expert(people, pairs=8, windows=4)
    batch = drawn(trainee)
    terms = trainee.losses(batch)
    sounds, faces = trainee.module.network(batch.mel, batch.faces)
    cosines = torch.nn.functional.cosine_similarity(sounds[batch.said], faces[batch.seen]).clamp(0, 1)
    each = torch.nn.functional.binary_cross_entropy(cosines, batch.fits.float(), reduction="none")
    expected = (each[batch.fits].mean() + each[~batch.fits].mean()) / 2
    torch.testing.assert_close(terms["total"], expected, rtol=1e-3, atol=1e-4)
    assert int(batch.fits.sum()) == 8 and len(batch.fits) == 32
    with pytest.raises(ValueError, match="must be a multiple of windows"):
        ExpertConfig(pairs=8, windows=3)


def test_pairs_are_shown_in_a_mirror_half_of_the_time(people: Path) -> None:
    windows, plain, turned = windows_of(people, mirror=True), 0, 0
    rows, batch = (
        {row.key: row for row in windows.rows},
        pair_batch(windows, ExpertConfig(**NARROW, pairs=16), chance()),
    )
    for key, seen in zip(batch.keys, batch.faces, strict=True):
        row = rows[key]
        boxes = boxes_of(windows.reader.landmarks(row)[:, 17:48], row.size)
        faces = pictures_in(cut_out(windows.reader.frames(row, np.arange(row.n_frames)), boxes, 64)).transpose(0, 1)
        starts = range(row.n_frames - FRAMES + 1)
        known = torch.cat([expert_faces(faces[None, :, start : start + FRAMES]) for start in starts])
        plain += bool(((known - seen).abs().amax((1, 2, 3)) == 0).any())
        turned += bool(((known.flip(-1) - seen).abs().amax((1, 2, 3)) < 2.5 / 255).any())
    assert plain + turned == 16 and 3 < plain < 13


def chance() -> np.random.Generator:
    return np.random.default_rng(0)


# ---------------------------------------------------------------- losses


def test_cross_entropy_and_its_gradient_are_torch_s_up_to_the_ends() -> None:
    inside = torch.rand(50, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([0.0, 0.0, 1.0, 1.0, 1e-40, 1e-9, 1e-9, 1 - 2**-24, 1 - 2**-24])
    for chances in (inside, ends):
        fits = (torch.arange(len(chances)) % 2).float()
        ours, theirs = chances.clone().requires_grad_(), chances.clone().requires_grad_()
        loss, reference = cross_entropy(ours, fits), torch.nn.BCELoss()(theirs, fits)
        loss.backward()
        reference.backward()
        torch.testing.assert_close(loss, reference)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=0)
    over = torch.tensor([1.0000001, 1.0000001, -1e-7], requires_grad=True)  # where torch would stop
    cross_entropy(over, torch.tensor([1.0, 0.0, 1.0])).backward()
    assert over.grad[0] == 0 and over.grad[1] > 1e10 and over.grad[2] < -1e10
    assert torch.isnan(cross_entropy(torch.tensor([0.5, torch.nan]), 1.0))


def test_a_pair_that_is_far_apart_is_pulled_together() -> None:
    """Cosine 0: the public loss keeps its gradient there, one cut short would leave the pair for ever."""
    sound = torch.tensor([[1.0, 0.0]])
    faces = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = sync_loss(sound, faces)
    loss.backward()
    assert float(loss.detach()) == 100 and faces.grad[0, 0] < 0


def test_an_expert_without_an_opinion_has_a_loss_of_0_69() -> None:
    sounds = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    faces = torch.tensor([[0.5, math.sqrt(0.75)]]).expand(8, 2)
    assert float(sync_loss(sounds, faces, torch.tensor([1.0, 0.0] * 4))) == pytest.approx(CHANCE, abs=1e-6)
    assert pytest.approx(0.693, abs=5e-4) == CHANCE


@pytest.mark.parametrize("name", ["wav2lip", "wav2lip-gan"])
def test_the_total_is_the_public_sum_before_and_after_sync_counts(people: Path, expert: str, name: str) -> None:
    trainee = opened(people, name, expert=expert)
    sync, gan = trainee.config.sync, getattr(trainee.config, "gan", 0.0)
    assert (sync, gan) == ((0.01, 0.0) if name == "wav2lip" else (0.03, 0.07))
    for counts in (0, 1):
        trainee.module.in_sync.fill_(counts)
        terms = terms_of(trainee)
        learned = {"gan", "discriminator"} if gan else set()
        assert set(terms) == {"total", "reconstruction", "sync", *learned}
        expected = counts * sync * terms["sync"] + (1 - counts * sync - gan) * terms["reconstruction"]
        if gan:
            expected += gan * terms["gan"] + terms["discriminator"]
        assert terms["total"] == pytest.approx(expected, rel=1e-5)


def test_generator_discriminator_and_expert_learn_from_their_own_terms_alone(people: Path, expert: str) -> None:
    for term, by in {
        "reconstruction": "network",
        "sync": "network",
        "gan": "network",
        "discriminator": "judge",
    }.items():
        trainee = opened(people, "wav2lip-gan", expert=expert)
        trainee.module.in_sync.fill_(1)
        trainee.losses(drawn(trainee))[term].backward()
        parts = trainee.module
        assert (learns(parts.network), learns(parts.discriminator)) == (by == "network", by == "judge"), term
        assert trainee._expert is not None and not learns(trainee._expert)
        assert not any(p.requires_grad for p in trainee._expert.parameters()) and not trainee._expert.network.training
    assert not [name for name in trainee.module.state_dict() if "expert" in name]


def test_sync_counts_from_the_validation_on_that_finds_it_below_the_threshold(
    people: Path, expert: str, tmp_path: Path
) -> None:
    strict = opened(people, expert=expert, sync_below=1e-9)
    strict.module.eval()
    with torch.no_grad():
        told = strict.validate()
    assert told["sync"] > 0 and told["sync_weight"] == 0 and int(strict.module.in_sync) == 0

    trainee = opened(people, expert=expert, sync_below=20.0)
    train(trainee, settings(steps=3, validate_every=2), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for line, counts in zip(lines, (False, False, True), strict=True):
        weight = 0.01 * counts
        assert line["total"] == pytest.approx(weight * line["sync"] + (1 - weight) * line["reconstruction"], rel=1e-5)
    assert lines[1]["validation"]["sync_weight"] == 0.01

    trainee.config = trainee.config.model_copy(update={"sync_below": 1e-9})
    trainee.module.eval()
    with torch.no_grad():
        assert trainee.validate()["sync_weight"] == 0.01  # and stays on


@pytest.mark.parametrize(("name", "steps", "heard"), [("wav2lip", 4, 0), ("wav2lip-gan", 5, 1)])
def test_sync_is_off_where_it_was_part_of_the_loss_in_no_step_though_the_last_validation_would_let_it(
    people: Path, expert: str, tmp_path: Path, name: str, steps: int, heard: int
) -> None:
    """The first validation, after step 4, finds the expert's word good enough: from step 5 on it counts."""
    trainee = opened(people, name, expert=expert, sync_below=20.0)
    run = settings(steps=steps, validate_every=4, checkpoint_every=4)
    train(trainee, run, tmp_path / "run", quiet=True)
    (file,) = Wav2LipTrainableKind(name).export(trainee, tmp_path / "run")

    assert int(trainee.module.in_sync) == 1 and int(trainee.module.counted.sync) == heard
    off = () if heard else ("sync",)
    for place in (file, tmp_path / "run", tmp_path / "run" / f"step-{steps:06d}"):
        assert read(name, str(place))[0].losses_off == off, place
    about = read(name, str(tmp_path / "run" / "step-000004"))[0]
    assert about.losses_off == ("sync",) and about.training.teacher == "PATH"
    assert about.training.teacher_sha256 == file_sha256(expert)
    why = "it counts only after a validation that finds it below 20; there was none before the end"
    assert about.training.off_because == {"sync": why}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["description"]["losses_off"] == []


# ---------------------------------------------------------------- the expert that a generator learns from


def test_without_an_expert_sync_is_off_and_that_is_said(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for fields, way in ((NARROW, "expert=PATH"), ({"size": 96, "width": 0.0625}, "weights fetch lipsync-expert")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            trainee = opened(people, **fields)
        assert len(caplog.records) == 1 and "sync: off" in caplog.text and way in caplog.text
        assert "sync" not in trainee.losses(drawn(trainee))
        assert trainee.losses_off == ("sync",) and trainee.trained_against == ()
    assert trainee.describe()["losses_off"] == ["sync"]
    (file,) = Wav2LipTrainableKind("wav2lip").export(trainee, tmp_path)
    assert WAV2LIP.open(str(file)).losses_off == ("sync",)
    assert WAV2LIP.open(str(file)).training.off_because == {"sync": "no expert was there"}
    silent = opened(people, "wav2lip-gan", gan=0.0, sync=0.0)
    assert silent.losses_off == ("gan", "sync")
    assert {silent.config.why_off(term, taught=False) for term in silent.losses_off} == {"weight 0 in its settings"}


def test_the_expert_is_named_by_its_hash_and_not_by_where_it_lay(people: Path, expert: str, tmp_path: Path) -> None:
    trainee = opened(people, expert=expert)
    (file,) = Wav2LipTrainableKind("wav2lip").export(trainee, tmp_path)
    model, about = WAV2LIP.open(str(file)), trainee.describe()
    assert isinstance(model, Movable) and model.preset is None
    assert WAV2LIP.info(str(file), None)["checkpoint"]["trained_against"] == list(model.trained_against)
    assert isinstance(WAV2LIP, SelfDescribing) and WAV2LIP.info(None, "tiny")["parameters"]["total"] == 3_774_411
    assert model.trained_against == (fingerprint("wav2lip-expert", expert),) == tuple(about["trained_against"])
    assert model.losses_off == ("sync",) and about["config"]["expert"] is None  # it never counted
    assert about["taught_by"] == {"expert": "PATH", "command": None}  # a file that no run of ours has left
    assert expert not in json.dumps(about) and expert.encode() not in file.read_bytes()


def test_an_expert_of_another_size_or_kind_is_refused(people: Path, expert: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sees pictures of 64 px, the generator draws 96 px"):
        opened(people, expert=expert, size=96)
    (generator,) = Wav2LipTrainableKind("wav2lip").export(opened(people), tmp_path)
    with pytest.raises(WeightsError, match="is a checkpoint of wav2lip, not of wav2lip-expert"):
        opened(people, expert=str(generator))
    with pytest.raises(WeightsError, match="there is no checkpoint"):
        opened(people, expert=str(tmp_path / "nowhere"))


def test_the_public_expert_is_taken_where_it_is_here_and_fits(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(generators.weights, "find", lambda name: asked.append(name) or Path("lipsync_expert.pth"))

    def open_public(self: Any, checkpoint: str | None = None) -> FrozenExpert:
        asked.append(checkpoint)
        config = ExpertConfig(size=96, width=0.0625)
        return FrozenExpert(config, SyncExpert(config), "public")

    monkeypatch.setattr(type(WAV2LIP_SYNC_EXPERT), "open", open_public)
    trainee = opened(people, size=96)
    assert trainee.trained_against == ("public",) and asked == ["lipsync-expert", None]
    assert opened(people).trained_against == () and opened(people, size=96, sync=0.0).losses_off == ("sync",)


def test_the_expert_cuts_the_box_that_wav2lip_cuts(people: Path, expert: str) -> None:
    """Where g4g trains against it, pictures are whole crops; what it sees of them is what cut_out gives."""
    judge = WAV2LIP_SYNC_EXPERT.open(expert)
    assert judge.frames == FRAMES and judge.sha256 == fingerprint("wav2lip-expert", expert)
    rng, side = np.random.default_rng(0), 128
    y, x = np.mgrid[:side, :side]
    waves = [127 + 100 * np.sin(x / rng.uniform(8, 20) + y / rng.uniform(8, 20)) for _ in range(3 * FRAMES)]
    pictures = np.stack(waves, -1).astype(np.uint8).reshape(side, side, FRAMES, 3).transpose(2, 0, 1, 3)
    (window, _) = windows_of(people).draw(rng)
    pose = 2 * window.source_pose + 0.5
    speech = Speech(np.zeros(0, np.int16), window.mel, window.mel_start, int(window.clip_frames[0]) - window.start)
    places, heard = judge.prepare(pose, side, speech, window.start)
    assert places.dtype == heard.dtype == np.float32 and places.shape == (5, 2, 3) and heard.shape == (1, 80, 16)

    told: list[Any] = []
    judge.judged = lambda faces, mel: told.append((faces, mel)) or faces.sum()  # type: ignore[attr-defined]
    shown = g4g_pictures(pictures)[None].requires_grad_()
    judge.loss(shown, torch.from_numpy(places)[None], torch.from_numpy(heard)[None]).backward()
    boxes = boxes_of(pose, side)
    expected = pictures_in(cut_out(pictures, boxes, 64)).transpose(0, 1)[None]
    torch.testing.assert_close(told[0][0].detach(), expected, atol=1.01 / 255, rtol=0)
    reached = shown.grad[0].abs().sum(1) > 0
    for t, (x0, y0, x1, y1) in enumerate(boxes):
        inside = torch.zeros(side, side, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        around = torch.nn.functional.max_pool2d(inside[None].float(), 3, 1, 1)[0] > 0  # between two pixels
        assert not (reached[t] & ~around).any() and (reached[t] & inside).sum() > 0.5 * inside.sum()
    batch = face_batch([window], CONFIGS["wav2lip"](**NARROW), -1)
    np.testing.assert_array_equal(heard, batch.speech[0].numpy())


def test_the_expert_s_loss_falls_when_pictures_follow_its_gradient(expert: str) -> None:
    judge = WAV2LIP_SYNC_EXPERT.open(expert)
    rng = torch.Generator().manual_seed(0)
    mel = 8 * torch.rand(2, 1, 80, 16, generator=rng) - 4
    pictures = (torch.rand(2, 5, 3, 64, 64, generator=rng) * 2 - 1).requires_grad_()
    places = torch.eye(2, 3).expand(2, 5, 2, 3)
    before = judge.loss(pictures, places, mel)
    before.backward()
    moved = pictures.detach() - 1e-2 * pictures.grad / pictures.grad.abs().max()
    assert judge.loss(moved, places, mel) < before
    assert judge.loss(pictures.detach().flip(2), places, mel) != before.detach()


def test_g4g_can_be_trained_against_it(people: Path, expert: str) -> None:
    judge, config = WAV2LIP_SYNC_EXPERT.open(expert), G4GConfig(**SMALL, expert="wav2lip-expert")
    batches = Batches(Dataset.open(str(people)), ("train",), config, expert=judge)
    trainee = G4GTrainable("g4g", config, batches, judges=Judges(expert=judge))
    trainee.losses(drawn(trainee))["expert"].backward()
    assert learns(trainee.module.generator) and not learns(judge)
    assert trainee.trained_against == (judge.sha256,)


def test_without_weights_the_expert_says_how_to_get_them() -> None:
    with pytest.raises(WeightsError, match=r"lipsync_expert\.pth"):
        WAV2LIP_SYNC_EXPERT.open()


# ---------------------------------------------------------------- an expert that learns nothing


def test_a_loss_that_stays_at_0_69_or_above_is_stuck_and_one_that_passes_it_is_not() -> None:
    rng = np.random.default_rng(0)
    watch = Plateau(100)
    assert not any(watch.update(torch.tensor(loss)) for loss in np.linspace(0.9, 0.2, 200)) and not watch.stuck
    said = [watch.update(torch.tensor(CHANCE + rng.normal(0, 0.03))) for _ in range(300)]
    assert said.count(True) == 1 and watch.stuck
    for _ in range(100):
        assert not watch.update(torch.tensor(0.5))
    assert not watch.stuck
    for _ in range(200):
        watch.update(torch.tensor(0.9))
    assert watch.stuck


def test_a_stuck_expert_is_said_once_with_what_to_check_and_trains_on(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainee = opened_expert(people, patience=4)
    trainee.losses = lambda batch: stuck_losses(trainee)  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        train(trainee, settings(steps=8), tmp_path / "run", quiet=True)
    (record,) = [r for r in caplog.records if "0.69" in r.getMessage()]
    assert "in 4 steps" in record.getMessage() and "g4g-prep measures offsets" in record.getMessage()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["validation"]["stuck"] for line in lines if "validation" in line] == [0, 1, 1, 1]


def test_an_expert_that_a_short_run_leaves_stuck_says_so_wherever_it_goes(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A rate at which nothing is learned, in a run far shorter than the patience that is set."""
    trainee = opened_expert(people, windows=2)
    with caplog.at_level(logging.WARNING):
        train(trainee, settings(steps=6, learning_rate=1e-9, validate_every=6), tmp_path / "run", quiet=True)
    assert "in 3 steps" in caplog.text
    (file,) = EXPERT_TRAINABLE.export(trainee, tmp_path)
    for place in (file, tmp_path / "run" / "step-000006"):
        (finding,) = read("wav2lip-expert", str(place))[0].findings
        assert finding.startswith("stuck at 0.69: in its last 6 steps")
        assert EXPERT_TRAINABLE.info(str(place), None)["checkpoint"]["findings"] == [finding]
    caplog.clear()
    opened(people, expert=str(file))
    assert "stuck at 0.69" in caplog.text

    trainee.module.plateau.steps.fill_(0)
    (file,) = EXPERT_TRAINABLE.export(trainee, tmp_path)
    assert read("wav2lip-expert", str(file))[0].findings == ()
    assert "findings" not in trainee.describe()


def stuck_losses(trainee: ExpertTrainable) -> dict[str, Any]:
    total = CHANCE + 0 * sum(p.sum() for p in trainee.module.network.parameters())
    trainee._loss = total.detach()
    return {"total": total}


# ---------------------------------------------------------------- runs


def settings(**fields: Any) -> Settings:
    short = {"warmup": 0, "log_every": 1, "checkpoint_every": 2, "validate_every": 2, "learning_rate": 1e-3}
    return Settings(**{**SETTINGS, **short, "device": "cpu", **fields})


@pytest.mark.parametrize("name", [pytest.param("wav2lip-gan", marks=pytest.mark.slow), "wav2lip-expert"])
def test_a_resumed_run_is_the_run_that_was_never_stopped(
    people: Path, expert: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> Any:
        if name == "wav2lip-expert":
            return opened_expert(people, validation="test")
        return opened(people, name, expert=expert, sync_below=20.0, validation="test")

    for out in ("one", "two"):
        train(begin(), settings(steps=4), tmp_path / out, quiet=True)
    for file in (tmp_path / "two" / "step-000004").iterdir():
        file.unlink()
    again = begin()
    train(again, settings(steps=4), tmp_path / "two", resume=True, quiet=True)

    for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
        one, two = ((tmp_path / out / "step-000004" / file).read_bytes() for out in ("one", "two"))
        assert one == two, file
    lines = [json.loads((tmp_path / out / "log.jsonl").read_text().splitlines()[-1]) for out in ("one", "two")]
    for line in lines:
        del line["seconds"], line["waiting"]
    assert lines[0] == lines[1] and {"total", "validation"} <= set(lines[0])

    kind = EXPERT_TRAINABLE if name == "wav2lip-expert" else Wav2LipTrainableKind(name)
    (file,) = kind.export(again, tmp_path / "two")
    about, tensors = read(name, str(file))
    step_about, step_tensors = read(name, str(tmp_path / "two" / "step-000004"))
    assert about == step_about and about.config == again.config.model_copy(
        update={"expert": None} if name != "wav2lip-expert" else {}
    )
    assert int(again.module.counted.sync) == 2 if name != "wav2lip-expert" else about.losses_off == ()
    assert tensors.keys() == step_tensors.keys()
    assert all(torch.equal(tensors[key], step_tensors[key]) for key in tensors)
    if name == "wav2lip-expert":
        assert WAV2LIP_SYNC_EXPERT.open(str(tmp_path / "two")).sha256 == fingerprint(name, str(file))
    else:
        assert WAV2LIP_GAN.open(str(tmp_path / "two")).mel_offset == again.config.mel_offset


def test_batch_norm_counts_the_batch_in_training_and_what_it_has_counted_in_validation(people: Path) -> None:
    trainee = opened(people, validation="test")
    norm = next(m for m in trainee.module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    trainee.module.train()
    trainee.losses(drawn(trainee))
    counted = norm.running_mean.clone()
    assert int(norm.num_batches_tracked) == 1
    trainee.module.eval()
    with torch.no_grad():
        figures, shown = trainee.validate(), trainee.pictures()["faces"]
        assert figures == trainee.validate()
    assert torch.equal(norm.running_mean, counted)
    assert figures["score"] == figures["mouth_psnr"] > 0 and 0 < figures["mouth_l1"] < 2
    assert shown.dtype == np.uint8 and shown.shape == (4 * 64, 5 * 64, 3)


def test_people_of_the_validation_are_not_trained_on(people: Path) -> None:
    for make in (opened, opened_expert):
        with pytest.raises(DatasetError, match="is trained on and in the validation"):
            make(people, validation="train")
    with pytest.raises(DatasetError, match="a batch needs 9"):
        opened(people, clips=9)


def test_presets_and_settings_fit_their_kinds() -> None:
    kinds = [EXPERT_TRAINABLE, *(Wav2LipTrainableKind(name) for name in ("wav2lip", "wav2lip-gan"))]
    assert EXPERT_TRAINABLE.presets is EXPERT_PRESETS
    for kind in kinds:
        for preset in kind.presets.values():
            kind.Config(**preset["model"])
            assert Settings(**{**kind.settings, **preset.get("training", {})}).weight_decay == 0
    with pytest.raises(ValueError, match="must leave a share to L1"):
        CONFIGS["wav2lip-gan"](sync=0.6, gan=0.4)


def losses_of(trainee: Any, out: Path, steps: int, rate: float) -> list[float]:
    run = settings(steps=steps, learning_rate=rate, checkpoint_every=steps, validate_every=steps)
    train(trainee, run, out, quiet=True)
    return [json.loads(line)["total"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_short_training_learns_a_picture(tmp_path: Path) -> None:
    """One face for all frames of all people: soon it is known by heart."""
    face: list[bytes] = []

    def alike(sample: Sample) -> Sample:
        face.append(sample.frames[0])
        return dataclasses.replace(sample, frames=[face[0]] * len(sample.frames))

    trainee = opened(write_people(tmp_path / "people", edit=alike), mirror=False)
    totals = losses_of(trainee, tmp_path / "run", 12, 4e-3)
    assert np.mean(totals[-3:]) < 0.8 * np.mean(totals[:3]), totals


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_full_generator_learns_on_a_processor(tmp_path: Path) -> None:
    """Twenty steps at the public rate and size, on one batch of four windows of five frames: its loss falls."""
    people = write_people(tmp_path / "people", size=96)
    kind = Wav2LipTrainableKind("wav2lip")
    config = kind.Config(**{**GENERATOR_PRESETS["full"]["model"], "clips": 4})
    trainee = kind.open(config, TrainingData(str(people)), seed=0)
    batch = drawn(trainee)
    trainee.batch = lambda *_: batch  # type: ignore[method-assign]
    totals = losses_of(trainee, tmp_path / "generator", 20, 1e-4)
    assert sum(p.numel() for p in trainee.module.network.parameters()) > 36e6
    assert np.mean(totals[-5:]) < np.mean(totals[:5]), totals


@pytest.mark.parametrize(
    ("given", "noted"),
    [({"expert": "runs/wav2lip-expert"}, "tiny"), ({"clips": 4}, "tiny, changed"), ({}, "tiny")],
)
def test_an_expert_at_another_place_is_the_same_preset(given: dict[str, Any], noted: str) -> None:
    preset = CONFIGS["wav2lip"].model_validate(GENERATOR_PRESETS["tiny"]["model"])
    assert preset.model_copy(update=given).of_preset("tiny", preset).preset == noted
