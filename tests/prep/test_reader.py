"""Reading shards: the index, single members, the indexed order, the stream."""

from __future__ import annotations

import collections
import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from g4g_core import storage
from g4g_core.errors import DatasetError, UsageError
from prep.shards import access, schema
from prep.shards.access import SampleReader
from prep.shards.index import Dataset
from prep.shards.members import CorruptSample, decode_frame, decode_mask
from prep.shards.order import another_window, window_starts
from prep.shards.reader import IndexedReader, as_torch
from prep.shards.rows import Row
from prep.shards.sample import read_npy, read_wav
from prep.shards.stream import stream
from prep.shards.window import collate
from prep.stages.mel import mel_window
from tests.prep.synthetic_shards import (
    CLIPS,
    SyntheticClip,
    clip_mel,
    jpeg,
    mask_plane,
    png,
    write_dataset,
    write_marker,
)

TRAIN_KEYS = {
    "toy-a_00-000-000",
    "toy-a_00-000-001",
    "toy-a_01-000-000",
    "toy-b_00-000-000",
    "toy-b_01-000-000",
}
TOO_SHORT = "toy-b_00-000-000"
LONG_KEYS = TRAIN_KEYS - {TOO_SHORT}
OF_CLIP = {clip.clip.replace("/", "_"): clip for clip in CLIPS}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("shards") / "set")


@pytest.fixture
def damaged(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "set"))


@pytest.fixture(scope="module")
def dataset(pristine: Path) -> Dataset:
    return Dataset.open(pristine)


def overwrite(root: Path, row: Row, suffix: str, data: bytes) -> None:
    """Put other bytes where a member lies, without telling index or marker."""
    place = schema.member_suffixes(row.n_frames).index(suffix)
    with open(root / f"{row.shard}.tar", "r+b") as tar:
        tar.seek(int(row.offsets[place]))
        tar.write(data[: row.sizes[place]].ljust(int(row.sizes[place]), b"\0"))


def identity(window) -> tuple:
    return window.key, tuple(window.indices), tuple(window.reference_indices)


# the index


def test_table_has_a_row_per_sample_and_names_its_shard(dataset):
    table = dataset.table("train")
    assert set(table.column("key").to_pylist()) == TRAIN_KEYS
    assert table.schema.names == [*schema.INDEX.names, "shard"]
    assert set(table.column("shard").to_pylist()) == {"train-00000", "train-00001"}


def test_table_gives_only_the_columns_asked_for(dataset):
    assert dataset.table("val", ["key", "n_frames"]).to_pydict() == {
        "key": ["toy-c_00-000-000"],
        "n_frames": [28],
        "shard": ["val-00000"],
    }


def test_a_folder_without_dataset_json_is_no_data_set(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset\.json"):
        Dataset.open(tmp_path)


def test_a_split_that_is_not_there_is_refused_with_those_that_are(dataset):
    with pytest.raises(DatasetError, match="test, train, val"):
        dataset.rows("dev")


@pytest.mark.parametrize("suffix", [".stats.json", ".parquet", ".tar"])
def test_a_shard_that_lacks_a_file_is_not_accepted(damaged, suffix):
    (damaged / f"train-00001{suffix}").unlink()
    with pytest.raises(DatasetError, match="train-00001 is not committed"):
        Dataset.open(damaged).rows("train")


def test_a_shard_whose_tar_was_cut_off_is_not_accepted(damaged):
    tar = damaged / "train-00000.tar"
    os.truncate(tar, tar.stat().st_size - 512)
    with pytest.raises(DatasetError, match="build-shards"):
        Dataset.open(damaged).rows("train")


def test_a_shard_whose_index_the_marker_does_not_know_is_not_accepted(damaged):
    shutil.copy(damaged / "val-00000.parquet", damaged / "test-00000.parquet")
    with pytest.raises(DatasetError, match=r"test-00000\.parquet is not the file"):
        Dataset.open(damaged).table("test")


def test_a_shard_of_another_schema_version_is_not_accepted(damaged):
    write_marker(damaged, "val-00000", schema_version=99)
    with pytest.raises(DatasetError, match="schema version 99"):
        Dataset.open(damaged).table("val")


@pytest.mark.parametrize("stem", ["../train-00000", "sub/train-00000", "/etc/passwd", "a\\b", "..", ""])
def test_a_shard_name_that_leads_elsewhere_is_refused(damaged, stem):
    info = json.loads((damaged / "dataset.json").read_text())
    info["splits"]["train"]["shards"] = [stem]
    (damaged / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="no plain file name"):
        Dataset.open(damaged)


def test_an_index_that_does_not_list_the_members_of_a_sample_is_refused(damaged):
    path = damaged / "val-00000.parquet"
    (row,) = pq.read_table(path).to_pylist()
    for column in ("members", "offsets", "sizes"):
        del row[column][7]
    pq.write_table(pa.Table.from_pylist([row], schema=schema.INDEX), path)
    write_marker(damaged, "val-00000")
    with pytest.raises(DatasetError, match="does not list the members"):
        Dataset.open(damaged).rows("val")


def test_an_index_in_several_row_groups_reads_the_same(damaged, dataset):
    path = damaged / "train-00000.parquet"
    pq.write_table(pq.read_table(path).cast(schema.INDEX), path, row_group_size=1)
    write_marker(damaged, "train-00000")
    rows, expected = Dataset.open(damaged).rows("train"), dataset.rows("train")
    assert rows.sample_keys() == expected.sample_keys()
    for mine, other in zip(rows, expected, strict=True):
        assert np.array_equal(mine.offsets, other.offsets)
        assert np.array_equal(mine.sizes, other.sizes)


@pytest.mark.parametrize("suffix", [".txt", ".parquet"])
def test_a_selection_file_keeps_only_its_keys(dataset, tmp_path, suffix):
    keys = sorted(LONG_KEYS)[:2]
    path = tmp_path / f"chosen{suffix}"
    if suffix == ".txt":
        path.write_text("".join(f"{key}\r\n" for key in keys))
    else:
        pq.write_table(pa.table({"key": keys}), path)
    reader = IndexedReader(dataset, "train", selection=path)
    assert sorted(window.key for window in reader) == keys


def test_a_selection_that_names_nothing_of_the_split_is_refused(dataset):
    with pytest.raises(DatasetError, match="names no sample"):
        dataset.rows("train", ["toy-c_00-000-000"])


# single members


def test_members_are_the_bytes_of_the_tar(dataset, pristine):
    reader = SampleReader(dataset)
    for row in dataset.rows("train"):
        tar = (pristine / f"{row.shard}.tar").read_bytes()
        suffixes = schema.member_suffixes(row.n_frames)
        for offset, size, data in zip(row.offsets, row.sizes, reader.read(row, suffixes), strict=True):
            assert data == tar[offset : offset + size]


def test_decoded_members_have_the_shapes_of_the_contract(dataset):
    reader, row = SampleReader(dataset), dataset.row("toy-a_00-000-001")
    assert (row.frame_start, row.n_frames) == (30, 25)
    assert reader.frames(row, [0, 24]).shape == (2, 32, 32, 3)
    assert np.array_equal(reader.masks(row, [3])[0], mask_plane(32))
    assert reader.landmarks(row).shape == reader.landmarks(row, raw=True).shape == (25, 68, 2)
    assert reader.pcm(row).shape == (640 * 25,)
    assert reader.meta(row)["key"] == row.key
    assert reader.mel(row).shape == (row.n_mel, 80)


def test_frames_are_rgb_and_come_in_the_order_asked_for(dataset, damaged):
    row = dataset.row("toy-c_00-000-000")
    red = jpeg(np.full((32, 32, 3), (250, 10, 10), np.uint8))
    overwrite(damaged, row, "0007.jpg", red)
    # a shorter JPEG in a longer member: what follows its end must go, or it would not be whole
    reader = SampleReader(Dataset.open(damaged))
    with pytest.raises(CorruptSample, match=r"0007\.jpg"):
        reader.frames(row, [7])
    row.sizes[schema.member_suffixes(28).index("0007.jpg")] = len(red)
    frames = reader.frames(row, [9, 7])
    assert np.abs(frames[1].astype(int) - (250, 10, 10)).max() <= 3
    assert np.array_equal(frames[0], reader.frames(row, [9])[0])


@pytest.mark.parametrize("size", [4, 8, 12, 16, 24])
def test_shrunk_frames_stay_in_place(dataset, damaged, size):
    y, x = np.mgrid[0:32, 0:32]
    ramp = np.stack([40 + 5 * x, 40 + 5 * y, 220 - 3 * x - 2 * y], axis=-1).astype(np.uint8)
    row = dataset.row("toy-c_00-000-000")
    data = jpeg(ramp)
    overwrite(damaged, row, "0000.jpg", data)
    row.sizes[schema.member_suffixes(28).index("0000.jpg")] = len(data)
    (small,) = SampleReader(Dataset.open(damaged)).frames(row, [0], size)
    y, x = (np.mgrid[0:size, 0:size] + 0.5) * 32 / size - 0.5
    expected = np.stack([40 + 5 * x, 40 + 5 * y, 220 - 3 * x - 2 * y], axis=-1)
    assert np.abs(small - expected).max() < 4


@pytest.mark.parametrize("size", [31, 24, 16, 12, 8, 7])
def test_a_shrunk_crop_shows_no_trace_of_what_its_shrunk_mask_erases(size):
    plane = np.zeros((64, 64), np.uint8)
    plane[24:48, 16:40] = schema.MaskBit.ERASE  # whole 8x8 blocks, as masks are stored
    erased = plane > 0
    views = []
    for hidden in (np.zeros(3), np.full(3, 255)):
        picture = np.full((64, 64, 3), 120, np.uint8)
        picture[erased] = hidden
        out = np.empty((size, size, 3), np.uint8)
        decode_frame(jpeg(picture), 64, out)
        views.append(out.astype(int))
    mask = np.empty((size, size), np.uint8)
    decode_mask(png(plane), 64, mask)
    shown = mask & schema.MaskBit.ERASE == 0
    assert np.array_equal(views[0][shown], views[1][shown])
    assert not shown.all()
    assert (~shown).mean() < ((24 + 5 * 64 / size) / 64) ** 2


def test_shrunk_masks_keep_the_other_bits_of_the_nearest_pixel():
    plane = mask_plane(32)
    out = np.empty((16, 16), np.uint8)
    decode_mask(png(plane), 32, out)
    others = 0xFF ^ int(schema.MaskBit.ERASE)
    assert np.array_equal(out & others, plane[1::2, 1::2] & others)


def test_only_the_frames_asked_for_are_read(dataset, monkeypatch):
    monkeypatch.setattr(access, "LOCAL_GAP", 512)
    reads: list[tuple[int, int]] = []
    pread = os.pread

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        reads.append((offset, size))
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counting)
    row = dataset.row("toy-c_00-000-000")
    places = [schema.member_suffixes(row.n_frames).index(f"{frame:04d}.jpg") for frame in (2, 9)]
    SampleReader(dataset).frames(row, [9, 2])
    assert reads == [(row.offsets[place], row.sizes[place]) for place in places]


def test_neighbouring_members_are_read_at_once_and_nothing_beyond_them(dataset, monkeypatch):
    reads: list[tuple[int, int]] = []
    pread = os.pread

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        reads.append((offset, size))
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counting)
    row = dataset.row("toy-c_00-000-000")
    SampleReader(dataset).read(row, [f"{i:04d}.{kind}" for i in range(4, 9) for kind in ("jpg", "mask.png")])
    suffixes = schema.member_suffixes(row.n_frames)
    first, last = suffixes.index("0004.jpg"), suffixes.index("0008.mask.png")
    assert reads == [(row.offsets[first], row.offsets[last] + row.sizes[last] - row.offsets[first])]


def test_descriptors_are_bounded_and_a_pickled_reader_opens_its_own(dataset):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    reader = SampleReader(dataset, open_files=1)
    rows = [*dataset.rows("train"), *dataset.rows("val")]
    pcm = [reader.pcm(row) for row in rows]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 1
    copy = pickle.loads(pickle.dumps(reader))
    assert all(np.array_equal(copy.pcm(row), mine) for row, mine in zip(rows, pcm, strict=True))


@pytest.mark.filterwarnings("ignore:This process")  # of Python 3.12: forking while threads run
def test_a_reader_carried_over_a_fork_opens_its_own_files(dataset):
    reader, row = SampleReader(dataset), dataset.row("toy-c_00-000-000")
    expected = reader.pcm(row)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            same = np.array_equal(reader.pcm(row), expected)
            status = 0 if same and reader._files._pid == os.getpid() else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert np.array_equal(reader.pcm(row), expected)


def test_a_remote_data_set_reads_the_same_in_few_requests(dataset, pristine, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(pristine), "/remote-set", recursive=True)
    try:
        remote = Dataset.open("memory://remote-set")
        windows = list(IndexedReader(remote, "train", seed=3))
        for mine, other in zip(windows, IndexedReader(dataset, "train", seed=3), strict=True):
            assert identity(mine) == identity(other)
            assert np.array_equal(mine.frames, other.frames)
        requests = []
        read_range = storage.read_range
        monkeypatch.setattr(storage, "read_range", lambda *args: requests.append(args) or read_range(*args))
        SampleReader(remote).frames(remote.row("toy-c_00-000-000"), [0, 3, 20])
        assert len(requests) == 1
    finally:
        memory.rm("/remote-set", recursive=True)


# the order


def test_an_epoch_visits_every_sample_that_is_long_enough_once(dataset):
    reader = IndexedReader(dataset, "train", seed=1)
    windows = list(reader)
    assert collections.Counter(w.key for w in windows) == dict.fromkeys(LONG_KEYS, 1)
    assert reader.too_short == 1
    assert reader.windows_per_epoch == len(windows)


def test_windows_per_visit_gives_that_many_windows_of_each_sample_in_a_row(dataset):
    keys = [window.key for window in IndexedReader(dataset, "train", windows_per_visit=3)]
    assert collections.Counter(keys) == dict.fromkeys(LONG_KEYS, 3)
    assert keys == [key for key in keys[::3] for _ in range(3)]


def test_the_order_is_a_function_of_seed_and_epoch(dataset):
    def epoch(seed: int, number: int) -> list[tuple]:
        reader = IndexedReader(dataset, "train", seed=seed, windows_per_visit=4)
        reader.set_epoch(number)
        return [identity(window) for window in reader]

    assert epoch(5, 2) == epoch(5, 2)
    assert epoch(5, 2) != epoch(5, 3)
    assert epoch(5, 2) != epoch(6, 2)
    long_run = IndexedReader(dataset, "train", seed=5, windows_per_visit=4)
    assert [[identity(w) for w in long_run] for _ in range(3)][2] == epoch(5, 2)


def test_a_window_can_be_drawn_by_its_position_alone(dataset):
    reader = IndexedReader(dataset, "train", seed=2**63 + 1, windows_per_visit=5)
    windows = list(reader)
    for position in (13, 2, 7):
        draw = reader.draw(0, position)
        expected = windows[position]
        assert (draw.row.key, tuple(draw.indices), tuple(draw.references)) == identity(expected)


@pytest.mark.parametrize(("world_size", "num_workers", "batch_size"), [(1, 1, 1), (2, 1, 1), (3, 2, 2), (1, 7, 3)])
def test_ranks_and_workers_share_an_epoch_without_loss_or_repeat(dataset, world_size, num_workers, batch_size):
    whole = sorted(identity(w) for w in IndexedReader(dataset, "train", windows_per_visit=6))
    parts = []
    for rank in range(world_size):
        for worker in range(num_workers):
            reader = IndexedReader(
                dataset,
                "train",
                windows_per_visit=6,
                rank=rank,
                world_size=world_size,
                worker=worker,
                num_workers=num_workers,
            )
            parts += [identity(w) for batch in reader.batches(batch_size) for w in batch]
    assert sorted(parts) == whole


def test_even_gives_every_rank_the_same_number_of_full_batches(dataset):
    counts = []
    for rank in range(3):
        reader = IndexedReader(dataset, "train", windows_per_visit=5, rank=rank, world_size=3, even=True)
        counts.append([len(batch) for batch in reader.batches(2)])
    assert counts == [[2, 2, 2]] * 3


def test_resuming_in_the_middle_of_an_epoch_continues_exactly(dataset):
    whole = IndexedReader(dataset, "train", seed=9, windows_per_visit=4)
    expected = [identity(w) for w in whole] + [identity(w) for w in whole]
    for used in (0, 1, 7, 15, 16):
        first = IndexedReader(dataset, "train", seed=9, windows_per_visit=4)
        iterator = iter(first)
        start = [identity(next(iterator)) for _ in range(used)]
        state = json.loads(json.dumps(first.state_dict()))
        second = IndexedReader(dataset, "train", seed=9, windows_per_visit=4)
        second.load_state_dict(state)
        second.set_epoch(0)  # as training loops do at the head of an epoch: must not rewind
        rest = [identity(w) for w in second]
        if used < 16:
            rest += [identity(w) for w in second]
            assert start + rest == expected


def test_resuming_with_another_number_of_processes_gives_what_was_left(dataset):
    def part(rank: int, world_size: int) -> IndexedReader:
        return IndexedReader(dataset, "train", windows_per_visit=6, rank=rank, world_size=world_size)

    used = []
    for rank in range(3):
        reader = part(rank, 3)
        batches = reader.batches(2)
        used += [identity(w) for _ in range(2) for w in next(batches)]
    state = reader.state_dict()
    assert state["position"] == len(used) == 12
    rest = []
    for rank in range(2):
        reader = part(rank, 2)
        reader.load_state_dict(state)
        rest += [identity(w) for w in reader]
    whole = [identity(w) for w in part(0, 1)]
    assert sorted(used) == sorted(whole[:12])
    assert sorted(rest) == sorted(whole[12:])


def test_a_state_of_another_order_is_refused(dataset):
    state = IndexedReader(dataset, "train", seed=1).state_dict()
    with pytest.raises(DatasetError, match="seed"):
        IndexedReader(dataset, "train", seed=2).load_state_dict(state)
    with pytest.raises(DatasetError, match="samples"):
        IndexedReader(dataset, "train", seed=1, selection=sorted(LONG_KEYS)[:2]).load_state_dict(state)


def test_reference_windows_do_not_overlap_the_window(dataset):
    for window in IndexedReader(dataset, "train", windows_per_visit=30):
        assert not set(window.indices) & set(window.reference_indices)
        assert np.array_equal(np.diff(window.reference_indices), [1] * 4)


def test_a_segment_without_room_still_gets_a_reference():
    generator = np.random.default_rng(0)
    segment = type("S", (), {"n_frames": 7})()
    for start in range(3):
        reference = another_window(segment, start, 5, generator)
        assert reference[0] != start
        assert 0 <= reference[0] <= reference[-1] < 7
    segment.n_frames = 5
    assert list(another_window(segment, 0, 5, generator)) == [0, 1, 2, 3, 4]


def test_the_chooser_of_references_can_be_replaced(dataset):
    def ends(segment, start, frames, generator):
        return np.array([0, segment.n_frames - 1])

    for window in IndexedReader(dataset, "train", references=ends):
        assert list(window.reference_indices) == [0, window.segment.n_frames - 1]
        assert window.references.shape == (2, 32, 32, 3)


@pytest.mark.parametrize("options", [{"frames": 0}, {"rank": 2, "world_size": 2}, {"rank": 1}, {"size": 0}])
def test_numbers_that_make_no_sense_are_refused(dataset, options):
    with pytest.raises(UsageError):
        IndexedReader(dataset, "train", **options)


def test_a_split_of_clips_all_too_short_is_refused(dataset):
    with pytest.raises(DatasetError, match="no window of 200 frames"):
        IndexedReader(dataset, "train", frames=200)


# windows


@pytest.mark.parametrize("mel_offset", [-2, -1, 0, 1])
def test_mel_windows_equal_those_of_the_whole_clip(dataset, mel_offset):
    reader = IndexedReader(dataset, "train", windows_per_visit=40, mel_offset=mel_offset)
    for window in reader:
        whole = clip_mel(OF_CLIP[window.segment.clip])
        clip_frames = window.segment.frame_start + window.indices
        expected = np.stack([mel_window(whole, int(frame), mel_offset).T for frame in clip_frames])
        assert np.array_equal(window.mel, expected)
        assert np.array_equal(window.sync_mel, mel_window(whole, int(clip_frames[0])).T)


def test_a_long_window_hears_all_of_its_frames(dataset):
    for window in IndexedReader(dataset, "train", frames=20):
        whole = clip_mel(OF_CLIP[window.segment.clip])
        first = window.segment.frame_start + int(window.indices[0])
        assert np.array_equal(window.sync_mel, mel_window(whole, first, width=64).T)


def test_windows_that_would_hear_what_is_before_the_clip_are_not_drawn(dataset):
    reader = IndexedReader(dataset, "train", windows_per_visit=200, mel_offset=-1)
    starts = collections.defaultdict(set)
    for position in range(reader.windows_per_epoch):
        draw = reader.draw(0, position)
        starts[draw.row.key].add(int(draw.indices[0]))
    assert min(starts["toy-a_00-000-000"]) == 1
    assert min(starts["toy-a_00-000-001"]) == 0


@pytest.mark.parametrize("mel_offset", range(-7, 8))
@pytest.mark.parametrize("frames", [1, 5])
def test_windows_start_wherever_the_stored_mel_tells_the_truth_and_nowhere_else(dataset, mel_offset, frames):
    for row in dataset.rows("train"):
        clip = OF_CLIP[row.clip]
        whole = clip_mel(clip)
        stored = whole[row.mel_start : row.mel_start + row.n_mel]

        def true_at(start: int, row=row, whole=whole, stored=stored) -> bool:
            for frame in range(row.frame_start + start, row.frame_start + start + frames):
                try:
                    mine = mel_window(stored, frame, mel_offset, first_column=row.mel_start)
                    if not np.array_equal(mine, mel_window(whole, frame, mel_offset)):
                        return False
                except (IndexError, ValueError):
                    return False
            return True

        expected = [start for start in range(row.n_frames - frames + 1) if true_at(start)]
        starts = window_starts(vars(row), frames, mel_offset)
        assert list(range(int(starts.first), int(starts.last) + 1)) == expected


def test_a_window_holds_the_frames_masks_and_landmarks_of_its_indices(dataset):
    samples = SampleReader(dataset)
    for window in IndexedReader(dataset, "train"):
        row = dataset.row(window.key)
        assert np.array_equal(window.frames, samples.frames(row, window.indices))
        assert np.array_equal(window.masks, samples.masks(row, window.indices))
        assert np.array_equal(window.landmarks, samples.landmarks(row)[window.indices])
        assert np.array_equal(window.references, samples.frames(row, window.reference_indices))
        assert np.array_equal(window.reference_landmarks, samples.landmarks(row)[window.reference_indices])


def test_landmarks_follow_the_size_of_the_pictures(dataset):
    full, half = (IndexedReader(dataset, "train", size=size) for size in (None, 16))
    for large, small in zip(full, half, strict=True):
        assert small.frames.shape == (5, 16, 16, 3)
        assert small.masks.shape == (5, 16, 16)
        np.testing.assert_allclose((small.landmarks + 0.5) * 2, large.landmarks + 0.5, atol=1e-4)


def test_collate_stacks_windows_to_a_batch(dataset):
    batch = collate(list(IndexedReader(dataset, "train")))
    assert len(batch["key"]) == 4
    assert batch["frames"].shape == (4, 5, 32, 32, 3)
    assert batch["mel"].shape == (4, 5, 80, 16)


# damage


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("0003.jpg", "zeros"),
        ("0003.jpg", "cut"),
        ("0003.mask.png", "zeros"),
        ("0003.mask.png", "cut"),
        ("mel.npy", "zeros"),
        ("landmarks.npy", "zeros"),
    ],
)
def test_a_corrupt_member_is_skipped_logged_and_counted(damaged, caplog, suffix, damage):
    dataset = Dataset.open(damaged)
    row = dataset.row("toy-a_01-000-000")
    place = schema.member_suffixes(row.n_frames).index(suffix)
    data = SampleReader(dataset).read(row, [suffix])[0]
    kept = data[: int(row.sizes[place]) // 2] if damage == "cut" else b""
    overwrite(damaged, row, suffix, kept)
    reader = IndexedReader(dataset, "train", frames=row.n_frames - 2)  # frame 3 is in every window
    with caplog.at_level(logging.WARNING):
        keys = [window.key for window in reader]
    assert row.key not in keys
    assert len(keys) == len(set(keys)) == reader.windows_per_epoch - 1
    assert reader.skipped == {row.key: 1}
    assert row.key in caplog.text


def test_a_picture_of_another_size_is_corrupt(damaged):
    dataset = Dataset.open(damaged)
    row = dataset.row("toy-a_01-000-000")
    small = jpeg(np.zeros((16, 16, 3), np.uint8))
    overwrite(damaged, row, "0000.jpg", small)
    row.sizes[schema.member_suffixes(row.n_frames).index("0000.jpg")] = len(small)
    with pytest.raises(CorruptSample, match="16x16"):
        SampleReader(dataset).frames(row, [0])


def test_a_tar_cut_while_it_is_read_is_a_skip_not_a_crash(damaged):
    reader = IndexedReader(Dataset.open(damaged), "train")
    os.truncate(damaged / "train-00000.tar", 100_000)
    keys = {window.key for window in reader}
    assert keys | set(reader.skipped) == LONG_KEYS
    assert "toy-b_01-000-000" in keys
    assert reader.skipped


def test_an_epoch_in_which_nothing_could_be_read_is_an_error(damaged):
    reader = IndexedReader(Dataset.open(damaged), "val")
    tar = damaged / "val-00000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(DatasetError, match="could be read"):
        list(reader)


def test_a_skipped_window_counts_as_used_when_resuming(damaged):
    dataset = Dataset.open(damaged)
    row = dataset.row("toy-a_01-000-000")
    overwrite(damaged, row, schema.MEL, b"")
    expected = [identity(w) for w in IndexedReader(dataset, "train")]
    for used in range(3):
        first = IndexedReader(dataset, "train")
        iterator = iter(first)
        start = [identity(next(iterator)) for _ in range(used)]
        second = IndexedReader(dataset, "train")
        second.load_state_dict(first.state_dict())
        assert start + [identity(w) for w in second] == expected


# torch and webdataset


def test_torch_workers_share_an_epoch_and_batches_come_in_the_order(dataset):
    torch = pytest.importorskip("torch")
    reader = IndexedReader(dataset, "train", windows_per_visit=2)
    expected = [w.key for w in IndexedReader(dataset, "train", windows_per_visit=2)]
    loader = torch.utils.data.DataLoader(as_torch(reader, 2), batch_size=None, num_workers=2)
    batches = list(loader)
    assert [key for batch in batches for key in batch["key"]] == expected
    assert batches[0]["frames"].dtype == torch.uint8
    assert batches[0]["mel"].shape == (2, 5, 80, 16)


def test_torch_default_collation_works_on_single_windows(dataset):
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(as_torch(IndexedReader(dataset, "train")), batch_size=4)
    (batch,) = loader
    assert set(batch["key"]) == LONG_KEYS
    assert batch["masks"].shape == (4, 5, 32, 32)


def test_the_stream_yields_every_committed_key_once_in_one_pass(pristine):
    pytest.importorskip("webdataset")
    samples = {sample["key"]: sample for sample in stream(pristine, "train", resampled=False)}
    assert samples.keys() == TRAIN_KEYS
    dataset = Dataset.open(pristine)
    reader, row = SampleReader(dataset), dataset.row("toy-a_00-000-001")
    sample = samples[row.key]
    assert np.array_equal(sample["frames"], reader.frames(row, range(row.n_frames)))
    assert np.array_equal(sample["masks"], reader.masks(row, range(row.n_frames)))
    assert np.array_equal(sample["mel"], read_npy(reader.read(row, [schema.MEL])[0]))
    assert np.array_equal(sample["pcm"], read_wav(reader.read(row, [schema.WAV])[0]))
    assert sample["meta"]["identity"] == "anna"


def test_a_resampled_stream_goes_on_and_repeats_for_a_seed(pristine):
    pytest.importorskip("webdataset")

    def draws(seed: int) -> list[tuple[str, tuple[int, ...]]]:
        pipeline = stream(pristine, "train", window=5, seed=seed, shuffle=4, size=16)
        return [(item["key"], tuple(item["indices"])) for item, _ in zip(pipeline, range(30), strict=False)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert {key for key, _ in draws(1)} <= LONG_KEYS


def test_the_stream_gives_the_windows_of_the_contract(pristine):
    pytest.importorskip("webdataset")
    items = list(stream(pristine, "train", window=5, resampled=False, mel_offset=-1))
    assert {item["key"] for item in items} == LONG_KEYS
    for item in items:
        clip = OF_CLIP[item["key"].split("-")[1]]
        frame = Dataset.open(pristine).row(item["key"]).frame_start + int(item["indices"][2])
        assert np.array_equal(item["mel"][2], mel_window(clip_mel(clip), frame, -1).T)


def test_the_stream_skips_a_corrupt_sample_and_counts_it(damaged):
    pytest.importorskip("webdataset")
    row = Dataset.open(damaged).row("toy-a_01-000-000")
    overwrite(damaged, row, "0003.jpg", b"")
    skipped: collections.Counter[str] = collections.Counter()
    keys = [item["key"] for item in stream(damaged, "train", resampled=False, skipped=skipped)]
    assert sorted(keys) == sorted(TRAIN_KEYS - {row.key})
    assert skipped == {row.key: 1}


def test_the_stream_survives_a_tar_that_breaks_off_in_the_middle(damaged):
    pytest.importorskip("webdataset")
    row = Dataset.open(damaged).row("toy-a_00-000-001")
    tar = damaged / f"{row.shard}.tar"
    data = bytearray(tar.read_bytes())
    header = int(row.offsets[20]) - 512
    data[header : header + 512] = b"\xff" * 512
    tar.write_bytes(data)
    skipped: collections.Counter[str] = collections.Counter()
    keys = [item["key"] for item in stream(damaged, "train", resampled=False, skipped=skipped)]
    assert set(keys) | set(skipped) >= TRAIN_KEYS
    assert row.key in skipped
    assert "toy-b_01-000-000" in keys


def test_the_stream_refuses_a_shard_that_is_not_committed(damaged):
    pytest.importorskip("webdataset")
    (damaged / "val-00000.stats.json").unlink()
    with pytest.raises(DatasetError, match="not committed"):
        list(stream(damaged, "val", resampled=False))


def test_keys_longer_than_a_tar_header_are_read(tmp_path):
    clip = SyntheticClip("x" * 140, "zoe", "train", ((0, 8),), 8)
    root = write_dataset(tmp_path / "set", [clip])
    (window,) = IndexedReader(Dataset.open(root), "train")
    assert window.key.startswith("toy-" + "x" * 140)
    assert [s["key"] for s in stream(root, "train", resampled=False)] == [window.key]
