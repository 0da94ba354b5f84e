"""The embedded backend: dlib's 68-point ensemble of regression trees (Kazemi and Sullivan, CVPR 2014)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from prep.stages.frames import Frame, padded
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

        side = max(1.0, float(box[2] - box[0] + box[3] - box[1]) / 2)
        left, top = round(box[0] - _MARGIN * side), round(box[1] - _MARGIN * side)
        extent = max(2, round((1 + 2 * _MARGIN) * side))
        scale = PATCH_EYES / (_BOX_TO_EYES * side)
        patch_side = round(extent * scale)
        scale = patch_side / extent
        shrink = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
        patch = cv2.resize(padded(frame.y, left, top, extent, extent), (patch_side, patch_side), interpolation=shrink)
        edges = np.round((np.asarray(box, dtype=np.float64) - (left, top, left, top)) * scale).astype(int)
        rectangle = dlib.rectangle(int(edges[0]), int(edges[1]), int(edges[2]) - 1, int(edges[3]) - 1)
        shape = _predictor()(frame.grey_to_full_range(patch), rectangle)
        points = np.array([(point.x, point.y) for point in shape.parts()], dtype=np.float64)
        return np.asarray((points + 0.5) / scale - 0.5 + (left, top), dtype=np.float32)


@functools.cache
def _predictor() -> Any:
    import dlib

    from g4g_core import weights

    return dlib.shape_predictor(str(weights.path("dlib-68")))
