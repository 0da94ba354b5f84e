"""Where Wav2Lip cuts the face out of our crop: S3FD's box with chin padding, as ``inference.py`` has it.

The public scripts cut what S3FD finds. A prompt tells a model points 17-47 alone, so the box is placed by the
similarity that carries the mean face onto them, as :mod:`prep.stages.crop` does.

========  =====================================================  =====================================================
edge      where it is on the canonical face                      from
========  =====================================================  =====================================================
top       half-way between brows and hairline (-0.55)            ``prep.stages.crop``: S3FD's height
bottom    just under the chin (1.39), and the padding (1.56)     the same; ``--pads 0 10 0 0`` of ``inference.py``
sides     where the jaw line begins at the ears (+-0.81)         points 0 and 16 of ``prep.stages.geometry.MEAN_FACE``
========  =====================================================  =====================================================

S3FD's boxes are taller than wide, which is why Wav2Lip squashes them. Its width is an estimate: the detector's weights
are not part of this project, so it was not measured. The padding is 10 px of the footage at hand, whatever its size;
here it is what 10 px are on LRS2, the footage that the weights were trained on: its pictures of 160 px are SyncNet's
crop, of which our crop is a copy, so 10 px of 160 px.

On 3,137 frames of real footage the boxes held all of the lips, 99.4 % of the mouth region (nose base to chin), 94 % of
the lower face and 85 % of ``erase``; nine tenths of what they leave of ``erase`` is neck.
"""

from __future__ import annotations

import cv2
import numpy as np

from g4g_core.protocols import POSE_POINTS
from prep.stages.crop import FACE_CENTRE, FACE_HALF, SIDE
from prep.stages.geometry import MEAN_FACE, N_POINTS, canonical_to_frame, scale_of, transform

HALF_WIDTH = float(MEAN_FACE[16, 0])
CHIN = 10 / 160 * SIDE * FACE_HALF
"""Both in distances of the outer eye corners."""

SMOOTHED = 5
"""Frames whose boxes are averaged: this one and those after it (``get_smoothened_boxes``)."""


def boxes_of(pose: np.ndarray, size: int) -> np.ndarray:
    """The boxes of consecutive frames.

    Upright rectangles around the transformed centre of the face, averaged over :data:`SMOOTHED` frames (the last ones
    over the last five), rounded to whole pixels, cut at the picture's edges, never empty. The public script writes the
    averages into the list that it reads, so that its last four boxes are averages of averages; ours are not.

    Args:
        pose: float [T, 31, 2], points 17-47, centres of pixels at whole numbers.
        size: S, side of the pictures, px.

    Returns:
        int64 [T, 4]: rows and columns [y0, y1), [x0, x1) as (x0, y0, x1, y1).
    """
    points = np.zeros((len(pose), N_POINTS, 2))
    points[:, POSE_POINTS] = pose
    matrix = canonical_to_frame(points)
    centre, unit = transform(matrix, FACE_CENTRE)[:, 0], scale_of(matrix)[:, None]
    reach = np.array([HALF_WIDTH, FACE_HALF])
    raw = np.concatenate([centre - unit * reach, centre + unit * (reach + [0, CHIN])], axis=1)
    first = np.minimum(np.arange(len(raw)), max(0, len(raw) - SMOOTHED))
    smooth = np.stack([raw[i : i + SMOOTHED].mean(axis=0) for i in first])
    edges = np.round(smooth + 0.5).astype(np.int64)  # pixel i begins at i - 0.5
    low = np.clip(edges[:, :2], 0, size - 1)
    return np.concatenate([low, np.clip(edges[:, 2:], low + 1, size)], axis=1)


def cut_out(pictures: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """The boxes' contents, squashed to squares: uint8 [T, size, size, 3] of pictures uint8 [T, S, S, 3].

    Bilinear, as everywhere in the public code: the weights have learned from pictures resized so.
    """
    boxed = zip(pictures, boxes, strict=True)
    return np.stack([_resized(picture[y0:y1, x0:x1], size, size) for picture, (x0, y0, x1, y1) in boxed])


def put_in(pictures: np.ndarray, boxes: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Pictures with faces uint8 [T, s, s, 3] in their boxes, a copy: the inverse of :func:`cut_out`."""
    whole = pictures.copy()
    for picture, (x0, y0, x1, y1), face in zip(whole, boxes, faces, strict=True):
        picture[y0:y1, x0:x1] = _resized(face, x1 - x0, y1 - y0)
    return whole


def outside(erase: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """What of ``erase`` uint8 [T, S, S] lies in no box, of the same shape."""
    left = erase.copy()
    for plane, (x0, y0, x1, y1) in zip(left, boxes, strict=True):
        plane[y0:y1, x0:x1] = 0
    return left


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(
        cv2.resize(np.ascontiguousarray(picture), (int(width), int(height)), interpolation=cv2.INTER_LINEAR)
    )
