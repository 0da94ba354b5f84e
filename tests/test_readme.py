"""What README and docs tell people to type must exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import evaluation.cli
import g4g_model.cli
from g4g_core.errors import G4GError
from prep.cli import main

COMMANDS: dict[str, click.Command] = {
    "g4g-prep": main,
    "g4g-eval": evaluation.cli.main,
    "g4g-model": g4g_model.cli.main,
}
ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]

_PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```|((?:^ {4}.*\n)+)", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(g4g-(?:prep|eval|model) [^`]*)`")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")
_CODE = re.compile(r"`[^`\n]+`|^ {4}.*$|^make .*$", re.MULTILINE)


def command_lines(text: str) -> list[str]:
    """Every line of one of our commands in the code blocks of a page; a line that ends in a backslash goes on."""
    blocks = [fenced or indented for fenced, indented in _BLOCK.findall(text)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith(tuple(f"{name} " for name in COMMANDS))]


def mentions(text: str) -> list[str]:
    """Every `g4g-prep ...` (or -eval, -model) in running text: perhaps without arguments, never without meaning."""
    return [" ".join(found.split()) for found in _INLINE.findall(text)]


def resolve(line: str) -> tuple[click.Command, click.Context, list[str]]:
    """The (sub-)command that a line names, its context, and the words after it.

    Raises click.ClickException or G4GError when there is no such command.
    """
    program, *words = shlex.split(line, comments=True)
    command: click.Command = COMMANDS[program]
    context = click.Context(command, info_name=program)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    return command, context, words


def parse(line: str) -> None:
    """Let click parse a line to its end, without running it. Raises click.ClickException or G4GError."""
    command, context, words = resolve(line)
    if words != ["--help"]:
        command.make_context(context.info_name, words, parent=context.parent)


def unknown_options(line: str) -> list[str]:
    """The options of a mention that its command does not have."""
    command, context, words = resolve(line)
    known = {name for parameter in command.get_params(context) for name in parameter.opts}
    return [word for word in words if word.startswith("--") and word not in known]


def of_all_pages(find: object) -> list[tuple[str, str]]:
    assert callable(find)
    return [(page.name, line) for page in PAGES for line in find(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "line"), of_all_pages(command_lines))
def test_a_command_line_in_the_docs_is_one_that_the_command_takes(page: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize(("page", "line"), of_all_pages(mentions))
def test_a_command_named_in_the_text_exists_with_its_options(page: str, line: str) -> None:
    assert unknown_options(line) == []


@pytest.mark.parametrize(
    "line",
    [
        "g4g-prep build-shards --lrs3 x --out y",
        "g4g-prep build-shards --lrs2 x",
        "g4g-prep make-sample x --layout lrs3",
        "g4g-prep bulid-shards",
        "g4g-prep weights fetch --loudly 2dfan4",
        "g4g-eval run --modles still",
        "g4g-model train --model sync-a",
    ],
)
def test_a_wrong_command_line_would_be_noticed(line: str) -> None:
    with pytest.raises((click.ClickException, G4GError)):
        parse(line)


def test_a_wrong_mention_would_be_noticed() -> None:
    assert unknown_options("g4g-prep verify --deeper") == ["--deeper"]
    with pytest.raises((click.ClickException, G4GError)):
        unknown_options("g4g-prep verfy")


def test_readme_shows_how_to_start_with_every_source() -> None:
    shown = command_lines(README.read_text(encoding="utf-8"))

    for option in ("--lrs2", "--hdtf", "--hdtf-annotations", "--folder", "--scheduler"):
        assert any(f"{option} " in line for line in shown), option


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = _LINK.findall(page.read_text(encoding="utf-8"))

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_make_target_that_readme_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {name for line in re.findall(r"^([a-z][a-z -]*):", makefile, re.MULTILINE) for name in line.split()}
    code = " ".join(_CODE.findall(README.read_text(encoding="utf-8")))
    named = {*re.findall(r"\bmake ([a-z][a-z-]*)", code)}

    assert {"demo", "test"} <= named
    assert named <= targets


@pytest.fixture(scope="module")
def place_with_shards(sample_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set ``shards`` and a selection ``keep.parquet``, as the docs suppose."""
    place = tmp_path_factory.mktemp("docs")
    shards = str(place / "shards")
    build = ["build-shards", "--lrs2", str(sample_clip_dir / "lrs2"), "--out", shards, "--scheduler", "sync", "--quiet"]
    choose = ["select", shards, "--where", "sharpness > 0", "--split", "train", "--out", str(place / "keep.parquet")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for arguments in (build, choose):
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, result.output
    return place


@pytest.mark.slow
@pytest.mark.parametrize("code", [code for page in PAGES for code in _PYTHON.findall(page.read_text(encoding="utf-8"))])
def test_python_in_the_docs_runs(code: str, place_with_shards: Path) -> None:
    if "torch" in code and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    (place_with_shards / "example.py").write_text(code)
    command, path = [sys.executable, "example.py"], {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    result = subprocess.run(
        command, check=False, cwd=place_with_shards, env=path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
