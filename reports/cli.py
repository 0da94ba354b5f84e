"""``g4g-eval report``: the page of a run, or of several merged."""

from __future__ import annotations

import os
from typing import Any

import click


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--out", help="Folder of the merged run, where several are named.  [default: merged beside the first]")
@click.option(
    "--media",
    type=click.Choice(["embed", "folder", "none"]),
    default="none",
    show_default=True,
    help="Videos, sync by frame and spectrograms of the clips: in the page, in a folder beside it, or none.",
)
@click.option(
    "--media-source",
    "sources",
    multiple=True,
    metavar="NAME",
    help="Media of this source only; may be repeated.  [default: all]",
)
@click.option(
    "--media-limit",
    "limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Media of at most N clips of every source, spread over its people.",
)
@click.option(
    "--i-may-pass-on",
    "vouched",
    multiple=True,
    metavar="NAME",
    help="You hold the right to pass on the footage of this source, whose licence the shards do not know (your own "
    "recordings, for instance), and answer for it; may be repeated.",
)
@click.option("--latex", is_flag=True, help="Print the main tables as LaTeX (booktabs) instead; no page is written.")
@click.option("--markdown", is_flag=True, help="Print the main tables as Markdown instead; no page is written.")
@click.option("--quiet", is_flag=True, help="Do not print where the page is.")
def report(
    runs: tuple[str, ...],
    out: str | None = None,
    media: Any = "none",
    sources: tuple[str, ...] = (),
    limit: int | None = None,
    vouched: tuple[str, ...] = (),
    latex: bool = False,
    markdown: bool = False,
    quiet: bool = False,
) -> None:  # fmt: skip
    """Render report.html of a run from its results alone: one offline file.

    RUN is a folder made by g4g-eval; by default the last one in this folder. leaderboard.json and leaderboard.csv,
    with the numbers as the page shows them, are written beside it. Several runs of one protocol on the same data are
    merged into one leaderboard, with tests and ranks over all their models. A model that several of them
    hold counts once.

    Media show the footage itself: they are refused where its licence does not allow to pass it on. Footage of your own
    has no licence in the shards; say --i-may-pass-on NAME of its source, and the page says that you did.

    \b
    Examples:
      g4g-eval report runs/reconstruction-1-test
      g4g-eval report runs/mine runs/theirs --out runs/both
      g4g-eval report --media folder --media-limit 20
      g4g-eval report --latex > table.tex
    """
    from g4g_core.config import read_project_file
    from g4g_core.errors import UsageError
    from g4g_core.progress import format_bytes
    from reports.exports import board_latex, board_markdown
    from reports.leaderboard import read_board, read_run, write_page
    from reports.media import Choice

    last = (read_project_file(".").get("runs") or {}).get("last")
    named = [str(run) for run in runs] or ([str(last)] if last is not None else [])
    if not named:
        raise UsageError("no run is named, and g4g.yaml in this folder notes none", "Name one: g4g-eval report RUN.")
    if latex and markdown:
        raise UsageError("--latex and --markdown cannot be printed together", "Ask for one of them.")
    if media == "none" and (sources or limit or vouched):
        raise UsageError(
            "--media-source, --media-limit and --i-may-pass-on are about media", "Add --media embed or --media folder."
        )
    if out is not None and len(named) == 1:
        raise UsageError("--out is where several runs are merged", "Name more than one run, or leave it away.")
    run = named[0]
    if len(named) > 1:
        run = out or os.path.join(os.path.dirname(os.path.abspath(run)), "merged")
        from evaluation.merge import MERGED, merge_runs  # several runs are the rare case, and its imports the slow ones

        merge_runs(named, run)
        used = {part["run"] for part in read_run(run)[2][MERGED]}
        for folder in named:
            if os.path.abspath(folder) not in used:
                click.echo(f"left out: {folder}, all models of which are in the runs before it", err=True)
    if latex or markdown:
        board = read_board(run)
        click.echo(board_latex(board) if latex else board_markdown(board), nl=False)
        return
    page, made = write_page(run, Choice(media, sources, limit, vouched), quiet=quiet)
    if quiet:
        return
    if made.shots:
        where = "embedded" if made.kind == "embed" else "beside the page"
        click.echo(f"media: {len(made.shots)} of {made.total} clips, {format_bytes(made.size)} {where}")
    click.echo(f"look at it: {os.path.abspath(page)} ({format_bytes(os.path.getsize(page))})")
