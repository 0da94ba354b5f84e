"""The same footage and options give the same bytes, wherever and on however many workers they are made."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import (
    build,
    build_command,
    data_bytes,
    environment,
    kill,
    manifest,
    processes_with,
    unit_times,
    wait_until,
    write_tiny_footage,
)

from g4g_core.errors import UsageError
from prep.run import runners
from prep.run.runners import close_guard
from prep.shards.verify import verify


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory, sample_lrs2_clips: list[Path]) -> Path:
    root = write_tiny_footage(tmp_path_factory.mktemp("tiny"), sample_lrs2_clips)
    (root / "broken.mp4").write_bytes((root / "clip0.mp4").read_bytes()[:3000])
    return root


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, footage: Path) -> dict[str, str]:
    """What this process alone makes of the footage."""
    out = tmp_path_factory.mktemp("reference") / "out"
    build(footage, out)
    close_guard()
    assert manifest(out)["broken"]["outcome"] == "rejected"
    assert verify(str(out)).findings == ()
    return data_bytes(out)


@pytest.fixture
def marker() -> Iterator[str]:
    """A name in the environment of everything that a test starts; nothing of it may be left."""
    name = f"G4G_TEST_{os.getpid()}_{time.monotonic_ns()}"
    yield name
    wait_until(lambda: not processes_with(name), 20)


def run(arguments: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.parametrize(
    "where",
    [["--scheduler", "sync"], pytest.param(["--workers", "1"], marks=pytest.mark.slow), ["--workers", "2"]],
    ids="=".join,
)
def test_the_command_gives_the_same_bytes_on_any_number_of_workers(
    tmp_path: Path, footage: Path, reference: dict[str, str], marker: str, where: list[str]
) -> None:
    done = run(build_command(footage, tmp_path / "out", *where), tmp_path, **{marker: "1"})
    assert done.returncode == 0, done.stderr
    assert data_bytes(tmp_path / "out") == reference


@pytest.mark.slow
def test_a_cluster_of_other_processes_gives_the_same_bytes(
    tmp_path: Path, footage: Path, reference: dict[str, str], marker: str
) -> None:
    with cluster(tmp_path, marker, workers=2) as address:
        done = run(build_command(footage, tmp_path / "out", "--scheduler", address), tmp_path, **{marker: "1"})
    assert done.returncode == 0, done.stderr
    assert data_bytes(tmp_path / "out") == reference


@pytest.mark.slow
def test_a_scheduler_that_ends_in_mid_build_is_one_line(tmp_path: Path, footage: Path, marker: str) -> None:
    with cluster(tmp_path, marker, workers=1) as address:
        (scheduler,) = [
            pid for pid in processes_with(marker) if b"\0--host\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        process = subprocess.Popen(
            build_command(footage, tmp_path / "out", "--scheduler", address),
            cwd=tmp_path,
            env=environment(**{marker: "1"}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: unit_times(tmp_path / "out"))
        os.kill(scheduler, signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.splitlines() == [
        "error: the Dask scheduler is gone",
        "  Run the same command again: what is done is kept.",
    ]


def test_a_copy_of_the_footage_elsewhere_gives_the_same_bytes(
    tmp_path: Path, footage: Path, reference: dict[str, str]
) -> None:
    elsewhere = tmp_path / "some where else" / "tiny"
    elsewhere.mkdir(parents=True)
    for path in sorted(footage.iterdir(), reverse=True):  # another order on the disk, other dates
        shutil.copyfile(path, elsewhere / path.name)
    build(elsewhere, tmp_path / "a" / "b" / "out")
    close_guard()
    assert data_bytes(tmp_path / "a" / "b" / "out") == reference


def test_a_relative_path_gives_the_same_bytes(
    tmp_path: Path, footage: Path, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(footage)
    close_guard()
    build(Path(), tmp_path / "out")
    close_guard()
    assert data_bytes(tmp_path / "out") == reference


def test_an_address_where_no_scheduler_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(UsageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
        runners.open_runner(None, "tcp://127.0.0.1:9"),
    ):
        pass


@contextlib.contextmanager
def cluster(folder: Path, marker: str, workers: int) -> Iterator[str]:
    """Address of a Dask scheduler with ``workers`` worker processes, none of them a child of the build."""
    variables = environment(**{marker: "1"})
    place = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    started = []
    try:
        for arguments in (
            [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"],
            *[[*dask, "worker", "--nthreads", "1", "--no-dashboard"] for _ in range(workers)],
        ):
            started.append(
                subprocess.Popen(
                    [*arguments, "--scheduler-file", str(place)],
                    cwd=folder,
                    env=variables,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            if len(started) == 1:
                wait_until(place.exists)
        yield wait_until(lambda: address_of(place))
    finally:
        for process in reversed(started):
            kill(process)


def address_of(place: Path) -> str:
    with contextlib.suppress(ValueError, KeyError):
        return str(json.loads(place.read_text())["address"])
    return ""
