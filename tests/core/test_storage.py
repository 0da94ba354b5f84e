"""Files: whole or absent, locally and on stores."""

from __future__ import annotations

import gc
import importlib
import os
import pathlib
import socket
import sys
from collections.abc import Iterator

import pytest

from g4g_core import storage
from g4g_core.errors import MissingDependency, StorageError


@pytest.fixture(params=["local", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[str]:
    """An empty place of each kind."""
    if request.param == "local":
        yield str(tmp_path / "root")
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}"
        storage.delete_tree(f"memory://{tmp_path.name}")
    else:
        yield f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    moto_server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def bucket(s3_server: str) -> Iterator[str]:
    import s3fs

    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.setattr(
            s3fs.S3FileSystem, "default_block_size", 5 << 20
        )  # uploads in parts, without 50 MB of data
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().call_s3("create_bucket", Bucket="shards")
        yield "s3://shards"
        s3fs.S3FileSystem.clear_instance_cache()


def test_what_was_written_is_read_back(root: str) -> None:
    url = storage.join(root, "train", "train-00000.tar")
    assert not storage.exists(url)
    storage.write_bytes(url, b"0123456789")
    assert storage.exists(url)
    assert storage.size(url) == 10
    assert storage.read_bytes(url) == b"0123456789"
    assert storage.read_range(url, 3, 4) == b"3456"
    with storage.open_read(url) as file:
        file.seek(8)
        assert file.read() == b"89"


def test_an_empty_file_is_a_file(root: str) -> None:
    storage.write_bytes(storage.join(root, "empty"), b"")
    assert storage.list_files(root) == ["empty"]
    assert storage.size(storage.join(root, "empty")) == 0


def test_a_range_past_the_end_is_refused(root: str) -> None:
    url = storage.join(root, "a")
    storage.write_bytes(url, b"0123456789")
    with pytest.raises(StorageError):
        storage.read_range(url, 8, 4)


def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(root: str) -> None:
    storage.write_bytes(storage.join(root, "old"), b"old")
    for name in ("old", "new"):
        url = storage.join(root, name)
        with pytest.raises(RuntimeError, match="interrupted"), storage.atomic_writer(url) as file:
            file.write(b"half")
            raise RuntimeError("interrupted")
    assert storage.list_files(root, recursive=True) == ["old"]
    assert storage.read_bytes(storage.join(root, "old")) == b"old"


def test_listing_gives_sorted_relative_names(root: str) -> None:
    for name in ("b.tar", "a.tar", "splits/train.txt"):
        storage.write_bytes(storage.join(root, name), b"x")
    assert storage.list_files(root) == ["a.tar", "b.tar"]
    assert storage.list_files(root, recursive=True) == ["a.tar", "b.tar", "splits/train.txt"]
    assert storage.list_files(storage.join(root, "absent"), recursive=True) == []


def test_files_are_moved_copied_and_deleted(root: str) -> None:
    first, second, third = (storage.join(root, name) for name in ("first", "sub/second", "third"))
    storage.write_bytes(first, b"x")
    storage.write_bytes(second, b"old")
    storage.move(first, second)
    storage.copy(second, third)
    assert storage.list_files(root, recursive=True) == ["sub/second", "third"]
    assert storage.read_bytes(second) == b"x"
    storage.delete(third)
    storage.delete(third)
    with pytest.raises(StorageError):
        storage.delete(third, missing_ok=False)
    storage.delete_tree(root)
    assert storage.list_files(root, recursive=True) == []


def test_deleting_a_tree_takes_odd_names_literally(root: str) -> None:
    for name in ("a/x*", "a/x[1]", "ab", "xy"):
        storage.write_bytes(storage.join(root, name), b"x")
    storage.delete_tree(storage.join(root, "a"))
    assert storage.list_files(root, recursive=True) == ["ab", "xy"]


def test_a_missing_file_is_a_storage_error_that_names_it(root: str) -> None:
    url = storage.join(root, "absent")
    for read in (storage.read_bytes, storage.size, storage.open_read, lambda u: storage.read_range(u, 0, 1)):
        with pytest.raises(StorageError, match="absent"):
            read(url)


def test_a_file_moves_between_a_disk_and_a_store(tmp_path: pathlib.Path, bucket: str) -> None:
    storage.write_bytes(tmp_path / "a", b"x")
    storage.move(tmp_path / "a", f"{bucket}/moved/a")
    assert not (tmp_path / "a").exists()
    storage.move(f"{bucket}/moved/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x"
    assert storage.list_files(f"{bucket}/moved") == []


def test_an_interrupted_multipart_upload_is_aborted(bucket: str) -> None:
    import s3fs

    with pytest.raises(KeyboardInterrupt), storage.atomic_writer(f"{bucket}/big") as file:
        file.write(bytes(6 << 20))  # more than a block: the upload has begun
        raise KeyboardInterrupt
    assert "big" not in storage.list_files(bucket)
    assert s3fs.S3FileSystem().call_s3("list_multipart_uploads", Bucket="shards").get("Uploads", []) == []


def test_an_upload_that_cannot_be_aborted_stays_invisible(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    def unreachable(_: object) -> None:
        raise ConnectionError("the network is gone")

    monkeypatch.setattr(s3fs.core.S3File, "discard", unreachable)
    with pytest.raises(RuntimeError, match="interrupted"), storage.atomic_writer(f"{bucket}/small") as file:
        file.write(b"half")
        raise RuntimeError("interrupted")
    del file
    gc.collect()
    assert "small" not in storage.list_files(bucket)


def test_a_large_upload_arrives_whole(bucket: str) -> None:
    with storage.atomic_writer(f"{bucket}/large") as file:
        for _ in range(11):
            file.write(b"x" * (1 << 20))
    assert storage.size(f"{bucket}/large") == 11 << 20
    storage.delete(f"{bucket}/large")


def test_a_missing_bucket_is_a_storage_error(bucket: str) -> None:
    with pytest.raises(StorageError, match="no-such-bucket"):
        storage.write_bytes("s3://no-such-bucket/a", b"x")


def test_a_store_that_does_not_answer_is_a_storage_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="s3://shards/a"):
        storage.read_bytes("s3://shards/a")
    s3fs.S3FileSystem.clear_instance_cache()


def test_nothing_is_visible_before_the_block_ends(root: str) -> None:
    with storage.atomic_writer(storage.join(root, "a")) as file:
        file.write(b"x")
        assert storage.list_files(root) == []
    assert storage.list_files(root) == ["a"]


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    with pytest.raises(MissingDependency) as caught:
        storage.exists("s3://shards/a")
    assert "g4g[s3]" in caught.value.mend


def test_an_unknown_scheme_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="nonsense"):
        storage.exists("nonsense://a")


@pytest.mark.parametrize(
    "part",
    [
        "..",
        "../a",
        "a/../../b",
        "/etc/passwd",
        "",
        ".",
        "a//b",
        "a/",
        "C:/x",
        "c:x",
        "..\\a",
        "a\\b",
        "a\0b",
        "a::b",
    ],
)
@pytest.mark.parametrize("root_url", ["/data", "data", "s3://bucket/data", "memory://data"])
def test_join_refuses_names_that_leave_the_root(root_url: str, part: str) -> None:
    with pytest.raises(StorageError):
        storage.join(root_url, part)


@pytest.mark.parametrize(
    ("root_url", "joined"),
    [
        ("/data", "/data/a/b.c"),
        ("/data/", "/data/a/b.c"),
        ("/", "/a/b.c"),
        ("", "a/b.c"),
        ("memory://", "memory://a/b.c"),
        ("s3://bucket", "s3://bucket/a/b.c"),
    ],
)
def test_join_adds_names_inside_the_root(root_url: str, joined: str) -> None:
    assert storage.join(root_url, "a", "b.c") == joined
    assert storage.join(root_url, "a/b.c") == joined


@pytest.mark.parametrize("path", ["a", "/a", "./a", "C:\\a", "file:///a", "a:b", pathlib.Path("a")])
def test_paths_are_local(path: str | pathlib.Path) -> None:
    assert storage.is_local(path)


@pytest.mark.parametrize("url", ["s3://a/b", "gs://a", "memory://a", "simplecache::s3://a/b"])
def test_urls_are_not_local(url: str) -> None:
    assert not storage.is_local(url)
    with pytest.raises(StorageError):
        storage.local_path(url)


def test_unfinished_files_are_not_listed_and_can_be_cleared(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".tmp-1-abc").write_bytes(b"half")
    (tmp_path / "sub" / "whole").write_bytes(b"x")
    assert storage.list_files(tmp_path, recursive=True) == ["sub/whole"]
    assert storage.delete_leftovers(tmp_path) == 1
    assert os.listdir(tmp_path / "sub") == ["whole"]


def test_a_link_that_leads_back_does_not_trap_the_listing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert storage.list_files(tmp_path, recursive=True) == ["a/file", "link/file"]


def test_a_file_in_the_way_of_a_folder_is_a_storage_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(StorageError, match="in the way"):
        storage.write_bytes(tmp_path / "a" / "b", b"x")
    with pytest.raises(StorageError, match="it is a folder"):
        storage.write_bytes(tmp_path, b"x")


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        storage.write_bytes(tmp_path / "a", b"x")
    assert os.listdir(tmp_path) == []


def test_json_is_sorted_and_ends_in_a_newline(root: str) -> None:
    url = storage.join(root, "a.json")
    storage.write_json(url, {"b": [1, 2.5], "a": "x"})
    assert storage.read_bytes(url) == b'{\n  "a": "x",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'


def test_json_keeps_names_that_are_not_utf8(tmp_path: pathlib.Path) -> None:
    names = ["é", os.fsdecode(b"clip-\xff.mp4")]
    storage.write_json(tmp_path / "a.json", names)
    assert storage.read_json(tmp_path / "a.json") == names


def test_a_store_that_refuses_in_the_middle_is_a_storage_error(bucket: str) -> None:
    with (
        pytest.raises(StorageError, match="no-such-bucket"),
        storage.atomic_writer("s3://no-such-bucket/a") as file,
    ):
        file.write(bytes(6 << 20))


def test_json_refuses_nan_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


def test_broken_json_is_a_storage_error_that_names_the_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(StorageError, match=r"a\.json"):
        storage.read_json(tmp_path / "a.json")


def test_local_paths_do_not_import_fsspec(tmp_path: pathlib.Path) -> None:
    import subprocess

    code = (
        "import sys; from g4g_core import storage; storage.write_json(sys.argv[1], {}); storage.list_files('.');"
        "assert 'fsspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], check=True)
