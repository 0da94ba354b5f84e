"""Digests that stay the same, and what a result was made with."""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
import shutil
import subprocess

import pytest

from g4g_core import provenance


def test_digests_are_those_of_every_other_machine() -> None:
    assert provenance.stable_json({"b": [1, 2.5, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,2.5,null]}'
    assert provenance.digest({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()
    assert provenance.digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert provenance.stable_hash("") == 0xE4A6A0577479B2B4  # b2sum -l 64
    assert provenance.stable_hash("lrs2/a") == 0x3EA1E2436587E1AF


def test_the_order_of_keys_does_not_matter() -> None:
    assert provenance.digest({"a": 1, "b": {"c": 2, "d": 3}}) == provenance.digest(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_has_no_digest(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        provenance.digest({"x": value})


def test_hashes_spread_and_take_any_file_name() -> None:
    hashes = {provenance.stable_hash(f"clip-{number}") % 10 for number in range(200)}
    assert hashes == set(range(10))
    assert provenance.stable_hash("clip-\udcff") >= 0


def test_a_files_digest_is_its_sha256(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert provenance.file_sha256(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()


@pytest.fixture
def package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    folder = tmp_path / "one" / "demo_package"
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "sub" / "module.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_the_same_code_has_the_same_fingerprint_in_another_folder(package: pathlib.Path) -> None:
    before = provenance.code_fingerprint(["demo_package"])
    copy = shutil.copytree(package, package.parents[1] / "two" / "demo_package")
    (copy / "notes.txt").write_text("not code")
    assert provenance.code_fingerprint([copy]) == before


def test_a_change_of_code_or_of_a_name_changes_the_fingerprint(package: pathlib.Path) -> None:
    seen = {provenance.code_fingerprint(["demo_package"])}
    (package / "sub" / "module.py").write_text("x = 2\n")
    seen.add(provenance.code_fingerprint(["demo_package"]))
    (package / "sub" / "module.py").rename(package / "sub" / "renamed.py")
    seen.add(provenance.code_fingerprint(["demo_package"]))
    assert len(seen) == 3


def test_the_order_of_sources_does_not_matter_and_modules_count() -> None:
    names = ["g4g_core.errors", "g4g_core.progress"]
    assert provenance.code_fingerprint(names) == provenance.code_fingerprint(names[::-1])
    assert provenance.code_fingerprint(names) != provenance.code_fingerprint(names[:1])


def test_an_unknown_source_is_an_error(tmp_path: pathlib.Path) -> None:
    for source in ("no_such_package_at_all", tmp_path / "absent"):
        with pytest.raises(ModuleNotFoundError):
            provenance.code_fingerprint([source])


def test_versions_tell_what_is_not_installed() -> None:
    import pydantic

    found = provenance.versions(["pydantic", "no-such-package-at-all"])
    assert found == {"pydantic": pydantic.VERSION, "no-such-package-at-all": None}


def test_cpu_features_are_named_and_sorted() -> None:
    features = provenance.cpu_features()
    assert features
    assert features == sorted(features)


def test_the_environment_can_be_written_as_json() -> None:
    environment = provenance.environment(["pydantic"])
    assert json.loads(json.dumps(environment, allow_nan=False)) == environment
    assert set(environment) == {
        "python",
        "platform",
        "system",
        "packages",
        "processor",
        "gpu",
        "cpu_features",
        "git_commit",
        "time",
        "host",
    }


def test_the_commit_is_that_of_the_checkout_that_tracks_the_code(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "package" / "provenance.py"
    code.parent.mkdir()
    code.write_text("x = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(code))
    git("init")
    git("commit", "--allow-empty", "-m", "somebody else's")
    assert provenance.git_commit() is None
    git("add", ".")
    git("commit", "-m", "ours")
    assert provenance.git_commit() == git("rev-parse", "HEAD")
    code.write_text("x = 2\n")
    assert provenance.git_commit() == git("rev-parse", "HEAD") + "-dirty"
