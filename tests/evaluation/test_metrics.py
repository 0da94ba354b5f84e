"""Each metric against its reference implementation, and under transformations whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from evaluating import InProcess, evaluated

from evaluation.metrics import METRICS
from evaluation.metrics.base import FACE, Block, Context, Measured, values_of
from evaluation.metrics.identity import cosine, embed
from evaluation.metrics.judge import JudgeMeasure
from evaluation.metrics.landmarks import LandmarkMeasure, fit, landmark_distance
from evaluation.metrics.psnr import FACE_PSNR, PsnrMeasure, psnr
from evaluation.metrics.ssim import SsimMeasure, ssim, ssim_map
from evaluation.metrics.temporal import TemporalMeasure, flicker, motion_energy
from g4g_core.errors import UsageError
from prep.shards.access import SampleReader
from prep.shards.index import Dataset
from prep.shards.schema import MaskBit
from prep.stages.geometry import MOUTH


@pytest.fixture(scope="module")
def sample(shards: str) -> dict[str, Any]:
    """Frames, points, masks and sound of one rendered person."""
    dataset = Dataset.open(shards)
    row, reader = dataset.rows("test")[0], SampleReader(dataset)
    frames = np.arange(row.n_frames)
    return {
        "pictures": reader.frames(row, frames), "landmarks": reader.landmarks(row), "masks": reader.masks(row, frames),
        "pcm": reader.pcm(row),
    }  # fmt: skip


def block_of(sample: dict[str, Any], output: np.ndarray, first: int = 0, n: int | None = None) -> Block:
    part = slice(first, None if n is None else first + n)
    pictures = sample["pictures"][part]
    return Block(
        first, output[part], pictures, sample["masks"][part], sample["landmarks"][part], np.ones(len(pictures), bool),
        output is sample["pictures"],
    )  # fmt: skip


def measured(measure: Any, sample: dict[str, Any], output: np.ndarray, cuts: tuple[int, ...] = ()) -> dict[str, float]:
    """Values of a measure of ``output``, given in blocks that end at ``cuts``."""
    session = measure.start(Context(256, len(output), sample["pcm"], True, False))
    edges = [0, *cuts, len(output)]
    for start, stop in zip(edges, edges[1:], strict=False):
        session.add(block_of(sample, output, start, stop - start))
    return dict(session.result().values)


# ---------------------------------------------------------------- PSNR, SSIM


def test_black_against_white_is_zero_decibels_and_equal_pictures_are_infinite() -> None:
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)

    assert psnr(black, white) == 0.0
    assert psnr(black, black) == float("inf")


def test_psnr_equals_scikit_image_and_does_not_wrap_on_bytes() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)

    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-4)
    assert psnr(a, b) == pytest.approx(psnr(a.astype(np.float64), b.astype(np.float64)), abs=1e-5)
    assert psnr(a, b) < 10  # differences that wrap modulo 256 would give 27.9


@pytest.mark.parametrize("shape", [(11, 11), (64, 80), (40, 51, 3), (183, 183, 3)])
def test_ssim_equals_scikit_image(shape: tuple[int, ...]) -> None:
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, shape, dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 20, shape), 0, 255).astype(np.uint8)
    options: dict[str, Any] = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 255,
    }
    options["channel_axis"] = -1 if len(shape) == 3 else None

    mean, full = structural_similarity(a, b, full=True, **options)

    assert ssim(a, b) == pytest.approx(mean, abs=1e-9)
    assert np.abs(ssim_map(a, b) - full).max() < 1e-9
    assert ssim(a, a) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_pictures_of_different_sizes_are_refused(metric: Any) -> None:
    with pytest.raises(UsageError, match="one size"):
        metric(np.zeros((20, 20, 3)), np.zeros((20, 21, 3)))


def test_regions_see_damage_where_it_is(sample: dict[str, Any]) -> None:
    mouth = sample["pictures"].copy()
    mouth[(sample["masks"] & MaskBit.MOUTH) > 0] = 0
    forehead = sample["pictures"].copy()
    forehead[:, 5:15, 100:150] = 0

    in_mouth = measured(PsnrMeasure(), sample, mouth) | measured(SsimMeasure(), sample, mouth)
    above = measured(PsnrMeasure(), sample, forehead) | measured(SsimMeasure(), sample, forehead)

    assert in_mouth["psnr@mouth"] < in_mouth["psnr@face"] < 30
    assert above["psnr@mouth"] == 100  # nothing differs there, and a mean must stay finite
    assert above["ssim@mouth"] == pytest.approx(1.0) and in_mouth["ssim@mouth"] < above["ssim@mouth"]
    assert above["ssim@face"] < 1


def test_ssim_of_regions_is_the_mean_of_the_whole_map(sample: dict[str, Any]) -> None:
    output = np.stack([cv2.GaussianBlur(picture, (9, 9), 3) for picture in sample["pictures"][:4]])
    part = {name: values[:4] if name != "pcm" else values for name, values in sample.items()}
    maps = [ssim_map(a, b) for a, b in zip(output, part["pictures"], strict=True)]
    mouths = (part["masks"] & MaskBit.MOUTH) > 0

    found = measured(SsimMeasure(), part, output)

    assert found["ssim@face"] == pytest.approx(np.mean([m[FACE] for m in maps]), abs=1e-9)
    inside = np.concatenate([m[mouth].ravel() for m, mouth in zip(maps, mouths, strict=True)])
    assert found["ssim@mouth"] == pytest.approx(inside.mean(), abs=1e-9)


# ---------------------------------------------------------------- landmarks


def face(rng: np.random.Generator, n: int = 3) -> np.ndarray:
    from prep.stages.geometry import MEAN_FACE

    return np.asarray(MEAN_FACE * 60 + 128 + rng.normal(0, 1, (n, 68, 2)))


def test_landmark_distance_ignores_shift_scale_and_tilt() -> None:
    points = face(np.random.default_rng(0))
    turn = np.array([[0.94, -0.34], [0.34, 0.94]]) * 1.7
    carried = points @ turn.T + (31, -12)

    assert landmark_distance(carried, points) == pytest.approx(np.zeros(3), abs=1e-9)


def test_a_mouth_that_opens_counts_in_percent_of_the_eyes_distance() -> None:
    points = face(np.random.default_rng(0))
    eyes = np.linalg.norm(points[:, 45] - points[:, 36], axis=1)
    opened = points.copy()
    opened[:, MOUTH, 1] += 6

    assert landmark_distance(opened, points, MOUTH) == pytest.approx(100 * 6 / eyes)
    assert landmark_distance(opened, points) == pytest.approx(100 * 6 / eyes * 20 / 68)


def test_what_the_mouth_does_moves_no_other_point() -> None:
    points = face(np.random.default_rng(1))
    talking = points.copy()
    talking[:, MOUTH] *= 1.3

    assert landmark_distance(talking, points, slice(17, 48)) == pytest.approx(np.zeros(3), abs=1e-9)


def test_points_of_other_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\[n, 68, 2\]"):
        landmark_distance(np.zeros((2, 5, 2)), np.zeros((2, 5, 2)))


def test_fitting_finds_the_points_that_the_shard_holds(sample: dict[str, Any]) -> None:
    found = fit(sample["pictures"][:6], sample["landmarks"][:6])

    assert landmark_distance(found, sample["landmarks"][:6]).mean() < 3


def test_fitted_points_of_the_clip_are_used_again_and_change_nothing(sample: dict[str, Any]) -> None:
    shifted = np.roll(sample["pictures"], 4, axis=0)
    session = LandmarkMeasure().start(Context(256, len(shifted), sample["pcm"], True, True))
    session.add(block_of(sample, sample["pictures"]))
    known = session.result().features

    context = Context(256, len(shifted), sample["pcm"], True, False, "fp32", known.get)
    session = LandmarkMeasure().start(context)
    session.add(block_of(sample, shifted))

    assert session.result().values == measured(LandmarkMeasure(), sample, shifted)


# ---------------------------------------------------------------- identity


def test_a_face_is_itself_and_another_person_is_further_away(shards: str, sample: dict[str, Any]) -> None:
    dataset = Dataset.open(shards)
    other, reader = dataset.rows("test")[1], SampleReader(dataset)
    one = embed(sample["pictures"][:2], sample["landmarks"][:2])
    two = embed(reader.frames(other, [0]), reader.landmarks(other)[:1])

    assert cosine(one[0], one[0]) == pytest.approx(1.0)
    assert cosine(one[0], one[1]) > cosine(one[0], two[0])


def test_an_embedding_hardly_depends_on_where_the_face_stands(sample: dict[str, Any]) -> None:
    picture, points = sample["pictures"][0], sample["landmarks"][0]
    moved = np.roll(picture, (6, -9), axis=(0, 1))
    half = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
    found = embed(picture[None], points[None])[0]

    assert cosine(found, embed(moved[None], points[None] + (-9, 6))[0]) > 0.99
    assert cosine(found, embed(half[None], (points[None] + 0.5) / 2 - 0.5)[0]) > 0.97


# ---------------------------------------------------------------- motion


def test_a_frozen_mouth_has_no_motion_and_the_truth_has_all_of_it(sample: dict[str, Any]) -> None:
    frozen = np.repeat(sample["pictures"][:1], len(sample["pictures"]), axis=0)
    still = {**sample, "landmarks": np.repeat(sample["landmarks"][:1], len(frozen), axis=0)}

    assert measured(TemporalMeasure(), sample, sample["pictures"].copy()) == {"motion@mouth": 1.0, "flicker@mouth": 1.0}
    assert measured(TemporalMeasure(), still, frozen)["motion@mouth"] == 0.0


def test_motion_is_compared_within_runs_of_scored_frames_only(sample: dict[str, Any]) -> None:
    """The step from one prompt to the next lies in the gap: it is the harness's, and no model could avoid it."""
    n = len(sample["pictures"])
    halves = np.repeat(sample["pictures"][[0, 20]], [n // 2, n - n // 2], axis=0)
    still = {**sample, "landmarks": np.repeat(sample["landmarks"][:1], n, axis=0)}
    session = TemporalMeasure().start(Context(256, n, sample["pcm"], True, False))
    block = block_of(still, halves)
    block.scored[n // 2 - 3 : n // 2 + 3] = False
    session.add(block)

    assert session.result().values["motion@mouth"] == 0.0
    assert measured(TemporalMeasure(), still, halves)["motion@mouth"] > 0.0


def test_jitter_from_frame_to_frame_is_flicker(sample: dict[str, Any]) -> None:
    jitter = sample["pictures"].copy()
    jitter[::2] = np.clip(jitter[::2].astype(int) + 12, 0, 255)
    found = measured(TemporalMeasure(), sample, jitter)

    assert found["flicker@mouth"] > 1.5
    assert flicker(np.tile(np.arange(6.0)[:, None, None], (1, 4, 4))) == 0  # steady change does not flicker
    assert motion_energy(np.tile(np.arange(6.0)[:, None, None], (1, 4, 4))) == 1


# ---------------------------------------------------------------- the judge


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_the_judge_reads_an_injected_shift(late: int, sample_hdtf_clips: list[Path], tmp_path: Path) -> None:
    """Sound that is late by k frames reads -k beside what the clip itself reads."""
    from building import build

    root = tmp_path / "one"
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "clip.mp4").write_bytes(sample_hdtf_clips[0].read_bytes())
    build(folder, root, size=128)
    dataset = Dataset.open(str(root))
    (split,) = dataset.splits
    row, reader = dataset.rows(split)[0], SampleReader(dataset)
    pcm = reader.pcm(row)
    shifted = np.concatenate([np.zeros(max(0, 640 * late), np.int16), pcm[max(0, -640 * late) :]])
    pictures, points = reader.frames(row, np.arange(row.n_frames)), reader.landmarks(row)
    offsets = []
    for sound in (pcm, np.pad(shifted, (0, 640 * 20))[: len(pcm)]):
        session = JudgeMeasure().start(Context(128, len(pictures), sound, True, False))
        plane = np.zeros(pictures.shape[:3], np.uint8)
        session.add(Block(0, pictures, pictures, plane, points, np.ones(len(pictures), bool), False))
        offsets.append(session.result().values["sync_offset@judge"])

    assert offsets[1] - offsets[0] == -late


def test_too_few_frames_for_the_judge_are_a_reason_and_not_a_number(sample: dict[str, Any]) -> None:
    part = {name: values[:6] if name != "pcm" else values[: 640 * 6] for name, values in sample.items()}
    session = JudgeMeasure().start(Context(256, 6, part["pcm"], True, False))
    session.add(block_of(part, part["pictures"].copy()))
    found = session.result()

    assert not found.values and {code for code, _ in found.missing.values()} == {"too_few_frames"}


# ---------------------------------------------------------------- all


@pytest.mark.parametrize("measure", [PsnrMeasure(), SsimMeasure(), LandmarkMeasure(), JudgeMeasure()])
def test_values_do_not_depend_on_how_the_shot_is_cut_into_blocks(measure: Any, sample: dict[str, Any]) -> None:
    output = np.roll(sample["pictures"], 5, axis=0)

    whole, cut = measured(measure, sample, output), measured(measure, sample, output, (1, 3, 20))

    assert whole == pytest.approx(cut, rel=1e-9) and whole


def test_what_a_metric_says_of_itself_is_complete() -> None:
    from g4g_core import weights

    for metric in METRICS.values():
        assert metric.definition.endswith(".") and metric.name and metric.version >= 1
        assert metric.better in ("higher", "lower") or isinstance(metric.better, float)
        assert metric.kind in ("clip", "set")
        for name in metric.weights:
            weights.get(name)


def test_output_goes_through_the_shards_jpeg_once_and_the_clip_does_not_again(sample: dict[str, Any]) -> None:
    truth = block_of(sample, sample["pictures"])
    copy = block_of(sample, sample["pictures"].copy())
    frames = np.array([0, 1])
    direct = cv2.resize(sample["pictures"][0][FACE], (256, 256), interpolation=cv2.INTER_CUBIC)

    assert (truth.stored_faces(frames)[0] == direct).all()
    again = copy.stored_faces(frames)[0].astype(int)
    assert 0 < np.abs(again - direct).mean() < 1.0


# ---------------------------------------------------------------- values that are no scores


@pytest.mark.parametrize(
    ("value", "code"),
    [(1e300, "too_large"), (-2e100, "too_large"), (float("nan"), "not_finite"), (float("inf"), "not_finite")],
)
def test_a_value_that_is_no_score_is_missing_with_its_reason(value: float, code: str) -> None:
    context = Context(256, 10, np.zeros(6400, np.int16), True, False)
    for found in (values_of({FACE_PSNR: value}, context), Measured(values={FACE_PSNR.id: value, "other": 1.5})):
        assert found.missing[FACE_PSNR.id][0] == code
        assert FACE_PSNR.id not in found.values
    assert found.values == {"other": 1.5}
    assert values_of({FACE_PSNR: 1e99}, context).values == {FACE_PSNR.id: 1e99}


def test_one_absurd_score_costs_a_run_its_shot_and_not_its_summary(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluation.metrics import psnr as module

    real = module._decibels
    calls: list[float] = []

    def decibels(error: float, data_range: float) -> float:
        calls.append(error)
        absurd = error > 0 and not any(calls[:-1])  # the first of still's: the truth's are 0
        return -1e300 if absurd else real(error, data_range)

    monkeypatch.setattr(module, "_decibels", decibels)
    report = evaluated(shards, tmp_path / "run", InProcess(), models=["still"], metrics=["psnr"])
    (table,) = report.summary["tables"].values()
    cells = table["rows"]["still"]["cells"]
    assert {cells[name]["n"] for name in ("psnr@face", "psnr@mouth")} == {2, 3}
    assert all(0 < cells[name]["mean"] < 100 for name in ("psnr@face", "psnr@mouth"))


def test_an_absurd_score_of_an_earlier_version_is_refused_by_the_name_of_its_metric_and_model(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.metrics.base.LARGEST", float("inf"))
    monkeypatch.setattr("evaluation.metrics.psnr._decibels", lambda error, data_range: -1e300)
    with pytest.raises(UsageError, match=r"psnr@face of still for \S+ is -1e\+300, which is no score"):
        evaluated(shards, tmp_path / "run", InProcess(), models=["still"], metrics=["psnr"])
