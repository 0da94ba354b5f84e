"""What users get: the wheel, built from this checkout and installed where the checkout is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"baselines", "evaluation", "g4g_core", "g4g_model", "prep", "reports"}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command in ``cwd`` without the checkout on its path; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "G4G_"))}
    result = subprocess.run(
        [*map(str, command)], check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout without what builds leave behind, which could sneak in."""
    copy = tmp_path_factory.mktemp("checkout") / "g4g"
    leftovers = (".*", "__pycache__", "*.egg-info", "build", "dist", "demo", "out", "results")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*leftovers))
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, copy, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="session")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment with the wheel. Dependencies are borrowed from the environment of the tests."""
    place = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", place, cwd=place.parent)
    python = place / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=place.parent)
    # A path file inside a folder that a path file adds is not read, so an editable installation is not borrowed.
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    mine = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place.parent).strip()
    Path(mine, "borrowed.pth").write_text("\n".join(sorted(folders)) + "\n")
    return python


def test_the_wheel_holds_the_packages_with_their_data(wheel: Path) -> None:
    names = {*zipfile.ZipFile(wheel).namelist()}

    for package in sorted(PACKAGES):
        files = {f"{package}/{path.relative_to(ROOT / package)}" for path in (ROOT / package).rglob("*.py")}
        assert files | {f"{package}/py.typed"} <= names
    prep = ("prep/templates", "prep/data/speech", "prep/sync_expert/data")
    for folder in ("baselines/adapters", *prep, "reports/templates"):
        data = {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir() if path.is_file()}
        assert data
        assert data <= names


def test_the_wheel_holds_nothing_but_packages_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_names_its_licence_and_no_folder_of_this_machine(wheel: Path) -> None:
    metadata = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()

    assert "License-Expression: Apache-2.0" in text
    assert str(ROOT) not in text


def test_an_installed_wheel_is_imported_from_its_environment_and_not_from_the_checkout(
    clean_python: Path, tmp_path: Path
) -> None:
    code = "import g4g_core, prep, prep.cli; print(g4g_core.__file__, prep.__file__, prep.cli.__file__, sep='\\n')"

    for file in run(clean_python, "-c", code, cwd=tmp_path).split():
        assert Path(file).resolve().is_relative_to(clean_python.parents[1].resolve())


def test_an_installed_wheel_answers_help_from_another_folder(clean_python: Path, tmp_path: Path) -> None:
    command = clean_python.with_name("g4g-prep")

    assert "build-shards" in run(command, "--help", cwd=tmp_path)
    assert "--hdtf-annotations" in run(command, "build-shards", "--help", cwd=tmp_path)
    assert "dlib-68" in run(command, "weights", "list", cwd=tmp_path)
    evaluate = clean_python.with_name("g4g-eval")
    assert "reconstruction" in run(evaluate, "run", "--help", cwd=tmp_path)
    assert "still" in run(evaluate, "models", cwd=tmp_path)
    assert "m-lmd@20" in run(evaluate, "metrics", cwd=tmp_path)


def test_an_installed_wheel_makes_shards_of_its_own_sample(clean_python: Path, tmp_path: Path) -> None:
    command = clean_python.with_name("g4g-prep")

    run(command, "make-sample", "sample", "--layout", "lrs2", "--clips", "3", "--quiet", cwd=tmp_path)
    run(command, "build-shards", "--lrs2", "sample", "--out", "shards", "--scheduler", "sync", "--quiet", cwd=tmp_path)
    assert "sound" in run(command, "verify", "--deep", "--quiet", cwd=tmp_path)
    run(command, "contact-sheet", cwd=tmp_path)
    assert (tmp_path / "shards" / "contact-sheet.html").is_file()
