"""A build keeps out what would mix or drop the work of another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from g4g_core import storage
from g4g_core.errors import UsageError
from prep.config import BuildConfig
from prep.run.build import Build
from prep.run.runners import SyncRunner
from prep.run.work import CLIP_FILE, part_stem, unit_folder
from prep.sources import SourceRoot


def job(footage: Path, out: Path, name: str = "tiny") -> Build:
    return Build([SourceRoot(name, "folder", str(footage), {})], str(out), BuildConfig(size=64), quiet=True)


def test_a_second_build_of_the_same_folder_is_refused_while_the_first_one_runs(
    tmp_path: Path, sample_lrs2_clips: list[Path]
) -> None:
    first, second = (job(sample_lrs2_clips[0].parent, tmp_path / "out") for _ in range(2))
    first.plan(SyncRunner())
    with pytest.raises(UsageError, match="another build is writing"):
        second.plan(SyncRunner())


def test_a_build_that_does_not_name_a_source_of_the_data_set_is_refused(
    tmp_path: Path, sample_lrs2_clips: list[Path]
) -> None:
    storage.write_json(str(tmp_path / "out" / "dataset.json"), {"sources": {"lrs2": {}, "tiny": {}}})
    with pytest.raises(UsageError, match="holds lrs2"):
        job(sample_lrs2_clips[0].parent, tmp_path / "out")


def test_a_record_goes_before_the_bytes_it_speaks_of_are_written_anew(
    tmp_path: Path, sample_lrs2_clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the new tar and its record must not leave the old record beside the new tar."""
    from prep.run import work

    folder = unit_folder(str(tmp_path), "tiny/clip")
    for name in (CLIP_FILE, part_stem(0) + ".json"):
        storage.write_json(storage.join(folder, name), {"fingerprint": "older", "parts": 1, "bytes": 1})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "encode_part", killed)
    request = {
        "url": str(sample_lrs2_clips[0]),
        "spec": {"source": "tiny", "clip": "clip", "identity": "a", "path": "clip.mp4", "split": "train"},
        "config": BuildConfig(size=64).model_dump(mode="json"),
        "folder": folder,
        "fingerprint": "newer",
        "content_sha256": "0" * 64,
        "estimated_frames": 50,
    }
    with pytest.raises(KeyboardInterrupt):
        work.process_clip(request)
    assert storage.list_files(folder) == []
