"""The embedded backend: dlib's 68-point ensemble of regression trees (Kazemi and Sullivan, CVPR 2014)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from prep.stages.frames import Frame
from prep.stages.geometry import N_POINTS

PATCH_EYES = 112.0
"""Distance of the outer eye corners in the patch that the predictor sees, px: dlib answers in whole pixels."""

_BOX_TO_EYES = 0.55
"""Distance of the outer eye corners over the side of dlib's detection box, near enough to choose a scale."""

_MARGIN = 0.35
"""Border of the patch around the box, in sides of the box: the predictor looks outside the box too."""


class DlibLandmarks:
    """68 points by dlib's shape predictor, to a quarter of a pixel or better on any footage.

    The predictor rounds its points to whole pixels, which on 160 px footage is 1.4-3.8 % of the inter-ocular
    distance. It is therefore given a patch in which the eyes are ``PATCH_EYES`` apart.
    """

    name = "dlib"
    weights = ("dlib-68",)

    def fit(self, frames: Sequence[Frame], boxes: np.ndarray) -> np.ndarray:
        """Landmarks of one face per frame.

        Args:
            frames: N frames.
            boxes: float [N, 4] x0, y0, x1, y1 in frame pixels, as dlib's HOG detector draws them.

        Returns:
            float32 [N, 68, 2] in frame pixels, iBUG order, centres of pixels at whole numbers.
        """
        points = [self.fit_one(frame, box) for frame, box in zip(frames, boxes, strict=True)]
        return np.stack(points) if points else np.zeros((0, N_POINTS, 2), np.float32)

    def fit_one(self, frame: Frame, box: np.ndarray) -> np.ndarray:
        """float32 [68, 2]: see :meth:`fit`."""
        import dlib

        x0, y0, x1, y1 = (float(value) for value in box)
        side = max(1.0, (x1 - x0 + y1 - y0) / 2)
        scale = PATCH_EYES / (_BOX_TO_EYES * side)
        left, top = x0 - _MARGIN * side, y0 - _MARGIN * side
        extent = round((1 + 2 * _MARGIN) * side * scale)
        matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
        shrink = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
        patch = _patch(frame, matrix, extent, shrink)
        inner = (_MARGIN * side * scale, _MARGIN * side * scale)
        rectangle = dlib.rectangle(
            round(inner[0]),
            round(inner[1]),
            round(inner[0] + (x1 - x0) * scale) - 1,
            round(inner[1] + (y1 - y0) * scale) - 1,
        )
        shape = _predictor()(patch, rectangle)
        points = np.array([(point.x, point.y) for point in shape.parts()], dtype=np.float64)
        return np.asarray(points / scale + (left, top), dtype=np.float32)


def _patch(frame: Frame, matrix: np.ndarray, extent: int, interpolation: int) -> np.ndarray:
    """Grey uint8 [extent, extent] of the frame under the forward 2x3 ``matrix``, edges replicated."""
    source, forward = frame.y, matrix
    if interpolation == cv2.INTER_AREA:
        # halve big faces first: a linear warp by more than two would alias
        factor = int(1 / matrix[0, 0])
        size = (max(1, frame.width // factor), max(1, frame.height // factor))
        source = cv2.resize(frame.y, size, interpolation=cv2.INTER_AREA)
        ratio = np.array([frame.width / size[0], frame.height / size[1]])
        forward = matrix.copy()
        forward[:, :2] = matrix[:, :2] * ratio
    patch = cv2.warpAffine(
        source, forward, (extent, extent), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return frame.grey_to_full_range(patch)


@functools.cache
def _predictor() -> Any:
    import dlib

    from g4g_core import weights

    return dlib.shape_predictor(str(weights.path("dlib-68")))
