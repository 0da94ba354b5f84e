"""Files as they lie on disks: broken, foreign, oddly named. Each is a row with its reason; nothing crashes or hangs."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from building import Footage, build, environment, footage_of, manifest, samples, write_clip
from synthetic_media import write_media

from g4g_core.errors import G4GError
from prep.records import Reason
from prep.run.runners import Handler, Result, SyncRunner, Task, close_guard
from prep.shards.verify import verify

FOUND_BY_THE_RUNNER = {Reason.TIMEOUT.value, Reason.CRASHED.value}


@pytest.fixture(scope="module", autouse=True)
def one_child() -> Iterator[None]:
    yield
    close_guard()


class Watched(SyncRunner):
    """Notes what the guarded child could not survive."""

    def __init__(self) -> None:
        self.lost: list[tuple[str, Result]] = []

    def run(self, tasks: Any, handle: Handler) -> None:
        def note(task: Task, result: Result) -> Any:
            if {"died", "timeout", "bug"} & result.keys():
                self.lost.append((task.get("uid") or str([clip["url"] for clip in task["clips"]]), result))
            return handle(task, result)

        super().run(tasks, note)


def hashes(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


# ---- real footage


EDGE = {
    "decode_errors": "no_audio",
    "diagram_no_face_no_audio": "no_audio",
    "empty": "unreadable",
    "five_cuts_nonsquare_pixels": "ok",
    "greyscale_no_audio": "no_audio",
    "identity_cut": "ok",
    "mkv_opus_small_face": "no_face",  # a tilted head at the upper edge of 426x240, cut off for most of the time
    "no_audio_stream": "no_audio",
    "rotated_90": "no_audio",
    "scene_cut_crowd": "ok",
    "silent_half_second": "silent_audio",
    "stub_44_bytes": "truncated",
    "truncated_no_moov": "truncated",
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_real_edge_clip_is_a_row_with_its_own_reason_and_is_left_as_it_was(tmp_path: Path, clips: Path) -> None:
    edge = clips / "edge"
    before = hashes(edge)
    runner = Watched()
    build(edge, tmp_path / "out", runner)
    rows = manifest(tmp_path / "out")
    assert runner.lost == []
    assert {clip: row["reason"] or row["outcome"] for clip, row in rows.items()} == EDGE
    assert all(row["detail"] for row in rows.values() if row["outcome"] == "rejected")
    assert rows["empty"]["detail"] == "the file is empty"
    assert "moov" in rows["truncated_no_moov"]["detail"]
    assert hashes(edge) == before
    assert verify(str(tmp_path / "out"), deep=True).findings == ()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_real_sync_clip_gives_samples_and_is_left_as_it_was(tmp_path: Path, clips: Path) -> None:
    sync = clips / "sync"
    before = hashes(sync)
    runner = Watched()
    build(sync, tmp_path / "out", runner)
    rows = manifest(tmp_path / "out")
    assert runner.lost == []
    assert len(rows) == len(before)
    assert {row["outcome"] for row in rows.values()} == {"ok"}
    assert hashes(sync) == before


# ---- mutated copies


def mutated(data: bytes, rng: random.Random) -> bytes:
    """``data`` with a fault as disks and networks make them: flipped bytes, a lost tail, a hole, a block that moved."""
    changed = bytearray(data)
    kind = rng.choice(["few bytes", "many bytes", "header", "cut", "hole", "moved"])
    if kind == "cut":
        return bytes(changed[: rng.randrange(len(changed))])
    if kind in ("few bytes", "many bytes", "header"):
        last = min(len(changed), 4096) if kind == "header" else len(changed)
        if kind == "header" and rng.random() < 0.5:  # an MP4's index lies at its end
            return bytes(changed[:-last]) + bytes(
                byte ^ (1 << rng.randrange(8)) if rng.random() < 0.01 else byte for byte in changed[-last:]
            )
        for _ in range({"few bytes": 3, "many bytes": len(changed) // 100, "header": 20}[kind]):
            changed[rng.randrange(last)] = rng.randrange(256)
        return bytes(changed)
    size = rng.randrange(1, max(2, len(changed) // 10))
    start, other = rng.randrange(len(changed)), rng.randrange(len(changed))
    if kind == "hole":
        changed[start : start + size] = bytes(len(changed[start : start + size]))
    else:
        changed[other : other + size] = changed[start : start + size]
    return bytes(changed)


def check_mutations(tmp_path: Path, originals: list[Path], n: int, seed: int) -> Counter[str]:
    rng = random.Random(seed)
    root = tmp_path / "mutated"
    root.mkdir()
    for index in range(n):
        original = originals[index % len(originals)]
        (root / f"m{index:03d}{original.suffix}").write_bytes(mutated(original.read_bytes(), rng))
    before = hashes(root)
    runner = Watched()
    build(root, tmp_path / "out", runner, time_limit=30, shard_mb=5)
    rows = manifest(tmp_path / "out")
    assert runner.lost == []
    assert len(rows) == n
    assert not {row["reason"] for row in rows.values()} & FOUND_BY_THE_RUNNER
    assert all(row["detail"] for row in rows.values() if row["outcome"] == "rejected")
    assert hashes(root) == before
    assert verify(str(tmp_path / "out"), deep=True).findings == ()
    return Counter(row["reason"] or row["outcome"] for row in rows.values())


def small_originals(tmp_path: Path, sample_lrs2_clips: list[Path]) -> list[Path]:
    """A second of the sample in several containers."""
    footage = footage_of(sample_lrs2_clips[0])
    return [write_clip(tmp_path / "originals" / f"a{suffix}", footage, 0, 25) for suffix in (".mp4", ".mkv", ".mov")]


def test_mutated_copies_of_good_clips_are_rows_and_cost_no_process(
    tmp_path: Path, sample_lrs2_clips: list[Path]
) -> None:
    found = check_mutations(tmp_path, small_originals(tmp_path, sample_lrs2_clips), 24, seed=1)
    assert len(found) > 2  # the faults are of several kinds


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_hundred_mutated_copies_of_rendered_and_real_clips_cost_no_process(
    tmp_path: Path, sample_lrs2_clips: list[Path], request: pytest.FixtureRequest
) -> None:
    originals = small_originals(tmp_path, sample_lrs2_clips)
    try:
        real: Path = request.getfixturevalue("clips")
    except pytest.skip.Exception:  # the rendered ones alone, then
        pass
    else:
        # each codec and container once, the smallest file of it
        named = ["edge/rotated_90.mov", "edge/mkv_opus_small_face.mkv", "sync/swapped_audio/2.avi"]
        originals += [real / name for name in named]
        originals.append(min((real / "lrs2").rglob("*.mp4"), key=lambda path: path.stat().st_size))
    found = check_mutations(tmp_path, originals, 200, seed=2)
    assert len(found) > 3


# ---- what is no media


def foreign_files(root: Path, good: Path) -> dict[str, str]:
    """Files with a video's suffix that are none; reasons by clip id."""
    data = good.read_bytes()
    contents = {
        "text.mp4": b"Dear diary,\n" * 100,
        "empty.mkv": b"",
        "one_byte.avi": b"\0",
        "zeros.mp4": bytes(100_000),
        "noise.mov": random.Random(0).randbytes(100_000),
        "page.mp4": b"<!DOCTYPE html><html><head><title>404</title></head></html>",
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nnowhere.ts\n",
        "script.mp4": b"ffconcat version 1.0\nfile good.mp4\n",
        "archive.avi": b"PK\x03\x04" + bytes(500),
        "half.mp4": data[: len(data) // 2],
    }
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return {name.partition(".")[0]: "truncated" if name == "half.mp4" else "unreadable" for name in contents}


def test_what_is_no_media_is_a_row_and_what_is_no_file_is_none(tmp_path: Path, sample_lrs2_clips: list[Path]) -> None:
    root = tmp_path / "in"
    good = write_clip(root / "good.mp4", footage_of(sample_lrs2_clips[0]), 0, 20)
    foreign = foreign_files(root, good)
    (root / "folder.mp4").mkdir()
    (root / "folder.mp4" / "inside.mp4").write_bytes(good.read_bytes())
    (root / "notes.txt").write_text("no video at all")
    (root / "link.mp4").symlink_to("nowhere.mp4")
    os.mkfifo(root / "pipe.mp4")
    (root / ".hidden.mp4").write_bytes(good.read_bytes())
    runner = Watched()
    build(root, tmp_path / "out", runner)
    rows = manifest(tmp_path / "out")
    assert runner.lost == []
    assert sorted(rows) == sorted([*foreign, "good", "folder%2Emp4_inside", "link", "pipe"])
    assert rows["good"]["outcome"] == rows["folder%2Emp4_inside"]["outcome"] == "ok"
    assert rows["link"]["reason"] == "source_missing"
    assert (rows["pipe"]["reason"], rows["pipe"]["detail"]) == ("unreadable", "it is no regular file")
    assert {clip: rows[clip]["reason"] for clip in foreign} == foreign


def test_a_file_that_may_not_be_read_is_a_row_and_not_the_end_of_the_build(
    tmp_path: Path, sample_lrs2_clips: list[Path]
) -> None:
    """As another user, because root may read everything."""
    if os.getuid() == 0:
        pytest.skip("root may read every file")
    root = tmp_path / "in"
    write_clip(root / "good.mp4", footage_of(sample_lrs2_clips[0]), 0, 20)
    write_clip(root / "locked.mp4", footage_of(sample_lrs2_clips[0]), 0, 20).chmod(0)
    build(root, tmp_path / "out")
    rows = manifest(tmp_path / "out")
    assert rows["good"]["outcome"] == "ok"
    assert (rows["locked"]["reason"], rows["locked"]["detail"]) == (
        "unreadable",
        "the file cannot be read: Permission denied",
    )


def test_a_file_that_cannot_be_read_is_explained_by_the_prober(
    tmp_path: Path, sample_lrs2_clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as above for those who test as root: the disk itself refuses."""
    from prep.run import work

    path = write_clip(tmp_path / "bad-sector.mp4", footage_of(sample_lrs2_clips[0]), 0, 20)

    def refusing(*_: Any, **__: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(work, "open", refusing, raising=False)
    found = work._refuse_unreadable(str(path))
    assert found is not None
    assert (found.reason, found.detail) == (Reason.UNREADABLE, "the file cannot be read: Input/output error")


def test_odd_file_names_are_clips_like_any_other(tmp_path: Path, sample_lrs2_clips: list[Path]) -> None:
    names = [
        "with space.mp4",
        "-leading-dash.mp4",
        "--out.mp4",
        "quote'and\"quote.mp4",
        "ünïcödé 日本語 😀.mp4",
        "many.dots.in.it.mp4",
        "per%cent%20%03d.mp4",
        "new\nline.mp4",
        "tab\there.mp4",
        "col:on.mp4",
        "http:fake.mp4",
        "question?.mp4",
        "star*[a].mp4",
        "#hash&.mp4",
        "$HOME`id`;ls.mp4",
        "UPPER.MP4",
        "x" * 200 + ".mp4",
        "sub folder/ü/deep.mp4",
    ]
    root = tmp_path / "in"
    good = write_clip(tmp_path / "good.mp4", footage_of(sample_lrs2_clips[0]), 0, 12).read_bytes()
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(good)
    runner = Watched()
    build(root, tmp_path / "out", runner, shard_mb=5)
    rows = manifest(tmp_path / "out")
    assert runner.lost == []
    assert sorted(row["path"] for row in rows.values()) == sorted(names)
    assert {row["outcome"] for row in rows.values()} == {"ok"}
    assert len(samples(tmp_path / "out")) == len(names)
    assert verify(str(tmp_path / "out"), deep=True).findings == ()


def test_two_files_that_would_be_one_clip_are_refused(tmp_path: Path, sample_lrs2_clips: list[Path]) -> None:
    footage = footage_of(sample_lrs2_clips[0])
    write_clip(tmp_path / "in" / "a" / "b.mp4", footage, 0, 12)
    write_clip(tmp_path / "in" / "a_b.mp4", footage, 0, 12)
    with pytest.raises(G4GError, match="would both be clip 'a_b'"):
        build(tmp_path / "in", tmp_path / "out")


# ---- memory


def tree_rss(root: int) -> dict[int, int]:
    """Resident bytes of a process and of all that it started, by id."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = {}, [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            found[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return found


def watched_run(arguments: list[str], folder: Path) -> tuple[list[tuple[int, int]], str]:
    """Resident bytes of a command and of its children over time, and what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prep.cli", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seen = []
    while True:
        try:
            output, _ = process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            sizes = tree_rss(process.pid)
            own = sizes.pop(process.pid, 0)
            seen.append((own, sum(sizes.values())))
            continue
        assert process.returncode == 0, output
        return seen, output


def write_full_hd(path: Path, footage: Footage, least: int) -> int:
    """One shot of 1920x1080, a piece that is encoded once and repeated; returns its frames, at least ``least``."""
    pictures, sound = footage
    period = 2 * (len(pictures) - 1)  # there and back again: no cut where the piece repeats

    def picture(seconds: float) -> np.ndarray:
        place = round(seconds * 25) % period
        shown = pictures[place if place < len(pictures) else period - place]
        frame = np.full((1080, 1920, 3), 60, np.uint8)
        frame[:, 420:1500] = cv2.resize(shown, (1080, 1080))
        return frame

    path.parent.mkdir(parents=True)
    piece = path.parent.parent / "piece.mp4"
    options = {"preset": "ultrafast", "crf": "30"}
    write_media(
        piece, [index / 25 for index in range(2 * period)], picture, options=options, b_frames=0, own_clock=False
    )
    repeats = -(-least // (2 * period))
    n = repeats * 2 * period
    speech = np.tile(sound, n * 640 // len(sound) + 1)[: n * 640]
    with av.open(str(piece)) as source, av.open(str(path), "w") as target:
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        tick = int(1 / 25 / packets[0].time_base)
        video = target.add_stream_from_template(source.streams.video[0])
        audio = target.add_stream("aac", rate=16_000, layout="mono")
        stamps = [(packet.dts, packet.pts) for packet in packets]
        for repeat in range(repeats):
            for packet, (dts, pts) in zip(packets, stamps, strict=True):
                shift = repeat * 2 * period * tick
                packet.dts, packet.pts, packet.stream = dts + shift, pts + shift, video
                target.mux(packet)
            start, stop = repeat * 2 * period * 640, (repeat + 1) * 2 * period * 640
            samples = av.AudioFrame.from_ndarray(speech[None, start:stop], format="s16", layout="mono")
            samples.sample_rate, samples.pts = 16_000, start
            target.mux(audio.encode(samples))
        target.mux(audio.encode(None))
    return n


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_an_eight_minute_full_hd_shot_stays_under_1500_megabytes(
    tmp_path: Path, sample_hdtf_clips: list[Path], record_property: Any
) -> None:
    n = write_full_hd(tmp_path / "in" / "long.mp4", footage_of(sample_hdtf_clips[0]), 8 * 60 * 25)
    arguments = ["build-shards", "--folder", "in", "--out", "out", "--scheduler", "sync", "--quiet"]
    seen, output = watched_run(arguments, tmp_path)
    peak = max(own + child for own, child in seen)
    record_property("peak_rss_mb", peak >> 20)
    print(f"peak {peak >> 20} MB of driver and child together\n{output}")
    (row,) = manifest(tmp_path / "out").values()
    assert (row["outcome"], row["clip_frames"]) == ("ok", n)
    assert row["n_frames"] > 0.98 * n
    assert peak < 1.5e9


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_thousand_tiny_clips_need_no_more_memory_than_five_hundred_but_for_the_work_list(
    tmp_path: Path, sample_lrs2_clips: list[Path], record_property: Any
) -> None:
    """The process that reads videos stays flat; the one that plans keeps some 10 kB of every clip."""
    few, many = (peak_of_tiny_clips(tmp_path / str(n), footage_of(sample_lrs2_clips[0]), n) for n in (500, 10_000))
    record_property("driver_and_child_mb", [value >> 20 for value in (*few, *many)])
    print("MB of driver and child with 500 and with 10,000 clips:", *(value >> 20 for value in (*few, *many)))
    assert many[1] - few[1] < 24 << 20
    assert many[0] - few[0] < 9_500 * 16_000


def peak_of_tiny_clips(folder: Path, footage: Footage, n: int) -> tuple[int, int]:
    """Most bytes of driver and of child while ``n`` clips are built; one in ten is good, the others are refused."""
    pictures, sound = footage
    good = write_clip(folder / "good.mp4", footage, 0, 12)
    short = write_clip(folder / "short.mp4", footage, 0, 5)
    silent = write_clip(folder / "silent.mp4", (pictures[:15], sound[: 15 * 640] * 0))
    broken = folder / "broken.mp4"
    broken.write_bytes(good.read_bytes()[:2000])
    order = [good, short, short, silent, broken, short, short, broken, short, broken]
    for index in range(n):
        path = folder / "in" / f"{index // 100:03d}" / f"{index:05d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(order[index % 10], path)
    arguments = ["build-shards", "--folder", "in", "--out", "out", "--scheduler", "sync", "--quiet", "--size", "64"]
    arguments += ["--shard-mb", "2"]  # what the child keeps of every sample of a shard is bounded by the shard
    seen, _ = watched_run(arguments, folder)
    outcomes = Counter(row["outcome"] for row in manifest(folder / "out").values())
    assert outcomes == {"ok": n // 10, "rejected": n - n // 10}
    return max(own for own, _ in seen), max(child for _, child in seen)
