"""The embedded sample data set: talking clips in the layout of LRS2 or HDTF, rendered on the spot.

The portrait is in the public domain and the speech is synthetic, so the clips may be passed on. What is said
and where the mouth is in every frame is known and written down: a pipeline can be checked against the truth.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from g4g_core.errors import UsageError
from prep.records import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, SPLITS
from prep.sources.sample_identity import Identity, all_identities
from prep.sources.sample_speech import Phrase, Utterance, load_phrases, mouth_track, say

Layout = Literal["lrs2", "hdtf"]

LICENCE = (
    "Portrait: NASA photograph, public domain, from scikit-image (skimage.data.astronaut). "
    "Speech: synthesised by espeak-ng. Free to use and redistribute."
)

_DEFAULT_CLIPS = {"lrs2": 40, "hdtf": 24}
_FRACTIONS = {"train": 0.5, "val": 0.08, "test": 0.42}
_AUDIO_RATE = {"lrs2": SAMPLE_RATE, "hdtf": 44_100}
_FRAMING = {"lrs2": (160, 190.0, (224.0, 128.0)), "hdtf": (512, 205.0, (224.0, 124.0))}
_BLINK = (0.4, 0.95, 1.0, 0.75, 0.35)  # how far the lids are closed in the frames of one blink


@dataclasses.dataclass(frozen=True)
class SampleSummary:
    """What :func:`make_sample` wrote.

    Attributes:
        layout: ``lrs2`` or ``hdtf``.
        root: the folder, to be given to ``--lrs2`` or ``--hdtf``.
        clips: number of video files.
        identities: number of different people.
        seconds: footage in seconds.
    """

    layout: Layout
    root: Path
    clips: int
    identities: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Plan:
    """One clip to be rendered; ``name`` is its path inside the folder, without suffix."""

    name: str
    person: str
    identity: Identity
    phrases: tuple[Phrase, ...]
    av_offset: int
    pretrain: bool = False


def make_sample(
    out: str | Path,
    layout: Layout,
    *,
    seed: int = 0,
    clips: int | None = None,
    identities: int | None = None,
    av_offsets: Sequence[int] = (0,),
    progress: Callable[[int, int], None] | None = None,
) -> SampleSummary:
    """Render the sample data set into a new folder; the same arguments give the same bytes.

    Both layouts get ``splits.csv`` (``file,identity,split,role``), ``truth.json`` (per file: phrases, words,
    identity, AV offset and the drawn opening 0..1 of every frame) and ``LICENCE.txt``. No phrase, voice or
    identity is in two splits. The ``lrs2`` layout holds one pretrain clip on top of ``clips``.

    Args:
        out: folder to make; it may exist if it is empty. It appears only when everything is rendered.
        layout: ``lrs2`` (160x160, one phrase a clip, AAC 16 kHz) or ``hdtf`` (512x512, two phrases a clip,
            AAC 44.1 kHz); both 25 fps H.264.
        seed: draws head sway and blinks; who says what stays the same.
        clips: number of clips, at least 3 (one per split); default 40 (``lrs2``) or 24 (``hdtf``).
        identities: number of people, 3 to 25; default as many as there are clips for.
        av_offsets: frames by which sound leads the picture (> 0: the picture is late, SyncNet's sign); clip i
            has ``av_offsets[i % len(av_offsets)]``.
        progress: called with (clips done, clips in all) after every clip.

    Raises:
        UsageError: an unknown layout, numbers out of range, or a folder that is not empty.
    """
    root = Path(out)
    plans = _plan(layout, clips, identities, av_offsets)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(
            f"{root} exists and is not an empty folder.", "Name a new folder for the sample data set."
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as temporary:
        made = Path(temporary) / "sample"
        frames = _write_clips(made, layout, plans, seed, progress)
        if root.exists():
            root.rmdir()
        made.rename(root)
    people = {plan.person for plan in plans}
    return SampleSummary(layout, root, len(plans), len(people), frames / FPS)


def _plan(layout: str, clips: int | None, identities: int | None, av_offsets: Sequence[int]) -> list[_Plan]:
    """Who says what in which file."""
    if layout not in get_args(Layout):
        raise UsageError(f"There is no sample layout {layout!r}.", "Choose lrs2 or hdtf.")
    everyone = all_identities()
    clips = _DEFAULT_CLIPS[layout] if clips is None else clips
    if clips < len(SPLITS):
        raise UsageError(f"{clips} clips cannot fill three splits.", "Ask for at least 3 clips.")
    if identities is not None and not len(SPLITS) <= identities <= len(everyone):
        raise UsageError(
            f"{identities} identities were asked for.", f"The sample has 3 to {len(everyone)} identities."
        )
    if not av_offsets:
        raise UsageError("The list of AV offsets is empty.", "Give at least one; 0 means in sync.")
    clips_of = _shares(clips, dict.fromkeys(SPLITS, clips))
    available = Counter(identity.split for identity in everyone)
    people_of = _shares(identities or len(everyone), available)
    plans: list[_Plan] = []

    def add(
        name: str, person: str, identity: Identity, phrases: tuple[Phrase, ...], pretrain: bool = False
    ) -> None:
        offset = int(av_offsets[len(plans) % len(av_offsets)])
        plans.append(_Plan(name, person, identity, phrases, offset, pretrain))

    for split in SPLITS:
        people = [identity for identity in everyone if identity.split == split][: people_of[split]]
        for index in range(clips_of[split]):
            round_, place = divmod(index, len(people))
            person = _person(layout, people[place])
            name = (
                f"mvlrs_v1/main/{person}/{round_ + 1:05d}" if layout == "lrs2" else f"{person}_{round_:03d}"
            )
            choices = _choices(split, place, 1 if layout == "lrs2" else 2)
            # rounds of a person differ, and people that share a voice start at different phrases
            add(name, person, people[place], choices[(place // 2 + round_) % len(choices)])
    if layout == "lrs2":
        first = plans[0]
        name = f"mvlrs_v1/pretrain/{first.person}/00001"
        add(name, first.person, first.identity, _choices("train", 0, 2)[0], pretrain=True)
    return plans


def _shares(total: int, most: dict[str, int] | Counter[str]) -> dict[str, int]:
    """``total`` over the splits by :data:`_FRACTIONS`: at least 1 and at most ``most`` each."""
    counts = dict.fromkeys(SPLITS, 1)
    while sum(counts.values()) < min(total, sum(most.values())):
        open_splits = [split for split in SPLITS if counts[split] < most[split]]
        needy = min(open_splits, key=lambda split: counts[split] / _FRACTIONS[split])
        counts[needy] += 1
    return counts


def _choices(split: str, place: int, count: int) -> list[tuple[Phrase, ...]]:
    """What one person of a split can say: sequences of ``count`` different phrases in the person's voice."""
    phrases = [phrase for phrase in load_phrases() if phrase.split == split]
    voices = sorted({phrase.voice for phrase in phrases})
    own = [phrase for phrase in phrases if phrase.voice == voices[place % len(voices)]]
    return list(itertools.permutations(own, count))


def _person(layout: str, identity: Identity) -> str:
    """The identity's name: a 19-digit programme id, or an HDTF name whose letters alone tell people apart."""
    if layout == "lrs2":
        digest = hashlib.sha256(f"g4g sample identity {identity.index}".encode()).digest()
        return str(10**18 + int.from_bytes(digest[:8], "big") % (8 * 10**18))
    return f"WDA_Sample{chr(ord('A') + identity.index // 26)}{chr(ord('a') + identity.index % 26)}"


def _write_clips(
    root: Path, layout: Layout, plans: Sequence[_Plan], seed: int, progress: Callable[[int, int], None] | None
) -> int:
    """Everything below ``root``; returns the number of frames written."""
    from prep.sources.sample_render import Framing, TalkingPortrait  # OpenCV: slow to import

    framing = Framing(*_FRAMING[layout])
    truth: dict[str, Any] = {}
    done = 0
    # one portrait in memory at a time: it is dear to make and belongs to one person
    order = sorted(range(len(plans)), key=lambda index: plans[index].identity.index)
    for _, group in itertools.groupby(order, key=lambda index: plans[index].identity.index):
        indices = list(group)
        portrait = TalkingPortrait(plans[indices[0]].identity, framing)
        for index in indices:
            plan = plans[index]
            said = say(plan.phrases, _speed(plan.identity))
            mouth = mouth_track(said.phonemes, said.n_frames, plan.av_offset)
            path = root / f"{plan.name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            frames = _frames(portrait, mouth, np.random.default_rng([seed, index]))
            _encode(path, frames, framing.size, said.audio, _AUDIO_RATE[layout])
            if layout == "lrs2":
                path.with_suffix(".txt").write_text(_lrs2_text(said, plan.pretrain), encoding="utf-8")
            truth[f"{plan.name}.mp4"] = _truth(plan, said, mouth)
            done += 1
            if progress is not None:
                progress(done, len(plans))
    _write_lists(root, layout, plans)
    in_order = {f"{plan.name}.mp4": truth[f"{plan.name}.mp4"] for plan in plans}
    document = {"layout": layout, "seed": seed, "fps": FPS, "licence": LICENCE, "clips": in_order}
    (root / "truth.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return sum(len(entry["opening"]) for entry in truth.values())


def _speed(identity: Identity) -> float:
    return float(np.random.default_rng([16, identity.index]).uniform(0.93, 1.05))


def _truth(plan: _Plan, said: Utterance, mouth: NDArray[np.float32]) -> dict[str, Any]:
    return {
        "phrases": list(said.phrases),
        "text": said.text,
        "words": [[word.text, round(word.start, 3), round(word.end, 3)] for word in said.words],
        "identity": plan.person,
        "variation": plan.identity.index,
        "split": plan.identity.split,
        "av_offset": plan.av_offset,
        "opening": [round(float(value), 4) for value in mouth[:, 0]],
    }


def _role(plan: _Plan) -> str:
    """Which sync expert may learn from a clip: people of ``train`` by turns, nobody of the other splits."""
    if plan.identity.split != "train":
        return "test"
    return ("sync-a", "sync-b")[plan.identity.index % 2]


def _write_lists(root: Path, layout: Layout, plans: Sequence[_Plan]) -> None:
    with open(root / "splits.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "identity", "split", "role"])
        table.writerows([f"{plan.name}.mp4", plan.person, plan.identity.split, _role(plan)] for plan in plans)
    (root / "LICENCE.txt").write_text(LICENCE + "\n", encoding="utf-8")
    if layout == "lrs2":
        for name in (*SPLITS, "pretrain"):
            chosen = [p for p in plans if (name == "pretrain" if p.pretrain else name == p.identity.split)]
            second = " NF" if name == "test" else ""
            lines = ["/".join(plan.name.split("/")[-2:]) + second + "\n" for plan in chosen]
            (root / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def _lrs2_text(said: Utterance, pretrain: bool) -> str:
    text = f"Text:  {said.text}\nConf:  4\n"
    if pretrain:
        rows = [f"{word.text} {word.start:.2f} {word.end:.2f} 9.9\n" for word in said.words]
        text += "\nWORD START END ASDSCORE\n" + "".join(rows)
    return text


def _frames(
    portrait: Any, mouth: NDArray[np.float32], rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """uint8 [H, W, 3] RGB per row of the mouth track, with head sway and blinks drawn from ``rng``."""
    from prep.sources.sample_render import Pose

    n_frames = len(mouth)
    times = np.arange(n_frames) / FPS
    x, y, roll, scale = (limit * _wander(times, rng) for limit in (2.5, 1.8, 2.2, 0.015))
    blinks = np.zeros(n_frames)
    start = rng.uniform(0.3, 1.6)
    while (first := int(start * FPS)) < n_frames:
        shown = _BLINK[: n_frames - first]
        blinks[first : first + len(shown)] = shown
        start += rng.uniform(2.2, 4.2)
    for index in range(n_frames):
        pose = Pose(float(x[index]), float(y[index]), float(roll[index]), 1.0 + float(scale[index]))
        yield portrait.render(mouth[index], float(blinks[index]), pose)


def _wander(times: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A slow, smooth curve within -1..1."""
    total = np.zeros_like(times)
    for weight, fastest in ((0.7, 0.25), (0.3, 0.7)):
        total += weight * np.sin(2 * np.pi * (rng.uniform(0.4, 1.0) * fastest * times + rng.uniform()))
    return total


def _encode(
    path: Path, frames: Iterator[NDArray[np.uint8]], size: int, audio: NDArray[np.int16], audio_rate: int
) -> None:
    """An MP4 of H.264 and AAC; one thread and fixed settings, so that equal frames give equal bytes."""
    import av

    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "superfast", "crf": "18"})
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        sound = container.add_stream("aac", rate=audio_rate, layout="mono", bit_rate=64_000)
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=audio_rate)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index
            container.mux(video.encode(picture))
            piece = audio[index * SAMPLES_PER_FRAME : (index + 1) * SAMPLES_PER_FRAME]
            samples = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
            samples.sample_rate = SAMPLE_RATE
            samples.pts = index * SAMPLES_PER_FRAME
            for resampled in resampler.resample(samples):
                container.mux(sound.encode(resampled))
        for resampled in resampler.resample(None):
            container.mux(sound.encode(resampled))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
