"""Small pictures for the contact sheet: thumbnails, landmarks and masks as SVG paths, mel strips."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from prep.shards.schema import MaskBit

VIEW = 256
"""Side of the coordinate system of all paths, whatever the size of the crop: integers are fine enough."""

# (first point, one past the last, closed): the usual chains of the iBUG 68-point mark-up
LANDMARK_CHAINS = (
    (0, 17, False),  # jaw
    (17, 22, False),  # brows
    (22, 27, False),
    (27, 31, False),  # nose: bridge, base
    (31, 36, False),
    (36, 42, True),  # eyes
    (42, 48, True),
    (48, 60, True),  # lips: outer, inner
    (60, 68, True),
)

_THUMBNAIL_QUALITY = 72
_STRIP_QUALITY = 70
_STRIP_HEIGHT = 40
_STRIP_WIDTH = 480
_CONTOUR_TOLERANCE = 1.0  # crop pixels; masks follow 8x8 blocks or smooth hulls, so little is lost


def thumbnail(frame: np.ndarray, side: int) -> str:
    """uint8 [H, W, 3] RGB as a ``data:`` URI of a JPEG of ``side`` px."""
    import cv2

    shrinking = frame.shape[0] > side
    small = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    return jpeg_uri(small, _THUMBNAIL_QUALITY)


def jpeg_uri(image: np.ndarray, quality: int) -> str:
    """uint8 [H, W, 3] RGB as a ``data:`` URI of a JPEG."""
    import cv2

    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape}")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def landmark_path(points: np.ndarray, size: int) -> str:
    """float [68, 2] in pixels of a crop of ``size`` px as one SVG path in a square of :data:`VIEW`."""
    # pixel centres lie at integers in the crop, and half a pixel further in SVG
    scaled = np.rint((points + 0.5) * (VIEW / size)).astype(int)
    return "".join(_polyline(scaled[first:last], closed) for first, last, closed in LANDMARK_CHAINS)


def mask_path(mask: np.ndarray, bit: MaskBit) -> str:
    """Outline of one bit of a uint8 [H, W] mask plane as an SVG path in a square of :data:`VIEW`.

    To be filled by the rule ``evenodd``; empty where no pixel has the bit.
    """
    import cv2

    plane = ((mask & int(bit)) > 0).astype(np.uint8)
    # doubled, so that the outline runs around pixels and not through their centres
    doubled = np.pad(plane.repeat(2, axis=0).repeat(2, axis=1), 1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    scale = VIEW / (2 * mask.shape[0])
    path = ""
    for contour in contours:
        outline = cv2.approxPolyDP(contour, _CONTOUR_TOLERANCE, True)[:, 0]
        if len(outline) > 2:
            path += _polyline(np.rint((outline - 0.5) * scale).astype(int), closed=True)
    return path


def mel_strip(segments: Sequence[tuple[int, np.ndarray]], columns: int) -> str:
    """Mel columns of a clip as one picture; columns that no segment holds are grey.

    Args:
        segments: (first clip column, float [n, 80] in [-4, 4]) per sample; overlaps agree by construction.
        columns: mel columns of the whole clip.

    Returns:
        A ``data:`` URI of a JPEG of at most 480x40 px, low bands at the bottom.
    """
    import cv2

    whole = np.full((max(1, columns), segments[0][1].shape[1]), np.nan, np.float32)
    for start, mel in segments:
        stop = min(len(whole), start + len(mel))
        whole[start:stop] = mel[: max(0, stop - start)]
    missing = np.isnan(whole[:, 0]).astype(np.uint8)
    levels = ((np.nan_to_num(whole, nan=-4.0) + 4.0) * (255 / 8)).clip(0, 255).astype(np.uint8)
    width = min(_STRIP_WIDTH, len(whole))
    small = cv2.resize(levels.T[::-1], (width, _STRIP_HEIGHT), interpolation=cv2.INTER_AREA)
    image = cv2.applyColorMap(small, cv2.COLORMAP_MAGMA)[..., ::-1].copy()
    holes = cv2.resize(missing[None], (width, 1), interpolation=cv2.INTER_NEAREST)[0] > 0
    image[:, holes] = 96
    return jpeg_uri(image, _STRIP_QUALITY)


def _polyline(points: np.ndarray, closed: bool) -> str:
    """Relative moves: about half the characters of absolute ones."""
    steps = np.diff(points, axis=0)
    moves = "".join(f"l{x} {y}" for x, y in steps if closed or x or y)
    return f"M{points[0][0]} {points[0][1]}{moves}{'z' if closed else ''}"
