"""LPIPS with seeded weights: equal to the package, and loaded from the registry's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.metrics.lpips import Lpips, mouth_box, untrained
from g4g_core import weights
from g4g_core.errors import WeightsError

pytest.importorskip("lpips")
pytest.importorskip("torchvision")


@pytest.fixture(scope="module")
def network() -> Any:
    import torch

    torch.manual_seed(0)
    return untrained("alex").eval()


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    return a, np.clip(a.astype(int) + rng.integers(-30, 30, a.shape), 0, 255).astype(np.uint8)


def test_distances_equal_the_package_s(network: Any, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    import torch

    a, b = pictures
    x, y = (torch.from_numpy(p).permute(0, 3, 1, 2).float() / 127.5 - 1 for p in (a, b))
    with torch.no_grad():
        due = network(x, y).reshape(-1).numpy()

    assert Lpips(network=network).distance(a, b) == pytest.approx(due, rel=1e-5)
    assert Lpips(network=network).distance(a, a) == pytest.approx(np.zeros(3), abs=1e-7)


def test_files_of_trunk_and_heads_give_the_network_they_were_saved_from(
    network: Any, pictures: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of the public files: torchvision's AlexNet, and ``linK.model.1.weight``."""
    import torch
    from torchvision.models import alexnet

    trunk = alexnet(weights=None)
    numbered = {name.split(".", 1)[1]: value for name, value in network.net.state_dict().items()}
    state = trunk.state_dict() | {f"features.{name}": value for name, value in numbered.items()}
    torch.save(state, tmp_path / "alexnet")
    heads = {
        name: value for name, value in network.state_dict().items() if name.startswith("lin") and "lins" not in name
    }
    torch.save(heads, tmp_path / "lpips-alex")
    monkeypatch.setattr(weights, "path", lambda name: tmp_path / name)

    assert Lpips("alex").distance(*pictures) == pytest.approx(Lpips(network=network).distance(*pictures), rel=1e-6)


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G4G_WEIGHTS", str(tmp_path))

    with pytest.raises(WeightsError, match="lpips-alex"):
        Lpips("alex")


def test_the_mouth_s_box_is_a_square_inside_the_picture_that_holds_it() -> None:
    mask = np.zeros((256, 256), bool)
    mask[200:250, 100:190] = True
    rows, columns = mouth_box(mask) or (slice(0), slice(0))

    assert rows.stop - rows.start == columns.stop - columns.start == 90
    assert max(rows.stop, columns.stop) <= 256 and min(rows.start, columns.start) >= 0
    assert mask[rows, columns].sum() == mask.sum()
    assert mouth_box(np.zeros((256, 256), bool)) is None
