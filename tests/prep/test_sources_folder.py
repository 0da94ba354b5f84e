from __future__ import annotations

from pathlib import Path

import pytest

from g4g_core.errors import SourceError, StorageError
from prep.sources import folder


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_every_video_of_a_tree_is_a_clip_whatever_its_suffix_and_depth(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "deep/er/b.MOV", "deep/c.m2ts", "deep/notes.txt", "readme")
    specs = folder.scan(tmp_path, name="wild")
    assert [(spec.clip, spec.path, spec.identity) for spec in specs] == [
        ("a", "a.mp4", "a"),
        ("deep_c", "deep/c.m2ts", "c"),
        ("deep_er_b", "deep/er/b.MOV", "b"),
    ]
    assert {(spec.source, spec.licence, spec.split, spec.absent) for spec in specs} == {
        ("wild", "unknown", None, None)
    }


def test_hidden_and_unfinished_files_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", ".b.mp4", ".cache/c.mp4", "d.mp4.tmp", "half.tmp/e.mp4")
    assert [spec.path for spec in folder.scan(tmp_path, name="s")] == ["a.mp4"]


def test_links_to_videos_and_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "disk/x.mp4", "disk/more/y.mp4", "root/own.mp4")
    (tmp_path / "root/link.mp4").symlink_to(tmp_path / "disk/x.mp4")
    (tmp_path / "root/folder").symlink_to(tmp_path / "disk/more")
    (tmp_path / "root/loop").symlink_to(tmp_path / "root")
    paths = [spec.path for spec in folder.scan(tmp_path / "root", name="s")]
    assert paths == ["folder/y.mp4", "link.mp4", "own.mp4"]


def test_a_link_that_leads_nowhere_is_still_a_clip(tmp_path: Path) -> None:
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert [spec.path for spec in folder.scan(tmp_path, name="s")] == ["gone.mp4"]


def test_a_missing_folder_an_empty_one_and_a_file_each_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no folder"):
        folder.scan(tmp_path / "nowhere", name="s")
    with pytest.raises(SourceError, match="holds no video"):
        folder.scan(tmp_path, name="s")
    touch(tmp_path, "a.mp4")
    with pytest.raises(SourceError, match="is a file"):
        folder.scan(tmp_path / "a.mp4", name="s")


def test_a_folder_may_lie_in_a_store() -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe({"/folder-source/s1/a.mp4": b"", "/folder-source/s1/a.txt": b""})
    try:
        assert [spec.path for spec in folder.scan("memory://folder-source", name="s")] == ["s1/a.mp4"]
    finally:
        store.rm("/folder-source", recursive=True)


def test_a_name_that_no_later_step_could_open_is_refused_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "back\\slash.mp4")
    with pytest.raises(StorageError, match="slash"):
        folder.scan(tmp_path, name="s")
