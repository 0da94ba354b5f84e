"""The embedded lip-sync experts: what they see and hear, that NumPy computes what torch trained, what they read."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from building import build

from g4g_core.errors import UsageError, WeightsError
from prep.records import SAMPLES_PER_FRAME
from prep.shards.access import SampleReader
from prep.shards.index import Dataset
from prep.stages import sync
from prep.stages.geometry import MEAN_FACE, canonical_to_frame
from prep.sync_expert import infer, reading
from prep.sync_expert.audio import _filters, audio_windows, spectrogram
from prep.sync_expert.design import DESIGNS, SYNC_A, SYNC_B, Design
from prep.sync_expert.footage import Footage, read_footage
from prep.sync_expert.judge import judge
from prep.sync_expert.mouths import PATCH, mouth_patch, mouth_patches
from prep.sync_expert.reading import MAX_SHIFT, Compared, read

both = pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, sample_hdtf_clips: list[Path]) -> Dataset:
    """The sample's 512 px clips as a data set with crops of 128 px."""
    out = tmp_path_factory.mktemp("sync") / "out"
    build(sample_hdtf_clips[0].parent, out, size=128, shard_mb=50)
    return Dataset.open(str(out))


@pytest.fixture(scope="module")
def talking(shards: Dataset) -> list[Footage]:
    return read_footage(shards, shards.splits, quiet=True)


def random_weights(design: Design, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        for name, shape in infer.shapes(design).items()
    }


def experts() -> list[infer.Expert]:
    return [infer.load(name) for name in DESIGNS]


# ---- pictures


def a_face(side: int = 256, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture and points of a face in it."""
    rng = np.random.default_rng(seed)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (side, side), dtype=np.uint8), (0, 0), side / 25)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    return picture, MEAN_FACE * (0.37 * side) + (0.5 * side, 0.32 * side)


def test_a_mouth_picture_depends_on_pose_points_alone() -> None:
    picture, points = a_face()
    crops = np.repeat(picture[None, :, :, None], 3, axis=3)
    moved = points.copy()
    moved[:17] += 9
    moved[48:] -= 7
    assert np.array_equal(mouth_patches(crops, points[None]), mouth_patches(crops, moved[None]))
    moved[36:48] += 9
    assert not np.array_equal(mouth_patches(crops, points[None]), mouth_patches(crops, moved[None]))


@pytest.mark.parametrize("factor", [0.25, 0.5, 3.0, 7.0])
def test_a_mouth_picture_looks_alike_at_any_size_of_the_face(factor: float) -> None:
    picture, points = a_face()
    side = round(len(picture) * factor)
    mode = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(picture, (side, side), interpolation=mode)
    one = mouth_patch(picture, canonical_to_frame(points)).astype(int)
    other = mouth_patch(scaled, canonical_to_frame((points + 0.5) * factor - 0.5)).astype(int)
    assert np.abs(one - other).mean() < 2.5


def test_a_mouth_at_the_edge_of_a_large_picture_repeats_the_edge() -> None:
    picture, points = a_face(2000)
    patch = mouth_patch(picture, canonical_to_frame(points + (0, 900)))
    assert patch.shape == (PATCH, PATCH)
    assert np.ptp(patch[-8:].astype(int), axis=0).max() <= 1


# ---- sound


@pytest.mark.slow  # librosa takes 15 s to be imported
@both
def test_filters_are_the_htk_triangles_of_librosa(design: Design) -> None:
    import librosa

    front = design.front
    theirs = librosa.filters.mel(
        sr=16000, n_fft=512, n_mels=front.bands, fmin=front.low, fmax=front.high, htk=True, norm=None
    )
    assert np.allclose(_filters(front), theirs.T, atol=1e-5)


@both
def test_a_spectrogram_is_levelled_and_does_not_mind_loudness(design: Design) -> None:
    pcm = (np.random.default_rng(0).normal(size=16_000) * 6000).clip(-32768, 32767).astype(np.int16)
    mel = spectrogram(pcm, design.front)
    assert mel.shape == (100, design.front.bands)
    assert np.abs(mel.mean(axis=0)).max() < 1e-4
    assert abs(float(mel.std()) - 1) < 0.01
    assert np.abs(spectrogram((pcm // 4).astype(np.int16), design.front) - mel).max() < 0.15


@both
def test_sound_windows_begin_with_their_frames_and_end_with_the_sound(design: Design) -> None:
    mel = np.arange(4 * 30, dtype=np.float32)[:, None].repeat(design.front.bands, axis=1)
    windows = audio_windows(mel, design)
    assert windows.shape == (30 - design.frames + 1, design.front.bands, design.columns)
    assert windows[5, 0, 0] == 20
    assert windows[-1, 0, -1] == 119
    assert len(audio_windows(mel[: design.columns - 1], design)) == 0


# ---- networks


@both
def test_numpy_computes_what_torch_trained(design: Design) -> None:
    """Folded normalisation and motion included: random weights, random statistics."""
    torch = pytest.importorskip("torch")
    from prep.sync_expert.network import Towers

    torch.manual_seed(1)
    towers = Towers(design)
    for module in towers.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    towers.eval()
    expert = infer.Expert(design, towers.weights())
    rng = np.random.default_rng(2)
    patches = rng.integers(0, 256, (20, PATCH, PATCH), dtype=np.uint8)
    pcm = rng.integers(-9000, 9000, 20 * SAMPLES_PER_FRAME).astype(np.int16)
    inner = torch.from_numpy(infer.central(patches).astype(np.float32) / 255)
    with torch.no_grad():
        seen = towers.see(inner.unfold(0, design.frames, 1).permute(0, 3, 1, 2))
        heard = towers.hear(torch.from_numpy(audio_windows(spectrogram(pcm, design.front), design).copy()))
    assert np.abs(expert.see(patches) - seen.numpy()).max() < 1e-4
    assert np.abs(expert.hear(pcm) - heard.numpy()).max() < 1e-4


@both
def test_embeddings_have_norm_1_and_do_not_depend_on_the_batch(
    design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert = infer.Expert(design, random_weights(design))
    rng = np.random.default_rng(3)
    patches = rng.integers(0, 256, (50, PATCH, PATCH), dtype=np.uint8)
    seen = expert.see(patches)
    assert np.allclose(np.linalg.norm(seen, axis=1), 1, atol=1e-5)
    middles = design.middles(50)[3::7]
    assert np.abs(expert.see(patches, middles) - seen[3::7]).max() < 1e-5
    monkeypatch.setattr(infer, "_BATCH", 5)
    assert np.abs(expert.see(patches) - seen).max() < 1e-5


@both
def test_too_few_frames_give_no_embedding(design: Design) -> None:
    expert = infer.Expert(design, random_weights(design))
    assert expert.see(np.zeros((design.frames - 1, PATCH, PATCH), np.uint8)).shape == (0, 64)
    assert expert.hear(np.zeros(SAMPLES_PER_FRAME * (design.frames - 1), np.int16)).shape == (0, 64)


def test_weights_of_another_expert_are_refused_by_name() -> None:
    with pytest.raises(WeightsError, match=r"no weights of sync-b: .* is \("):
        infer.Expert(SYNC_B, random_weights(SYNC_A))


def test_a_missing_or_broken_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    for name in ("absent.safetensors", "broken.safetensors"):
        with pytest.raises(WeightsError, match="weights of sync-a cannot be read") as caught:
            infer.load("sync-a", str(tmp_path / name))
        assert "g4g-model train --model sync-a" in str(caught.value)
    with pytest.raises(UsageError, match="no sync expert 'sync-c'"):
        infer.load("sync-c")


def test_the_weights_that_ship_are_small_and_their_front_ends_differ() -> None:
    folder = Path(infer.__file__).parent / "data"
    files = sorted(folder.glob("*.safetensors"))
    assert [file.stem for file in files] == ["sync-a", "sync-b"]
    assert sum(file.stat().st_size for file in files) <= 4_000_000
    assert SYNC_A.front != SYNC_B.front
    assert (SYNC_A.frames, SYNC_A.sees) != (SYNC_B.frames, SYNC_B.sees)


# ---- readings


def matched(offset: int, count: int = 60) -> Compared:
    """Random embeddings whose sound leads by ``offset`` windows."""
    vectors = np.random.default_rng(0).normal(size=(count + 80, 64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Compared(vectors[40 : 40 + count], vectors[40 + offset : 40 + offset + count], np.arange(count))


@pytest.mark.parametrize("offset", [-15, -7, 0, 1, 12, 15])
def test_an_offset_is_found_with_its_sign(offset: int) -> None:
    found = read([matched(offset)])
    assert found is not None
    assert found.offset == offset
    assert found.distance < 1e-3
    assert found.confidence > 1
    assert found.at_edge == (abs(offset) == MAX_SHIFT)
    assert (found.score > 1) == (abs(offset) <= reading.IN_SYNC)
    assert found.curve.shape == (31,)
    partners = (np.arange(60) - offset >= 0) & (np.arange(60) - offset < 60)
    assert np.array_equal(np.isfinite(found.per_window), partners)


def test_shifts_with_too_little_in_common_are_not_compared() -> None:
    found = read([matched(0, count=12)])
    assert found is not None
    assert np.isfinite(found.curve).sum() == 2 * (12 - reading.MIN_WINDOWS) + 1
    assert read([matched(0, count=reading.MIN_WINDOWS - 1)]) is None


def test_two_experts_are_read_by_their_mean() -> None:
    one, other = matched(3), matched(3)
    noisy = dataclasses.replace(other, seen=np.roll(other.seen, 7, axis=0))
    alone, together = read([one]), read([one, noisy])
    assert alone is not None
    assert together is not None
    assert together.offset == 3
    assert together.confidence == pytest.approx(alone.confidence / 2, abs=0.06)


# ---- the experts that ship, on the sample


def test_the_sample_is_read_as_in_sync_by_each_and_by_both(talking: list[Footage]) -> None:
    for shot in talking:
        for judges in (experts()[:1], experts()[1:], experts()):
            found = infer.compare(judges, shot.patches, shot.pcm)
            assert found is not None
            assert abs(found.offset) <= 1, shot.key


@pytest.mark.parametrize("shift", [-12, -5, 3, 9, 12])
def test_the_reading_follows_an_injected_shift(talking: list[Footage], shift: int) -> None:
    for shot in talking:
        for expert in experts():
            before = infer.compare([expert], shot.patches, shot.pcm)
            after = infer.compare([expert], shot.patches, sync.shifted(shot.pcm, shift))
            assert before is not None
            assert after is not None
            assert abs(after.offset - (before.offset - shift)) <= 1


def test_frozen_and_shuffled_mouths_score_below_the_truth(talking: list[Footage]) -> None:
    for shot in talking:
        order = np.random.default_rng(0).permutation(shot.frames)
        frozen = shot.patches[:1].repeat(shot.frames, axis=0)
        truth, *worse = (
            infer.compare(experts(), patches, shot.pcm) for patches in (shot.patches, frozen, shot.patches[order])
        )
        assert truth is not None
        for found in worse:
            assert found is not None
            assert found.score < truth.score


def test_confidence_falls_as_more_of_the_sound_is_another_clips(talking: list[Footage]) -> None:
    means = []
    for part in (0.0, 0.5, 1.0):
        found = []
        for shot, other in zip(talking, [*talking[1:], talking[0]], strict=True):
            pcm = shot.pcm.copy()
            end = int(len(pcm) * part)
            pcm[:end] = np.resize(other.pcm, len(pcm))[:end]
            result = infer.compare(experts(), shot.patches, pcm)
            assert result is not None
            found.append(result.confidence)
        means.append(np.mean(found))
    assert means[0] > means[1] > means[2]


def test_the_judge_reads_crops_of_any_size(shards: Dataset) -> None:
    row = shards.rows(shards.splits[0])[0]
    reader = SampleReader(shards)
    crops, points, pcm = reader.frames(row, range(row.n_frames)), reader.landmarks(row, raw=True), reader.pcm(row)
    whole = judge(crops, points, pcm)
    assert whole is not None
    assert whole.windows == row.n_frames - SYNC_B.frames + 1
    small = np.stack([cv2.resize(crop, (64, 64), interpolation=cv2.INTER_AREA) for crop in crops])
    again = judge(small, (points + 0.5) / 2 - 0.5, pcm)
    assert again is not None
    assert abs(again.offset - whole.offset) <= 1
    assert abs(again.score - whole.score) < 0.15


def test_the_judge_refuses_arrays_that_do_not_belong_together() -> None:
    crops, points = np.zeros((10, 32, 32, 3), np.uint8), np.zeros((10, 68, 2))
    pcm = np.zeros(6400, np.int16)
    for arguments, message in (
        ((crops.astype(np.float32), points, pcm), "uint8"),
        ((crops, points[:9], pcm), r"\[10, 68, 2\]"),
        ((crops, points, pcm[:6000]), r"int16 \[6400\]"),
        ((crops, points, pcm.astype(np.float32)), "int16"),
    ):
        with pytest.raises(UsageError, match=message):
            judge(*arguments)  # type: ignore[arg-type]


def test_reading_sync_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np; from prep.stages import sync;"
        "heard = sync.hear(np.ones(640 * 40, np.int16));"
        "print(sync.measure(np.zeros((40, 64, 64), np.uint8), 0, heard).estimator, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["sync-a+sync-b", "False"]
