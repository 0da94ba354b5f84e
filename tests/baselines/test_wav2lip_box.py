"""Where Wav2Lip cuts the face out of a crop: S3FD's box and chin padding, placed by the points that do not speak."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.wav2lip.box import boxes_of, cut_out, outside, put_in
from g4g_core.protocols import POSE_POINTS
from prep.stages.crop import FACE_HALF
from prep.stages.geometry import MEAN_FACE
from prep.stages.masks import erase_region, mouth_regions

SIZE = 256
UNIT = SIZE / (2.8 * FACE_HALF)
"""Distance of the outer eye corners in a crop whose face has the size of its track's median, px."""


def face(unit: float = UNIT, shift: tuple[float, float] = (0.0, 0.0), angle: float = 0.0) -> np.ndarray:
    """float64 [68, 2]: a face in the middle of the crop, as ``crop/1`` cuts it."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    origin = np.array([SIZE / 2 - 0.5, SIZE / 2.8 - 0.42 * UNIT - 0.5])
    return np.asarray(MEAN_FACE @ turn.T * unit + origin + shift)


def box(points: np.ndarray, size: int = SIZE) -> list[int]:
    return boxes_of(points[None, POSE_POINTS], size)[0].tolist()


def test_the_box_of_an_upright_face_is_where_it_is_computed_by_hand() -> None:
    """Half width 0.81; from the crop's upper edge over 1.94; the padding is 10/160 of the crop: 16 px."""
    unit = 256 / (2.8 * 0.97)
    side, height = 0.81 * unit, 1.94 * unit
    assert box(face()) == [round(128 - side), 0, round(128 + side), round(height + 16)] == [52, 0, 204, 199]


def test_the_box_moves_and_grows_with_the_face() -> None:
    x0, y0, x1, y1 = box(face(shift=(0, 40)))
    assert (y0, y1) == (40, 239)
    assert box(face(shift=(-12, 40))) == [x0 - 12, y0, x1 - 12, y1]
    small = box(face(unit=UNIT / 2, shift=(0, 40)))
    assert small[2] - small[0] == pytest.approx((x1 - x0) / 2, abs=1)
    assert small[3] - small[1] == pytest.approx((y1 - y0) / 2, abs=1)
    assert box((face() + 0.5) / 2 - 0.5, SIZE // 2) == pytest.approx([26, 0, 102, 99.5], abs=1)


def test_a_box_is_the_mean_of_its_frame_and_the_next_four_and_the_last_ones_share_theirs() -> None:
    steps = np.array([0, 10, 0, 20, 0, 30, 0, 0])
    boxes = boxes_of(np.stack([face(shift=(0, 30 + step))[POSE_POINTS] for step in steps]), SIZE)
    due = [30 + steps[min(i, 3) : min(i, 3) + 5].mean() for i in range(8)]
    np.testing.assert_allclose(boxes[:, 1], due, atol=0.51)
    assert (boxes[3:] == boxes[3]).all() and (boxes[:, 0] == boxes[0, 0]).all()
    few = boxes_of(np.stack([face(shift=(0, y))[POSE_POINTS] for y in (30, 40)]), SIZE)
    assert few[:, 1].tolist() == [35, 35]


@pytest.mark.parametrize("shift", [(-150, 0), (0, -120), (140, 140), (900, -900)])
def test_a_face_at_the_edge_has_a_box_inside_the_picture(shift: tuple[float, float]) -> None:
    x0, y0, x1, y1 = box(face(shift=shift))
    assert 0 <= x0 < x1 <= SIZE and 0 <= y0 < y1 <= SIZE


@pytest.mark.parametrize("angle", [0.0, 0.15, -0.15])
def test_the_box_holds_the_mouth_and_most_of_what_is_erased(angle: float) -> None:
    points = face(angle=angle)
    x0, y0, x1, y1 = box(points)
    lips, mouth, _ = mouth_regions(points, SIZE)
    assert lips[y0:y1, x0:x1].sum() == lips.sum()
    assert mouth[y0:y1, x0:x1].sum() > 0.99 * mouth.sum()
    erase = erase_region(points, SIZE)[None]
    left = outside(erase, np.array([[x0, y0, x1, y1]]))
    assert 0 < left.sum() < 0.2 * erase.sum()
    assert not left[0, y0:y1, x0:x1].any() and (left <= erase).all()
    assert left.sum() + erase[0, y0:y1, x0:x1].sum() == erase.sum()


def test_what_is_cut_out_is_put_back_where_it_was() -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    smooth = np.stack([127 + 120 * np.sin(x / 40), 127 + 120 * np.cos(y / 37), (x + y) / 2], -1).astype(np.uint8)
    pictures = np.stack([smooth, 255 - smooth])
    boxes = np.array([[52, 0, 204, 199], [40, 30, 190, 240]])
    faces = cut_out(pictures, boxes, 96)
    assert faces.shape == (2, 96, 96, 3) and faces.dtype == np.uint8

    back = put_in(np.zeros_like(pictures), boxes, faces)
    for whole, picture, (x0, y0, x1, y1) in zip(back, pictures, boxes, strict=True):
        inside = np.abs(whole[y0:y1, x0:x1].astype(int) - picture[y0:y1, x0:x1])
        assert inside.mean() < 1 and inside.max() < 9
        whole[y0:y1, x0:x1] = 0
        assert not whole.any()


def test_the_face_is_squashed_to_a_square() -> None:
    picture = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    picture[0, 100:, 100:150] = 255
    face_of = cut_out(picture, np.array([[100, 0, 200, 200]]), 96)[0, ..., 0]
    assert (face_of[50:, :46] == 255).all() and not face_of[:46].any() and not face_of[:, 50:].any()
