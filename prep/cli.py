"""``g4g-prep``: raw talking-face video to WebDataset shards, and what one does with them."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from g4g_core import __version__
from g4g_core.cli_base import RootGroup, json_option, print_json
from g4g_core.errors import ExitCode, UsageError
from g4g_core.weights_cli import weights

PROJECT_SECTION = "data"


@click.group(cls=RootGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="g4g-prep")
def main() -> None:
    """Turn raw LRS2, HDTF or any talking-face footage into WebDataset shards.

    \b
      g4g-prep make-sample sample --layout lrs2        no footage at hand? render some
      g4g-prep build-shards --lrs2 sample --out data   probe, track, crop, mask, shard
      g4g-prep doctor                                  fit for training? what is missing?
      g4g-prep contact-sheet                           look at it

    Commands that read a data set take the one that build-shards made last in this folder (noted in g4g.yaml) unless
    another is named. Exit codes: 0 fine, 1 a finding, 2 a fault you can mend, 3 cannot tell.
    """


main.add_command(weights)


def data_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """``[DATA]``: a data set, by default the one noted in ``g4g.yaml``."""

    @click.argument("data", required=False)
    @functools.wraps(function)
    def wrapped(*args: Any, data: str | None, **kwargs: Any) -> Any:
        from g4g_core.config import PROJECT_FILE, read_project_file

        if data is None:
            data = (read_project_file(".").get(PROJECT_SECTION) or {}).get("root")
            if data is None:
                raise UsageError(
                    f"no data set is named, and {PROJECT_FILE} in this folder notes none",
                    "Name one, or run g4g-prep build-shards first.",
                )
        return function(*args, data=data, **kwargs)

    return wrapped


def print_rich(renderable: Any) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    Console(width=width, highlight=False).print(renderable)


# ---------------------------------------------------------------- build-shards


@main.command("build-shards")
@click.option(
    "--lrs2", metavar="[NAME=]PATH", multiple=True, help="LRS2: the folder that holds mvlrs_v1 and the lists."
)
@click.option(
    "--lrs2-lists", metavar="PATH", help="Folder of train.txt, val.txt, test.txt, pretrain.txt, if elsewhere."
)
@click.option(
    "--hdtf", metavar="[NAME=]PATH", multiple=True, help="HDTF: cut clips, or originals with --hdtf-annotations."
)
@click.option("--hdtf-annotations", metavar="PATH", help="The HDTF_dataset folder of *_annotion_time.txt and others.")
@click.option(
    "--folder",
    metavar="[NAME=]PATH",
    multiple=True,
    help="Any tree of videos; NAME (default: the folder's) in every table.",
)
@click.option(
    "--describe",
    metavar="NAME=TEXT",
    multiple=True,
    help="What a source is and whose, in a line: readers of leaderboards know only its name otherwise.",
)
@click.option("--out", metavar="PATH|URL", required=True, help="Data set folder; a build that broke off is continued.")
@click.option(
    "--identity",
    metavar="RULE",
    help="Who is who: stem, parent, regex:EXPR (folders only) or csv:FILE with file,identity[,split].  [default: stem]",
)
@click.option(
    "--split-by",
    type=click.Choice(["auto", "lists", "identity", "csv"]),
    help="Who decides the split.  [default: lists where there are any, else a stable draw by identity]",
)
@click.option("--fractions", metavar="T,V,T", help="Shares of a drawn split.  [default: 0.8,0.1,0.1]")
@click.option("--size", type=int, help="Side of the face crop, 64..512.  [default: 256]")
@click.option(
    "--landmarks",
    type=click.Choice(["dlib", "fan"]),
    help="dlib: embedded, CPU. fan: reference, GPU, weights to fetch.  [default: dlib]",
)
@click.option(
    "--faces", type=click.Choice(["largest", "speaking", "all"]), help="Which of several faces.  [default: largest]"
)
@click.option("--min-frames", type=int, help="Shorter clips and shots are refused, frames of 40 ms.  [default: 10]")
@click.option("--min-face", type=float, help="Smaller faces are refused, px.  [default: 24]")
@click.option(
    "--max-mismatch", type=float, help="Seconds by which picture and sound may differ in length.  [default: 1]"
)
@click.option("--shard-mb", type=float, help="About this many MB a shard.  [default: 256]")
@click.option("--time-limit", type=float, help="Seconds a clip may take, plus 10 (fan: 60) lengths.  [default: 60]")
@click.option("--part-seconds", type=int, help="Longer clips are encoded in parts, in parallel.  [default: 30]")
@click.option("--cache-mb", type=int, help="Decoded frames kept between the two passes, MB.  [default: 384]")
@click.option("--batch-size", type=int, help="Faces per network call (fan).  [default: 16, 64 on a GPU]")
@click.option(
    "--fix-offset", is_flag=True, default=None,
    help="Shift the sound of each clip by its measured AV offset, in whole frames; recorded as audio_shift.",
)  # fmt: skip
@click.option("--config", "config_file", metavar="YAML", help="File of the options above; the command line wins.")
@click.option("--workers", type=click.IntRange(1), help="Local worker processes.  [default: one per core]")
@click.option(
    "--scheduler", metavar="sync|ADDRESS", help="sync: in this process; tcp://HOST:PORT: a running Dask cluster."
)
@click.option("--resource", metavar="NAME=N", multiple=True, help="Dask worker resource a task needs, e.g. GPU=1.")
@click.option("--dry-run", is_flag=True, help="Probe and plan only: print frames, hours, core-hours, GPU-hours, bytes.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_context
def build_shards(ctx: click.Context, /, **options: Any) -> None:
    """Turn raw footage into shards of face crops, landmarks, mels and mouth masks.

    \b
    Examples:
      g4g-prep build-shards --lrs2 /data/lrs2 --out shards
      g4g-prep build-shards --hdtf /data/hdtf --hdtf-annotations HDTF_dataset --out shards
      g4g-prep build-shards --folder interviews=/data/iv --identity parent --out s3://bucket/shards
      g4g-prep build-shards --lrs2 /data/lrs2 --out shards --dry-run

    Every input clip ends in a shard or as a row of manifest.parquet with its reason. Source files are only read. A
    run that is interrupted is continued by the same command, and gives the same bytes as one that was not.
    """
    from g4g_core.config import load_config, update_project_file
    from prep.config import BuildConfig
    from prep.run.build import Build
    from prep.run.runners import open_runner
    from prep.sources.identity import parse_rule

    fields = set(BuildConfig.model_fields)
    config = load_config(
        BuildConfig,
        options["config_file"],
        {name: value for name, value in options.items() if name in fields and name != "fractions"}
        | {"fractions": _fractions(options["fractions"])},
    )
    _check_weights(config.landmarks)
    if options["out"].startswith("memory:"):
        raise UsageError("--out memory:// cannot be shared with workers", "Name a folder or an object store.")
    sources = _sources(options)
    rule = parse_rule(options["identity"]) if options["identity"] else None
    job = Build(sources, _absolute(options["out"]), config, rule, options["quiet"])
    began = time.monotonic()
    gpus = _gpus(config.landmarks)
    workers = options["workers"] or len(gpus) or os.cpu_count() or 1
    with open_runner(workers, options["scheduler"], resources=_resources(options["resource"]), gpus=gpus) as runner:
        started = time.monotonic()
        if not options["quiet"] and not options["as_json"]:
            click.echo(f"running {runner.description}", err=True)
        plan = job.plan(runner)
        if options["dry_run"]:
            _print_plan(plan.estimate(config), plan, options["as_json"])
            return
        report = job.run(plan, runner)
    update_project_file(".", PROJECT_SECTION, {"root": job.out})
    _print_report(report, options["out"], started - began, options["as_json"])
    if report.leaks or not report.n_samples:
        ctx.exit(int(ExitCode.FINDING))


def _sources(options: dict[str, Any]) -> list[Any]:
    from prep.sources import SourceRoot
    from prep.sources.naming import source_name

    sources = []
    described = dict(map(_description, options["describe"]))
    for kind, option in (("lrs2", "lists"), ("hdtf", "annotations"), ("folder", None)):
        for text in options[kind]:
            # a corpus is called what it is, whatever its folder is called
            name, path = source_name(text, None if kind == "folder" else kind)
            extra = {option: options[f"{kind}_{option}"]} if option else {}
            sources.append(SourceRoot(name, kind, _absolute(path), extra, described.pop(name, "")))
    if not sources:
        raise UsageError("no source is given", "Use --lrs2 PATH, --hdtf PATH or --folder PATH.")
    if described:
        names = ", ".join(source.name for source in sources)
        raise UsageError(f"--describe {min(described)}=... is about no source", f"There is: {names}.")
    return sources


def _description(text: str) -> tuple[str, str]:
    name, equals, about = text.partition("=")
    if not equals or not about.strip():
        mend = "Write --describe 'NAME=what it is, and whose'."
        raise UsageError(f"--describe {text!r} says nothing of a source", mend)
    return name, " ".join(about.split())


def _fractions(text: str | None) -> list[float] | None:
    from prep.sources.splits import parse_fractions

    return None if text is None else list(parse_fractions(text))


def _resources(texts: tuple[str, ...]) -> dict[str, float]:
    resources = {}
    for text in texts:
        name, _, amount = text.partition("=")
        try:
            resources[name] = float(amount or 1)
        except ValueError:
            raise UsageError(f"--resource {text} is no NAME=NUMBER", "For instance --resource GPU=1.") from None
    return resources


def _check_weights(landmarks: str) -> None:
    """Say in one line what is missing before any worker starts."""
    from g4g_core import weights as registry
    from prep.landmarks import weights_of
    from prep.stages import sync

    if landmarks == "fan":
        from prep.landmarks import fan

        fan.check_installed()
    for name in weights_of(landmarks):
        registry.path(name)
    sync.check_installed()


def _gpus(landmarks: str) -> list[str]:
    """The GPUs that local workers share: one process each. Without a network to run there is no need to ask."""
    if landmarks != "fan":
        return []
    from prep.landmarks.fan import visible_gpus

    return visible_gpus()


def _absolute(place: str) -> str:
    """Workers of a cluster have working folders of their own."""
    from g4g_core import storage

    return os.path.abspath(place) if storage.is_local(place) else place


def _print_plan(estimate: dict[str, float], plan: Any, as_json: bool) -> None:
    from collections import Counter

    from g4g_core.progress import format_bytes

    reasons = Counter(clip.rejection.reason.value for clip in plan.clips if clip.rejection is not None)
    if as_json:
        print_json({**estimate, "rejected": dict(reasons)})
        return
    click.echo(f"{estimate['clips']:.0f} clips, {estimate['clips_to_process']:.0f} to process, none started (dry run)")
    click.echo(f"  footage     {estimate['hours']:.2f} h, {estimate['frames']:.0f} frames at 25 fps")
    click.echo(f"  core-hours  {estimate['core_hours']:.2f}")
    click.echo(f"  GPU-hours   {estimate['gpu_hours']:.2f}")
    click.echo(f"  output      {format_bytes(estimate['bytes'])} in {estimate['shards']:.0f} shards")
    for reason, count in sorted(reasons.items()):
        click.echo(f"  rejected    {count} {reason}")


def _print_report(report: Any, out: str, startup: float, as_json: bool) -> None:
    from prep.summary import render, summary

    found = summary(report.out)
    if as_json:
        print_json(
            {
                "out": out,
                "samples": report.n_samples,
                "leaks": report.leaks,
                "seconds": round(report.seconds, 2),
                "startup_seconds": round(startup, 2),
                "clips_done_before": report.n_done_before,
                "sources": report.dataset["sources"],
                "splits": report.dataset["splits"],
            }
        )
        return
    print_rich(render(found))
    for leak in report.leaks:
        click.echo(f"leak: {leak}", err=True)
    if not report.n_samples:
        click.echo("no clip gave a sample: see the reasons above", err=True)
    before = f", {report.n_done_before} clips were done before" if report.n_done_before else ""
    click.echo(f"{out}: {report.n_samples} samples in {report.seconds:.1f} s + {startup:.1f} s start-up{before}")
    click.echo(f"look at it: g4g-prep contact-sheet {out}")


# ---------------------------------------------------------------- the sample


@main.command("make-sample")
@click.argument("out")
@click.option("--layout", type=click.Choice(["lrs2", "hdtf"]), required=True, help="Which data set it imitates.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same bytes.")
@click.option("--clips", type=int, help="Number of clips.  [default: 40 (lrs2), 24 (hdtf)]")
@click.option("--identities", type=int, help="Number of people, at most 25.")
@click.option("--quiet", is_flag=True, help="No progress.")
def make_sample_command(
    out: str, layout: Any, seed: int, clips: int | None, identities: int | None, quiet: bool
) -> None:
    """Render talking clips that anybody may use: a public-domain portrait that speaks synthetic speech.

    OUT is a new folder. Its splits.csv goes with build-shards --identity csv:OUT/splits.csv --split-by csv; truth.json
    holds what was rendered (phrases, mouth opening per frame, AV offset).
    """
    from g4g_core.progress import progress
    from prep.sources.sample import make_sample

    with progress(None, "rendering", quiet=quiet) as bar:
        summary = make_sample(
            out,
            layout,
            seed=seed,
            clips=clips,
            identities=identities,
            progress=lambda done, total: bar.advance(1, f"{done}/{total}"),
        )
    click.echo(f"{out}: {summary.clips} clips of {summary.identities} people, {summary.seconds:.0f} s, {layout} layout")


# ---------------------------------------------------------------- reading a data set


@main.command()
@data_argument
@click.option("--deep", is_flag=True, help="Also decode every picture, mask, mel and sound.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_context
def verify(ctx: click.Context, data: str, deep: bool, quiet: bool, as_json: bool) -> None:
    """Check every byte of a data set against its markers, index and manifest. Exit code 1 on a finding."""
    from g4g_core.progress import progress
    from prep.shards.verify import verify as check

    with progress(None, "verifying", unit="shards", quiet=quiet) as bar:
        report = check(data, deep=deep, progress=lambda done, total, name: bar.advance(1, name))
    if as_json:
        print_json(report.to_json())
    else:
        for finding in report.findings:
            click.echo(f"{finding.code.value}: {finding.where}: {finding.detail}")
        state = "sound" if report.ok else f"{len(report.findings)} findings"
        click.echo(f"{data}: {state}; {report.shards} shards, {report.samples} samples, {report.members} members")
    ctx.exit(int(ExitCode.OK if report.ok else ExitCode.FINDING))


@main.command()
@data_argument
@json_option
@click.pass_context
def doctor(ctx: click.Context, data: str, as_json: bool) -> None:
    """Say whether a data set is fit for training, with the numbers behind it.

    fit: at least 20 identities, 30 minutes, 90 % of clips within 1 frame of sync. demo-size: sound but small. unfit: a
    fault that training would suffer from. What is not known yet reads unknown. Exit code 0, 1 (unfit), 3 (unknown).
    """
    from prep.doctor import doctor as examine
    from prep.doctor import render

    diagnosis = examine(data)
    if as_json:
        print_json(diagnosis.to_json())
    else:
        print_rich(render(diagnosis))
    ctx.exit(int(diagnosis.exit_code))


@main.command("contact-sheet")
@data_argument
@click.option("--out", metavar="FILE", help="HTML file.  [default: contact-sheet.html in the data set]")
@click.option("--limit", default=200, show_default=True, help="Clips shown; rejects are always all listed.")
@click.option("--per-source", type=int, help="Clips shown of each source at most.")
@click.option("--seed", default=0, show_default=True, help="Draws which clips are shown.")
@json_option
def contact_sheet_command(
    data: str, out: str | None, limit: int, per_source: int | None, seed: int, as_json: bool
) -> None:
    """One HTML page to look at: crops with landmarks and masks, mel, numbers, rejects with reasons."""
    from g4g_core import storage
    from prep.contact_sheet import contact_sheet

    sheet = contact_sheet(
        data, out or storage.join(data, "contact-sheet.html"), per_source=per_source, limit=limit, seed=seed
    )
    print_json(sheet.to_json()) if as_json else click.echo(str(sheet))


@main.command("select")
@data_argument
@click.option("--where", multiple=True, metavar="COND", help="e.g. 'sharpness >= 50', 'abs(yaw) < 30'; all must hold.")
@click.option("--split", help="Only this split.")
@click.option("--source", help="Only this source.")
@click.option("--out", metavar="FILE", help="Parquet file of the keys, for the readers.")
@json_option
def select_command(
    data: str, where: tuple[str, ...], split: str | None, source: str | None, out: str | None, as_json: bool
) -> None:
    """Choose samples by their numbers. Thresholds belong here: building throws nothing away because of them."""
    from prep.select import render, select

    result = select(data, where=list(where), split=split, source=source, out=out)
    print_json(result.to_json()) if as_json else print_rich(render(result))


@main.command()
@data_argument
@json_option
def stats(data: str, as_json: bool) -> None:
    """Clips, hours, identities and rejects per source and split; seconds per stage."""
    from prep.summary import render, summary

    found = summary(data)
    print_json(found.to_json()) if as_json else print_rich(render(found))


@main.command("merge")
@click.argument("data", nargs=-1, required=True)
@click.option("--out", metavar="PATH|URL", required=True, help="New data set.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@click.pass_context
def merge_command(ctx: click.Context, data: tuple[str, ...], out: str, quiet: bool, as_json: bool) -> None:
    """Join data sets of equal crop, size and landmarks; tars are copied as they are. Exit code 1 on a leak."""
    from g4g_core.progress import progress
    from prep.merge import merge

    with progress(None, "merging", unit="shards", quiet=quiet) as bar:
        merged = merge(list(data), out, progress=lambda done, total, stem: bar.advance(1, stem))
    print_json(merged.to_json()) if as_json else click.echo(str(merged))
    ctx.exit(int(ExitCode.FINDING if merged.leaks else ExitCode.OK))


@main.command("hdtf-list")
@click.option("--annotations", required=True, metavar="PATH", help="The HDTF_dataset folder.")
@click.option("--hdtf", metavar="PATH", help="Where downloads lie; without it everything is listed.")
@click.option("--all", "show_all", is_flag=True, help="Also what is there already.")
@json_option
def hdtf_list(annotations: str, hdtf: str | None, show_all: bool, as_json: bool) -> None:
    """Print which HDTF originals are still to be downloaded, and at which height. Take them WITH sound.

    One line an upload: name, height that the crop boxes assume, seconds used, URL.
    """
    import dataclasses

    from prep.sources.hdtf import to_download

    rows = [row for row in to_download(annotations, hdtf) if show_all or not row.present]
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
        return
    for row in rows:
        used = sum(end - start for start, end in row.intervals)
        height = f"{row.listed_height}p" if row.listed_height else "?"
        here = "  (here)" if row.present else ""
        click.echo(f"{row.group}_{row.name}\t{height}\t{used:.0f} s\t{row.url or 'no URL listed'}{here}")
    click.echo(f"{sum(not row.present for row in rows)} to download", err=True)


if __name__ == "__main__":
    main()
