"""A data set on an object store: built, checked and read there; what an upload that broke off leaves is no data set."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from building import (
    build,
    build_command,
    config,
    data_bytes,
    environment,
    kill,
    processes_with,
    wait_until,
    write_tiny_footage,
)

from g4g_core import storage
from g4g_core.errors import DatasetError, StorageError
from prep.run.build import Build
from prep.run.runners import SyncRunner, close_guard
from prep.shards.index import Dataset, read_committed
from prep.shards.reader import IndexedReader
from prep.shards.verify import verify
from prep.sources import SourceRoot
from prep.sources.identity import parse_rule

pytest.importorskip("moto.server")
pytest.importorskip("s3fs")


@pytest.fixture(scope="module", autouse=True)
def store() -> Iterator[None]:
    """An S3 server of this test alone, which the guarded children find too, because it stands in the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("AWS_PROFILE", raising=False)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        close_guard()
        yield
        close_guard()
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory, sample_lrs2_clips: list[Path]) -> Path:
    return write_tiny_footage(tmp_path_factory.mktemp("tiny"), sample_lrs2_clips)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, footage: Path) -> Path:
    out = tmp_path_factory.mktemp("local") / "out"
    build(footage, out)
    return out


def fetched(url: str, folder: Path) -> Path:
    for name in storage.list_files(url, recursive=True):
        if not name.startswith(".work"):
            storage.copy(storage.join(url, name), str(folder / name))
    return folder


def test_a_data_set_on_s3_has_the_bytes_of_a_local_one_and_can_be_checked_and_read(
    tmp_path: Path, footage: Path, local: Path
) -> None:
    url = "s3://bucket/good"
    build(footage, url)
    assert data_bytes(fetched(url, tmp_path / "copy")) == data_bytes(local)
    assert verify(url, deep=True).findings == ()
    windows = list(IndexedReader(Dataset.open(url), "train", frames=5))
    assert len(windows) == 4
    left = storage.list_files(storage.join(url, ".work"), recursive=True)
    assert not [name for name in left if name.endswith((".tar", ".npz"))]


@pytest.mark.slow
def test_a_data_set_on_s3_is_continued(footage: Path, local: Path, tmp_path: Path) -> None:
    url = "s3://bucket/continued"
    build(footage, url)
    stem = Dataset.open(url).info["splits"]["train"]["shards"][0]
    storage.delete(storage.join(url, f"{stem}.tar"))
    report = build(footage, url)
    assert 0 < report.n_done_before < 6
    assert build(footage, url).n_done_before == 6
    assert data_bytes(fetched(url, tmp_path / "copy")) == data_bytes(local)


def test_footage_on_s3_gives_the_bytes_of_local_footage(footage: Path, local: Path, tmp_path: Path) -> None:
    for path in footage.glob("*.mp4"):
        storage.copy(str(path), f"s3://bucket/raw/{path.name}")
    table = (footage / "splits.csv").read_text()
    storage.write_bytes("s3://bucket/raw/splits.csv", table.encode())
    job = Build(
        [SourceRoot("tiny", "folder", "s3://bucket/raw")],
        str(tmp_path / "out"),
        config(),
        parse_rule("csv:s3://bucket/raw/splits.csv"),
        quiet=True,
    )
    job.run(job.plan(SyncRunner()), SyncRunner())
    assert data_bytes(tmp_path / "out") == data_bytes(local)


def test_an_upload_that_breaks_off_leaves_no_tar_and_no_marker(footage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second half of the parts cannot be read: the tar that is being sent must not appear."""
    from prep.shards import assemble

    url = "s3://bucket/broken"
    part = {"source": "s", "clip": "c", "part": 0, "fingerprint": "f", "several": False}
    storage.write_json(f"{url}/part.json", {"rows": [], "seconds": {}})
    storage.write_bytes(f"{url}/part.tar", bytes(6 << 20))
    parts = [
        {**part, "record": f"{url}/part.json", "tar": f"{url}/part.tar", "start": 0, "bytes": 6 << 20},
        {**part, "record": f"{url}/part.json", "tar": f"{url}/part.tar", "start": 0, "bytes": 99 << 20},
    ]
    request: dict[str, Any] = {"stem": f"{url}/train-00000", "shard": "train-00000", "fingerprint": "x"}
    with pytest.raises((EOFError, StorageError)):
        assemble.assemble_shard({**request, "parts": parts, "reasons": {}, "clip_seconds": {}})
    assert storage.list_files(url) == ["part.json", "part.tar"]
    with pytest.raises(DatasetError, match="is not committed"):
        read_committed(url, "train-00000")


@pytest.mark.slow
def test_a_build_to_s3_that_is_killed_leaves_nothing_that_a_reader_accepts_and_is_resumed(
    tmp_path: Path, footage: Path, local: Path
) -> None:
    url = "s3://bucket/killed"
    marker = f"G4G_TEST_S3_{os.getpid()}"
    for moment in (".work/plan.parquet", ".work/shards/"):
        process = subprocess.Popen(
            build_command(footage, url, "--scheduler", "sync"),
            cwd=tmp_path,
            env=environment(**{marker: "1"}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(
            lambda wanted=moment: any(name.startswith(wanted) for name in storage.list_files(url, recursive=True))
        )
        kill(process)
        wait_until(lambda: not processes_with(marker), 20)
        with pytest.raises(DatasetError):
            Dataset.open(url)
    build(footage, url)
    assert verify(url).findings == ()
    assert data_bytes(fetched(url, tmp_path / "copy")) == data_bytes(local)
