"""Training batches from shards: a pure function of the generator that draws them."""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from g4g_core.protocols import POSE_POINTS, Speech, SyncExpert
from g4g_core.references import choose_references
from g4g_core.resize import resize
from g4g_core.training import Turn
from g4g_model.config import FRAMES, G4GConfig
from g4g_model.footage import Footage, Segment
from g4g_model.inputs import Inputs, heard, inputs_of, pictures_in, points_at, stacked
from g4g_model.losses import IGNORED
from g4g_model.networks.alignment import mouth_pictures
from prep.shards.access import SampleReader
from prep.shards.index import Dataset, Selection
from prep.shards.members import CorruptSample
from prep.shards.rows import Row
from prep.shards.schema import MaskBit
from prep.stages.geometry import MIRROR
from prep.sync_expert.mouths import mouth_squares

ONLY = Turn()
_MIRRORED = 0.5
_KEPT_BYTES = 64 << 20

REGIONS = {
    "lips": MaskBit.LIPS, "mouth": MaskBit.MOUTH, "lower_face": MaskBit.LOWER_FACE, "erase": MaskBit.ERASE
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class G4GBatch:
    """Windows of B samples. All but ``inputs`` is for losses alone.

    Attributes:
        keys: of the samples.
        inputs: what the network sees of T frames and K references.
        truth: float32 [B, T, 3, S, S] in [-1, 1].
        regions: masks [B, T, 1, S, S] in 0..1 by the names of :data:`REGIONS`.
        places: float32 [B, T, 2, 3]: where the mouths are, for :func:`~g4g_model.networks.alignment.mouth_pictures`.
        starts: int64 [B, 1 + W]: first frames, in the sample, of the window above and of W others.
        sounds: float32 [B, 1 + W, 1, 80, 16]: what is heard during these windows.
        stacks: float32 [B, W, 5, 3, P, P] in [-1, 1]: true mouths of the W others.
        wrong: int64 [B, 1 + W]: for each window one of the W others (1 ... W) of its sample, not too near, as a pair
            that does not belong together.
        expert: what a sync expert is told, ``None`` where none takes part.
    """

    keys: list[str]
    inputs: Inputs
    truth: torch.Tensor
    regions: dict[str, torch.Tensor]
    places: torch.Tensor
    starts: torch.Tensor
    sounds: torch.Tensor
    stacks: torch.Tensor
    wrong: torch.Tensor
    expert: ExpertView | None


@dataclasses.dataclass(frozen=True, eq=False)
class ExpertView:
    """What a sync expert is told of the windows, besides what is drawn in their middle.

    Attributes:
        frames: float32 [B, F, 3, S, S] in [-1, 1]: true frames; F is the expert's, T of them in the middle.
        places: float32 [B, F, 2, 3]: where it looks.
        heard: float32 [B, ...]: what it hears.
    """

    frames: torch.Tensor
    places: torch.Tensor
    heard: torch.Tensor


class _Small:
    """Frames at the size at which they are looked at, with those of them that were asked for last.

    A small data set is seen hundreds of times, and decoding a frame takes longer than all else that is done to it.
    """

    def __init__(self, samples: SampleReader) -> None:
        self._samples, self._room = samples, _KEPT_BYTES
        self._kept: collections.OrderedDict[tuple[str, int, int], np.ndarray] = collections.OrderedDict()

    def frames(self, row: Row, numbers: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
        """uint8 [n, size, size, 3]."""
        missing = [int(n) for n in numbers if (row.key, int(n), size) not in self._kept]
        read = resize(self._samples.frames(row, missing), size) if missing else ()
        found = dict(zip(missing, read, strict=True))
        pictures = np.stack([found[n] if n in found else self._again(row, n, size) for n in map(int, numbers)])
        for number, picture in found.items():
            self._kept[row.key, number, size] = picture.copy()
            self._room -= picture.nbytes
        while self._room < 0:
            self._room += self._kept.popitem(last=False)[1].nbytes
        return pictures

    def _again(self, row: Row, number: int, size: int) -> np.ndarray:
        self._kept.move_to_end((row.key, number, size))
        return self._kept[row.key, number, size]


@dataclasses.dataclass(frozen=True, eq=False)
class _Seen:
    """Samples as they are, or in a mirror."""

    samples: SampleReader
    small: _Small
    mirrored: bool

    def frames(self, row: Row, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        return self._turned(self.samples.frames(row, numbers))

    def resized(self, row: Row, numbers: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
        """As :meth:`frames`, at another size."""
        return self._turned(self.small.frames(row, numbers, size))

    def masks(self, row: Row, numbers: np.ndarray) -> np.ndarray:
        return self._turned(self.samples.masks(row, numbers))

    def landmarks(self, row: Row) -> np.ndarray:
        points = self.samples.landmarks(row)
        if not self.mirrored:
            return points
        return np.asarray(points[:, MIRROR] * (-1, 1) + (row.size - 1, 0), np.float32)

    def _turned(self, planes: np.ndarray) -> np.ndarray:
        return turned(planes) if self.mirrored else planes


def turned(planes: np.ndarray) -> np.ndarray:
    """Planes [n, H, W] or pictures [n, H, W, C] in a mirror."""
    return np.stack([cv2.flip(plane, 1) for plane in planes])


class Batches(Footage):
    """Draws batches from the samples of some splits.

    Only frames that a batch needs are read and decoded. Samples that are too short for the windows of the matrix are
    left out, too.

    Args:
        dataset, splits, selection: see :class:`g4g_model.footage.Footage`, and on what is raised.
        config: of the network.
        expert: a sync expert that takes part in the loss.
    """

    def __init__(
        self,
        dataset: Dataset,
        splits: Sequence[str],
        config: G4GConfig,
        selection: Selection | None = None,
        expert: SyncExpert | None = None,
    ) -> None:
        self._margin = 0 if expert is None else (expert.frames - FRAMES) // 2
        least = max(config.windows + FRAMES - 1, FRAMES + 2 * IGNORED + 1, FRAMES + 2 * self._margin)
        super().__init__(
            dataset, splits, selection, least=least, clips=config.clips, lower="--set clips or --set windows"
        )
        self._config, self._samples, self._expert = config, SampleReader(dataset), expert
        self._small = _Small(self._samples)

    def alone(self) -> Batches:
        """The same samples one at a time, at full size and not in a mirror: to look at."""
        other = copy.copy(self)
        other._config = self._config.model_copy(update={"clips": 1, "stages": (), "mirror": False})
        return other

    def draw(self, rng: np.random.Generator, turn: Turn = ONLY) -> G4GBatch:
        """A batch of ``config.clips`` different samples, or a rank's share of them; all chance is ``rng``'s.

        Raises:
            CorruptSample: a sample that cannot be read, or one whose ``erase`` mask is empty.
        """
        numbers = rng.choice(len(self.segments), self._config.clips, replace=False)
        seeds = rng.integers(2**63, size=len(numbers))  # one a sample, so that a share is what it is in the whole
        share = len(numbers) // turn.ranks
        mine = range(turn.rank * share, (turn.rank + 1) * share)
        size = self._config.size_at(turn.step)
        return _together(
            [self._item(self.segments[int(numbers[n])], np.random.default_rng(seeds[n]), size) for n in mine]
        )

    def _item(self, segment: Segment, rng: np.random.Generator, size: int) -> G4GBatch:
        row, mirrored = segment.row, self._config.mirror and bool(rng.random() < _MIRRORED)
        seen = _Seen(self._samples, self._small, mirrored)
        start, allowed = self._start(segment, rng)
        references = choose_references(allowed, rng)
        window = start + np.arange(FRAMES)
        pictures, masks = seen.frames(row, window), seen.masks(row, window)
        if not ((masks & MaskBit.ERASE) > 0).any((1, 2)).all():
            raise CorruptSample(row.key, "masks", "an erase mask is empty, so that there is nothing to redraw")
        landmarks, mel = seen.landmarks(row), self._samples.mel(row)
        clip_frames = row.frame_start + window
        shown, shown_points = _references(seen, segment, references)
        inputs = inputs_of(
            source=pictures,
            erase=np.asarray((masks & MaskBit.ERASE) > 0, np.uint8),
            pose=landmarks[window, POSE_POINTS],
            references=shown,
            reference_landmarks=shown_points,
            mel=heard(mel, row.mel_start, clip_frames, self._config.mel_offset),
            size=size,
        )
        regions = {name: _region(masks, bit, size) for name, bit in REGIONS.items()}
        regions["erase"] = inputs.erase  # all that is erased, whole pixels
        others = np.sort(rng.choice(row.n_frames - FRAMES + 1, self._config.windows, replace=False))
        starts = np.concatenate([[start], others])
        return G4GBatch(
            keys=[row.key],
            inputs=inputs,
            truth=pictures_in(resize(pictures, size))[None],
            regions=regions,
            places=self._places(row, landmarks, window, size)[None],
            starts=torch.from_numpy(starts)[None],
            sounds=torch.from_numpy(heard(mel, row.mel_start, row.frame_start + starts, 0))[None],
            stacks=self._stacks(seen, row, landmarks, others, size)[None],
            wrong=torch.from_numpy(_others(starts, rng))[None],
            expert=self._view(seen, row, landmarks, mel, start, size),
        )

    def _view(
        self, seen: _Seen, row: Row, landmarks: np.ndarray, mel: np.ndarray, start: int, size: int
    ) -> ExpertView | None:
        if self._expert is None:
            return None
        first = start - self._margin
        frames = first + np.arange(self._expert.frames)
        speech = Speech(self._samples.pcm(row), mel, row.mel_start, row.frame_start)
        pose = points_at(landmarks[frames, POSE_POINTS], row.size, size)
        told = (torch.from_numpy(array)[None] for array in self._expert.prepare(pose, size, speech, first))
        return ExpertView(pictures_in(seen.resized(row, frames, size))[None], *told)

    @staticmethod
    def _places(row: Row, landmarks: np.ndarray, frames: np.ndarray, size: int) -> torch.Tensor:
        return torch.from_numpy(mouth_squares(points_at(landmarks[frames, POSE_POINTS], row.size, size), size))

    def _start(self, segment: Segment, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """A window that has references, and the clip frames that may be these."""
        starts = self._margin + rng.permutation(segment.row.n_frames - FRAMES + 1 - 2 * self._margin)
        for start in starts:
            allowed = segment.allowed(int(start))
            if len(allowed):
                return int(start), allowed
        raise ValueError(f"{segment.row.key} has no window with references")

    def _stacks(self, seen: _Seen, row: Row, landmarks: np.ndarray, starts: np.ndarray, size: int) -> torch.Tensor:
        """float32 [W, 5, 3, P, P]: true mouths of windows; a frame that several share is read once."""
        wanted = starts[:, None] + np.arange(FRAMES)
        frames = np.unique(wanted)
        pictures = pictures_in(seen.resized(row, frames, size))
        mouths = mouth_pictures(pictures, self._places(row, landmarks, frames, size), self._config.mouth_size)
        return mouths[torch.from_numpy(np.searchsorted(frames, wanted))]


def _references(seen: _Seen, segment: Segment, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [K, s, s, 3] and float32 [K, 68, 2] of clip frames, from whatever segments of the shot hold them."""
    pictures, points = [], []
    for frame in frames:
        row = next(row for row in segment.rows if 0 <= frame - row.frame_start < row.n_frames)
        pictures.append(seen.frames(row, [int(frame) - row.frame_start])[0])
        points.append(seen.landmarks(row)[int(frame) - row.frame_start])
    return np.stack(pictures), np.stack(points)


def _together(items: Sequence[G4GBatch]) -> G4GBatch:
    """Batches of one sample each as one batch."""
    tensors = ("truth", "places", "starts", "sounds", "stacks", "wrong")
    views = [item.expert for item in items if item.expert is not None]
    return G4GBatch(
        keys=[item.keys[0] for item in items],
        inputs=stacked([item.inputs for item in items]),
        regions={name: torch.cat([item.regions[name] for item in items]) for name in REGIONS},
        **{name: torch.cat([getattr(item, name) for item in items]) for name in tensors},
        expert=stacked(views) if views else None,
    )


def _region(masks: np.ndarray, bit: MaskBit, size: int) -> torch.Tensor:
    """float32 [1, T, 1, S, S]: the part of every pixel that the region covers."""
    planes = [
        cv2.resize(((mask & bit) > 0).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) for mask in masks
    ]
    return torch.from_numpy(np.stack(planes))[None, :, None]


def _others(starts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int64 [n]: for every window another but the first, more than ``IGNORED`` frames away."""
    far = np.abs(starts[:, None] - starts[None, :]) > IGNORED
    far[:, 0] = False
    return np.array([rng.choice(np.flatnonzero(row)) for row in far], np.int64)
