"""Every fault that can be put into a data set is found, and a sound one has none."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from g4g_core import storage
from g4g_core.errors import DatasetError
from prep.shards import schema
from prep.shards.findings import Code
from prep.shards.sample import BLOCK, TarAppender, json_bytes, npy_bytes
from prep.shards.tar_walk import BrokenTar, TarWalk
from prep.shards.verify import verify
from tests.prep.synthetic_shards import CLIPS, SyntheticClip, jpeg, png, write_dataset, write_marker

SHARD = "train-00000"
KEY = "toy-a_00-000-000"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("shards") / "set")


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "set"))


def codes(root: Path, *, deep: bool = False) -> set[Code]:
    return {finding.code for finding in verify(root, deep=deep).findings}


def members_of(root: Path, stem: str = SHARD) -> list[tuple[str, bytes]]:
    with tarfile.open(root / f"{stem}.tar") as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def rewrite_tar(root: Path, members: list[tuple[str, bytes]], *, index: bool = True, stem: str = SHARD) -> None:
    """Write the tar anew; with ``index`` its offsets and sizes too, and a marker that fits: only ``members`` lie."""
    stream = io.BytesIO()
    tar = TarAppender(stream)
    places = {name: tar.add(name, data) for name, data in members}
    tar.finish()
    (root / f"{stem}.tar").write_bytes(stream.getvalue())
    if index:

        def move(row: dict[str, Any]) -> None:
            names = [f"{row['key']}.{suffix}" for suffix in row["members"]]
            old = list(zip(row["offsets"], row["sizes"], strict=True))
            new = [places.get(name, place) for name, place in zip(names, old, strict=True)]
            row["offsets"], row["sizes"] = (list(column) for column in zip(*new, strict=True))

        edit_index(root, move, stem)
    write_marker(root, stem)


def edit_index(root: Path, edit: Callable[[dict[str, Any]], None], stem: str = SHARD) -> None:
    path = root / f"{stem}.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        edit(row)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.INDEX), path)
    write_marker(root, stem)


def edit_json(root: Path, name: str, edit: Callable[[Any], None]) -> None:
    value = json.loads((root / name).read_text())
    edit(value)
    (root / name).write_text(json.dumps(value))


def replace_member(root: Path, name: str, data: bytes) -> None:
    rewrite_tar(root, [(member, data if member == name else old) for member, old in members_of(root)])


# sound


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_data_set_has_no_findings(pristine, deep):
    report = verify(pristine, deep=deep)
    assert report.ok
    assert (report.shards, report.samples) == (4, 7)
    assert report.bytes == sum(path.stat().st_size for path in pristine.glob("*.tar"))
    assert report.members == sum(len(members_of(pristine, path.stem)) for path in pristine.glob("*.tar"))


def test_a_data_set_rewritten_by_the_tests_own_tools_is_still_sound(root):
    rewrite_tar(root, members_of(root))
    assert verify(root, deep=True).ok


def test_long_names_are_sound(tmp_path):
    root = write_dataset(tmp_path / "set", [SyntheticClip("y" * 150, "yvo", "train", ((0, 6),), 6)])
    assert verify(root, deep=True).ok


def test_a_remote_data_set_is_verified_too(pristine):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.put(str(pristine), "/verify-set", recursive=True)
    try:
        assert verify("memory://verify-set", deep=True).ok
        storage.delete("memory://verify-set/val-00000.tar")
        assert {f.code for f in verify("memory://verify-set").findings} == {Code.MISSING_FILE}
    finally:
        memory.rm("/verify-set", recursive=True)


def test_nothing_is_written_while_verifying(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert verify(root, deep=True).ok
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_progress_names_every_shard(pristine):
    seen: list[tuple[int, int, str]] = []
    verify(pristine, progress=lambda *step: seen.append(step))
    assert [step[:2] for step in seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert {step[2] for step in seen} == {path.stem for path in pristine.glob("*.tar")}


def test_a_report_is_plain_data(root):
    (root / "extra.tar").write_bytes(b"")
    report = json.loads(json.dumps(verify(root).to_json()))
    assert report["findings"][0]["code"] == "foreign_tar"
    assert report["findings"][0]["where"] == "extra.tar"


# the folder


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DatasetError):
        verify(tmp_path / "nothing")


def test_a_missing_dataset_json_is_found(root):
    (root / "dataset.json").unlink()
    assert Code.NO_DATASET in codes(root)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"splits": {"train": 3}}',
        '{"splits": {"train": {}}}',
        '{"splits": {}, "sources": []}',
    ],
)
def test_a_dataset_json_that_is_none_is_found(root, text):
    (root / "dataset.json").write_text(text)
    assert Code.NO_DATASET in codes(root)


def test_another_schema_version_is_found(root):
    edit_json(root, "dataset.json", lambda info: info.update(schema_version=7))
    assert Code.SCHEMA_VERSION in codes(root)


@pytest.mark.parametrize("stem", ["../outside", "/tmp/outside", "sub/train-00000", "a\\b", "..", 5])
def test_a_shard_name_that_leads_elsewhere_is_found_and_never_opened(root, monkeypatch, stem):
    opened: list[str] = []
    for name in ("open_read", "read_bytes"):
        real = getattr(storage, name)
        monkeypatch.setattr(storage, name, lambda url, real=real: opened.append(os.fspath(url)) or real(url))
    edit_json(root, "dataset.json", lambda info: info["splits"]["train"]["shards"].append(stem))
    assert Code.UNSAFE_SHARD_NAME in codes(root)
    assert opened
    assert {Path(url).parent for url in opened} == {root, root / "splits"}
    assert not any(Path(url).name.startswith(("outside", "5", "a")) for url in opened)


@pytest.mark.parametrize("suffix", [".tar", ".parquet", ".stats.json"])
def test_a_shard_that_lacks_a_file_is_found(root, suffix):
    (root / f"{SHARD}{suffix}").unlink()
    assert Code.MISSING_FILE in codes(root)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("train-00009.tar", Code.FOREIGN_TAR),
        ("notes.tar", Code.FOREIGN_TAR),
        ("train-00009.parquet", Code.FOREIGN_INDEX),
        ("train-00009.stats.json", Code.FOREIGN_MARKER),
    ],
)
def test_a_foreign_file_is_found(root, name, code):
    (root / name).write_bytes(b"whatever")
    assert codes(root) == {code}


def test_a_foreign_shard_complete_with_its_marker_is_found(root):
    for suffix in (".tar", ".parquet", ".stats.json"):
        shutil.copy(root / f"{SHARD}{suffix}", root / f"train-00077{suffix}")
    assert codes(root) == {Code.FOREIGN_TAR, Code.FOREIGN_INDEX, Code.FOREIGN_MARKER}


# a shard


@pytest.mark.parametrize("where", [0.1, 0.37, 0.5, 0.73, 0.999])
def test_a_flipped_byte_in_a_tar_is_found(root, where):
    path = root / f"{SHARD}.tar"
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 0x20
    path.write_bytes(data)
    assert Code.TAR_SHA256 in codes(root)


def test_a_flipped_byte_in_an_index_is_found(root):
    path = root / f"{SHARD}.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x20
    path.write_bytes(data)
    assert Code.INDEX_SHA256 in codes(root)


def test_a_truncated_tar_is_found(root):
    path = root / f"{SHARD}.tar"
    os.truncate(path, path.stat().st_size // 2)
    assert {Code.TAR_SHA256, Code.BAD_TAR, Code.MISSING_MEMBER} <= codes(root)


def test_a_tar_of_nothing_is_found(root):
    (root / f"{SHARD}.tar").write_bytes(b"")
    write_marker(root, SHARD)
    assert {Code.BAD_TAR, Code.ROW_WITHOUT_SAMPLE} <= codes(root)


def test_bytes_after_the_end_of_a_tar_are_found(root):
    with open(root / f"{SHARD}.tar", "ab") as tar:
        tar.write(bytes(BLOCK) + b"hidden")
    write_marker(root, SHARD)
    assert codes(root) == {Code.BAD_TAR}


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"sha256": "0"}', "null"])
def test_a_marker_that_is_none_is_found(root, text):
    (root / f"{SHARD}.stats.json").write_text(text)
    assert codes(root) == {Code.BAD_MARKER}


def test_the_marker_of_another_shard_is_found(root):
    shutil.copy(root / "val-00000.stats.json", root / f"{SHARD}.stats.json")
    assert {Code.STALE_MARKER, Code.TAR_SHA256, Code.INDEX_SHA256} <= codes(root)


def test_the_marker_of_an_older_tar_is_found(root):
    old = (root / f"{SHARD}.stats.json").read_bytes()
    members = members_of(root)
    members[0] = (members[0][0], members[0][1] + b" ")
    rewrite_tar(root, members)
    (root / f"{SHARD}.stats.json").write_bytes(old)
    assert codes(root) == {Code.TAR_SHA256, Code.INDEX_SHA256}


@pytest.mark.parametrize(
    "fields",
    [{"schema_version": 0}, {"shard": "train-00001"}, {"samples": 99}, {"frames": 1}, {"seconds": 0.0}],
)
def test_a_stale_marker_is_found(root, fields):
    write_marker(root, SHARD, **fields)
    assert codes(root) == {Code.STALE_MARKER}


def test_a_marker_of_another_build_than_dataset_json_is_found(root):
    edit_json(root, "dataset.json", lambda info: info.update(fingerprints={SHARD: "synthetic"}))
    assert codes(root) == set()
    write_marker(root, SHARD, fingerprint="another configuration")
    assert codes(root) == {Code.STALE_MARKER}


def test_an_index_that_is_no_parquet_is_found(root):
    (root / f"{SHARD}.parquet").write_bytes(b"PAR1 not really PAR1")
    write_marker(root, SHARD)
    assert Code.BAD_INDEX in codes(root)


def test_an_index_without_a_column_is_found(root):
    path = root / f"{SHARD}.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["identity"]), path)
    write_marker(root, SHARD)
    assert Code.BAD_INDEX in codes(root)


def test_an_index_with_holes_in_a_column_is_found(root):
    path = root / f"{SHARD}.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("members")
    table = table.set_column(place, "members", pa.nulls(len(table), table.schema.field("members").type))
    pq.write_table(table, path)
    write_marker(root, SHARD)
    assert Code.BAD_INDEX in codes(root)


# names that try to leave the folder


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "a/../../evil.jpg", "/tmp/evil.jpg", "C:/evil.jpg", "..\\evil.jpg", ".."]
)
def test_a_member_name_that_leads_elsewhere_is_found(root, name):
    rewrite_tar(root, [*members_of(root), (name, b"boo")])
    assert codes(root) == {Code.UNSAFE_MEMBER}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, b"x"]
)
def test_a_member_that_is_no_plain_file_is_found(root, kind):
    info = tarfile.TarInfo("innocent.jpg")
    info.type, info.linkname = kind, "../../etc/passwd"
    path = root / f"{SHARD}.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + path.read_bytes())

    def move(row: dict[str, Any]) -> None:
        row["offsets"] = [offset + BLOCK for offset in row["offsets"]]

    edit_index(root, move)
    assert codes(root) == {Code.UNSAFE_MEMBER}


# samples


@pytest.mark.parametrize("suffix", ["json", "mel.npy", "0011.jpg", "0029.mask.png"])
def test_a_missing_member_is_found(root, suffix):
    rewrite_tar(root, [pair for pair in members_of(root) if pair[0] != f"{KEY}.{suffix}"])
    assert codes(root) == {Code.MISSING_MEMBER}


def test_a_member_that_no_sample_has_is_found(root):
    members = members_of(root)
    at = next(i for i, (name, _) in enumerate(members) if name.startswith(KEY)) + 3
    rewrite_tar(root, [*members[:at], (f"{KEY}.secret.txt", b"?"), *members[at:]])
    assert codes(root) == {Code.UNKNOWN_MEMBER}


def test_a_member_that_is_there_twice_is_found(root):
    members = members_of(root)
    rewrite_tar(root, [members[0], *members])
    assert Code.UNKNOWN_MEMBER in codes(root)


def test_a_row_without_a_sample_is_found(root):
    rewrite_tar(root, [pair for pair in members_of(root) if not pair[0].startswith(f"{KEY}.")])
    assert codes(root) == {Code.ROW_WITHOUT_SAMPLE}


def test_a_sample_without_a_row_is_found(root):
    path = root / f"{SHARD}.parquet"
    rows = [row for row in pq.read_table(path).to_pylist() if row["key"] != KEY]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.INDEX), path)
    write_marker(root, SHARD)
    found = codes(root)
    assert Code.SAMPLE_WITHOUT_ROW in found
    assert Code.COUNTS in found


@pytest.mark.parametrize("column", ["offsets", "sizes"])
def test_an_offset_or_size_that_is_off_by_one_is_found(root, column):
    def shift(row: dict[str, Any]) -> None:
        if row["key"] == KEY:
            row[column][9] += 1

    edit_index(root, shift)
    assert codes(root) == {Code.MEMBER_PLACE}


def test_members_in_another_order_are_found(root):
    members = members_of(root)
    members[3], members[4] = members[4], members[3]
    rewrite_tar(root, members)
    assert codes(root) == {Code.MEMBER_PLACE}


def test_a_row_that_lists_too_few_members_is_found(root):
    def forget(row: dict[str, Any]) -> None:
        if row["key"] == KEY:
            for column in ("members", "offsets", "sizes"):
                del row[column][6]

    edit_index(root, forget)
    assert codes(root) == {Code.BAD_INDEX}


def test_a_key_in_two_shards_is_found(root):
    rewrite_tar(root, members_of(root), stem=SHARD)
    for suffix in (".tar", ".parquet", ".stats.json"):
        shutil.copy(root / f"{SHARD}{suffix}", root / f"train-00002{suffix}")
    write_marker(root, "train-00002", shard="train-00002")
    edit_json(root, "dataset.json", lambda info: info["splits"]["train"]["shards"].append("train-00002"))
    assert Code.DUPLICATE_KEY in codes(root)


def test_a_key_twice_in_one_tar_is_found(root):
    members = members_of(root)
    first = [pair for pair in members if pair[0].startswith(f"{KEY}.")]
    rewrite_tar(root, [*members, *first], index=False)
    assert Code.DUPLICATE_KEY in codes(root)


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff\xfe", b"", b"[" * 100_000])
def test_a_json_member_that_is_none_is_found(root, data):
    replace_member(root, f"{KEY}.json", data)
    assert codes(root) == {Code.BAD_JSON}


@pytest.mark.parametrize(
    ("field", "value"),
    [("identity", "someone else"), ("mel_start", 3), ("schema_version", 0), ("split", "test")],
)
def test_a_json_member_that_contradicts_the_index_is_found(root, field, value):
    meta = json.loads(dict(members_of(root))[f"{KEY}.json"])
    replace_member(root, f"{KEY}.json", json_bytes({**meta, field: value}))
    assert codes(root) == {Code.JSON_DISAGREES}


def test_a_json_member_without_a_field_that_places_it_is_found(root):
    meta = json.loads(dict(members_of(root))[f"{KEY}.json"])
    del meta["frame_start"]
    replace_member(root, f"{KEY}.json", json_bytes(meta))
    assert codes(root) == {Code.JSON_DISAGREES}


# deep


def broken_members() -> list[tuple[str, bytes]]:
    picture = np.zeros((32, 32, 3), np.uint8)
    return [
        ("0004.jpg", b"\xff\xd8 not a picture \xff\xd9"),
        ("0004.jpg", jpeg(picture)[:-20]),
        ("0004.jpg", jpeg(picture[:16, :16])),
        ("0004.mask.png", png(picture)),
        ("0004.mask.png", png(np.zeros((32, 16), np.uint8))),
        ("0004.mask.png", png(np.full((32, 32), 64, np.uint8))),
        ("0004.mask.png", jpeg(picture)),
        ("landmarks.npy", npy_bytes(np.zeros((29, 68, 2), np.float32))),
        ("landmarks.npy", npy_bytes(np.zeros((30, 68, 2), np.float64))),
        ("landmarks_raw.npy", npy_bytes(np.full((30, 68, 2), np.nan, np.float32))),
        ("mel.npy", npy_bytes(np.zeros((80, 80), np.float32))),
        ("mel.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"),
        ("wav", b"RIFF"),
    ]


@pytest.mark.parametrize(("suffix", "data"), broken_members())
def test_a_member_that_cannot_be_used_is_found_when_looking_deep(root, suffix, data):
    replace_member(root, f"{KEY}.{suffix}", data)
    assert codes(root) == set()
    assert codes(root, deep=True) == {Code.BAD_MEMBER}


@pytest.mark.parametrize("bits", [schema.MaskBit.LIPS, schema.MaskBit.MOUTH, schema.MaskBit.LIPS | 4])
def test_masks_that_do_not_nest_are_found_when_looking_deep(root, bits):
    plane = np.zeros((32, 32), np.uint8)
    plane[20, 20] = int(bits)
    replace_member(root, f"{KEY}.0012.mask.png", png(plane))
    report = verify(root, deep=True)
    assert {finding.code for finding in report.findings} == {Code.MASKS_DO_NOT_NEST}
    assert f"{KEY}.0012.mask.png" in report.findings[0].where


def test_a_picture_with_alpha_is_found_when_looking_deep(root):
    data = cv2.imencode(".png", np.zeros((32, 32, 4), np.uint8))[1].tobytes()
    replace_member(root, f"{KEY}.0000.mask.png", data)
    assert codes(root, deep=True) == {Code.BAD_MEMBER}


# all shards together


@pytest.mark.parametrize("name", ["clips", "identities", "samples", "frames", "seconds"])
def test_a_count_of_dataset_json_that_is_wrong_is_found(root, name):
    edit_json(root, "dataset.json", lambda info: info["splits"]["train"].update({name: 1234}))
    assert codes(root) == {Code.COUNTS}


def test_a_count_of_a_source_that_is_wrong_is_found(root):
    edit_json(root, "dataset.json", lambda info: info["sources"]["toy"].update(frames=1))
    assert codes(root) == {Code.COUNTS}


def test_a_split_list_that_differs_from_the_shards_is_found(root):
    (root / "splits" / "val.txt").write_text("toy/somebody\n")
    assert [f.code for f in verify(root).findings] == [Code.COUNTS, Code.COUNTS]


def test_a_missing_split_list_is_found(root):
    (root / "splits" / "val.txt").unlink()
    assert codes(root) == {Code.MISSING_FILE}


def edit_manifest(root: Path, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    path = root / "manifest.parquet"
    rows = pq.read_table(path).to_pylist()
    edit(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.MANIFEST), path)


@pytest.mark.parametrize("column", ["n_samples", "n_frames"])
def test_a_manifest_that_counts_otherwise_is_found(root, column):
    edit_manifest(root, lambda rows: rows[0].update({column: 77}))
    assert codes(root) == {Code.COUNTS}


@pytest.mark.parametrize("fields", [{"outcome": "rejected"}, {"split": "val"}, {"identity": "nobody"}])
def test_a_manifest_that_contradicts_the_index_is_found(root, fields):
    edit_manifest(root, lambda rows: rows[0].update(fields))
    assert codes(root) == {Code.BAD_MANIFEST}


def test_a_clip_with_samples_and_no_row_in_the_manifest_is_found(root):
    edit_manifest(root, lambda rows: rows.pop(0))
    assert codes(root) == {Code.BAD_MANIFEST}


def test_a_clip_twice_in_the_manifest_is_found(root):
    edit_manifest(root, lambda rows: rows.append(rows[-1]))
    assert codes(root) == {Code.BAD_MANIFEST}


def test_a_missing_or_broken_manifest_is_found(root):
    (root / "manifest.parquet").write_bytes(b"no")
    assert codes(root) == {Code.BAD_MANIFEST}
    (root / "manifest.parquet").unlink()
    assert codes(root) == {Code.MISSING_FILE}


@pytest.mark.parametrize("fields", [{"identity": "anna"}, {"video_id": "upload-b"}])
def test_an_identity_or_upload_in_two_splits_is_found(tmp_path, fields):
    leaking = [*CLIPS, SyntheticClip(**{**vars(CLIPS[-1]), "clip": "z/00", **fields})]
    report = verify(write_dataset(tmp_path / "set", leaking))
    assert [finding.code for finding in report.findings] == [Code.LEAK]
    assert "train" in report.findings[0].detail
    assert "test" in report.findings[0].detail


# the walk through a tar


def test_walking_a_tar_agrees_with_the_standard_library(pristine):
    path = pristine / f"{SHARD}.tar"
    with open(path, "rb") as stream, tarfile.open(path) as tar:
        walked = [(e.name, e.offset, e.size, e.plain) for e in TarWalk(stream)]
        assert walked == [(i.name, i.offset_data, i.size, i.isreg()) for i in tar]


@pytest.mark.parametrize("seed", range(60))
def test_a_tar_with_flipped_bytes_never_crashes_the_walk(pristine, seed):
    data = bytearray((pristine / "val-00000.tar").read_bytes())
    generator = np.random.default_rng(seed)
    headers = [i for i in range(0, len(data), BLOCK) if data[i + 257 : i + 262] == b"ustar"]
    for _ in range(4):
        data[int(generator.choice(headers)) + int(generator.integers(BLOCK))] ^= int(generator.integers(1, 256))
    walk = TarWalk(io.BytesIO(data), keep=("",))
    try:
        for entry in walk:
            assert entry.size >= 0
    except BrokenTar:
        pass
    assert walk.position == len(data)  # whatever happened, every byte has been hashed
