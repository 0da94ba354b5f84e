"""The one way in which models and metrics change the size of pictures."""

from __future__ import annotations

import cv2
import numpy as np


def resize(pictures: np.ndarray, size: int) -> np.ndarray:
    """Square pictures at another size: area averages when shrinking, cubic when enlarging.

    Args:
        pictures: uint8 [..., S, S, C] or [..., S, S, 3]; any leading dimensions.
        size: new side, px.

    Returns:
        uint8 [..., size, size, C]; the same array where nothing changes.
    """
    side = pictures.shape[-2]
    if side == size:
        return pictures
    flat = pictures.reshape(-1, *pictures.shape[-3:])
    how = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
    out = np.stack([cv2.resize(np.ascontiguousarray(picture), (size, size), interpolation=how) for picture in flat])
    return out.reshape(*pictures.shape[:-3], size, size, pictures.shape[-1])
