"""From arrays to what the network sees: the one way for training and for prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from g4g_core.protocols import ERASED, POSE_POINTS
from g4g_core.resize import resize
from g4g_model.sketches import face_sketch, pose_sketch
from prep.stages.geometry import similarity
from prep.stages.mel import mel_start, mel_window

_TOUCHED = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """What the network sees, float32: nothing of the target's mouth, jaw or lips.

    Attributes:
        source: [B, T, 3, S, S] RGB in [-1, 1], grey where ``erase`` is 1.
        erase: [B, T, 1, S, S] of 0 and 1; the network pools it to the masks of its scales.
        references: [B, K, 3, S, S] RGB in [-1, 1].
        source_sketch: [B, T, 1, S, S] in 0..1, of the target's points 17-47.
        reference_sketch: [B, K, 1, S, S] in 0..1, of the references' 68 points.
        poses: [B, T, K, 2, 3] from :func:`poses_between`: where every frame finds its face in every reference.
        mel: [B, T, 1, 80, 16] in [-4, 4], bands x columns.
    """

    source: torch.Tensor
    erase: torch.Tensor
    references: torch.Tensor
    source_sketch: torch.Tensor
    reference_sketch: torch.Tensor
    poses: torch.Tensor
    mel: torch.Tensor


def inputs_of(
    *,
    source: np.ndarray,
    erase: np.ndarray,
    pose: np.ndarray,
    references: np.ndarray,
    reference_landmarks: np.ndarray,
    mel: np.ndarray,
    size: int,
) -> Inputs:
    """The inputs of T frames, with B = 1.

    Args:
        source: uint8 [T, s, s, 3] RGB; what lies under ``erase`` is not read.
        erase: uint8 [T, s, s] of 0 and 1.
        pose: float [T, 31, 2], points 17-47, pixels of ``source``.
        references: uint8 [K, s, s, 3] RGB.
        reference_landmarks: float [K, 68, 2], pixels of ``references``.
        mel: float32 [T, 1, 80, 16] from :func:`heard`.
        size: S of the network; s may be another.
    """
    hidden = erase_at(erase, size)
    filled = source.copy()
    filled[erase > 0] = ERASED
    shown = resize(filled, size).copy()
    shown[hidden > 0] = ERASED  # whole pixels, also where sizes do not divide
    lines = [pose_sketch(points, size) for points in points_at(pose, source.shape[1], size)]
    faces = [face_sketch(points, size) for points in points_at(reference_landmarks, source.shape[1], size)]
    return Inputs(
        source=pictures_in(shown)[None],
        erase=torch.from_numpy(hidden.astype(np.float32))[None, :, None],
        references=pictures_in(resize(references, size))[None],
        source_sketch=_lines_in(lines),
        reference_sketch=_lines_in(faces),
        poses=torch.from_numpy(poses_between(pose, reference_landmarks[:, POSE_POINTS], source.shape[1]))[None],
        mel=torch.from_numpy(np.ascontiguousarray(mel))[None],
    )


Tensors = TypeVar("Tensors", bound=Any)


def stacked(items: Sequence[Tensors]) -> Tensors:
    """Dataclasses of tensors, joined along their first axis."""
    fields = dataclasses.fields(items[0])
    return dataclasses.replace(items[0], **{f.name: torch.cat([getattr(i, f.name) for i in items]) for f in fields})


def erase_at(erase: np.ndarray, size: int) -> np.ndarray:
    """``erase`` [T, s, s] at another size: 1 where :func:`g4g_core.resize.resize` lets an erased pixel in."""
    side = erase.shape[1]
    if side == size:
        return erase
    how = cv2.INTER_AREA if size < side else cv2.INTER_CUBIC
    planes = [cv2.resize(plane.astype(np.float32), (size, size), interpolation=how) for plane in erase]
    return np.asarray(np.abs(np.stack(planes)) > _TOUCHED, np.uint8)


def points_at(points: np.ndarray, side: int, size: int) -> np.ndarray:
    """Points of pictures of one side in pixels of another: pixel i covers [i - 0.5, i + 0.5)."""
    return np.asarray(points if side == size else (points + 0.5) * (size / side) - 0.5, np.float32)


def poses_between(pose: np.ndarray, reference_pose: np.ndarray, side: int) -> np.ndarray:
    """The similarities that carry the pose of every frame onto that of every reference.

    Measured on 567 pairs of frames of real clips, they place the upper lip 0.1 (LRS2) to 1.8 % (a folder of others;
    HDTF 1.3) of the eyes' distance nearer than no alignment does. A full affine map, which has to be extrapolated from
    eyes and nose, errs more at the jaw.

    Args:
        pose: float [T, 31, 2], points 17-47, pixels of a picture of this side.
        reference_pose: float [K, 31, 2], likewise.
        side: of both, px.

    Returns:
        float32 [T, K, 2, 3] in coordinates of -1..1 over the picture, as ``affine_grid(align_corners=False)`` has them.
    """
    unit = [(points + 0.5) * (2 / side) - 1 for points in (pose[:, None], reference_pose[None])]
    return np.asarray(similarity(*unit), np.float32)


def pictures_in(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [..., s, s, 3] as float32 [..., 3, s, s] in [-1, 1]."""
    scaled = pictures.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(scaled, -1, -3)))


def pictures_out(pictures: torch.Tensor) -> np.ndarray:
    """float [..., 3, s, s] in [-1, 1] as uint8 [..., s, s, 3]; the inverse of :func:`pictures_in`."""
    scaled = np.moveaxis(pictures.detach().cpu().numpy(), -3, -1)
    return np.asarray(np.clip(np.round((scaled + 1) * 127.5), 0, 255), np.uint8)


def heard(mel: np.ndarray, first_column: int, frames: np.ndarray, offset: int) -> np.ndarray:
    """The mel windows of frames.

    Args:
        mel: float32 [n, 80], columns from ``first_column`` of the clip on.
        frames: int [T], clip frames.
        offset: see :func:`prep.stages.mel.mel_window`; windows that begin before the first column are the first ones.

    Returns:
        float32 [T, 1, 80, 16].
    """
    earliest = -(-5 * first_column // 16) - offset
    while mel_start(earliest, offset) < first_column:
        earliest += 1
    windows = [mel_window(mel, max(int(f), earliest), offset, first_column=first_column).T for f in frames]
    return np.ascontiguousarray(np.stack(windows)[:, None], np.float32)


def _lines_in(sketches: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(sketches).astype(np.float32) / np.float32(255))[None, :, None]
