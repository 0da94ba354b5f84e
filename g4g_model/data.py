"""Training batches from shards: a pure function of the generator that draws them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from g4g_core.errors import DatasetError, UsageError
from g4g_core.protocols import POSE_POINTS
from g4g_core.references import SHORTEST, allowed_references, choose_references
from g4g_core.resize import resize
from g4g_model.config import FRAMES, G4GConfig
from g4g_model.inputs import Inputs, heard, inputs_of, mouth_places, pictures_in, points_at, stacked
from g4g_model.losses import IGNORED
from g4g_model.networks.alignment import mouth_pictures
from prep.shards.access import SampleReader
from prep.shards.index import Dataset, Selection, read_selection
from prep.shards.rows import Row
from prep.shards.schema import MaskBit
from prep.sync_expert.footage import shots

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


@dataclasses.dataclass(frozen=True, eq=False)
class _Segment:
    """A sample among those of its shot."""

    rows: tuple[Row, ...]
    number: int

    @property
    def row(self) -> Row:
        return self.rows[self.number]

    @property
    def bounds(self) -> list[tuple[int, int]]:
        return [(row.frame_start, row.n_frames) for row in self.rows]

    def allowed(self, start: int) -> np.ndarray:
        """Clip frames that the window at ``start`` of the segment may refer to."""
        first = self.row.frame_start + start
        return allowed_references(self.bounds, self.number, first, first + FRAMES)


class Batches:
    """Draws batches from the samples of some splits.

    Only frames that a batch needs are read and decoded. Samples without references (a shot of one segment under 20
    frames) or too short for the windows of the matrix are left out; ``left_out`` counts them.

    Args:
        dataset: an open data set.
        splits: of it.
        config: of the network.
        selection: the samples to use, ``None``: all of them.

    Raises:
        DatasetError: nothing is selected, or too few samples are usable.
        UsageError: crops are stored at sizes that differ.
    """

    def __init__(
        self, dataset: Dataset, splits: Sequence[str], config: G4GConfig, selection: Selection | None = None
    ) -> None:
        keys = read_selection(selection) if selection is not None else None
        rows = [row for split in splits for row in dataset.rows(split) if keys is None or row.key in keys]
        if len({row.size for row in rows}) > 1:
            raise UsageError("crops of different sizes cannot be trained on together", "Select those of one size.")
        found = [_Segment(tuple(group), number) for _, group in shots(rows) for number in range(len(group))]
        least = max(config.windows + FRAMES - 1, FRAMES + 2 * IGNORED + 1)
        self._segments = [
            segment
            for segment in found
            if segment.row.n_frames >= least and (len(segment.rows) > 1 or segment.row.n_frames >= SHORTEST)
        ]
        self.left_out = len(found) - len(self._segments)
        if len(self._segments) < config.clips:
            raise DatasetError(
                f"{len(self._segments)} samples can be learned from ({self.left_out} are too short), a batch needs "
                f"{config.clips}",
                "Give more footage, or lower --set clips.",
            )
        self._config, self._samples = config, SampleReader(dataset)
        self._tars = {shard.stem: shard.marker["sha256"] for split in splits for shard in dataset.committed(split)}

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def minutes(self) -> float:
        """Minutes of footage in the samples."""
        return sum(segment.row.n_frames for segment in self._segments) / 25 / 60

    @property
    def identities(self) -> set[str]:
        return {segment.row.identity for segment in self._segments}

    def digest(self) -> str:
        """SHA-256 of which samples are learned from, and of the shards that hold them."""
        hasher = hashlib.sha256()
        for segment in self._segments:
            row = segment.row
            hasher.update(f"{row.key} {row.frame_start} {row.n_frames} {self._tars[row.shard]}\n".encode())
        return hasher.hexdigest()

    def draw(self, rng: np.random.Generator) -> G4GBatch:
        """A batch of ``config.clips`` different samples; all chance is ``rng``'s."""
        numbers = rng.choice(len(self._segments), self._config.clips, replace=False)
        items = [self._item(self._segments[int(number)], rng) for number in numbers]
        return G4GBatch(
            keys=[item.keys[0] for item in items],
            inputs=stacked([item.inputs for item in items]),
            regions={name: torch.cat([item.regions[name] for item in items]) for name in REGIONS},
            **{
                name: torch.cat([getattr(item, name) for item in items])
                for name in ("truth", "places", "starts", "sounds", "stacks", "wrong")
            },
        )

    def _item(self, segment: _Segment, rng: np.random.Generator) -> G4GBatch:
        row, size = segment.row, self._config.size
        start, allowed = self._start(segment, rng)
        references = choose_references(allowed, rng)
        window = start + np.arange(FRAMES)
        pictures, masks = self._samples.frames(row, window), self._samples.masks(row, window)
        landmarks, mel = self._samples.landmarks(row), self._samples.mel(row)
        clip_frames = row.frame_start + window
        shown, shown_points = self._references(segment, references)
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
            places=mouth_places(points_at(landmarks[window, POSE_POINTS], row.size, size), size)[None],
            starts=torch.from_numpy(starts)[None],
            sounds=torch.from_numpy(heard(mel, row.mel_start, row.frame_start + starts, 0))[None],
            stacks=self._stacks(row, landmarks, others)[None],
            wrong=torch.from_numpy(_others(starts, rng))[None],
        )

    @staticmethod
    def _start(segment: _Segment, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """A window that has references, and the clip frames that may be these."""
        starts = rng.permutation(segment.row.n_frames - FRAMES + 1)
        for start in starts:
            allowed = segment.allowed(int(start))
            if len(allowed):
                return int(start), allowed
        raise ValueError(f"{segment.row.key} has no window with references")

    def _references(self, segment: _Segment, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [K, s, s, 3] and float32 [K, 68, 2] of clip frames, from whatever segments of the shot hold them."""
        pictures, points = [], []
        for frame in frames:
            row = next(row for row in segment.rows if 0 <= frame - row.frame_start < row.n_frames)
            pictures.append(self._samples.frames(row, [int(frame) - row.frame_start])[0])
            points.append(self._samples.landmarks(row)[int(frame) - row.frame_start])
        return np.stack(pictures), np.stack(points)

    def _stacks(self, row: Row, landmarks: np.ndarray, starts: np.ndarray) -> torch.Tensor:
        """float32 [W, 5, 3, P, P]: true mouths of windows; a frame that several share is read once."""
        wanted = starts[:, None] + np.arange(FRAMES)
        frames = np.unique(wanted)
        size = self._config.size
        pictures = pictures_in(resize(self._samples.frames(row, frames), size))
        places = mouth_places(points_at(landmarks[frames, POSE_POINTS], row.size, size), size)
        mouths = mouth_pictures(pictures, places, self._config.mouth_size)
        return mouths[torch.from_numpy(np.searchsorted(frames, wanted))]


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
