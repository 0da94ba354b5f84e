"""``g4g-eval report``: the page of a run."""

from __future__ import annotations

import os

import click


@click.command()
@click.argument("run", required=False)
@click.option("--quiet", is_flag=True, help="Do not print where the page is.")
def report(run: str | None, quiet: bool = False) -> None:
    """Render report.html of a run from its results alone: one offline file.

    RUN is a folder made by g4g-eval; by default the last one in this folder.
    """
    from g4g_core.config import read_project_file
    from g4g_core.errors import UsageError
    from reports.leaderboard import write_report

    run = run or (read_project_file(".").get("runs") or {}).get("last")
    if run is None:
        raise UsageError("no run is named, and g4g.yaml in this folder notes none", "Name one: g4g-eval report RUN.")
    page = write_report(str(run))
    if not quiet:
        click.echo(f"look at it: {os.path.abspath(page)}")
