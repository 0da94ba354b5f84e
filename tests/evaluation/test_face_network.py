from __future__ import annotations

import cv2
import numpy as np
import pytest

from evaluation.metrics.face_network import SIDE, FaceNetwork
from g4g_core import weights
from g4g_core.errors import WeightsError


@pytest.fixture(scope="module")
def stored() -> bytes:
    return weights.path("dlib-resnet").read_bytes()


def test_a_face_gets_the_numbers_that_dlib_gives_it(stored: bytes) -> None:
    import dlib

    theirs, ours = dlib.face_recognition_model_v1(str(weights.path("dlib-resnet"))), FaceNetwork(stored)
    rng = np.random.default_rng(0)
    for roughness in (4, 15, SIDE):
        noise = rng.integers(0, 256, (roughness, roughness, 3), np.uint8)
        chip = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        expected = np.array(theirs.compute_face_descriptor(chip))
        assert np.linalg.norm(expected) > 0.5
        np.testing.assert_allclose(ours(chip), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:400],
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"\x01\x04fc_2", b"\x01\x04fc_9"),
        lambda data: data.replace(b"con_4\x01\x02\x02 $", b"con_4\x01\x02\x02 %", 1),  # one weight more than there are
    ],
    ids=["empty", "its head", "its half", "another end", "another layer"],
)
def test_a_file_of_something_else_is_refused(stored: bytes, spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(WeightsError, match="not those of dlib's face recognition network"):
        FaceNetwork(spoil(stored))
