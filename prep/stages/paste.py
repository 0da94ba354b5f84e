"""A redrawn crop back into the frame that it was cut from: the inverse of ``crop/1``, feathered."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from prep.stages.frames import AREA_SIGMA, Frame, rgb_matrix

RING = 0.05
"""Width of the soft edge outside the erased region, in sides of the crop."""

_BORDER = 0.01  # of the crop's side: there the crop itself ends, and fades too


def feather(erase: np.ndarray) -> np.ndarray:
    """How much of the crop is seen: float32 [S, S] in [0, 1].

    1 inside ``erase``, 0 from :data:`RING` S outside it on, a cubic smooth step in between; 0 on the crop's very edge.

    Args:
        erase: uint8 [S, S] of 0 and 1.
    """
    size = erase.shape[0]
    outside = cv2.distanceTransform(1 - erase, cv2.DIST_L2, 5)
    step = np.clip(1 - (outside - 1) / (RING * size), 0, 1)
    step[erase > 0] = 1
    inward = np.minimum(np.arange(size), np.arange(size)[::-1]) / max(1.0, _BORDER * size)
    edge = np.minimum(np.clip(inward[:, None], 0, 1), np.clip(inward[None, :], 0, 1))
    return np.asarray(step * step * (3 - 2 * step) * edge, np.float32)


def pasted(frame: np.ndarray, crop: np.ndarray, affine: np.ndarray, erase: np.ndarray) -> np.ndarray:
    """A whole frame with the redrawn part of its crop put back; pixels outside :func:`feather` stay bit for bit.

    Args:
        frame: uint8 [H, W, 3] RGB.
        crop: uint8 [S, S, 3] RGB.
        affine: float [2, 3], frame to crop pixels, centres of pixels at whole numbers in both.
        erase: uint8 [S, S] of 0 and 1.
    """
    out = frame.copy()
    _put(out, crop, feather(erase), affine)
    return out


def pasted_planes(frame: Frame, crop: np.ndarray, affine: np.ndarray, erase: np.ndarray) -> Frame:
    """As :func:`pasted`, in the frame's own YUV: samples outside the soft edge stay bit for bit what the decoder gave.

    Args:
        frame: upright; its pixels need not be square where ``affine`` knows their shape.
        crop: uint8 [S, S, 3] RGB, as :meth:`prep.stages.frames.Frame.crop_rgb` gives.
    """
    yuv, alpha = rgb_to_yuv(crop, full_range=frame.full_range, matrix=frame.matrix), feather(erase)
    planes = []
    for number, plane in enumerate((frame.y, frame.u, frame.v)):
        out = plane.copy()
        fx, fy = plane.shape[1] / frame.width, plane.shape[0] / frame.height
        # sample i of the plane lies at (i + 0.5) / f - 0.5 of the frame, as in crop_rgb
        to_frame = np.array([[1 / fx, 0, 0.5 / fx - 0.5], [0, 1 / fy, 0.5 / fy - 0.5]])
        _put(out[..., None], yuv[..., number : number + 1], alpha, _after(affine, to_frame))
        planes.append(out)
    y, u, v = planes
    return dataclasses.replace(frame, y=y, u=u, v=v)


def rgb_to_yuv(rgb: np.ndarray, *, full_range: bool, matrix: str) -> np.ndarray:
    """uint8 [H, W, 3] RGB to uint8 YUV: the inverse of :func:`prep.stages.frames.yuv_to_rgb`."""
    forward = rgb_matrix(full_range, matrix)
    inverse = np.linalg.inv(forward[:, :3])
    return np.asarray(cv2.transform(rgb, np.hstack([inverse, -inverse @ forward[:, 3:]])))


def _put(picture: np.ndarray, crop: np.ndarray, alpha: np.ndarray, affine: np.ndarray) -> None:
    """Blend ``crop`` [S, S, C] into ``picture`` [H, W, C], in place; only the pixels that it covers are touched.

    A crop that shrinks on its way back is low-passed first, as :func:`prep.stages.frames.resample` does; one that grows
    is interpolated with cubics.
    """
    left, top, right, bottom = _covered(alpha, affine, picture.shape[1], picture.shape[0])
    if right <= left or bottom <= top:
        return
    to_crop = np.asarray(affine, np.float64).copy()
    to_crop[:, 2] += to_crop[:, 0] * left + to_crop[:, 1] * top
    crop, how = np.ascontiguousarray(crop), cv2.INTER_CUBIC
    # of the two axes the one that shrinks more; where pixels are not square the other is a little softer than need be
    factor = max(math.hypot(*affine[:, 0]), math.hypot(*affine[:, 1]))
    if factor > 1:
        sigma = AREA_SIGMA * math.sqrt(factor * factor - 1)
        reach = math.ceil(2 * sigma)
        crop = cv2.GaussianBlur(crop, (2 * reach + 1, 2 * reach + 1), sigma, borderType=cv2.BORDER_REPLICATE)
        how = cv2.INTER_LINEAR
    size, inverse = (right - left, bottom - top), cv2.WARP_INVERSE_MAP
    back = cv2.warpAffine(crop, to_crop, size, flags=how | inverse, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(alpha, to_crop, size, flags=cv2.INTER_LINEAR | inverse)[..., None]
    part = picture[top:bottom, left:right]
    back = back.reshape(part.shape)
    part[:] = np.rint(part + weight * (back.astype(np.float32) - part))


def _covered(alpha: np.ndarray, affine: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the pixels of a picture on which ``alpha`` falls."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    corners = [(x, y) for x in (columns[0] - 1, columns[-1] + 1) for y in (rows[0] - 1, rows[-1] + 1)]
    inverse = cv2.invertAffineTransform(np.asarray(affine, np.float64))
    points = np.array(corners) @ inverse[:, :2].T + inverse[:, 2]
    (left, top), (right, bottom) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0)) + 1
    return max(0, int(left)), max(0, int(top)), min(width, int(right)), min(height, int(bottom))


def _after(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The affine map that does ``inner`` first: float64 [2, 3]."""
    return np.hstack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2:] + outer[:, 2:]])
