"""CPBD, the cumulative probability of blur detection: how sharp one grey picture looks, without a reference.

Narvekar and Karam, "A no-reference image blur metric based on the cumulative probability of blur detection (CPBD)",
IEEE TIP 20(9), 2011, over the edge widths of Marziliano et al., "A no-reference perceptual blur metric", ICIP 2002.
An edge is seen as blurred with probability P(w) = 1 - exp(-(w / w_JNB)^3.6), where w is its width in pixels and w_JNB
the width that is just noticed: 5 in a block of low contrast, 3 elsewhere. CPBD is the share of the edges with P below
P(w_JNB) = 63 %, so of those no wider than w_JNB. 1 is sharp, 0 is blurred, and 0 also where there is no edge at all.

Two variants, which must not be compared with each other:

* :func:`cpbd` is what the Python package python-cpbd (``cpbd-py312``) says, and with it most papers of this field;
* :func:`cpbd_matlab` is what the authors' MATLAB program says.

The value depends on the size of the picture (one photo scored 0.55 at 96 px and 0.20 at 384 px): compare only pictures
of one size.
"""

from __future__ import annotations

import cv2
import numpy as np

from evaluation.metrics.base import Block, Context, Mean, Measured, Metric, values_of
from evaluation.metrics.cpbd_edges import (
    BLOCK,
    blocks_of,
    canny_edges_matlab,
    edge_blocks,
    has_enough,
    vertical_edges,
    vertical_edges_matlab,
)
from g4g_core.errors import UsageError

_LOW_CONTRAST, _JNB_LOW, _JNB = 50, 5, 3
_LONGEST = 100  # steps from an edge pixel for which its slope is followed


def luma(rgb: np.ndarray) -> np.ndarray:
    """Luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, as OpenCV's ``COLOR_RGB2GRAY`` rounds it.

    Pillow's ``convert("L")`` rounds other fixed-point weights and differs by 1 in a few pixels of a picture.

    Args:
        rgb: uint8 [..., H, W, 3].

    Returns:
        uint8 [..., H, W].

    Raises:
        UsageError: another dtype or shape.
    """
    if rgb.dtype != np.uint8 or rgb.ndim < 3 or rgb.shape[-1] != 3:
        raise UsageError(
            f"luma is made of uint8 [..., H, W, 3] RGB, not of {rgb.dtype} {list(rgb.shape)}",
            "give the decoded frames as they are, 0..255",
        )
    if rgb.size == 0:
        return np.zeros(rgb.shape[:-1], np.uint8)  # OpenCV refuses empty arrays
    rows = np.ascontiguousarray(rgb).reshape(-1, *rgb.shape[-2:])
    return cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY).reshape(rgb.shape[:-1])


def cpbd(luma: np.ndarray) -> float:
    """CPBD as python-cpbd computes it: Sobel edges, Canny edges of scikit-image with its default thresholds.

    Args:
        luma: uint8 [H, W], 0..255, at least 64 px a side.

    Returns:
        0 (blurred) to 1 (sharp).

    Raises:
        UsageError: another dtype or shape (python-cpbd says 0 for any picture in [0, 1]), or a picture too small to
            hold one block.
    """
    picture = _checked(luma)
    return _sharp_share(picture, edge_blocks(picture), edge_widths(picture, vertical_edges(picture)))


def cpbd_matlab(luma: np.ndarray) -> float:
    """CPBD as the authors' MATLAB program computes it, with ``edge`` of a present MATLAB; as :func:`cpbd` otherwise."""
    picture = _checked(luma)
    return cpbd_of_edges(picture, canny_edges_matlab(picture), vertical_edges_matlab(picture))


def cpbd_of_edges(luma: np.ndarray, canny_edges: np.ndarray, sobel_edges: np.ndarray) -> float:
    """CPBD of edges found elsewhere.

    Args:
        luma: as for :func:`cpbd`.
        canny_edges: bool [H, W]; a block with more than 0.2 % of them counts.
        sobel_edges: bool [H, W]; the pixels at which the width of an edge is measured.

    Raises:
        UsageError: as for :func:`cpbd`, or maps of another size.
    """
    picture = _checked(luma)
    for name, edges in (("canny_edges", canny_edges), ("sobel_edges", sobel_edges)):
        if edges.dtype != np.bool_ or edges.shape != picture.shape:
            raise UsageError(
                f"{name} is {edges.dtype} {list(edges.shape)}, the picture asks for bool {list(picture.shape)}",
                "find the edges in the same picture",
            )
    return _sharp_share(picture, has_enough(canny_edges), edge_widths(picture, sobel_edges))


def _checked(luma: np.ndarray) -> np.ndarray:
    """The picture, contiguous, if CPBD is defined for it."""
    if luma.dtype != np.uint8 or luma.ndim != 2:
        raise UsageError(
            f"CPBD is measured on uint8 [H, W] luma, 0..255, not on {luma.dtype} {list(luma.shape)}",
            "convert RGB frames with evaluation.metrics.cpbd.luma, and do not scale them to [0, 1]",
        )
    if min(luma.shape) < BLOCK:
        raise UsageError(
            f"CPBD needs one block of {BLOCK}x{BLOCK} px, the picture is {luma.shape[1]}x{luma.shape[0]}",
            "score larger faces, all of one size",
        )
    return np.ascontiguousarray(luma)


def _sharp_share(picture: np.ndarray, looked_at: np.ndarray, widths: np.ndarray) -> float:
    """Share of the edges in the blocks that are looked at (bool [rows, columns]) no wider than what is just noticed."""
    levels = blocks_of(picture)
    contrast = levels.max(axis=(1, 3)) - levels.min(axis=(1, 3))
    noticed = np.where(contrast <= _LOW_CONTRAST, _JNB_LOW, _JNB).astype(np.uint8)
    measured = blocks_of(widths)
    counted = (measured > 0) & looked_at[:, None, :, None]
    edges = np.count_nonzero(counted)
    sharp = np.count_nonzero(counted & (measured <= noticed[:, None, :, None]))
    return sharp / edges if edges else 0.0


# ---- widths of edges


def edge_widths(luma: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Width of each edge along its row: how far the picture goes on rising, or falling, to both sides of the pixel.

    Measured where the gradient lies within 22.5 degrees of the row, or has no part along it at all (the reference
    program gives such a pixel angle 0), but not in the outermost rows and columns. Steps count while the picture
    changes strictly; each side counts at least 1 and at most 101. A picture without any slope but to the right has
    no widths: all its angles are 0, which the reference program takes for having found none.

    Args:
        luma: uint8 [H, W].
        edges: bool [H, W].

    Returns:
        uint8 [H, W], pixels; 0 where no width was measured, else 2 ... 202.
    """
    height, width = luma.shape
    widths = np.zeros(height * width, np.uint8)
    inner = np.zeros_like(edges)
    inner[1:-1, 1:-1] = edges[1:-1, 1:-1]
    at = np.flatnonzero(inner)
    flat = luma.ravel().astype(np.int16)
    across = (flat[at + 1] - flat[at - 1]).astype(np.int32)
    down = np.abs(flat[at + width] - flat[at - width]).astype(np.int32)
    if not ((across < 0) | (across > 0) & (down > 0)).any() and not _any_angle(luma):
        return widths.reshape(height, width)
    # |tan| < sqrt(2) - 1, without rounding; it is irrational, so there is no tie
    along_row = (across == 0) | ((down + np.abs(across)) ** 2 < 2 * across**2)
    at, falling = at[along_row], across[along_row] < 0

    steps = np.zeros((height, width), np.int8)  # the last column stays 0: it ends every run, from both sides
    here, there = luma[:, :-1], luma[:, 1:]
    steps[:, :-1] = (there > here).view(np.int8) - (there < here).view(np.int8)
    direction = np.where(falling, -1, 1).astype(np.int8)
    left, right = _run(steps.ravel(), at - 2, direction, -1), _run(steps.ravel(), at + 1, direction, 1)
    widths[at] = 2 + left + right
    return widths.reshape(height, width)


def _any_angle(luma: np.ndarray) -> bool:
    """Whether the gradient points anywhere but to the right (or is taken to, where it has no part along the row)."""
    down, across = np.gradient(luma.astype(np.float64))
    return bool(((across < 0) | (across > 0) & (down != 0)).any())


def _run(steps: np.ndarray, at: np.ndarray, direction: np.ndarray, stride: int) -> np.ndarray:
    """uint8 [n]: how many ``steps``, from position ``at`` on by ``stride``, go in ``direction`` on end; up to 100."""
    length = np.zeros(len(at), np.uint8)
    going = np.arange(len(at))
    for count in range(_LONGEST):
        going = going[steps[at[going] + count * stride] == direction[going]]
        if not len(going):
            break
        length[going] += 1
    return length


_OVER = "of the face box at 256 px, luma after the shards' JPEG, five frames a second"
CPBD = Metric(
    id="cpbd@face256", name="CPBD", unit="", better="higher", kind="clip", near_truth=True,
    definition=f"Share of edges whose blur is under what can be noticed (Narvekar and Karam 2011), {_OVER}; "
    "the value of python-cpbd, which papers of this field report. Depends on the face's size: compare at 256 only.",
)  # fmt: skip
CPBD_MATLAB = Metric(
    id="cpbd-matlab@face256", name="CPBD (MATLAB)", unit="", better="higher", kind="clip", near_truth=True,
    definition="Share of edges whose blur is under what can be noticed, as its authors' MATLAB code computes it, "
    f"{_OVER}.",
)  # fmt: skip


class CpbdMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "cpbd"
    metrics = (CPBD, CPBD_MATLAB)
    packages: tuple[tuple[str, str], ...] = ()

    def start(self, context: Context) -> _Session:
        return _Session(context)


class _Session:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._python, self._matlab = Mean(), Mean()

    def add(self, block: Block) -> None:
        for face in luma(block.stored_faces(block.sampled())):
            self._python.add(np.array(cpbd(face)))
            self._matlab.add(np.array(cpbd_matlab(face)))

    def result(self) -> Measured:
        return values_of({CPBD: self._python.value, CPBD_MATLAB: self._matlab.value}, self._context)
