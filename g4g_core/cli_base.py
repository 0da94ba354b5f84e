"""What ``g4g-prep``, ``g4g-model`` and ``g4g-eval`` have in common: how faults end, how typing errors read."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

import click

from g4g_core.errors import ExitCode, G4GError
from g4g_core.registry import unknown

INTERRUPTED = 130
"""Exit code after Ctrl-C (128 + SIGINT)."""

BROKEN_PIPE = 141
"""Exit code when the reader of our output went away, as in ``| head`` (128 + SIGPIPE)."""

_DEBUG = "g4g_core.debug"


class Group(click.Group):
    """A group of commands that answers a mistyped one with the nearest names."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        mistyped = not name.startswith("-") and self.get_command(ctx, name) is None
        if mistyped and not ctx.resilient_parsing:
            raise unknown("command", name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)


class RootGroup(Group):
    """The top of a command line.

    A :class:`G4GError` is printed on standard error in a line or two and ends with exit code 2; ``--debug``,
    given before the sub-command, adds its traceback. Anything else is a bug and keeps its traceback. Ctrl-C
    ends with one line and exit code 130, a closed pipe silently with 141.
    """

    group_class = Group

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_remember_debug,
                help="Show the traceback of every error.",
            )
        )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except G4GError as error:
            if ctx.meta.get(_DEBUG):
                traceback.print_exc()
            click.echo(f"error: {error}", err=True)
            ctx.exit(int(ExitCode.USAGE))
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            _silence_stdout()
            ctx.exit(BROKEN_PIPE)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def print_json(value: Any) -> None:
    """``value`` on standard output, readable and with sorted keys; NaN and infinity are refused."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, allow_nan=False))


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = value


def _silence_stdout() -> None:
    """Keeps the interpreter from complaining when it flushes what nobody reads any more."""
    try:
        target = sys.stdout.fileno()
    except (OSError, ValueError):  # not a real file, as under a test runner
        return
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, target)
    os.close(devnull)
