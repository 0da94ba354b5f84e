"""``g4g-eval``: score models and finished videos, compare them, and say how sure the answer is."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import click

from g4g_core import __version__, registry
from g4g_core.cli_base import RootGroup, json_option, print_json
from g4g_core.errors import ExitCode, UsageError
from g4g_core.weights_cli import weights

DATA_SECTION, SECTION, CHECKPOINTS = "data", "evaluation", "checkpoints"


class _EvalGroup(RootGroup):
    """Its commands, and those that other packages offer under ``g4g.eval_commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *registry.names(registry.EVAL_COMMANDS)})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        own = super().get_command(ctx, name)
        if own is None and name in registry.names(registry.EVAL_COMMANDS):
            offered: click.Command = registry.load(registry.EVAL_COMMANDS, name)
            return offered
        return own


@click.group(cls=_EvalGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="g4g-eval")
def main() -> None:
    """Score talking-face models, with intervals, paired tests and provenance.

    \b
      g4g-eval run --models still,shuffled          controls on the data set of g4g.yaml
      g4g-eval run --models g4g,mine=precomputed:out/ --data shards
      g4g-eval score --videos results/ --reference originals/
      g4g-eval compare still shuffled               effect, interval and p per metric
      g4g-eval gate --baseline old.json --rule "cpbd@face256>=-2%"

    Exit codes: 0 fine, 1 a finding, 2 a fault you can mend, 3 cannot tell, 4 models failed on some clips.
    """


main.add_command(weights)


def _running_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that scores."""
    options = [
        click.option("--metrics", metavar="A,B", help="Ids or groups (g4g-eval metrics lists them).  [default: all]"),
        click.option(
            "--on-failure",
            type=click.Choice(["drop-everywhere", "worst", "error"]),
            help="A shot that a model fails on counts for none; as the worst value seen; or there is no table."
            "  [default: drop-everywhere]",
        ),
        click.option("--allow-failures", is_flag=True, help="Exit with 0 though models failed on some clips."),
        click.option("--retry-failed", is_flag=True, help="Try again what failed before; else failures are kept."),
        click.option(
            "--timeout",
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            help="A model's time for a shot; of an external program its YAML's counts.  [default: 600]",
        ),
        click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Of LSE and FID.  [default: fp32]"),
        click.option("--workers", type=click.IntRange(1), help="Local worker processes.  [default: one per core]"),
        click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, or 'sync': in this process."),
        click.option("--no-report", is_flag=True, help="Do not render report.html."),
        json_option,
        click.option("--quiet", is_flag=True, help="No progress."),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


@main.command()
@click.option("--models", metavar="A,B", help="Registered names, NAME=external:YAML|ADAPTER, NAME=precomputed:DIR.")
@click.option("--data", metavar="PATH|URL", help="A data set of g4g-prep.  [default: data.root of g4g.yaml]")
@click.option("--split", metavar="NAME[,NAME]", help="Whose shots are scored.  [default: test]")
@click.option("--selection", metavar="FILE", help="Only shots named there; made by g4g-prep select.")
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="NAME=PATH", help="Weights of a model.")
@click.option(
    "--footage",
    multiple=True,
    metavar="[SOURCE=]ROOT",
    help="The original videos, for programs that want whole frames.",
)
@click.option("--no-controls", is_flag=True, help="Leave out still and shuffled, which else are rows of every table.")
@click.option("--pooled", is_flag=True, default=None, help="A further table over all sources together.")
@click.option("--seed", type=click.IntRange(0), help="Of references and pairs.  [default: 0]")
@click.option("--protocol", help="reconstruction/1 or cross/1.  [default: reconstruction/1]")
@click.option("--limit", type=int, metavar="N", help="At most N shots of every source.")
@click.option("--config", "config_file", metavar="YAML", help="Fields as in run.json's settings; options win.")
@click.option(
    "--out",
    metavar="PATH",
    help="Folder of the run.  [default: runs/<protocol>-<split>; the one in g4g.yaml, where that is of the same data]",
)
@_running_options
def run(
    models: str | None, checkpoints: tuple[str, ...], config_file: str | None, out: str | None, **options: Any
) -> None:
    """Run models on a data set's clips and score what they return.

    Every model is given the same prompts: the frames with the mouth erased, pose points, reference frames of the same
    shot, and the speech. The ground truth is always a row. What a former run in the same folder computed is kept.

    \b
    Examples:
      g4g-eval run --models still,shuffled --data shards --limit 20
      g4g-eval run --models still,wav2lip --checkpoint wav2lip=wav2lip.pth
      g4g-eval run --models "Other=external:other.yaml" --protocol cross/1
    """
    from evaluation.config import RunConfig
    from evaluation.run import evaluate_shards
    from g4g_core.config import load_config, read_project_file

    project = read_project_file(".")
    defaults = dict(project.get(SECTION) or {})
    defaults.setdefault("data", (project.get(DATA_SECTION) or {}).get("root"))
    if options["data"] is None and defaults["data"] is None and config_file is None:
        raise UsageError(
            "no data set is named, and g4g.yaml in this folder notes none", "Use --data, or run g4g-prep build-shards."
        )
    given = {name: options[name] for name in
             ("data", "split", "selection", "protocol", "limit", "seed", "on_failure", "timeout", "pooled",
              "precision")}  # fmt: skip
    given["models"] = _names(models)
    given["footage"] = dict(map(_source_root, options["footage"])) or None
    given["controls"] = False if options["no_controls"] else None
    given["metrics"] = _names(options["metrics"])
    config = load_config(RunConfig, config_file, given, {k: v for k, v in defaults.items() if v is not None})
    noted = {str(name): str(path) for name, path in (project.get(CHECKPOINTS) or {}).items()}
    config = config.model_copy(update={"checkpoints": _checkpoints(config, checkpoints, noted)})
    folder = out or _default_folder(config, project)
    with _runner(options) as runner:
        report = evaluate_shards(config, folder, runner, quiet=options["quiet"], retry_failed=options["retry_failed"])
    _finish(report, options)


@main.command()
@click.option("--videos", required=True, multiple=True, metavar="[NAME=]DIR", help="Finished videos of one system.")
@click.option("--reference", metavar="DIR", help="The originals, under the same relative names.")
@click.option("--out", metavar="PATH", help="Folder of the run.  [default: runs/videos]")
@_running_options
def score(videos: tuple[str, ...], reference: str | None, out: str | None, **options: Any) -> None:
    """Score finished videos of any system.

    With --reference every video is cut where its original is cut, frame by frame, and compared with it; several
    --videos stand side by side. Without, each folder is tracked and cut like footage, and what needs no original is
    measured: lip sync and sharpness.

    \b
    Examples:
      g4g-eval score --videos results/
      g4g-eval score --videos wav2lip=out/w2l --videos mine=out/mine --reference test_videos/
    """
    from evaluation.score import score_videos

    with _runner(options) as runner:
        reports = score_videos(
            [_named_folder(text) for text in videos], reference, out or os.path.join("runs", "videos"), runner,
            wanted=_names(options["metrics"]) or [], timeout=options["timeout"] or 600.0,
            on_failure=options["on_failure"] or "drop-everywhere",
            precision=options["precision"] or "fp32", quiet=options["quiet"], retry_failed=options["retry_failed"],
        )  # fmt: skip
    _finish(reports, options)


@main.command()
@click.argument("file", metavar="FILE")
@click.option("--models", default="still", show_default=True, metavar="A,B", help="Registered names.")
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="NAME=PATH", help="Weights of a model.")
@click.option("--root", default="", metavar="DIR", help="Where the paths in FILE start.  [default: its folder]")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of references.  [default: 0]")
@click.option("--out", metavar="PATH", help="Folder of the run.  [default: runs/pairs]")
@_running_options
def pairs(file: str, models: str, checkpoints: tuple[str, ...], root: str, out: str | None, **options: Any) -> None:
    """Dub the videos of a list with other speech, paste the result back, and score it as video.

    FILE is in Wav2Lip's layout: a line 'audio_path video_path' per pair. This is how LSE on unpaired speech is
    reported; nothing is compared frame by frame.
    """
    from evaluation.pairs import evaluate_pairs

    with _runner(options) as runner:
        report = evaluate_pairs(
            file, root or None, _names(models) or [], dict(map(_pair, checkpoints)),
            out or os.path.join("runs", "pairs"), runner,
            wanted=_names(options["metrics"]) or [], seed=options["seed"] or 0, timeout=options["timeout"] or 600.0,
            on_failure=options["on_failure"] or "drop-everywhere", precision=options["precision"] or "fp32",
            quiet=options["quiet"], retry_failed=options["retry_failed"],
        )  # fmt: skip
    _finish(report, options)


@main.command()
@click.argument("a")
@click.argument("b")
@click.option("--run", "run_folder", metavar="PATH", help="The run both are in.  [default: the last one]")
@json_option
def compare(a: str, b: str, run_folder: str | None, as_json: bool) -> None:
    """Compare two models on the clips that both were scored on: effect, interval and p per metric.

    A and B are models of one run, or RUN:MODEL to compare models of two runs on the clips they share.

    \b
    Examples:
      g4g-eval compare g4g wav2lip
      g4g-eval compare runs/old:g4g runs/new:g4g
    """
    from evaluation.compare import compare_models, print_comparison

    rows = compare_models(a, b, run_folder or _last_run())
    if as_json:
        print_json(rows)
    else:
        print_comparison(a, b, rows)


@main.command()
@click.option("--baseline", required=True, metavar="FILE", help="summary.json of the run to hold against.")
@click.option("--rule", "rules", required=True, multiple=True, metavar="RULE", help='"lse_c>=-2%", "m-lmd<=+0.1" ...')
@click.option("--summary", metavar="FILE", help="summary.json to be judged.  [default: the last run's]")
@click.option("--model", "models", multiple=True, metavar="NAME", help="[default: all that both have, but controls]")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="[default: all that both have]")
@json_option
def gate(
    baseline: str, rules: tuple[str, ...], summary: str | None, models: tuple[str, ...], sources: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Hold a run against a baseline, for continuous integration.

    A rule says how far a metric's mean may move: 'lse_c>=-2%' lets it fall by 2 percent, 'm-lmd<=+0.1' lets it rise by
    0.1. Exit codes: 0 all rules hold, 1 one is broken, 3 cannot tell (other data, other metric version, no value).
    """
    from evaluation.gate import check, print_verdicts

    verdicts = check(baseline, summary or os.path.join(_last_run(), "summary.json"), rules, models, sources)
    if as_json:
        print_json(verdicts)
    else:
        print_verdicts(verdicts)
    outcomes = {verdict["outcome"] for verdict in verdicts}
    if "broken" in outcomes:
        raise click.exceptions.Exit(int(ExitCode.FINDING))
    if not verdicts or "unknown" in outcomes:
        raise click.exceptions.Exit(int(ExitCode.CANNOT_TELL))


@main.command()
@click.option("--clips", metavar="DIR", help="Folder with sync/syncnet_example.avi, for SyncNet's golden values.")
@json_option
def selfcheck(clips: str | None, as_json: bool) -> None:
    """Check every metric against known answers on this machine.

    What ships is checked always; what needs weights is checked where they are, and said to be unchecked where not.
    Exit codes: 0 all that could be checked is right, 1 something is not, 3 nothing wrong but weights are missing.
    """
    from evaluation.selfcheck import print_checks, selfchecks

    checks = selfchecks(clips)
    if as_json:
        print_json(checks)
    else:
        print_checks(checks)
    outcomes = {item["outcome"] for item in checks}
    if "wrong" in outcomes:
        raise click.exceptions.Exit(int(ExitCode.FINDING))
    if "unchecked" in outcomes:
        raise click.exceptions.Exit(int(ExitCode.CANNOT_TELL))


@main.command("metrics")
@json_option
def list_metrics(as_json: bool) -> None:
    """List all metrics: direction, what they say, and whether they can be measured here."""
    import dataclasses

    from evaluation.harness import why_missing
    from evaluation.metrics import MEASURES
    from evaluation.tables import print_metrics

    rows = []
    for measure in MEASURES.values():
        missing = why_missing(measure)
        more = {"group": measure.name, "missing": missing}
        rows += [{**dataclasses.asdict(metric), **more} for metric in measure.metrics]
    if as_json:
        print_json(rows)
    else:
        print_metrics(rows)


@main.command("models")
@json_option
def list_models(as_json: bool) -> None:
    """List all registered models, and the adapters for programs of others."""
    from baselines.external import adapters

    names = registry.names(registry.MODELS)
    found = {name: registry.load(registry.MODELS, name).summary for name in names}
    found |= {"shuffled": "control: the clip's own mouth at the wrong time, warped to every pose"}
    found |= {"ground-truth": "the clip itself; always there"}
    found |= {f"{name}=external:{name}": text for name, text in adapters().items()}
    if as_json:
        print_json(found)
    else:
        width = max(map(len, found))
        for name, text in found.items():
            click.echo(f"{name:{width}}  {text}")


def _finish(report: Any, options: dict[str, Any]) -> None:
    """Tables on the screen (or JSON), the page, and the exit code."""
    from evaluation.tables import print_report
    from g4g_core.config import update_project_file

    update_project_file(".", "runs", {"last": os.path.abspath(report.out)})
    page = None
    if not options["no_report"] and "report" in registry.names(registry.EVAL_COMMANDS):
        page = os.path.join(report.out, "report.html")
        command = registry.load(registry.EVAL_COMMANDS, "report")
        click.get_current_context().invoke(command, runs=(report.out,), quiet=True)
    if options["as_json"]:
        print_json(dict(report.summary))
    else:
        print_report(report, page)
    if report.failed and not options["allow_failures"]:
        raise click.exceptions.Exit(int(ExitCode.SOME_FAILED))


def _runner(options: dict[str, Any]) -> Any:
    from prep.run.runners import LateRunner, open_runner

    def opened() -> Any:
        return open_runner(options["workers"] or os.cpu_count() or 1, options["scheduler"])

    # workers of our own take seconds to start; an address that nobody answers at is told before a run's folder is made
    return LateRunner(opened) if options["scheduler"] is None else opened()


def _last_run() -> str:
    from g4g_core.config import read_project_file

    last = (read_project_file(".").get("runs") or {}).get("last")
    if last is None:
        raise UsageError("no run is named, and g4g.yaml in this folder notes none", "Name one, or run g4g-eval first.")
    return str(last)


def _default_folder(config: Any, project: dict[str, Any]) -> str:
    """The run of this name that ``g4g.yaml`` notes, wherever it lies, if it is of the same data; else here.

    A copy of the project file in another folder then goes on with what was computed, instead of computing it again.
    """
    from evaluation.merge import MERGED
    from evaluation.run import RUN_FILE
    from g4g_core import storage
    from g4g_core.errors import StorageError

    name = f"{config.protocol.replace('/', '-')}-{config.split.replace(',', '-')}"
    runs = project.get("runs")
    last = str((runs if isinstance(runs, dict) else {}).get("last") or "")
    if os.path.basename(last) != name or not os.path.exists(os.path.join(last, RUN_FILE)):
        return os.path.join("runs", name)
    try:
        noted = storage.read_json(storage.join(last, RUN_FILE))
    except StorageError:
        noted = None  # it is not ours to mend: a run begins here
    data = os.path.abspath(config.data) if storage.is_local(config.data) else config.data
    wanted = {"protocol": config.protocol, "split": config.split, "data": data}
    if isinstance(noted, dict) and MERGED not in noted and wanted.items() <= noted.items():
        return last
    return os.path.join("runs", name)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _pair(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise UsageError(f"--checkpoint {text} is no NAME=PATH", "For instance --checkpoint wav2lip=wav2lip.pth.")
    return name, path


def _source_root(text: str) -> tuple[str, str]:
    source, equals, root = text.partition("=")
    return (source, root) if equals else ("", text)


def _named_folder(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    return (name, path) if equals else (os.path.basename(os.path.abspath(text)), text)


def _checkpoints(config: Any, given: tuple[str, ...], noted: dict[str, str]) -> dict[str, str]:
    """Checkpoints of the command line, over those of the configuration, over those that training noted."""
    rows = {name.partition("=")[0] for name in config.models}
    return {
        **{name: path for name, path in noted.items() if name in rows},
        **config.checkpoints,
        **dict(map(_pair, given)),
    }
