"""The windows that learned baselines are trained on: those that G4G sees, drawn by the same rule.

With the same seed and settings a baseline is given, step by step, the frames and references that G4G is given, so that
"as many frames seen" is "the same frames seen". What a network makes of a window is its own business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from g4g_core.protocols import POSE_POINTS, TrainingData
from g4g_core.references import choose_references
from g4g_model.config import FRAMES, G4GConfig
from g4g_model.data import turned
from g4g_model.footage import Footage, Segment, require_strangers, validated_on
from prep.shards.access import SampleReader
from prep.shards.index import Dataset, Selection
from prep.shards.members import CorruptSample
from prep.shards.schema import MaskBit
from prep.stages.geometry import MIRROR

LEAST = G4GConfig().windows + FRAMES - 1
"""Frames that a sample must have: as many as G4G's matrix of mouths and sounds needs."""


_MIRRORED = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """T consecutive frames of a sample, as they are stored, and frames of the same shot to refer to.

    Attributes:
        key: of the sample.
        start: frame of the sample that the window begins with.
        clip_frames: int64 [T], the frames' numbers in the clip.
        pictures: uint8 [T, s, s, 3] RGB.
        erase: uint8 [T, s, s] of 0 and 1.
        mouth: uint8 [T, s, s] of 0 and 1.
        pose: float32 [n, 31, 2], points 17-47 of all frames of the sample, pixels.
        references: uint8 [K, s, s, 3].
        reference_landmarks: float32 [K, 68, 2].
        mel: float32 [m, 80], columns of the clip from ``mel_start`` on.
        mel_start: the column of the clip that ``mel[0]`` is.
    """

    key: str
    start: int
    clip_frames: np.ndarray
    pictures: np.ndarray
    erase: np.ndarray
    mouth: np.ndarray
    pose: np.ndarray
    references: np.ndarray
    reference_landmarks: np.ndarray
    mel: np.ndarray
    mel_start: int

    @property
    def source_pose(self) -> np.ndarray:
        """float32 [T, 31, 2], points 17-47 of the window's frames."""
        return np.asarray(self.pose[self.start : self.start + FRAMES])

    def mirrored(self) -> Window:
        """The same, left and right changed over."""
        points = self.reference_landmarks[:, MIRROR] * (-1, 1) + (self.pictures.shape[2] - 1, 0)
        return dataclasses.replace(
            self,
            pictures=turned(self.pictures),
            erase=turned(self.erase),
            mouth=turned(self.mouth),
            references=turned(self.references),
            pose=mirrored_pose(self.pose, self.pictures.shape[2]),
            reference_landmarks=points.astype(np.float32),
        )


def mirrored_pose(pose: np.ndarray, side: int) -> np.ndarray:
    """Points 17-47, float [n, 31, 2], of pictures of ``side`` px in a mirror, float32."""
    order = MIRROR[POSE_POINTS] - POSE_POINTS.start
    return np.asarray(pose[:, order] * (-1, 1) + (side - 1, 0), np.float32)


class Windows(Footage):
    """Draws windows from the samples of some splits; only frames that are needed are read.

    Args:
        dataset, splits, clips, selection: see :class:`g4g_model.footage.Footage`, and on what is raised.
        mirror: show every second sample in a mirror.
    """

    def __init__(
        self,
        dataset: Dataset,
        splits: Sequence[str],
        clips: int,
        selection: Selection | None = None,
        mirror: bool = False,
    ) -> None:
        super().__init__(dataset, splits, selection, least=LEAST, clips=clips)
        self.reader, self.mirror, self._clips = SampleReader(dataset), mirror, clips

    def draw(self, rng: np.random.Generator) -> list[Window]:
        """Windows of ``clips`` different samples; all chance is ``rng``'s, used as G4G uses it.

        Raises:
            CorruptSample: a sample that cannot be read, or one whose ``erase`` mask is empty.
        """
        numbers = rng.choice(len(self.segments), self._clips, replace=False)
        seeds = rng.integers(2**63, size=len(numbers))
        return [
            self._window(self.segments[int(number)], np.random.default_rng(seed))
            for number, seed in zip(numbers, seeds, strict=True)
        ]

    def _window(self, segment: Segment, rng: np.random.Generator) -> Window:
        row, mirrored = segment.row, self.in_mirror(rng)
        start, allowed = _start(segment, rng)
        references, reference_landmarks = self._references(segment, choose_references(allowed, rng))
        frames = start + np.arange(FRAMES)
        masks = self.reader.masks(row, frames)
        erase = np.asarray((masks & MaskBit.ERASE) > 0, np.uint8)
        if not erase.any((1, 2)).all():
            raise CorruptSample(row.key, "masks", "an erase mask is empty, so that there is nothing to redraw")
        window = Window(
            key=row.key,
            start=start,
            clip_frames=row.frame_start + frames,
            pictures=self.reader.frames(row, frames),
            erase=erase,
            mouth=np.asarray((masks & MaskBit.MOUTH) > 0, np.uint8),
            pose=self.reader.landmarks(row)[:, POSE_POINTS],
            references=references,
            reference_landmarks=reference_landmarks,
            mel=self.reader.mel(row),
            mel_start=row.mel_start,
        )
        return window.mirrored() if mirrored else window

    def in_mirror(self, rng: np.random.Generator) -> bool:
        """Whether the next sample is shown in a mirror."""
        return self.mirror and bool(rng.random() < _MIRRORED)

    def _references(self, segment: Segment, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [K, s, s, 3] and float32 [K, 68, 2] of clip frames, from whatever samples of the shot hold them."""
        pictures, points = [], []
        for frame in frames:
            row = next(row for row in segment.rows if 0 <= frame - row.frame_start < row.n_frames)
            pictures.append(self.reader.frames(row, [int(frame) - row.frame_start])[0])
            points.append(self.reader.landmarks(row)[int(frame) - row.frame_start])
        return np.stack(pictures), np.stack(points)


def _start(segment: Segment, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """A window that has references, and the clip frames that may be these."""
    for start in rng.permutation(segment.row.n_frames - FRAMES + 1):
        allowed = segment.allowed(int(start))
        if len(allowed):
            return int(start), allowed
    raise ValueError(f"{segment.row.key} has no window with references")


def open_windows(data: TrainingData, clips: int, mirror: bool) -> tuple[Windows, Windows | None]:
    """What is trained on, ``clips`` samples at a time, and what figures are taken on, one at a time as it is.

    Raises:
        DatasetError: too little to learn from, or a person who is trained on and in the validation.
    """
    dataset = Dataset.open(data.shards)
    windows = Windows(dataset, data.splits, clips, data.selection, mirror)
    if data.validation is None:
        return windows, None
    splits, selection = validated_on(dataset, data.validation)
    validation = Windows(dataset, splits, 1, selection)
    require_strangers(windows, validation)
    return windows, validation
