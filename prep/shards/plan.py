"""Which clips share a shard: decided from clip names and estimated sizes before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from g4g_core.provenance import stable_hash

_BITS = 64


def bytes_per_frame(size: int) -> float:
    """Expected bytes of a frame in a shard: JPEG 95 4:4:4, its mask, two tar headers and padding.

    About 26 kB + 1.5 kB at 256 px; JPEG grows a little slower than the number of pixels.
    """
    return 27_500 * (size / 256) ** 1.7 + 3 * 512


def shards_of(sizes: Mapping[str, float], target: float) -> list[list[str]]:
    """Clips in shards of about ``target`` bytes, each in the order of its clips' hashes.

    The clips are points in the space of 64-bit hashes. The space is halved until no part holds more than 1.5 times
    the target, so shards hold 0.75 to 1.5 times the target where clips are small. Where a part ends depends on nothing
    but the clips in it: adding a clip changes the one shard it falls into, or splits that shard in two.

    Args:
        sizes: expected bytes by clip.
        target: bytes.
    """
    points = sorted((stable_hash(clip), clip) for clip in sizes)
    return list(_halve(points, sizes, 1.5 * target, 0, _BITS))


def _halve(
    points: list[tuple[int, str]], sizes: Mapping[str, float], limit: float, low: int, bits: int
) -> Iterable[list[str]]:
    if not points:
        return
    if len(points) == 1 or bits == 0 or sum(sizes[clip] for _, clip in points) <= limit:
        yield [clip for _, clip in points]
        return
    middle = low + (1 << (bits - 1))
    border = next((i for i, (point, _) in enumerate(points) if point >= middle), len(points))
    yield from _halve(points[:border], sizes, limit, low, bits - 1)
    yield from _halve(points[border:], sizes, limit, middle, bits - 1)
