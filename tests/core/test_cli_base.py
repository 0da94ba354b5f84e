"""How a command line ends."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from g4g_core.cli_base import Group, RootGroup
from g4g_core.errors import DatasetError


@pytest.fixture
def cli() -> click.Group:
    @click.group(cls=RootGroup)
    def root() -> None:
        pass

    @root.command()
    def fault() -> None:
        raise DatasetError("shards/train-00000.tar is damaged", "Build it again.")

    @root.command()
    def bug() -> None:
        raise ZeroDivisionError("a bug")

    @root.command()
    def stop() -> None:
        raise KeyboardInterrupt

    @root.group()
    def inner() -> None:
        pass

    @inner.command("build-shards")
    def build() -> None:
        raise DatasetError("inner fault")

    return root


def test_a_users_fault_is_two_lines_and_exit_code_2(cli: click.Group) -> None:
    result = CliRunner().invoke(cli, ["fault"])
    assert result.exit_code == 2
    assert result.stderr == "error: shards/train-00000.tar is damaged\n  Build it again.\n"
    assert result.stdout == ""


def test_debug_adds_the_traceback(cli: click.Group) -> None:
    result = CliRunner().invoke(cli, ["--debug", "fault"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "error: shards/train-00000.tar is damaged" in result.stderr


def test_a_fault_in_a_nested_group_ends_alike(cli: click.Group) -> None:
    result = CliRunner().invoke(cli, ["inner", "build-shards"])
    assert (result.exit_code, result.stderr) == (2, "error: inner fault\n")


def test_a_bug_keeps_its_traceback(cli: click.Group) -> None:
    assert isinstance(CliRunner().invoke(cli, ["bug"]).exception, ZeroDivisionError)


def test_an_interrupt_is_one_line_and_exit_code_130(cli: click.Group) -> None:
    result = CliRunner().invoke(cli, ["stop"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("typed", "meant"), [(["falt"], "fault"), (["inner", "build_shard"], "build-shards")]
)
def test_a_mistyped_command_suggests_the_nearest(cli: click.Group, typed: list[str], meant: str) -> None:
    result = CliRunner().invoke(cli, typed)
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'?" in result.stderr


def test_an_unknown_option_is_a_usage_error(cli: click.Group) -> None:
    assert CliRunner().invoke(cli, ["fault", "--nonsense"]).exit_code == 2


def test_groups_made_by_a_root_are_plain_groups(cli: click.Group) -> None:
    inner = cli.commands["inner"]
    assert isinstance(inner, Group)
    assert not isinstance(inner, RootGroup)


def test_a_closed_pipe_ends_silently() -> None:
    code = (
        "import click; from g4g_core.cli_base import RootGroup\n"
        "@click.group(cls=RootGroup)\n"
        "def cli(): pass\n"
        "@cli.command()\n"
        "def many():\n"
        "    for number in range(100_000): click.echo(number)\n"
        "cli()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "many"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
