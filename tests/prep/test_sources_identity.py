from __future__ import annotations

from pathlib import Path

import pytest

from g4g_core.errors import SourceError, UsageError
from prep.records import ClipSpec, Reason, Rejection
from prep.sources import identity


def spec(path: str, **values: object) -> ClipSpec:
    return ClipSpec(**{"source": "s", "clip": path, "identity": "own", "path": path, **values})  # type: ignore[arg-type]


def who(rule: str, root: Path | str, *paths: str) -> list[str]:
    specs = [spec(path) for path in paths]
    return [done.identity for done in identity.apply_identity(specs, root, identity.parse_rule(rule))]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("rule", "people"),
    [
        ("stem", ["s1_take2", "s2_take1"]),
        ("parent", ["left", "grid"]),
        (r"regex:s\d+", ["s1", "s2"]),
        (r"regex:take(\d+)", ["2", "1"]),
        (r"regex:(left)/", ["left", "s2_take1"]),
        (r"regex:(nobody)?", ["s1_take2", "s2_take1"]),
    ],
)
def test_a_rule_reads_the_person_from_the_path(rule: str, people: list[str]) -> None:
    assert who(rule, "/data/grid", "left/s1_take2.mp4", "s2_take1.mp4") == people


@pytest.mark.parametrize("rule", ["", "stemm", "regex:", "regex:(", "csv:", "parent:1"])
def test_a_rule_that_is_none_is_refused(rule: str) -> None:
    with pytest.raises(UsageError):
        identity.parse_rule(rule)


def test_a_csv_names_files_relative_to_its_own_folder_and_the_rest_keep_their_identity(
    tmp_path: Path,
) -> None:
    table = write(
        tmp_path / "who.csv", "\ufefffile,identity,role\ngrid/a.mp4,anna,test\nelsewhere/x.mp4,xaver,\n"
    )
    assert who(f"csv:{table}", tmp_path / "grid", "a.mp4", "b.mp4") == ["anna", "own"]


def test_a_csv_matches_however_source_and_csv_are_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path / "disk/notes/who.csv",
        f"file,identity\n../grid/a.mp4,anna\n{tmp_path}/disk/grid/b.mp4,bert\n",
    )
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/grid").mkdir()
    monkeypatch.chdir(tmp_path / "disk/grid")
    for csv in ("../notes/who.csv", str(tmp_path / "link/notes/who.csv")):
        for root in (
            ".",
            str(tmp_path / "disk/grid"),
            str(tmp_path / "link/grid/"),
            f"file://{tmp_path}/disk/grid",
        ):
            assert who(f"csv:{csv}", root, "a.mp4", "b.mp4") == ["anna", "bert"]


def test_a_csv_names_a_linked_file_by_the_name_of_the_link(tmp_path: Path) -> None:
    write(tmp_path / "disk/17.mp4", "")
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid/a.mp4").symlink_to(tmp_path / "disk/17.mp4")
    table = write(tmp_path / "who.csv", "file,identity\ngrid/a.mp4,anna\n")
    assert who(f"csv:{table}", tmp_path / "grid", "a.mp4") == ["anna"]


def test_a_csv_on_this_machine_may_name_files_of_a_store(tmp_path: Path) -> None:
    table = write(tmp_path / "who.csv", "file,identity\ns3://bucket/grid/a.mp4,anna\n")
    assert who(f"csv:{table}", "s3://bucket/grid/", "a.mp4", "b.mp4") == ["anna", "own"]


def test_one_row_speaks_for_every_clip_of_its_file(tmp_path: Path) -> None:
    table = identity.read_table(str(write(tmp_path / "who.csv", "file,identity,role\nraw.mp4,anna,test\n")))
    specs = [spec("raw.mp4", clip=f"raw_{i}") for i in range(2)]
    assert [done.identity for done in identity.apply_identity(specs, tmp_path, table)] == ["anna", "anna"]
    assert table.row(specs[0], tmp_path).role == "test"


def test_an_empty_identity_leaves_the_sources_own(tmp_path: Path) -> None:
    table = write(tmp_path / "who.csv", "file,identity,split\na.mp4,,test\n")
    assert who(f"csv:{table}", tmp_path, "a.mp4") == ["own"]


def test_the_column_split_overrides_row_by_row_and_brings_back_what_no_list_named(tmp_path: Path) -> None:
    table = identity.read_table(
        str(
            write(
                tmp_path / "who.csv",
                "file,identity,split\na.mp4,x,test\nb.mp4,x,\nc.mp4,x,val\nd.mp4,x,val\n",
            )
        )
    )
    unlisted = Rejection("source", Reason.NOT_IN_SPLIT_LIST, "")
    missing = Rejection("source", Reason.SOURCE_MISSING, "")
    specs = [
        spec("a.mp4", split="train"),
        spec("b.mp4", split="train"),
        spec("c.mp4", absent=unlisted),
        spec("d.mp4", absent=missing),
    ]
    done = identity.apply_splits(specs, tmp_path, table)
    assert [(clip.split, clip.absent) for clip in done] == [
        ("test", None),
        ("train", None),
        ("val", None),
        ("val", missing),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,anna\n", "no header"),
        ("", "no header"),
        ("file,who\na.mp4,anna\n", "no header"),
        ("file,identity,split\na.mp4,anna,training\n", "line 2 .*'training' is no split"),
        ("file,identity\n,anna\n", "line 2 .* names no file"),
        ("file,identity\na.mp4,anna\n./a.mp4,bert\n", "line 3 .* something else"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        identity.read_table(str(write(tmp_path / "who.csv", text)))


def test_a_csv_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "who.csv").write_bytes(b"file,identity\n\xff\xfe,x\n")
    with pytest.raises(SourceError, match="no CSV in UTF-8"):
        identity.read_table(str(tmp_path / "who.csv"))
