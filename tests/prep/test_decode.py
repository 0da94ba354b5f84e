"""Decoding: stamps that are missing, jump or repeat, damage in the middle, colours, and cutting to common length."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from prep.media import open_media
from prep.records import FPS, SAMPLE_RATE, Reason, Rejection
from prep.stages.decode import (
    Audio,
    DecodeLog,
    Trim,
    decode_audio,
    frames_at,
    on_grid,
    source_frames,
    trim_to_shorter,
    video_frames,
)
from prep.stages.frames import Frame, from_av, padded, resample
from prep.stages.probe import Probe, probe
from tests.prep.synthetic_media import (
    bar_picture,
    bar_time,
    click_times,
    clicks,
    first_pass,
    probed,
    turn_by_metadata,
    write_media,
)

TICKS = 1000
FACTS = Probe(64, 64, 0, 1.0, 25.0, 0.0, 4.0, 0, 1)


class FakeContainer:
    """A container of packets, each a list of stamps (milliseconds or ``None``) or an error."""

    def __init__(self, packets: list[list[int | None] | Exception]) -> None:
        self._packets, self._position, self.start_time = packets, 0, 0
        context = types.SimpleNamespace(thread_count=0)
        stream = types.SimpleNamespace(
            time_base=Fraction(1, TICKS), start_time=0, thread_type="AUTO", codec_context=context
        )
        self.streams = [stream]

    def seek(self, offset: int, **_: Any) -> None:
        self._position = min(len(self._packets), max(0, offset // 40)) if offset else 0

    def demux(self, _: Any) -> Iterator[Any]:
        while self._position < len(self._packets):
            content = self._packets[self._position]
            self._position += 1
            if isinstance(content, OSError):
                raise content
            yield types.SimpleNamespace(decode=lambda content=content: self._decode(content))

    def _decode(self, content: list[int | None] | Exception) -> list[Any]:
        if isinstance(content, Exception):
            raise content
        number = self._position - 1
        return [
            types.SimpleNamespace(
                pts=pts, time=None if pts is None else pts / TICKS, key_frame=number % 10 == 0, number=number
            )
            for pts in content
        ]


def broken_packet() -> Exception:
    return av.error.InvalidDataError(1, "broken")


def numbers(container: FakeContainer, log: DecodeLog | None = None, **options: Any) -> list[tuple[float, int]]:
    """(time, number of the packet) of the frames that are read."""
    frames = source_frames(container, FACTS, log or DecodeLog(), **options)
    return [(round(frame.time, 6), frame.picture.number) for frame in frames]


def test_frames_without_stamps_follow_one_another_at_the_source_rate() -> None:
    assert numbers(FakeContainer([[None]] * 5)) == [(i / 25, i) for i in range(5)]


def test_a_frame_without_a_stamp_follows_the_one_before() -> None:
    container = FakeContainer([[1000], [None], [None], [1120]])
    assert numbers(container) == [(1.0, 0), (1.04, 1), (1.08, 2), (1.12, 3)]


def test_frames_without_stamps_are_found_again_in_the_second_pass() -> None:
    packets: list[list[int | None] | Exception] = [[None]] * 80
    stamps = [frame.pts for frame in source_frames(FakeContainer(packets), FACTS, DecodeLog())]
    again = numbers(FakeContainer(packets), start=stamps[60] / TICKS)
    assert dict(again)[2.4] == 60


def test_reading_from_the_middle_begins_at_a_keyframe_before_it() -> None:
    container = FakeContainer([[40 * i] for i in range(100)])
    assert numbers(container, start=3.4)[0] == (2.4, 60)


def test_a_file_that_cannot_be_entered_at_a_keyframe_is_read_from_its_beginning() -> None:
    container = FakeContainer([[40 * i] for i in range(100)])
    log = DecodeLog()
    assert numbers(container, log, start=3.2)[0] == (0.0, 0)  # 2.2 s is no keyframe here
    assert log.errors == 0


def test_frames_that_go_back_in_time_are_dropped() -> None:
    assert numbers(FakeContainer([[0], [40], [20], [40], [80]])) == [(0.0, 0), (0.04, 1), (0.08, 4)]


def test_a_jump_of_the_stamps_ends_the_clip_with_a_reason() -> None:
    log = DecodeLog()
    assert len(numbers(FakeContainer([[0], [40], [3_600_000], [3_600_040]]), log)) == 2
    assert "jump by 3600.0 s at 0.04 s" in log.stopped


def test_packets_that_cannot_be_decoded_are_counted_and_the_frame_before_is_held() -> None:
    packets: list[list[int | None] | Exception] = [[40 * i] for i in range(20)]
    packets[7:10] = [broken_packet()] * 3
    log = DecodeLog()
    frames = source_frames(FakeContainer(packets), FACTS, log)
    shown = [timed.picture.number for _, timed in on_grid(frames, FACTS)]
    assert log.errors == 3
    assert shown == [*range(7), 6, 6, 6, *range(10, 20)]


def test_a_file_that_cannot_be_read_on_gives_what_came_before() -> None:
    log = DecodeLog()
    packets: list[list[int | None] | Exception] = [[0], [40], OSError("input/output error"), [80]]
    assert len(numbers(FakeContainer(packets), log)) == 2
    assert log.stopped.startswith("reading broke off")


def test_damage_in_the_middle_moves_neither_picture_nor_sound(tmp_path: Path) -> None:
    whole = write_media(
        tmp_path / "whole.ts", [i / 25 for i in range(80)], gop=10, b_frames=0, audio=clicks(3.2, [0.5, 1.0, 2.5])
    )
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2 // 188 * 188
    data[middle : middle + 188 * 12] = bytes(188 * 12)
    damaged = tmp_path / "damaged.ts"
    damaged.write_bytes(bytes(data))
    facts = probed(damaged)
    frames, _ = first_pass(damaged, facts)
    errors = np.array([bar_time(item.frame) - item.index / FPS for item in frames])
    assert len(frames) >= 78
    assert np.abs(errors[:20]).max() <= 0.006
    assert np.abs(errors[-20:]).max() <= 0.006
    with open_media(str(damaged)) as container:
        audio = decode_audio(container, facts, facts.start)
    found = click_times(audio.pcm)
    for time in (0.5, 2.5):
        assert min(abs(time - other) for other in found) <= 0.002


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_gives_the_same_frames_in_both_passes(seed: int, tmp_path: Path) -> None:
    """Seed 1 makes a third stream appear half-way, at which PyAV stumbles."""
    path = write_media(tmp_path / "clip.ts", [i / 25 for i in range(100)], gop=10, audio=clicks(4, [1.0]))
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(seed).integers(len(data) // 4, len(data), 12):
        data[place] ^= 0x55
    path.write_bytes(bytes(data))
    facts = probed(path)
    frames, _ = first_pass(path, facts)
    pts = np.array([item.pts for item in frames])
    assert len(pts) >= 98
    for start in (0, 30, 55, 70):
        with open_media(str(path)) as container:
            again = list(frames_at(container, facts, pts[start:], DecodeLog()))
        assert len(again) == len(pts) - start
        assert all(np.array_equal(frame.y, frames[start + position].frame.y) for position, frame in again)


class Sound:
    """A container of sound alone: frames of 0.1 s with a tone of 400 Hz that goes on through them.

    Args:
        frames: (time, rate, layout, sample format) of each; without a time it carries no stamp.
    """

    def __init__(self, frames: list[tuple[float | None, int, str, str]]) -> None:
        self._frames, self.start_time = frames, 0
        self.streams = [types.SimpleNamespace(time_base=Fraction(1, TICKS), start_time=0)]

    def demux(self, _: Any) -> Iterator[Any]:
        for number, (time, rate, layout, kind) in enumerate(self._frames):
            tone = np.sin(2 * np.pi * 400 * (0.1 * number + np.arange(rate // 10) / rate))
            resampler = av.AudioResampler(format=kind, layout=layout, rate=rate)
            plain = av.AudioFrame.from_ndarray((8000 * tone).astype(np.int16)[None], format="s16", layout="mono")
            plain.sample_rate = rate
            (frame,) = resampler.resample(plain)
            frame.time_base, frame.pts = Fraction(1, TICKS), None if time is None else round(time * TICKS)
            yield types.SimpleNamespace(decode=lambda frame=frame: [frame])


def heard(frames: list[tuple[float | None, int, str, str]]) -> Audio:
    return decode_audio(Sound(frames), dataclasses.replace(FACTS, audio_index=0), 0.0)


def loud_tenths(audio: Audio) -> list[int]:
    """Tenths of a second with sound in them."""
    whole = audio.pcm[: len(audio.pcm) // 1600 * 1600].reshape(-1, 1600).astype(float)
    return [int(number) for number in np.flatnonzero(whole.std(axis=1) > 1000)]


PLAIN = (16_000, "mono", "s16")


@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize(
    "other",
    [(16_000, "stereo", "s16"), (48_000, "mono", "s16"), (16_000, "mono", "fltp"), (44_100, "5.1", "fltp")],
    ids=["layout", "rate", "format", "all"],
)
def test_sound_goes_on_where_its_rate_layout_or_format_changes(other: tuple[int, str, str], stamped: bool) -> None:
    kinds = [PLAIN] * 10 + [other] * 10 + [PLAIN] * 10
    audio = heard([(0.1 * n if stamped else None, *kind) for n, kind in enumerate(kinds)])
    assert (audio.errors, audio.stopped) == (0, "")
    assert abs(len(audio.pcm) - 3 * SAMPLE_RATE) <= 32
    assert loud_tenths(audio) == list(range(len(audio.pcm) // 1600))
    for second in np.split(audio.pcm[: 3 * SAMPLE_RATE - 48], [SAMPLE_RATE, 2 * SAMPLE_RATE]):
        assert np.count_nonzero(np.diff(second > 0)) == pytest.approx(800, abs=8)  # 400 Hz: not slower, not faster


def test_a_gap_in_sound_is_silence_and_a_jump_of_its_stamps_is_its_end() -> None:
    short = heard([(at, *PLAIN) for at in (0.0, 0.1, 5.0, 5.1)])
    assert loud_tenths(short) == [0, 1, 50, 51] and short.stopped == ""
    long = heard([(at, *PLAIN) for at in (0.0, 0.1, 5.4, 5.5)])
    assert loud_tenths(long) == [0, 1] and len(long.pcm) == 3200
    assert long.stopped == "the sound's timestamps jump by 5.2 s at 0.20 s"
    late = heard([(at, *PLAIN) for at in (7.0, 7.1)])  # what begins late has no jump
    assert loud_tenths(late) == [70, 71] and (late.head_padded, late.stopped) == (7.0, "")


def test_a_file_of_sound_alone_has_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.m4a"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(clicks(1.0, [0.5])[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        resampler = av.AudioResampler(format=audio.codec_context.format, rate=16_000, frame_size=1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))
    with open_media(str(path)) as opened:
        found = probe(opened)
    assert isinstance(found, Rejection)
    assert found.reason is Reason.NO_VIDEO


@pytest.mark.parametrize(
    ("time_range", "reason"),
    [
        ((5.0, 6.0), Reason.INTERVAL_OUTSIDE_VIDEO),
        ((0.5, 0.5), Reason.INTERVAL_OUTSIDE_VIDEO),
        ((1.9, 4.0), Reason.TOO_SHORT),
    ],
)
def test_a_time_range_that_holds_nothing_is_a_reason(
    time_range: tuple[float, float], reason: Reason, tmp_path: Path
) -> None:
    path = write_media(tmp_path / "clip.mp4", [i / 25 for i in range(50)], audio=clicks(2.0, [0.5]))
    with open_media(str(path)) as container:
        found = probe(container, time_range=time_range, min_frames=5)
    assert isinstance(found, Rejection)
    assert found.reason is reason


# ---- the shorter of both


def test_both_streams_are_cut_to_the_shorter() -> None:
    assert trim_to_shorter(100, 640 * 90 + 639, max_mismatch=1.0, min_frames=10) == Trim(
        90, pytest.approx(0.4), pytest.approx(639 / 16_000)
    )
    assert trim_to_shorter(90, 640 * 100, max_mismatch=1.0, min_frames=10) == Trim(90, 0.0, pytest.approx(0.4))


@pytest.mark.parametrize(
    ("frames", "samples", "reason"),
    [
        (100, 0, Reason.NO_AUDIO),
        (100, 640 * 74, Reason.AV_DURATION_MISMATCH),
        (74, 640 * 100, Reason.AV_DURATION_MISMATCH),
        (12, 640 * 9, Reason.TOO_SHORT),
    ],
)
def test_streams_that_do_not_fit_are_a_reason(frames: int, samples: int, reason: Reason) -> None:
    found = trim_to_shorter(frames, samples, max_mismatch=1.0, min_frames=10)
    assert isinstance(found, Rejection)
    assert found.reason is reason


# ---- colours and pixels


def portrait(width: int = 256, height: int = 192) -> np.ndarray:
    import skimage.data

    return cv2.resize(skimage.data.astronaut(), (width, height), interpolation=cv2.INTER_AREA)


FORMATS = ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "nv12", "yuv420p10le", "yuv444p10le", "yuv422p12le", "gray"]


@pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize(("space", "number"), [("ITU601", 6), ("ITU709", 1)])
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_colours_are_those_of_pyav(pixel_format: str, space: str, number: int, full_range: bool) -> None:
    colour_range = "JPEG" if full_range else "MPEG"
    original = portrait() if pixel_format != "gray" else np.repeat(portrait()[:, :, 1:2], 3, axis=2)
    decoded = av.VideoFrame.from_ndarray(original, format="rgb24").reformat(
        format=pixel_format, dst_colorspace=space, dst_color_range=colour_range
    )
    decoded.colorspace, decoded.color_range = number, 2 if full_range else 1
    expected = decoded.reformat(
        format="rgb24", src_colorspace=space, src_color_range=colour_range, dst_color_range="JPEG"
    ).to_ndarray()
    ours = from_av(decoded, 0, 1.0).rgb().astype(int)
    assert np.abs(ours - expected).mean() <= 3
    # no cast: a wrong matrix or range is a shift (FFmpeg's own conversion is 1 to 2 levels too dark)
    assert np.abs((ours - original).mean(axis=(0, 1))).max() <= 1


@pytest.mark.parametrize(
    ("codec", "pixel_format"), [("libx264", "yuv420p"), ("libx264", "yuv420p10le"), ("libx264rgb", "rgb24")]
)
def test_colours_of_a_decoded_file_are_the_picture_that_went_in(codec: str, pixel_format: str, tmp_path: Path) -> None:
    picture = portrait()
    path = write_media(
        tmp_path / "clip.mkv",
        [0.0, 0.04, 0.08],
        lambda _: picture,
        codec=codec,
        pix_fmt=pixel_format,
        options={"crf": "6"},
        audio=clicks(0.12, [0.06]),
        audio_codec="pcm_s16le",
    )
    frame = first_pass(path, probed(path))[0][1].frame
    difference = frame.rgb().astype(int) - picture
    assert np.abs(difference).mean() <= 3
    assert np.abs(difference.mean(axis=(0, 1))).max() <= 1.5


def smooth_frame(width: int = 320, height: int = 240) -> Frame:
    y, x = np.mgrid[:height, :width]
    luma = 120 + 60 * np.sin(x / 23) * np.cos(y / 31)
    half = np.mgrid[: height // 2, : width // 2]
    blue, red = 128 + 20 * np.sin(half[1] / 19), 128 + 20 * np.cos(half[0] / 17)
    return Frame(*(np.round(plane).astype(np.uint8) for plane in (luma, blue, red)), True, "bt601")


@pytest.mark.parametrize(("side", "size"), [(120.0, 256), (180.0, 96)], ids=["enlarged", "shrunk"])
def test_a_crop_moves_with_the_face_by_parts_of_a_pixel(side: float, size: int) -> None:
    frame = smooth_frame()
    steps = [frame.crop_rgb(60 + 0.1 * step, 40.0, side, size).astype(np.float64) for step in range(21)]
    moves = np.array([np.abs(b - a).mean() for a, b in zip(steps[:-1], steps[1:], strict=True)])
    whole = np.abs(steps[-1] - steps[0]).mean()
    assert moves.max() <= 3 * moves.mean()  # a crop that steps from pixel to pixel moves all at once
    assert moves.sum() <= 1.6 * whole + 2


def test_a_crop_stands_where_its_square_is() -> None:
    """Centroid of a soft spot in the crop against its known place in the frame."""
    y, x = np.mgrid[:240, :320]
    spot = 20 + 200 * np.exp(-((x - 150.3) ** 2 + (y - 110.7) ** 2) / (2 * 6.0**2))
    grey = np.full((120, 160), 128, np.uint8)
    frame = Frame(np.round(spot).astype(np.uint8), grey, grey, True, "bt601")
    for left, top, side, size in ((100.4, 60.9, 100.0, 256), (60.25, 30.5, 170.0, 128), (80.7, 41.2, 128.0, 128)):
        crop = frame.crop_rgb(left, top, side, size)[:, :, 1].astype(np.float64) - 20
        crop[crop < 10] = 0
        rows, columns = np.mgrid[:size, :size]
        centre = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
        expected = (np.array([150.3 + 0.5 - left, 110.7 + 0.5 - top]) * size / side) - 0.5
        assert np.abs(centre - expected).max() <= 0.05


@pytest.mark.parametrize(
    "rectangle", [(-5, -7, 30, 20), (310, 230, 30, 30), (-40, 10, 20, 20), (400, 300, 8, 8), (-9, -9, 340, 260)]
)
def test_edges_are_repeated_outside_the_frame(rectangle: tuple[int, int, int, int]) -> None:
    plane = smooth_frame().y
    x, y, width, height = rectangle
    expected = np.array(
        [[plane[min(max(j, 0), 239), min(max(i, 0), 319)] for i in range(x, x + width)] for j in range(y, y + height)]
    )
    assert np.array_equal(padded(plane, x, y, width, height), expected)


@pytest.mark.parametrize("side", [261.3, 300.7, 361.2, 420.4])
def test_shrinking_is_near_to_averaging_fractional_areas(side: float) -> None:
    """Detailed content, factors 1.02 to 1.64; a filter that takes whole pixels is 1.8 levels or more away."""
    import skimage.data

    plane = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2GRAY)

    def coverage(origin: float) -> np.ndarray:
        edges = origin + np.arange(257) * side / 256
        pixels = np.arange(512)
        shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return np.maximum(0, shared) * 256 / side

    expected = coverage(15.3) @ plane @ coverage(20.6).T
    assert np.abs(resample(plane, 20.6, 15.3, side, side, 256) - expected).mean() < 1.0


def test_shrinking_averages_and_does_not_alias() -> None:
    checks = np.indices((256, 256)).sum(axis=0) % 2 * 255
    small = resample(checks.astype(np.uint8), 0, 0, 256, 256, 64)
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 1
    assert np.abs(small.astype(int) - 127).max() <= 3  # where the board's edge is repeated


@pytest.mark.parametrize("clockwise", [90, 270])
def test_turning_and_stretching_together_widen_the_stored_width(clockwise: int, tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "clip.mp4",
        [i / 25 for i in range(10)],
        lambda _: bar_picture(0.5),
        audio=clicks(0.4, [0.2]),
        pixel_aspect=Fraction(3, 2),
    )
    turn_by_metadata(path, clockwise)
    facts = probed(path)
    frame = first_pass(path, facts)[0][0].frame
    assert (frame.width, frame.height) == (facts.width, facts.height) == (64, 480)


def test_decoding_a_time_range_reads_no_frame_after_its_end(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", [i / 25 for i in range(90)], audio=clicks(3.6, [0.5]))
    facts = probed(path, (1.0, 2.0))
    with open_media(str(path)) as container:
        items = list(video_frames(container, facts, DecodeLog(), whole=False))
    assert len(items) == 25
    assert bar_time(items[-1].frame) == pytest.approx(1.96, abs=0.006)
