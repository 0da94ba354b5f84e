"""LSE of whole frames: SyncNet's own crop, one face's track, and the three places of LSE as measures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from building import footage_of

from evaluation.metrics import lse as lse_module
from evaluation.metrics import lse_frames
from evaluation.metrics.base import Block, Context
from evaluation.metrics.lse import LseMeasure, lse
from evaluation.metrics.lse_frames import LrsMeasure, S3fdMeasure, one_track, smoothed_boxes, syncnet_crop

pytest.importorskip("syncnet_python")


def test_the_crop_is_the_one_computed_by_hand() -> None:
    """A box of centre (100, 80) and half side 50: columns 30 to 170, rows 30 to 170."""
    frame = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)

    assert (syncnet_crop(frame, 100, 80, 50) == cv2.resize(frame[30:170, 30:170], (224, 224))).all()


def test_beyond_the_frame_the_crop_is_grey_110() -> None:
    """A box of half side 50 around the corner (0, 0): rows -50 to 90, columns -70 to 70."""
    frame = np.full((200, 200, 3), 255, np.uint8)
    expected = np.full((140, 140, 3), 110, np.uint8)
    expected[50:, 70:] = 255

    assert (syncnet_crop(frame, 0, 0, 50) == cv2.resize(expected, (224, 224))).all()


def test_the_half_side_is_that_of_the_longer_side_and_all_are_median_filtered() -> None:
    boxes = np.tile([10.0, 20.0, 50.0, 80.0], (40, 1))
    boxes[20] = (0, 0, 4, 4)  # one frame in which the detector erred

    found = smoothed_boxes(boxes)

    assert found[20] == pytest.approx((30.0, 50.0, 30.0))
    assert found[5:35] == pytest.approx(np.tile((30.0, 50.0, 30.0), (30, 1)))


def test_a_track_follows_one_face_over_short_gaps() -> None:
    large, small = [10, 10, 60, 60, 0.99], [100, 10, 120, 30, 0.99]
    frames = (
        [np.array([small, large], float)] + [np.zeros((0, 5))] * 3 + [np.array([np.add(large, [8, 0, 8, 0, 0]), small])]
    )

    track = one_track(frames)

    assert track is not None and track[:, 0] == pytest.approx([10, 12, 14, 16, 18])
    assert one_track([np.zeros((0, 5))] * 4) is None
    assert one_track([frames[0], *[np.zeros((0, 5))] * 26, frames[0]]) is None
    assert one_track([frames[0], *[np.array([small], float)] * 3]) is not None  # another face is not taken for it


@pytest.fixture(scope="module")
def syncnet() -> Any:
    import torch

    from evaluation.metrics.syncnet import SyncNet, untrained

    torch.manual_seed(0)
    return SyncNet(untrained().eval())


@pytest.fixture
def seeded(syncnet: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """SyncNet with random weights where the registry's would be."""
    monkeypatch.setattr(lse_module, "pretrained", lambda precision: syncnet)
    monkeypatch.setattr(lse_frames, "pretrained", lambda precision: syncnet)
    return syncnet


@pytest.fixture(scope="module")
def clip(videos: Path) -> tuple[np.ndarray, np.ndarray]:
    return footage_of(videos / "person0.mp4")


def context(clip: tuple[np.ndarray, np.ndarray]) -> Context:
    pictures, pcm = clip
    frames = lambda: iter(pictures)  # noqa: E731
    return Context(160, len(pictures), pcm, False, False, "fp32", lambda name: None, frames)


def blocks(pictures: np.ndarray) -> Iterator[Block]:
    for start in range(0, len(pictures), 10):
        part = pictures[start : start + 10]
        plane, points = np.zeros(part.shape[:3], np.uint8), np.zeros((len(part), 68, 2), np.float32)
        yield Block(start, part, part, plane, points, np.ones(len(part), bool), False)


def test_crops_of_the_shards_are_measured_as_the_function_measures_them(clip: Any, seeded: Any) -> None:
    session = LseMeasure().start(context(clip))
    for block in blocks(clip[0]):
        session.add(block)
    found, due = session.result(), lse(*clip, seeded)

    assert found.values == pytest.approx(
        {
            "lse_d@crop1": due.distance, "lse_c@crop1": due.confidence, "av_offset@crop1": due.offset,
            "lse_d0@crop1": due.distance_at_0,
        }, abs=1e-4,
    )  # fmt: skip
    assert len(found.curves["lse"]) == 31 and found.curves["lse"] == pytest.approx(due.curve[::-1].tolist(), abs=1e-3)
    assert found.flags == due.flags


def test_whole_frames_are_measured_as_wav2lip_s_script_resizes_them(clip: Any, seeded: Any) -> None:
    found, due = LrsMeasure().start(context(clip)).result(), lse(*clip, seeded)

    assert found.values["lse_d@lrs"] == pytest.approx(due.distance, abs=1e-4)
    assert found.values["av_offset@lrs"] == due.offset


def test_faces_found_by_s3fd_are_cropped_and_measured(clip: Any, seeded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Detector:
        def boxes(self, frame: np.ndarray) -> np.ndarray:
            return np.array([[45.0, 30.0, 115.0, 125.0, 0.99]])

    monkeypatch.setattr(lse_frames, "_s3fd", Detector)
    boxes = smoothed_boxes(np.tile([45.0, 30.0, 115.0, 125.0], (len(clip[0]), 1)))
    crops = np.stack([syncnet_crop(frame, *place) for frame, place in zip(clip[0], boxes, strict=True)])
    due = lse(crops, clip[1], seeded)

    found = S3fdMeasure().start(context(clip)).result()

    assert found.values["lse_d@s3fd"] == pytest.approx(due.distance, abs=1e-4)


def test_a_video_without_a_face_is_a_reason(clip: Any, seeded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind:
        def boxes(self, frame: np.ndarray) -> np.ndarray:
            return np.zeros((0, 5))

    monkeypatch.setattr(lse_frames, "_s3fd", Blind)

    found = S3fdMeasure().start(context(clip)).result()

    assert not found.values and {code for code, _ in found.missing.values()} == {"no_face_track"}


@pytest.mark.parametrize("measure", [LseMeasure(), LrsMeasure(), S3fdMeasure()], ids=lambda measure: measure.name)
def test_under_ten_frames_there_is_a_reason_and_no_number(measure: Any, clip: Any, seeded: Any) -> None:
    short = (clip[0][:9], clip[1][: 640 * 9])
    session = measure.start(context(short))
    for block in blocks(short[0]):
        session.add(block)
    found = session.result()

    assert not found.values and {code for code, _ in found.missing.values()} == {"too_few_frames"}
