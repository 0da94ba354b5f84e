"""Picture and sound on one clock: whatever the source's rate, container, start times or damage."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from prep.config import BuildConfig
from prep.landmarks.dlib import DlibLandmarks
from prep.media import open_media
from prep.records import FPS, SAMPLE_RATE, ClipSpec
from prep.run.track_pass import track_clip
from prep.run.tracked import Backends, FrameCache, Timings, TrackedClip
from prep.stages.decode import DecodeLog, decode_audio, frames_at
from prep.stages.geometry import interocular
from prep.stages.mel import mel_spectrogram
from tests.prep.synthetic_media import bar_time, click_times, clicks, first_pass, probed, turn_by_metadata, write_media

CLICKS = [0.5, 1.0, 1.7, 2.5]
SECONDS = 3.2
FRAME = 1 / FPS


def steady(rate: Fraction | float, seconds: float = SECONDS) -> list[float]:
    return [i / float(rate) for i in range(int(seconds * float(rate)))]


def variable() -> list[float]:
    """Irregular stamps 15 to 75 ms apart."""
    return [0.0, *np.cumsum(np.random.default_rng(0).uniform(0.015, 0.075, 70)).round(4).tolist()]


def picture_errors(path: Path, time_range: tuple[float, float] | None = None) -> np.ndarray:
    """Seconds by which each clip frame shows another moment than its own."""
    frames, _ = first_pass(path, probed(path, time_range), whole=time_range is None)
    origin = time_range[0] if time_range else 0.0
    assert [item.index for item in frames] == list(range(len(frames)))
    return np.array([bar_time(item.frame) - origin - item.index / FPS for item in frames])


def sound(path: Path, time_range: tuple[float, float] | None = None) -> np.ndarray:
    facts = probed(path, time_range)
    end = facts.start + facts.duration if time_range else None
    with open_media(str(path)) as container:
        return decode_audio(container, facts, facts.start, end).pcm


@pytest.mark.parametrize(
    "rate",
    [Fraction(24_000, 1001), 24, 25, Fraction(30_000, 1001), 30, 50, 60, 15],
    ids=lambda rate: f"{float(rate):.3f}",
)
def test_a_constant_rate_lands_on_the_25_fps_grid_within_half_a_source_frame(
    rate: Fraction | int, tmp_path: Path
) -> None:
    path = write_media(tmp_path / "clip.mp4", steady(rate), rate=rate, audio=clicks(SECONDS, CLICKS))
    errors = picture_errors(path)
    assert len(errors) >= SECONDS * FPS - 1
    assert np.abs(errors).max() <= 0.5 / float(rate) + 0.006
    assert click_times(sound(path)) == pytest.approx(CLICKS, abs=0.001)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_rate_lands_on_the_grid_within_a_frame(suffix: str, tmp_path: Path) -> None:
    codec = "aac" if suffix == "mp4" else "pcm_s16le"
    path = write_media(
        tmp_path / f"clip.{suffix}", variable(), rate=30, audio=clicks(SECONDS, CLICKS), audio_codec=codec
    )
    assert np.abs(picture_errors(path)).max() <= FRAME
    assert click_times(sound(path)) == pytest.approx(CLICKS, abs=0.001)


def test_a_long_still_frame_is_held_and_what_follows_does_not_come_early(tmp_path: Path) -> None:
    times = [i / 25 for i in range(20)] + [i / 25 for i in range(60, 80)]
    errors = picture_errors(write_media(tmp_path / "clip.mp4", times, audio=clicks(SECONDS, CLICKS)))
    assert errors.max() <= FRAME + 0.005
    assert np.abs(errors[:20]).max() <= 0.006
    assert np.abs(errors[60:80]).max() <= 0.006


@pytest.mark.parametrize("start", [0.2, 0.037, 1.1])
def test_sound_that_starts_late_is_put_where_it_belongs(start: float, tmp_path: Path) -> None:
    whole = clicks(SECONDS, CLICKS)
    path = write_media(tmp_path / "clip.mp4", steady(25), audio=whole[round(start * SAMPLE_RATE) :], audio_start=start)
    assert click_times(sound(path)) == pytest.approx([time for time in CLICKS if time > start], abs=0.001)
    assert np.abs(picture_errors(path)).max() <= 0.006


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_sound_that_starts_before_the_picture_is_cut_to_it(suffix: str, tmp_path: Path) -> None:
    path = write_media(tmp_path / f"clip.{suffix}", steady(25), video_start=0.2, audio=clicks(SECONDS, CLICKS))
    assert click_times(sound(path)) == pytest.approx([time - 0.2 for time in CLICKS], abs=0.002)
    assert np.abs(picture_errors(path)).max() <= 0.006


def test_sound_at_another_rate_stays_on_its_clock(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", steady(25), audio=clicks(SECONDS, CLICKS, 44_100), audio_rate=44_100)
    assert click_times(sound(path)) == pytest.approx(CLICKS, abs=0.001)


def test_a_mel_column_stands_where_its_sound_is(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", steady(30), rate=30, audio=clicks(SECONDS, CLICKS))
    level = mel_spectrogram(sound(path)).mean(axis=1)
    for time in CLICKS:
        around = slice(round((time - 0.1) * 80), round((time + 0.1) * 80))
        loud = np.arange(around.start, around.stop)[level[around] > level[around].max() - 0.5]
        assert abs(loud.mean() / 80 - time) <= 1 / 80


def test_a_gap_in_the_sound_becomes_silence_and_moves_nothing_after_it(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    whole = clicks(SECONDS, CLICKS)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for index in range(80):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
            picture.pts = index
            container.mux(video.encode(picture))
            start = index * 640
            if 1.2 * SAMPLE_RATE <= start < 1.5 * SAMPLE_RATE:
                continue
            piece = av.AudioFrame.from_ndarray(whole[None, start : start + 640], format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(piece))
        container.mux(video.encode(None))
    pcm = sound(path)
    assert click_times(pcm) == pytest.approx(CLICKS, abs=0.001)
    assert np.abs(pcm[round(1.23 * SAMPLE_RATE) : round(1.47 * SAMPLE_RATE)]).max() == 0


# ---- containers and where they can be entered

CONTAINERS = {
    "mp4": {},
    "mov": {"audio_codec": "pcm_s16le"},
    "mkv": {"audio_codec": "pcm_s16le"},
    "ts": {},
    "avi": {"codec": "mpeg4", "audio_codec": "pcm_s16le", "own_clock": False, "b_frames": 0},
    "mpg": {"codec": "mpeg1video", "audio_codec": "mp2", "audio_rate": 48_000, "own_clock": False},
    "vob": {"codec": "mpeg2video", "audio_codec": "mp2", "audio_rate": 48_000, "own_clock": False},
}
Written = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Writes (container, distance of keyframes) once."""
    root, made = tmp_path_factory.mktemp("containers"), {}

    def write(suffix: str, gop: int) -> Path:
        if (suffix, gop) not in made:
            options = CONTAINERS[suffix]
            audio = clicks(SECONDS, CLICKS, int(options.get("audio_rate", SAMPLE_RATE)))
            path = root / f"gop{gop}.{suffix}"
            made[suffix, gop] = write_media(path, steady(25), audio=audio, gop=gop, **options)
        return made[suffix, gop]

    return write


@pytest.mark.parametrize("gop", [12, 40, 250])
@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_time_range_starts_at_its_first_instant(suffix: str, gop: int, written: Written) -> None:
    path = written(suffix, gop)
    for start, end in ((2.2, 2.8), (1.04, 2.6)):
        errors = picture_errors(path, (start, end))
        assert len(errors) >= 14
        assert np.abs(errors).max() <= 0.006
        expected = [time - start for time in CLICKS if start + 0.01 < time < end]
        assert [time for time in click_times(sound(path, (start, end))) if time > 0.01] == pytest.approx(
            expected, abs=0.002
        )


@pytest.mark.parametrize("gop", [12, 40, 250])
@pytest.mark.parametrize("suffix", CONTAINERS)
def test_the_second_pass_gives_exactly_the_frames_of_the_first_from_anywhere(
    suffix: str, gop: int, written: Written
) -> None:
    path = written(suffix, gop)
    facts = probed(path)
    frames, _ = first_pass(path, facts)
    pts = np.array([item.pts for item in frames])
    for start in (0, 1, 24, 26, 40, 53, len(frames) - 1):
        with open_media(str(path)) as container:
            again = list(frames_at(container, facts, pts[start : start + 30], DecodeLog()))
        assert [position for position, _ in again] == list(range(len(pts[start : start + 30])))
        for position, frame in again:
            first = frames[start + position].frame
            assert np.array_equal(frame.y, first.y)
            assert np.array_equal(frame.u, first.u)


def test_the_second_pass_repeats_frames_that_the_grid_repeats(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", steady(15), rate=15, audio=clicks(SECONDS, CLICKS))
    facts = probed(path)
    frames, _ = first_pass(path, facts)
    pts = np.array([item.pts for item in frames])
    with open_media(str(path)) as container:
        again = list(frames_at(container, facts, pts[31:], DecodeLog()))
    assert len(again) == len(pts) - 31
    assert all(np.array_equal(frame.y, frames[31 + position].frame.y) for position, frame in again)


def test_frames_that_do_not_come_again_are_an_error_and_not_other_frames(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", steady(25), audio=clicks(SECONDS, CLICKS))
    facts = probed(path)
    with open_media(str(path)) as container, pytest.raises(LookupError, match="time stamp 3601"):
        list(frames_at(container, facts, np.array([0, 3601]), DecodeLog()))


# ---- turned and stretched


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_a_clip_turned_by_metadata_stands_upright(clockwise: int, tmp_path: Path) -> None:
    def picture(_: float) -> np.ndarray:
        upright = np.full((96, 160, 3), 60, np.uint8)
        upright[:24, :40] = 220  # top left corner
        return np.rot90(upright, clockwise // 90).copy()  # stored turned back; players turn it clockwise

    path = write_media(tmp_path / "clip.mp4", steady(25, 0.4), picture, audio=clicks(0.4, [0.2]))
    turn_by_metadata(path, clockwise)
    facts = probed(path)
    assert (facts.width, facts.height) == (160, 96)
    frame = first_pass(path, facts)[0][3].frame
    assert (frame.width, frame.height) == (160, 96)
    assert frame.y[4:20, 4:36].min() > 150
    assert frame.y[30:, :].max() < 100
    assert frame.y[:, 50:].max() < 100


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(16, 11), Fraction(8, 9)])
def test_non_square_pixels_are_made_square(aspect: Fraction, tmp_path: Path) -> None:
    def picture(_: float) -> np.ndarray:
        y, x = np.mgrid[:120, :160]
        inside = ((x - 79.5) * float(aspect)) ** 2 + (y - 59.5) ** 2 < 40**2  # a circle where pixels are square
        return np.repeat(np.where(inside, 220, 40).astype(np.uint8)[:, :, None], 3, axis=2)

    path = write_media(tmp_path / "clip.mp4", steady(25, 0.4), picture, audio=clicks(0.4, [0.2]), pixel_aspect=aspect)
    facts = probed(path)
    frame = first_pass(path, facts)[0][0].frame
    assert (frame.width, frame.height) == (facts.width, facts.height) == (round(160 * aspect), 120)
    disc = frame.y > 130
    assert disc.any(axis=0).sum() == pytest.approx(disc.any(axis=1).sum(), abs=2)


# ---- a face that speaks


def track(path: Path, backends: Backends) -> TrackedClip:
    spec = ClipSpec("folder", "clip", "someone", path.name)
    found = track_clip(str(path), spec, BuildConfig(), backends, Timings(), FrameCache(0))
    assert isinstance(found, TrackedClip), found
    return found


def opening(clip: TrackedClip) -> np.ndarray:
    """Height of the inner mouth over the distance of the eyes, per clip frame."""
    points = clip.shots[0].track.landmarks
    assert clip.shots[0].track.start == 0
    return np.linalg.norm(points[:, 66] - points[:, 62], axis=1) / interocular(points)


def lag(signal: np.ndarray, reference: np.ndarray, step: float = 0.1) -> float:
    """Frames by which ``signal`` is behind ``reference``, by correlation, to a tenth of a frame."""
    n = min(len(signal), len(reference))
    at = np.arange(5, n - 5)
    shifts = np.arange(-4, 4 + step, step)
    scores = [np.corrcoef(np.interp(at + shift, np.arange(n), signal[:n]), reference[at])[0, 1] for shift in shifts]
    assert max(scores) > 0.85
    return float(shifts[int(np.argmax(scores))])


@pytest.fixture(scope="module")
def backends() -> Backends:
    return Backends(DlibLandmarks())


@pytest.fixture(scope="module")
def speaker(sample_lrs2_clips: list[Path], backends: Backends) -> tuple[np.ndarray, np.ndarray, TrackedClip]:
    """(RGB frames, 16 kHz samples, tracked clip) of one rendered clip at 25 fps."""
    path = sample_lrs2_clips[0]
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return frames, sound(path), track(path, backends)


@pytest.mark.parametrize("case", ["23.976", "29.97", "50", "variable, late sound", "60, late picture"])
def test_mouth_and_mel_of_a_transcoded_clip_fit_the_original_within_a_frame(
    case: str, speaker: tuple[np.ndarray, np.ndarray, TrackedClip], backends: Backends, tmp_path: Path
) -> None:
    frames, pcm, original = speaker
    seconds = len(frames) / FPS
    rate = {"23.976": Fraction(24_000, 1001), "29.97": Fraction(30_000, 1001)}.get(case)
    rate = rate or Fraction(case.split(",", maxsplit=1)[0] if case[0].isdigit() else 30)
    times = [time for time in (variable() if "variable" in case else steady(rate, seconds)) if time < seconds - 0.02]
    audio_start = 0.2 if "late sound" in case else 0.0
    video_start = 0.2 if "late picture" in case else 0.0

    def picture(time: float) -> np.ndarray:
        return frames[min(len(frames) - 1, round(time * FPS))]

    path = write_media(
        tmp_path / "clip.mp4",
        times,
        picture,
        rate=rate,
        audio=pcm[round(audio_start * SAMPLE_RATE) :],
        audio_start=audio_start,
        video_start=video_start,
        options={"crf": "14"},
    )
    again = track(path, backends)
    assert abs(lag(opening(again), opening(original))) <= 1.0
    # the mel of the original, moved as the picture was: column by column the same sound
    moved = round(video_start * 80)
    n = min(len(again.mel), len(original.mel) - moved)
    first = round(audio_start * 80) + 4
    loudness, expected = again.mel[first:n].mean(axis=1), original.mel[first + moved : n + moved].mean(axis=1)
    assert abs(lag(loudness, expected, 0.25)) / 3.2 <= 0.4
