from __future__ import annotations

from pathlib import Path

import pytest

from g4g_core.errors import SourceError, UsageError
from prep.records import Reason
from prep.sources import SourceRoot, scan, scan_all, splits
from prep.sources.identity import parse_rule


def touch(root: Path, *paths: str) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return str(root)


@pytest.fixture
def roots(tmp_path: Path) -> list[SourceRoot]:
    lrs2 = touch(tmp_path / "lrs2", "mvlrs_v1/main/111/00001.mp4", "mvlrs_v1/main/222/00001.mp4")
    (tmp_path / "lrs2/train.txt").write_text("111/00001\n")
    grid = touch(tmp_path / "grid", "s1/a.mpg", "s1/b.mpg", "s2/a.mpg", "s3/a.mpg")
    hdtf = touch(tmp_path / "hdtf", "WDA_AnnaOne1_000.mp4")
    return [
        SourceRoot("lrs2", "lrs2", lrs2),
        SourceRoot("grid", "folder", grid),
        SourceRoot("hdtf", "hdtf", hdtf),
    ]


def test_all_sources_come_out_sorted_with_a_split_and_their_roots(roots: list[SourceRoot]) -> None:
    specs, places = scan_all(roots, parse_rule("parent"))
    assert [spec.uid for spec in specs] == [
        "grid/s1_a",
        "grid/s1_b",
        "grid/s2_a",
        "grid/s3_a",
        "hdtf/WDA_AnnaOne1_000",
        "lrs2/main_111_00001",
        "lrs2/main_222_00001",
    ]
    assert places == {root.name: root.root for root in roots}
    assert all(Path(places[spec.source], spec.path).exists() for spec in specs)
    assert all(spec.split for spec in specs if spec.absent is None)
    assert "test" in {spec.split for spec in specs if spec.source == "grid"}
    assert splits.leaks(specs) == []


def test_rules_over_paths_leave_lrs2_and_hdtf_their_own_people(roots: list[SourceRoot]) -> None:
    specs, _ = scan_all(roots, parse_rule("parent"))
    assert {spec.identity for spec in specs} == {"111", "222", "WDA_AnnaOne", "s1", "s2", "s3"}


def test_a_csv_joins_people_across_sources(roots: list[SourceRoot], tmp_path: Path) -> None:
    rows = "hdtf/WDA_AnnaOne1_000.mp4,anna\ngrid/s1/a.mpg,anna\nlrs2/mvlrs_v1/main/111/00001.mp4,anna\n"
    (tmp_path / "who.csv").write_text("file,identity\n" + rows)
    specs, _ = scan_all(roots, parse_rule(f"csv:{tmp_path}/who.csv"))
    assert {spec.split for spec in specs if spec.identity == "anna"} == {"train"}  # the LRS2 list says so
    assert sum(spec.identity == "anna" for spec in specs) == 3


def test_splits_may_come_from_the_csv(roots: list[SourceRoot], tmp_path: Path) -> None:
    rows = "lrs2/mvlrs_v1/main/111/00001.mp4,,val\nlrs2/mvlrs_v1/main/222/00001.mp4,,test\n"
    (tmp_path / "who.csv").write_text("file,identity,split\n" + rows)
    rule = parse_rule(f"csv:{tmp_path}/who.csv")
    by_csv, _ = scan_all(roots, rule, split_by="csv")
    assert [(spec.split, spec.absent) for spec in by_csv if spec.source == "lrs2"] == [
        ("val", None),
        ("test", None),
    ]
    by_list, _ = scan_all(roots, rule)
    assert [spec.split for spec in by_list if spec.source == "lrs2"] == ["train", None]
    assert by_list[-1].absent is not None and by_list[-1].absent.reason is Reason.NOT_IN_SPLIT_LIST


def test_splitting_by_csv_needs_a_csv_with_splits(roots: list[SourceRoot], tmp_path: Path) -> None:
    (tmp_path / "who.csv").write_text("file,identity\ngrid/s1/a.mpg,anna\n")
    for rule in (None, parse_rule("stem"), parse_rule(f"csv:{tmp_path}/who.csv")):
        with pytest.raises(UsageError, match="column 'split'"):
            scan_all(roots, rule, split_by="csv")


def test_a_csv_that_names_no_clip_at_all_is_refused(roots: list[SourceRoot], tmp_path: Path) -> None:
    (tmp_path / "who.csv").write_text("file,identity\ns1/a.mpg,anna\n")
    with pytest.raises(SourceError, match="names none of the 7 clips"):
        scan_all(roots, parse_rule(f"csv:{tmp_path}/who.csv"))


def test_a_path_rule_without_any_folder_source_is_refused(roots: list[SourceRoot]) -> None:
    with pytest.raises(UsageError, match="--folder"):
        scan_all([roots[0], roots[2]], parse_rule("parent"))


def test_two_sources_of_one_name_are_refused(roots: list[SourceRoot]) -> None:
    with pytest.raises(UsageError, match="called 'hdtf'"):
        scan_all([*roots, SourceRoot("hdtf", "folder", roots[1].root)])


def test_a_file_that_two_sources_hold_is_refused(roots: list[SourceRoot], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="belongs to two sources, grid and all"):
        scan_all([roots[1], SourceRoot("all", "folder", str(tmp_path))])


def test_two_files_of_one_clip_id_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path / "grid", "s1/a.mpg", "s1/a.avi")
    with pytest.raises(SourceError, match=r"'s1/a\.avi' and 's1/a\.mpg'"):
        scan_all([SourceRoot("grid", "folder", root)])


def test_options_reach_the_source_that_takes_them(roots: list[SourceRoot], tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/test.txt").write_text("222/00001\n")
    source = SourceRoot("lrs2", "lrs2", roots[0].root, {"lists": str(tmp_path / "lists")})
    assert {spec.clip: spec.split for spec in scan(source)} == {
        "main_111_00001": None,
        "main_222_00001": "test",
    }
    with pytest.raises(UsageError, match="takes no 'lists'"):
        scan(SourceRoot("grid", "folder", roots[1].root, {"lists": "x"}))
    scan(SourceRoot("grid", "folder", roots[1].root, {"lists": None}))


def test_an_unknown_kind_of_source_suggests_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean hdtf"):
        scan(SourceRoot("x", "hdft", str(tmp_path)))


def test_the_real_clips_keep_people_apart_and_sources_named(clips: Path) -> None:
    roots = [
        SourceRoot("lrs2", "lrs2", str(clips / "lrs2")),
        SourceRoot("hdtf", "hdtf", str(clips / "hdtf")),
        SourceRoot("folder", "folder", str(clips / "folder")),
        SourceRoot("mocha", "folder", str(clips / "mocha")),
    ]
    specs, _ = scan_all(roots, parse_rule(f"csv:{clips}/identities.csv"))
    assert {spec.source for spec in specs} == {"lrs2", "hdtf", "folder", "mocha"}
    assert all(spec.split and spec.absent is None for spec in specs)
    assert splits.leaks(specs) == []
    person = {spec.uid: spec.identity for spec in specs}
    assert person["folder/wild_retalking_3"] == person["hdtf/WDA_AlexandriaOcasioCortez_000"]
    assert person["hdtf/WDA_EdMarkey0_000"] == "hdtf-WDA_EdMarkey0"
