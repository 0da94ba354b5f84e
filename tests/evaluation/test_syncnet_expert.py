"""SyncNet as a loss: it reads what LSE reads, its word reaches pixels, and LSE does not rank what it has taught."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("python_speech_features")
if importlib.util.find_spec("syncnet_python") is None:
    pytest.skip("syncnet-python is not installed", allow_module_level=True)

from evaluation import models  # noqa: E402
from evaluation.harness import Plan  # noqa: E402
from evaluation.metrics import METRICS  # noqa: E402
from evaluation.metrics.lse import lip_frames  # noqa: E402
from evaluation.metrics.syncnet import SyncNet, mfcc, untrained  # noqa: E402
from evaluation.metrics.syncnet_expert import SYNCNET_EXPERT, FrozenSyncNet  # noqa: E402
from evaluation.protocols import RECONSTRUCTION  # noqa: E402
from evaluation.results import Results  # noqa: E402
from evaluation.shots import Shot  # noqa: E402
from evaluation.summary import summarise  # noqa: E402
from g4g_core import registry, weights  # noqa: E402
from g4g_core.errors import MissingDependency, UsageError, WeightsError  # noqa: E402
from g4g_core.protocols import Speech  # noqa: E402
from prep.records import SAMPLES_PER_FRAME  # noqa: E402

FRAMES = 12
WINDOWS = (0, 3, FRAMES - 6)
"""First frames; the last is the last window whose 20 MFCCs all lie in the sound."""


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """uint8 [12, 224, 224, 3] RGB: waves of three colours that move."""
    rows, columns = np.mgrid[:224, :224] / 224
    phases = np.arange(FRAMES)[:, None, None, None] * (0.9, 0.5, 1.3) + (0, 2, 4)
    waves = np.sin(9 * columns[..., None] + phases) * np.cos(7 * rows[..., None] - 0.4 * phases)
    return np.round(127 + (60, 90, 40) * waves).astype(np.uint8)


@pytest.fixture(scope="module")
def pcm() -> np.ndarray:
    """int16 [12 * 640]: a tone a frame, and some noise."""
    rng = np.random.default_rng(0)
    count = FRAMES * SAMPLES_PER_FRAME
    tones = np.sin(np.arange(count) * rng.uniform(0.02, 0.4, FRAMES).repeat(SAMPLES_PER_FRAME))
    return np.asarray(5000 * tones + 50 * rng.normal(size=count), np.int16)


@pytest.fixture(scope="module")
def network(film: np.ndarray, pcm: np.ndarray) -> Any:
    """Random weights, with statistics of normalisation that were measured on film and sound and then disturbed."""
    torch.manual_seed(0)
    network = untrained()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
    clips = torch.from_numpy(film[..., ::-1].astype(np.float32)).permute(3, 0, 1, 2).unfold(1, 5, 3)
    sound = torch.from_numpy(mfcc(pcm).astype(np.float32)).unfold(0, 20, 8)[:, None]
    with torch.no_grad():
        network.forward_lip(clips.permute(1, 0, 4, 2, 3))
        network.forward_aud(sound)
    for norm in norms:
        norm.running_mean *= torch.empty_like(norm.running_mean).uniform_(0.8, 1.2)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
    return network.eval()


@pytest.fixture(scope="module")
def expert(network: Any) -> FrozenSyncNet:
    return FrozenSyncNet(network, "1" * 64)


@pytest.fixture(scope="module")
def known(network: Any, film: np.ndarray, pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What LSE compares: features of all windows."""
    syncnet = SyncNet(network)
    return syncnet.see(lip_frames(film)), syncnet.hear(pcm)


def shown(film: np.ndarray, starts: tuple[int, ...]) -> Any:
    """Windows of a film as a generator draws them: float32 [n, 5, 3, S, S] in [-1, 1]."""
    windows = np.stack([film[start : start + 5] for start in starts])
    return torch.from_numpy(np.moveaxis(windows, -1, 2).astype(np.float32)) / 127.5 - 1


def told(expert: FrozenSyncNet, pcm: np.ndarray, starts: tuple[int, ...]) -> tuple[Any, Any]:
    """Places and sound of windows, stacked as a batch has them."""
    speech = Speech(pcm, np.zeros((48, 80), np.float32), 0, 0)
    found = [expert.prepare(np.zeros((5, 31, 2)), 224, speech, start) for start in starts]
    places, heard = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*found, strict=True))
    return places, heard


# ---- it reads what LSE reads


def test_it_sees_and_hears_what_lse_compares(
    expert: FrozenSyncNet, known: tuple[np.ndarray, np.ndarray], film: np.ndarray, pcm: np.ndarray
) -> None:
    starts = list(WINDOWS)
    places, heard = told(expert, pcm, WINDOWS)
    pictures = shown(film, WINDOWS)
    seen, sound = expert.see(pictures).numpy(), expert.hear(heard).numpy()
    assert len(known[1]) == WINDOWS[-1] + 1
    np.testing.assert_allclose(seen, known[0][starts], atol=1e-4 * np.abs(known[0]).max())
    np.testing.assert_allclose(sound, known[1][starts], atol=1e-4 * np.abs(known[1]).max())
    cosines = [np.dot(v, a) / np.linalg.norm(v) / np.linalg.norm(a) for v, a in zip(seen, sound, strict=True)]
    assert float(expert.loss(pictures, places, heard)) == pytest.approx(1 - np.mean(cosines), abs=1e-5)
    assert np.ptp(cosines) > 1e-3  # it tells these windows apart


class Mirror:
    """A network that gives back what it is shown."""

    def eval(self) -> Mirror:
        return self

    def requires_grad_(self, wanted: bool) -> Mirror:
        return self

    def forward_lip(self, windows: Any) -> Any:
        return windows


@pytest.mark.parametrize("size", [64, 256])
def test_crops_of_other_sizes_are_what_lse_sees_but_for_the_rounding_of_cv2(
    expert: FrozenSyncNet, network: Any, film: np.ndarray, size: int
) -> None:
    """Less than a level apart; of a network with random weights that turns features by some two degrees."""
    crops = np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in film[:5]])
    pictures = shown(crops, (0,))
    frames = FrozenSyncNet(Mirror(), "1" * 64).see(pictures)[0].permute(1, 2, 3, 0).numpy()
    assert np.abs(frames - lip_frames(crops)).max() < 1
    expected = torch.from_numpy(SyncNet(network).see(lip_frames(crops)))
    alike = torch.nn.functional.cosine_similarity
    assert float(alike(expert.see(pictures), expected)) > 0.998
    assert float(alike(expert.see(pictures.flip(2)), expected)) < 0.9  # red and blue changed places


def test_the_last_window_of_a_sample_is_heard_to_its_end(expert: FrozenSyncNet, pcm: np.ndarray) -> None:
    _, heard = told(expert, pcm, (FRAMES - 5, FRAMES - 6))
    steps = mfcc(pcm).T[:, 4 * (FRAMES - 5) :]
    assert heard.shape == (2, 1, 13, 20)
    np.testing.assert_allclose(heard[0, 0, :, :18], steps[:, :18], rtol=1e-5)
    assert torch.isfinite(heard).all()


# ---- its word reaches pixels, and nothing reaches it


def test_its_gradient_is_the_slope_of_the_loss(network: Any, film: np.ndarray, pcm: np.ndarray) -> None:
    exact = FrozenSyncNet(copy.deepcopy(network).double().train(), "1" * 64)
    before = {name: value.clone() for name, value in exact._network.state_dict().items()}
    places, heard = told(exact, pcm, (3,))
    pictures = shown(film[:, ::4, ::4], (3,)).double().requires_grad_()
    exact.loss(pictures, places, heard.double()).backward()
    assert pictures.grad is not None and bool((pictures.grad != 0).flatten(3).any(-1).all())
    direction = pictures.grad / pictures.grad.norm()
    step = 1e-4
    with torch.no_grad():
        ends = [float(exact.loss(pictures + sign * step * direction, places, heard.double())) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(pictures.grad.norm()), rel=1e-3)
    assert all(parameter.grad is None for parameter in exact._network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in exact._network.state_dict().items())


# ---- with and without its weights


def test_it_opens_with_the_weights_of_the_registry_and_notes_their_hash(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.metrics.syncnet_expert.trained", lambda: network)
    monkeypatch.setattr(weights, "verify", {"syncnet-v2": "abc"}.__getitem__)
    assert SYNCNET_EXPERT.open().sha256 == "abc"


def test_without_weights_it_says_how_to_get_them() -> None:
    with pytest.raises(WeightsError, match=r"syncnet_v2\.model(?s:.)*weights fetch syncnet-v2"):
        SYNCNET_EXPERT.open()


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"g4g\[lse\]"):
        SYNCNET_EXPERT.open()


def test_weights_of_ones_own_are_refused() -> None:
    with pytest.raises(UsageError, match="syncnet cannot be opened with runs/mine"):
        SYNCNET_EXPERT.open("runs/mine")


def test_to_look_it_up_imports_neither_torch_nor_the_network() -> None:
    declared = next(
        line
        for line in (Path(__file__).parents[2] / "pyproject.toml").read_text().splitlines()
        if line.startswith('syncnet = "')
    )
    code = f"""
import importlib.metadata, sys
expert = importlib.metadata.EntryPoint("syncnet", {declared.split('"')[1]!r}, "g4g.sync_experts").load()
print(type(expert).__name__, *{{"torch", "syncnet_python", "python_speech_features"}}.intersection(sys.modules))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["SyncNetExpert"]


# ---- what it has taught


def test_a_model_that_it_taught_is_marked_and_not_ranked_by_lse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge's metrics still rank it; a model of another teacher is ranked by all."""
    against = {"pupil": (weights.get("syncnet-v2").sha256,), "other": (weights.get("lipsync-expert").sha256,)}

    def load(group: str, name: str) -> Any:
        generator = types.SimpleNamespace(trained_against=against[name], losses_off=(), preset=None)
        return types.SimpleNamespace(
            needs_checkpoint=False, needs_weights=(), fingerprint=lambda _: name, open=lambda _: generator
        )

    monkeypatch.setattr(registry, "names", lambda group: sorted(against))
    monkeypatch.setattr(registry, "load", load)
    pupil, other = (model for model in models.models_of(["pupil", "other"]) if model.kind == "generator")
    assert pupil.marks == ("trained against syncnet-v2",) and other.marks == ()
    assert models.Model.from_json(pupil.to_json()) == pupil
    taught = {name for name, metric in METRICS.items() if pupil.is_taught_by(metric)}
    assert taught == {name for name in METRICS if name.startswith(("lse_", "av_offset@"))}
    assert not any(other.is_taught_by(metric) for metric in METRICS.values())


def test_lse_ranks_the_others_and_shows_its_pupil_without_a_rank() -> None:
    rivals = [models.Model(name, "generator", name, fingerprint=name) for name in ("alpha", "beta")]
    pupil = models.Model("pupil", "generator", "pupil", fingerprint="pupil", taught_by=("syncnet-v2",))
    about = {"redistributable": False, "yaw_max_abs": 3, "face_px": 90, "brightness": 100, "duration": 2, "shot": 0}
    shots = [
        Shot(f"clip{n}-000", "lrs2", f"clip{n}", f"person{n}", "test", "test-0", "sha", ((f"clip{n}-000", 0, 50),), 96,
             f"print {n}", about)
        for n in range(8)
    ]  # fmt: skip
    metrics = ["lse_d@crop1", "sync_score@judge"]
    plan = Plan(
        root="shards", run="run", protocol=RECONSTRUCTION, seed=0, timeout=1.0, models=[pupil, *rivals], shots=shots,
        excluded={}, speaker={shot.key: shot for shot in shots}, measures=[], metrics=metrics, unavailable={},
        precision="fp32", dubbing={}, videos=None,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    values = {(metric, model.name, shot.key): float(rng.normal()) for metric in metrics for model in plan.models
              for shot in shots}  # fmt: skip
    results = Results(plan, {}, values, {}, {}, {}, {})
    summary = summarise(results, on_failure="drop-everywhere", pooled=False, precision="fp32", split="test")
    rows = summary["tables"]["lrs2"]["rows"]
    ranked = {metric: {name for name in rows if "rank" in rows[name]["cells"][metric]} for metric in metrics}
    assert ranked == {"lse_d@crop1": {"alpha", "beta"}, "sync_score@judge": {"alpha", "beta", "pupil"}}
    assert rows["pupil"]["cells"]["lse_d@crop1"]["mean"] is not None
