"""Batches for Wav2Lip's networks: a pure function of the generator that draws them.

The public code learns from faces that S3FD cut out beforehand. Here boxes, references and mel windows are those that a
prompt gives (:mod:`baselines.wav2lip.model`), so that a network meets in training what it will meet in the harness.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from baselines.redraw import redraw
from baselines.wav2lip.box import SMOOTHED, boxes_of, cut_out
from baselines.wav2lip.config import FRAMES, ExpertConfig, Wav2LipConfig
from baselines.wav2lip.pixels import expert_faces, generator_faces, pictures_in
from baselines.windows import Window, Windows, mirrored_pose
from g4g_core.protocols import POSE_POINTS
from g4g_model.inputs import heard
from prep.shards.rows import Row


@dataclasses.dataclass(frozen=True, eq=False)
class FaceBatch:
    """What the generator learns from: windows of T = 5 frames of B samples, BGR in 0..1.

    Attributes:
        keys: of the samples.
        mel: float32 [B, T, 1, 80, 16], what is heard at every frame.
        faces: float32 [B, 6, T, S, S]: targets without their lower half, references.
        truth: float32 [B, 3, T, S, S].
        mouth: float32 [B, 1, T, S, S] of 0..1: where figures are taken.
        speech: float32 [B, 1, 80, 16]: what a sync expert hears of the five frames.
    """

    keys: list[str]
    mel: torch.Tensor
    faces: torch.Tensor
    truth: torch.Tensor
    mouth: torch.Tensor
    speech: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class PairBatch:
    """What the expert learns from: n sounds, n times five lower faces, and m pairs of one of each.

    Attributes:
        keys: of the samples.
        mel: float32 [n, 1, 80, 16].
        faces: float32 [n, 15, S/2, S], BGR in 0..1.
        said: int64 [m], the sound of every pair.
        seen: int64 [m], its pictures, of the same sample.
        fits: bool [m]: whether they are of the same moment.
    """

    keys: list[str]
    mel: torch.Tensor
    faces: torch.Tensor
    said: torch.Tensor
    seen: torch.Tensor
    fits: torch.Tensor


def face_batch(windows: list[Window], config: Wav2LipConfig, expert_offset: int) -> FaceBatch:
    """The batch of some windows.

    Every one of the five frames has one of the five references, as the public training has a frame of another window
    for each. At work the first reference serves for all frames: one mouth that stands still, as in one of these.

    Args:
        windows: of one frame size.
        config: of the generator.
        expert_offset: frames by which the expert's sound is moved.
    """
    faces, truth, mouth = zip(*(_faces(window, config.size) for window in windows), strict=True)
    return FaceBatch(
        keys=[window.key for window in windows],
        mel=torch.stack([_heard(window, window.clip_frames, config.mel_offset) for window in windows]),
        faces=torch.stack(faces),
        truth=torch.stack(truth),
        mouth=torch.stack(mouth),
        speech=torch.stack([_heard(window, window.clip_frames[:1], expert_offset)[0] for window in windows]),
    )


def _faces(window: Window, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[6, T, S, S], [3, T, S, S] and [1, T, S, S] of one window."""
    side = window.pictures.shape[1]
    boxes = _boxes(window.pose, window.start, side)
    donors, donor_poses = window.references[:FRAMES], window.reference_landmarks[:FRAMES, POSE_POINTS]
    frames = zip(window.pictures, window.erase, window.source_pose, donors, donor_poses, strict=True)
    # nothing of the target may be seen where a prompt hides it: a strip of erase lies in the upper half
    filled = np.where(window.erase[..., None] > 0, np.stack([redraw(*frame) for frame in frames]), window.pictures)
    shown = pictures_in(cut_out(filled, boxes, size))
    own_boxes = np.concatenate([boxes_of(pose[None], side) for pose in donor_poses])
    references = pictures_in(cut_out(donors, own_boxes, size))
    truth = pictures_in(cut_out(window.pictures, boxes, size))
    mouth = pictures_in(cut_out(np.repeat(255 * window.mouth[..., None], 3, -1), boxes, size))
    faces = generator_faces(shown.transpose(0, 1)[None], references.transpose(0, 1)[None])
    return faces[0], truth.transpose(0, 1), mouth[:, :1].transpose(0, 1)


def _boxes(pose: np.ndarray, start: int, side: int) -> np.ndarray:
    """The boxes of a window's frames, as smooth as those of the whole sample: frames to come take part."""
    return boxes_of(pose[start : start + FRAMES + SMOOTHED - 1], side)[:FRAMES]


def _heard(window: Window, clip_frames: np.ndarray, offset: int) -> torch.Tensor:
    return torch.from_numpy(heard(window.mel, window.mel_start, clip_frames, offset))


def pair_batch(windows: Windows, config: ExpertConfig, rng: np.random.Generator) -> PairBatch:
    """Samples drawn at random, and which of their pictures are compared with which sound.

    As in ``color_syncnet_train.py`` every other pair has the pictures of another moment of its sample. (The script
    tosses a coin instead.) With ``config.windows`` every sound of a sample is compared with all its pictures here.

    Raises:
        CorruptSample: a sample that cannot be read.
    """
    rows, count = windows.rows, config.windows or 1
    chosen = [rows[int(number)] for number in rng.integers(len(rows), size=config.pairs // count)]
    faces, mel = [], []
    for number, row in enumerate(chosen):
        said = seen = rng.choice(row.n_frames - FRAMES + 1, max(2, count), replace=False)
        if config.windows is None:
            said, seen = said[:1], seen[number % 2 :][:1]
        faces.append(_seen(windows, row, seen, config.size, windows.in_mirror(rng)))
        mel.append(heard(windows.reader.mel(row), row.mel_start, row.frame_start + said, config.mel_offset))
    sounds, pictures, fits = _compared(config)
    return PairBatch(
        [row.key for row in chosen],
        torch.from_numpy(np.concatenate(mel)),
        torch.cat(faces),
        torch.from_numpy(sounds),
        torch.from_numpy(pictures),
        torch.from_numpy(fits),
    )


def _compared(config: ExpertConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 [m], int64 [m] and bool [m]: sound and pictures of every pair, and whether they fit."""
    numbers = np.arange(config.pairs)
    if config.windows is None:
        return numbers, numbers, numbers % 2 == 0
    sounds, pictures = np.nonzero(numbers[:, None] // config.windows == numbers // config.windows)
    return sounds, pictures, sounds == pictures


def _seen(windows: Windows, row: Row, starts: np.ndarray, size: int, mirrored: bool) -> torch.Tensor:
    """float32 [n, 15, S/2, S] of the windows at ``starts`` [n]; a frame that several share is read once."""
    wanted = starts[:, None] + np.arange(FRAMES)
    frames = np.unique(wanted)
    pictures = windows.reader.frames(row, frames)
    pose = windows.reader.landmarks(row)[:, POSE_POINTS]
    if mirrored:
        pictures, pose = pictures[:, :, ::-1], mirrored_pose(pose, row.size)
    faces = pictures_in(cut_out(pictures, boxes_of(pose, row.size)[frames], size))
    return expert_faces(faces[torch.from_numpy(np.searchsorted(frames, wanted))].transpose(1, 2))
