"""CSIM and FFD over dlib's 128-d face embeddings: does the output show the same person, as real faces do?"""

from __future__ import annotations

import functools

import numpy as np

from evaluation.metrics.base import Block, Context, Measured, Metric
from evaluation.metrics.face_network import SIDE, FaceNetwork
from g4g_core import weights

FEATURES = "dlib128"

EVERY = 10
"""Frames from one embedding to the next: each takes longer than all else that is measured of a frame."""


def embed(pictures: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """dlib's face embeddings, the face aligned by the clip's own points and not detected again.

    Args:
        pictures: uint8 [n, S, S, 3] RGB.
        landmarks: float [n, 68, 2], pixels.

    Returns:
        float32 [n, 128].
    """
    import dlib

    network = _network()
    found = []
    for picture, points in zip(pictures, landmarks, strict=True):
        corners = [dlib.point(round(float(x)), round(float(y))) for x, y in points]
        low, high = points.min(axis=0), points.max(axis=0)
        box = dlib.rectangle(*(round(float(v)) for v in (*low, *high)))
        shape = dlib.full_object_detection(box, dlib.points(corners))
        found.append(network(dlib.get_face_chip(np.ascontiguousarray(picture), shape, size=SIDE, padding=0.25)))
    return np.array(found, np.float32).reshape(-1, 128)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of vectors [..., d], in -1 ... 1; 0 where one of them is 0."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(axis=-1) / np.where(norms == 0, 1.0, norms))


@functools.cache
def _network() -> FaceNetwork:
    return FaceNetwork(weights.path("dlib-resnet").read_bytes())


CSIM = Metric(
    id="csim-dlib", name="CSIM", unit="", better="higher", kind="clip", near_truth=True, needs_clip=True,
    weights=("dlib-resnet",),
    definition="Mean cosine between dlib's embedding of the output, 2.5 frames a second, and the mean embedding of "
    "the clip itself. The ground truth's value is what one person reaches; 'two people' is what two people reach.",
)  # fmt: skip
FFD = Metric(
    id="ffd-dlib", name="FFD", unit="", better="lower", kind="set", needs_clip=True, weights=("dlib-resnet",),
    definition="Frechet distance of dlib's 128-d face embeddings, output against clips, 2.5 frames a second: like "
    "FID, but of faces rather than texture, and with weights that are always here. Times 1000.",
)  # fmt: skip
FFD_SCALE = 1000.0


class IdentityMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "identity"
    metrics = (CSIM, FFD)
    packages: tuple[tuple[str, str], ...] = ()

    def start(self, context: Context) -> _Session:
        return _Session(context)


class _Session:
    def __init__(self, context: Context) -> None:
        known = context.truth_features(FEATURES)
        self._known = known is not None
        self._output: list[np.ndarray] = []
        self._truth: list[np.ndarray] = [] if known is None else [known]

    def add(self, block: Block) -> None:
        chosen = block.sampled(EVERY)
        found = embed(block.output[chosen], block.landmarks[chosen])
        self._output.append(found)
        if not self._known:
            self._truth.append(found if block.is_truth else embed(block.truth[chosen], block.landmarks[chosen]))

    def result(self) -> Measured:
        output, truth = np.concatenate(self._output), np.concatenate(self._truth)
        if not len(output):
            return Measured(missing={metric.id: ("no_frames", "no frame was sampled") for metric in (CSIM, FFD)})
        value = float(cosine(output.astype(np.float64), truth.mean(axis=0, dtype=np.float64)).mean())
        return Measured(values={CSIM.id: value}, features={FEATURES: output})
