"""The mel spectrogram and the one place that knows how frames and columns relate."""

from __future__ import annotations

import numpy as np
import pytest

from prep.records import SAMPLE_RATE
from prep.stages.mel import WINDOW, mel_filter_bank, mel_spectrogram, mel_start, mel_window, segment_columns


def librosa_mel(wave: np.ndarray) -> np.ndarray:
    """Wav2Lip's formula by librosa: [n, 80]."""
    import librosa

    emphasised = np.append(wave[:1], wave[1:] - 0.97 * wave[:-1])
    spectrum = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, win_length=800, pad_mode="constant"))
    bank = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600, dtype=np.float64)
    decibels = 20 * np.log10(np.maximum(1e-5, bank @ spectrum)) - 20
    return np.clip(8 * (decibels + 100) / 100 - 4, -4, 4).T


def sounds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    at = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    return {
        "noise": rng.normal(0, 3000, len(at)),
        "chirp": 12_000 * np.sin(2 * np.pi * (80 * at + 1800 * at**2)),
        "quiet": rng.normal(0, 2, len(at)),
        "pauses": rng.normal(0, 8000, len(at)) * (np.sin(2 * np.pi * 2 * at) > 0),
        "full scale": 32_767 * np.sign(np.sin(2 * np.pi * 220 * at)),
    }


@pytest.mark.parametrize("name", sounds())
def test_the_mel_is_that_of_librosa(name: str) -> None:
    pcm = np.clip(sounds()[name], -32_768, 32_767).astype(np.int16)
    ours = mel_spectrogram(pcm)
    expected = librosa_mel(pcm / 32_768)
    assert ours.shape == expected.shape == (1 + len(pcm) // 200, 80)
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() <= 1e-4


@pytest.mark.parametrize("n", [1, 199, 200, 201, 640, 12_345])
def test_short_and_odd_lengths_give_a_column_for_every_200_samples(n: int) -> None:
    pcm = np.random.default_rng(n).normal(0, 3000, n).astype(np.int16)
    ours = mel_spectrogram(pcm)
    assert ours.shape == (1 + n // 200, 80)
    assert np.abs(ours - librosa_mel(pcm / 32_768)).max() <= 1e-4


def test_a_long_clip_is_the_same_as_its_pieces_put_together() -> None:
    """The transform works in chunks of 4096 columns."""
    pcm = np.random.default_rng(3).normal(0, 3000, 60 * SAMPLE_RATE).astype(np.int16)
    whole, middle = mel_spectrogram(pcm), mel_spectrogram(pcm[200 * 4000 : 200 * 4200])
    assert np.abs(whole[4004:4196] - middle[4:196]).max() <= 1e-5


def test_floats_in_unit_range_and_int16_are_the_same_sound() -> None:
    pcm = sounds()["noise"].astype(np.int16)
    assert np.array_equal(mel_spectrogram(pcm), mel_spectrogram(pcm / 32_768))


def test_silence_is_the_lowest_level() -> None:
    assert (mel_spectrogram(np.zeros(3200, np.int16)) == -4).all()


@pytest.mark.parametrize("shape", [(0,), (2, 100)])
def test_anything_but_mono_samples_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="mono samples"):
        mel_spectrogram(np.zeros(shape, np.int16))


def test_every_filter_has_unit_area_on_the_hertz_axis() -> None:
    area = mel_filter_bank().sum(axis=1) * SAMPLE_RATE / 800
    assert np.abs(area[20:] - 1).max() < 0.05  # narrower bands than a bin cannot be summed


def test_frame_f_starts_at_column_3_2_f() -> None:
    assert [mel_start(frame) for frame in range(11)] == [0, 3, 6, 9, 12, 16, 19, 22, 25, 28, 32]
    assert all(mel_start(frame) == int(np.floor(3.2 * frame + 1e-9)) for frame in range(100_000))


COLUMNS = np.repeat(np.arange(400, dtype=np.float32)[:, None], 80, axis=1)


@pytest.mark.parametrize(("offset", "first"), [(0, 32), (-1, 28), (3, 41)])
def test_the_three_conventions_are_offsets(offset: int, first: int) -> None:
    assert mel_window(COLUMNS, 10, offset)[:, 0].tolist() == list(range(first, first + 16))


def test_a_window_before_the_clip_is_an_error() -> None:
    with pytest.raises(IndexError, match="frame 0 at offset -1 starts before the clip"):
        mel_window(COLUMNS, 0, -1)


def test_a_window_before_the_stored_columns_is_an_error_and_not_other_columns() -> None:
    with pytest.raises(IndexError, match="before the first stored column 100"):
        mel_window(COLUMNS, 31, 0, first_column=100)


@pytest.mark.parametrize("frame", [120, 121, 125, 1000])
def test_a_window_past_the_end_is_the_last_columns(frame: int) -> None:
    assert mel_window(COLUMNS, frame)[:, 0].tolist() == list(range(384, 400))


def test_the_last_window_that_fits_is_not_moved() -> None:
    assert mel_window(COLUMNS[:336], 100)[0, 0] == 320


def test_fewer_columns_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match="15 mel columns hold no window of 16"):
        mel_window(COLUMNS[:15], 0)


def test_five_frames_at_a_multiple_of_five_are_sixteen_columns_exactly() -> None:
    assert all(mel_start(frame + 5) - mel_start(frame) == WINDOW for frame in range(0, 1000, 5))


@pytest.mark.parametrize("offset", [0, -1, -5])
def test_windows_of_a_segment_are_those_of_the_clip(offset: int) -> None:
    for start in range(0, 110, 5):
        for n in (1, 4, 10, 13):
            first, last = segment_columns(start, n, len(COLUMNS))
            stored = COLUMNS[first:last]
            for frame in range(max(start, -offset), start + n):
                expected = mel_window(COLUMNS, frame, offset)
                assert np.array_equal(mel_window(stored, frame, offset, first_column=first), expected)


def test_a_segment_keeps_a_window_on_either_side_within_the_clip() -> None:
    assert segment_columns(0, 10, 400) == (0, 48)
    assert segment_columns(50, 10, 400) == (144, 208)
    assert segment_columns(115, 10, 400) == (352, 400)
