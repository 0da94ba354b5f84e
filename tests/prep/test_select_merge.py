from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from edited_shards import edit_description, edit_index, edit_manifest, write_sound_dataset
from synthetic_shards import CLIPS, SyntheticClip

from g4g_core.errors import DatasetError, UsageError
from prep.cli import main
from prep.merge import merge
from prep.select import parse_conditions, select
from prep.shards.access import SampleReader
from prep.shards.index import Dataset, selection_command
from prep.shards.schema import SELECTION_METADATA
from prep.shards.verify import verify
from prep.summary import load_tables

OTHERS = (
    SyntheticClip("x/00", "xena", "train", ((0, 30),), 30),
    SyntheticClip("y/00", "yuri", "dev", ((0, 26),), 26),
    SyntheticClip("z/00", "zoe", "test", ((0, 26),), 26, "upload-z"),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sets")
    second = write_sound_dataset(folder / "second", clips=OTHERS, size=32)
    edit_manifest(second, lambda row: row.update(clip=row["clip"].replace("e_00", "f_00")))
    return write_sound_dataset(folder / "first", clips=CLIPS, size=32), second


@pytest.fixture
def roots(prepared: tuple[Path, Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(root, tmp_path / root.name)) for root in prepared]


@pytest.fixture
def root(roots: list[Path]) -> Path:
    def number(row: dict[str, Any]) -> None:
        row["yaw"] = {"anna": -40.0, "ben": 0.1, "cleo": 20.0, "dora": 40.0}[row["identity"]]
        row["av_offset"] = None if row["identity"] == "ben" else 1.0

    edit_index(roots[0], number)
    return roots[0]


def identities(root: Path, *where: str, **options: Any) -> set[str]:
    keys = select(root, where=where, **options).keys
    samples = load_tables(root).samples
    return set(samples["identity"][samples["key"].isin(keys)])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["yaw >= 20"], {"cleo", "dora"}),
        (["yaw > 20"], {"dora"}),
        (["yaw<=-40"], {"anna"}),
        (["yaw < 0"], {"anna"}),
        (["yaw == 0.1"], {"ben"}),
        (["yaw != 0.1"], {"anna", "cleo", "dora"}),
        (["abs(yaw) < 30"], {"ben", "cleo"}),
        (["abs( yaw )>=4e1 and split == train"], {"anna"}),
        (["yaw > 0", "yaw < 30"], {"ben", "cleo"}),
        (["identity == 'anna'"], {"anna"}),
        (['identity != "anna" AND n_frames > 26'], {"cleo"}),
        (["redistributable == true"], {"anna", "ben", "cleo", "dora"}),
        (["redistributable == false"], set()),
        ([], {"anna", "ben", "cleo", "dora"}),
    ],
)
def test_conditions_choose_what_they_say(root: Path, where: list[str], expected: set[str]) -> None:
    assert identities(root, *where) == expected


def test_a_missing_number_satisfies_nothing_and_is_counted(root: Path) -> None:
    for condition in ("av_offset == 1", "av_offset != 7", "abs(av_offset) < 100"):
        result = select(root, where=[condition])
        assert len(result.keys) == 5
        assert result.dropped[0].unknown == 2
        assert result.dropped[0].failed == 0
    result = select(root, where=["av_offset > 3", "yaw > 0"])
    assert [(drop.condition, drop.failed, drop.unknown) for drop in result.dropped] == [
        ("av_offset > 3", 5, 2),
        ("yaw > 0", 3, 0),
    ]


def test_an_unknown_column_names_the_near_miss() -> None:
    with pytest.raises(UsageError, match="'sharpnes'") as caught:
        parse_conditions(["sharpnes > 3"])
    assert "sharpness" in caught.value.mend


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yaw",
        "yaw >",
        "yaw = 3",
        "yaw => 3",
        "3 < yaw",
        "yaw > 3 or yaw < 2",
        "yaw > 3 and",
        "yaw > 3 yaw < 5",
        "abs(yaw > 3",
        "sqrt(yaw) > 3",
        "yaw > three",
        "yaw > nan",
        "yaw > '3'",
        "identity > anna",
        "abs(identity) == anna",
        "redistributable == maybe",
        "offsets == 3",
        "__import__('os').system('true') == 0",
        "yaw > __import__('os')",
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_conditions([text])


def test_a_selection_counts_by_split_and_source_and_can_be_limited_to_one(root: Path) -> None:
    assert select(root, where=["n_frames >= 26"]).counts == {
        "test": {"toy": 1},
        "train": {"toy": 3},
        "val": {"toy": 1},
    }
    assert identities(root, split="val", source="toy") == {"cleo"}
    assert select(root, split="val").considered == 1
    with pytest.raises(UsageError, match="tran") as caught:
        select(root, split="tran")
    assert "train" in caught.value.mend


def test_a_written_selection_is_read_by_the_data_set_and_records_where_it_comes_from(
    root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "chosen.parquet"
    result = select(root, where=["abs(yaw)<30"], out=out)
    rows = Dataset.open(root).rows("train", out)
    assert {row.identity for row in rows} == {"ben"}
    table = pq.read_table(out)
    assert table.column_names == ["key", "split"]
    assert tuple(table["key"].to_pylist()) == result.keys
    about = json.loads(table.schema.metadata[SELECTION_METADATA])
    assert about["where"] == ["abs(yaw) < 30"]
    assert about["dataset"] == load_tables(root).fingerprint
    again = tmp_path / "again.parquet"
    select(root, where=["abs(yaw)<30"], out=again)
    assert again.read_bytes() == out.read_bytes()


def test_a_selection_says_by_which_command_it_was_made(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "chosen.parquet"
    select(root, where=["abs(yaw) < 30 and identity == 'ben'", "n_frames >= 20"], split="train", source="toy", out=out)
    told = selection_command(out)
    assert told is not None
    words = [word if word != "DATA" else str(root) for word in shlex.split(told)]
    done = CliRunner().invoke(main, [*words[1:], "--out", str(tmp_path / "again.parquet")])
    assert words[0] == "g4g-prep" and done.exit_code == 0, done.output
    assert (tmp_path / "again.parquet").read_bytes() == out.read_bytes()

    quoted = ("identity != 'O\"Neil'", "identity == 'back\\slash'", "identity == \"it's\"")
    for condition in (*quoted, "n_frames > 1234567.5"):
        (parsed,) = parse_conditions([condition])
        assert parse_conditions([str(parsed)]) == [parsed], condition
    assert str(parse_conditions(["n_frames >= 1234567"])[0]) == "n_frames >= 1234567.0"
    assert str(parse_conditions(["abs(yaw) < 30"])[0]) == "abs(yaw) < 30"

    keys = tmp_path / "keys.txt"
    keys.write_text("a\n")
    lines = tmp_path / "lines.parquet"
    about = json.dumps({"where": ['identity == "a\nb"'], "split": None, "source": None})
    pq.write_table(pq.read_table(out).replace_schema_metadata({SELECTION_METADATA: about}), lines)
    plain = tmp_path / "plain.parquet"
    pq.write_table(pq.read_table(out).replace_schema_metadata({}), plain)
    odd = tmp_path / "odd.parquet"
    pq.write_table(pq.read_table(out).replace_schema_metadata({SELECTION_METADATA: b"[]"}), odd)
    for other in (None, {"a", "b"}, keys, plain, odd, lines, tmp_path / "nowhere.parquet"):
        assert selection_command(other) is None


def test_what_sources_are_is_kept_by_a_merge(roots: list[Path], tmp_path: Path) -> None:
    for part, about in zip(roots, ({"toy": {"about": "toys; ours"}}, {"toy": {}}), strict=True):
        edit_description(part, sources=about)
    merge(roots, tmp_path / "both")
    found = Dataset.open(tmp_path / "both").info["sources"]
    assert {name: facts.get("about") for name, facts in found.items()} == {"toy": "toys; ours"}


def test_a_merged_set_reads_like_its_parts(roots: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "both"
    steps: list[tuple[int, int, str]] = []
    result = merge(roots, out, progress=lambda *step: steps.append(step))
    assert list(result.shards) == [stem for _, _, stem in steps]
    assert [done for done, _, _ in steps] == list(range(1, len(result.shards) + 1))
    merged = Dataset.open(out)
    assert merged.splits == ("dev", "test", "train", "val")
    parts = [Dataset.open(root) for root in roots]
    for split in merged.splits:
        rows = list(merged.rows(split))
        before = [(part, row) for part in parts if split in part.splits for row in part.rows(split)]
        assert [row.key for row in rows] == [row.key for _, row in before]
        for row, (part, old) in zip(rows, before, strict=True):
            new_mel, old_mel = SampleReader(merged).mel(row), SampleReader(part).mel(old)
            assert new_mel.tobytes() == old_mel.tobytes()
    assert verify(out, deep=True).findings == ()
    assert merged.info["splits"]["train"]["clips"] == 5
    assert merged.info["sources"]["toy"]["ok"] == 9
    assert merged.info["sources"]["toy"]["rejected"] == {"no_face": 2}
    manifest = load_tables(out).manifest
    assert list(manifest["clip"]) == sorted(manifest["clip"])
    assert (result.clips, result.samples) == (11, 10)
    assert (out / "splits" / "train.txt").read_text().splitlines()[-1] == "toy/x_00"


def test_a_merge_keeps_every_tar_and_index_and_leaves_its_inputs_alone(
    roots: list[Path], tmp_path: Path
) -> None:
    before = contents(roots)
    result = merge(roots, tmp_path / "both")
    assert contents(roots) == before
    for stem, (number, old) in result.shards.items():
        for suffix in (".tar", ".parquet"):
            copied = (tmp_path / "both" / (stem + suffix)).read_bytes()
            assert copied == (roots[number] / (old + suffix)).read_bytes()
        marker = json.loads((tmp_path / "both" / f"{stem}.stats.json").read_text())
        assert marker["shard"] == stem


@pytest.mark.parametrize("field", ["crop", "size", "fps", "landmarks"])
def test_sets_that_were_cut_differently_are_refused_with_the_field(
    roots: list[Path], tmp_path: Path, field: str
) -> None:
    edit_description(roots[1], **{field: "other"})
    with pytest.raises(DatasetError, match=f"differ in {field}"):
        merge(roots, tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_the_same_clip_in_two_sets_is_refused_by_name(roots: list[Path], tmp_path: Path) -> None:
    edit_manifest(roots[1], lambda row: row.update(clip=row["clip"].replace("f_00", "e_00")))
    with pytest.raises(DatasetError, match="share the clip toy/e_00"):
        merge(roots, tmp_path / "both")


def test_the_same_key_in_two_sets_is_refused_by_name(roots: list[Path], tmp_path: Path) -> None:
    def rename(row: dict[str, Any]) -> None:
        row["key"] = row["key"].replace("toy-x_00", "toy-a_01")

    edit_index(roots[1], rename)
    with pytest.raises(DatasetError, match="share the key toy-a_01-000-000"):
        merge(roots, tmp_path / "both")


def test_people_and_videos_that_stand_in_two_splits_after_a_merge_are_reported(
    roots: list[Path], tmp_path: Path
) -> None:
    def meet(row: dict[str, Any]) -> None:
        row["identity"] = row["identity"].replace("zoe", "anna")
        row["video_id"] = row["video_id"] and "upload-b"

    edit_index(roots[1], meet)
    result = merge(roots, tmp_path / "both")
    assert [line.partition(" splits (")[0] for line in result.leaks] == [
        "identity anna is in 2",
        "video id upload-b is in 2",
    ]
    assert Dataset.open(tmp_path / "both").info["leaks"] == list(result.leaks)


def test_an_interrupted_merge_is_no_data_set_and_ends_as_one_never_interrupted(
    roots: list[Path], tmp_path: Path
) -> None:
    class Interrupted(Exception):
        pass

    def stop(done: int, total: int, stem: str) -> None:
        if done == 2:
            raise Interrupted

    out = tmp_path / "both"
    with pytest.raises(Interrupted):
        merge(roots, out, progress=stop)
    with pytest.raises(DatasetError):
        Dataset.open(out)
    assert not (out / "train-00000.tar").exists()
    first = (out / "test-00000.tar").stat().st_ino
    merge(roots, out)
    assert (out / "test-00000.tar").stat().st_ino == first
    merge(roots, tmp_path / "whole")
    assert contents([out]) == contents([tmp_path / "whole"])


def test_a_damaged_input_is_refused(roots: list[Path], tmp_path: Path) -> None:
    tar = roots[0] / "train-00000.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DatasetError, match=r"train-00000\.tar"):
        merge(roots, tmp_path / "both")
    assert not list((tmp_path / "both").glob("dataset.json"))
    assert not list((tmp_path / "both").glob("train-00000.*"))


def test_a_merge_writes_over_nothing(roots: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of the inputs"):
        merge(roots, roots[0])
    with pytest.raises(UsageError, match="twice"):
        merge([roots[0], roots[0] / "."], tmp_path / "both")
    with pytest.raises(UsageError, match="two data sets"):
        merge(roots[:1], tmp_path / "both")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "train-00077.tar").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"train-00077\.tar"):
        merge(roots, tmp_path / "full")
    merge(roots, tmp_path / "both")
    with pytest.raises(UsageError, match="holds a data set already"):
        merge(roots, tmp_path / "both")


def test_a_merged_set_can_be_merged_again(roots: list[Path], tmp_path: Path) -> None:
    third_clip = dataclasses.replace(OTHERS[0], clip="w/00", identity="wim")
    third = write_sound_dataset(tmp_path / "third", clips=[third_clip], size=32)
    edit_manifest(third, lambda row: row.update(clip=row["clip"].replace("e_00", "g_00")))
    merge(roots, tmp_path / "two")
    merge([tmp_path / "two", third], tmp_path / "three")
    assert Dataset.open(tmp_path / "three").info["splits"]["train"]["identities"] == 4


def contents(folders: Sequence[Path]) -> dict[str, bytes]:
    return {
        f"{number}/{path.relative_to(folder)}": path.read_bytes()
        for number, folder in enumerate(folders)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
