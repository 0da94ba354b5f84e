"""CPBD: python-cpbd's value on any picture, MATLAB's edges and value on its reference photo, what is refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType

import av
import cv2
import numpy as np
import pytest

from evaluation.metrics import cpbd_edges
from evaluation.metrics.cpbd import cpbd, cpbd_matlab, cpbd_of_edges, edge_widths, luma
from g4g_core.errors import UsageError

PARITY = 1e-9


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    """python-cpbd, module ``cpbd.compute`` (the package hides it behind the function of the same name)."""
    pytest.importorskip("cpbd", reason="python-cpbd is not installed (pip install cpbd-py312)")
    return importlib.import_module("cpbd.compute")


@pytest.fixture(scope="module")
def reference(clips: Path) -> dict[str, np.ndarray]:
    """MATLAB's input, edges and widths for the first photo of LIVE, 512x768."""
    folder = clips.parent / "reference" / "cpbd"
    if not folder.is_dir():
        pytest.skip(f"no reference edges: {folder} is not there")
    names = ("input", "canny", "sobel", "marziliano")
    return {name: np.loadtxt(folder / f"reference_img1_{name}.txt", delimiter=",").astype(np.uint8) for name in names}


def photo(height: int = 256, width: int = 256) -> np.ndarray:
    import skimage.data

    return luma(cv2.resize(skimage.data.astronaut(), (width, height), interpolation=cv2.INTER_AREA))


def face_squares(clips: Path, wanted: int) -> list[np.ndarray]:
    """Luma, 256x256, of the upper middle of ``wanted`` frames, several clips, where the faces are."""
    paths = sorted([*clips.glob("hdtf/*.mp4"), *clips.glob("mocha/*.mp4")])
    paths = paths[:: max(1, len(paths) // wanted)]
    per_clip = -(-wanted // len(paths))
    squares = []
    for path in paths:
        with av.open(str(path)) as container:
            for frame in islice(container.decode(video=0), 0, 4 * per_clip, 4):
                picture = frame.to_ndarray(format="rgb24")
                side = int(0.6 * min(picture.shape[:2]))
                top, left = picture.shape[0] // 10, (picture.shape[1] - side) // 2
                square = picture[top : top + side, left : left + side]
                squares.append(luma(cv2.resize(square, (256, 256), interpolation=cv2.INTER_AREA)))
    return squares[:wanted]


def test_faces_score_as_in_python_cpbd(clips: Path, peer: ModuleType) -> None:
    squares = face_squares(clips, 10)
    assert len(squares) == 10
    ours = [cpbd(square) for square in squares]
    assert ours == pytest.approx([peer.compute(square) for square in squares], abs=PARITY)
    assert len(set(ours)) == 10 and min(ours) > 0 and max(ours) < 1


@pytest.mark.slow
def test_fifty_faces_score_as_in_python_cpbd(clips: Path, peer: ModuleType) -> None:
    squares = face_squares(clips, 50)
    assert len(squares) == 50
    assert [cpbd(square) for square in squares] == pytest.approx([peer.compute(s) for s in squares], abs=PARITY)


@pytest.mark.parametrize("size", [(64, 64), (65, 127), (101, 173), (200, 333), (512, 512)])
def test_a_photo_of_any_size_scores_as_in_python_cpbd(size: tuple[int, int], peer: ModuleType) -> None:
    picture = photo(*size)
    assert cpbd(picture) == pytest.approx(peer.compute(picture), abs=PARITY)
    assert cpbd(picture) > 0


# ---- pictures with ties, plateaus, long slopes: where rules are strict or not, and where runs end


def checkerboard(shift: float) -> np.ndarray:
    cells = np.kron(np.indices((12, 12)).sum(axis=0) % 2, np.ones((16, 16))) * 180.0 + 40
    return np.round((1 - shift) * cells + shift * np.roll(cells, 1, axis=1)).astype(np.uint8)


def noise(low: int, high: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (130, 197), dtype=np.uint8)


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def dots() -> np.ndarray:
    """Single pixels one level above the rest: edges so weak, and so even, that only Canny itself can tell."""
    picture = np.full((128, 128), 100, np.uint8)
    picture[4::8, 4::8] += 1
    return picture


def bar_at_the_top(length: int, below: int) -> np.ndarray:
    """Part of its outline lies in the outermost row, where Canny finds no edge."""
    picture = np.full((64, 64), 100, np.uint8)
    picture[0, 10 : 10 + length] = 150
    picture[1, 10 : 10 + length] = below
    return picture


def bump_in_a_corner() -> np.ndarray:
    """Rises to the right everywhere but between the first two columns of one row."""
    picture = np.repeat(np.arange(96, dtype=np.uint8)[None] // 4 * 9, 96, axis=0)
    picture[0, 0] = 30
    return picture


PICTURES: dict[str, Callable[[], np.ndarray]] = {
    "noise": lambda: noise(0, 256),
    "two levels": lambda: noise(0, 2) * 255,
    "plateaus": lambda: noise(0, 6) * 40,
    "low contrast": lambda: noise(100, 140),
    "contrast of 50": lambda: noise(100, 151),
    "contrast of 51": lambda: noise(100, 152),
    "faint": lambda: noise(100, 102),
    "blurred noise": lambda: blurred(noise(0, 256), 2),
    "smooth": lambda: blurred(noise(0, 256), 9),
    "wide plateaus": lambda: cv2.resize(noise(0, 256), (260, 260), interpolation=cv2.INTER_NEAREST)[::2, :200],
    "checkerboard": lambda: checkerboard(0),
    "checkerboard, a quarter pixel on": lambda: checkerboard(0.25),
    "checkerboard, half a pixel on": lambda: checkerboard(0.5),
    "ramp up": lambda: np.repeat(np.arange(256, dtype=np.uint8)[None], 128, axis=0),
    "ramp down": lambda: np.repeat(np.arange(256, dtype=np.uint8)[None, ::-1], 128, axis=0),
    "stairs up": lambda: np.repeat(np.arange(128, dtype=np.uint8)[None] // 8 * 16, 128, axis=0),
    "stairs up, one pixel against": bump_in_a_corner,
    "steep in the middle of long slopes": lambda: np.round(
        np.tile(np.arange(256) / 2.2 + 130 * (np.arange(256) > 127), (80, 1)) * (1 - np.indices((80, 256))[0] / 400)
    ).astype(np.uint8),
    "dots": dots,
    "bar over a dark one": lambda: bar_at_the_top(16, 22),
    "bands across": lambda: np.repeat((np.arange(128, dtype=np.uint8) // 16 % 2 * 90)[:, None], 128, axis=1),
    "one step": lambda: np.where(np.arange(128) < 70, 10, 200).astype(np.uint8)[None].repeat(128, axis=0),
    "transposed photo": lambda: photo(192, 128).T,
    "photo, letterboxed": lambda: np.pad(photo(128, 192), ((40, 40), (0, 0))),
    "photo, half of it grey": lambda: np.where(np.arange(192)[:, None] > 80, 128, photo(192, 192)).astype(np.uint8),
}
any_picture = pytest.mark.parametrize("picture", [pytest.param(make, id=name) for name, make in PICTURES.items()])


@any_picture
def test_an_odd_picture_scores_as_in_python_cpbd(picture: Callable[[], np.ndarray], peer: ModuleType) -> None:
    assert cpbd(picture()) == pytest.approx(peer.compute(picture()), abs=PARITY)


@any_picture
def test_widths_are_python_cpbds_at_any_pixel(picture: Callable[[], np.ndarray], peer: ModuleType) -> None:
    values = picture()
    edges = np.random.default_rng(1).random(values.shape) < 0.3
    assert np.array_equal(edge_widths(values, edges), peer.marziliano_method(edges, values.astype(np.float64)))


@any_picture
def test_measured_edges_are_python_cpbds(picture: Callable[[], np.ndarray], peer: ModuleType) -> None:
    assert np.array_equal(cpbd_edges.vertical_edges(picture()), peer.sobel(picture().astype(np.float64)))


def test_a_slope_counts_at_most_101_pixels_to_each_side() -> None:
    picture = PICTURES["ramp down"]()
    widths = edge_widths(picture, np.ones(picture.shape, np.bool_))
    assert widths.max() == 202
    assert list(widths[5, :4]) == [0, 102, 103, 104]


# ---- which blocks hold enough edges


@any_picture
def test_edge_blocks_are_those_of_canny_itself(picture: Callable[[], np.ndarray]) -> None:
    from skimage.feature import canny

    values = picture()
    expected = cpbd_edges.has_enough(canny(values.astype(np.float64)))
    assert np.array_equal(cpbd_edges.edge_blocks(values), expected)


def test_canny_runs_only_where_a_block_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    import skimage.feature

    ran = []
    canny = skimage.feature.canny
    monkeypatch.setattr(skimage.feature, "canny", lambda *args: ran.append(args) or canny(*args))
    flat = np.full((128, 128), 90, np.uint8)
    for clear in (photo(), blurred(photo(), 2), flat):
        cpbd(clear)
    assert not ran
    # a slope without an edge: all of it above the low threshold, and no pixel above its neighbours by much
    slope = np.round(128 + 100 * np.sin(np.indices((128, 128)).sum(axis=0) / 40)).astype(np.uint8)
    blocks = cpbd_edges.edge_blocks(blurred(slope, 6))
    assert len(ran) == 1
    assert np.array_equal(blocks, cpbd_edges.has_enough(canny(blurred(slope, 6).astype(np.float64))))


@pytest.mark.parametrize("name", ["noise", "two levels", "smooth", "transposed photo", "photo, letterboxed"])
def test_the_short_cut_rounds_far_less_than_it_allows_for(name: str) -> None:
    import scipy.ndimage as ndi

    values = PICTURES[name]().astype(np.float64)
    inside = ndi.gaussian_filter(np.ones_like(values), 1, mode="constant")
    smooth = ndi.gaussian_filter(values, 1, mode="constant") / inside
    across, down = cpbd_edges._smooth_gradient(PICTURES[name]())
    for found, axis in ((across, 1), (down, 0)):
        assert np.abs(found - ndi.sobel(smooth, axis=axis)).max() < cpbd_edges._SLACK / 20


# ---- the MATLAB variant


def test_reference_edges_give_the_reference_value(reference: dict[str, np.ndarray]) -> None:
    picture, sobel = reference["input"], reference["sobel"] > 0
    assert np.array_equal(edge_widths(picture, sobel), reference["marziliano"])
    assert cpbd_of_edges(picture, reference["canny"] > 0, sobel) == pytest.approx(0.1349, abs=5e-5)


def test_the_edges_are_matlabs_pixel_by_pixel(reference: dict[str, np.ndarray]) -> None:
    picture = reference["input"]
    assert np.array_equal(cpbd_edges.vertical_edges_matlab(picture), reference["sobel"] > 0)
    older = cpbd_edges.canny_edges_matlab(picture, taps=16)
    assert np.array_equal(older, reference["canny"] > 0)
    assert older.sum() == 28_051


def test_the_photo_scores_as_in_matlab_from_end_to_end(reference: dict[str, np.ndarray], peer: ModuleType) -> None:
    assert cpbd_matlab(reference["input"]) == pytest.approx(0.13526, abs=1e-5)
    assert cpbd(reference["input"]) == pytest.approx(peer.compute(reference["input"]), abs=PARITY)


def test_matlabs_canny_does_not_depend_on_contrast_or_on_which_way_is_up() -> None:
    picture = photo() // 2
    edges = cpbd_edges.canny_edges_matlab(picture)
    assert 0.02 < edges.mean() < 0.2
    assert np.array_equal(edges, cpbd_edges.canny_edges_matlab(picture * 2))
    for turned, back in ((picture.T, edges.T), (picture[:, ::-1], edges[:, ::-1]), (picture[::-1], edges[::-1])):
        assert (cpbd_edges.canny_edges_matlab(turned) != back).mean() < 1e-3  # rounding decides a few ties


def test_edges_found_elsewhere_count_as_our_own() -> None:
    from skimage.feature import canny

    picture = photo(200, 333)
    found = canny(picture.astype(np.float64)), cpbd_edges.vertical_edges(picture)
    assert cpbd_of_edges(picture, *found) == cpbd(picture)
    none = np.zeros(picture.shape, np.bool_)
    assert cpbd_of_edges(picture, none, found[1]) == cpbd_of_edges(picture, found[0], none) == 0.0


@pytest.mark.parametrize(("pixels", "counts"), [(8, False), (9, True)])
def test_a_block_counts_from_nine_canny_pixels_on(pixels: int, counts: bool) -> None:
    picture = photo()[:64, :64]
    few = np.zeros((64, 64), np.bool_)
    few.ravel()[:pixels] = True
    assert (cpbd_of_edges(picture, few, cpbd_edges.vertical_edges(picture)) > 0) == counts


# ---- what holds for both


both = pytest.mark.parametrize("score", [cpbd, cpbd_matlab])


@both
def test_a_photo_scores_lower_the_more_it_is_blurred(score: Callable[[np.ndarray], float]) -> None:
    values = [score(photo()), *(score(blurred(photo(), sigma)) for sigma in (0.5, 1, 2, 3))]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[1] > values[2] > values[3]
    assert values[0] > 0.25 and values[-1] < 0.02


@both
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_flat_picture_scores_0(score: Callable[[np.ndarray], float], level: int) -> None:
    assert score(np.full((128, 192), level, np.uint8)) == 0.0


@both
def test_a_view_of_a_picture_scores_as_its_copy(score: Callable[[np.ndarray], float]) -> None:
    view = photo(300, 300)[7:200, 280:20:-1]
    assert score(view) == score(view.copy()) > 0


@both
@pytest.mark.parametrize(
    "wrong",
    [
        photo() / 255,
        photo().astype(np.float32),
        photo().astype(np.int16),
        photo() > 99,
        np.repeat(photo()[:, :, None], 3, axis=2),
        photo()[0],
        np.stack([photo(), photo()]),
    ],
    ids=["unit range", "float", "int16", "bool", "rgb", "a row", "a batch"],
)
def test_anything_but_uint8_luma_is_refused(score: Callable[[np.ndarray], float], wrong: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"uint8 \[H, W\] luma.*not on " + str(wrong.dtype)) as refusal:
        score(wrong)
    assert "\n" not in refusal.value.what


@both
@pytest.mark.parametrize("size", [(63, 64), (64, 63), (0, 0)])
def test_a_picture_without_a_whole_block_is_refused(
    score: Callable[[np.ndarray], float], size: tuple[int, int]
) -> None:
    with pytest.raises(UsageError, match=f"64x64 px, the picture is {size[1]}x{size[0]}"):
        score(np.zeros(size, np.uint8))


def test_edges_of_another_picture_are_refused() -> None:
    picture, edges = photo(), np.zeros((256, 255), np.bool_)
    with pytest.raises(UsageError, match=r"canny_edges is bool \[256, 255\]"):
        cpbd_of_edges(picture, edges, np.zeros(picture.shape, np.bool_))
    with pytest.raises(UsageError, match="sobel_edges is float64"):
        cpbd_of_edges(picture, np.zeros(picture.shape, np.bool_), np.zeros(picture.shape))


# ---- luma


def test_luma_is_bt601_rounded_to_a_level() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 2, 40, 50, 3), dtype=np.uint8)
    found = luma(rgb)
    assert found.dtype == np.uint8 and found.shape == (3, 2, 40, 50)
    assert np.abs(found - rgb @ np.array([0.299, 0.587, 0.114])).max() < 0.51
    assert np.array_equal(found[1, 0], cv2.cvtColor(rgb[1, 0], cv2.COLOR_RGB2GRAY))
    assert np.array_equal(luma(rgb[..., ::2, :]), found[..., ::2])
    assert luma(rgb[:0]).shape == (0, 2, 40, 50)


@pytest.mark.parametrize("wrong", [np.zeros((64, 64, 3)), np.zeros((64, 64), np.uint8), np.zeros((9, 9, 4), np.uint8)])
def test_luma_is_made_of_uint8_rgb_alone(wrong: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"uint8 \[\.\.\., H, W, 3\] RGB"):
        luma(wrong)
