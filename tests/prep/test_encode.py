"""Pictures as bytes."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from prep.stages.encode import jpeg, png
from prep.stages.geometry import MEAN_FACE
from prep.stages.masks import mask_planes


def planes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "mask": mask_planes(MEAN_FACE[None] * 60 + (128, 80), 256)[0],
        "noise": rng.integers(0, 256, (64, 64), dtype=np.uint8),
        "empty": np.zeros((64, 64), np.uint8),
        "odd size": rng.integers(0, 16, (7, 501), dtype=np.uint8),
        "one pixel": np.array([[9]], np.uint8),
    }


@pytest.mark.parametrize("name", planes())
def test_a_png_is_read_back_by_opencv_and_by_pillow(name: str) -> None:
    plane = planes()[name]
    data = png(plane)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), plane)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), plane)


def test_a_mask_takes_little_room() -> None:
    assert len(png(planes()["mask"])) < 2500


def test_a_damaged_png_is_noticed() -> None:
    data = bytearray(png(planes()["mask"]))
    data[len(data) // 2] ^= 1
    with Image.open(io.BytesIO(bytes(data))) as image, pytest.raises((OSError, SyntaxError)):
        image.load()


def test_a_jpeg_keeps_colour_order_and_is_not_subsampled() -> None:
    """Fine red and blue stripes survive only without chroma subsampling."""
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:, ::2, 0] = 200
    rgb[:, 1::2, 2] = 200
    data = jpeg(rgb)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
        back = np.asarray(image).astype(int)
    assert np.abs(back - rgb).mean() < 6
    assert back[:, ::2, 0].mean() > 150
    assert back[:, 1::2, 0].mean() < 50


def test_a_jpeg_of_smooth_content_is_within_two_levels() -> None:
    y, x = np.mgrid[:256, :256]
    rgb = np.stack([128 + 80 * np.sin(x / 40), 128 + 60 * np.cos(y / 30), 100 + 0.3 * x], axis=2).astype(np.uint8)
    back = cv2.imdecode(np.frombuffer(jpeg(rgb), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(back.astype(int) - rgb).mean() < 1
    assert np.abs(back.astype(int) - rgb).max() <= 5
