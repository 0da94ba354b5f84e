from __future__ import annotations

from pathlib import Path

import pytest

from g4g_core.errors import SourceError, UsageError
from prep.records import ClipSpec
from prep.sources import naming


@pytest.mark.parametrize(
    ("path", "clip"),
    [
        ("a.mp4", "a"),
        ("s1/bbaf2n.mpg", "s1_bbaf2n"),
        ("main/633-1/00001.mp4", "main_633-1_00001"),
        ("a/b c.v2.mp4", "a_b%20c%2Ev2"),
        ("müde.mkv", "m%C3%BCde"),
        ("50%.mp4", "50%25"),
        ("no_suffix", "no_suffix"),
    ],
)
def test_a_clip_id_holds_only_characters_that_survive_a_webdataset_key(path: str, clip: str) -> None:
    assert naming.clip_id(path) == clip


def test_a_file_name_that_is_not_utf8_is_refused_by_name() -> None:
    with pytest.raises(SourceError, match=r"bad\\udcff"):
        naming.clip_id(b"bad\xff.mp4".decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(("one", "other"), [("a/b.mp4", "a_b.mp4"), ("take.mp4", "take.mkv")])
def test_two_files_with_one_clip_id_are_refused_and_both_named(one: str, other: str) -> None:
    specs = [
        ClipSpec(source="s", clip=naming.clip_id(path), identity="x", path=path) for path in (one, other)
    ]
    with pytest.raises(SourceError) as caught:
        naming.check_collisions(specs)
    assert repr(one) in str(caught.value) and repr(other) in str(caught.value)
    assert "NAME=PATH" in caught.value.mend


def test_the_same_clip_id_in_two_sources_is_no_collision() -> None:
    naming.check_collisions([ClipSpec(source=name, clip="c", identity="x", path="c.mp4") for name in "ab"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/grid", ("grid", "/data/grid")),
        ("/data/grid/", ("grid", "/data/grid/")),
        ("vox=/data/my clips", ("vox", "/data/my clips")),
        ("vox=a=b", ("vox", "a=b")),
        ("./a=b/grid", ("grid", "./a=b/grid")),
        ("s3://bucket/a/vox", ("vox", "s3://bucket/a/vox")),
        ("vox=s3://bucket/a?x=1", ("vox", "s3://bucket/a?x=1")),
    ],
)
def test_a_source_is_named_after_its_last_folder_or_as_the_user_says(
    text: str, expected: tuple[str, str]
) -> None:
    assert naming.source_name(text) == expected


def test_the_current_folder_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "grid"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert naming.source_name(".") == ("grid", ".")


def test_a_folder_name_that_cannot_name_a_source_comes_with_the_words_to_write() -> None:
    with pytest.raises(UsageError, match=r"my-clips\.v2") as caught:
        naming.source_name("/data/my-clips.v2")
    assert "my_clips_v2=/data/my-clips.v2" in caught.value.mend


@pytest.mark.parametrize("text", ["", "name=", "=/data/x", "a-b=/data/x"])
def test_a_source_without_name_or_folder_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        naming.source_name(text)


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="2 sources are called 'vox'") as caught:
        naming.check_source_names(["vox", "lrs2", "vox"])
    assert "NAME=PATH" in caught.value.mend


def test_a_corpus_keeps_its_own_name_whatever_its_folder_is_called() -> None:
    assert naming.source_name("/data/LRS2 (orig)", "lrs2") == ("lrs2", "/data/LRS2 (orig)")
    assert naming.source_name("mine=/data/LRS2 (orig)", "lrs2") == ("mine", "/data/LRS2 (orig)")
