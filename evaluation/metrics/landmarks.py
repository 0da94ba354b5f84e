"""LMD and M-LMD: how far the points of the redrawn face lie from the clip's."""

from __future__ import annotations

import numpy as np

from evaluation.metrics.base import Block, Context, Mean, Measured, Metric, values_of
from g4g_core.errors import UsageError
from prep.stages.geometry import MOUTH, POSE, interocular, similarity, transform

FEATURES = "points68"
"""The clip's own points, float32 [n, 136]: fitted once for all models."""


def landmark_distance(points: np.ndarray, target: np.ndarray, which: slice = slice(None)) -> np.ndarray:
    """Mean distance of 68-point landmarks after alignment by the pose points, over the inter-ocular distance, in %.

    The inter-ocular distance is that of the outer eye corners (36, 45) of ``target``.

    Args:
        points, target: float [n, 68, 2], any one unit.
        which: the points that count: all, or ``prep.stages.geometry.MOUTH`` for M-LMD.

    Returns:
        float64 [n], percent.

    Raises:
        UsageError: other shapes.
    """
    if points.shape != target.shape or points.shape[1:] != (68, 2):
        raise UsageError(f"landmarks are [n, 68, 2], not {list(points.shape)} and {list(target.shape)}")
    # shift, size and tilt of the whole face drop out; what the mouth does cannot, for its points do not take part
    carried = transform(similarity(points[:, POSE], target[:, POSE]), points)
    offset = carried[:, which] - target[:, which]
    return np.asarray(100 * np.linalg.norm(offset, axis=-1).mean(axis=1) / interocular(target))


def fit(pictures: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """68 points of every picture by dlib, its box given by the clip's own points: no face is searched for again.

    Args:
        pictures: uint8 [n, S, S, 3] RGB.
        landmarks: float [n, 68, 2] of the clip; only 17-47 are read.

    Returns:
        float32 [n, 68, 2], pixels.
    """
    import cv2

    from prep.landmarks.dlib import DlibLandmarks
    from prep.stages.detection import box_of_landmarks
    from prep.stages.frames import Frame

    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    frames = [Frame(y, y, y, full_range=True, matrix="bt601") for y in grey]
    return DlibLandmarks().fit(frames, box_of_landmarks(landmarks))


LMD = Metric(
    id="lmd@68", name="LMD", unit="%", better="lower", kind="clip", full_reference=True, weights=("dlib-68",),
    definition="Distance of 68 landmarks (dlib, fitted to output and clip alike in the clip's own box) after alignment "
    "by the points that do not speak, in percent of the distance of the outer eye corners.",
)  # fmt: skip
M_LMD = Metric(
    id="m-lmd@20", name="M-LMD", unit="%", better="lower", kind="clip", full_reference=True, weights=("dlib-68",),
    definition="Distance of the 20 mouth landmarks (dlib, fitted to output and clip alike in the clip's own box) after "
    "alignment by the points that do not speak, in percent of the distance of the outer eye corners.",
)  # fmt: skip


class LandmarkMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "landmarks"
    metrics = (LMD, M_LMD)
    packages: tuple[tuple[str, str], ...] = ()

    def start(self, context: Context) -> _Session:
        return _Session(context)


class _Session:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._all, self._mouth = Mean(), Mean()
        self._curve: dict[int, float] = {}
        self._fitted: list[np.ndarray] = []
        target = context.truth_features(FEATURES)
        self._target = None if target is None else target.reshape(-1, 68, 2)

    def add(self, block: Block) -> None:
        chosen = np.flatnonzero(block.scored)
        if not len(chosen):
            return
        found = fit(block.output[chosen], block.landmarks[chosen])
        if self._context.is_truth:
            self._fitted.append(found)
            return
        if self._target is None:
            target = fit(block.truth[chosen], block.landmarks[chosen])
        else:
            target, self._target = self._target[: len(chosen)], self._target[len(chosen) :]
        self._all.add(landmark_distance(found, target))
        mouth = landmark_distance(found, target, MOUTH)
        self._mouth.add(mouth)
        self._curve |= {block.first + int(i): round(float(v), 3) for i, v in zip(chosen, mouth, strict=True)}

    def result(self) -> Measured:
        measured = values_of({LMD: self._all.value, M_LMD: self._mouth.value}, self._context)
        if self._fitted:
            measured.features[FEATURES] = np.concatenate(self._fitted).reshape(-1, 136)
        if self._curve:
            measured.curves["m-lmd"] = [self._curve.get(frame) for frame in range(self._context.n_frames)]
        return measured
