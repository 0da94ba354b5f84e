"""Crops back into frames: where they were cut out, softly, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from prep.stages.crop import CropTrack
from prep.stages.frames import Frame, yuv_to_rgb
from prep.stages.paste import RING, feather, pasted, pasted_planes, rgb_to_yuv

SIZE = 96


def erase_box() -> np.ndarray:
    erase = np.zeros((SIZE, SIZE), np.uint8)
    erase[48:80, 24:72] = 1
    return erase


def affine(x: float, y: float, side: float) -> np.ndarray:
    one = np.array([1.0])
    return CropTrack(x * one, y * one, side * one, side * one).affine(SIZE)[0]


def smooth_frame(width: int = 320, height: int = 240, chroma: int = 2) -> Frame:
    """A frame of slow waves, so that cutting and pasting lose little."""
    ys, xs = np.mgrid[0:height, 0:width]
    y = 120 + 60 * np.sin(xs / 23) * np.cos(ys / 19)
    cy, cx = np.mgrid[0 : height // chroma, 0 : width // chroma] * chroma
    u, v = 128 + 30 * np.sin(cx / 41), 128 + 30 * np.cos(cy / 37)
    y, u, v = (np.rint(plane).astype(np.uint8) for plane in (y, u, v))
    return Frame(y, u, v, full_range=False, matrix="bt709")


@pytest.mark.parametrize("side", [50.0, 96.0, 173.3])
@pytest.mark.parametrize("chroma", [1, 2])
def test_a_crop_that_nobody_changed_goes_back_where_it_was(side: float, chroma: int) -> None:
    frame = smooth_frame(chroma=chroma)
    x, y = 70.3, 41.8
    crop = frame.crop_rgb(x, y, side, SIZE)

    back = pasted_planes(frame, crop, affine(x, y, side), erase_box())

    for before, after in zip((frame.y, frame.u, frame.v), (back.y, back.u, back.v), strict=True):
        assert np.abs(before.astype(int) - after).max() <= 6

    def error(dx: float, dy: float) -> float:
        moved = pasted_planes(frame, crop, affine(x + dx, y + dy, side), erase_box())
        return float(np.abs(frame.y.astype(int) - moved.y).mean())

    assert all(error(0, 0) < error(dx, dy) for dx, dy in [(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])


@pytest.mark.parametrize(("x", "y", "side"), [(70.3, 41.8, 60.0), (100.0, 50.0, 170.0), (-40.0, 120.5, 200.0)])
def test_what_is_erased_shows_the_crop_and_what_lies_beyond_the_ring_stays_bit_for_bit(
    x: float, y: float, side: float
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    untouched = frame.copy()
    crop = np.full((SIZE, SIZE, 3), (10, 200, 30), np.uint8)

    out = pasted(frame, crop, affine(x, y, side), erase_box())

    ys, xs = np.mgrid[0:240, 0:320]
    u, v = (xs + 0.5 - x) * SIZE / side - 0.5, (ys + 0.5 - y) * SIZE / side - 0.5
    distance = np.maximum(np.maximum(24 - u, u - 71), np.maximum(48 - v, v - 79))  # to the erased box, crop pixels
    assert (out[distance <= 0] == (10, 200, 30)).all()
    beyond = distance > RING * SIZE + 2
    assert (out[beyond] == frame[beyond]).all()
    assert (out != frame).any() and (frame == untouched).all()


def test_a_crop_wholly_outside_the_frame_changes_nothing() -> None:
    frame = np.zeros((50, 60, 3), np.uint8)
    crop = np.full((SIZE, SIZE, 3), 255, np.uint8)
    assert not pasted(frame, crop, affine(500, 500, 100), erase_box()).any()


def test_the_feather_falls_steadily_from_the_erased_region_and_ends_before_the_crop_does() -> None:
    alpha = feather(erase_box())
    assert (alpha[erase_box() > 0] == 1).all()
    row = alpha[60, :24][::-1]
    assert (np.diff(row) <= 0).all() and 0 < row[1] < 1 and row[round(RING * SIZE) + 1 :].max() == 0
    full = feather(np.ones((SIZE, SIZE), np.uint8))
    assert full[0].max() == full[:, -1].max() == 0 and full[SIZE // 2, SIZE // 2] == 1


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_survive_the_way_to_rgb_and_back(matrix: str, full_range: bool) -> None:
    yuv = np.random.default_rng(1).integers(100, 156, (40, 40, 3)).astype(np.uint8)
    rgb = yuv_to_rgb(yuv, full_range=full_range, matrix=matrix)
    again = rgb_to_yuv(rgb, full_range=full_range, matrix=matrix)
    assert np.abs(again.astype(int) - yuv).max() <= 1
