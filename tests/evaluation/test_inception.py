"""Inception features: those of pytorch-fid, whatever the batch and the order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
reference = pytest.importorskip("pytorch_fid.inception")

from evaluation.metrics.frechet import frechet_distance  # noqa: E402
from evaluation.metrics.inception import Inception  # noqa: E402
from g4g_core import weights  # noqa: E402
from g4g_core.errors import UsageError, WeightsError  # noqa: E402


@pytest.fixture(scope="module")
def network() -> Any:
    """FID's Inception with random weights and statistics, as ``fid_inception_v3`` builds it but for the download."""
    torch.manual_seed(0)
    blank: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load_state_dict_from_url", lambda *_, **__: blank)
        patch.setattr("torchvision.models.inception.Inception3.load_state_dict", lambda *_: None)
        network = reference.fid_inception_v3()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.eval()


@pytest.fixture(scope="module")
def inception(network: Any) -> Inception:
    return Inception(network)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """uint8 [12, 96, 80, 3]: smooth coloured noise, the second half another kind than the first."""
    rng = np.random.default_rng(0)
    found = [cv2.GaussianBlur(rng.normal(size=(96, 80, 3)), (0, 0), 3 if i < 6 else 8) for i in range(12)]
    return np.stack([(127 + 70 * picture / picture.std()).clip(0, 255).astype(np.uint8) for picture in found])


@pytest.fixture(scope="module")
def theirs(network: Any, pictures: np.ndarray) -> np.ndarray:
    """pytorch-fid's features of the pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "fid_inception_v3", lambda: network)
        model = reference.InceptionV3([reference.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)[0]
    return np.asarray(found[:, :, 0, 0].numpy())


@pytest.fixture(scope="module")
def ours(inception: Inception, pictures: np.ndarray) -> np.ndarray:
    return inception.features(pictures)


def test_features_are_pytorch_fids(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == (12, 2048)
    assert (theirs > 0).mean() > 0.5
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_fid_is_pytorch_fids(ours: np.ndarray, theirs: np.ndarray) -> None:
    expected = frechet_distance(theirs[:6], theirs[6:])
    assert expected > 0
    assert frechet_distance(ours[:6], ours[6:]) == pytest.approx(expected, rel=1e-4)


def test_features_do_not_depend_on_order_or_batch(
    inception: Inception, pictures: np.ndarray, ours: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = 1e-5 * np.abs(ours).max()
    monkeypatch.setattr(inception, "_batch", 5)
    assert np.abs(inception.features(pictures[::-1])[::-1] - ours).max() < noise
    assert np.abs(inception.features(pictures[3:4]) - ours[3]).max() < noise
    assert np.abs(ours[3] - ours[4]).max() > 100 * noise


def test_colours_and_size_of_pictures_matter(inception: Inception, pictures: np.ndarray, ours: np.ndarray) -> None:
    half = np.stack([cv2.resize(picture, (40, 48), interpolation=cv2.INTER_AREA) for picture in pictures[:1]])
    for other in (pictures[:1, ..., ::-1], half):
        assert np.abs(inception.features(other) - ours[:1]).max() > 0.01 * np.abs(ours[:1]).max()


def test_bf16_is_near(network: Any, pictures: np.ndarray, ours: np.ndarray) -> None:
    some = [0, 1, 6, 7]
    near, exact = Inception(network, precision="bf16").features(pictures[some]), ours[some]
    assert near.dtype == np.float32
    assert 0 < np.linalg.norm(near - exact) < 0.03 * np.linalg.norm(exact)
    assert frechet_distance(near[:2], near[2:]) == pytest.approx(frechet_distance(exact[:2], exact[2:]), rel=0.05)


def test_no_pictures_have_no_features(inception: Inception) -> None:
    assert inception.features(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 2048)


def test_pictures_of_another_type_or_shape_are_refused(inception: Inception, pictures: np.ndarray) -> None:
    for wrong in (pictures / 255, pictures[0], pictures.transpose(0, 3, 1, 2)):
        with pytest.raises(UsageError, match="Inception sees uint8"):
            inception.features(wrong)


def test_missing_weights_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(WeightsError, match="g4g-prep weights fetch inception-fid"):
        Inception()


def test_the_registrys_file_is_loaded_whole(
    network: Any, pictures: np.ndarray, ours: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(weights, "path", lambda _: tmp_path / "weights.pth")
    assert np.array_equal(Inception().features(pictures[:8]), ours[:8])


@pytest.mark.parametrize("change", ["missing", "surplus"])
def test_weights_of_another_network_are_refused(network: Any, change: str) -> None:
    state = dict(network.state_dict())
    if change == "missing":
        del state["Mixed_6c.branch7x7_2.bn.bias"]
    else:
        state["AuxLogits.conv0.conv.weight"] = torch.zeros(1)
    named = "there is no Mixed_6c.branch7x7_2.bn.bias" if change == "missing" else "there is also AuxLogits"
    with pytest.raises(WeightsError, match=named):
        Inception(type("Other", (), {"state_dict": lambda _: state})())  # type: ignore[arg-type]
