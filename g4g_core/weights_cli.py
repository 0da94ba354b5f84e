"""The command group ``weights``, mounted on every command line of the project."""

from __future__ import annotations

import json
from typing import Any

import click

from g4g_core import weights as store
from g4g_core.cli_base import Group
from g4g_core.errors import ExitCode, WeightsError
from g4g_core.known_weights import KNOWN
from g4g_core.progress import BYTES, format_bytes, progress


@click.group(cls=Group)
def weights() -> None:
    """Pretrained weights: what there is, what is here, how to get it."""


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def list_command(as_json: bool) -> None:
    """List all weights, with their state in the cache folder and their licence."""
    rows = [_row(name) for name in KNOWN]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    _print_table(rows)


@weights.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def fetch(names: tuple[str, ...], quiet: bool) -> None:
    """Download weights into the cache folder, and check them."""
    for entry in [store.get(name) for name in names]:  # a mistyped name stops us before the first download
        if (state := store.status(entry.name)) in ("ok", "embedded"):
            click.echo(
                f"{entry.name}: {'comes with ' + entry.package if state == 'embedded' else 'already here'}"
            )
            continue
        click.echo(f"{entry.name}: licence: {entry.licence}")
        with progress(entry.size_bytes, entry.name, unit=BYTES, quiet=quiet) as bar:
            path = store.fetch(entry.name, bar.advance)
        click.echo(f"{entry.name}: {path}")


@weights.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Check size and SHA-256 of the named weights, or of all that are here.

    Ends with exit code 1 when a file is wrong, or a named one is missing.
    """
    chosen = [store.get(name).name for name in names] or [name for name in KNOWN if store.find(name)]
    sound = True
    for name in chosen:
        try:
            digest = store.verify(name)
        except WeightsError as error:
            sound = False
            click.echo(f"{name}: WRONG: {error}")
            continue
        prefix = store.get(name).sha256_prefix
        known = f"SHA-256 begins with {prefix}, no more of it is known" if prefix else f"SHA-256 {digest}"
        click.echo(f"{name}: ok, {known}")
    ctx.exit(int(ExitCode.OK if sound else ExitCode.FINDING))


def _row(name: str) -> dict[str, Any]:
    entry = store.get(name)
    found = store.find(name)
    return {
        "name": name,
        "file": entry.file,
        "size_bytes": entry.size_bytes,
        "status": store.status(name),
        "licence": entry.licence,
        "needed_by": entry.needed_by,
        "url": entry.url,
        "sha256": entry.sha256,
        "sha256_prefix": entry.sha256_prefix,
        "path": str(found) if found else None,
        "note": entry.note,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "embedded": "green", "missing": "dim", "wrong": "bold red"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("name", "size", "status"):
        table.add_column(column, no_wrap=True)
    for column in ("licence", "needed by"):
        table.add_column(column, overflow="fold")
    for row in rows:
        size = "?" if row["size_bytes"] is None else format_bytes(row["size_bytes"])
        state = Text(row["status"], style=colours[row["status"]])
        table.add_row(row["name"], size, state, Text(row["licence"]), Text(row["needed_by"]))
    Console().print(table)
    click.echo(f"\nCache folder: {store.cache_folder()} (set {store.FOLDER_VARIABLE} to change it)")
