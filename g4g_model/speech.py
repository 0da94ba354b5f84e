"""Speech that a video is to speak: what a model hears of it, and what the finished video sounds like."""

from __future__ import annotations

import dataclasses
from typing import Any

import av
import numpy as np

from g4g_core.errors import SourceError
from prep.media import CONTAINERS, describe
from prep.records import SAMPLE_RATE, SAMPLES_PER_FRAME
from prep.stages.decode import Audio, DecodeLog, decode_audio, on_clock, sound_runs
from prep.stages.mel import HOP, N_FFT, mel_spectrogram
from prep.stages.probe import Probe

SOUND_FILES = f"{CONTAINERS},wav,w64,mp3,flac,aac,aiff,amr"
"""See :data:`prep.media.CONTAINERS`."""

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)

_MARGIN = -(-N_FFT // HOP)  # columns of mel at each end of a piece that hear its padding


@dataclasses.dataclass(frozen=True, eq=False)
class Speech:
    """Sound on the 25 fps clock of a dub.

    Attributes:
        pcm: int16 [n], 16 kHz mono, from the file's beginning.
        n_frames: 25 fps frames that are spoken: beyond ``pcm`` lies silence, what it holds beyond them is not heard.
    """

    pcm: np.ndarray
    n_frames: int

    @property
    def seconds(self) -> float:
        return len(self.pcm) / SAMPLE_RATE

    @property
    def n_columns(self) -> int:
        """Columns of the whole mel: 80 a second, and one more."""
        return 1 + self.n_frames * SAMPLES_PER_FRAME // HOP

    def samples(self, start: int, stop: int) -> np.ndarray:
        """int16 [stop - start]: samples of the clock, silence where there is no sound."""
        out = np.zeros(stop - start, np.int16)
        end = min(len(self.pcm), self.n_frames * SAMPLES_PER_FRAME)
        first, last = max(0, start), min(stop, end)
        if last > first:
            out[first - start : last - start] = self.pcm[first:last]
        return out

    def mel(self, first: int, last: int) -> np.ndarray:
        """float32 [last - first, 80]: these columns of the whole sound's mel, computed from its neighbourhood alone."""
        begin = max(0, first - _MARGIN)
        end = min(HOP * (last + _MARGIN), self.n_frames * SAMPLES_PER_FRAME)
        columns = mel_spectrogram(self.samples(HOP * begin, end))
        return columns[first - begin : last - begin].copy()


def read_speech(path: str) -> Audio:
    """The first sound stream of a media file as 16 kHz mono, from the file's beginning on.

    Sound that starts later than the file (a video whose sound comes late) is preceded by silence.

    Raises:
        SourceError: the file is missing, holds no sound, or cannot be decoded.
    """
    with _opened(path) as container:
        stream = _sound_stream(path, container)
        facts = Probe(0, 0, 0, 1.0, 25.0, 0.0, 0.0, -1, stream.index)
        try:
            audio = decode_audio(container, facts, _origin(container))
        except (av.error.FFmpegError, OSError, EOFError) as error:
            raise SourceError(f"{path}: {describe(error)}") from error
    if not len(audio.pcm):
        raise SourceError(f"{path}: its sound cannot be decoded")
    return audio


class SoundTrack:
    """The same sound as it is heard in the finished video: at the rate it begins with, in mono or stereo.

    It begins, has its gaps and ends where :func:`read_speech` has them.

    Args:
        path: any media file with sound.

    Raises:
        SourceError: as :func:`read_speech`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._container = _opened(path)
        stream = _sound_stream(path, self._container)
        native, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        self.rate = native if native in AAC_RATES else 48_000
        self.layout = "mono" if channels == 1 else "stereo"
        self.channels = 1 if channels == 1 else 2
        # what is damaged in it, or where it stops, read_speech has told
        runs = sound_runs(
            self._container, stream, _origin(self._container), DecodeLog(), rate=self.rate, layout=self.layout,
            sample_format="fltp",
        )  # fmt: skip
        self._blocks = on_clock(runs)
        self._kept = np.zeros((self.channels, 0), np.float32)

    def read(self, count: int) -> np.ndarray:
        """float32 [channels, count]: the next samples; silence when it has ended."""
        pieces, missing = [self._kept], count - self._kept.shape[1]
        while missing > 0:
            block = next(self._blocks, None)
            if block is None:
                block = np.zeros((self.channels, missing), np.float32)
            pieces.append(block)
            missing -= block.shape[1]
        joined = np.concatenate(pieces, axis=1)
        self._kept = joined[:, count:]
        return joined[:, :count]

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> SoundTrack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(path: str) -> Any:
    try:
        return av.open(path, options={"format_whitelist": SOUND_FILES}, metadata_errors="ignore")
    except FileNotFoundError as error:
        raise SourceError(f"{path}: the file is not there") from error
    except (av.error.FFmpegError, OSError, EOFError) as error:
        raise SourceError(f"{path} is no sound file: {describe(error)}") from error


def _sound_stream(path: str, container: Any) -> Any:
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            return stream
    container.close()
    raise SourceError(f"{path} holds no sound", "Give a file with speech: WAV, FLAC, MP3, M4A, or a video.")


def _origin(container: Any) -> float:
    """Container time that counts as the file's beginning, seconds."""
    return float(container.start_time / av.time_base) if container.start_time is not None else 0.0
