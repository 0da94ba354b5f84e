"""``g4g-model``: train what is registered under ``g4g.trainables``, dub with what is under ``g4g.models``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from g4g_core import __version__
from g4g_core.cli_base import RootGroup, json_option, print_json
from g4g_core.errors import UsageError
from g4g_core.weights_cli import weights

PROJECT_SECTION = "data"
VALIDATION = "val"


@click.group(cls=RootGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="g4g-model")
def main() -> None:
    """Train talking-face models and lip-sync experts from shards made by g4g-prep, and dub videos with them."""


main.add_command(weights)


@main.command()
@click.option("--model", required=True, metavar="NAME", help="What to train; g4g-model list names all there is.")
@click.option("--preset", metavar="NAME", help="Named settings of this model.")
@click.option("--shards", metavar="PATH|URL", help="A data set of g4g-prep.  [default: data.root of g4g.yaml]")
@click.option("--split", "splits", default="train", show_default=True, help="Splits to learn from: train,val,...")
@click.option("--selection", metavar="FILE", help="Only these samples; a file made by g4g-prep select.")
@click.option(
    "--validation", metavar="SPLIT|FILE|none",
    help="Samples on which figures are taken: a split, or a file as for --selection.  [default: val, if it is there]",
)  # fmt: skip
@click.option("--out", required=True, metavar="PATH", help="Folder of the run: log, checkpoints, result.")
@click.option("--config", "config_file", metavar="YAML", help="Sections 'training' and 'model'; --set wins.")
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE",
    help="A field of either section, e.g. --set steps=500 --set late.mocha=0.25; --dry-run lists them.",
)  # fmt: skip
@click.option("--seed", type=int, help="Of weights, batches and augmentation.  [default: 0]")
@click.option("--steps", type=int, help="Optimiser steps.")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint, step for step as if never stopped.")
@click.option("--dry-run", is_flag=True, help="Print model, data and schedule; train nothing.")
@json_option
@click.option("--quiet", is_flag=True, help="No progress.")
def train(model: str, out: str, **options: Any) -> None:
    """Train a model, and leave log, checkpoints and what it is used by in one folder.

    Watch it with 'tensorboard --logdir OUT'; OUT/pictures shows what it draws. Several processes share every batch
    when torchrun or accelerate starts them.

    \b
    Examples:
      g4g-model train --model g4g --preset tiny --out runs/g4g
      torchrun --nproc-per-node 2 -m g4g_model train --model g4g --preset g4g-256 --set precision=bf16 --out runs/g4g
      g4g-prep select shards --where 'role == sync-a' --out a.parquet
      g4g-model train --model sync-a --shards shards --selection a.parquet --out runs/sync-a
      g4g-model train --model sync-a --shards shards --out runs/sync-a --resume
    """
    from g4g_core import registry
    from g4g_core.config import update_project_file
    from g4g_core.training import Checked, leads
    from g4g_core.training import train as run

    kind = registry.load(registry.TRAINABLES, model)
    settings, config = _configuration(kind, options)
    trainable = kind.open(config, _data(options), seed=settings.seed, quiet=options["quiet"])
    if options["dry_run"]:
        if leads():
            if isinstance(trainable, Checked):
                trainable.check(settings.steps, int(os.environ.get("WORLD_SIZE", "1")))
            _describe(trainable, settings, options["as_json"])
        return
    last = run(trainable, settings, out, resume=options["resume"], quiet=options["quiet"])
    if not leads():
        return
    files = kind.export(trainable, Path(out))
    if model in registry.names(registry.MODELS):
        # what can be trained and can generate is found by g4g-eval run and dub without being named again
        update_project_file(".", "checkpoints", {model: str(Path(out).resolve())})
    if options["as_json"]:
        print_json({**last, "files": [str(path) for path in files]})
        return
    figures = {**last, **last.get("validation", {})}
    click.echo("  ".join(f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, (int, float))))
    for path in files:
        click.echo(f"{path}")


@main.command()
@click.option("--video", required=True, metavar="FILE", help="Who is to speak; it is only read.")
@click.option("--audio", required=True, metavar="FILE", help="What is to be said: a sound file, or a video's sound.")
@click.option("--model", required=True, metavar="NAME", help="A registered generator, e.g. g4g or still.")
@click.option("--checkpoint", metavar="PATH", help="Its weights.  [default: checkpoints.NAME of g4g.yaml]")
@click.option("--out", required=True, metavar="FILE", help="The video to write: .mp4, .m4v, .mov or .mkv.")
@click.option(
    "--audio-longer", type=click.Choice(["cut", "loop"]), default="cut", show_default=True,
    help="Speech that outlasts the picture: cut it, or show the picture again from its beginning.",
)  # fmt: skip
@click.option(
    "--audio-shorter", type=click.Choice(["silence", "cut"]), default="silence", show_default=True,
    help="A picture that outlasts the speech: go on in silence, or cut it.",
)  # fmt: skip
@click.option(
    "--faces", type=click.Choice(["largest", "speaking"]), default="largest", show_default=True,
    help="Which face of several speaks; 'speaking' asks the video's own sound.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of references and the generator's chance.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu"]), default="auto", show_default=True,
    help="Where the model works; auto: a GPU where there is one.",
)  # fmt: skip
@click.option("--crf", type=click.FloatRange(0, 51), help="x264's quality, smaller is better.  [default: 18]")
@click.option("--lossless", is_flag=True, help="Keep every pixel that is not redrawn, bit for bit.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there already.")
@json_option
@click.option("--quiet", is_flag=True, help="No progress.")
def dub(video: str, audio: str, model: str, out: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Redraw the mouth in a video so that it says something else.

    \b
    Examples:
      g4g-model dub --video in.mp4 --audio speech.wav --model still --out out.mp4
      g4g-model dub --video in.mp4 --audio speech.wav --model g4g --checkpoint runs/g4g --out out.mkv --lossless
    """
    from g4g_core.config import read_project_file
    from g4g_model.dub import CRF, Order
    from g4g_model.dub import dub as run

    crf, lossless = options.pop("crf"), options.pop("lossless")
    if lossless and crf is not None:
        raise UsageError("--crf says how much may be lost, --lossless that nothing may", "Give one of them.")
    options["checkpoint"] = options["checkpoint"] or (read_project_file(".").get("checkpoints") or {}).get(model)
    if "://" in out:
        raise UsageError(f"--out {out} is no local file", "Write it here, and copy it.")
    quality = None if lossless else CRF if crf is None else crf
    done = run(Order(video, audio, model, Path(out), crf=quality, **options), quiet=quiet)
    if as_json:
        print_json(done)
        return
    for line in _told(done):
        click.echo(line)


def _told(done: dict[str, Any]) -> list[str]:
    """The summary of a dub for people."""
    rate = done["took"] / max(1, done["frames"])
    lines = [
        f"{done['out']}: {done['frames']} frames of {done['frame_size'][0]}x{done['frame_size'][1]}, "
        f"{done['seconds']:.2f} s; made in {done['took']:.1f} s, {rate:.3f} s a frame",
        f"  {done['redrawn']} redrawn in {done['shots']} shots",
    ]
    lines += [f"  {count} passed through: {reason}" for reason, count in done["passed_through"].items()]
    if done["speech_cut"] >= 0.04:
        lines.append(f"  the last {done['speech_cut']:.2f} s of the speech are not heard (--audio-longer loop)")
    if done["rounds"] > 1:
        lines.append(f"  the picture is shown {done['rounds']} times")
    for errors, what in ((done["decode_errors"], "video"), (done["speech_errors"], "speech")):
        if errors:
            lines.append(f"  {errors} packets of the {what} are damaged and left out")
    for stopped, what in ((done["stopped"], "video"), (done["speech_stopped"], "speech")):
        if stopped:
            lines.append(f"  the {what} was read no further: {stopped}")
    return lines


@main.command()
@click.option("--model", metavar="NAME", help="A registered generator.  [default: what the checkpoint is of]")
@click.option("--preset", metavar="NAME", help="Named settings of this model, as for train.")
@click.option("--checkpoint", metavar="PATH", help="A file of trained weights, or the folder of its run.")
@json_option
def info(model: str | None, preset: str | None, checkpoint: str | None, as_json: bool) -> None:
    """Tell what a network is made of, what a frame costs, and what a checkpoint was trained on.

    \b
    Examples:
      g4g-model info --model g4g --preset g4g-256
      g4g-model info --checkpoint runs/g4g
    """
    from g4g_core import registry
    from g4g_core.protocols import SelfDescribing

    if checkpoint is not None and preset is not None:
        raise UsageError("--preset describes a network that is not trained yet; a checkpoint knows its own")
    if model is None:
        if checkpoint is None:
            raise UsageError("nothing to tell of", "Name a model (--model g4g), or a checkpoint (--checkpoint PATH).")
        from g4g_model.info import trained_as

        model = trained_as(checkpoint)
    draws = model in registry.names(registry.MODELS) or model not in registry.names(registry.TRAINABLES)
    kind = registry.load(registry.MODELS if draws else registry.TRAINABLES, model)
    if not isinstance(kind, SelfDescribing):
        if not draws:
            raise UsageError(f"{model} draws nothing", f"g4g-model train --model {model} --dry-run tells what it is.")
        raise UsageError(f"{model} offers no description of its network", f"It is: {kind.summary}.")
    found = kind.info(checkpoint, preset)
    if as_json:
        print_json(found)
        return
    for line in _told_of(found):
        click.echo(line)


def _told_of(sections: dict[str, Any], indent: str = "") -> list[str]:
    """Names and values for people, sections indented."""
    lines = []
    for name, value in sections.items():
        title = f"{indent}{name.replace('_', ' '):{30 - len(indent)}} "
        if isinstance(value, dict):
            lines += [title.rstrip(), *_told_of(value, indent + "  ")]
        elif isinstance(value, bool):
            lines.append(title + ("on" if value else "off"))
        elif isinstance(value, int):
            lines.append(f"{title}{value:,}")
        elif isinstance(value, list):
            lines.append(title + (", ".join(map(str, value)) or "none"))
        else:
            lines.append(title + ("-" if value is None else str(value)))
    return lines


@main.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """Name everything that 'train' can train."""
    from g4g_core import registry

    names = registry.names(registry.TRAINABLES)
    if as_json:
        print_json(names)
    else:
        click.echo("\n".join(names))


def _configuration(kind: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Settings of the loop and configuration of the model: defaults, preset, file, command line, in this order."""
    from g4g_core.config import load_config, read_yaml
    from g4g_core.registry import unknown
    from g4g_core.training import Settings

    preset: dict[str, Any] = {}
    if options["preset"] is not None:
        if options["preset"] not in kind.presets:
            raise unknown("preset", options["preset"], list(kind.presets))
        preset = dict(kind.presets[options["preset"]])
    file = read_yaml(options["config_file"]) if options["config_file"] is not None else {}
    foreign = sorted(set(file) - {"training", "model"})
    if foreign:
        raise UsageError(f"{options['config_file']}: there is no section '{foreign[0]}'", "There are: training, model.")
    for name, section in file.items():
        if section is not None and not isinstance(section, dict):
            raise UsageError(f"{options['config_file']}: the section '{name}' must hold 'field: value' lines")
    given = _assigned(options["assignments"])
    given |= {name: options[name] for name in ("seed", "steps") if options[name] is not None}
    ours = {name: value for name, value in given.items() if name.partition(".")[0] in Settings.model_fields}
    theirs = {name: value for name, value in given.items() if name not in ours}
    settings = load_config(
        Settings, None, ours, {**kind.settings, **preset.get("training", {}), **(file.get("training") or {})}
    )
    network = {**(file.get("model") or {}), **theirs}
    if "preset" in network:
        raise UsageError("a preset is named by --preset NAME, not by a field")
    config = load_config(kind.Config, None, theirs, {**preset.get("model", {}), **(file.get("model") or {})})
    if preset:
        config = config.of_preset(options["preset"], kind.Config.model_validate(preset.get("model", {})))
    return settings, config


def _assigned(texts: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {text} is no NAME=VALUE", "For instance --set steps=500.")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text}: {' '.join(str(error).split())}") from error
    return values


def _data(options: dict[str, Any]) -> Any:
    from g4g_core.config import read_project_file
    from g4g_core.protocols import TrainingData
    from prep.shards.index import Dataset

    shards = options["shards"] or (read_project_file(".").get(PROJECT_SECTION) or {}).get("root")
    if not shards:
        raise UsageError("no shards are given", "Use --shards PATH, or build some here with g4g-prep build-shards.")
    splits = tuple(name.strip() for name in options["splits"].split(",") if name.strip())
    validation = options["validation"]
    if validation is None and VALIDATION not in splits and VALIDATION in Dataset.open(str(shards)).splits:
        validation = VALIDATION
    return TrainingData(str(shards), splits, options["selection"], None if validation == "none" else validation)


def _describe(trainable: Any, settings: Any, as_json: bool) -> None:
    parameters = sum(p.numel() for p in trainable.module.parameters() if p.requires_grad)
    about = {"model": trainable.name, "parameters": parameters, "training": settings.model_dump()}
    about |= {"description": trainable.describe()}
    if as_json:
        print_json(about)
        return
    click.echo(f"{trainable.name}: {parameters:,} parameters; nothing is trained (dry run)")
    for section in ("training", "description"):
        for name, value in about[section].items():
            click.echo(f"  {name:18} {value}")
