"""``g4g-model dub`` as a user meets it: the mouth is redrawn, all else stays, sound and picture stay together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from building import Footage, footage_of, looped, write_clip
from click.testing import CliRunner, Result
from synthetic_media import click_times, clicks, first_pass, probed, turn_by_metadata, write_media

from g4g_core.protocols import ERASED
from g4g_model.cli import main
from g4g_model.dub import placed
from g4g_model.faces import ShotCrops, track_faces
from g4g_model.film import Film, Source
from g4g_model.speech import SoundTrack, Speech, read_speech
from prep.media import open_media
from prep.records import SAMPLE_RATE
from prep.stages.decode import DecodeLog, decode_audio, source_frames
from prep.stages.frames import from_av
from prep.stages.mel import mel_spectrogram
from prep.stages.paste import feather
from prep.stages.probe import Probe, probe

GREEN = (20, 230, 40)

MODELS = """
import numpy as np

class Painter:
    native_size, mel_offset, trained_against, losses_off, preset = None, 0, (), (), None
    def generate(self, prompt):
        out = prompt.source.copy()
        out[prompt.erase > 0] = (20, 230, 40)
        return out

class Listener(Painter):
    # grey as loud as the middle of its window
    def generate(self, prompt):
        from prep.stages.mel import mel_window
        out = prompt.source.copy()
        for t, (picture, erase) in enumerate(zip(out, prompt.erase)):
            window = mel_window(prompt.mel, prompt.frame_start + t, first_column=prompt.mel_start)
            picture[erase > 0] = int(128 + 30 * window[:4].mean())
        return out

class Mover(Painter):
    # grey on the CPU, white elsewhere
    shade = 128
    def to(self, device):
        assert device == "cuda"
        self.shade = 255
    def generate(self, prompt):
        return np.where(prompt.erase[..., None] > 0, np.uint8(self.shade), prompt.source)

class Broken(Painter):
    def generate(self, prompt):
        return prompt.source[:, :8]

class Kind:
    summary, needs_weights = "of a test", ()
    def __init__(self, generator, needs_checkpoint=False):
        self.generator, self.needs_checkpoint = generator, needs_checkpoint
    def fingerprint(self, checkpoint):
        return self.generator.__name__
    def open(self, checkpoint):
        return self.generator()

PAINTER, LISTENER, BROKEN, NEEDY = Kind(Painter), Kind(Listener), Kind(Broken), Kind(Painter, True)
MOVER = Kind(Mover)
"""


@pytest.fixture(autouse=True)
def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators of this file under their entry points, and a working folder of the test's own."""
    about = tmp_path / "site" / "dub_models-1.dist-info"
    about.mkdir(parents=True)
    (about.parent / "dub_models.py").write_text(MODELS)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: dub-models\nVersion: 1\n")
    names = ("painter", "listener", "mover", "broken", "needy")
    entries = [f"{name} = dub_models:{name.upper()}" for name in names]
    (about / "entry_points.txt").write_text("\n".join(["[g4g.models]", *entries, ""]))
    monkeypatch.syspath_prepend(str(about.parent))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def person(sample_lrs2_clips: list[Path]) -> Footage:
    """A person of 160 px, a second and a half."""
    pictures, sound = footage_of(sample_lrs2_clips[0])
    return pictures[:40], sound[: 40 * 640]


@pytest.fixture(scope="module")
def other(sample_lrs2_clips: list[Path]) -> Footage:
    return footage_of(sample_lrs2_clips[1])


def g4g_model(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def dub(video: Path, audio: Path, *arguments: Any, out: str = "out.mp4", model: str = "painter") -> dict[str, Any]:
    options = ("--model", model, "--out", out, "--json", "--quiet", *arguments)
    result = g4g_model("dub", "--video", video, "--audio", audio, *options)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def wav(path: Path, pcm: np.ndarray, rate: int = SAMPLE_RATE) -> Path:
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = rate
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def filmed(path: Path, footage: Footage, times: Sequence[float], **options: Any) -> Path:
    """The footage's picture nearest to each time, shown then."""
    pictures = footage[0]
    picture = lambda at: pictures[min(round(at * 25), len(pictures) - 1)]  # noqa: E731
    return write_media(path, times, picture, options={"preset": "superfast", "crf": "12"}, **options)


def frames(path: Path | str) -> list[Any]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def planes(frame: Any) -> list[np.ndarray]:
    """Y, U and V of a 4:2:0 frame."""
    both, height = frame.to_ndarray(), frame.height
    size = (height // 2, frame.width // 2)
    chroma = both[height:].reshape(2, *size)
    return [both[:height], chroma[0], chroma[1]]


def greenish(frame: Any) -> np.ndarray:
    rgb = frame.to_ndarray(format="rgb24").astype(int)
    return np.asarray(np.abs(rgb - GREEN).max(axis=-1) < 40)


UNEVEN = [0.0, 0.03, 0.1, 0.12, 0.2, 0.29, 0.3, 0.4, 0.46, 0.5, 0.55, 0.61, 0.7, 0.9, 0.93, 1.0, 1.07, 1.2, 1.3, 1.37]


@pytest.mark.parametrize(
    ("rate", "times", "start"),
    [
        (25, [n / 25 for n in range(36)], 0.0),
        (Fraction(30000, 1001), [n * 1001 / 30000 for n in range(43)], 0.0),
        (60, [n / 60 for n in range(84)], 1.5),
        (24, UNEVEN, 0.0),
    ],
    ids=["25", "29.97", "60 from 1.5 s on", "uneven"],
)
def test_size_count_and_time_stamps_are_those_of_the_input(
    tmp_path: Path, person: Footage, rate: Any, times: list[float], start: float
) -> None:
    video = filmed(tmp_path / "in.mp4", person, times, rate=rate, video_start=start)
    before = video.read_bytes()
    done = dub(video, wav(tmp_path / "speech.wav", person[1]))

    given, made = frames(video), frames("out.mp4")
    assert (done["frames"], done["redrawn"], done["passed_through"]) == (len(times), len(times), {})
    assert {(frame.width, frame.height) for frame in made} == {(160, 160)}
    assert [frame.time for frame in made] == pytest.approx([frame.time - given[0].time for frame in given], abs=2e-4)
    assert all(greenish(frame).sum() > 600 for frame in made)
    assert video.read_bytes() == before and sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "in.mp4", "out.mp4", "speech.wav"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "out"),
    [("wav 16k", "out.mp4"), ("wav 44.1k", "out.mkv"), ("m4a", "out.mov"), ("late in a video", "out.mp4")],
)
def test_the_new_sound_is_in_step_with_the_picture(tmp_path: Path, person: Footage, kind: str, out: str) -> None:
    at, rate = [0.3, 0.8, 1.3], 44_100 if kind != "wav 16k" else SAMPLE_RATE
    pcm, late = clicks(1.6, at, rate), 0.0
    if kind.startswith("wav"):
        speech = wav(tmp_path / "speech.wav", pcm, rate)
    else:
        speech, late = tmp_path / "speech.mp4", 0.2 if kind.startswith("late") else 0.0
        filmed(speech, person, [n / 25 for n in range(40)], audio=pcm, audio_rate=rate, audio_start=late)
    video = filmed(tmp_path / "in.mp4", person, [n / 25 for n in range(36)], video_start=0.7)
    dub(video, speech, out=out)

    facts = probed(Path(out))
    with open_media(out) as container:
        sound = decode_audio(container, facts, facts.start)
    heard = click_times(sound.pcm)
    expected = [time + late for time in at if time + late < 36 / 25]
    assert heard == pytest.approx(expected, abs=0.005)
    assert len(sound.pcm) / SAMPLE_RATE == pytest.approx(36 / 25, abs=0.04)


def adts(path: Path, parts: Sequence[tuple[np.ndarray, str]]) -> Path:
    """A stream of AAC of several parts, each with its layout, as broadcasts change it."""
    whole = b""
    for number, (pcm, layout) in enumerate(parts):
        part = path.with_name(f"{number}.aac")
        with av.open(str(part), "w", format="adts") as container:
            stream = container.add_stream("aac", rate=SAMPLE_RATE, layout=layout)
            frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            resampler = av.AudioResampler(format="fltp", layout=layout, rate=SAMPLE_RATE, frame_size=1024)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
        whole += part.read_bytes()
        part.unlink()
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("layouts", [("mono", "stereo"), ("stereo", "mono")])
def test_speech_whose_layout_changes_is_heard_to_its_end(
    tmp_path: Path, person: Footage, layouts: tuple[str, str]
) -> None:
    speech = adts(tmp_path / "speech.aac", [(clicks(0.64, [0.3]), layout) for layout in layouts])
    heard = click_times(read_speech(str(speech)).pcm)
    assert len(heard) == 2 and heard[1] - heard[0] == pytest.approx(0.64, abs=0.13)  # AAC is padded by blocks of 64 ms
    done = dub(filmed(tmp_path / "in.mp4", person, [n / 25 for n in range(36)]), speech)
    assert done["speech_errors"] == 0
    assert click_times(read_speech("out.mp4").pcm) == pytest.approx(heard, abs=0.005)


def holed(path: Path, spans: Sequence[tuple[float, float]]) -> Path:
    """Noise of 16 kHz from time to time, and nothing in between."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for start, stop in spans:
            for first in range(round(start * SAMPLE_RATE), round(stop * SAMPLE_RATE), 1600):
                pcm = rng.normal(0, 6000, (1, 1600)).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, first, Fraction(1, SAMPLE_RATE)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("gap", [3.0, 7.0])
def test_the_model_and_the_film_hear_the_same_on_both_sides_of_a_hole(tmp_path: Path, gap: float) -> None:
    speech = str(holed(tmp_path / "speech.mkv", [(0, 1), (1 + gap, 2 + gap)]))
    audio = read_speech(speech)
    with SoundTrack(speech) as sound:
        played = np.abs(sound.read(12 * sound.rate)[0]).reshape(120, -1).max(axis=1) > 0.1
    model = np.abs(np.pad(audio.pcm, (0, 12 * SAMPLE_RATE - len(audio.pcm)))).reshape(120, -1).max(axis=1) > 3000
    assert (played == model).all() and model.sum() == (20 if gap < 5 else 10)
    assert ("jump by 7.0 s at 1.00 s" in audio.stopped) == (gap > 5)


def test_speech_that_is_read_no_further_is_said(tmp_path: Path, person: Footage) -> None:
    speech = holed(tmp_path / "speech.mkv", [(0, 0.5), (7, 7.5)])
    video = filmed(tmp_path / "in.mp4", person, [n / 25 for n in range(36)])
    told = g4g_model("dub", "--video", video, "--audio", speech, "--model", "painter", "--out", "out.mp4", "--quiet")
    line = "the speech was read no further: the sound's timestamps jump by 6.5 s at 0.50 s"
    assert told.exit_code == 0 and line in told.output and "the video was" not in told.output
    done = dub(video, speech, out="again.mp4")
    assert done["speech_seconds"] == 0.5 and done["speech_stopped"] in line and done["stopped"] == ""


def test_the_mouth_is_drawn_to_what_is_heard_at_that_time(tmp_path: Path, person: Footage) -> None:
    speech = np.zeros(40 * 640, np.int16)
    noise = np.random.default_rng(0).normal(0, 6000, 8 * 640)
    speech[16 * 640 : 24 * 640] = noise  # loud from 0.64 s to 0.96 s
    times = [n / 50 for n in range(76)]
    video = filmed(tmp_path / "in.mp4", person, times, rate=50, video_start=0.4)
    dub(video, wav(tmp_path / "speech.wav", speech), model="listener")

    region = painted_region(video)
    light = np.array([np.median(frame.to_ndarray(format="gray")[region]) for frame in frames("out.mp4")])
    loud = np.flatnonzero(light > (light.min() + light.max()) / 2)
    assert loud[0] / 50 == pytest.approx(0.64, abs=0.04) and loud[-1] / 50 == pytest.approx(0.94, abs=0.04)
    assert (np.diff(loud) == 1).all()


def painted_region(video: Path, index: int = 20) -> np.ndarray:
    """bool [H, W]: well inside what is erased of a clip frame."""
    alpha = alphas(video)[index]
    return cv2.erode((alpha > 0.999).astype(np.uint8), np.ones((9, 9))) > 0


def alphas(video: Path) -> list[np.ndarray]:
    """float [H, W] of every 25 fps clip frame with a face: what shows the crop."""
    tracked = track_faces(str(video), quiet=True)
    (shot,) = tracked.shots
    crops = ShotCrops(str(video), tracked, shot, 256, video.parent)
    size = (tracked.probe.width, tracked.probe.height)
    found = [
        cv2.warpAffine(
            feather(crops.erase(index)), crops.affine_at(float(tracked.times[index])), size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        for index in range(shot.track.start, shot.track.stop)
    ]  # fmt: skip
    crops.close()
    return found


@pytest.mark.parametrize("how", ["--lossless", "--crf=18"])
def test_what_is_not_redrawn_stays_as_it_was(tmp_path: Path, person: Footage, how: str) -> None:
    video = filmed(tmp_path / "in.mp4", person, [n / 25 for n in range(30)])
    dub(video, wav(tmp_path / "speech.wav", person[1]), how)

    changed = 0
    for before, after, alpha in zip(frames(video), frames("out.mp4"), alphas(video), strict=True):
        reach = cv2.dilate((alpha > 0).astype(np.uint8), np.ones((5, 5)))
        for a, b in zip(planes(before), planes(after), strict=True):
            outside = cv2.resize(reach, a.shape[::-1], interpolation=cv2.INTER_AREA) == 0
            difference = np.abs(a.astype(int) - b)
            if how == "--lossless":
                assert difference[outside].max() == 0
            else:
                assert difference[outside].mean() < 3 and np.percentile(difference[outside], 99.5) < 16
            changed += int((difference[~outside] > 20).sum())
        assert greenish(after)[cv2.erode((alpha > 0.999).astype(np.uint8), np.ones((7, 7))) > 0].mean() > 0.98
    assert changed > 10_000


def test_frames_without_a_face_and_shots_too_short_pass_through_and_are_counted(
    tmp_path: Path, person: Footage, other: Footage
) -> None:
    ys, xs = np.mgrid[0:160, 0:160]
    hill = np.stack([xs, ys, 255 - xs], axis=-1).astype(np.uint8)
    pictures = np.concatenate([person[0][:30], np.repeat(hill[None], 15, 0), other[0][:14]])
    video = filmed(tmp_path / "in.mp4", (pictures, person[1]), [n / 25 for n in range(len(pictures))])
    done = dub(video, wav(tmp_path / "speech.wav", person[1]), "--lossless")

    assert done["redrawn"] == 30 and done["passed_through"] == {"no_face": 15, "no_reference": 14}
    assert done["frames"] == 59 and done["speech_cut"] == 0
    for number, (before, after) in enumerate(zip(frames(video), frames("out.mp4"), strict=True)):
        same = all((a == b).all() for a, b in zip(planes(before), planes(after), strict=True))
        assert same == (number >= 30)


@pytest.mark.parametrize(
    ("option", "seconds", "n_frames"),
    [
        ("--audio-longer=cut", 2.6, 36),
        ("--audio-longer=loop", 2.6, 65),
        ("--audio-shorter=silence", 0.9, 36),
        ("--audio-shorter=cut", 0.9, 23),
    ],
)
def test_sound_that_is_longer_or_shorter_than_the_picture_is_treated_as_asked(
    tmp_path: Path, person: Footage, option: str, seconds: float, n_frames: int
) -> None:
    video = filmed(tmp_path / "in.mp4", person, [n / 25 for n in range(36)])
    done = dub(video, wav(tmp_path / "speech.wav", clicks(seconds, [seconds - 0.2])), option)

    made = frames("out.mp4")
    assert (done["frames"], len(made), done["redrawn"]) == (n_frames, n_frames, n_frames)
    assert [frame.time for frame in made] == pytest.approx([n / 25 for n in range(n_frames)])
    assert done["speech_cut"] == pytest.approx(2.6 - 1.44 if option == "--audio-longer=cut" else 0, abs=0.002)
    pcm = read_speech("out.mp4").pcm
    assert len(pcm) / SAMPLE_RATE == pytest.approx(done["seconds"], abs=0.07)
    if option != "--audio-longer=cut":
        assert click_times(pcm) == pytest.approx([seconds - 0.2], abs=0.005)


def test_a_crop_goes_where_the_face_is_when_the_frame_is_shown(tmp_path: Path, person: Footage) -> None:
    def sliding(at: float) -> np.ndarray:
        return cv2.warpAffine(
            person[0][round(at * 25)], np.array([[1, 0, 20 + 90 * at], [0, 1, 0]]), (300, 160),
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip

    times = [n * 1001 / 30000 for n in range(40)]
    video = write_media(tmp_path / "in.mp4", times, sliding, options={"preset": "superfast", "crf": "12"})
    tracked = track_faces(str(video), quiet=True)
    (shot,) = tracked.shots
    crops = ShotCrops(str(video), tracked, shot, 256, tmp_path)
    shown, seen = tracked.times[shot.track.start : shot.track.stop], shot.crop.affine(256)
    for row in range(1, len(shown) - 1):
        if shown[row - 1] < shown[row] < shown[row + 1]:
            assert np.allclose(crops.affine_at(float(shown[row])), seen[row])
    # between two tracked frames the square goes on steadily, 90 px a second
    left = [-(affine[0, 2] + 0.5) / affine[0, 0] for affine in map(crops.affine_at, np.linspace(0.4, 0.9, 61).tolist())]
    assert np.diff(left) == pytest.approx(90 * 0.5 / 60, abs=0.35) and np.ptp(left) > 35
    crops.close()


def test_a_model_is_told_what_the_harness_would_tell_it(tmp_path: Path, person: Footage) -> None:
    from evaluation.prepared import prepare
    from evaluation.prompts import Speech as HarnessSpeech
    from evaluation.prompts import prompts
    from evaluation.shots import ShotReader, shots_of
    from prep.run.runners import SyncRunner, close_guard
    from prep.shards.index import Dataset

    folder = tmp_path / "videos"
    video = write_clip(folder / "clip.mp4", person, 0, 36)
    try:
        root = prepare(str(folder), "people", str(tmp_path / "shards"), SyncRunner(), quiet=True)
    finally:
        close_guard()
    (shot,) = shots_of(Dataset.open(root), "test")
    with ShotReader(root, shot) as reader:
        mel, first = reader.mel()
        theirs = list(prompts(reader, HarnessSpeech(mel, first, reader.frame_start, reader.pcm()), seed=5))
    tracked = track_faces(str(video), quiet=True)
    crops = ShotCrops(str(video), tracked, tracked.shots[0], 256, tmp_path)
    speech = Speech(read_speech(str(video)).pcm, tracked.n_frames)
    ours = [crops.prompt(number, speech, 0, "people-clip", 5) for number in range(2)]
    crops.close()

    assert len(theirs) == len(ours) == 2 and shot.n_frames == tracked.n_frames == 36
    for one, two in zip(theirs, ours, strict=True):
        for field in ("source", "erase", "pose", "references", "reference_landmarks", "pcm"):
            assert np.array_equal(getattr(one, field), getattr(two, field)), field
        assert (one.mel_start, one.frame_start, one.fps, one.seed) == (two.mel_start, two.frame_start, 25, two.seed)
        assert one.mel.shape == two.mel.shape and np.abs(one.mel - two.mel).max() <= 2e-6
        assert (two.source[two.erase > 0] == ERASED).all()


def test_the_mel_of_a_piece_is_that_of_the_whole() -> None:
    pcm = np.random.default_rng(3).normal(0, 3000, 30 * 640 - 137).astype(np.int16)
    speech = Speech(pcm, 32)
    whole = mel_spectrogram(np.concatenate([pcm, np.zeros(32 * 640 - len(pcm), np.int16)]))
    assert speech.n_columns == len(whole)
    for first, last in [(0, 20), (7, 40), (60, len(whole)), (0, len(whole))]:
        assert np.abs(speech.mel(first, last) - whole[first:last]).max() <= 2e-6


@pytest.mark.parametrize(
    ("model", "gpu", "device", "expected"),
    [
        ("mover", True, "auto", "cuda"),
        ("mover", True, "cpu", "cpu"),
        ("mover", False, "auto", "cpu"),
        ("painter", True, "auto", "cpu"),  # it has no other device
    ],
)
def test_a_model_works_on_a_gpu_where_there_is_one(
    tmp_path: Path, person: Footage, monkeypatch: pytest.MonkeyPatch, model: str, gpu: bool, device: str, expected: str
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    video = filmed(tmp_path / "in.mp4", person, [n / 25 for n in range(25)])
    done = dub(video, wav(tmp_path / "speech.wav", person[1]), "--device", device, model=model)
    assert done["device"] == expected
    if model == "mover":
        region = painted_region(video, 10)
        light = np.median(frames("out.mp4")[10].to_ndarray(format="gray")[region])
        assert abs(light - (235 if expected == "cuda" else 126)) < 30


# ---------------------------------------------------------------- with G4G


@pytest.fixture
def g4g(tmp_path: Path) -> Path:
    """A checkpoint of a small network that has learned nothing."""
    torch = pytest.importorskip("torch")
    from g4g_people import SMALL

    from g4g_model.checkpoint import About, write
    from g4g_model.config import G4GConfig
    from g4g_model.g4g import G4G

    torch.manual_seed(0)
    config = G4GConfig(**SMALL)
    write(tmp_path / "weights" / "g4g.safetensors", About("g4g", config), G4G(config).state_dict())
    return tmp_path / "weights"


def test_g4g_redraws_the_mouth_and_nothing_else(tmp_path: Path, person: Footage, g4g: Path) -> None:
    times = [n / 30 for n in range(40)]
    video = filmed(tmp_path / "in.mp4", person, times, rate=30)
    speech = wav(tmp_path / "speech.wav", person[1])
    done = dub(video, speech, "--checkpoint", g4g, "--lossless", out="out.mkv", model="g4g")
    assert (done["frames"], done["redrawn"], done["passed_through"]) == (40, 40, {})

    given, made, region = frames(video), frames("out.mkv"), painted_region(video)
    changed = np.zeros(region.shape, bool)
    for before, after in zip(given, made, strict=True):
        apart = np.abs(planes(before)[0].astype(int) - planes(after)[0])
        assert (apart[region] > 0).mean() > 0.9
        changed |= apart > 0
    assert 0 < changed.mean() < 0.35  # the square of the face alone, wherever it went


def test_g4g_draws_with_one_thread_and_gives_back_the_others(
    tmp_path: Path, person: Footage, g4g: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last digits of a convolution depend on their number."""
    torch = pytest.importorskip("torch")
    from g4g_model import g4g as network

    seen, plain = [], network.G4G.forward

    def watched(self: Any, inputs: Any) -> Any:
        seen.append(torch.get_num_threads())
        return plain(self, inputs)

    monkeypatch.setattr(network.G4G, "forward", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        video = filmed(tmp_path / "in.mp4", person, [n / 25 for n in range(25)])
        dub(video, wav(tmp_path / "speech.wav", person[1]), "--checkpoint", g4g, model="g4g")
        assert set(seen) == {1} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [64, 96, 256])
def test_drawn_pictures_are_joined_as_the_network_joins_them(size: int) -> None:
    torch = pytest.importorskip("torch")
    from g4g_model.generator import joined
    from g4g_model.networks.fusion import dilated, softened

    rng = np.random.default_rng(size)
    source, drawn = rng.integers(0, 256, (2, 3, size, size, 3), np.uint8)
    erase = np.zeros((3, size, size), np.uint8)
    erase[0, size // 2 :, : size // 3] = erase[1, 10:30, 20:25] = 1  # at an edge, inside, nowhere
    mask = torch.from_numpy(erase.astype(np.float32))[:, None]
    for exact in (True, False):
        weight = dilated(mask) if exact else torch.maximum(mask, softened(mask) * dilated(mask))
        share = weight[:, 0, :, :, None].numpy()
        expected = np.round(share * drawn + (1 - share) * source).astype(np.uint8)
        np.testing.assert_array_equal(joined(source, erase, drawn, True, exact=exact), expected)
    np.testing.assert_array_equal(
        joined(source, erase, drawn, False, exact=False), np.where(erase[..., None] > 0, drawn, source)
    )


def test_frames_at_a_cut_belong_to_the_take_that_they_show(tmp_path: Path, person: Footage, other: Footage) -> None:
    times = [n / 120 for n in range(240)]
    for cut in (118, 121, 123):
        both = lambda at, cut=cut: (person if at < (cut - 0.5) / 120 else other)[0][round(at * 20)]  # noqa: E731
        video = write_media(tmp_path / "in.mp4", times, both, rate=120, options={"preset": "superfast", "crf": "12"})
        tracked = track_faces(str(video), quiet=True)
        assert len(tracked.cuts) == 2
        with open_media(str(video)) as container:
            found = [index for _, index in placed(source_frames(container, tracked.probe, DecodeLog()), tracked)]
        assert len(found) == 240 and found == sorted(found)
        assert [index < tracked.cuts[1] for index in found] == [n < cut for n in range(240)]
        assert max(abs(index / 25 - time) for index, time in zip(found, times, strict=True)) < 0.041


def test_a_video_turned_by_its_metadata_is_written_upright(tmp_path: Path, person: Footage) -> None:
    sideways = np.ascontiguousarray(np.rot90(np.pad(person[0], ((0, 0), (0, 0), (16, 16), (0, 0))), 1, axes=(1, 2)))
    video = filmed(tmp_path / "in.mp4", (sideways, person[1]), [n / 25 for n in range(25)], audio=person[1][:16000])
    turn_by_metadata(video, 90)
    done = dub(video, wav(tmp_path / "speech.wav", person[1]), "--lossless")

    made = frames("out.mp4")
    assert done["frame_size"] == [192, 160] and (made[0].width, made[0].height, made[0].rotation) == (192, 160, 0)
    assert done["redrawn"] == 25 and greenish(made[12]).sum() > 600
    (upright, *_), _ = first_pass(video, probed(video))
    top = slice(0, 40)  # hair: nothing is redrawn there
    assert (planes(made[0])[0][top] == upright.frame.y[top]).all()


def test_pixels_that_are_not_square_stay_so(tmp_path: Path, person: Footage) -> None:
    narrow = np.stack([cv2.resize(picture, (80, 160), interpolation=cv2.INTER_AREA) for picture in person[0]])
    video = filmed(tmp_path / "in.mp4", (narrow, person[1]), [n / 25 for n in range(25)], pixel_aspect=Fraction(2))
    done = dub(video, wav(tmp_path / "speech.wav", person[1]), "--lossless")

    made = frames("out.mp4")
    with av.open("out.mp4") as container:
        assert container.streams.video[0].sample_aspect_ratio == 2
    assert done["frame_size"] == [80, 160] and done["redrawn"] == 25
    wide = cv2.resize((alphas(video)[12] > 0.999).astype(np.uint8), (80, 160), interpolation=cv2.INTER_AREA)
    assert greenish(made[12])[cv2.erode(wide, np.ones((5, 5))) > 0].mean() > 0.97


SAYS_NOTHING = (0, 2)
LIMITED_601, LIMITED_709 = (1, 6), (1, 1)


def tags(frame: Any) -> tuple[int, int]:
    """AVColorRange and AVColorSpace, as the file says them."""
    return int(frame.color_range), int(frame.colorspace)


@pytest.mark.parametrize(
    ("codec", "pixels", "size", "kept", "said"),
    [("ffv1", "bgr0", (160, 160), "yuv420p", LIMITED_601), ("ffv1", "yuv422p", (160, 160), "yuv422p", SAYS_NOTHING),
     ("ffv1", "yuv420p", (160, 159), "yuv444p", SAYS_NOTHING), ("png", "rgba", (160, 160), "yuv420p", LIMITED_601),
     ("ffv1", "yuv420p10le", (160, 160), "yuv420p", SAYS_NOTHING), ("png", "gray", (160, 160), "yuv420p", LIMITED_601),
     ("libx264rgb", "rgb24", (160, 160), "yuv420p", LIMITED_601), ("png", "rgb24", (161, 159), "yuv444p", LIMITED_601)],
)  # fmt: skip
def test_any_pixel_format_and_odd_sizes_can_be_dubbed(
    tmp_path: Path, person: Footage, codec: str, pixels: str, size: tuple[int, int], kept: str, said: tuple[int, int]
) -> None:
    pictures = np.pad(person[0], ((0, 0), (0, 0), (0, 1), (0, 0)), mode="edge")[:, : size[1], : size[0]].copy()
    ramp, columns = np.array([0, 63, 127, 191, 255]), np.arange(4, 160, 32)
    pictures[:, :16, :160] = np.repeat(ramp, 32)[:, None]
    if pixels == "gray":
        pictures[:] = pictures[..., 1:2]
    picture = lambda at: np.ascontiguousarray(pictures[round(at * 25)])  # noqa: E731
    place = tmp_path / ("in.mov" if codec == "png" else "in.mkv")
    video = write_media(place, [n / 25 for n in range(22)], picture, codec=codec, pix_fmt=pixels)
    done = dub(video, wav(tmp_path / "speech.wav", person[1]), out="out.mkv")

    made = frames("out.mkv")
    assert done["frame_size"] == list(size) and made[0].format.name == kept and done["redrawn"] == 22
    assert {tags(frame) for frame in made} == {said}
    shown = made[5].to_ndarray(format="rgb24").astype(int)
    assert np.abs(shown[:40] - pictures[5][:40]).mean() < 6
    assert np.abs(shown[8, columns + 12] - ramp[:, None]).max() <= 4
    assert greenish(made[5]).sum() > 600


@pytest.mark.parametrize(("lines", "said"), [(718, LIMITED_601), (720, LIMITED_709)])
def test_rgb_becomes_yuv_by_the_matrix_that_the_file_says(tmp_path: Path, lines: int, said: tuple[int, int]) -> None:
    colours = np.array([(200, 40, 60), (30, 180, 70), (40, 60, 210), (128, 128, 128)], np.uint8)
    bars = np.broadcast_to(np.repeat(colours, 32, axis=0), (lines, 128, 3))
    times = [0.0, 0.04, 0.08]
    video = write_media(tmp_path / "in.mkv", times, lambda _: bars.copy(), codec="libx264rgb", pix_fmt="rgb24")
    with open_media(str(video)) as container:
        found = probe(container, silent=True)
    assert isinstance(found, Probe)
    with open_media(str(video)) as container:
        shown = list(source_frames(container, found, DecodeLog()))
    source = Source(found, shown[0].picture, Fraction(1, 1000))
    with (tmp_path / "out.mkv").open("wb") as file, SoundTrack(str(wav(tmp_path / "s.wav", clicks(0.2, [])))) as sound:
        film = Film(file, ".mkv", source, sound, crf=4, lossless=False)
        for number, timed in enumerate(shown):
            film.add(timed, source.frame(timed) if number == 1 else None, timed.pts)
        film.finish(0.12)

    for frame in frames(tmp_path / "out.mkv"):
        assert tags(frame) == said
        assert np.abs(from_av(frame, 0, 1.0).rgb()[100, 16::32].astype(int) - colours).max() <= 4


def test_the_same_order_gives_the_same_bytes_and_still_works_as_well(tmp_path: Path, person: Footage) -> None:
    video = filmed(tmp_path / "in.mp4", person, [n / 25 for n in range(25)])
    speech = wav(tmp_path / "speech.wav", person[1])
    dub(video, speech, model="still", out="one.mp4")
    dub(video, speech, model="still", out="two.mp4")
    assert Path("one.mp4").read_bytes() == Path("two.mp4").read_bytes()


def lossy(folder: Path, person: Footage) -> dict[str, Path]:
    """Files that cannot be used, and two that can."""
    found = {name: folder / name for name in ("text.mp4", "void.mp4", "grey.mp4", "mute.mp4", "cut.mp4")}
    found["text.mp4"].write_text("#EXTM3U\nother.mp4\n")
    found["void.mp4"].write_bytes(b"")
    write_media(found["grey.mp4"], [n / 25 for n in range(25)], lambda _: np.full((64, 96, 3), 90, np.uint8))
    filmed(found["mute.mp4"], person, [n / 25 for n in range(25)])
    data = found["mute.mp4"].read_bytes()
    found["cut.mp4"].write_bytes(data[: len(data) // 2])
    found["speech.wav"] = wav(folder / "speech.wav", person[1])
    return found


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"video": "nothing.mp4"}, "no such file"),
        ({"video": "text.mp4"}, "text.mp4: 18 bytes that are no media file"),
        ({"video": "void.mp4"}, "void.mp4: the file is empty"),
        ({"video": "cut.mp4"}, "index (moov atom)"),
        ({"video": "speech.wav"}, "speech.wav"),
        ({"video": "grey.mp4"}, "there is no face to redraw (no_face"),
        ({"audio": "nothing.wav"}, "no such file"),
        ({"audio": "mute.mp4"}, "mute.mp4 holds no sound"),
        ({"audio": "text.mp4"}, "text.mp4 is no sound file"),
        ({"out": "out.avi"}, ".mp4, .m4v, .mov, .mkv"),
        ({"out": "s3://bucket/out.mp4"}, "is no local file"),
        ({"out": "mute.mp4"}, "is the input --video"),
        ({"out": "mute.mp4", "overwrite": ""}, "is the input --video"),
        ({"out": "cut.mp4"}, "add --overwrite"),
        ({"model": "stil"}, "Did you mean 'still'?"),
        ({"model": "needy"}, "needs a checkpoint"),
        ({"model": "needy", "checkpoint": "away.safetensors"}, "there is no such file"),
        ({"model": "broken"}, "broken answered with uint8"),
        ({"faces": "speaking"}, "Use --faces largest"),
        ({"crf": "20", "lossless": ""}, "Give one of them"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_and_nothing_is_left(
    tmp_path: Path, person: Footage, options: dict[str, str], says: str
) -> None:
    files = lossy(tmp_path, person)
    before = {path.name: path.read_bytes() for path in files.values()}
    given = {"video": "mute.mp4", "audio": "speech.wav", "model": "painter", "out": "out.mp4", **options}
    words = [word for name, value in given.items() for word in (f"--{name}", value) if word]
    result = g4g_model("dub", "--quiet", *words)

    assert result.exit_code == 2 and says in result.output, result.output
    assert len(result.output.strip().splitlines()) <= 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_overwrite_replaces_a_file_and_a_failure_leaves_the_old_one(tmp_path: Path, person: Footage) -> None:
    files = lossy(tmp_path, person)
    Path("out.mp4").write_text("older")
    words = ("--audio", "speech.wav", "--out", "out.mp4", "--overwrite", "--quiet")
    assert g4g_model("dub", "--video", files["mute.mp4"], "--model", "broken", *words).exit_code == 2
    assert Path("out.mp4").read_text() == "older"
    done = g4g_model("dub", "--video", files["mute.mp4"], "--model", "painter", *words)
    assert done.exit_code == 0 and len(frames("out.mp4")) == 25
    assert "25 frames of 160x160" in done.output and "25 redrawn in 1 shots" in done.output


RUN = r"""
import re, sys
from pathlib import Path
from g4g_model.dub import Order, dub
dub(Order(sys.argv[1], sys.argv[2], "still", Path(sys.argv[3]), overwrite=True), quiet=True)
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path: Path, person: Footage) -> None:
    def peak(n_frames: int) -> int:
        footage = looped(person, n_frames)
        video = write_clip(tmp_path / f"{n_frames}.mp4", footage)
        speech = wav(tmp_path / f"{n_frames}.wav", footage[1])
        words = [sys.executable, "-c", RUN, str(video), str(speech), str(tmp_path / "out.mp4")]
        return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    if not Path("/proc/self/status").exists():
        pytest.skip("the peak is read from /proc: getrusage would count what pytest held before the program began")
    short, long = peak(500), peak(2500)
    # 2000 more frames are 150 MB as RGB and 390 MB as crops; their landmarks, mouths and sound about 15 MB
    assert long - short < 50, (short, long)
