"""Configuration of ``g4g-prep build-shards``."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from g4g_core.config import Config
from prep.records import FPS


class BuildConfig(Config):
    """How clips become shards. Every field is a command-line option and a YAML key of the same name.

    Fields in :data:`CONTENT_FIELDS` decide the bytes of a sample; the others only where and how fast it is made.
    """

    size: int = pydantic.Field(256, ge=64, le=512, multiple_of=8, description="side of the face crop, px")
    landmarks: Literal["dlib", "fan"] = pydantic.Field("dlib", description="landmark backend")
    faces: Literal["largest", "speaking", "all"] = pydantic.Field(
        "largest", description="which face of several becomes a sample"
    )
    fix_offset: bool = pydantic.Field(False, description="shift the sound by the measured AV offset, whole frames")
    min_frames: int = pydantic.Field(10, ge=1, description="frames (40 ms) under which a clip or shot is refused")
    min_face: float = pydantic.Field(24, ge=0, description="side of the face box under which a face is refused, px")
    max_mismatch: float = pydantic.Field(
        1.0, ge=0, description="seconds by which picture and sound may differ in length"
    )
    shard_mb: float = pydantic.Field(256, gt=0, description="about this many megabytes a shard")
    part_seconds: int = pydantic.Field(30, ge=5, description="clips longer than this are encoded in parts")
    split_by: Literal["auto", "lists", "identity", "csv"] = pydantic.Field("auto", description="who decides the split")
    fractions: tuple[float, float, float] = pydantic.Field(
        (0.8, 0.1, 0.1), description="train, val, test shares where a split is drawn"
    )
    time_limit: float = pydantic.Field(
        60, gt=0, description="seconds a clip may take, plus ten (fan: sixty) times its length, before it is given up"
    )
    cache_mb: int = pydantic.Field(
        384, ge=0, description="megabytes of decoded frames kept between the two passes over a clip"
    )
    batch_size: int | None = pydantic.Field(
        None, ge=1, description="faces per network call (fan); default 16, 64 on a GPU"
    )

    @pydantic.field_validator("fractions")
    @classmethod
    def _sum_to_one(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("must be three shares that sum to 1, e.g. 0.8,0.1,0.1")
        return value

    @property
    def part_frames(self) -> int:
        return self.part_seconds * FPS

    def content(self) -> dict[str, Any]:
        """The fields that decide the bytes of a sample."""
        return self.model_dump(mode="json", include=CONTENT_FIELDS)


CONTENT_FIELDS = {"size", "landmarks", "faces", "fix_offset", "min_frames", "min_face", "max_mismatch"}
