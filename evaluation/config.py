"""The configuration of ``g4g-eval run``."""

from __future__ import annotations

from typing import Literal

import pydantic

from g4g_core.config import Config

OnFailure = Literal["drop-everywhere", "worst", "error"]


class RunConfig(Config):
    """What is evaluated, on what, and how failures count.

    Attributes:
        data: root of a data set made by g4g-prep.
        split: of it, or several between commas.
        selection: file of sample keys, or ``None`` for the whole split.
        models: as ``--models`` has them.
        checkpoints: path by model.
        footage: roots of the original videos by source ("" for all others), for programs that want whole frames.
        controls: ``still`` and ``shuffled`` are rows though nobody named them.
        protocol: ``reconstruction/1`` or ``cross/1``.
        metrics: ids or names of measures; empty: all.
        limit: at most so many shots of every source.
        seed: of references and of the pairs of ``cross``.
        on_failure: ``drop-everywhere``: a shot that one model fails on counts for none; ``worst``: it counts as the
            worst value that any model has on any shot; ``error``: there is no table.
        timeout: seconds that a model may take for one shot.
        pooled: a further table over all sources together.
        precision: of the networks behind LSE and FID: ``fp32``, or ``bf16`` (faster, and another metric version).
    """

    data: str
    split: str = "test"
    selection: str | None = None
    models: list[str] = pydantic.Field(default_factory=lambda: ["still", "shuffled"])
    checkpoints: dict[str, str] = pydantic.Field(default_factory=dict)
    footage: dict[str, str] = pydantic.Field(default_factory=dict)
    controls: bool = True
    protocol: str = "reconstruction/1"
    metrics: list[str] = pydantic.Field(default_factory=list)
    limit: int | None = None
    seed: int = pydantic.Field(0, ge=0)
    on_failure: OnFailure = "drop-everywhere"
    timeout: float = pydantic.Field(600.0, gt=0)
    pooled: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
