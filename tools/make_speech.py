"""Make the speech of the embedded sample data set: ``prep/data/speech``.

Kept for provenance; users never run it. It needs espeak-ng (Debian: ``apt-get install espeak-ng
libespeak-ng1``) and SciPy. Usage: ``python tools/make_speech.py prep/data/speech``.

The library is asked directly, because only its events tell when each phoneme and word starts. espeak-ng's
licence (GPL 3) covers the program and not the sound it makes; the sentences were written for this project.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import math
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

SAMPLE_RATE = 16_000

VOICES: dict[str, tuple[str, int, int]] = {
    # name: (espeak-ng voice, pitch 0..100, words per minute)
    "anna": ("gmw/en-US+f2", 55, 142),
    "ben": ("gmw/en+m3", 42, 142),
    "clara": ("gmw/en-GB-x-rp+f4", 60, 140),
    "dora": ("gmw/en-GB-scotland+f3", 48, 142),
    "emil": ("gmw/en-US+m1", 38, 140),
}

PHRASES: tuple[tuple[str, str, str, str], ...] = (
    # id, split, voice, text. No sentence is in two splits, and no voice either.
    ("train-0", "train", "anna", "Papa bought a warm coat for my mother."),
    ("train-1", "train", "anna", "We saw five small boats far away."),
    ("train-2", "train", "anna", "Open the blue box above my room."),
    ("train-3", "train", "anna", "Bob may wash four more apples."),
    ("train-4", "train", "ben", "The farmer moved his sheep before the storm."),
    ("train-5", "train", "ben", "Who would pay for a map of the moon?"),
    ("train-6", "train", "ben", "Brown bears always walk by the water."),
    ("train-7", "train", "ben", "Put both of my bowls on the bench."),
    ("val-0", "val", "clara", "Maybe Paul will move to Rome in autumn."),
    ("val-1", "val", "clara", "A wolf ate half of the ham."),
    ("test-0", "test", "dora", "Both women have a good view of the bay."),
    ("test-1", "test", "dora", "My baby found a purple marble ball."),
    ("test-2", "test", "emil", "The shop was full of smoke."),
    ("test-3", "test", "emil", "Emma put four plums in a paper bag."),
)

_RETRIEVAL = 1  # AUDIO_OUTPUT_RETRIEVAL: sound goes to the callback
_PHONEME_EVENTS_IPA = 0x0003
_CHARS_UTF8 = 1
_RATE, _PITCH = 1, 3
_EVENT_END, _EVENT_WORD, _EVENT_PHONEME = 5, 1, 7


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """The espeak-ng library, opened once per process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
        self.rate = self._library.espeak_Initialize(_RETRIEVAL, 0, None, _PHONEME_EVENTS_IPA)
        if self.rate <= 0:
            raise SystemExit("espeak-ng did not start: are its data files installed?")

    def speak(
        self, text: str, voice: str, pitch: int, rate: int
    ) -> tuple[np.ndarray, list[tuple[int, str, Any]]]:
        """int16 samples at ``self.rate`` and the events: (sample, "phoneme" | "word" | "end", value)."""
        pieces: list[np.ndarray] = []
        events: list[tuple[int, str, Any]] = []

        def receive(samples: Any, count: int, batch: Any) -> int:
            if samples and count > 0:
                pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            index = 0
            while batch[index].type != 0:
                event = batch[index]
                if event.type == _EVENT_PHONEME:
                    events.append((event.sample, "phoneme", event.id.string.decode()))
                elif event.type == _EVENT_WORD:
                    events.append((event.sample, "word", event.text_position - 1))
                elif event.type == _EVENT_END:
                    events.append((event.sample, "end", None))
                index += 1
            return 0

        callback = _Callback(receive)
        self._library.espeak_SetSynthCallback(callback)
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SystemExit(f"espeak-ng has no voice {voice}")
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(pieces), events


def spans(events: list[tuple[int, str, Any]], kind: str, rate: int, last: float) -> list[list[Any]]:
    """[value, start, end] in seconds; an event lasts until the next one of its kind."""
    starts = [(sample / rate, value) for sample, name, value in events if name == kind]
    ends = [start for start, _ in starts[1:]] + [last]
    return [
        [value, round(start, 4), round(end, 4)]
        for (start, value), end in zip(starts, ends, strict=True)
        if value and end > start
    ]


def word_spans(text: str, events: list[tuple[int, str, Any]], rate: int, last: float) -> list[list[Any]]:
    """[word, start, end] in seconds for every word of ``text``.

    espeak-ng speaks "of the" as one word with one event: its words share the time by their letters.
    """
    starts = [(place, sample / rate) for sample, kind, place in events if kind == "word" and place >= 0]
    stops = [*starts[1:], (len(text), last)]
    result: list[list[Any]] = []
    for (position, start), (stop, end) in zip(starts, stops, strict=True):
        words = [word.strip(".,?!") for word in text[position:stop].split()]
        letters = [len(word) for word in words]
        for index, word in enumerate(words):
            begin, finish = (
                start + (end - start) * sum(letters[:k]) / sum(letters) for k in (index, index + 1)
            )
            result.append([word, round(begin, 4), round(finish, 4)])
    return result


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    library = Espeak()
    divisor = math.gcd(SAMPLE_RATE, library.rate)
    entries = []
    for name, split, voice, text in PHRASES:
        sound, events = library.speak(text, *VOICES[voice])
        spoken = max(sample for sample, kind, _ in events if kind == "end") / library.rate
        tail = np.flatnonzero(np.abs(sound) > 100)[-1] / library.rate
        audio = resample_poly(sound.astype(np.float64), SAMPLE_RATE // divisor, library.rate // divisor)
        audio = audio[: int((tail + 0.12) * SAMPLE_RATE)]
        audio *= 0.6 * 32767 / np.abs(audio).max()
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(np.round(audio).astype("<i2").tobytes())
        end = min(spoken, tail)
        entries.append(
            {
                "id": name,
                "split": split,
                "voice": voice,
                "text": text,
                "seconds": round(len(audio) / SAMPLE_RATE, 4),
                "phonemes": spans(events, "phoneme", library.rate, end),
                "words": word_spans(text, events, library.rate, end),
            }
        )
    document = json.dumps({"sample_rate": SAMPLE_RATE, "phrases": entries}, ensure_ascii=False, indent=1)
    (folder / "speech.json").write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
