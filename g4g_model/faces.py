"""The faces of a video that is to be dubbed: where they are (first pass), and the prompts that redraw them."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from g4g_core.config import load_config
from g4g_core.errors import G4GError, SourceError
from g4g_core.progress import progress
from g4g_core.protocols import ERASED, FPS, POSE_POINTS, ClipPrompt
from g4g_core.references import allowed_references, choose_references, seed_of, stretches
from g4g_model.speech import Speech
from prep.config import BuildConfig
from prep.media import describe, explain_failure, open_media
from prep.records import SAMPLES_PER_FRAME, Rejection
from prep.run.track_pass import finish_shots, track_shots
from prep.run.tracked import Backends, Shot, Timings
from prep.shards.members import decode_frame
from prep.stages import encode
from prep.stages.crop import smooth_landmarks
from prep.stages.decode import DecodeLog, GridFrame, decode_audio, frames_at, video_frames
from prep.stages.geometry import transform
from prep.stages.masks import erase_region
from prep.stages.mel import segment_columns
from prep.stages.probe import Probe, probe
from prep.stages.shots import with_cuts
from prep.stages.sync import HeardClip, hear

FacePolicy = Literal["largest", "speaking"]

NO_REFERENCE = "no_reference"
"""Why a shot is passed through that is too short to show the model another frame of the face."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tracked:
    """What the first pass found in a video, on its 25 fps clock.

    Attributes:
        n_frames: of the clock.
        pts: int64 [n_frames], stamp of the source frame that stands at each.
        times: float64 [n_frames], when that frame is shown, seconds of the container's clock.
        cuts: frames at which a camera take begins; the first is 0.
        shots: faces that are redrawn, in order of time; no two at once.
        reasons: (first, last + 1, code) of frames that are not.
        errors: packets that could not be decoded.
        stopped: why reading ended before the file did, or "".
    """

    probe: Probe
    n_frames: int
    pts: np.ndarray
    times: np.ndarray
    cuts: list[int]
    shots: list[Shot]
    reasons: list[tuple[int, int, str]]
    errors: int
    stopped: str

    def reason(self, index: int) -> str:
        """Why frame ``index`` has no face to redraw."""
        return next((code for start, stop, code in self.reasons if start <= index < stop), "face_lost")


def track_faces(path: str, faces: FacePolicy = "largest", *, quiet: bool = False) -> Tracked:
    """The first pass: shots, and one face through each.

    Raises:
        SourceError: no video, or nothing in it that can be redrawn; says why.
    """
    from prep.landmarks.dlib import DlibLandmarks

    config = load_config(BuildConfig, None, {"faces": faces})
    probed, heard = open_video(path), None
    if faces == "speaking":
        heard = _own_sound(path, probed)
    log, seen, timings = DecodeLog(), _Seen(), Timings()
    backends = Backends(DlibLandmarks())
    with (
        reading(path),
        open_media(path) as container,
        progress(probed.estimated_frames, "finding faces", "frames", quiet) as bar,
    ):
        base = container.streams[probed.video_index].time_base
        frames = seen.watched(video_frames(container, probed, log), bar)
        found = []
        for shot in track_shots(seen.cut(with_cuts(frames)), None, config, backends, timings):
            if heard is None:  # mouths are for the sync experts alone: 4 kB a frame
                shot = dataclasses.replace(shot, tracks=[track.without_mouths() for track in shot.tracks])
            found.append(shot)
    if not seen.pts:
        raise SourceError(f"{path}: no frame can be decoded")
    pts = np.array(seen.pts, np.int64)
    shots, partial = finish_shots(found, len(pts), None, config, heard)
    reasons = [
        (entry.frame_start, entry.frame_start + (entry.n_frames or 0), entry.reason.value)
        for entry in partial
        if entry.frame_start is not None
    ]
    usable = [shot for shot in shots if has_references(shot)]
    reasons += [(shot.track.start, shot.track.stop, NO_REFERENCE) for shot in shots if not has_references(shot)]
    if not usable:
        raise SourceError(f"{path}: there is no face to redraw ({_why(partial, bool(shots))})")
    times = pts * (float(base) if base else 1 / probed.fps)
    return Tracked(probed, len(pts), pts, times, seen.cuts, usable, sorted(reasons), log.errors, log.stopped)


def _why(partial: list[Rejection], too_short: bool) -> str:
    found = sorted({f"{entry.reason.value}: {entry.detail}" for entry in partial})
    found += [f"{NO_REFERENCE}: no shot with a face has 20 frames"] if too_short else []
    return found[0] + (f", and {len(found) - 1} more reasons" if len(found) > 1 else "")


class _Seen:
    """Writes down what passes on its way to the tracker."""

    def __init__(self) -> None:
        self.pts: list[int] = []
        self.cuts: list[int] = []

    def watched(self, frames: Iterator[GridFrame], bar: Any) -> Iterator[GridFrame]:
        for item in frames:
            self.pts.append(item.pts)
            bar.advance()
            yield item

    def cut(self, frames: Iterator[tuple[GridFrame, bool]]) -> Iterator[tuple[GridFrame, bool]]:
        for item, starts_shot in frames:
            if starts_shot:
                self.cuts.append(item.index)
            yield item, starts_shot


def open_video(path: str) -> Probe:
    """The headers' facts. Raises SourceError where it is no video."""
    with reading(path), open_media(path) as container:
        found = probe(container, silent=True)
    if isinstance(found, Rejection):
        raise SourceError(f"{path}: {found.detail}")
    return found


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Faults of reading a video as SourceErrors of one line."""
    try:
        yield
    except G4GError:
        raise
    except (av.error.FFmpegError, EOFError) as error:
        detail = describe(error) if isinstance(error, EOFError) else explain_failure(path, error).detail
        raise SourceError(f"{path}: {detail}") from error


def _own_sound(path: str, probed: Probe) -> HeardClip:
    """The video's own speech, by which the speaking face is known."""
    if probed.audio_index < 0:
        raise SourceError(f"{path} has no sound by which the speaking face could be found", "Use --faces largest.")
    with reading(path), open_media(path) as container:
        audio = decode_audio(container, probed, probed.start)
    return hear(audio.pcm)


def segments_of(shot: Shot) -> list[tuple[int, int]]:
    """(first frame, frames) of what is generated at once: the shot's segments as prep cuts them.

    The up to 4 frames before the first, which shards leave out, belong to it here: nothing else would redraw them.
    """
    (_, stop), *others = shot.segments
    return [(shot.track.start, stop - shot.track.start), *((start, stop - start) for start, stop in others)]


def stretches_of(shot: Shot) -> list[tuple[int, int, np.ndarray]]:
    """(first, last + 1, frames allowed as references) of every prompt of a shot, as the harness makes them.

    The prompts are its segments, or the two halves of its only one, each of which refers to the other.
    """
    bounds = segments_of(shot)
    return [
        (part.start, part.stop, allowed_references(bounds, part.segment, part.scored, part.scored_stop))
        for part in stretches(bounds)
    ]


def has_references(shot: Shot) -> bool:
    """Whether every prompt of the shot has frames to refer to."""
    return all(len(allowed) for _, _, allowed in stretches_of(shot))


class ShotCrops:
    """The crops of one shot as a shard would hold them, on disk, and the prompts made of them.

    Args:
        path: the video.
        tracked: its first pass.
        shot: one of ``tracked.shots``.
        size: side of the crops, px.
        folder: where the file without a name goes that holds their JPEGs, about 26 kB a frame of 256 px.
        note: is told now and then how far the cutting has come.
    """

    def __init__(
        self,
        path: str,
        tracked: Tracked,
        shot: Shot,
        size: int,
        folder: Path,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.shot, self.size = shot, size
        self.affines = np.round(shot.crop.affine(size), 5)
        smooth = transform(self.affines, smooth_landmarks(shot.track.landmarks))
        self.landmarks = np.round(smooth, 3).astype(np.float32)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._offsets = [0]
        times = tracked.times[shot.track.start : shot.track.stop]
        self._times, self._rows = np.unique(times, return_index=True)  # a frame shown twice stands where it came first
        start, stop = shot.track.start, shot.track.stop
        try:
            with reading(path), open_media(path) as container:
                for row, frame in frames_at(container, tracked.probe, tracked.pts[start:stop], DecodeLog()):
                    if row % 100 == 0:
                        note(f"cutting out the face, {row}/{stop - start} frames")
                    crop = shot.crop
                    rgb = frame.crop_rgb(float(crop.x[row]), float(crop.y[row]), float(crop.side[row]), size)
                    self._offsets.append(self._offsets[-1] + self._file.write(encode.jpeg(rgb)))
        except LookupError as error:
            raise SourceError(f"{path} has changed, or cannot be entered in the middle: {error}") from error

    def close(self) -> None:
        self._file.close()

    def pictures(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S, 3] RGB of clip frames."""
        out = np.empty((len(frames), self.size, self.size, 3), np.uint8)
        for picture, row in zip(out, frames - self.shot.track.start, strict=True):
            self._file.seek(self._offsets[row])
            decode_frame(self._file.read(self._offsets[row + 1] - self._offsets[row]), self.size, picture)
        return out

    def erase(self, index: int) -> np.ndarray:
        """uint8 [S, S] of 0 and 1 of clip frame ``index``."""
        return erase_region(self.landmarks[index - self.shot.track.start], self.size)

    def prompt(self, number: int, speech: Speech, delay: int, name: str, seed: int) -> ClipPrompt:
        """What the generator is told of stretch ``number`` of the shot.

        Args:
            delay: speech frame that belongs to clip frame 0.
            name: of the video, part of what chance depends on.
        """
        start, stop, allowed = stretches_of(self.shot)[number]
        origin = self.shot.track.start
        own = seed_of(seed, f"{name}-{self.shot.number:03d}", start - origin)
        chosen = choose_references(allowed, np.random.Generator(np.random.Philox(own)))
        source, erase = self.pictures(np.arange(start, stop)), np.stack([self.erase(i) for i in range(start, stop)])
        source[erase > 0] = ERASED
        first, count = next((a, n) for a, n in segments_of(self.shot) if a <= start < a + n)
        columns = segment_columns(first + delay, count, speech.n_columns)
        return ClipPrompt(
            source=source,
            erase=erase,
            pose=self.landmarks[start - origin : stop - origin, POSE_POINTS].copy(),
            references=self.pictures(chosen),
            reference_landmarks=self.landmarks[chosen - origin],
            mel=speech.mel(*columns),
            mel_start=columns[0],
            frame_start=start + delay,
            pcm=speech.samples(SAMPLES_PER_FRAME * (start + delay), SAMPLES_PER_FRAME * (stop + delay)),
            fps=FPS,
            seed=own,
        )

    def affine_at(self, time: float) -> np.ndarray:
        """float64 [2, 3]: frame to crop pixels at ``time`` of the container's clock.

        The crop square is linear between the frames that were tracked, and stands still before and after them.
        """
        crop = self.shot.crop
        x, y, side = (float(np.interp(time, self._times, values[self._rows])) for values in (crop.x, crop.y, crop.side))
        scale = self.size / side
        return np.array([[scale, 0, (0.5 - x) * scale - 0.5], [0, scale, (0.5 - y) * scale - 0.5]])
