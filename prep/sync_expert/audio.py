"""What the sync experts hear: log-mel spectrograms at 100 columns a second, levelled per clip."""

from __future__ import annotations

import functools

import numpy as np

from prep.records import SAMPLE_RATE
from prep.sync_expert.design import COLUMNS_PER_FRAME, HOP, Design, FrontEnd

_N_FFT = 512
_FLOOR = 1e-7
_PRE_EMPHASIS = 0.97
_BLOCK = 2048  # columns at a time: an hour of spectra would take gigabytes


def spectrogram(pcm: np.ndarray, front: FrontEnd) -> np.ndarray:
    """Log-mel spectrogram of a clip: mean 0 in every band over the clip, standard deviation 1 over all.

    Args:
        pcm: int16 [n], 16 kHz mono; the whole clip or shot, for the level is taken from it.
        front: bands and window.

    Returns:
        float32 [n // 160, bands]; column i is centred on sample 160 i.
    """
    wave = pcm.astype(np.float32) / 32768
    wave = np.append(wave[:1], wave[1:] - np.float32(_PRE_EMPHASIS) * wave[:-1])
    half = front.window // 2
    count = len(pcm) // HOP
    if count == 0:
        return np.zeros((0, front.bands), np.float32)
    padded = np.pad(wave, (half, half))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, front.window)[::HOP][:count]
    hann, filters = np.hanning(front.window).astype(np.float32), _filters(front)
    mel = np.empty((count, front.bands), np.float32)
    for start in range(0, count, _BLOCK):
        spectrum = np.fft.rfft(pieces[start : start + _BLOCK] * hann, _N_FFT)
        power = (np.abs(spectrum) ** 2).astype(np.float32)
        mel[start : start + _BLOCK] = np.log(power @ filters + np.float32(_FLOOR))
    mel -= mel.mean(axis=0, keepdims=True)
    return np.asarray(mel / (mel.std() + np.float32(1e-3)), np.float32)


def audio_windows(mel: np.ndarray, design: Design) -> np.ndarray:
    """The sound of every window: float32 [n, bands, columns], a view.

    Window i hears what frames i ... i + ``design.frames`` - 1 show.
    """
    if len(mel) < design.columns:
        return np.zeros((0, design.front.bands, design.columns), np.float32)
    return np.lib.stride_tricks.sliding_window_view(mel, design.columns, axis=0)[::COLUMNS_PER_FRAME]


@functools.cache
def _filters(front: FrontEnd) -> np.ndarray:
    """float32 [257, bands]: triangles of height 1, centres even on the mel scale 2595 log10(1 + f / 700)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (front.low, front.high))
    edges = 700 * (10 ** (np.linspace(low, high, front.bands + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(_N_FFT, 1 / SAMPLE_RATE)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - left) / (centre - left), (right - frequencies) / (right - centre)
    return np.asarray(np.maximum(0, np.minimum(rising, falling)).T, np.float32)
