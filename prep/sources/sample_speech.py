"""The spoken side of the sample data set: bundled phrases, and how the mouth moves while they are said."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import io
import json
import wave
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prep.records import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, Word

# Opening 0..1, width -1 (narrow) .. 1 (spread) and protrusion 0..1 of the lips, by letter of the IPA.
_VISEMES: dict[str, tuple[float, float, float]] = {
    "ɑ": (1.00, 0.0, 0.0), "a": (0.95, 0.2, 0.0), "æ": (0.80, 0.4, 0.0), "ʌ": (0.65, 0.0, 0.0),
    "ɐ": (0.60, 0.0, 0.0), "ɒ": (0.75, -0.4, 0.4), "ɔ": (0.65, -0.6, 0.7), "o": (0.50, -0.8, 0.9),
    "ʊ": (0.28, -0.9, 0.9), "u": (0.24, -1.0, 1.0), "ʉ": (0.24, -0.9, 1.0), "ɛ": (0.55, 0.4, 0.0),
    "e": (0.50, 0.5, 0.0), "ɪ": (0.30, 0.6, 0.0), "i": (0.25, 0.9, 0.0), "ə": (0.35, 0.0, 0.1),
    "ɚ": (0.35, -0.2, 0.3), "r": (0.25, -0.4, 0.5), "ɹ": (0.25, -0.4, 0.5), "w": (0.12, -1.0, 1.0),
    "p": (0.0, 0.0, 0.1), "b": (0.0, 0.0, 0.1), "m": (0.0, 0.1, 0.0), "f": (0.08, 0.1, 0.0),
    "v": (0.08, 0.1, 0.0), "θ": (0.20, 0.2, 0.0), "ð": (0.20, 0.2, 0.0), "t": (0.20, 0.2, 0.0),
    "d": (0.20, 0.2, 0.0), "n": (0.22, 0.2, 0.0), "l": (0.28, 0.2, 0.0), "s": (0.14, 0.4, 0.0),
    "z": (0.14, 0.4, 0.0), "ʃ": (0.18, -0.5, 0.8), "k": (0.28, 0.1, 0.0), "ɡ": (0.28, 0.1, 0.0),
    "h": (0.35, 0.0, 0.0), "j": (0.25, 0.6, 0.0),
}  # fmt: skip
_REST = (0.0, 0.0, 0.0)
_LIPS_MEET = frozenset("pbm")
_GLIDES = frozenset("ɪʊʉə")

_STEP = 0.004  # seconds between points of a track before it is sampled at frames
_COARTICULATION = 0.030  # sigma in seconds: about 70 ms from half height to half height
_CLOSURE = 0.016  # sigma in seconds: lips meet faster than vowels glide
_GAP = 0.16  # seconds of silence between two phrases of a clip


@dataclasses.dataclass(frozen=True)
class Phrase:
    """One bundled sentence.

    Attributes:
        id: e.g. ``test-0``.
        split: the only split in which it may be heard.
        voice: name of the synthetic voice; no voice is in two splits.
        text: the sentence as written.
        audio: int16 [N], 16 kHz mono.
        phonemes: (IPA symbol, start, end) in seconds.
        words: words with times in seconds.
    """

    id: str
    split: str
    voice: str
    text: str
    audio: NDArray[np.int16]
    phonemes: tuple[tuple[str, float, float], ...]
    words: tuple[Word, ...]


@dataclasses.dataclass(frozen=True)
class Utterance:
    """What one clip says.

    Attributes:
        phrases: ids of the phrases, in order.
        text: words in upper case, without punctuation.
        words: words with times in seconds from the start of the clip.
        phonemes: (IPA symbol, start, end) in seconds from the start of the clip.
        audio: int16 [640 * n_frames], 16 kHz mono.
        n_frames: 25 fps frames.
    """

    phrases: tuple[str, ...]
    text: str
    words: tuple[Word, ...]
    phonemes: tuple[tuple[str, float, float], ...]
    audio: NDArray[np.int16]
    n_frames: int


@functools.cache
def load_phrases() -> tuple[Phrase, ...]:
    """All bundled phrases, in the order of their file."""
    folder = importlib.resources.files("prep") / "data" / "speech"
    document = json.loads((folder / "speech.json").read_text(encoding="utf-8"))
    phrases = []
    for entry in document["phrases"]:
        with wave.open(io.BytesIO((folder / f"{entry['id']}.wav").read_bytes())) as file:
            audio = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        phrases.append(
            Phrase(
                id=entry["id"],
                split=entry["split"],
                voice=entry["voice"],
                text=entry["text"],
                audio=audio,
                phonemes=tuple((symbol, start, end) for symbol, start, end in entry["phonemes"]),
                words=tuple(Word(text, start, end) for text, start, end in entry["words"]),
            )
        )
    return tuple(phrases)


def say(phrases: Sequence[Phrase], speed: float = 1.0) -> Utterance:
    """Phrases one after the other, with a short silence between, padded to whole frames.

    Args:
        phrases: at least one.
        speed: the sound is played this much faster, so that the voice is higher too: one bundled voice
            serves several identities.
    """
    pieces: list[NDArray[np.float64]] = []
    words: list[Word] = []
    phonemes: list[tuple[str, float, float]] = []
    start = 0
    for index, phrase in enumerate(phrases):
        if index:
            pieces.append(np.zeros(int(_GAP * SAMPLE_RATE)))
            start += len(pieces[-1])
        length = int(len(phrase.audio) / speed)
        pieces.append(np.interp(np.arange(length) * speed, np.arange(len(phrase.audio)), phrase.audio))
        shift = start / SAMPLE_RATE
        words += [
            Word(_upper(word.text), shift + word.start / speed, shift + word.end / speed)
            for word in phrase.words
        ]
        phonemes += [
            (symbol, shift + begin / speed, shift + end / speed) for symbol, begin, end in phrase.phonemes
        ]
        start += length
    n_frames = -(-start // SAMPLES_PER_FRAME)
    audio = np.zeros(n_frames * SAMPLES_PER_FRAME, dtype=np.int16)
    audio[:start] = np.round(np.concatenate(pieces)).astype(np.int16)
    return Utterance(
        phrases=tuple(phrase.id for phrase in phrases),
        text=" ".join(word.text for word in words),
        words=tuple(words),
        phonemes=tuple(phonemes),
        audio=audio,
        n_frames=n_frames,
    )


def mouth_track(
    phonemes: Sequence[tuple[str, float, float]], n_frames: int, av_offset: int = 0
) -> NDArray[np.float32]:
    """How the mouth moves: float32 [n_frames, 3] of opening 0..1, width -1..1 and protrusion 0..1.

    Targets per phoneme are blurred in time (neighbours colour each other, as in coarticulation); then p, b
    and m close the lips whatever stands around them. A row belongs to the middle of its frame.

    Args:
        phonemes: (IPA symbol, start, end) in seconds.
        n_frames: length in 25 fps frames.
        av_offset: frames by which the sound leads the picture (SyncNet's sign): row n shows the mouth of
            frame n - av_offset.
    """
    margin = 0.5  # seconds of closed mouth around the clip, wide enough for any blur
    times = np.arange(-margin, n_frames / FPS + margin, _STEP)
    targets = np.zeros((len(times), 3))
    closed = np.zeros(len(times))
    for symbol, start, end in phonemes:
        middle = (start + end) / 2
        glides = len(symbol) > 1 and symbol[-1] in _GLIDES
        for letter, begin, stop in (
            ((symbol[0], start, middle), (symbol[-1], middle, end)) if glides else ((symbol[0], start, end),)
        ):
            targets[(times >= begin) & (times < stop)] = _VISEMES.get(letter, _REST)
        if symbol[0] in _LIPS_MEET:
            closed[(times >= start) & (times < max(end, start + 0.06))] = 1.0
    track = np.stack([_blur(column, _COARTICULATION) for column in targets.T], axis=1)
    track[:, 0] *= 1.0 - np.minimum(1.0, 1.15 * _blur(closed, _CLOSURE))
    middles = (np.arange(n_frames) - av_offset + 0.5) / FPS
    return np.stack([np.interp(middles, times, column) for column in track.T], axis=1).astype(np.float32)


def _blur(signal: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    reach = int(3 * sigma / _STEP)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * _STEP / sigma) ** 2)
    return np.convolve(signal, kernel / kernel.sum(), mode="same")


def _upper(word: str) -> str:
    return "".join(letter for letter in word.upper() if letter.isalnum() or letter == "'")
