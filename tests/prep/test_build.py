"""A build: what is redone when footage or options change, and what becomes of clips that go wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from building import (
    Sabotaged,
    build,
    data_bytes,
    footage_of,
    manifest,
    rule,
    tar_hashes,
    unit_times,
    write_clip,
    write_tiny_footage,
)

from g4g_core import storage
from g4g_core.errors import UsageError
from prep.config import CONTENT_FIELDS, BuildConfig
from prep.run.runners import SyncRunner, close_guard
from prep.shards.index import Dataset
from prep.shards.verify import verify


@pytest.fixture(scope="module", autouse=True)
def one_child() -> Iterator[None]:
    """All builds of this module share the guarded child of this process."""
    yield
    close_guard()


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory, sample_lrs2_clips: list[Path]) -> Path:
    return write_tiny_footage(tmp_path_factory.mktemp("tiny"), sample_lrs2_clips)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, footage: Path) -> Path:
    out = tmp_path_factory.mktemp("built") / "out"
    build(footage, out)
    return out


@pytest.fixture
def mine(tmp_path: Path, footage: Path, built: Path) -> tuple[Path, Path]:
    """A copy of the footage and of its build, to be changed."""
    shutil.copytree(footage, tmp_path / "in")
    shutil.copytree(built, tmp_path / "out")
    return tmp_path / "in", tmp_path / "out"


def redone(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Clips that were processed between two looks at the unit folders."""
    return sorted(uid.partition("/")[2] for uid, time in after.items() if before.get(uid) != time)


def add_to_table(root: Path, *lines: str) -> None:
    with open(root / "splits.csv", "a") as file:
        file.writelines(line + "\n" for line in lines)


# ---- a first build


def test_every_clip_of_good_footage_is_in_a_shard_and_the_data_set_is_sound(footage: Path, built: Path) -> None:
    rows = manifest(built)
    assert sorted(rows) == [f"clip{index}" for index in range(6)]
    assert {row["outcome"] for row in rows.values()} == {"ok"}
    assert {row["split"] for row in rows.values()} == {"train", "val", "test"}
    assert verify(str(built), deep=True).findings == ()
    assert len(Dataset.open(str(built)).info["splits"]["train"]["shards"]) > 1


def test_a_build_leaves_no_parts_and_no_unfinished_files_behind(built: Path) -> None:
    names = [path.name for path in (built / ".work").rglob("*") if path.is_file()]
    assert not [name for name in names if name.endswith((".tar", ".npz")) or name.startswith(".tmp-")]
    assert not (built / ".work" / "shards").exists()


def test_building_again_processes_nothing_and_writes_no_shard(mine: tuple[Path, Path]) -> None:
    root, out = mine
    kept = [path for path in out.iterdir() if path.name.endswith((".tar", ".parquet", ".stats.json"))]
    before = {path: path.stat().st_mtime_ns for path in kept}
    times = unit_times(out)
    report = build(root, out)
    assert report.n_done_before == 6
    assert redone(times, unit_times(out)) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_where_the_frame_cache_ends_does_not_change_the_bytes(tmp_path: Path, footage: Path, built: Path) -> None:
    build(footage, tmp_path / "out", cache_mb=0)
    assert tar_hashes(tmp_path / "out") == tar_hashes(built)


def test_no_marker_and_no_table_of_a_data_set_names_a_folder_of_the_machine(footage: Path, built: Path) -> None:
    for path in built.iterdir():
        if path.is_file() and path.name != "build.json":
            assert str(footage).encode() not in path.read_bytes(), path.name


# ---- footage that changes


def test_adding_a_clip_processes_it_alone_and_makes_at_most_two_new_tars(
    mine: tuple[Path, Path], sample_lrs2_clips: list[Path]
) -> None:
    root, out = mine
    names_before, times = tar_hashes(out), unit_times(out)
    for index in range(3):
        write_clip(root / f"new{index}.mp4", footage_of(sample_lrs2_clips[index]), 3, 23)
        add_to_table(root, f"new{index}.mp4,someone{index},train")
        build(root, out)
        names, now = tar_hashes(out), unit_times(out)
        assert redone(times, now) == [f"new{index}"]
        assert len(set(names.values()) - set(names_before.values())) <= 2
        assert {n: h for n, h in names.items() if "train" not in n} == {
            n: h for n, h in names_before.items() if "train" not in n
        }
        names_before, times = names, now
    assert verify(str(out)).findings == ()


def test_a_data_set_that_grew_has_the_bytes_of_one_built_at_once(
    tmp_path: Path, mine: tuple[Path, Path], sample_lrs2_clips: list[Path]
) -> None:
    root, out = mine
    write_clip(root / "new.mp4", footage_of(sample_lrs2_clips[0]), 5, 25)
    add_to_table(root, "new.mp4,someone,train")
    build(root, out)
    build(root, tmp_path / "at-once")
    assert data_bytes(out) == data_bytes(tmp_path / "at-once")


def test_removing_a_clip_processes_nothing_and_makes_at_most_one_new_tar(mine: tuple[Path, Path]) -> None:
    root, out = mine
    before, times = tar_hashes(out), unit_times(out)
    (root / "clip1.mp4").unlink()
    build(root, out)
    assert redone(times, unit_times(out)) == []
    after = tar_hashes(out)
    assert len(set(after.values()) - set(before.values())) <= 1
    assert len(after) >= len(before) - 1
    assert "clip1" not in manifest(out)
    assert verify(str(out)).findings == ()


def test_removing_all_clips_of_a_split_removes_its_shards_and_its_list(mine: tuple[Path, Path]) -> None:
    root, out = mine
    (root / "clip4.mp4").unlink()  # the only one of val
    build(root, out)
    assert not list(out.glob("val-*"))
    assert sorted(path.name for path in (out / "splits").iterdir()) == ["test.txt", "train.txt"]
    assert verify(str(out)).findings == ()


def test_other_content_under_the_same_name_is_processed_alone(
    mine: tuple[Path, Path], sample_lrs2_clips: list[Path]
) -> None:
    root, out = mine
    times = unit_times(out)
    old = manifest(out)["clip2"]["content_sha256"]
    write_clip(root / "clip2.mp4", footage_of(sample_lrs2_clips[0]), 12, 32)
    build(root, out)
    assert redone(times, unit_times(out)) == ["clip2"]
    assert manifest(out)["clip2"]["content_sha256"] != old
    assert verify(str(out)).findings == ()


def test_content_that_changes_under_the_same_size_and_date_is_noticed(mine: tuple[Path, Path]) -> None:
    root, out = mine
    path = root / "clip2.mp4"
    build(root, out)  # so that the probes of this copy are remembered
    times, stat = unit_times(out), path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    build(root, out)
    assert redone(times, unit_times(out)) == ["clip2"]


def test_a_touched_file_of_the_same_content_is_not_processed_again(mine: tuple[Path, Path]) -> None:
    root, out = mine
    times = unit_times(out)
    os.utime(root / "clip2.mp4", (1, 1))
    build(root, out)
    assert redone(times, unit_times(out)) == []


def test_a_clip_that_moves_to_another_split_is_processed_alone(mine: tuple[Path, Path]) -> None:
    root, out = mine
    times = unit_times(out)
    table = root / "splits.csv"
    table.write_text(table.read_text().replace("clip3.mp4,person3,train", "clip3.mp4,person3,val"))
    build(root, out)
    assert redone(times, unit_times(out)) == ["clip3"]
    assert manifest(out)["clip3"]["split"] == "val"
    assert verify(str(out)).findings == ()


def test_a_rejected_clip_changes_no_tar_but_the_marker_of_its_shard_counts_it(
    mine: tuple[Path, Path], sample_lrs2_clips: list[Path]
) -> None:
    root, out = mine
    build(root, out, shard_mb=5)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*-*") if not path.name.endswith(".json")}
    pictures, sound = footage_of(sample_lrs2_clips[0])
    for index in range(2):
        write_clip(root / f"grey{index}.mp4", (pictures[:20] * 0 + 90 + index, sound[: 20 * 640]))
        add_to_table(root, f"grey{index}.mp4,nobody{index},train")
    build(root, out, shard_mb=5)
    assert {manifest(out)[f"grey{index}"]["reason"] for index in range(2)} == {"no_face"}
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert storage.read_json(str(out / "train-00000.stats.json"))["reasons"] == {"no_face": 2}
    assert storage.read_json(str(out / "val-00000.stats.json"))["reasons"] == {}
    (root / "grey0.mp4").unlink()
    build(root, out, shard_mb=5)
    assert storage.read_json(str(out / "train-00000.stats.json"))["reasons"] == {"no_face": 1}


def test_a_marker_follows_when_a_clip_of_its_shard_is_rejected_later(mine: tuple[Path, Path]) -> None:
    root, out = mine
    stem = Dataset.open(str(out)).info["splits"]["train"]["shards"][0]
    marker = storage.read_json(str(out / f"{stem}.stats.json"))
    storage.write_json(str(out / f"{stem}.stats.json"), {**marker, "reasons": {"no_face": 7}})
    tar_time = (out / f"{stem}.tar").stat().st_mtime_ns
    build(root, out)
    assert storage.read_json(str(out / f"{stem}.stats.json")) == marker
    assert (out / f"{stem}.tar").stat().st_mtime_ns == tar_time


# ---- options that change


@pytest.mark.parametrize(
    "change",
    [{"size": 72}, {"min_frames": 12}, {"min_face": 20}, {"max_mismatch": 0.9}],
    ids=lambda change: next(iter(change)),
)
def test_an_option_that_decides_bytes_has_every_clip_processed_again(
    mine: tuple[Path, Path], change: dict[str, Any]
) -> None:
    assert set(change) <= CONTENT_FIELDS
    root, out = mine
    times = unit_times(out)
    build(root, out, **change)
    assert len(redone(times, unit_times(out))) == 6
    assert verify(str(out)).findings == ()


def test_options_that_decide_no_bytes_have_nothing_processed_again(mine: tuple[Path, Path]) -> None:
    root, out = mine
    changes: dict[str, Any] = {"time_limit": 99, "cache_mb": 5, "batch_size": 3, "shard_mb": 0.4}
    recorded_elsewhere = {"split_by", "fractions", "part_seconds"}  # of the spec, and of where a part ends
    assert set(changes) | CONTENT_FIELDS | recorded_elsewhere == set(BuildConfig.model_fields)
    times = unit_times(out)
    build(root, out, **changes)
    assert redone(times, unit_times(out)) == []


def test_shards_of_another_size_are_joined_from_those_that_are_there(tmp_path: Path, mine: tuple[Path, Path]) -> None:
    root, out = mine
    times = unit_times(out)
    build(root, out, shard_mb=5)
    assert sorted(tar_hashes(out)) == ["test-00000.tar", "train-00000.tar", "val-00000.tar"]
    build(root, out, shard_mb=0.15)
    assert redone(times, unit_times(out)) == []
    build(root, tmp_path / "fresh", shard_mb=0.15)
    assert data_bytes(out) == data_bytes(tmp_path / "fresh")


def test_a_shard_that_was_deleted_is_made_again_with_the_same_bytes(mine: tuple[Path, Path]) -> None:
    root, out = mine
    before = data_bytes(out)
    stem = Dataset.open(str(out)).info["splits"]["train"]["shards"][0]
    for suffix in (".tar", ".parquet", ".stats.json"):
        (out / (stem + suffix)).unlink()
    build(root, out)
    assert data_bytes(out) == before


@pytest.mark.parametrize("damage", ["tar cut short", "marker garbled", "record garbled", "cache garbled"])
def test_damaged_files_of_ours_are_made_again_with_the_same_bytes(mine: tuple[Path, Path], damage: str) -> None:
    root, out = mine
    before = data_bytes(out)
    stem = Dataset.open(str(out)).info["splits"]["train"]["shards"][0]
    if damage == "tar cut short":
        (out / f"{stem}.tar").write_bytes((out / f"{stem}.tar").read_bytes()[:-512])
    elif damage == "marker garbled":
        (out / f"{stem}.stats.json").write_text("{")
    elif damage == "record garbled":
        next((out / ".work" / "units").rglob("clip.json")).write_text('{"uid"')
    else:
        (out / ".work" / "probes.json").write_text("[]")
    build(root, out)
    assert data_bytes(out) == before
    assert verify(str(out)).findings == ()


def test_files_of_a_shard_that_a_killed_run_left_half_moved_are_cleared(mine: tuple[Path, Path]) -> None:
    root, out = mine
    before = data_bytes(out)
    (out / "train-00077.tar").write_bytes(b"half")
    (out / "train-00078.parquet").write_bytes(b"half")
    (out / ".tmp-123-abc").write_bytes(b"unfinished")
    build(root, out)
    assert data_bytes(out) == before
    assert not (out / ".tmp-123-abc").exists()


# ---- clips that go wrong


def test_a_clip_that_hangs_is_a_timeout_row_and_its_neighbours_are_there(
    tmp_path: Path, footage: Path, built: Path
) -> None:
    out = tmp_path / "out"
    hang = {"op": "sleep", "seconds": 60, "timeout": 0.5}
    build(footage, out, Sabotaged(SyncRunner(), {"clip1.mp4": hang}))
    rows = manifest(out)
    lost = rows["clip1"]
    assert (lost["outcome"], lost["stage"], lost["reason"]) == ("rejected", "process", "timeout")
    assert [row["outcome"] for clip, row in sorted(rows.items()) if clip != "clip1"] == ["ok"] * 5
    assert verify(str(out)).findings == ()
    runner = Sabotaged(SyncRunner(), {})
    build(footage, out, runner)  # a later run tries it again, and nothing else
    assert runner.seen == ["tiny/clip1"]
    assert data_bytes(out) == data_bytes(built)


def test_a_clip_that_crashes_the_child_is_a_crashed_row_and_its_neighbours_are_there(
    tmp_path: Path, footage: Path
) -> None:
    out = tmp_path / "out"
    build(footage, out, Sabotaged(SyncRunner(), {"clip0.mp4": {"op": "crash"}, "clip5.mp4": {"op": "crash"}}))
    rows = manifest(out)
    assert (rows["clip0"]["reason"], rows["clip5"]["reason"]) == ("crashed", "crashed")
    assert rows["clip0"]["detail"] == "the process that read it was killed by signal 6"
    assert [row["outcome"] for clip, row in sorted(rows.items())][1:5] == ["ok"] * 4
    assert not list(out.glob("test-*"))
    assert verify(str(out)).findings == ()


def test_a_fault_of_ours_in_one_clip_is_a_row_with_its_trace_kept(tmp_path: Path, footage: Path) -> None:
    out = tmp_path / "out"
    build(footage, out, Sabotaged(SyncRunner(), {"clip1.mp4": {"estimated_frames": "many"}}))
    row = manifest(out)["clip1"]
    assert row["reason"] == "crashed"
    assert "TypeError" in row["detail"]
    (trace,) = (out / ".work" / "errors").iterdir()
    assert trace.read_text().startswith("tiny/clip1\nTraceback")


def test_a_prober_that_dies_rejects_the_guilty_clip_only(tmp_path: Path, footage: Path) -> None:
    class Poisoned(SyncRunner):
        def run(self, tasks: Any, handle: Any) -> None:
            def poisoned(task: Any) -> Any:
                bad = task["op"] == "probe" and any(item["url"].endswith("clip3.mp4") for item in task["clips"])
                return {**task, "op": "crash"} if bad else task

            def again(task: Any, result: Any) -> list[Any]:
                return [poisoned(more) for more in handle(task, result)]

            super().run([poisoned(task) for task in tasks], again)

    out = tmp_path / "out"
    build(footage, out, Poisoned())
    rows = manifest(out)
    assert (rows["clip3"]["stage"], rows["clip3"]["reason"]) == ("probe", "crashed")
    assert [row["outcome"] for clip, row in sorted(rows.items()) if clip != "clip3"] == ["ok"] * 5
    build(footage, out)  # a crash is not remembered as an answer
    assert manifest(out)["clip3"]["outcome"] == "ok"


def test_units_that_a_lost_worker_had_committed_are_not_processed_when_its_batch_is_repeated(
    tmp_path: Path, footage: Path
) -> None:
    class Repeating(SyncRunner):
        """Runs every task twice, as Dask does with a batch whose worker died."""

        def run(self, tasks: Any, handle: Any) -> None:
            twice: list[Any] = [task for task in tasks for _ in range(2)]
            stamps: dict[str, int] = {}

            def check(task: Any, result: Any) -> Any:
                for uid, time in unit_times(out).items():
                    assert stamps.setdefault(uid, time) == time
                return handle(task, result)

            super().run(twice if twice and twice[0]["op"] == "clip" else twice[::2], check)

    out = tmp_path / "out"
    build(footage, out, Repeating())
    assert {row["outcome"] for row in manifest(out).values()} == {"ok"}


# ---- long clips


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory, sample_lrs2_clips: list[Path]) -> Path:
    """One clip of 13 s."""
    from building import looped

    root = tmp_path_factory.mktemp("long")
    write_clip(root / "long.mp4", looped(footage_of(sample_lrs2_clips[0]), 325))
    return root


def test_a_long_clip_is_encoded_in_parts_and_gives_the_samples_of_one_part(tmp_path: Path, long_clip: Path) -> None:
    build(long_clip, tmp_path / "parts", part_seconds=5)
    build(long_clip, tmp_path / "whole", part_seconds=30)
    (marker,) = (storage.read_json(str(path)) for path in (tmp_path / "parts").glob("*.stats.json"))
    assert len(marker["parts"]) == 3
    assert tar_hashes(tmp_path / "parts") == tar_hashes(tmp_path / "whole")
    assert verify(str(tmp_path / "parts"), deep=True).findings == ()


def test_parts_of_another_length_that_an_interrupted_run_left_are_not_mixed_with_new_ones(
    tmp_path: Path, long_clip: Path
) -> None:
    class Interrupted(Exception):
        pass

    class StopsAfter(SyncRunner):
        def run(self, tasks: Any, handle: Any) -> None:
            def stop(task: Any, result: Any) -> Any:
                if task["op"] == "part":
                    raise Interrupted
                return handle(task, result)

            super().run(tasks, stop)

    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        build(long_clip, out, StopsAfter(), part_seconds=5)
    assert list((out / ".work" / "units").rglob("part-000.tar"))
    build(long_clip, out, part_seconds=10)
    build(long_clip, tmp_path / "fresh", part_seconds=10)
    assert tar_hashes(out) == tar_hashes(tmp_path / "fresh")


def test_a_resumed_long_clip_does_only_the_parts_that_are_missing(tmp_path: Path, long_clip: Path) -> None:
    class Interrupted(Exception):
        pass

    class StopsAfterTwo(SyncRunner):
        count = 0

        def run(self, tasks: Any, handle: Any) -> None:
            def stop(task: Any, result: Any) -> Any:
                self.count += task["op"] == "part"
                if self.count == 2:
                    raise Interrupted
                return handle(task, result)

            super().run(tasks, stop)

    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        build(long_clip, out, StopsAfterTwo(), part_seconds=5)
    runner = Sabotaged(SyncRunner(), {})
    build(long_clip, out, runner, part_seconds=5)
    assert len(runner.seen) == 1
    build(long_clip, tmp_path / "fresh", part_seconds=5)
    assert data_bytes(out) == data_bytes(tmp_path / "fresh")


# ---- folders that are not ours


@pytest.mark.parametrize("content", ["notes.txt", "photos/cat.jpg", "empty-folder/"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, footage: Path, content: str) -> None:
    path = tmp_path / "out" / content
    if content.endswith("/"):
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no data set"):
        build(footage, tmp_path / "out")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [content.split("/", maxsplit=1)[0]]


def test_an_empty_folder_is_taken(tmp_path: Path, sample_lrs2_clips: list[Path]) -> None:
    root = tmp_path / "in"
    write_clip(root / "a.mp4", footage_of(sample_lrs2_clips[0]), 0, 15)
    (tmp_path / "out").mkdir()
    assert build(root, tmp_path / "out").n_samples == 1


def test_an_identity_in_two_splits_is_reported_with_its_name(tmp_path: Path, mine: tuple[Path, Path]) -> None:
    root, out = mine
    table = root / "splits.csv"
    table.write_text(table.read_text().replace("clip5.mp4,person5,test", "clip5.mp4,person0,test"))
    report = build(root, out, identity=rule(root))
    assert len(report.leaks) == 1
    assert "identity person0 is in 2 splits" in report.leaks[0]
    assert json.loads((out / "dataset.json").read_text())["leaks"] == report.leaks
