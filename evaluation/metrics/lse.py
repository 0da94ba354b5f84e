"""LSE-D, LSE-C and AV offset: lip sync as SyncNet v2 reads it, equal to ``SyncNetInstance.evaluate`` to 1e-3.

Names from Prajwal et al., "A Lip Sync Expert Is All You Need", 2020: LSE-D is the distance, LSE-C the confidence.
"""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

from evaluation.metrics.base import Block, Context, Measured, Metric
from evaluation.metrics.networks import Precision, best_device
from evaluation.metrics.syncnet import SIDE, WINDOW, LipStream, SyncNet
from g4g_core.errors import UsageError
from prep.records import SAMPLES_PER_FRAME

MAX_SHIFT = 15
"""Frames by which sound may lie apart, each way: ``vshift`` of every SyncNet script."""

MIN_FRAMES = 10
"""Fewer are refused."""

FEW_WINDOWS = 20
"""Under so many windows shifts are compared with silence more than with sound: LSE-C comes out too low."""

_EPSILON = 1e-6  # of torch's pairwise_distance, added to every difference
_ROWS = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Lse:
    """SyncNet's reading of one clip. Distances are Euclidean, of features that are not of unit length.

    Attributes:
        distance: LSE-D, the minimum of :attr:`curve`: a constant offset of up to 15 frames does not change it.
        confidence: LSE-C, the median of :attr:`curve` less its minimum.
        offset: frames of 40 ms by which the sound leads (> 0) or lags (< 0).
        distance_at_0: mean distance as the clip is.
        curve: float32 [31], mean distance by shift. Element j says how well the clip would fit at offset 15 - j.
        per_frame: float32 [windows], the median of :attr:`curve` less each window's distance at :attr:`offset`:
            confidence over time, as SyncNet prints it but without its median filter.
        windows: windows of 5 frames that were compared.
        flags: ``few_windows`` (under 20: the zeros beyond the clip's ends weigh), ``offset_at_edge`` (the largest
            offset that is looked for: no sync found, or one beyond).
    """

    distance: float
    confidence: float
    offset: int
    distance_at_0: float
    curve: np.ndarray
    per_frame: np.ndarray
    windows: int
    flags: tuple[str, ...]


def lse(crops_rgb: np.ndarray, pcm: np.ndarray, syncnet: SyncNet) -> Lse:
    """Reads a clip (``@crop1``: crops of ``crop/1``; ``@lrs``: whole frames of a clip that is cropped already).

    Args:
        crops_rgb: uint8 [T, S, S, 3], 25 a second.
        pcm: int16 [n] at 16 kHz, beginning with the first frame.

    Raises:
        UsageError: under 10 frames of picture or sound, or arrays of another type or shape.
    """
    count = count_windows(len(crops_rgb), len(pcm))
    crops_rgb = crops_rgb[: count + WINDOW - 1]
    lips = LipStream(syncnet)
    for start in range(0, len(crops_rgb), syncnet.batch):
        lips.add(lip_frames(crops_rgb[start : start + syncnet.batch]))
    return read_offsets(lips.features()[:count], syncnet.hear(pcm)[:count])


def count_windows(frames: int, samples: int) -> int:
    """How many windows SyncNet compares: one fewer than fit. Raises UsageError under 10 frames of either."""
    common = min(frames, samples // SAMPLES_PER_FRAME)
    if common < MIN_FRAMES:
        raise UsageError(
            f"LSE needs {MIN_FRAMES} frames of picture and sound, not {common}", "Leave out shots that are as short."
        )
    return common - WINDOW


def lip_frames(crops_rgb: np.ndarray) -> np.ndarray:
    """Crops as SyncNet sees them: resized to 224 px (bilinear, as its scripts do), BGR.

    Args:
        crops_rgb: uint8 [n, S, S, 3].

    Returns:
        uint8 [n, 224, 224, 3].

    Raises:
        UsageError: crops of another type or shape.
    """
    if crops_rgb.dtype != np.uint8 or crops_rgb.ndim != 4 or crops_rgb.shape[3] != 3:
        raise UsageError(f"LSE reads crops uint8 [T, S, S, 3], not {crops_rgb.dtype} {list(crops_rgb.shape)}")
    frames = np.empty((len(crops_rgb), SIDE, SIDE, 3), np.uint8)
    for frame, crop in zip(frames, crops_rgb, strict=True):
        frame[:] = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    return frames


def read_offsets(seen: np.ndarray, heard: np.ndarray, vshift: int = MAX_SHIFT) -> Lse:
    """Compares what was seen with what was heard up to ``vshift`` frames earlier and later.

    As ``calc_pdist`` and ``evaluate`` of ``SyncNetInstance``: beyond the ends of the sound stand zero vectors.

    Args:
        seen: float32 [n, d], features of windows of picture.
        heard: float32 [n, d], of the windows of sound that belong to them; n from :func:`count_windows`.

    Raises:
        UsageError: features of different shapes, or none.
    """
    if seen.shape != heard.shape or not len(seen):
        raise UsageError(f"features of picture and sound do not pair: {list(seen.shape)} and {list(heard.shape)}")
    distances = _distances(seen, heard, vshift)
    curve = distances.mean(axis=0, dtype=np.float64)
    best = int(np.argmin(curve))
    median = float(np.median(curve))
    offset = vshift - best
    flags = {"few_windows": len(seen) < FEW_WINDOWS, "offset_at_edge": abs(offset) == vshift}
    return Lse(
        distance=float(curve[best]),
        confidence=median - float(curve[best]),
        offset=offset,
        distance_at_0=float(curve[vshift]),
        curve=curve.astype(np.float32),
        per_frame=(median - distances[:, best]).astype(np.float32),
        windows=len(seen),
        flags=tuple(name for name, raised in flags.items() if raised),
    )


def _distances(seen: np.ndarray, heard: np.ndarray, vshift: int) -> np.ndarray:
    """float32 [n, 2 vshift + 1]: of picture i to sound i + j - vshift."""
    padded = np.pad(heard, ((vshift, vshift), (0, 0)))
    found = np.empty((len(seen), 2 * vshift + 1), np.float32)
    for start in range(0, len(seen), _ROWS):
        rows = seen[start : start + _ROWS]
        for shift in range(2 * vshift + 1):
            apart = rows - padded[start + shift : start + shift + len(rows)]
            apart += _EPSILON
            found[start : start + _ROWS, shift] = np.sqrt(np.einsum("nd,nd->n", apart, apart))
    return found


_BY = "by SyncNet v2 on crops of crop/1 at 224 px and raw sound, as SyncNetInstance.evaluate"
LSE_D = Metric(
    id="lse_d@crop1", name="LSE-D", unit="", better="lower", kind="clip", near_truth=True, weights=("syncnet-v2",),
    definition=f"Least mean distance of picture and sound over shifts of up to 15 frames, {_BY}. A constant offset "
    "does not change it: see AV offset.",
)  # fmt: skip
LSE_C = Metric(
    id="lse_c@crop1", name="LSE-C", unit="", better="higher", kind="clip", near_truth=True, weights=("syncnet-v2",),
    definition=f"Median less minimum of the mean distances of picture and sound over all shifts, {_BY}. Too low "
    "on clips under 50 frames.",
)  # fmt: skip
AV_OFFSET = Metric(
    id="av_offset@crop1", name="AV offset", unit="frames", better=0.0, kind="clip", weights=("syncnet-v2",),
    definition=f"The shift at which picture and sound fit best, in frames of 40 ms, above 0: the sound leads; {_BY}.",
)  # fmt: skip
LSE_D_AT_0 = Metric(
    id="lse_d0@crop1", name="LSE-D at 0", unit="", better="lower", kind="clip", near_truth=True,
    weights=("syncnet-v2",),
    definition=f"Mean distance of picture and sound with no shift, {_BY}: it shows what an offset costs.",
)  # fmt: skip


class LseMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "lse"
    metrics = (LSE_D, LSE_C, AV_OFFSET, LSE_D_AT_0)
    packages = (("syncnet_python", "pip install 'g4g[lse]'"), ("python_speech_features", "pip install 'g4g[lse]'"))

    def start(self, context: Context) -> _Session:
        return _Session(context, pretrained(context.precision))


@functools.lru_cache(maxsize=2)
def pretrained(precision: Precision) -> SyncNet:
    """With the registry's weights, once a process, on the GPU where there is one. Raises as :class:`SyncNet`."""
    return SyncNet(device=best_device(), precision=precision)


class _Session:
    def __init__(self, context: Context, syncnet: SyncNet) -> None:
        self._context, self._syncnet = context, syncnet
        self._lips = LipStream(syncnet)

    def add(self, block: Block) -> None:
        self._lips.add(lip_frames(block.output))

    def result(self) -> Measured:
        try:
            count = count_windows(self._context.n_frames, len(self._context.pcm))
        except UsageError as error:
            return Measured(missing={metric.id: ("too_few_frames", error.what) for metric in LseMeasure.metrics})
        found = read_offsets(self._lips.features()[:count], self._syncnet.hear(self._context.pcm)[:count])
        return Measured(
            values={
                LSE_D.id: found.distance,
                LSE_C.id: found.confidence,
                AV_OFFSET.id: float(found.offset),
                LSE_D_AT_0.id: found.distance_at_0,
            },
            curves={
                "lse": [round(float(value), 4) for value in found.curve[::-1]],  # by offset, -15 ... 15
                "lse_confidence": [round(float(value), 3) for value in found.per_frame],
            },
            flags=found.flags,
        )
