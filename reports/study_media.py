"""The clips and photos of a study's page, with names that say nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.cells import Cell
from evaluation.merge import place_of
from evaluation.models import TRUTH
from evaluation.shots import Shot, ShotReader
from evaluation.study_design import DAMAGED, Trial, token_of
from evaluation.videos import UnreadableOutput
from g4g_core.errors import UsageError
from g4g_core.progress import progress
from prep.records import FPS, SAMPLES_PER_FRAME
from reports.webvideo import encode_video

CLIP_TYPE, PICTURE_TYPE = "video/mp4", "image/jpeg"

_BLOCKS = 12
_JPEG_QUALITY = 92
_APART = 12
"""Frames between the end of what is shown and a photo of the same shot: half a second."""

_BOX = struct.Struct(">I4s")  # length and kind of a box of an MP4 file
_LEAST_NOISE = 32  # bytes


@dataclasses.dataclass(frozen=True)
class Media:
    """What a page shows.

    Attributes:
        files: (MIME type, bytes) by token.
        photos: token of a photo of the person, by shot.
    """

    files: Mapping[str, tuple[str, bytes]]
    photos: Mapping[str, str]


class ClipMaker:
    """Encodes what trials show: all models alike, with the speech as sound, and without any metadata.

    What is left to see, the pictures aside, is made equal: all clips of a shot have as many frames and bytes, and the
    same clip in two trials is two files that differ in their padding. A photo is of a shot of the person that the study
    does not show, or of a moment after the clips have ended: a frame of a clip would tell that it is real.

    Args:
        run: its folder; ``facts`` is its ``run.json``.
        shots: of the run, by key.
        speaker: the shot whose words each shot speaks.
        photographed: keys of shots that photos may be taken of, besides those that are shown.
        key: the study's secret.
        frames: longest part of a clip.
    """

    def __init__(
        self,
        run: str,
        facts: Mapping[str, Any],
        shots: Mapping[str, Shot],
        speaker: Mapping[str, Shot],
        photographed: Collection[str],
        key: str,
        frames: int,
    ) -> None:
        self._run, self._facts, self._shots, self._speaker = run, facts, shots, speaker
        self._photographed, self._key, self._frames = sorted(photographed), key, frames

    def media(self, trials: Sequence[Trial], *, quiet: bool) -> tuple[Media, dict[str, float]]:
        """Files of all clips and photos, and seconds by shot.

        Raises:
            UsageError: an output is damaged.
            DatasetError: the shards cannot be read.
        """
        wanted = sorted({(trial.shot, *_shown(trial, token)) for trial in trials for token in trial.clips})
        files: dict[str, tuple[str, bytes]] = {}
        photos: dict[str, str] = {}
        lengths: dict[str, float] = {}
        with progress(len(wanted), "encoding", "clips", quiet=quiet) as bar:
            for key, of_shot in itertools.groupby(wanted, key=lambda place: place[0]):
                photos[key] = token_of(self._key, "photo", key)
                files[photos[key]] = (PICTURE_TYPE, self._photo(key, {trial.shot for trial in trials}))
                clips = {}
                with ShotReader(str(self._facts["data"]), self._shots[key]) as reader:
                    for _, model, damaged in of_shot:
                        clips[model, damaged], lengths[key] = self._clip(reader, model, damaged)
                        bar.advance(note=key)
                size = max(map(len, clips.values())) + _BOX.size + _LEAST_NOISE
                for trial in trials:
                    if trial.shot == key:
                        for token in trial.clips:
                            files[token] = (CLIP_TYPE, self._padded(clips[_shown(trial, token)], size, token))
        return Media(files, photos), lengths

    def _clip(self, reader: ShotReader, model: str, damaged: bool) -> tuple[bytes, float]:
        """(MP4, seconds)."""
        pcm = reader.pcm() if model == TRUTH else self._speech(reader)
        count = min(reader.shot.n_frames - _apart(reader.shot), len(pcm) // SAMPLES_PER_FRAME, self._frames)
        real = model == TRUTH
        pictures = iter(reader.pictures(np.arange(count))) if real else self._output(model, reader.shot.key)
        if damaged:
            pictures = map(mosaic, pictures)
        try:
            shown = list(itertools.islice(pictures, count))
        except UnreadableOutput as error:
            raise UsageError(f"an output of {reader.shot.key} cannot be read: {error}", "Evaluate again.") from error
        if len(shown) < count:
            raise UsageError(f"an output of {reader.shot.key} ends early", "Evaluate again.")
        data = encode_video((_even(picture)[None] for picture in shown), pcm[: count * SAMPLES_PER_FRAME])
        return data, count / FPS

    def _padded(self, data: bytes, size: int, token: str) -> bytes:
        """An MP4 file made as long as ``size`` by a box that players skip, filled with what only the key foretells."""
        room = size - len(data)
        noise = hashlib.shake_256(f"{self._key} {token}".encode()).digest(room - _BOX.size)
        return data + _BOX.pack(room, b"free") + noise

    def _speech(self, reader: ShotReader) -> np.ndarray:
        """int16 [640 T], 16 kHz: what the models were asked to say in the shot."""
        speaker = self._speaker[reader.shot.key]
        if speaker.key == reader.shot.key:
            return reader.pcm()
        with ShotReader(str(self._facts["data"]), speaker) as other:
            return other.pcm()

    def _output(self, model: str, key: str) -> Iterator[np.ndarray]:
        folder, name = place_of(self._run, self._facts, model)
        return Cell(folder, name, key).pictures()

    def _photo(self, key: str, shown: Collection[str]) -> bytes:
        """The person as JPEG: the middle of a shot that is not shown where there is one, else the last frame of another
        or of this one, which no clip reaches."""
        import simplejpeg

        shot = self._shots[key]
        others = [self._shots[other] for other in self._photographed if other != key]
        own = [one for one in others if (one.source, one.identity) == (shot.source, shot.identity)]
        chosen = min(own, key=lambda one: one.key in shown, default=shot)
        frame = chosen.n_frames - 1 if chosen.key in shown else chosen.n_frames // 2
        with ShotReader(str(self._facts["data"]), chosen) as reader:
            (picture,) = reader.pictures(np.array([frame]))
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=_JPEG_QUALITY, colorspace="RGB"))


def _shown(trial: Trial, token: str) -> tuple[str, bool]:
    """(model, whether as a mosaic) of a clip of a trial."""
    model = trial.clips[token]
    return (trial.clips[str(trial.expected)], True) if model == DAMAGED else (model, False)


def _apart(shot: Shot) -> int:
    """Frames at the end of a shot that are not shown; a quarter of a short one."""
    return min(_APART, shot.n_frames // 4)


def mosaic(picture: np.ndarray) -> np.ndarray:
    """The picture in 12 x 12 flat blocks, uint8 [S, S, 3]: nobody who looks takes it for a recording."""
    edges = np.linspace(0, picture.shape[0], _BLOCKS + 1).astype(int)
    coarse = np.empty_like(picture)
    for top, bottom in itertools.pairwise(edges):
        for left, right in itertools.pairwise(edges):
            coarse[top:bottom, left:right] = picture[top:bottom, left:right].mean(axis=(0, 1))
    return coarse


def _even(picture: np.ndarray) -> np.ndarray:
    """Without an odd last row or column, which H.264 cannot hold."""
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
