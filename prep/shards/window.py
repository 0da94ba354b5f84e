"""A training item: some frames of a segment, some to look at for reference, and what is heard meanwhile."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from prep.shards import schema
from prep.shards.rows import Segment
from prep.stages.mel import mel_window

_SEGMENT_FIELDS = operator.attrgetter(*(field.name for field in dataclasses.fields(Segment)))


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """A training item: T consecutive frames of a segment, K reference frames, and what is heard meanwhile.

    Attributes:
        key: the sample's key.
        segment: what identifies the sample and places it in its clip.
        indices: int64 [T], frames of the segment.
        frames: uint8 [T, S, S, 3] RGB.
        masks: uint8 [T, S, S] of :class:`prep.shards.schema.MaskBit`. Only ``ERASE`` may reach a model's input.
        landmarks: float32 [T, 68, 2], pixels of ``frames``, smoothed.
        mel: float32 [T, 80, 16] in [-4, 4], bands x columns: the mel window of each frame at the reader's
            ``mel_offset`` (what a generator hears).
        sync_mel: float32 [80, max(16, 3.2 T)]: the columns from the first frame's window on at offset 0, as a
            sync expert hears T frames.
        reference_indices: int64 [K], frames of the segment.
        references: uint8 [K, S, S, 3] RGB.
        reference_landmarks: float32 [K, 68, 2], pixels of ``references``.
    """

    key: str
    segment: Segment
    indices: np.ndarray
    frames: np.ndarray
    masks: np.ndarray
    landmarks: np.ndarray
    mel: np.ndarray
    sync_mel: np.ndarray
    reference_indices: np.ndarray
    references: np.ndarray
    reference_landmarks: np.ndarray

    def arrays(self) -> dict[str, Any]:
        """``key`` and the arrays by name, for frameworks that want a dictionary."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "segment"]
        return {name: getattr(self, name) for name in names}


def make_window(
    segment: Segment,
    indices: np.ndarray,
    reference_indices: np.ndarray,
    *,
    frames: np.ndarray,
    masks: np.ndarray,
    references: np.ndarray,
    landmarks: np.ndarray,
    mel: np.ndarray,
    mel_offset: int,
) -> Window:
    """The :class:`Window` of decoded frames and of a whole sample's ``landmarks`` [T, 68, 2] and ``mel`` [n_mel, 80].

    Raises:
        IndexError, ValueError: see :func:`prep.stages.mel.mel_window`.
    """
    # a stored pixel i covers [i, i + 1), its centre is i + 0.5: centres scale, not indices
    scale = frames.shape[1] / segment.size
    points = landmarks if scale == 1 else ((landmarks + 0.5) * scale - 0.5).astype(np.float32)
    clip_frames = segment.frame_start + indices
    heard = [mel_window(mel, int(f), mel_offset, first_column=segment.mel_start) for f in clip_frames]
    width = max(schema.MEL_WINDOW, 16 * len(indices) // 5)
    sync_mel = mel_window(mel, int(clip_frames[0]), 0, width, first_column=segment.mel_start)
    return Window(
        key=segment.key,
        segment=Segment(*_SEGMENT_FIELDS(segment)),
        indices=indices,
        frames=frames,
        masks=masks,
        landmarks=points[indices],
        mel=np.stack([window.T for window in heard]),
        sync_mel=np.ascontiguousarray(sync_mel.T),
        reference_indices=reference_indices,
        references=references,
        reference_landmarks=points[reference_indices],
    )


def collate(windows: Sequence[Window]) -> dict[str, Any]:
    """Windows as one dictionary: a list of keys, and the arrays of :class:`Window` stacked along a new first axis."""
    items = [window.arrays() for window in windows]
    return {
        name: [item[name] for item in items] if name == "key" else np.stack([item[name] for item in items])
        for name in items[0]
    }
