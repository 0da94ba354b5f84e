"""Networks that were trained elsewhere in G4G's loss: sync-a, and whatever is registered."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_people import SMALL, write_people  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from g4g_core import registry  # noqa: E402
from g4g_core.errors import G4GError, UsageError, WeightsError  # noqa: E402
from g4g_core.protocols import Speech, TrainingData  # noqa: E402
from g4g_core.provenance import file_sha256  # noqa: E402
from g4g_core.training import Turn  # noqa: E402
from g4g_model.checkpoint import read  # noqa: E402
from g4g_model.config import G4GConfig  # noqa: E402
from g4g_model.trainable import G4GKind, G4GTrainable  # noqa: E402
from prep.records import SAMPLES_PER_FRAME  # noqa: E402
from prep.stages.geometry import MEAN_FACE  # noqa: E402
from prep.sync_expert import gradient  # noqa: E402
from prep.sync_expert.infer import central, fingerprint, load  # noqa: E402
from prep.sync_expert.mouths import mouth_patches  # noqa: E402


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


def opened(people: Path, **fields: Any) -> G4GTrainable:
    return G4GKind("g4g").open(G4GConfig(**{**SMALL, **fields}), TrainingData(str(people)), seed=0)


def smooth_film(frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose brightness moves, and points of a face in their middle."""
    rows, columns = np.mgrid[:size, :size] / size
    film = [128 + 80 * np.sin(6 * columns + t) * np.cos(5 * rows - 0.3 * t) for t in range(frames)]
    pictures = np.repeat(np.round(np.stack(film))[..., None], 3, -1).astype(np.uint8)
    points = MEAN_FACE * (0.3 * size) + (0.5 * size, 0.35 * size) + np.linspace(0, 3, frames)[:, None, None]
    return pictures, points.astype(np.float32)


def test_sync_a_in_torch_reads_what_it_reads_in_numpy() -> None:
    expert, plain = gradient.SYNC_A_EXPERT.open(), load("sync-a")
    rng = np.random.default_rng(0)
    pictures, points = smooth_film(15, 128)
    patches = mouth_patches(pictures, points)
    windows = np.stack([central(patches)[start : start + 9] for start in range(7)])
    np.testing.assert_allclose(
        expert.see(torch.from_numpy(windows / np.float32(255))).numpy(), plain.see(patches), atol=1e-5
    )
    pcm = np.round(3000 * rng.normal(size=15 * SAMPLES_PER_FRAME)).astype(np.int16)
    speech = Speech(pcm, np.zeros((48, 80), np.float32), 0, 0)
    expected = (plain.see(patches) * plain.hear(pcm)).sum(1)
    shown = torch.from_numpy(np.moveaxis(pictures, -1, 1) / np.float32(127.5) - 1)
    for start in range(7):
        window = slice(start, start + 9)
        told = expert.prepare(points[window, 17:48], 128, speech, start)
        loss = expert.loss(shown[None, window], *(torch.from_numpy(array)[None] for array in told))
        assert float(loss) == pytest.approx(1 - expected[start], abs=0.03)  # the mouths are cut out in two ways


def test_the_expert_teaches_the_generator_and_is_noted(people: Path, tmp_path: Path) -> None:
    trainee = opened(people, expert="sync-a")
    batch = trainee.batch(np.random.default_rng(0), Turn())
    assert batch.expert is not None and batch.expert.frames.shape[:2] == (2, 9)
    torch.testing.assert_close(batch.expert.frames[:, 2:7], batch.truth)
    terms = trainee.losses(batch)
    terms["expert"].backward()
    decoder = trainee.module.generator.decoder
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in decoder.parameters())
    assert all(p.grad is None for p in trainee.module.mouth.parameters())

    assert trainee.describe()["trained_against"] == [fingerprint("sync-a")]
    (file,) = G4GKind("g4g").export(trainee, tmp_path)
    assert read(str(file))[0].trained_against == (fingerprint("sync-a"),)
    assert not [name for name in trainee.module.state_dict() if "visual" in name]


def test_an_expert_changes_no_other_term_and_weight_nought_leaves_it_out(people: Path) -> None:
    trainee, without = opened(people, expert="sync-a"), opened(people, expert="sync-a", weights={"expert": 0.0})
    batch = trainee.batch(np.random.default_rng(0), Turn())
    terms, plain = trainee.losses(batch), opened(people).losses(batch)
    assert {name for name in terms if name not in plain} == {"expert"}
    assert all(torch.equal(terms[name], plain[name]) for name in plain if name != "total")
    added = (terms["total"] - plain["total"]).item()
    assert added == pytest.approx(0.3 * terms["expert"].item(), rel=1e-3)
    assert without.batch(np.random.default_rng(0), Turn()).expert is None
    assert without.describe()["trained_against"] == []


def test_the_expert_waits_until_the_face_has_settled(people: Path) -> None:
    trainee = opened(people, expert="sync-a", settle=5)
    assert float(trainee.losses(trainee.batch(np.random.default_rng(0), Turn()))["expert"]) == 0


@pytest.fixture(scope="module")
def other_sync_a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a sync-a of other weights."""
    folder = tmp_path_factory.mktemp("runs")
    save_file({name: array + 0.01 for name, array in load("sync-a").weights.items()}, folder / "sync-a.safetensors")
    return folder


def test_an_expert_of_ones_own_is_used_and_its_weights_are_noted(people: Path, other_sync_a: Path) -> None:
    file = other_sync_a / "sync-a.safetensors"
    trainee, usual = opened(people, expert=f"sync-a:{other_sync_a}"), opened(people, expert="sync-a")
    assert trainee.trained_against == (file_sha256(str(file)),) != usual.trained_against
    batch = trainee.batch(np.random.default_rng(0), Turn())
    with torch.no_grad():
        assert float(trainee.losses(batch)["expert"]) != float(usual.losses(batch)["expert"])
    packaged = Path(gradient.__file__).parent / "data" / "sync-a.safetensors"
    assert gradient.SYNC_A_EXPERT.open(str(packaged)).sha256 == fingerprint("sync-a")


def test_where_the_expert_lay_changes_nothing_that_is_written(people: Path, other_sync_a: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.safetensors"
    shutil.copyfile(other_sync_a / "sync-a.safetensors", file)
    written = []
    for number, place in enumerate((other_sync_a, file)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (exported,) = G4GKind("g4g").export(opened(people, expert=f"sync-a:{place}"), folder)
        written.append(exported.read_bytes())
    assert written[0] == written[1]
    about, _ = read(str(exported))
    assert about.config.expert == "sync-a" and about.trained_against == (file_sha256(str(file)),)


@pytest.mark.parametrize(
    ("expert", "error", "says"),
    [
        ("sync-c", UsageError, r"there is no sync expert 'sync-c'(?s:.)*sync-a"),
        ("sync-c:runs/x", UsageError, r"there is no sync expert 'sync-c'(?s:.)*sync-a"),
        ("sync-a:", UsageError, "expert=sync-a: names no path"),
        ("sync-a:runs/nowhere", WeightsError, "the weights of sync-a cannot be read: runs/nowhere"),
        ("sync-a:{data}/sync-b.safetensors", WeightsError, "these are no weights of sync-a"),
        ("sync-a:{data}/MODEL_CARD.md", WeightsError, "the weights of sync-a cannot be read"),
        ("wav2lip-expert:runs/nowhere", WeightsError, "there is no checkpoint runs/nowhere"),
    ],
)
def test_an_expert_that_is_not_there_is_refused_in_one_line(
    people: Path, expert: str, error: type[G4GError], says: str
) -> None:
    with pytest.raises(error, match=says) as refused:
        opened(people, expert=expert.format(data=Path(gradient.__file__).parent / "data"))
    assert "\n" not in refused.value.what


class Watcher:
    """A sync expert that keeps what it is shown."""

    sha256, frames = "1" * 64, 7

    def open(self, checkpoint: str | None = None) -> Watcher:
        self.checkpoint = checkpoint
        return self

    def to(self, device: Any) -> Watcher:
        self.device = device
        return self

    def prepare(self, pose: np.ndarray, size: int, speech: Speech, start: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full(1, start, np.float32), pose.astype(np.float32)

    def loss(self, pictures: Any, places: Any, heard: Any) -> Any:
        self.shown, self.starts = pictures, places
        return pictures.mean() + 2


def offered(monkeypatch: pytest.MonkeyPatch, expert: Any) -> None:
    monkeypatch.setattr(registry, "load", lambda group, name: {(registry.SYNC_EXPERTS, "watcher"): expert}[group, name])


def test_an_expert_sees_drawn_frames_between_true_ones(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expert = Watcher()
    offered(monkeypatch, expert)
    trainee = opened(people, expert="watcher")
    batch = trainee.batch(np.random.default_rng(0), Turn())
    terms = trainee.losses(batch)
    assert batch.expert is not None
    assert expert.device == batch.truth.device
    assert torch.equal(expert.shown[:, [0, 6]], batch.expert.frames[:, [0, 6]])
    picture = trainee.module.generator(batch.inputs).picture.view(2, 5, 3, 64, 64)
    torch.testing.assert_close(expert.shown[:, 1:6], picture)
    assert not torch.equal(picture, batch.truth)
    assert torch.equal(expert.starts.flatten(), batch.starts[:, 0] - 1.0)
    assert float(terms["expert"].detach()) == pytest.approx(float(expert.shown.detach().mean()) + 2)


@pytest.mark.parametrize(("asked", "checkpoint"), [("watcher", None), ("watcher:C:/my runs/a", "C:/my runs/a")])
def test_all_after_the_first_colon_is_the_path(
    people: Path, monkeypatch: pytest.MonkeyPatch, asked: str, checkpoint: str | None
) -> None:
    expert = Watcher()
    offered(monkeypatch, expert)
    trainee = opened(people, expert=asked)
    assert expert.checkpoint == checkpoint
    assert trainee.describe()["config"]["expert"] == "watcher"


@pytest.mark.parametrize("frames", [3, 6])
def test_an_expert_of_windows_that_do_not_fit_is_refused(
    people: Path, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    expert = Watcher()
    expert.frames = frames  # type: ignore[misc]
    offered(monkeypatch, expert)
    with pytest.raises(UsageError, match=f"watcher sees {frames} frames"):
        opened(people, expert="watcher")


class Means:
    """An identity network that knows people by their mean colour."""

    sha256 = "0" * 64

    def open(self) -> Means:
        return self

    def to(self, device: Any) -> Means:
        self.device = device
        return self

    def embed(self, pictures: Any) -> Any:
        return torch.nn.functional.normalize(pictures.mean((2, 3)) + torch.tensor([2.0, 0.0, 0.0]), dim=1)


def test_a_registered_identity_network_takes_part(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Means()
    monkeypatch.setattr(
        registry, "load", lambda group, name: {(registry.IDENTITY_NETWORKS, "means"): network}[group, name]
    )
    trainee = opened(people, identity="means")
    batch = trainee.batch(np.random.default_rng(0), Turn())
    terms, plain = trainee.losses(batch), opened(people).losses(batch)
    assert {name for name in terms if name not in plain} == {"identity"}
    assert network.device == batch.truth.device
    picture = trainee.module.generator(batch.inputs).picture
    known = Means().embed(batch.inputs.references.flatten(0, 1)).view(2, 5, 3).mean(1)
    known = known / known.norm(dim=1, keepdim=True)
    cosines = (Means().embed(picture).view(2, 5, 3) * known[:, None]).sum(-1)
    assert float(terms["identity"]) == pytest.approx(float((1 - cosines).mean()), rel=1e-4)
    assert float(terms["total"] - plain["total"]) == pytest.approx(0.5 * float(terms["identity"]), abs=1e-4)
