"""The FAN backend against face_alignment's own path, with the same random weights in both."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest

from g4g_core.errors import MissingDependency, UsageError, WeightsError
from prep.landmarks import fan
from prep.landmarks.fan import FanLandmarks

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")
numba = pytest.importorskip("numba")
with mock.patch.object(numba.config, "DISABLE_JIT", 1):  # compiling two small functions would take 18 s
    face_alignment = pytest.importorskip("face_alignment")

SIZES = ((240, 320), (160, 160), (200, 130), (160, 160), (90, 120))
BOXES = np.array(
    [
        [100.0, 60.0, 178.0, 138.0],  # span 80: the window's ends fall on whole pixels
        [41.3, 38.9, 118.2, 131.7],
        [-30.5, 90.2, 70.1, 215.4],  # leaves the frame to the left and below
        [-40.0, -35.0, 210.0, 220.0],  # larger than the frame
        [50.0, 40.0, 71.5, 63.0],  # a tiny face
    ]
)


def random_network(n_modules: int) -> Any:
    torch.manual_seed(n_modules)
    return face_alignment.api.FAN(n_modules).eval()


def images(sizes: tuple[tuple[int, int], ...] = SIZES) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def peer(n_modules: int) -> Any:
    """A FaceAlignment that has our random network and no detector: its constructor would download both."""
    made = object.__new__(face_alignment.FaceAlignment)
    made.device, made.dtype, made.max_batch_size, made.verbose = "cpu", torch.float32, 1, False
    made.landmarks_type, made.flip_input = face_alignment.LandmarksType.TWO_D, False
    made.face_detector = types.SimpleNamespace(reference_scale=195)
    made.face_alignment_net = random_network(n_modules)
    return made


def record(network: Any) -> list[np.ndarray]:
    """The list that the network's last heat maps will be appended to, image by image."""
    seen: list[np.ndarray] = []
    network.register_forward_hook(lambda _module, _input, output: seen.extend(output[-1].numpy().copy()))
    return seen


@pytest.fixture(scope="module")
def one_module() -> tuple[FanLandmarks, list[np.ndarray]]:
    network = random_network(1)
    return FanLandmarks(network=network, device="cpu"), record(network)


@pytest.mark.parametrize(("n_modules", "n_frames"), [(1, len(SIZES)), (4, 1)])
def test_heat_maps_and_landmarks_are_those_of_face_alignment(n_modules: int, n_frames: int) -> None:
    frames, boxes = images()[:n_frames], BOXES[:n_frames]
    network, other = random_network(n_modules), peer(n_modules)
    ours, theirs = record(network), record(other.face_alignment_net)

    landmarks, scores = FanLandmarks(network=network, device="cpu").fit(frames, boxes)
    expected, heights = [], []
    for frame, box in zip(frames, boxes, strict=True):
        points, peaks, _ = other.get_landmarks_from_image(frame, [box], return_landmark_score=True)
        expected.append(points[0])
        heights.append(peaks[0].mean())

    assert landmarks.shape == (n_frames, 68, 2) and landmarks.dtype == scores.dtype == np.float32
    np.testing.assert_allclose(np.stack(ours), np.stack(theirs), rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.trunc(landmarks + 0.5), np.stack(expected), rtol=0, atol=0.01)
    np.testing.assert_allclose(scores, heights, rtol=0, atol=1e-4)


def test_the_answer_does_not_depend_on_the_batch_size(one_module: Any) -> None:
    landmarks, scores = one_module[0].fit(images(), BOXES)
    for batch_size in (1, 2):
        other = FanLandmarks(network=random_network(1), device="cpu", batch_size=batch_size)
        again, again_scores = other.fit(images(), BOXES)
        np.testing.assert_allclose(again, landmarks, rtol=0, atol=1e-3)
        np.testing.assert_allclose(again_scores, scores, rtol=0, atol=1e-5)


def test_a_grey_frame_is_read_as_three_equal_channels(one_module: Any) -> None:
    grey = images()[0][..., 0]
    landmarks, _ = one_module[0].fit([grey, np.stack([grey] * 3, axis=2)], BOXES[[0, 0]])
    np.testing.assert_array_equal(landmarks[0], landmarks[1])


def test_patches_are_pixel_for_pixel_those_of_face_alignment() -> None:
    rng = np.random.default_rng(3)
    frame = images()[0]
    corner = rng.uniform((-60, -60), (250, 170), (200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(12, 200, (200, 2))], axis=1)
    boxes[::2] = np.rint(boxes[::2])
    boxes[::4, 2:] = boxes[::4, :2] + 39.0 * rng.integers(1, 5, (50, 1))  # ends on whole pixels
    centres, spans = fan.patch_geometry(boxes)
    windows = fan.patch_windows(centres, spans)
    compared = 0
    for window, centre, span in zip(windows, centres, spans, strict=True):
        if window[0] >= 320 or window[1] >= 240 or min(window[2:]) <= 0:
            continue  # wholly outside, which face_alignment cannot crop
        expected = face_alignment.utils.crop(frame, centre, span / 200.0)
        np.testing.assert_array_equal(fan.cut_patch(frame, window), expected)
        compared += 1
    assert compared > 150


def test_a_box_wholly_outside_the_frame_is_a_black_patch() -> None:
    for window in ((-90, 10, -20, 80), (500, 10, 570, 80), (10, -90, 80, -20), (10, 240, 80, 310)):
        assert not fan.cut_patch(images()[0], np.array(window)).any()


def test_peaks_are_read_as_face_alignment_reads_them() -> None:
    maps = np.random.default_rng(5).normal(size=(3, 68, 64, 64)).astype(np.float32)
    for point, (y, x) in enumerate([(0, 0), (0, 31), (63, 63), (40, 63), (1, 1), (62, 62), (1, 62)]):
        maps[0, point, y, x] = 9.0
    positions, heights = fan.read_heatmaps(torch.from_numpy(maps))
    expected, _, scores = face_alignment.utils.get_preds_fromhm(maps)
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_array_equal(heights, scores)


def test_of_equal_peaks_the_first_counts() -> None:
    maps = torch.zeros(1, 1, 64, 64)
    maps[0, 0, [20, 50, 50], [30, 5, 40]] = 1.0
    np.testing.assert_array_equal(fan.read_heatmaps(maps)[0], [[[30.5, 20.5]]])


class BrightestCell(torch.nn.Module):
    """Heat maps that are the patch itself, so that all landmarks lie where it is brightest."""

    def forward(self, patches: Any) -> Any:
        return torch.nn.functional.avg_pool2d(patches[:, :1], 4).expand(-1, 68, -1, -1)


def test_landmarks_lie_on_what_the_network_saw_within_half_a_heat_map_cell() -> None:
    rng = np.random.default_rng(2)
    targets = rng.uniform((110, 90), (190, 170), (40, 2))
    y, x = np.mgrid[:260, :300]
    frames = [(255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 72)).astype(np.uint8) for u, v in targets]
    boxes = np.tile([90.0, 80.0, 214.0, 206.0], (40, 1))
    landmarks, _ = FanLandmarks(network=BrightestCell(), device="cpu").fit(frames, boxes)
    cell = 250 * 200 / 195 / 64
    error = landmarks[:, 0] - targets
    assert np.abs(error).max() < cell / 2
    assert np.abs(error.mean(axis=0)).max() < cell / 8


def test_no_frames_give_no_landmarks() -> None:
    landmarks, scores = FanLandmarks(network=BrightestCell(), device="cpu").fit([], np.empty((0, 4)))
    assert landmarks.shape == (0, 68, 2) and scores.shape == (0,)


@pytest.mark.parametrize(
    ("frames", "boxes", "message"),
    [
        (images()[:1], BOXES[:2], "1 frames but 2 boxes"),
        (images()[:2], np.array([BOXES[0], [5, 5, 5, 9]]), "box 1 is"),
        (images()[:1], np.array([[0, 0, np.nan, 9]]), "box 0 is"),
        ([images()[0].astype(np.float32)], BOXES[:1], "uint8"),
        ([images()[0][..., :2]], BOXES[:1], "240, 320, 2"),
    ],
)
def test_input_that_is_not_frames_with_one_box_each_is_refused(
    frames: list[np.ndarray], boxes: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FanLandmarks(network=BrightestCell(), device="cpu").fit(frames, boxes)


def test_bfloat16_is_refused_on_a_cpu() -> None:
    with pytest.raises(UsageError, match="bfloat16 on CUDA alone"):
        FanLandmarks(network=BrightestCell(), device="cpu", dtype="bfloat16")


def test_weights_are_loaded_from_the_registry_and_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a download was started")

    monkeypatch.setattr("face_alignment.api.load_file_from_url", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(fan, "N_MODULES", 1)
    monkeypatch.setattr("g4g_core.weights.path", lambda _name: tmp_path / "fan.pth.tar")
    stored = random_network(1).state_dict()
    torch.save(stored, tmp_path / "fan.pth.tar")
    loaded = FanLandmarks(device="cpu")._network.state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "another network"])
def test_weights_that_hold_no_fan_are_named(
    content: bytes | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fan.pth.tar"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    monkeypatch.setattr("g4g_core.weights.path", lambda _name: path)
    with pytest.raises(WeightsError, match="2dfan4 hold no 2D FAN-4"):
        FanLandmarks(device="cpu")


@pytest.mark.parametrize(("content", "fault"), [(None, "are not here"), (b"another file", "SHA-256")])
def test_absent_or_foreign_weights_give_one_line_with_both_ways_out(
    content: bytes | None, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("G4G_WEIGHTS", str(tmp_path))
    if content is not None:
        (tmp_path / "2DFAN4-11f355bf06.pth.tar").write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        FanLandmarks(device="cpu")
    assert "\n" not in str(caught.value)
    assert fault in str(caught.value)
    assert "g4g-prep weights fetch 2dfan4" in str(caught.value)
    assert "`--landmarks dlib`, which needs no" in str(caught.value)


def test_missing_modules_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torch", "face_alignment.models"):
        with monkeypatch.context() as patch:
            patch.setattr("g4g_core.weights.path", lambda _name: Path("unused"))
            patch.setitem(sys.modules, module, None)
            with pytest.raises(MissingDependency) as caught:
                FanLandmarks(device="cpu")
        assert module in caught.value.what
        assert "g4g[fan]" in caught.value.mend and "--landmarks dlib" in caught.value.mend


@pytest.mark.parametrize(
    ("library", "package"),
    [("libGL.so.1", "libgl1"), ("libgthread-2.0.so.0", "libglib2.0-0"), ("libfoo.so.3", "holds libfoo.so.3")],
)
def test_a_missing_system_library_names_its_debian_package(
    library: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without_library(name: str) -> types.ModuleType:
        if name == "cv2":
            message = f"{library}: cannot open shared object file: No such file or directory"
            raise ImportError(message, name="cv2")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", without_library)
    with pytest.raises(MissingDependency) as caught:
        FanLandmarks(network=BrightestCell(), device="cpu")
    assert library in caught.value.what and package in caught.value.mend
