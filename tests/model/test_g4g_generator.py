"""A trained G4G answering prompts: what it keeps, what it redraws, and which checkpoints it takes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_people import SMALL, write_people  # noqa: E402

from evaluation.prompts import prompts  # noqa: E402
from evaluation.shots import ShotReader, shots_of  # noqa: E402
from evaluation.work import _own_speech as own_speech  # noqa: E402
from g4g_core.errors import WeightsError  # noqa: E402
from g4g_core.protocols import ERASED, ClipPrompt, TrainingData  # noqa: E402
from g4g_core.provenance import tensors_sha256  # noqa: E402
from g4g_core.training import Settings, train  # noqa: E402
from g4g_model import generator  # noqa: E402
from g4g_model.checkpoint import read  # noqa: E402
from g4g_model.config import SETTINGS, VARIANTS  # noqa: E402
from g4g_model.generator import CHUNK, G4GModelKind  # noqa: E402
from g4g_model.networks.fusion import dilated, reach_of  # noqa: E402
from g4g_model.trainable import G4GKind  # noqa: E402
from prep.shards.index import Dataset  # noqa: E402

MODELS = {kind.name: kind for kind in vars(generator).values() if isinstance(kind, G4GModelKind)}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same people at 96 px."""
    return write_people(tmp_path_factory.mktemp("larger"), size=96)


def prompt_of(root: Path, number: int = 0) -> ClipPrompt:
    (shot,) = shots_of(Dataset.open(root), "test")
    with ShotReader(str(root), shot) as reader:
        return list(prompts(reader, own_speech(reader), 0))[number]


def exported(people: Path, folder: Path, name: str = "g4g", **fields: Any) -> str:
    """A checkpoint of a network whose motions are not all none and that draws most of a face, as after training."""
    trainee = G4GKind(name).open(VARIANTS[name](**{**SMALL, **fields}), TrainingData(str(people)), seed=0)
    with torch.no_grad():
        for motion in trainee.module.average.generator.deformation.motions:
            motion.weight.normal_(0, 0.3)
        trainee.module.average.generator.decoder.mixture[1].bias[-4:] = 4  # the part that is drawn
    folder.mkdir(exist_ok=True)
    return str(G4GKind(name).export(trainee, folder)[0])


def ring_of(erase: np.ndarray) -> np.ndarray:
    """bool [T, S, S]: ``erase``, dilated."""
    return np.asarray(dilated(torch.from_numpy(erase.astype(np.float32))[:, None])[:, 0].numpy() > 0)


def test_looking_a_model_up_and_hashing_its_checkpoint_loads_no_network(people: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from g4g_model.generator import G4G_MODEL; G4G_MODEL.fingerprint(sys.argv[1]); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, exported(people, tmp_path)], check=True)


def test_there_is_a_model_for_every_variant() -> None:
    assert set(MODELS) == set(VARIANTS)
    assert all(kind.needs_checkpoint and not kind.needs_weights for kind in MODELS.values())


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", ["64", "96"])
def test_all_of_erase_is_redrawn_and_the_rest_is_the_source(
    people: Path, larger: Path, tmp_path: Path, name: str, size: str
) -> None:
    prompt = prompt_of(people if size == "64" else larger)
    prompt = dataclasses.replace(prompt, source=prompt.source[:7], erase=prompt.erase[:7], pose=prompt.pose[:7])
    made = MODELS[name].open(exported(people, tmp_path, name)).generate(prompt)
    ring = prompt.erase > 0 if name == "g4g-no-fusion" else ring_of(prompt.erase)

    assert made.shape == prompt.source.shape and made.dtype == np.uint8
    np.testing.assert_array_equal(made[~ring], prompt.source[~ring])
    assert (made[prompt.erase > 0] == ERASED).all(-1).mean() < 0.01
    assert 0 < ring.mean() < 0.8


def test_an_answer_is_the_same_twice_in_any_company_and_without_the_grey(people: Path, tmp_path: Path) -> None:
    checkpoint, prompt = exported(people, tmp_path), prompt_of(people)
    made = MODELS["g4g"].open(checkpoint).generate(prompt)
    again = MODELS["g4g"].open(checkpoint).generate(prompt)
    assert len(made) == len(prompt.source) > CHUNK
    np.testing.assert_array_equal(made, again)

    other = prompt.source.copy()
    other[prompt.erase > 0] = 7
    np.testing.assert_array_equal(
        MODELS["g4g"].open(checkpoint).generate(dataclasses.replace(prompt, source=other)), made
    )

    first = {name: getattr(prompt, name)[:CHUNK] for name in ("source", "erase", "pose")}
    alone = MODELS["g4g"].open(checkpoint).generate(dataclasses.replace(prompt, **first))
    np.testing.assert_array_equal(alone, made[:CHUNK])


def test_speech_drives_what_is_redrawn(people: Path, tmp_path: Path) -> None:
    checkpoint, prompt = exported(people, tmp_path), prompt_of(people)
    model = MODELS["g4g"].open(checkpoint)
    other = model.generate(dataclasses.replace(prompt, mel=-prompt.mel))
    made = model.generate(prompt)
    assert (made != other)[prompt.erase > 0].mean() > 0.2
    np.testing.assert_array_equal(made[~ring_of(prompt.erase)], other[~ring_of(prompt.erase)])


def test_speech_that_begins_at_the_first_frame_and_ends_early_is_answered(people: Path, tmp_path: Path) -> None:
    model, prompt = MODELS["g4g"].open(exported(people, tmp_path)), prompt_of(people)
    assert prompt.frame_start == 0 and prompt.mel_start == 0
    short = dataclasses.replace(prompt, mel=prompt.mel[:20])
    assert model.generate(short).shape == prompt.source.shape


def test_a_checkpoint_says_what_it_is(people: Path, tmp_path: Path) -> None:
    path = exported(people, tmp_path, mel_offset=-1)
    model = MODELS["g4g"].open(path)
    assert (model.native_size, model.mel_offset) == (64, -1)
    assert model.trained_against == () and model.losses_off == ("perception",)
    about, _ = read(path)
    assert about.config == VARIANTS["g4g"](**SMALL, mel_offset=-1)


def test_the_file_the_run_and_its_last_step_are_one_model(people: Path, tmp_path: Path) -> None:
    trainee = G4GKind("g4g").open(VARIANTS["g4g"](**SMALL), TrainingData(str(people)), seed=0)
    run = Settings(**{**SETTINGS, "steps": 2, "log_every": 1, "warmup": 0, "learning_rate": 1e-3})
    train(trainee, run, tmp_path / "run", quiet=True)
    G4GKind("g4g").export(trainee, tmp_path / "run")
    kind, prompt = MODELS["g4g"], prompt_of(people)
    file, folder, step = (str(tmp_path / "run" / name) for name in ("g4g.safetensors", "", "step-000002"))
    made = [kind.open(path).generate(prompt) for path in (file, folder, step)]

    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])
    assert kind.fingerprint(file) == kind.fingerprint(folder) != kind.fingerprint(step)


def test_the_fingerprint_is_that_of_the_bytes(people: Path, tmp_path: Path) -> None:
    one, same, other = (
        exported(people, tmp_path / name, **fields)
        for name, fields in (("one", {}), ("same", {}), ("other", {"mel_offset": 0}))
    )
    kind = MODELS["g4g"]
    assert kind.fingerprint(one) != kind.fingerprint(other)  # the weights' motions are drawn at random
    Path(same).write_bytes(Path(one).read_bytes())
    assert kind.fingerprint(same) == kind.fingerprint(one)


def test_checkpoints_of_others_are_refused(people: Path, tmp_path: Path) -> None:
    kind = MODELS["g4g"]
    with pytest.raises(WeightsError, match="needs a checkpoint"):
        kind.open(None)
    with pytest.raises(WeightsError, match="there is no checkpoint"):
        kind.fingerprint(str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match="no exported network"):
        kind.open(str(tmp_path))
    with pytest.raises(WeightsError, match="a checkpoint of g4g-no-fusion, not of g4g"):
        kind.open(exported(people, tmp_path / "other", "g4g-no-fusion"))
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes(b"no tensors at all")
    with pytest.raises(WeightsError, match="no checkpoint of G4G"):
        kind.open(str(odd))
    from safetensors.torch import save

    odd.write_bytes(save({"x": torch.zeros(1)}, {"g4g": json.dumps({"format": 1, "name": "g4g"})}))
    with pytest.raises(WeightsError, match="no checkpoint of G4G"):
        kind.open(str(odd))


@pytest.mark.parametrize("edited", [{"step": 10**6}, {"settings": {"seed": 9}}, {"description": {}}, {"sha256": {}}])
def test_a_file_whose_facts_were_rewritten_is_refused(people: Path, tmp_path: Path, edited: dict[str, Any]) -> None:
    path = Path(exported(people, tmp_path))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["g4g"])
    assert MODELS["g4g"].open(str(path)).training.sha256 == hashlib.sha256(data).hexdigest()
    facts |= {key: {**facts[key], **value} if key == "settings" else value for key, value in edited.items()}
    facts["sha256"] = {"tensors": facts["sha256"].get("tensors", tensors_sha256(data)), **facts["sha256"]}
    header["__metadata__"]["g4g"] = json.dumps(facts)
    rewritten = json.dumps(header).encode()
    path.write_bytes(len(rewritten).to_bytes(8, "little") + rewritten + data[8 + length :])

    with pytest.raises(WeightsError, match=r"what it says of itself is not what was written|earlier version"):
        MODELS["g4g"].open(str(path))


def test_the_ring_of_a_resized_picture_fades_into_the_source() -> None:
    source, drawn = np.zeros((1, 64, 64, 3), np.uint8), np.full((1, 64, 64, 3), 200, np.uint8)
    erase = np.zeros((1, 64, 64), np.uint8)
    erase[:, 30:50, 20:40] = 1
    reach = reach_of(64)
    exact, faded = (generator.joined(source, erase, drawn, True, exact=exact)[0, 40, :, 0] for exact in (True, False))

    assert (exact[20 - reach : 40 + reach] == 200).all() and (exact[: 20 - reach] == 0).all()
    assert (faded[20:40] == 200).all() and (faded[: 20 - reach] == 0).all()
    assert (np.diff(faded[20 - reach - 1 : 21].astype(int)) > 0).any() and 0 < faded[19] < 200
