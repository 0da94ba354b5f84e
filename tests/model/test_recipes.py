"""The command that a checkpoint tells to train its network again, read back by the command line that takes it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from g4g_core import registry  # noqa: E402
from g4g_core.recipes import train_command  # noqa: E402
from g4g_core.training import Settings  # noqa: E402
from g4g_model.cli import _configuration as configuration  # noqa: E402
from g4g_model.cli import main  # noqa: E402


def options_of(words: list[str]) -> dict[str, Any]:
    return main.commands["train"].make_context("train", words).params


@pytest.mark.parametrize("splits", [["train"], ["train", "val"]])
@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("g4g", ["--preset", "tiny", "--steps", "200"]),
        ("g4g-no-fusion", ["--preset", "g4g-256", "--seed", "7", "--set", "weights.expert=0.5"]),
        ("g4g", ["--set", "channels=[8, 8, 16]", "--set", "expert=sync-a", "--set", "precision=bf16"]),
        ("wav2lip", ["--preset", "tiny", "--set", "expert=runs/my expert", "--set", "threads=2"]),
        ("wav2lip-gan", ["--preset", "full", "--set", "sync_below=0.5", "--steps", "9"]),
        ("dinet", ["--preset", "tiny", "--set", "weights.gan=0.25"]),
    ],
)  # fmt: skip
def test_the_command_gives_the_same_network_and_training(model: str, given: list[str], splits: list[str]) -> None:
    kind = registry.load(registry.TRAINABLES, model)
    settings, config = configuration(kind, options_of(["--model", model, *given, "--out", "o"]))
    command = train_command(model, config, settings.model_dump(), {"splits": splits, "selected": len(splits) > 1})

    assert command is not None and "my expert" not in command
    program, name, *words = shlex.split(command)
    assert (program, name) == ("g4g-model", "train")
    options = options_of(words)
    again, same = configuration(kind, options)
    aside = {*config.places, "preset"}
    assert again == settings and same.model_dump(exclude=aside) == config.model_dump(exclude=aside)
    assert (options["splits"], options["selection"]) == (",".join(splits), "TRAIN_KEYS" if len(splits) > 1 else None)
    assert (options["shards"], options["out"]) == ("DATA", f"RUNS/{model}")


def test_of_a_checkpoint_that_does_not_say_enough_there_is_no_command() -> None:
    config = registry.load(registry.TRAINABLES, "g4g").Config()
    settings = Settings().model_dump()
    assert train_command("g4g", config, settings, {}) is None
    assert train_command("g4g", config, {}, {"splits": ["train"]}) is None
    assert train_command("g4g", config.model_copy(update={"identity": "a\nb"}), settings, {"splits": ["train"]}) is None
    assert train_command("nobody's", config, settings, {"splits": ["train"]}) is None


def test_files_of_keys_are_made_before_they_are_used_and_once() -> None:
    config, settings = registry.load(registry.TRAINABLES, "wav2lip").Config(), Settings().model_dump()
    keys = {name: f"g4g-prep select DATA --where 'yaw < 9' --out {name}" for name in ("TRAIN_KEYS", "VALIDATION_KEYS")}
    expert = "g4g-model train --model wav2lip-expert --selection TRAIN_KEYS --out RUNS/wav2lip-expert"
    learned_from = {
        "splits": ["train"], "selected": True, "selections": {**keys, "OTHER": None}, "validation": "VALIDATION_KEYS",
        "taught_by": {"expert": "PATH", "command": f"{keys['TRAIN_KEYS']}\n{expert}"},
    }  # fmt: skip
    command = train_command("wav2lip", config, settings, learned_from)

    assert command is not None
    *before, own = command.splitlines()
    assert before == [keys["TRAIN_KEYS"], expert, keys["VALIDATION_KEYS"]]
    assert "--selection TRAIN_KEYS --validation VALIDATION_KEYS" in own


@pytest.mark.parametrize(("model", "named"), [("wav2lip", "PATH"), ("g4g", "wav2lip-expert:PATH"), ("g4g", "sync-a")])
def test_an_expert_is_trained_before_the_model_that_it_teaches(model: str, named: str) -> None:
    kind = registry.load(registry.TRAINABLES, model)
    given = ["--model", model, "--preset", "tiny", "--set", f"expert={named.replace('PATH', 'runs/e')}", "--out", "o"]
    settings, config = configuration(kind, options_of(given))
    first = "g4g-model train --model wav2lip-expert --shards DATA --steps 5 --seed 1 --out RUNS/wav2lip-expert"
    taught_by = {"expert": named, "command": first if "PATH" in named else None}
    command = train_command(model, config, settings.model_dump(), {"splits": ["train"], "taught_by": taught_by})

    assert command is not None and "runs/e" not in command
    *before, own = command.splitlines()
    assert before == ([first] if "PATH" in named else [])
    lies = named.replace("PATH", "RUNS/wav2lip-expert")  # where the command before it leaves it
    assert configuration(kind, options_of(shlex.split(own)[2:]))[1].expert == lies
