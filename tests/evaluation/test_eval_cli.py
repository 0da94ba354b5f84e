"""``g4g-eval`` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from evaluating import KIND, Register

from evaluation import selfcheck
from evaluation.cli import _default_folder, main
from evaluation.config import RunConfig
from evaluation.tables import cell_text, number
from prep.run import runners


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "evaluation", *arguments], check=False, cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}, timeout=280,
    )  # fmt: skip


def test_run_alone_takes_the_data_set_of_the_folder_and_leaves_a_page(shards: str, tmp_path: Path) -> None:
    (tmp_path / "g4g.yaml").write_text(yaml.safe_dump({"data": {"root": shards}}))

    done = command(
        "run", "--models", "still", "--metrics", "psnr,temporal", "--scheduler", "sync", "--quiet", cwd=tmp_path
    )

    assert done.returncode == 0, done.stderr
    assert "PSNR face" in done.stdout and "identical" in done.stdout and "ground-truth" in done.stdout
    run = tmp_path / "runs" / "reconstruction-1-test"
    for name in ("summary.json", "run.json", "scores.parquet", "sets.parquet", "report.html"):
        assert (run / name).is_file(), name
    assert yaml.safe_load((tmp_path / "g4g.yaml").read_text())["runs"] == {"last": str(run)}
    assert "Traceback" not in done.stderr


def test_a_copy_of_the_project_file_goes_on_with_the_run_that_it_notes(shards: str, tmp_path: Path) -> None:
    there, here = (tmp_path / name for name in ("demo", "here"))
    for folder in (there, here):
        folder.mkdir()
    short = ("--models", "still", "--metrics", "psnr", "--limit", "1", "--scheduler", "sync", "--quiet", "--no-report")
    assert command("run", *short, "--data", shards, cwd=there).returncode == 0
    noted = {"data": {"root": shards}, **yaml.safe_load((there / "g4g.yaml").read_text())}
    (here / "g4g.yaml").write_text(yaml.safe_dump(noted))

    again = command("run", *short, cwd=here)

    assert again.returncode == 0, again.stderr
    assert "3 of 3 cells were there" in again.stdout and not (here / "runs").exists()
    place = there / "runs" / "reconstruction-1-test" / "run.json"
    facts = json.loads(place.read_text())
    config = RunConfig(data=shards)
    assert _default_folder(config, noted) == str(place.parent)
    for other in ({**facts, "data": "/other"}, {**facts, "split": "val"}, {**facts, "merged": []}, [], None):
        place.write_text(json.dumps(other))
        assert _default_folder(config, noted) == "runs/reconstruction-1-test", other
    for text in ("", "{"):
        place.write_text(text)
        assert _default_folder(config, noted) == "runs/reconstruction-1-test"
    assert _default_folder(config, {"runs": "x"}) == "runs/reconstruction-1-test"


BROKEN = (
    KIND
    + """
class Broken(Base):
    def generate(self, prompt):
        raise RuntimeError("out of memory")

BROKEN = Kind(Broken)
"""
)


@pytest.mark.parametrize(("more", "code"), [([], 4), (["--allow-failures"], 0), (["--on-failure", "error"], 4)])
def test_failures_end_with_4_unless_they_are_allowed(
    shards: str, tmp_path: Path, register: Register, more: list[str], code: int
) -> None:
    register(BROKEN, broken="BROKEN")

    done = command(
        "run", "--models", "still,broken", "--data", shards, "--metrics", "psnr", "--scheduler", "sync", "--quiet",
        "--limit", "1", "--no-report", "--out", "run", *more, cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == code, done.stderr
    assert "failed: broken on people-person" in done.stdout and "out of memory" in done.stdout


def test_a_typing_error_is_one_line_and_exit_code_2(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, says in (
        (["run", "--models", "stlil", "--data", shards], "Did you mean 'still'"),
        (["run", "--data", "/nowhere"], "dataset.json"),
        (["run", "--data", shards, "--metrics", "cpdb"], "cpbd"),
        (["run", "--data", shards, "--split", "tset"], "no split"),
        (["run"], "no data set is named"),
        (["report"], "no run is named"),
        (["comprae", "a", "b"], "Did you mean 'compare'"),
        (["run", "--data", shards, "--protocol", "reconstruct"], "reconstruction/1"),
        (["run", "--data", shards, "--limit", "0"], "leaves nothing"),
    ):
        done = CliRunner().invoke(main, arguments)

        assert done.exit_code == 2, (arguments, done.output)
        assert says in done.stderr and "Traceback" not in done.stderr, (arguments, done.stderr)
        assert len(done.stderr.strip().splitlines()) <= 3
    typed = command("run", "--models", "stlil", "--data", shards, cwd=tmp_path)  # and once as a process of its own
    assert typed.returncode == 2 and "Did you mean 'still'" in typed.stderr and "Traceback" not in typed.stderr


def test_an_address_where_no_scheduler_answers_leaves_no_folder(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runners, "CONNECT_SECONDS", 0.5)
    arguments = ["run", "--models", "still", "--data", shards, "--metrics", "psnr", "--scheduler", "tcp://127.0.0.1:9"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2 and "no Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr, done.output
    assert not (tmp_path / "runs").exists()


def test_help_teaches_and_answers_quickly(tmp_path: Path) -> None:
    started = time.monotonic()
    text = command("--help", cwd=tmp_path).stdout
    assert time.monotonic() - started < 20  # a hang, not a measurement

    for name in ("run", "score", "pairs", "compare", "gate", "weights", "selfcheck", "report", "metrics", "models"):
        assert f"\n  {name}" in text
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "evaluation", "--help"], check=True, capture_output=True, text=True
    )
    for heavy in ("torch", "pandas", "scipy", "skimage", "distributed"):
        assert f" {heavy}\n" not in done.stderr


def test_selfcheck_finds_everything_right_and_says_what_it_could_not_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command("selfcheck", "--json", cwd=tmp_path, G4G_WEIGHTS=str(tmp_path))
    rows = json.loads(done.stdout)

    assert done.returncode == 3
    assert {row["outcome"] for row in rows} == {"right", "unchecked"}
    assert sum(row["outcome"] == "right" for row in rows) >= 9
    monkeypatch.setattr(selfcheck, "CPBD_ASTRONAUT", 0.5)
    assert [row["outcome"] for row in selfcheck.selfchecks() if "python-cpbd" in row["name"]] == ["wrong"]


def test_lists_print_for_people_and_for_scripts(tmp_path: Path) -> None:
    metrics = json.loads(command("metrics", "--json", cwd=tmp_path).stdout)
    models = json.loads(command("models", "--json", cwd=tmp_path).stdout)

    assert {"m-lmd@20", "fid@face256"} <= {row["id"] for row in metrics}
    assert {"still", "shuffled", "ground-truth"} <= set(models)
    assert "cpbd@face256" in command("metrics", cwd=tmp_path).stdout
    assert "still" in command("models", cwd=tmp_path).stdout


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing_of_the_summary(shards: str, tmp_path: Path) -> None:
    arguments = ["run", "--models", "still,shuffled", "--data", shards, "--workers", "2", "--no-report", "--quiet"]
    whole = command(*arguments, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    seconds = _seconds(tmp_path / "whole")
    rng = np.random.default_rng(0)
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-m", "evaluation", *arguments, "--out", "cut"], cwd=tmp_path, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        time.sleep(4 + rng.uniform(0, seconds / 3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    assert command(*arguments, "--out", "cut", cwd=tmp_path).returncode == 0
    assert (tmp_path / "cut" / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    assert not list((tmp_path / "cut").rglob(".tmp-*.avi"))


def _seconds(run: Path) -> float:
    return float(json.loads((run / "run.json").read_text())["seconds"])


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.41234, 0.38, 0.44, "0.412"), (12.3456, 10.0, 14.0, "12.3"), (123.4, 50.0, 190.0, "123"),
        (0.5, 0.5, 0.5, "0.5000"),
        (0.0, None, None, "0"), (-0.2, -19.0, 19.0, "0"), (1234.5, None, None, "1234"), (3.14159, None, None, "3.142"),
        (3.2e-7, 2e-7, 4e-7, "3.2e-7"), (2e-7, 2e-7, 4e-7, "2.0e-7"), (-9.96e-7, -1.1e-6, -9e-7, "-1.00e-6"),
        (-4e-9, -1e-7, 1e-7, "0"), (4.2e-5, None, None, "4.200e-5"), (1e-5, 1e-5, 1e-5 + 1e-15, "1.0000e-5"),
        (7e-12, -2.2e-11, 3.6e-11, "0"), (2.9e-11, -2.2e-11, 3.6e-11, "0"), (9.999999e-4, None, None, "1.0000e-3"),
        (0.5, 0.5 - 1e-8, 0.5 + 1e-8, "0.500000"), (0.0123456, None, None, "0.01235"),
        (1234567.4, 1034567.0, 1434567.0, "1234567"),
    ],
)  # fmt: skip
def test_digits_follow_the_interval(value: float, low: float | None, high: float | None, text: str) -> None:
    assert number(value, low, high) == text


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"), ({"mean": None, "reason": "identical"}, "identical"),
        ({"mean": 0.5, "low": 0.4, "high": 0.6, "rank": 2, "few": True}, "0.50 ±0.10 #2 *"),
    ],
)  # fmt: skip
def test_a_cell_without_a_number_says_why(cell: Any, text: str) -> None:
    assert cell_text(cell) == text
