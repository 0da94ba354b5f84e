from __future__ import annotations

from pathlib import Path

import pytest

from g4g_core.errors import SourceError
from prep.records import ClipSpec, Reason, Word
from prep.sources import lrs2

PRETRAIN_TEXT = """Text:  AND WE'LL LOOK
Conf:  4

WORD START END ASDSCORE
AND 0.04 0.21 3.2
WE'LL 0.22 0.35 -4.1
LOOK 0.40 0.80 1
"""


def make(
    root: Path, videos: list[str], lists: dict[str, str] | None = None, texts: dict[str, str] | None = None
) -> Path:
    """``root`` as the folder that holds mvlrs_v1."""
    for stem in videos:
        path = root / "mvlrs_v1" / f"{stem}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for stem, text in (texts or {}).items():
        (root / "mvlrs_v1" / f"{stem}.txt").write_text(text, encoding="utf-8")
    for name, lines in (lists or {}).items():
        (root / f"{name}.txt").write_text(lines)
    return root


def by_clip(specs: list[ClipSpec]) -> dict[str, ClipSpec]:
    return {spec.clip: spec for spec in specs}


def test_lists_give_the_splits_and_only_their_first_column_counts(tmp_path: Path) -> None:
    make(
        tmp_path,
        ["main/111/00001", "main/222/00001", "main/333/00002"],
        {"train": "111/00001\n", "val": "222/00001", "test": "333/00002 NF\n\n"},
    )
    specs = by_clip(lrs2.scan(tmp_path))
    assert {clip: spec.split for clip, spec in specs.items()} == {
        "main_111_00001": "train",
        "main_222_00001": "val",
        "main_333_00002": "test",
    }
    first = specs["main_111_00001"]
    assert (first.identity, first.subset, first.source) == ("111", "main", "lrs2")
    assert first.licence == "BBC LRS2: non-commercial research, no redistribution"
    assert not first.redistributable


def test_the_root_may_be_mvlrs_v1_or_the_folder_above_and_ids_stay_the_same(tmp_path: Path) -> None:
    make(tmp_path, ["main/111/00001"], {"val": "111/00001\n"}, {"main/111/00001": "Text:  HI\n"})
    (above,), (inside,) = lrs2.scan(tmp_path), lrs2.scan(tmp_path / "mvlrs_v1")
    assert (above.path, inside.path) == ("mvlrs_v1/main/111/00001.mp4", "main/111/00001.mp4")
    assert (above.clip, above.split, above.text) == (inside.clip, inside.split, inside.text)
    assert (above.clip, above.split, above.text) == ("main_111_00001", "val", "HI")


def test_lists_are_found_above_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, ["main/111/00001"], {"test": "111/00001\n"})
    monkeypatch.chdir(tmp_path / "mvlrs_v1")
    assert [spec.split for spec in lrs2.scan(".")] == ["test"]


def test_lists_given_by_option_win_over_those_beside(tmp_path: Path) -> None:
    make(tmp_path / "data", ["main/111/00001"], {"train": "111/00001\n"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other/test.txt").write_text("\ufeff111/00001\n", encoding="utf-8")
    assert [spec.split for spec in lrs2.scan(tmp_path / "data", lists=tmp_path / "other")] == ["test"]


def test_a_folder_of_lists_without_lists_is_refused(tmp_path: Path) -> None:
    make(tmp_path, ["main/111/00001"])
    with pytest.raises(SourceError, match=r"holds none of train\.txt"):
        lrs2.scan(tmp_path, lists=tmp_path / "mvlrs_v1")


def test_what_only_the_disk_or_only_a_list_knows_is_an_absent_row(tmp_path: Path) -> None:
    make(tmp_path, ["main/111/00001", "main/999/00009"], {"train": "111/00001\n222/00007\n"})
    specs = by_clip(lrs2.scan(tmp_path))
    unlisted, missing = specs["main_999_00009"].absent, specs["main_222_00007"].absent
    assert unlisted is not None and unlisted.reason is Reason.NOT_IN_SPLIT_LIST
    assert missing is not None and missing.reason is Reason.SOURCE_MISSING
    assert specs["main_111_00001"].absent is None
    assert specs["main_222_00007"].split == "train"


def test_without_any_list_splits_stay_open(tmp_path: Path) -> None:
    make(tmp_path, ["main/111/00001"])
    (spec,) = lrs2.scan(tmp_path)
    assert (spec.split, spec.absent) == (None, None)


def test_pretrain_belongs_to_train_with_and_without_its_list(tmp_path: Path) -> None:
    make(tmp_path, ["pretrain/111/00001", "pretrain/222/00002"])
    assert {(spec.split, spec.subset, spec.absent) for spec in lrs2.scan(tmp_path)} == {
        ("train", "pretrain", None)
    }
    (tmp_path / "pretrain.txt").write_text("111/00001\n")
    specs = by_clip(lrs2.scan(tmp_path))
    assert specs["pretrain_111_00001"].split == "train"
    absent = specs["pretrain_222_00002"].absent
    assert absent is not None and absent.reason is Reason.NOT_IN_SPLIT_LIST


def test_one_name_in_main_and_pretrain_is_two_clips(tmp_path: Path) -> None:
    make(
        tmp_path, ["main/111/00001", "pretrain/111/00001"], {"test": "111/00001\n", "pretrain": "111/00001\n"}
    )
    assert {spec.clip: spec.split for spec in lrs2.scan(tmp_path)} == {
        "main_111_00001": "test",
        "pretrain_111_00001": "train",
    }


def test_a_clip_in_two_lists_is_refused(tmp_path: Path) -> None:
    make(tmp_path, ["main/111/00001"], {"train": "111/00001\n", "test": "111/00001 MV\n"})
    with pytest.raises(SourceError, match=r"train\.txt and test\.txt both name 111/00001"):
        lrs2.scan(tmp_path)


def test_a_file_that_is_no_split_list_is_named_with_its_line(tmp_path: Path) -> None:
    make(tmp_path, ["main/111/00001"], {"train": "111/00001\n../../etc/passwd\n"})
    with pytest.raises(SourceError, match=r"line 2 of .*train\.txt"):
        lrs2.scan(tmp_path)


def test_a_folder_that_is_no_lrs2_says_where_to_point(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="neither mvlrs_v1 nor main") as caught:
        lrs2.scan(tmp_path)
    assert "mvlrs_v1" in caught.value.mend
    with pytest.raises(SourceError, match="there is no folder"):
        lrs2.scan(tmp_path / "nowhere")
    (tmp_path / "main").mkdir()
    with pytest.raises(SourceError, match="holds no LRS2 clip"):
        lrs2.scan(tmp_path)


def test_transcripts_and_word_times_are_kept(tmp_path: Path) -> None:
    make(
        tmp_path,
        ["main/111/00001", "main/111/00002", "pretrain/111/00003"],
        texts={"main/111/00001": "Text:  HELLO THERE\nConf:  4\n", "pretrain/111/00003": PRETRAIN_TEXT},
    )
    specs = by_clip(lrs2.scan(tmp_path))
    assert (specs["main_111_00001"].text, specs["main_111_00001"].words) == ("HELLO THERE", ())
    assert specs["main_111_00002"].text is None
    assert specs["pretrain_111_00003"].text == "AND WE'LL LOOK"
    assert specs["pretrain_111_00003"].words == (
        Word("AND", 0.04, 0.21, 3.2),
        Word("WE'LL", 0.22, 0.35, -4.1),
        Word("LOOK", 0.40, 0.80, 1.0),
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Text: ONE SPACE\r\nConf: 3\r\n", "ONE SPACE"),
        ("Text:  A {LG} B: C", "A {LG} B: C"),
        ("Text:", ""),
        ("", None),
    ],
)
def test_a_transcript_is_read_however_it_is_spaced(data: str, text: str | None) -> None:
    assert lrs2.parse_transcript(data) == (text, ())


def test_a_malformed_word_row_costs_only_that_word() -> None:
    rows = [
        "GOOD 0.1 0.2 1.0",
        "SHORT 0.3",
        "WORDS x y z",
        "NAN nan 0.5 1",
        "BACK 0.9 0.5 1",
        "",
        "LAST 0.5 0.6",
    ]
    text, words = lrs2.parse_transcript("Text:  GOOD LAST\n\nWORD START END ASDSCORE\n" + "\n".join(rows))
    assert text == "GOOD LAST"
    assert words == (Word("GOOD", 0.1, 0.2, 1.0), Word("LAST", 0.5, 0.6, None))


def test_a_store_gives_the_same_clips_as_a_disk(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    make(
        tmp_path,
        ["main/111/00001", "main/222/00001"],
        {"train": "111/00001\n", "test": "222/00001 NF\n"},
        {"main/111/00001": "Text:  HI\n"},
    )
    store = fsspec.filesystem("memory")
    files = {
        f"/lrs2-source/{p.relative_to(tmp_path)}": p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()
    }
    store.pipe(files)
    try:
        assert lrs2.scan("memory://lrs2-source") == lrs2.scan(tmp_path)
        assert lrs2.scan("memory://lrs2-source/mvlrs_v1") == lrs2.scan(tmp_path / "mvlrs_v1")
    finally:
        store.rm("/lrs2-source", recursive=True)


def test_the_real_clips_all_have_a_split_and_a_transcript(clips: Path) -> None:
    specs = lrs2.scan(clips / "lrs2")
    assert len(specs) == 8
    assert {spec.split for spec in specs} == {"train", "val", "test"}
    assert all(spec.text for spec in specs)
