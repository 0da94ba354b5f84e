"""``g4g-eval report``: the page of a run."""

from __future__ import annotations

import os

import click


@click.command()
@click.argument("run", required=False)
@click.option("--latex", is_flag=True, help="Print the main tables as LaTeX (booktabs) instead; no page is written.")
@click.option("--markdown", is_flag=True, help="Print the main tables as Markdown instead; no page is written.")
@click.option("--quiet", is_flag=True, help="Do not print where the page is.")
def report(run: str | None, latex: bool = False, markdown: bool = False, quiet: bool = False) -> None:
    """Render report.html of a run from its results alone: one offline file.

    RUN is a folder made by g4g-eval; by default the last one in this folder. leaderboard.json and leaderboard.csv,
    with the numbers as the page shows them, are written beside it.

    \b
    Examples:
      g4g-eval report runs/reconstruction-1-test
      g4g-eval report --latex > table.tex
    """
    from g4g_core.config import read_project_file
    from g4g_core.errors import UsageError
    from reports.exports import board_latex, board_markdown
    from reports.leaderboard import read_board, write_report

    run = run or (read_project_file(".").get("runs") or {}).get("last")
    if run is None:
        raise UsageError("no run is named, and g4g.yaml in this folder notes none", "Name one: g4g-eval report RUN.")
    if latex and markdown:
        raise UsageError("--latex and --markdown cannot be printed together", "Ask for one of them.")
    if latex or markdown:
        board = read_board(str(run))
        click.echo(board_latex(board) if latex else board_markdown(board), nl=False)
        return
    page = write_report(str(run))
    if not quiet:
        click.echo(f"look at it: {os.path.abspath(page)}")
