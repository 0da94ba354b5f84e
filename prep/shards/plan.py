"""Which clips share a shard: decided from clip names and estimated sizes before anything is decoded."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping

from g4g_core.provenance import stable_hash

_BITS = 64
_FINE = 32
"""A clip is small where its shard could hold 32 like it; the larger ones are in classes that double up to a shard."""


def bytes_per_frame(size: int) -> float:
    """Expected bytes of a frame in a shard: JPEG 95 4:4:4, its mask, two tar headers and padding.

    About 26 kB + 1.5 kB at 256 px; JPEG grows a little slower than the number of pixels.
    """
    return float(27_500 * (size / 256) ** 1.7 + 3 * 512)


def shards_of(sizes: Mapping[str, float], target: float) -> list[list[str]]:
    """Clips in shards of about ``target`` bytes and at most 1.5 times that, each in the order of its clips' hashes.

    The clips are points in the space of 64-bit hashes. The space is halved until no part holds more than 1.5 times
    the target, so shards hold 0.75 to 1.5 times the target where clips are small. Where a part ends depends on nothing
    but the clips in it: adding a clip changes the one shard it falls into, or splits that shard in two.

    That last promise needs clips of like size: a large clip that falls among small ones would be cut off from them by
    many halvings, and every one leaves a shard behind. So clips of more than 1/32 of a shard go with those of their
    own class (up to 1/16, 1/8, 1/4, 1/2 of a shard) and are counted instead of weighed; larger ones stand alone.

    Args:
        sizes: expected bytes by clip.
        target: bytes.
    """
    limit = 1.5 * target
    classes: dict[int, list[tuple[int, str]]] = collections.defaultdict(list)
    for clip, size in sizes.items():
        classes[_size_class(size, limit)].append((stable_hash(clip), clip))
    shards: list[list[str]] = []
    for number, points in sorted(classes.items()):
        if number == 0:
            shards += _halve(sorted(points), sizes, limit, 0, _BITS)
        else:
            shards += _halve(sorted(points), dict.fromkeys(sizes, 1.0), max(1, _FINE >> number), 0, _BITS)
    return shards


def _size_class(size: float, limit: float) -> int:
    """0 where ``size`` is at most 1/32 of ``limit``, one more with every doubling; 6 above ``limit``."""
    share = _FINE * size / limit
    return 0 if share <= 1 else min(6, math.ceil(math.log2(share)))


def _halve(
    points: list[tuple[int, str]], weights: Mapping[str, float], limit: float, low: int, bits: int
) -> Iterable[list[str]]:
    if not points:
        return
    if len(points) == 1 or bits == 0 or sum(weights[clip] for _, clip in points) <= limit:
        yield [clip for _, clip in points]
        return
    middle = low + (1 << (bits - 1))
    border = next((i for i, (point, _) in enumerate(points) if point >= middle), len(points))
    yield from _halve(points[:border], weights, limit, low, bits - 1)
    yield from _halve(points[border:], weights, limit, middle, bits - 1)
