"""What ``g4g-model info`` tells of a G4G network: its parts, what a frame costs, what it sees, where it comes from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from g4g_core.errors import WeightsError
from g4g_core.lineage import shown
from g4g_core.references import COUNT
from g4g_core.registry import unknown
from g4g_core.runs import RUN_FILE, STATE_FILE
from g4g_model.checkpoint import About, read
from g4g_model.config import FRAMES, PRESETS, SWITCHES, VARIANTS, G4GConfig
from g4g_model.g4g import G4G
from g4g_model.generator import CHUNK, network_of
from g4g_model.inputs import Inputs
from g4g_model.parts import Parts

NOT_COUNTED = "convolutions and matrix products, a multiply-add as 2; not counted: grid_sample, norms, activations"


def of_preset(name: str, preset: str | None) -> dict[str, Any]:
    """Of a variant as it is made from a preset, or from the defaults. Raises UsageError for an unknown preset."""
    if preset is None:
        return of_network(name, VARIANTS[name]())
    if preset not in PRESETS:
        raise unknown("preset", preset, list(PRESETS))
    return of_network(name, VARIANTS[name](**PRESETS[preset]["model"], preset=preset))


def of_checkpoint(name: str, path: str) -> dict[str, Any]:
    """Of a checkpoint of a variant, see :func:`g4g_model.checkpoint.read`. Raises WeightsError."""
    about, weights = read(path)
    if about.name != name:
        raise WeightsError(f"{path} is a checkpoint of {about.name}, not of {name}", f"Ask for {about.name}.")
    network_of(path, about, weights)  # what is told of it is what its configuration makes: the weights must be of that
    return {**of_network(name, about.config), "checkpoint": {"path": path, **provenance(about)}}


def of_network(name: str, config: G4GConfig) -> dict[str, Any]:
    """Parameters, cost, inputs and outputs, and what distinguishes a variant; no weights are made for it."""
    with torch.device("meta"):
        parts = Parts(config)
    trainers = {"mouth encoder": parts.mouth, "discriminator": parts.discriminator}
    drawing = {part: count(module) for part, module in parts.generator.named_children()}
    return {
        "model": name,
        "preset": config.preset,
        "parameters": {"total": sum(drawing.values()), **drawing},
        "parameters_in_training_only": {part: count(module) for part, module in trainers.items() if module is not None},
        "gflops_per_frame": costs(parts.generator, config),
        "inputs": sights(config),
        "outputs": {"picture": f"[B T, 3, {config.size}, {config.size}] RGB in [-1, 1], {FRAMES} frames in training"},
        "mel_offset": config.mel_offset,
        "switches": {switch: getattr(config, switch) for switch in SWITCHES},
    }


def count(module: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(parameter.numel() for parameter in module.parameters())


def costs(network: G4G, config: G4GConfig) -> dict[str, Any]:
    """10^9 floating-point operations a frame: in all and by part in a training window, and as it is drawn in use.

    A window's references are encoded once, so that a frame of a longer one costs less.

    Args:
        network: on the meta device, where shapes are computed and nothing else.
    """
    counts = []
    for frames in (FRAMES, CHUNK):
        counter = FlopCounterMode(display=False, depth=2)
        with counter, torch.no_grad(), torch.device("meta"):
            network(nothing_seen(config, frames))
        counts.append({part: sum(kinds.values()) / frames / 1e9 for part, kinds in counter.get_flop_counts().items()})
    window, chunk = counts
    owner = type(network).__name__
    parts = {part: window.get(f"{owner}.{part}", 0.0) for part, _ in network.named_children()}
    rounded = {part: float(f"{value:.4g}") for part, value in {"total": window["Global"], **parts}.items()}
    return {**rounded, f"total_of_{CHUNK}_frames_at_once": float(f"{chunk['Global']:.4g}"), "counted": NOT_COUNTED}


def nothing_seen(config: G4GConfig, frames: int) -> Inputs:
    """Inputs of a window with nothing in them, on the current device."""
    size = config.size
    return Inputs(
        source=torch.zeros(1, frames, 3, size, size),
        erase=torch.zeros(1, frames, 1, size, size),
        references=torch.zeros(1, COUNT, 3, size, size),
        source_sketch=torch.zeros(1, frames, 1, size, size),
        reference_sketch=torch.zeros(1, COUNT, 1, size, size),
        poses=torch.eye(2, 3).expand(1, frames, COUNT, 2, 3),
        mel=torch.zeros(1, frames, 1, 80, 16),
    )


def sights(config: G4GConfig) -> dict[str, str]:
    """Shape and range of every input of the network."""
    shapes = {
        name: ["B", "K" if "reference" in name else "T", *("K" if n == COUNT else str(n) for n in tensor.shape[2:])]
        for name, tensor in dataclasses.asdict(nothing_seen(config, 1)).items()
    }
    meanings = {
        "source": "RGB in [-1, 1]; grey where it is to be redrawn",
        "erase": "0 or 1; 1: to be redrawn",
        "references": f"RGB in [-1, 1]; {COUNT} other frames of the shot",
        "source_sketch": "0..1; points 17-47, without jaw and mouth",
        "reference_sketch": "0..1; all 68 points",
        "poses": "where a frame's face stands in every reference: a similarity between points 17-47 of the two",
        "mel": f"in [-4, 4], bands x columns at 80 a second; windows moved by {config.mel_offset} frames",
    }
    return {name: f"[{', '.join(shape)}] {meanings[name]}" for name, shape in shapes.items()}


def provenance(about: About) -> dict[str, Any]:
    """What is known of how a network came to be; ``None`` where it is not."""
    learned = shown(about.learned_from)
    return {
        "preset": about.config.preset,
        "step": about.step,
        "steps": about.settings.get("steps"),
        "seed": about.settings.get("seed"),
        "precision": about.settings.get("precision"),
        **learned,
        "losses_off": list(about.losses_off),
        "trained_against": list(about.trained_against),
        "torch": about.torch,
        "processor": about.processor,
        "command": about.training.command,
    }


def trained_as(path: str) -> str:
    """The registered name of what a checkpoint of ``g4g-model train`` is of.

    Args:
        path: an exported file, the folder of a run, or one ``step-...`` of it.

    Raises:
        WeightsError: it does not say.
    """
    place = Path(path)
    if not place.exists():
        raise WeightsError(f"there is no checkpoint {path}", "Train one with g4g-model train.")
    try:
        if place.is_dir():
            about = next(place / file for file in (STATE_FILE, RUN_FILE) if (place / file).exists())
            said = [json.loads(about.read_bytes())]
        else:
            with place.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            said = [json.loads(text) for text in header["__metadata__"].values()]
        return next(str(facts[field]) for facts in said for field in ("trainable", "name") if field in facts)
    except (StopIteration, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise WeightsError(
            f"{path} does not say what it is a checkpoint of", "Name the model: --model NAME."
        ) from error
