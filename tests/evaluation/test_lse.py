"""LSE: the same numbers as ``SyncNetInstance.evaluate``, however the frames come, and what is refused."""

from __future__ import annotations

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

from evaluation.metrics.lse import MAX_SHIFT, Lse, count_windows, lip_frames, lse, read_offsets  # noqa: E402
from evaluation.metrics.syncnet import LipStream, SyncNet, mfcc, untrained  # noqa: E402
from g4g_core import weights  # noqa: E402
from g4g_core.errors import MissingDependency, UsageError, WeightsError  # noqa: E402

FRAMES = 26


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as SyncNet's scripts leave it: JPEG files of moving blobs, and a WAV file."""
    from scipy.io import wavfile

    folder = tmp_path_factory.mktemp("clip")
    rng = np.random.default_rng(0)
    field = cv2.GaussianBlur(rng.normal(size=(400, 400, 3)), (0, 0), 12)
    field = (127 + 60 * field / field.std()).clip(0, 255).astype(np.uint8)
    field[..., 2] //= 2
    for number in range(FRAMES):
        x, y = rng.integers(0, 60, 2)
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), field[y : y + 224, x : x + 224])
    tones = np.sin(np.arange(FRAMES * 640) * np.repeat(rng.uniform(0.02, 0.4, FRAMES), 640))
    sound = tones * rng.uniform(500, 9000, FRAMES).repeat(640) + rng.normal(size=len(tones)) * 50
    wavfile.write(folder / "audio.wav", 16_000, sound.astype(np.int16))
    return folder


@pytest.fixture(scope="module")
def frames(clip: Path) -> np.ndarray:
    """uint8 [26, 224, 224, 3], BGR."""
    return np.stack([np.asarray(cv2.imread(str(file))) for file in sorted(clip.glob("*.jpg"))])


@pytest.fixture(scope="module")
def pcm(clip: Path) -> np.ndarray:
    from scipy.io import wavfile

    return np.asarray(wavfile.read(clip / "audio.wav")[1])


@pytest.fixture(scope="module")
def network(frames: np.ndarray, pcm: np.ndarray) -> Any:
    """Random weights, with statistics of normalisation that were measured on the clip and then disturbed."""
    torch.manual_seed(3)
    network = untrained()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, std=0.2)
    clips = torch.from_numpy(frames.astype(np.float32)).permute(3, 0, 1, 2).unfold(1, 5, 5).permute(1, 0, 4, 2, 3)
    sound = torch.from_numpy(mfcc(pcm).astype(np.float32)).unfold(0, 20, 8)[:, None]
    with torch.no_grad():
        network.forward_lip(clips)
        network.forward_aud(sound)
    for norm in norms:
        norm.running_mean *= torch.empty_like(norm.running_mean).uniform_(0.8, 1.2)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
    return network.eval()


@pytest.fixture(scope="module")
def syncnet(network: Any) -> SyncNet:
    return SyncNet(network)


@pytest.fixture(scope="module")
def features(syncnet: SyncNet, frames: np.ndarray, pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return syncnet.see(frames), syncnet.hear(pcm)


def reference() -> Any:
    """The module ``syncnet_python.SyncNetInstance`` by itself."""
    package = importlib.util.find_spec("syncnet_python")
    assert package is not None and package.submodule_search_locations
    file = Path(next(iter(package.submodule_search_locations))) / "SyncNetInstance.py"
    spec = importlib.util.spec_from_file_location("syncnet_reference", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- equal to SyncNet's own script


def test_the_reading_is_that_of_syncnet_instance(
    network: Any, syncnet: SyncNet, clip: Path, frames: np.ndarray, pcm: np.ndarray
) -> None:
    options = types.SimpleNamespace(tmp_dir=str(clip), batch_size=20, vshift=MAX_SHIFT)
    offset, confidence, distance = reference().SyncNetInstance(network, device="cpu").evaluate(options)
    found = lse(frames[..., ::-1], pcm, syncnet)
    assert found.offset == offset
    assert found.confidence == pytest.approx(confidence, abs=1e-3)
    assert found.distance == pytest.approx(distance, abs=1e-3)
    assert found.confidence > 0.01
    assert found.windows == FRAMES - 5


def test_features_are_those_of_the_network_on_stacked_windows(
    network: Any, features: tuple[np.ndarray, np.ndarray], frames: np.ndarray, pcm: np.ndarray
) -> None:
    from python_speech_features import mfcc as reference_mfcc  # type: ignore[import-untyped]

    stacked = np.stack([frames[i : i + 5] for i in (0, 7, 21)]).transpose(0, 4, 1, 2, 3).astype(np.float32)
    steps = reference_mfcc(pcm, 16_000).T
    heard = np.stack([steps[None, :, 4 * i : 4 * i + 20] for i in (0, 7, 20)]).astype(np.float32)
    with torch.no_grad():
        picture, sound = network.forward_lip(torch.from_numpy(stacked)), network.forward_aud(torch.from_numpy(heard))
    assert features[0].shape == (FRAMES - 4, 1024)
    assert np.abs(features[0][[0, 7, 21]] - picture.numpy()).max() < 1e-4
    assert np.abs(features[1][[0, 7, 20]] - sound.numpy()).max() < 1e-4


@pytest.mark.parametrize("shift", [1, 7, 15])
def test_distances_are_those_of_calc_pdist(shift: int) -> None:
    rng = np.random.default_rng(1)
    seen, heard = (rng.normal(scale=0.4, size=(300, 1024)).astype(np.float32) for _ in range(2))
    theirs = torch.stack(reference().calc_pdist(torch.from_numpy(seen), torch.from_numpy(heard), shift)).numpy()
    found = read_offsets(seen, heard, shift)
    curve = theirs.mean(axis=0, dtype=np.float64)
    assert np.abs(found.curve - curve).max() < 1e-5
    assert np.abs(found.per_frame - (np.median(curve) - theirs[:, shift - found.offset])).max() < 1e-5


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 3333, 16_000, 99_999])
def test_mfccs_in_blocks_are_those_of_the_whole(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from python_speech_features import mfcc as reference_mfcc

    monkeypatch.setattr("evaluation.metrics.syncnet._BLOCK", 7)
    pcm = np.random.default_rng(0).integers(-20_000, 20_000, samples).astype(np.int16)
    theirs = reference_mfcc(pcm, 16_000)
    assert mfcc(pcm).shape == theirs.shape
    assert np.abs(mfcc(pcm) - theirs).max() < 1e-9


# ---- memory stays flat, numbers stay the same


@pytest.mark.parametrize("pieces", [[1] * FRAMES, [3, 20, 3], [0, 12, 14]])
def test_features_do_not_depend_on_how_frames_come(
    pieces: list[int], syncnet: SyncNet, frames: np.ndarray, features: tuple[np.ndarray, np.ndarray]
) -> None:
    lips = LipStream(syncnet)
    for start, count in zip(np.cumsum([0, *pieces]), pieces, strict=False):
        lips.add(frames[start : start + count])
    assert np.array_equal(lips.features(), features[0])


def test_frames_may_follow_after_features_were_asked_for(
    syncnet: SyncNet, frames: np.ndarray, features: tuple[np.ndarray, np.ndarray]
) -> None:
    lips = LipStream(syncnet)
    lips.add(frames[:4])
    assert lips.features().shape == (0, 1024)
    lips.add(frames[4:11])
    assert lips.features().shape == (7, 1024)
    lips.add(frames[11:])
    assert np.abs(lips.features() - features[0]).max() < 1e-4


def test_a_network_is_left_as_it_was(network: Any) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    SyncNet(network, precision="bf16")
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_bf16_is_near(network: Any, syncnet: SyncNet, frames: np.ndarray, pcm: np.ndarray) -> None:
    exact, near = (lse(frames[:12, ..., ::-1], pcm, net) for net in (syncnet, SyncNet(network, precision="bf16")))
    assert near.distance == pytest.approx(exact.distance, rel=0.02)
    assert near.distance != exact.distance


# ---- traps of the definition


def matched(late: int, count: int = 60) -> Lse:
    """Features of sound that comes ``late`` windows after its picture."""
    vectors = np.random.default_rng(0).normal(scale=0.3, size=(count + 60, 1024)).astype(np.float32)
    return read_offsets(vectors[30 : 30 + count], vectors[30 - late : 30 - late + count])


@pytest.mark.parametrize("late", [-15, -3, 0, 3, 15])
def test_sound_that_comes_late_has_a_negative_offset(late: int) -> None:
    found = matched(late)
    assert found.offset == -late
    assert int(np.argmin(found.curve)) == MAX_SHIFT + late
    assert found.distance_at_0 == pytest.approx(float(found.curve[MAX_SHIFT]))
    assert (found.distance_at_0 == found.distance) == (late == 0)
    assert found.flags == (("offset_at_edge",) if abs(late) == 15 else ())
    assert found.per_frame.shape == (60,)


def test_late_sound_is_late_by_its_samples_too(
    syncnet: SyncNet, pcm: np.ndarray, features: tuple[np.ndarray, np.ndarray]
) -> None:
    delayed = syncnet.hear(np.concatenate([np.zeros(3 * 640, np.int16), pcm]))
    heard = features[1]
    assert np.abs(delayed[4 : 4 + len(heard) - 2] - heard[1:-1]).max() < 1e-3
    assert read_offsets(heard[1:18], delayed[1:18]).offset == -3


def test_few_windows_are_flagged_since_zeros_beyond_the_ends_lower_confidence() -> None:
    short, enough, long = matched(0, 19), matched(0, 20), matched(0, 60)
    assert short.flags == ("few_windows",)
    assert enough.flags == ()
    assert short.confidence < long.confidence


def test_colour_order_and_range_change_the_value(syncnet: SyncNet, frames: np.ndarray, pcm: np.ndarray) -> None:
    rgb = frames[:12, ..., ::-1]
    right, swapped, scaled = (
        lse(crops, pcm, syncnet) for crops in (rgb, np.ascontiguousarray(rgb[..., ::-1]), rgb // 255)
    )
    assert abs(swapped.distance - right.distance) > 0.01
    assert abs(scaled.distance - right.distance) > 0.01


def test_crops_are_resized_as_the_scripts_do() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    bgr = np.ascontiguousarray(crops[..., ::-1])
    assert np.array_equal(lip_frames(crops), np.stack([cv2.resize(frame, (224, 224)) for frame in bgr]))


@pytest.mark.parametrize(
    ("frames", "samples", "windows"), [(10, 6400, 5), (50, 6400, 5), (25, 16_639, 20), (25, 15_999, 19)]
)
def test_windows_are_one_fewer_than_fit_into_the_shorter(frames: int, samples: int, windows: int) -> None:
    assert count_windows(frames, samples) == windows


# ---- refusals


def test_under_10_frames_are_refused(syncnet: SyncNet, frames: np.ndarray, pcm: np.ndarray) -> None:
    for count, samples in ((9, len(pcm)), (FRAMES, 6399)):
        with pytest.raises(UsageError, match="needs 10 frames of picture and sound, not 9"):
            lse(frames[:count], pcm[:samples], syncnet)


def test_arrays_of_another_type_or_shape_are_refused(syncnet: SyncNet, frames: np.ndarray, pcm: np.ndarray) -> None:
    with pytest.raises(UsageError, match="crops uint8"):
        lse(frames.astype(np.float32), pcm, syncnet)
    with pytest.raises(UsageError, match=r"224, 224, 3\], not uint8 \[\d+, 200"):
        syncnet.see(frames[:, :200])
    with pytest.raises(UsageError, match=r"int16 \[n\]"):
        syncnet.hear(pcm / 32768)
    with pytest.raises(UsageError, match="do not pair"):
        read_offsets(np.zeros((5, 8), np.float32), np.zeros((4, 8), np.float32))


def test_missing_weights_or_package_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(WeightsError, match="g4g-prep weights fetch syncnet-v2"):
        SyncNet()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependency, match="syncnet-python"):
        SyncNet()


def test_an_unknown_precision_is_refused(network: Any) -> None:
    with pytest.raises(UsageError, match="fp16"):
        SyncNet(network, precision="fp16")  # type: ignore[arg-type]


def test_the_package_itself_is_not_imported() -> None:
    code = (
        "import sys; from evaluation.metrics.syncnet import untrained; "
        "untrained(); print('syncnet_python' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


# ---- the published value


def test_the_example_of_syncnet_reads_as_published(clips: Path) -> None:
    """README of joonson/syncnet_python: offset 3, distance 5.353, confidence 10.021."""
    if weights.status("syncnet-v2") != "ok":
        pytest.skip("no SyncNet weights: g4g-prep weights fetch syncnet-v2")
    import av

    video = clips / "sync" / "syncnet_example.avi"
    with av.open(str(video)) as container:
        frames = np.stack([frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)])
    with av.open(str(video)) as container:
        pcm = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    found = lse(frames[..., ::-1], pcm, SyncNet())
    assert found.offset == 3
    assert found.distance == pytest.approx(5.353, abs=0.1)
    assert found.confidence == pytest.approx(10.021, abs=0.1)
