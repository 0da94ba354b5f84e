"""A video that speaks other words: faces redrawn by any registered generator, everything else left as it was filmed.

Two passes. The first follows the faces on prep's 25 fps clock (:mod:`g4g_model.faces`). The second reads the video's
own frames. Each takes the generated crop nearest in time, at most 20 ms away, pasted where the face's crop square is at
that very time; a frame is shown when the source showed it. Only a few seconds of crops are ever in memory.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from g4g_core import registry
from g4g_core.atomic import atomic_writer
from g4g_core.config import load_config
from g4g_core.errors import G4GError, SourceError, UsageError
from g4g_core.progress import Bar, progress
from g4g_core.protocols import Generator, Movable
from g4g_model.faces import FacePolicy, ShotCrops, Tracked, open_video, reading, stretches_of, track_faces
from g4g_model.film import Film, Source, check_suffix, failure
from g4g_model.speech import SoundTrack, Speech, read_speech
from prep.config import BuildConfig
from prep.media import open_media
from prep.records import FPS, SAMPLES_PER_FRAME
from prep.stages.decode import DecodeLog, TimedFrame, source_frames
from prep.stages.frames import from_av
from prep.stages.paste import pasted_planes
from prep.stages.shots import change, thumbnail

AudioLonger = Literal["cut", "loop"]
AudioShorter = Literal["silence", "cut"]
Device = Literal["auto", "cpu"]

CRF = 18.0
"""x264's quality unless told: losses that are hardly seen."""

_NAME = "dub"  # what chance depends on besides the seed: not the file's name, so that a copy gives the same video


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be made.

    Attributes:
        video, audio: files to read.
        model: a registered generator.
        out: the file to write.
        checkpoint: the model's weights, or ``None`` where it needs none.
        audio_longer: speech that outlasts the picture is ``cut``, or the picture begins again (``loop``).
        audio_shorter: the picture goes on in ``silence``, or is ``cut`` with the speech.
        faces: see ``g4g-prep build-shards --faces``.
        device: where the model works: ``auto`` for a GPU where there is one, and the model can use it.
        crf: x264's quality; ``None`` for lossless.
        overwrite: a file ``out`` may be replaced.
    """

    video: str
    audio: str
    model: str
    out: Path
    checkpoint: str | None = None
    audio_longer: AudioLonger = "cut"
    audio_shorter: AudioShorter = "silence"
    faces: FacePolicy = "largest"
    seed: int = 0
    device: Device = "auto"
    crf: float | None = CRF
    overwrite: bool = False


def dub(order: Order, *, quiet: bool = False) -> dict[str, Any]:
    """Make the video; returns what became of its frames, as ``--json`` prints it.

    Raises:
        UsageError: an unknown model, a missing checkpoint, an output that exists or is one of the inputs.
        SourceError: a file that is no video or holds no sound, or no face to redraw.
    """
    began = time.monotonic()
    suffix, kind = check_suffix(order.out), _kind(order)
    _check_files(order)
    open_video(order.video)
    audio = read_speech(order.audio)
    generator = kind.open(order.checkpoint)
    device = _placed(generator, order.device)
    tracked = track_faces(order.video, order.faces, quiet=quiet)
    n_frames = tracked.n_frames
    if order.audio_longer == "loop":
        n_frames = max(n_frames, -(-len(audio.pcm) // SAMPLES_PER_FRAME))
    speech = Speech(audio.pcm, n_frames)
    with atomic_writer(str(order.out)) as file, SoundTrack(order.audio) as sound:
        painter = _Painter(order, tracked, speech, generator)
        show = _Show(order, tracked, speech, painter)
        try:
            show.write(file, suffix, sound, quiet)
        finally:
            painter.close()
    return {
        "out": str(order.out),
        "model": order.model,
        "fingerprint": kind.fingerprint(order.checkpoint),
        "device": device,
        "frames": show.frames,
        "redrawn": show.frames - show.passed.total(),
        "passed_through": dict(sorted(show.passed.items())),
        "shots": len(tracked.shots),
        "frame_size": list(show.frame_size),
        "seconds": round(show.seconds, 3),
        "speech_seconds": round(speech.seconds, 3),
        "speech_cut": round(max(0.0, speech.seconds - show.seconds), 3),
        "rounds": show.rounds,
        "decode_errors": tracked.errors,
        "speech_errors": audio.errors,
        "stopped": tracked.stopped,
        "speech_stopped": audio.stopped,
        "took": round(time.monotonic() - began, 2),
    }


def _kind(order: Order) -> Any:
    kind = registry.load(registry.MODELS, order.model)
    if kind.needs_checkpoint and order.checkpoint is None:
        raise UsageError(f"{order.model} needs a checkpoint", "Name it: --checkpoint PATH.")
    if order.checkpoint is not None and not os.path.exists(order.checkpoint):
        raise UsageError(f"--checkpoint {order.checkpoint}: there is no such file")
    return kind


def _placed(generator: Generator, device: Device) -> str:
    """Moves the model to where it is to work; returns where that is."""
    if device == "cpu" or not isinstance(generator, Movable):
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    generator.to("cuda")
    return "cuda"


def _check_files(order: Order) -> None:
    for option, path in (("--video", order.video), ("--audio", order.audio)):
        if not os.path.isfile(path):
            raise SourceError(f"{option} {path}: there is no such file")
        if order.out.exists() and os.path.samefile(path, order.out):
            raise UsageError(f"--out {order.out} is the input {option}", "Inputs are never touched: name another file.")
    if order.out.is_dir():
        raise UsageError(f"--out {order.out} is a folder", "Name a file.")
    if order.out.exists() and not order.overwrite:
        raise UsageError(f"--out {order.out} exists", "Name another file, or add --overwrite.")


class _Painter:
    """Generates crops a stretch at a time, as the frames that need them come by."""

    def __init__(self, order: Order, tracked: Tracked, speech: Speech, generator: Generator) -> None:
        self._order, self._tracked, self._speech, self._generator = order, tracked, speech, generator
        self._size = load_config(
            BuildConfig, None, {}
        ).size  # what shards hold unless told, and so what checkpoints were trained on
        self._crops: ShotCrops | None = None
        self._made: tuple[int, int, int, int] | None = None  # shot, first frame, last + 1, delay
        self._pictures = np.zeros(0, np.uint8)
        self.note: Callable[[str], None] = lambda _: None

    def at(self, index: int, delay: int) -> tuple[ShotCrops, np.ndarray] | None:
        """The shot's crops and the generated one of clip frame ``index``; ``None`` where there is no face.

        Args:
            delay: speech frame that belongs to clip frame 0.
        """
        shot = next((shot for shot in self._tracked.shots if shot.track.start <= index < shot.track.stop), None)
        if shot is None:
            return None
        if self._crops is None or self._crops.shot is not shot:
            self.close()
            # beside the output: a temporary folder may lie in memory
            place = self._order.out.parent
            self._crops = ShotCrops(self._order.video, self._tracked, shot, self._size, place, self.note)
        made = self._made
        if made is None or made[0] != shot.number or made[3] != delay or not made[1] <= index < made[2]:
            made = self._generate(self._crops, index, delay)
        return self._crops, self._pictures[index - made[1]]

    def _generate(self, crops: ShotCrops, index: int, delay: int) -> tuple[int, int, int, int]:
        spans = [(start, stop) for start, stop, _ in stretches_of(crops.shot)]
        number = next(i for i, (start, stop) in enumerate(spans) if start <= index < stop)
        self._pictures = np.zeros(0, np.uint8)  # the last stretch's need not stay while the next is made
        prompt = crops.prompt(number, self._speech, delay, _NAME, self._order.seed)
        due = prompt.source.shape
        pictures = self._generator.generate(prompt)
        if pictures.shape != due or pictures.dtype != np.uint8:
            raise G4GError(
                f"{self._order.model} answered with {pictures.dtype} {list(pictures.shape)}, not uint8 {list(due)}"
            )
        self._pictures, self._made = pictures, (crops.shot.number, *spans[number], delay)
        return self._made

    def close(self) -> None:
        """Free the disk that the shot's crops take."""
        if self._crops is not None:
            self._crops.close()
        self._crops = self._made = None


class _Show:
    """Frames of the source, round after round, into the film; counts what becomes of them."""

    def __init__(self, order: Order, tracked: Tracked, speech: Speech, painter: _Painter) -> None:
        self._order, self._tracked, self._speech, self._painter = order, tracked, speech, painter
        self.frames = self.rounds = 0
        self.passed: collections.Counter[str] = collections.Counter()
        self.seconds = 0.0
        self.frame_size = (0, 0)

    def write(self, file: Any, suffix: str, sound: SoundTrack, quiet: bool) -> None:
        order, probed = self._order, self._tracked.probe
        with reading(order.video), open_media(order.video) as container:
            stream = container.streams[probed.video_index]
            first = next(source_frames(container, probed, DecodeLog()))
            source = Source(probed, first.picture, stream.time_base)
            counted = stream.frames or round(probed.duration * probed.fps)
        self.frame_size = (source.width, source.height)
        lossless = order.crf is None
        film = Film(file, suffix, source, sound, crf=order.crf if order.crf is not None else 0.0, lossless=lossless)
        total = round(self._speech.seconds * probed.fps) if self._looped or self._cut else counted
        try:
            with progress(max(total, counted) if self._looped else total, "dubbing", "frames", quiet) as bar:
                self._painter.note = lambda text: bar.advance(0, text)
                while self.rounds == 0 or (self._looped and self.seconds < self._speech.seconds):
                    self._round(film, source, bar)
                    self.rounds += 1
            film.finish(self.seconds)
        except av.error.FFmpegError as error:
            film.abandon()
            raise failure(error, order.out) from error
        except BaseException:
            film.abandon()
            raise

    @property
    def _looped(self) -> bool:
        return self._order.audio_longer == "loop" and self._speech.n_frames > self._tracked.n_frames

    @property
    def _cut(self) -> bool:
        """The picture ends with the speech."""
        shorter = self._speech.seconds < self._tracked.n_frames / FPS
        return self._looped or (self._order.audio_shorter == "cut" and shorter)

    def _round(self, film: Film, source: Source, bar: Bar) -> None:
        """All frames of the source once, from ``seconds`` of the film on."""
        probed, began = self._tracked.probe, self.seconds
        offset, delay = round(began / source.time_base), round(began * FPS)
        with open_media(self._order.video) as container:
            origin: TimedFrame | None = None
            for timed, index in placed(source_frames(container, probed, DecodeLog()), self._tracked):
                origin = origin or timed
                since = timed.time - origin.time
                if self._cut and began + since >= self._speech.seconds:
                    self.seconds = self._speech.seconds
                    return
                film.add(timed, self._redrawn(source, timed, index, delay), timed.pts - origin.pts + offset)
                self.frames += 1
                length = float((timed.picture.duration or 0) * source.time_base)
                self.seconds = began + since + (length if 0 < length < 1 else 1 / probed.fps)
                bar.advance()
        if self._cut and self.seconds > self._speech.seconds:
            self.seconds = self._speech.seconds

    def _redrawn(self, source: Source, timed: TimedFrame, index: int, delay: int) -> Any:
        found = self._painter.at(index, delay)
        if found is None:
            self.passed[self._tracked.reason(index)] += 1
            return None
        crops, picture = found
        affine = crops.affine_at(timed.time) @ source.to_square
        return pasted_planes(source.frame(timed), picture, affine, crops.erase(index))


def placed(frames: Iterator[TimedFrame], tracked: Tracked) -> Iterator[tuple[TimedFrame, int]]:
    """(frame, the 25 fps clip frame nearest in time that lies in the same camera take).

    Where the source has frames between the last clip frame of a take and the first of the next, the cut is where the
    picture changes most.
    """
    cuts = collections.deque(tracked.cuts[1:])
    low, origin = 0, tracked.probe.start
    before: TimedFrame | None = None
    doubtful: list[TimedFrame] = []

    def at(timed: TimedFrame, first: int, last: int) -> tuple[TimedFrame, int]:
        return timed, min(max(round((timed.time - origin) * FPS), first), last)

    for timed in frames:
        while cuts and timed.pts >= tracked.pts[cuts[0]]:
            cut = cuts.popleft()
            edge = _cut_among([*([before] if before is not None else []), *doubtful, timed], before is not None)
            yield from (at(frame, low, cut - 1) for frame in doubtful[:edge])
            yield from (at(frame, cut, tracked.n_frames - 1) for frame in doubtful[edge:])
            doubtful, low = [], cut
        if cuts and timed.pts > tracked.pts[cuts[0] - 1]:
            doubtful.append(timed)
            continue
        yield at(timed, low, cuts[0] - 1 if cuts else tracked.n_frames - 1)
        before = timed
    yield from (at(frame, low, tracked.n_frames - 1) for frame in doubtful)


def _cut_among(frames: list[TimedFrame], has_before: bool) -> int:
    """How many of the doubtful frames (those between the first and the last) come before the cut."""
    if len(frames) < 3 or not has_before:
        return 0
    looks = [thumbnail(from_av(frame.picture, 0, 1.0)) for frame in frames]
    changes = [change(a, b) for a, b in zip(looks[:-1], looks[1:], strict=True)]
    return int(np.argmax(changes))
