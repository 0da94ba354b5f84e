"""Finding faces: a ladder of dlib's detectors, from cheap to sure."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np

from prep.stages.frames import Frame
from prep.stages.geometry import canonical_to_frame, overlap, scale_of, square, transform

MAX_SIDE = 640
"""Frames are scaled down to this before detection, px."""

MMOD_PER_SHOT = 3
"""Frames a shot on which the network detector may run: it costs over a second each."""

HOG_CENTRE = np.array([[0.0, 0.36]])
HOG_SIDE = 1.81
"""Where dlib's HOG detector draws its box around the canonical face (median over frontal frames)."""

_LOCAL_SIDE = 110.0  # the HOG detector's window is 80 px: a face a little larger is found on two pyramid levels
_LOCAL_MARGIN = 0.6
_SAME_FACE = 0.35
_MMOD_MIN_SCORE = 0.3


@dataclasses.dataclass(frozen=True)
class Detection:
    """A face box in frame pixels, drawn as dlib's HOG detector would draw it.

    Attributes:
        box: float64 [4] x0, y0, x1, y1.
        score: the detector's margin; comparable only within one detector.
        detector: ``hog``, ``hog-upsampled`` or ``mmod``.
    """

    box: np.ndarray
    score: float
    detector: str

    @property
    def side(self) -> float:
        return float((self.box[2] - self.box[0] + self.box[3] - self.box[1]) / 2)


def box_of_landmarks(points: np.ndarray) -> np.ndarray:
    """float64 [..., 4]: the box that the HOG detector would draw around faces [..., 68, 2], from 17-47 alone."""
    return box_of_pose(canonical_to_frame(points))


def box_of_pose(matrix: np.ndarray) -> np.ndarray:
    """float64 [..., 4]: the same from canonical-to-frame matrices [..., 2, 3]."""
    return square(transform(matrix, HOG_CENTRE)[..., 0, :], scale_of(matrix) * (HOG_SIDE / 2))


@dataclasses.dataclass
class Ladder:
    """HOG, then HOG on the frame enlarged once, then the network detector while its ration lasts.

    One ladder per shot: the ration is a shot's.

    Attributes:
        mmod_left: frames on which the network detector may still run.
        region: x0, y0, x1, y1 in frame pixels outside which nobody is looked for, or ``None``. A rung that finds
            somebody ends the climb, so without it a large face elsewhere would hide a small one that is wanted.
    """

    mmod_left: int = MMOD_PER_SHOT
    region: tuple[float, float, float, float] | None = None

    def climb(self, frame: Frame, *, rungs: int = 3) -> list[Detection]:
        """Faces of a frame from the first of the first ``rungs`` detectors that finds any, largest first."""
        if self.region is None:
            return self._climb(frame, rungs)
        part, x, y = frame.part(*self.region)
        origin = np.array([x, y, x, y], dtype=np.float64)
        return [dataclasses.replace(found, box=found.box + origin) for found in self._climb(part, rungs)]

    def _climb(self, frame: Frame, rungs: int) -> list[Detection]:
        grey, scale = _small_grey(frame)
        for rung, (name, enlarge) in enumerate((("hog", 0), ("hog-upsampled", 1))):
            if rung < rungs:
                found = _hog(grey, enlarge, scale, name)
                if found:
                    return found
        if rungs < 3 or self.mmod_left == 0:
            return []
        self.mmod_left -= 1
        return _mmod(frame)


def detect_near(frame: Frame, box: np.ndarray, *, margin: float = _LOCAL_MARGIN) -> Detection | None:
    """The face at ``box``, if the HOG detector sees one there: a few milliseconds at any frame size."""
    side = float(max(box[2] - box[0], box[3] - box[1], 1.0))
    scale = _LOCAL_SIDE / side
    left, top = box[0] - margin * side, box[1] - margin * side
    extent = round((1 + 2 * margin) * _LOCAL_SIDE)
    source, forward = frame.y, np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    if scale < 0.5:
        step = int(1 / scale)  # decimation before a linear warp; HOG is robust to what aliases
        source, forward = frame.y[::step, ::step], forward * np.array([[step, step, 1]])
    patch = cv2.warpAffine(
        np.ascontiguousarray(source), forward, (extent, extent), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    origin = np.array([left, top, left, top])
    found = [
        Detection(detection.box / scale + origin, detection.score, "hog") for detection in _hog(patch, 0, 1.0, "hog")
    ]
    near = [detection for detection in found if overlap(detection.box, box) >= _SAME_FACE]
    return max(near, key=lambda detection: overlap(detection.box, box), default=None)


def _small_grey(frame: Frame) -> tuple[np.ndarray, float]:
    """Luma with no side over MAX_SIDE, and the factor from the frame to it."""
    scale = min(1.0, MAX_SIDE / max(frame.width, frame.height))
    if scale == 1.0:
        return np.ascontiguousarray(frame.y), 1.0
    size = (round(frame.width * scale), round(frame.height * scale))
    return cv2.resize(frame.y, size, interpolation=cv2.INTER_AREA), scale


def _hog(grey: np.ndarray, enlarge: int, scale: float, name: str) -> list[Detection]:
    rectangles, scores, _ = _hog_detector().run(grey, enlarge, 0.0)
    found = [
        Detection(_edges(rectangle) / scale, float(score), name)
        for rectangle, score in zip(rectangles, scores, strict=True)
    ]
    return sorted(found, key=lambda detection: -detection.side)


def _mmod(frame: Frame) -> list[Detection]:
    """The network's boxes, redrawn as HOG's: its own sit lower and are a tenth smaller."""
    small = frame.rgb(MAX_SIDE)
    scale = small.shape[1] / frame.width
    found = []
    for hit in _mmod_detector()(small, 0):
        if hit.confidence >= _MMOD_MIN_SCORE:
            found.append(Detection(_edges(hit.rect) / scale, float(hit.confidence), "mmod"))
    return sorted(found, key=lambda detection: -detection.side)


def _edges(rectangle: Any) -> np.ndarray:
    """dlib's rectangles include their last pixel."""
    return np.array(
        [rectangle.left(), rectangle.top(), rectangle.right() + 1, rectangle.bottom() + 1], dtype=np.float64
    )


@functools.cache
def _hog_detector() -> Any:
    import dlib

    return dlib.get_frontal_face_detector()


@functools.cache
def _mmod_detector() -> Any:
    import dlib

    from g4g_core import weights

    return dlib.cnn_face_detection_model_v1(str(weights.path("dlib-mmod")))
