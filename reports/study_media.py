"""The clips and photos of a study's page, with names that say nothing."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.cells import Cell
from evaluation.merge import place_of
from evaluation.models import TRUTH
from evaluation.shots import Shot, ShotReader
from evaluation.study_design import DAMAGED, Trial, clip_token, token_of
from evaluation.videos import UnreadableOutput, read_lossless
from g4g_core.errors import UsageError
from g4g_core.progress import progress
from prep.records import FPS, SAMPLES_PER_FRAME
from reports.webvideo import encode_video

CLIP_TYPE, PICTURE_TYPE = "video/mp4", "image/jpeg"

_BLOCKS = 12
_JPEG_QUALITY = 92


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

    Args:
        run: its folder; ``facts`` is its ``run.json``.
        shots: of the run, by key.
        speaker: key of the shot whose words each shot speaks.
        key: the study's secret.
        frames: longest part of a clip.
    """

    def __init__(
        self,
        run: str,
        facts: Mapping[str, Any],
        shots: Mapping[str, Shot],
        speaker: Mapping[str, str],
        key: str,
        frames: int,
    ) -> None:
        self._run, self._facts, self._shots, self._speaker = run, facts, shots, speaker
        self._key, self._frames = key, frames

    def media(self, trials: Sequence[Trial], *, quiet: bool) -> tuple[Media, dict[str, float]]:
        """Files of all clips and photos, and seconds by clip.

        Raises:
            UsageError: an output is damaged.
            DatasetError: the shards cannot be read.
        """
        wanted = sorted({(trial.shot, model) for trial in trials for model in trial.clips.values()})
        files: dict[str, tuple[str, bytes]] = {}
        photos: dict[str, str] = {}
        lengths: dict[str, float] = {}
        with progress(len(wanted), "encoding", "clips", quiet=quiet) as bar:
            for key, of_shot in itertools.groupby(wanted, key=lambda place: place[0]):
                with ShotReader(str(self._facts["data"]), self._shots[key]) as reader:
                    photos[key] = token_of(self._key, "photo", key)
                    files[photos[key]] = (PICTURE_TYPE, _photo(reader))
                    for _, model in of_shot:
                        token = clip_token(self._key, model, key)
                        data, lengths[token] = self._clip(reader, model)
                        files[token] = (CLIP_TYPE, data)
                        bar.advance(note=key)
        return Media(files, photos), lengths

    def _clip(self, reader: ShotReader, model: str) -> tuple[bytes, float]:
        """(MP4, seconds)."""
        real = model in (TRUTH, DAMAGED)
        pcm = reader.pcm() if real else self._speech(reader)
        count = min(reader.shot.n_frames, len(pcm) // SAMPLES_PER_FRAME, self._frames)
        pictures = iter(reader.pictures(np.arange(count))) if real else self._output(model, reader.shot.key)
        if model == DAMAGED:
            pictures = map(mosaic, pictures)
        try:
            shown = list(itertools.islice(pictures, count))
        except UnreadableOutput as error:
            raise UsageError(f"an output of {reader.shot.key} cannot be read: {error}", "Evaluate again.") from error
        if len(shown) < count:
            raise UsageError(f"an output of {reader.shot.key} ends early", "Evaluate again.")
        data = encode_video((_even(picture)[None] for picture in shown), pcm[: count * SAMPLES_PER_FRAME])
        return data, count / FPS

    def _speech(self, reader: ShotReader) -> np.ndarray:
        """int16 [640 T], 16 kHz: what the models were asked to say in the shot."""
        speaker = self._speaker[reader.shot.key]
        if speaker == reader.shot.key:
            return reader.pcm()
        with ShotReader(str(self._facts["data"]), self._shots[speaker]) as other:
            return other.pcm()

    def _output(self, model: str, key: str) -> Iterator[np.ndarray]:
        folder, name = place_of(self._run, self._facts, model)
        return read_lossless(Cell(folder, name, key).output)


def mosaic(picture: np.ndarray) -> np.ndarray:
    """The picture in 12 x 12 flat blocks, uint8 [S, S, 3]: nobody who looks takes it for a recording."""
    edges = np.linspace(0, picture.shape[0], _BLOCKS + 1).astype(int)
    coarse = np.empty_like(picture)
    for top, bottom in itertools.pairwise(edges):
        for left, right in itertools.pairwise(edges):
            coarse[top:bottom, left:right] = picture[top:bottom, left:right].mean(axis=(0, 1))
    return coarse


def _photo(reader: ShotReader) -> bytes:
    """The frame in the middle of the shot as JPEG."""
    import simplejpeg

    (picture,) = reader.pictures(np.array([reader.shot.n_frames // 2]))
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=_JPEG_QUALITY, colorspace="RGB"))


def _even(picture: np.ndarray) -> np.ndarray:
    """Without an odd last row or column, which H.264 cannot hold."""
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
