"""Pictures as bytes: JPEG for crops, PNG for mask planes."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

JPEG_QUALITY = 95


def jpeg(rgb: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB as a baseline JPEG of quality 95 without chroma subsampling."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not ok:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return data.tobytes()


def png(plane: np.ndarray) -> bytes:
    """uint8 [H, W] as an 8-bit grey PNG.

    Written here because a mask is a few long runs: run-length deflate takes 0.1 ms at 256x256 and gives 1.2 kB, where
    OpenCV takes 0.8 ms for the same file.
    """
    height, width = plane.shape
    rows = np.zeros((height, width + 1), np.uint8)  # the leading zero of a row says: not filtered
    rows[:, 1:] = plane
    deflate = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", deflate.compress(rows.tobytes()) + deflate.flush()),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
