"""Wav2Lip's mel spectrogram, and the only place that knows how frames and mel columns relate."""

from __future__ import annotations

import functools

import numpy as np

from prep.records import SAMPLE_RATE

N_FFT = 800
HOP = 200
BANDS = 80
F_MIN, F_MAX = 55.0, 7600.0
PRE_EMPHASIS = 0.97
MIN_LEVEL_DB = -100.0
REFERENCE_DB = 20.0
MAX_ABS = 4.0
WINDOW = 16
DECIMALS = 6
_CHUNK = 4096  # frames a matrix product: keeps an hour of speech in a few megabytes


def mel_spectrogram(pcm: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram of Wav2Lip's ``audio.py`` / ``hparams.py``.

    Pre-emphasis 0.97, centred STFT (n_fft = win = 800, hop 200, Hann, zero padding), magnitude, 80 Slaney
    bands over 55..7600 Hz, ``20 log10(max(1e-5, x)) - 20`` dB, mapped from [-100, 0] dB to [-4, 4] and clipped.

    Args:
        pcm: int16 [n] or float [n] in [-1, 1], 16 kHz mono.

    Returns:
        float32 [1 + n // 200, 80] in [-4, 4]: 80 columns a second, column j centred on sample 200 j. Rounded to
        1e-6, because the last digits of a matrix product depend on the machine's BLAS.

    Raises:
        ValueError: ``pcm`` is not one-dimensional or is empty.
    """
    if pcm.ndim != 1 or pcm.size == 0:
        raise ValueError(f"expected mono samples of shape [n], got {pcm.shape}")
    wave = pcm.astype(np.float64) / (32768.0 if pcm.dtype == np.int16 else 1.0)
    emphasised = np.concatenate([wave[:1], wave[1:] - PRE_EMPHASIS * wave[:-1]])
    padded = np.pad(emphasised, N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    bank = mel_filter_bank().T
    mel = np.concatenate(
        [
            np.abs(np.fft.rfft(frames[start : start + _CHUNK] * window, axis=1)) @ bank
            for start in range(0, len(frames), _CHUNK)
        ]
    )
    decibels = 20 * np.log10(np.maximum(1e-5, mel)) - REFERENCE_DB
    scaled = 2 * MAX_ABS * (decibels - MIN_LEVEL_DB) / -MIN_LEVEL_DB - MAX_ABS
    return np.round(np.clip(scaled, -MAX_ABS, MAX_ABS), DECIMALS).astype(np.float32)


@functools.cache
def mel_filter_bank() -> np.ndarray:
    """Triangular filters on Slaney's mel scale, each of unit area (Slaney norm), float64 [80, 401].

    The scale is that of Slaney's Auditory Toolbox (1998): linear below 1 kHz (200/3 Hz a mel), logarithmic above
    (27 steps to a factor of 6.4).
    """
    edges = _mel_to_hz(np.linspace(_hz_to_mel(F_MIN), _hz_to_mel(F_MAX), BANDS + 2))
    bins = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE)
    slopes = edges[:, None] - bins[None, :]
    rising = -slopes[:-2] / np.diff(edges)[:-1, None]
    falling = slopes[2:] / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None])


_LINEAR_HZ_PER_MEL = 200.0 / 3
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_START_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return float(_LOG_START_MEL + np.log(hz / _LOG_START_HZ) / _LOG_STEP)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    linear = _LINEAR_HZ_PER_MEL * mel
    return np.where(mel < _LOG_START_MEL, linear, _LOG_START_HZ * np.exp(_LOG_STEP * (mel - _LOG_START_MEL)))


def mel_start(frame: int, offset: int = 0) -> int:
    """First clip mel column of the window of clip frame ``frame``: ``int(3.2 (frame + offset))``."""
    return (frame + offset) * 16 // 5


def mel_window(
    mel: np.ndarray, frame: int, offset: int = 0, width: int = WINDOW, *, first_column: int = 0
) -> np.ndarray:
    """The mel window that belongs to clip frame ``frame`` (25 fps).

    Wav2Lip's repository has three conventions: its expert looks at frames f..f+4 with the window of frame f
    (``offset=0``), its generator trains frame f with the window of frame f-1 (``offset=-1``), its inference uses the
    window of frame f. The offset is therefore explicit, and belongs into every checkpoint.

    Args:
        mel: float [n, 80], whole-clip columns, or the columns from ``first_column`` on (a shard's ``mel_start``).
        frame: clip frame.
        offset: frames by which the window is moved.
        width: columns; 16 are 0.2 s or 5 frames.
        first_column: clip column of ``mel[0]``.

    Returns:
        A view [width, 80]. A window past the end is the last ``width`` columns, as Wav2Lip's inference has it.

    Raises:
        IndexError: the window starts before clip column 0, or before the first column given.
        ValueError: ``mel`` holds fewer than ``width`` columns.
    """
    start = mel_start(frame, offset)
    if start < 0:
        raise IndexError(f"the mel window of frame {frame} at offset {offset} starts before the clip")
    if start < first_column:
        raise IndexError(f"mel column {start} lies before the first stored column {first_column}")
    if len(mel) < width:
        raise ValueError(f"{len(mel)} mel columns hold no window of {width}")
    begin = min(start - first_column, len(mel) - width)
    return mel[begin : begin + width]


def segment_columns(frame_start: int, n_frames: int, clip_columns: int) -> tuple[int, int]:
    """Clip columns [first, last) stored with a segment: its own and a window's width on either side."""
    first = max(0, mel_start(frame_start) - WINDOW)
    last = min(clip_columns, mel_start(frame_start + n_frames) + WINDOW)
    return first, last
