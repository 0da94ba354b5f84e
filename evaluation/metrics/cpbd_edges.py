"""Where CPBD looks: the pixels at which edge widths are measured, and the blocks with enough Canny edges to count.

Two sets of rules: python-cpbd's (:func:`vertical_edges`, :func:`edge_blocks`), and those of MATLAB's ``edge`` as the
authors call it (:func:`vertical_edges_matlab`, :func:`canny_edges_matlab`).
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

BLOCK = 64
"""Side of the square blocks in pixels; a smaller rest at the right and at the bottom is left out."""

_ENOUGH = 9  # edge pixels that make a block an edge block: more than 0.2 % of 64 x 64
_LOW, _HIGH = 0.1, 0.2  # scikit-image's hysteresis thresholds for a float picture, whatever its range
_ROWS = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1]], np.uint8)  # the neighbours above and below
_SLACK = 0.02
"""More than rounding can make of a gradient in float32: 255 x 42 roundings x the 8 of Sobel's kernel = 5e-3."""


def blocks_of(array: np.ndarray) -> np.ndarray:
    """The whole blocks of [H, W] as a view [rows, 64, columns, 64]."""
    down, across = array.shape[0] // BLOCK, array.shape[1] // BLOCK
    return array[: down * BLOCK, : across * BLOCK].reshape(down, BLOCK, across, BLOCK)


def has_enough(marked: np.ndarray) -> np.ndarray:
    """bool [rows, columns] of blocks: more than 0.2 % of the pixels of the block are marked in bool [H, W]."""
    return blocks_of(marked).sum(axis=(1, 3), dtype=np.int64) >= _ENOUGH


# ---- edges, python-cpbd's


def vertical_edges(luma: np.ndarray) -> np.ndarray:
    """Edges of python-cpbd, bool [H, W]: strong horizontal Sobel response, a strict maximum along its row or column.

    Strong is a squared response above twice the root of the mean squared response, for a kernel of absolute sum 1.
    """
    response = np.abs(_sobel(luma, 1, 0))
    values = response.ravel().astype(np.float64)
    mean = float(values @ values) / 64 / values.size  # a sum of integers: exact; the kernel here is 8 times as large
    response[response <= math.isqrt(int(64 * (2 * math.sqrt(mean))))] = 0
    padded = np.pad(response, 1)
    row, column = padded[1:-1], padded[:, 1:-1]
    return (response > row[:, :-2]) & (response > row[:, 2:]) | (response > column[:-2]) & (response > column[2:])


def _sobel(luma: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """int16 [H, W], the border repeated; the kernel's absolute sum is 8."""
    return cv2.Sobel(luma, cv2.CV_16S, dx, dy, ksize=3, borderType=cv2.BORDER_REPLICATE)


def edge_blocks(luma: np.ndarray) -> np.ndarray:
    """bool [rows, columns]: the blocks with enough edges of ``skimage.feature.canny`` (of the picture as float64).

    Nearly every block can be told without Canny. A pixel above the high threshold and above all neighbours that its
    gradient can point at outlives suppression and hysteresis; one under the low threshold does not. Only where both
    counts leave a block open is the whole algorithm run. ``_SLACK`` keeps the rounding of float32 out of the answer.

    Args:
        luma: uint8 [H, W], at least 64 px a side.
    """
    across, down = _smooth_gradient(luma)
    strength = cv2.magnitude(across, down)
    steepness = cv2.subtract(np.abs(down, out=down), np.abs(across, out=across))
    peak = strength - 2 * _SLACK
    beats_rows = (peak > cv2.dilate(strength, _ROWS)) | (steepness < -_SLACK)
    beats_columns = (peak > cv2.dilate(strength, _ROWS.T)) | (steepness > _SLACK)
    enough = has_enough(_inside((peak > _HIGH) & beats_rows & beats_columns))
    if enough.all() or not (has_enough(_inside(strength > _LOW - _SLACK)) & ~enough).any():
        return enough
    from skimage.feature import canny

    return has_enough(canny(luma.astype(np.float64)))


def _inside(marked: np.ndarray) -> np.ndarray:
    """Without the outermost pixels, in which Canny finds no edge."""
    marked[[0, -1]] = False
    marked[:, [0, -1]] = False
    return marked


def _smooth_gradient(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [H, W], along the rows and down: as in ``skimage.feature.canny``, Gaussian of sigma 1, then Sobel."""
    kernel = _gaussian()
    smooth = cv2.sepFilter2D(luma, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
    smooth *= _outside_made_good(luma.shape[0], luma.shape[1])
    across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE)
    return across, down


@functools.cache
def _gaussian() -> np.ndarray:
    kernel = np.exp(-0.5 * np.arange(-4, 5, dtype=np.float64) ** 2)
    return (kernel / kernel.sum()).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _outside_made_good(height: int, width: int) -> np.ndarray:
    """float32 [H, W]: what a pixel near the border is multiplied by, since the picture is taken as 0 outside."""
    kernel = _gaussian()
    ones = np.ones((height, width), np.float32)
    return 1 / cv2.sepFilter2D(ones, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)


# ---- edges, MATLAB's


def vertical_edges_matlab(luma: np.ndarray) -> np.ndarray:
    """bool [H, W] of MATLAB's ``edge(double(luma), 'Sobel', 2, 'vertical')``, which the authors call.

    Response above 2 for a kernel of absolute sum 1; thinned along the row where the gradient is at least as steep
    along it, and along the column everywhere; of equal neighbours the right, or the lower, one is kept.
    """
    response = np.abs(_sobel(luma, 1, 0))
    padded = np.pad(response, 1)
    row, column = padded[1:-1], padded[:, 1:-1]
    in_row = (row[:, :-2] <= response) & (response > row[:, 2:]) & (response >= np.abs(_sobel(luma, 0, 1)))
    in_column = (column[:-2] <= response) & (response > column[2:])
    return (response > 16) & (in_row | in_column)


def canny_edges_matlab(luma: np.ndarray, taps: int = 13) -> np.ndarray:
    """bool [H, W] of MATLAB's ``edge(double(luma), 'canny')``: sigma sqrt(2), thresholds from the picture.

    High threshold: the 64th of the largest magnitude under which more than 70 % of the pixels lie; low: 0.4 of it.

    Args:
        luma: uint8 [H, W].
        taps: length of the Gaussian: 13 in a present MATLAB; 16, and so half a pixel off the centre, in the older one
            that made the reference edges in python-cpbd's tests.
    """
    from scipy.ndimage import convolve1d

    x = np.arange(taps) - (taps - 1) / 2
    smooth = np.exp(-(x**2) / 4)
    slope = np.gradient(smooth)
    slope /= slope[slope > 0].sum()

    def filtered(down: np.ndarray, across: np.ndarray) -> np.ndarray:
        half = convolve1d(luma.astype(np.float64), down, axis=0, mode="nearest")
        return convolve1d(half, across, axis=1, mode="nearest")

    dx, dy = filtered(smooth / smooth.sum(), slope), filtered(slope, smooth / smooth.sum())
    magnitude = np.hypot(dx, dy)
    if not magnitude.any():
        return np.zeros(luma.shape, np.bool_)
    magnitude /= magnitude.max()
    bins = np.bincount((magnitude * 63 + 0.5).astype(np.int64).ravel(), minlength=64).cumsum()
    high = (int(np.argmax(bins > 0.7 * magnitude.size)) + 1) / 64
    weak = _local_maxima(dx, dy, magnitude) & (magnitude > 0.4 * high)
    labels = cv2.connectedComponents(weak.view(np.uint8), connectivity=8)[1]
    kept = np.zeros(labels.max() + 1, np.bool_)
    kept[labels[weak & (magnitude > high)]] = True
    return kept[labels]


def _local_maxima(dx: np.ndarray, dy: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """bool [H, W]: no smaller than its two neighbours along the gradient, interpolated; never at the border."""
    up, mid, down = magnitude[:-2], magnitude[1:-1], magnitude[2:]
    left, here, right = np.s_[:, :-2], np.s_[:, 1:-1], np.s_[:, 2:]
    dx, dy = dx[1:-1, 1:-1], dy[1:-1, 1:-1]
    steep, rises = np.abs(dy) >= np.abs(dx), dx * dy < 0  # y points down: against the signs, to the upper right
    larger = np.maximum(np.abs(dx), np.abs(dy))
    slant = np.minimum(np.abs(dx), np.abs(dy)) / np.where(larger > 0, larger, 1)

    def beyond(straight: np.ndarray, side: np.ndarray, corner: np.ndarray) -> np.ndarray:
        return np.where(steep, straight, side) * (1 - slant) + corner * slant

    above = beyond(up[here], np.where(rises, mid[right], mid[left]), np.where(rises, up[right], up[left]))
    below = beyond(down[here], np.where(rises, mid[left], mid[right]), np.where(rises, down[left], down[right]))
    maxima = np.zeros(magnitude.shape, np.bool_)
    maxima[1:-1, 1:-1] = (mid[here] >= above) & (mid[here] >= below) & (larger > 0)
    return maxima
