"""Whole frames as they were filmed: cut from the original video for a program that wants them, and cropped again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from baselines.precomputed import one_of
from evaluation.shots import ShotReader
from evaluation.videos import fitted, frames_of
from g4g_core.errors import SourceError
from prep.media import open_media
from prep.records import SAMPLES_PER_FRAME, Rejection
from prep.stages.decode import DecodeLog, decode_audio, video_frames
from prep.stages.frames import Frame, resample
from prep.stages.paste import pasted
from prep.stages.probe import probe

RECUT_TOLERANCE = 5
"""Frames that a finished video may lack at its end: encoders and muxers drop some."""


def whole_frames(root: Path, reader: ShotReader, n_frames: int) -> Iterator[np.ndarray]:
    """The shot's frames as filmed, one at a time: uint8 [1, H, W, 3] RGB.

    Args:
        root: the folder that the source's paths are relative to.

    Raises:
        SourceError: the video is not under ``root``, is not the one that was processed, or ends early.
    """
    path, meta = _inside(root, str(reader.shot.about["path"])), reader.meta(0)
    first = int(meta["frame_start"])
    time_range = tuple(meta["time_range"]) if meta["time_range"] is not None else None
    with open_media(str(path)) as container:
        found = probe(container, time_range=time_range, silent=True)
    if isinstance(found, Rejection):
        raise SourceError(f"{path}: {found.detail}")
    if [found.width, found.height] != meta["frame_size"]:
        raise SourceError(f"{path} is {found.width}x{found.height}, the shards were made of {meta['frame_size']}")
    count = 0
    with open_media(str(path)) as container:
        for item in video_frames(container, found, DecodeLog(), whole=time_range is None):
            if first <= item.index < first + n_frames:
                yield item.frame.rgb()[None]
                count += 1
            if item.index >= first + n_frames - 1:
                break
    if count < n_frames:
        raise SourceError(f"{path} ends before frame {first + n_frames}")


def affines_of(reader: ShotReader) -> np.ndarray:
    """float64 [T, 2, 3]: frame to crop pixels, centres of pixels at whole numbers in both."""
    found = [np.asarray(reader.meta(number)["affines"]) for number in range(len(reader.shot.segments))]
    return np.concatenate(found)


def recropped(frames: Iterator[Frame], reader: ShotReader, path: Path) -> Iterator[np.ndarray]:
    """The crops of whole frames, by the affines that the clip itself was cut with: uint8 [S, S, 3] RGB.

    Raises:
        SourceError: frames of another size than the clip's.
    """
    size = reader.shot.size
    width, height = reader.meta(0)["frame_size"]
    for affine, frame in zip(affines_of(reader), frames, strict=False):
        if abs(frame.width - width) > 1 or abs(frame.height - height) > 1:
            raise SourceError(f"{path}: frames of {frame.width}x{frame.height} where {width}x{height} was due")
        x, y, side = square_of(affine, size)
        yield frame.crop_rgb(x, y, side, size)


def same_named(folder: Path, relative: str) -> Path:
    """The video in ``folder`` that has the clip's own relative path, whatever its suffix.

    Raises:
        SourceError: there is none, there are several, or the path leads out of the folder.
    """
    place = _below(folder, relative).with_suffix("")
    return one_of(place.parent, place.name)


def recut(folder: Path, reader: ShotReader, n_frames: int) -> Iterator[np.ndarray]:
    """Crops of a finished video of the whole clip, cut where the clip's own crops were cut: uint8 [S, S, 3] RGB.

    Raises:
        SourceError: see :func:`same_named`; other frames than the clip's, or too few.
    """
    path, first = same_named(folder, str(reader.shot.about["path"])), reader.frame_start
    frames = itertools.islice(frames_of(path), first, first + n_frames)
    return recropped(fitted(frames, n_frames, RECUT_TOLERANCE), reader, path)


def frames_of_video(folder: Path, reader: ShotReader, n_frames: int) -> Iterator[np.ndarray]:
    """Whole frames of the same stretch of a finished video, uint8 [H, W, 3] RGB. Raises as :func:`recut`."""
    path, first = same_named(folder, str(reader.shot.about["path"])), reader.frame_start
    frames = itertools.islice(frames_of(path), first, first + n_frames)
    return (frame.rgb() for frame in fitted(frames, n_frames, RECUT_TOLERANCE))


def sound_of_video(folder: Path, reader: ShotReader, n_samples: int) -> np.ndarray | None:
    """int16 [n_samples]: the finished video's own sound for the same stretch; ``None`` where the video is silent.

    It is cut, or filled up with silence. Raises as :func:`recut`.
    """
    path = same_named(folder, str(reader.shot.about["path"]))
    with open_media(str(path)) as container:
        found = probe(container, silent=True)
    if isinstance(found, Rejection):
        raise SourceError(f"{path}: {found.detail}")
    if found.audio_index < 0:
        return None
    with open_media(str(path)) as container:
        pcm = decode_audio(container, found, found.start).pcm
    first = SAMPLES_PER_FRAME * reader.frame_start
    own = pcm[first : first + n_samples]
    return np.pad(own, (0, n_samples - len(own)))


def square_of(affine: np.ndarray, size: int) -> tuple[float, float, float]:
    """(left, top, side) of the crop square in frame pixels: the inverse of ``CropTrack.affine``."""
    scale = float(affine[0, 0])
    return 0.5 - (affine[0, 2] + 0.5) / scale, 0.5 - (affine[1, 2] + 0.5) / scale, size / scale


def through_frames(crops: Iterator[np.ndarray], root: Path, reader: ShotReader, n_frames: int) -> Iterator[np.ndarray]:
    """Crops pasted back into the frames as filmed and cut out of them again: what a viewer of the video would see.

    Args:
        crops: blocks of uint8 [n, S, S, 3], all of the shot in order.

    Returns:
        uint8 [1, S, S, 3] each.

    Raises:
        SourceError: as :func:`whole_frames`.
    """
    size = reader.shot.size
    frames, affines = whole_frames(root, reader, n_frames), affines_of(reader)
    place = 0
    for block in crops:
        erases = reader.frames(np.arange(place, place + len(block))).erase
        for crop, erase in zip(block, erases, strict=True):
            affine = affines[place]
            frame = pasted(next(frames)[0], crop, affine, erase)
            x, y, side = square_of(affine, size)
            planes = [resample(np.ascontiguousarray(frame[..., i]), x, y, side, side, size) for i in range(3)]
            yield np.stack(planes, axis=-1)[None]
            place += 1


def _below(root: Path, relative: str) -> Path:
    """``relative`` under ``root``, whatever a table says. Links inside the folder are its owner's own affair."""
    if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
        raise SourceError(f"{relative} leads out of {root}")
    return root / relative


def _inside(root: Path, relative: str) -> Path:
    path = _below(root, relative)
    if not path.is_file():
        raise SourceError(f"{root} holds no {relative}", "Give the folder that the source was built from: --footage.")
    return path
