"""Figures and pictures of the validation, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_people import SMALL, write_people  # noqa: E402

from g4g_core.protocols import TrainingData  # noqa: E402
from g4g_model import data, validation  # noqa: E402
from g4g_model.config import FRAMES, G4GConfig  # noqa: E402
from g4g_model.data import Batches, G4GBatch  # noqa: E402
from g4g_model.g4g import Drawn  # noqa: E402
from g4g_model.trainable import G4GKind, G4GTrainable  # noqa: E402

SIDE = 8


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the generator of these tests is told: what it shall draw."""

    picture: Any


class Painter(torch.nn.Module):
    """A generator that draws what it is told, and an audio encoder that looks sounds up."""

    def __init__(self, sounds: Any) -> None:
        super().__init__()
        self.audio = Looked(sounds)

    def forward(self, inputs: Shown) -> Drawn:
        return Drawn([], inputs.picture)


class Looked(torch.nn.Module):
    """An encoder: what is 0.1 n bright or loud has the n-th row of a table as its feature."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(table, dtype=torch.float32))

    def forward(self, x: Any) -> Any:
        return self.table[(10 * x.flatten(1).mean(1)).round().long()]


class Networks(torch.nn.Module):
    """What :class:`g4g_model.parts.Average` is to the validation."""

    def __init__(self, sounds: Any = ((1.0,),), mouths: Any = None) -> None:
        super().__init__()
        self.generator = Painter(sounds)
        self.mouth = None if mouths is None else Looked(mouths)


class Windows:
    """Batches of one sample each, one after the other."""

    def __init__(self, *batches: G4GBatch) -> None:
        self._batches = iter(batches)

    def draw(self, rng: np.random.Generator) -> G4GBatch:
        return next(self._batches)


def plain(level: float) -> Any:
    """Five pictures of one colour."""
    return torch.full((FRAMES, 3, SIDE, SIDE), level)


def window(picture: Any, mouth: Any, **fields: Any) -> G4GBatch:
    """A window whose true frames are 0 everywhere, and whose mouth is looked for in the middle of them."""
    places = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]).expand(1, FRAMES, 2, 3)
    given = {
        "keys": ["one"], "inputs": Shown(picture), "truth": plain(0.0)[None], "regions": {"mouth": mouth},
        "places": places, "starts": torch.zeros(1, 1), "sounds": torch.zeros(1, 1, 1, 80, 16),
        "stacks": torch.zeros(1, 0, FRAMES, 3, 4, 4), "wrong": torch.zeros(1, 1), "expert": None, **fields,
    }  # fmt: skip
    return G4GBatch(**given)


def mouth_region() -> Any:
    mask = torch.zeros(1, FRAMES, 1, SIDE, SIDE)
    mask[..., 4:6, 2:6] = 1
    return mask


def figures(monkeypatch: pytest.MonkeyPatch, networks: Networks, *batches: G4GBatch) -> dict[str, float]:
    monkeypatch.setattr(validation, "WINDOWS", len(batches))
    with torch.no_grad():
        return validation.figures(networks, Windows(*batches))  # type: ignore[arg-type]


# ---------------------------------------------------------------- pictures


def test_psnr_and_l1_are_those_of_the_mouth_alone_over_all_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = plain(0.9)
    picture[..., 4:6, 2:6] = torch.tensor([0.1, -0.2, 0.4])[:, None, None]
    found = figures(monkeypatch, Networks(), window(picture, mouth_region()))
    assert set(found) == {"mouth_psnr", "mouth_l1", "score"}
    assert found["mouth_psnr"] == pytest.approx(10 * math.log10(4 / 0.07), abs=1e-4)  # (0.01 + 0.04 + 0.16) / 3
    assert found["mouth_l1"] == pytest.approx(0.7 / 3, abs=1e-6)
    assert found["score"] == found["mouth_psnr"]


def test_a_pixel_counts_by_the_part_of_it_that_the_mouth_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.zeros(1, FRAMES, 1, SIDE, SIDE)
    mask[..., 3, 3], mask[..., 3, 4] = 1.0, 0.5
    picture = plain(0.0)
    picture[..., 3, 3], picture[..., 3, 4] = 0.2, 0.8
    found = figures(monkeypatch, Networks(), window(picture, mask))
    assert found["mouth_psnr"] == pytest.approx(10 * math.log10(4 * 1.5 / (0.04 + 0.5 * 0.64)), abs=1e-4)
    assert found["mouth_l1"] == pytest.approx((0.2 + 0.5 * 0.8) / 1.5, abs=1e-6)


def test_figures_are_means_over_windows_and_one_without_a_mouth_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [window(plain(level), mouth_region()) for level in (0.2, 0.02)]
    unseen = window(plain(1.0), torch.zeros(1, FRAMES, 1, SIDE, SIDE))
    for given in (batches, [batches[0], unseen, batches[1]]):
        found = figures(monkeypatch, Networks(), *given)
        assert found["mouth_psnr"] == pytest.approx((20 + 40) / 2, abs=1e-3)
        assert found["mouth_l1"] == pytest.approx(0.11, abs=1e-6)
    assert figures(monkeypatch, Networks(), unseen) == {}


def test_a_picture_without_error_has_a_finite_score(monkeypatch: pytest.MonkeyPatch) -> None:
    found = figures(monkeypatch, Networks(), window(plain(0.0), mouth_region()))
    assert found["mouth_l1"] == 0 and found["mouth_psnr"] == pytest.approx(10 * math.log10(4e10))


# ---------------------------------------------------------------- mouths that find their sounds

STARTS = (12, 10, 11, 30, 50)  # of the drawn window, and of the others; 10, 11 and 12 are too near to each other

SOUNDS = np.eye(5) * [[1], [1], [1], [100], [1]]  # their length must not count
MOUTHS = (
    (1, 2, 0, 0, 0),  # drawn: nearest to the sound at 10, which is too near to be an error
    (0, 1, 2, 0, 0),  # at 10: nearest to the one at 11, also too near
    (0, 0, 1, 0, 0),
    (0, 0, 0, 0, 1),  # at 30: hears the one at 50, and does not find its own
    (2, 0, 0, 0.1, 1),  # at 50: nearest to the drawn window's sound, which is no sound for true ones to choose from
)
WRONG = (0, 0, 0, 1, 0)  # drawn: like a mouth at 30


def heard_window(code: int) -> G4GBatch:
    """A drawn mouth that reads as row ``code`` of the table, among the four others."""
    levels = torch.arange(5) / 10
    return window(
        plain(code / 10),
        mouth_region(),
        starts=torch.tensor([STARTS]),
        sounds=levels.view(1, 5, 1, 1, 1).expand(1, 5, 1, 80, 16),
        stacks=levels[1:].view(1, 4, 1, 1, 1, 1).expand(1, 4, FRAMES, 3, 4, 4),
    )


def test_mouths_find_their_sounds_so_many_times_as_often_as_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = Networks(SOUNDS, [*MOUTHS, WRONG])
    one = figures(monkeypatch, networks, heard_window(0))
    assert one["found_drawn"] == 3  # among the sounds at 12, 30 and 50
    assert one["found_true"] == (3 + 3 + 0 + 4) / 4  # those at 10 and 11 choose from three sounds, the others from four
    other = figures(monkeypatch, networks, heard_window(5))
    assert other["found_drawn"] == 0 and other["found_true"] == one["found_true"]
    both = figures(monkeypatch, networks, heard_window(0), heard_window(5))
    assert both["found_drawn"] == 1.5 and both["found_true"] == 2.5


def test_the_drawn_mouth_is_cut_out_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    networks, batch = Networks(SOUNDS, [*MOUTHS, WRONG]), heard_window(5)
    picture = plain(0.5)
    picture[..., 1:7, 1:7] = 0.0  # the middle, and a pixel around it for the interpolation
    there = dataclasses.replace(batch, inputs=Shown(picture))
    assert figures(monkeypatch, networks, there)["found_drawn"] == 3


# ---------------------------------------------------------------- what is validated on, what is shown


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


def opened(people: Path, validated: str | None = None, **fields: Any) -> G4GTrainable:
    found = TrainingData(str(people), validation=validated)
    trainee = G4GKind("g4g").open(G4GConfig(**{**SMALL, **fields}), found, seed=0)
    trainee.module.eval()
    return trainee


def seen(monkeypatch: pytest.MonkeyPatch) -> list[G4GBatch]:
    """The batches that are drawn from now on."""
    found: list[G4GBatch] = []
    plain_draw = Batches.draw

    def draw(self: Batches, *arguments: Any) -> G4GBatch:
        found.append(plain_draw(self, *arguments))
        return found[-1]

    monkeypatch.setattr(Batches, "draw", draw)
    return found


STAGED: dict[str, Any] = {"size": 128, "channels": (8, 8, 8), "stages": [{"size": 96, "steps": 5}], "mirror": True}


@pytest.mark.parametrize("validated", [None, "test"])
def test_pictures_show_single_samples_at_full_size_and_never_in_a_mirror(
    people: Path, monkeypatch: pytest.MonkeyPatch, validated: str | None
) -> None:
    trainee = opened(people, validated, **STAGED)
    batches, shown = seen(monkeypatch), []
    for chance in (0.0, 1.0):
        monkeypatch.setattr(data, "_MIRRORED", chance)
        with torch.no_grad():
            shown.append(trainee.pictures()["faces"])
    np.testing.assert_array_equal(*shown)
    assert len(batches) == 2 * validation.SHOWN
    assert {batch.truth.shape for batch in batches} == {(1, FRAMES, 3, 128, 128)}
    assert {key.startswith("toy-d") for batch in batches for key in batch.keys} == {validated is not None}
    # training itself goes on as before: two samples a batch, small ones
    assert trainee.batch(np.random.default_rng(0)).truth.shape == (2, FRAMES, 3, 96, 96)


def test_figures_are_taken_at_full_size_and_never_in_a_mirror(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "WINDOWS", 2)
    trainee = opened(people, "test", **STAGED)
    batches, found = seen(monkeypatch), []
    for chance in (0.0, 1.0):
        monkeypatch.setattr(data, "_MIRRORED", chance)
        with torch.no_grad():
            found.append(trainee.validate())
    assert found[0] == found[1]
    assert {batch.truth.shape for batch in batches} == {(1, FRAMES, 3, 128, 128)}


def test_a_row_of_pictures_is_source_drawn_true_difference_and_reference(
    people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee = opened(people, "test")
    batches = seen(monkeypatch)
    monkeypatch.setattr(validation, "SHOWN", 1)
    monkeypatch.setattr(
        trainee.module.average.generator, "forward", lambda inputs: Drawn([], inputs.source[0].flip(-1))
    )
    faces = trainee.pictures()["faces"]
    (batch,) = batches
    picture, truth = batch.inputs.source[0, 2].flip(-1), batch.truth[0, 2]
    wanted = [batch.inputs.source[0, 2], picture, truth, None, batch.inputs.references[0, 0]]
    for number, column in enumerate(wanted):
        part = faces[:, 68 * number : 68 * number + 64].astype(np.float32)
        level = 255 * (picture - truth).abs().clamp(max=1) if column is None else 127.5 * (column + 1)
        np.testing.assert_allclose(part, level.permute(1, 2, 0), atol=0.51)
