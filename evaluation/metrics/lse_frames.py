"""LSE of whole frames, for finished videos: ``@lrs`` as for LRS clips, ``@s3fd`` with the faces that S3FD finds.

``@lrs`` is what ``calculate_scores_LRS.py`` of Wav2Lip does: the whole frame at 224 px, no detector. It means something
for clips that are cropped already, as LRS2's are, and nothing for others. ``@s3fd`` is the pipeline of
``syncnet_python`` (``run_pipeline.py``): boxes of every frame, smoothed, and SyncNet's crop around them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from evaluation.metrics.base import Block, Context, Measured, Metric
from evaluation.metrics.lse import count_windows, lip_frames, pretrained, read_offsets
from evaluation.metrics.networks import best_device
from evaluation.metrics.syncnet import SIDE, LipStream
from g4g_core import weights
from g4g_core.errors import MissingDependency, UsageError

CROP_SCALE = 0.4
PAD = 110
"""Grey level (all channels) around frames that SyncNet's crop leaves."""

_SMOOTHING = 13  # frames of the median filters on the box's centre and size
_MAX_GAP = 25  # frames without a face that are interpolated
_DETECT_SCALE = 0.25
_CONFIDENCE = 0.9
_SAME_FACE = 0.5


def syncnet_crop(frame: np.ndarray, centre_x: float, centre_y: float, half: float) -> np.ndarray:
    """SyncNet's crop of one face: from 1.4 half sides left of the centre to as far right, from one above to 1.8 below.

    As ``crop_video`` of ``run_pipeline.py``: the frame is first surrounded by grey 110, edges are cut to whole pixels.

    Args:
        frame: uint8 [H, W, 3].
        centre_x, centre_y, half: of the face box, px; ``half`` is half its longer side.

    Returns:
        uint8 [224, 224, 3].
    """
    around = int(half * (1 + 2 * CROP_SCALE))
    padded = np.pad(frame, ((around, around), (around, around), (0, 0)), constant_values=PAD)
    x, y = centre_x + around, centre_y + around
    rows = slice(int(y - half), int(y + half * (1 + 2 * CROP_SCALE)))
    columns = slice(int(x - half * (1 + CROP_SCALE)), int(x + half * (1 + CROP_SCALE)))
    return np.asarray(cv2.resize(padded[rows, columns], (SIDE, SIDE)))


def smoothed_boxes(boxes: np.ndarray) -> np.ndarray:
    """float64 [T, 3]: centre x, centre y and half side of boxes [T, 4], each median filtered over 13 frames.

    As ``crop_video``: ``scipy.signal.medfilt``, which fills up with zeros beyond the ends.
    """
    from scipy.signal import medfilt

    half = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) / 2
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return np.stack([medfilt(values, _SMOOTHING) for values in (x, y, half)], axis=1)


def one_track(found: Iterable[np.ndarray]) -> np.ndarray | None:
    """The box of one face in every frame, from the boxes found: float64 [T, 4].

    The largest box begins; then the one that overlaps the last by more than half. Gaps of up to 25 frames are
    interpolated, and ends without a face repeat the nearest box.

    Args:
        found: float [n, 4 or 5] of each frame: x0, y0, x1, y1 and perhaps a score.

    Returns:
        ``None`` where there is no face, or a longer gap.
    """
    from prep.stages.geometry import overlap

    kept: dict[int, np.ndarray] = {}
    last: np.ndarray | None = None
    count = 0
    for frame, boxes in enumerate(found):
        count += 1
        candidates = [box[:4] for box in boxes if last is None or overlap(box, last) > _SAME_FACE]
        if candidates:
            last = kept[frame] = max(candidates, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    if not kept:
        return None
    frames = np.array(sorted(kept))
    gaps = np.diff(np.concatenate([[-1], frames, [count]])) - 1
    if gaps.max() > _MAX_GAP:
        return None
    known = np.stack([kept[frame] for frame in frames])
    return np.stack([np.interp(np.arange(count), frames, known[:, i]) for i in range(4)], axis=1)


class _S3fd:
    """S3FD by face-alignment, with the registry's weights."""

    def __init__(self) -> None:
        try:
            from face_alignment.detection.sfd.sfd_detector import SFDDetector
        except ImportError as error:
            raise MissingDependency(f"LSE @s3fd needs {error.name}", "pip install 'g4g[fan]'") from error
        self._detector = SFDDetector(best_device(), path_to_detector=str(weights.path("s3fd")))

    def boxes(self, frame: np.ndarray) -> np.ndarray:
        """float [n, 5] of a frame uint8 [H, W, 3] RGB, looked at in a quarter of its size as SyncNet's pipeline."""
        small = cv2.resize(frame, None, fx=_DETECT_SCALE, fy=_DETECT_SCALE, interpolation=cv2.INTER_LINEAR)
        found = [box for box in self._detector.detect_from_image(small) if box[4] >= _CONFIDENCE]
        boxes = np.array(found, np.float64).reshape(-1, 5)
        boxes[:, :4] /= _DETECT_SCALE
        return boxes


@functools.cache
def _s3fd() -> _S3fd:
    return _S3fd()


_LRS = "of the whole frame at 224 px without a detector, as Wav2Lip's LRS script: only for videos of cropped faces"
_S3FD = "with faces found by S3FD and cropped as SyncNet's own pipeline does"


def _metrics(place: str, text: str, needs: tuple[str, ...]) -> tuple[Metric, Metric, Metric]:
    return (
        Metric(
            id=f"lse_d@{place}", name=f"LSE-D ({place})", unit="", better="lower", kind="clip", near_truth=True,
            needs_frames=True, weights=needs,
            definition="Least mean distance of picture and sound over shifts of up to 15 frames, by SyncNet v2, "
            f"{text}.",
        ),
        Metric(
            id=f"lse_c@{place}", name=f"LSE-C ({place})", unit="", better="higher", kind="clip", near_truth=True,
            needs_frames=True, weights=needs,
            definition=f"Median less minimum of these distances over all shifts, by SyncNet v2, {text}.",
        ),
        Metric(
            id=f"av_offset@{place}", name=f"AV offset ({place})", unit="frames", better=0.0, kind="clip",
            needs_frames=True, weights=needs,
            definition=f"The shift at which both fit best, in frames, above 0: the sound leads; by SyncNet v2, {text}.",
        ),
    )  # fmt: skip


class LrsMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "lse-lrs"
    metrics = _metrics("lrs", _LRS, ("syncnet-v2",))
    packages = (("syncnet_python", "pip install 'g4g[lse]'"),)

    def start(self, context: Context) -> _Session:
        return _Session(context, self.metrics, _whole)


class S3fdMeasure:
    """See :class:`evaluation.metrics.base.Measure`."""

    name = "lse-s3fd"
    metrics = _metrics("s3fd", _S3FD, ("syncnet-v2", "s3fd"))
    packages = (("syncnet_python", "pip install 'g4g[lse]'"), ("face_alignment", "pip install 'g4g[fan]'"))

    def start(self, context: Context) -> _Session:
        return _Session(context, self.metrics, _around_faces)


def _whole(context: Context) -> Iterator[np.ndarray] | None:
    return (cv2.resize(frame, (SIDE, SIDE)) for frame in _frames(context))


def _around_faces(context: Context) -> Iterator[np.ndarray] | None:
    """Two passes over the video: boxes, then crops."""
    boxes = one_track(_s3fd().boxes(frame) for frame in _frames(context))
    if boxes is None:
        return None
    places = smoothed_boxes(boxes)
    return (syncnet_crop(frame, *place) for frame, place in zip(_frames(context), places, strict=False))


def _frames(context: Context) -> Iterator[np.ndarray]:
    if context.whole_frames is None:
        raise UsageError("there are no whole frames to look at", "Use g4g-eval score.")
    return context.whole_frames()


class _Session:
    """Does not look at the crops that blocks hold: it reads the frames themselves."""

    def __init__(self, context: Context, metrics: tuple[Metric, Metric, Metric], crops: Any) -> None:
        self._context, self._metrics, self._crops = context, metrics, crops

    def add(self, block: Block) -> None:
        """Nothing of a block is needed."""

    def result(self) -> Measured:
        context = self._context
        try:
            count = count_windows(context.n_frames, len(context.pcm))
        except UsageError as error:
            return Measured(missing={metric.id: ("too_few_frames", error.what) for metric in self._metrics})
        crops = self._crops(context)
        if crops is None:
            why = ("no_face_track", "S3FD finds no face, or loses it for more than a second")
            return Measured(missing={metric.id: why for metric in self._metrics})
        syncnet = pretrained(context.precision)
        lips = LipStream(syncnet)
        for crop in crops:
            lips.add(lip_frames(crop[None]))
        found = read_offsets(lips.features()[:count], syncnet.hear(context.pcm)[:count])
        values = (found.distance, found.confidence, float(found.offset))
        return Measured(
            values={metric.id: value for metric, value in zip(self._metrics, values, strict=True)}, flags=found.flags
        )
