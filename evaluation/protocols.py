"""What is asked of a model: named, versioned protocols."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

from evaluation.shots import Shot
from g4g_core.errors import UsageError
from g4g_core.registry import unknown


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A protocol.

    Attributes:
        id: ``name/version``; stands in every result.
        full_reference: the output can be compared with the clip itself, frame by frame.
        has_clip: there is footage of the same person beside the output.
        summary: one line.
        has_frames: there are whole frames to look at.
    """

    id: str
    full_reference: bool
    has_clip: bool
    summary: str
    has_frames: bool = False


RECONSTRUCTION = Protocol("reconstruction/1", True, True, "the clip's own speech; the output is compared with it")
CROSS = Protocol("cross/1", False, True, "the speech of another identity's clip of the same source, drawn by seed")
VIDEOS = Protocol("videos/1", False, False, "finished videos, tracked and cut like footage", True)
VIDEOS_REFERENCE = Protocol("videos-reference/1", True, True, "finished videos, cut like their originals", True)
PAIRS = Protocol("pairs/1", False, True, "a user's list of speech and video; the result is pasted back")

ON_SHARDS = {protocol.id: protocol for protocol in (RECONSTRUCTION, CROSS)}
"""Protocols of ``g4g-eval run``."""


def protocol_named(text: str) -> Protocol:
    """``reconstruction/1``, or without its version the latest. Raises UsageError for an unknown one."""
    for identity, protocol in ON_SHARDS.items():
        if text in (identity, identity.partition("/")[0]):
            return protocol
    raise unknown("protocol", text, list(ON_SHARDS))


def cross_pairs(shots: Sequence[Shot], seed: int) -> tuple[dict[str, str], list[str]]:
    """Whose speech each shot is given, {key of the shot: key of the shot that speaks}, and the keys that get none.

    The speaker is another identity of the same source whose shot is at least as long, drawn by a hash of (seed, both
    keys); where none is as long, the longest: the picture is then cut to the speech. A source with one identity has
    nobody else to speak.

    Raises:
        UsageError: nobody has anybody else's speech.
    """
    pairs: dict[str, str] = {}
    lonely: list[str] = []
    by_source: dict[str, list[Shot]] = {}
    for shot in shots:
        by_source.setdefault(shot.source, []).append(shot)
    for members in by_source.values():
        for shot in members:
            others = [other for other in members if other.identity != shot.identity]
            if not others:
                lonely.append(shot.key)
                continue
            enough = [other for other in others if other.n_frames >= shot.n_frames]
            if enough:
                pairs[shot.key] = min(enough, key=lambda other: _lot(seed, shot.key, other.key)).key
            else:
                pairs[shot.key] = max(others, key=lambda other: (other.n_frames, other.key)).key
    if not pairs:
        raise UsageError(
            "every source has one identity only: there is nobody else's speech for cross/1",
            "Use more clips, or --protocol reconstruction/1.",
        )
    return pairs, lonely


def _lot(seed: int, *keys: str) -> str:
    return hashlib.sha256(" ".join(map(str, (seed, *keys))).encode()).hexdigest()


def speakers(protocol: Protocol, shots: Sequence[Shot], seed: int) -> tuple[Mapping[str, str], Sequence[str]]:
    """The shot whose speech each shot is given, by key, and the keys of shots that nobody can speak for."""
    return cross_pairs(shots, seed) if protocol is CROSS else ({shot.key: shot.key for shot in shots}, ())
