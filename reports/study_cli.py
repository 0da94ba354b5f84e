"""``g4g-eval study``: a blind user study, from a run to numbers."""

from __future__ import annotations

import os

import click

from g4g_core.cli_base import Group, json_option, print_json
from g4g_core.errors import ExitCode, UsageError


@click.group(cls=Group)
def study() -> None:
    """Let people rate a run blindly, and fold their answers into numbers.

    \b
      g4g-eval study build runs/mine        study.html for raters, study.json for you
      g4g-eval study collect answers/*.json
    """


@study.command()
@click.argument("run", required=False)
@click.option("--models", metavar="A,B", help="Of the run.  [default: all, with the ground truth]")
@click.option("--clips", type=click.IntRange(1), metavar="N", help="At most N shots.  [default: what the trials need]")
@click.option("--trials", type=click.IntRange(1), default=40, show_default=True, metavar="N",
              help="Comparisons and scored clips; attention checks are added.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0.2, 600), default=8.0, show_default=True, metavar="S",
              help="Longest part of a clip that is shown.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0),
              help="Of the choice of shots and of the secret names of clips: the same one builds the same study again. "
              "Keep it from raters.  [default: drawn, and noted in study.json]")  # fmt: skip
@click.option("--i-may-show-them", is_flag=True,
              help="You hold the right to show the footage to your raters though its licence forbids passing it on, "
              "and answer for it.")  # fmt: skip
@click.option("--out", metavar="PATH", help="Folder of both files.  [default: the run's]")
@json_option
@click.option("--quiet", is_flag=True, help="No progress, and no word at the end.")
def build(
    run: str | None, models: str | None, clips: int | None, trials: int, seconds: float, seed: int | None,
    i_may_show_them: bool, out: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Make the page that raters open: one offline HTML file that names no model.

    RUN is a folder made by g4g-eval run; by default the last one in this folder. Give raters study.html, by any means:
    they open it in a browser, rate, and send back the file it saves. Keep study.json: it says which clip is whose, and
    without it no answer can be read.

    \b
    Examples:
      g4g-eval study build runs/reconstruction-1-test
      g4g-eval study build --models g4g,wav2lip,ground-truth --trials 60 --out studies/first
    """
    from evaluation.study import fewest_to_tell_apart
    from evaluation.study_design import trials_to_score
    from evaluation.study_raters import MOST_MISSED
    from g4g_core.progress import format_bytes
    from reports.study_page import build_study

    names = [name.strip() for name in (models or "").split(",") if name.strip()]
    built = build_study(
        run or _last_run(), out, models=names, clips=clips, trials=trials, seed=seed, seconds=seconds,
        i_may_show_them=i_may_show_them, quiet=quiet or as_json,
    )  # fmt: skip
    facts = built.to_json()
    if as_json:
        print_json(facts)
    if as_json or quiet:
        return
    if built.left_out:
        click.echo(f"left out, for their licence forbids passing them on: {len(built.left_out)} of the shots")
    if facts["trials"] < trials:
        click.echo(f"{facts['trials']} trials instead of {trials}: the shots give no more")
    click.echo(
        f"{len(facts['models'])} models, {facts['trials']} trials and {facts['checks']} checks, {built.clips} clips, "
        f"about {built.minutes} min"
    )
    click.echo(f"a rater who misses more than {int(MOST_MISSED * facts['checks'])} of the checks is excluded")
    scored, wanted = facts["people"]["scored"], fewest_to_tell_apart(len(facts["models"]))
    if scored < wanted:
        asked = trials_to_score(wanted, len(facts["models"]))
        enough = f"--trials {asked} scores {wanted}, where so many can be shown"
        if clips is not None and clips < wanted:
            enough = f"--clips {clips} allows no more"
        more = enough if asked > trials or clips is not None else "no more people can be shown"
        click.echo(
            f"scores rest on {scored} {'person' if scored == 1 else 'people'}: under {wanted} they tell none of "
            f"{len(facts['models'])} models apart, however many rate ({more})"
        )
    click.echo(f"for raters: {os.path.abspath(built.page)} ({format_bytes(built.bytes)})")
    click.echo(f"for you alone: {os.path.abspath(built.key)}")
    if built.study.facts["restricted_licences"]:
        click.echo("the page holds footage that may not be passed on: you answer for whom you give it to")


@study.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--study", "key_file", metavar="PATH", help="The study's key file.  [default: of the last run]")
@click.option("--run", metavar="RUN", help="The run that was shown: its leaderboard will show the results.  "
              "[default: the key file's folder, else the last run, if the study is of it]")  # fmt: skip
@click.option("--out", metavar="PATH", help="Of the results.  [default: study_results.json beside the key file]")
@json_option
def collect(files: tuple[str, ...], key_file: str | None, run: str | None, out: str | None, as_json: bool) -> None:
    """Check the raters' files, and say what they say.

    FILES are all that raters have sent so far; give all of them every time. Files that were edited, cut, doubled or are
    of another study are refused, raters who miss attention checks, hurry or always say the same are excluded, each with
    the reason. Exit codes: 0 fine, 1 files were refused, 3 nobody's answers count: results of raters who counted before
    are then kept.

    \b
    Examples:
      g4g-eval study collect answers/*.json
      g4g-eval study collect answers/*.json --study studies/first/study.json --run runs/mine
    """
    from evaluation.study_answers import read_submissions
    from evaluation.study_design import read_study
    from evaluation.study_results import print_results, study_results
    from g4g_core import storage
    from reports.opinions import STUDY, refuse_to_overwrite, run_of_study
    from reports.study_page import KEY

    key_file = key_file or storage.join(_last_run(), KEY)
    found = read_study(key_file)
    path = out or storage.join(storage.parent(key_file), STUDY)
    run = run_of_study(found, run, [storage.parent(key_file), *_noted_run()])
    places = list(dict.fromkeys([path, *([] if run is None else [storage.join(run, STUDY)])]))
    for place in places:
        refuse_to_overwrite(place, found.id)
    submissions, refused = read_submissions(files, found)
    results = study_results(found, submissions, refused)
    kept = [] if results["raters"]["counted"] else [place for place in places if _raters_of(place)]
    written = [place for place in places if place not in kept]
    for place in written:
        storage.write_json(place, results)
    if as_json:
        print_json(results)
    else:
        for one in refused:
            click.echo(f"refused  {one.file}: {one.reason}")
        for rater in results["raters"]["excluded"]:
            click.echo(f"excluded {rater['rater']} ({rater['file']}): {'; '.join(rater['reasons'])}")
        print_results(results)
        for place in written:
            click.echo(f"results: {os.path.abspath(place)}")
        if run is None:
            click.echo(
                "no run was found that this study is of: name it with --run, and its leaderboard shows the results"
            )
    for place in kept:
        known = _raters_of(place)
        click.echo(f"nobody's answers count: {os.path.abspath(place)} keeps its results of {known} before", err=True)
    if not results["raters"]["counted"]:
        raise click.exceptions.Exit(int(ExitCode.CANNOT_TELL))
    if refused:
        raise click.exceptions.Exit(int(ExitCode.FINDING))


def _raters_of(place: str) -> int:
    """How many raters count in the results that lie at a place, if any do."""
    from g4g_core import storage

    return len(storage.read_json(place)["raters"]["counted"]) if storage.exists(place) else 0


def _last_run() -> str:
    for last in _noted_run():
        return last
    raise UsageError("no run is named, and g4g.yaml in this folder notes none", "Name one, or run g4g-eval first.")


def _noted_run() -> list[str]:
    """The run that g4g.yaml notes, if it does."""
    from g4g_core.config import read_project_file

    last = (read_project_file(".").get("runs") or {}).get("last")
    return [] if last is None else [str(last)]
