"""The loading recipe that Wav2Lip's users run, written from its published facts, and the folder it wants."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from prep.records import FPS, SAMPLE_RATE
from prep.shards import schema
from prep.shards.access import SampleReader
from prep.shards.index import Dataset
from prep.shards.rows import Row
from prep.shards.sample import wav_bytes

FRAMES = 5
PEER_SIZE = 96


@dataclasses.dataclass(frozen=True)
class ClipFolder:
    """A clip unpacked for the peer: ``folder`` with ``0.jpg`` ... and ``audio.wav``, of ``frames`` frames."""

    folder: Path
    frames: int


class PeerRecipe:
    """Items as Wav2Lip's data set class makes them, without its conversion to float (ours leaves that out too)."""

    def __init__(self, clips: Sequence[ClipFolder], seed: int = 0) -> None:
        import librosa
        from scipy.signal import lfilter

        self._librosa, self._lfilter = librosa, lfilter
        self._basis = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=800, n_mels=80, fmin=55, fmax=7600)
        self._clips = clips
        self._random = np.random.default_rng(seed)

    def item(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """window uint8 [5, 96, 96, 3], reference likewise, mel float32 [80, 16]."""
        clip = self._clips[int(self._random.integers(len(self._clips)))]
        start, other = self._random.choice(clip.frames - FRAMES + 1, 2, replace=clip.frames == FRAMES)
        window, reference = self._window(clip, int(start)), self._window(clip, int(other))
        mel = self._mel(clip.folder / "audio.wav")
        first = min(int(80 * start / FPS), len(mel) - 16)
        return window, reference, mel[first : first + 16].T

    def _window(self, clip: ClipFolder, start: int) -> np.ndarray:
        frames = []
        for number in range(start, start + FRAMES):
            image = cv2.imread(str(clip.folder / f"{number}.jpg"))
            frames.append(cv2.resize(np.asarray(image), (PEER_SIZE, PEER_SIZE)))
        return np.stack(frames)

    def _mel(self, path: Path) -> np.ndarray:
        wave, _ = self._librosa.load(path, sr=SAMPLE_RATE)
        spectrum = self._librosa.stft(y=self._lfilter([1, -0.97], [1], wave), n_fft=800, hop_length=200, win_length=800)
        decibels = 20 * np.log10(np.maximum(1e-5, self._basis @ np.abs(spectrum))) - 20
        return np.asarray(np.clip(8 * (decibels + 100) / 100 - 4, -4, 4).T, np.float32)


def unpack(dataset: Dataset, split: str, scratch: Path) -> tuple[dict[str, ClipFolder], dict[str, list[str]]]:
    """Write every clip's frames and sound as the peer wants them; also the keys of each clip's samples."""
    reader = SampleReader(dataset)
    rows: dict[str, list[Row]] = collections.defaultdict(list)
    for row in dataset.rows(split):
        rows[f"{row.source}-{row.clip}"].append(row)
    folders: dict[str, ClipFolder] = {}
    for number, (name, parts) in enumerate(rows.items()):
        parts.sort(key=lambda row: (row.frame_start, row.key))
        folder = scratch / f"{number:06d}"
        folder.mkdir()
        count = 0
        for row in parts:
            for data in reader.read(row, [schema.frame_suffix(i) for i in range(row.n_frames)]):
                (folder / f"{count}.jpg").write_bytes(data)
                count += 1
        pcm = np.concatenate([reader.pcm(row) for row in parts])
        (folder / "audio.wav").write_bytes(wav_bytes(pcm))
        if count >= FRAMES:
            folders[name] = ClipFolder(folder, count)
    return folders, {name: [row.key for row in parts] for name, parts in rows.items()}
