"""Which clip goes into which split, so that no identity and no upload is in two."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from g4g_core.errors import UsageError
from prep.records import SPLITS, ClipSpec, Reason

SPLIT_BY = ("auto", "lists", "identity", "csv")
FRACTIONS = (0.8, 0.1, 0.1)
SALT = "g4g split 1"
"""Goes into every draw. Another salt is another split of the same data."""

_HELD_OUT_FIRST = ("test", "val", "train")
_MIN_COMPONENTS_FOR_TEST = 3

Node = tuple[str, str]


def parse_fractions(text: str) -> tuple[float, float, float]:
    """``0.8,0.1,0.1`` as the shares of train, val and test.

    Raises:
        UsageError: when it is not three numbers that add up to 1.
    """
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{text!r} is not three numbers", "Write --fractions 0.8,0.1,0.1 (train,val,test)."
        ) from None
    fractions = (train, val, test)
    _check_fractions(fractions)
    return fractions


def assign(
    specs: Iterable[ClipSpec],
    *,
    by: str = "auto",
    fractions: tuple[float, float, float] = FRACTIONS,
    salt: str = SALT,
) -> list[ClipSpec]:
    """``specs`` in their order, each with a split.

    Clips that share an identity or a video id, over all sources, form a component, which is drawn as one.

    - ``auto``: a split that a clip already has (from its source's lists) stands, and goes to its whole
      component. Other components are drawn by a hash of their first identity, so adding a clip moves no clip
      of another component. One exception: where a source has three or more components and none in ``test``,
      the one that the hash puts nearest goes there.
    - ``lists``: as ``auto``, but every present clip must be on a list of its source.
    - ``identity``: lists are ignored, and so is their verdict that a clip is on none of them.
    - ``csv``: as ``auto``, for specs that :func:`prep.sources.identity.apply_splits` gave the CSV's splits.

    Where lists put one component into two splits its listed clips stay as they are (:func:`leaks` reports
    them), and the others go to the most held-out of those splits. A clip that is absent because no list names
    it keeps ``None``.

    Args:
        fractions: shares of train, val and test among components; they add up to 1.
        salt: makes another draw.

    Raises:
        UsageError: for an unknown ``by``, fractions that do not add up, or clips on no list with ``lists``.
    """
    _check_fractions(fractions)
    if by not in SPLIT_BY:
        raise UsageError(f"{by!r} is no way to split", f"Use one of {', '.join(SPLIT_BY)}.")
    specs = [_forget_lists(spec) for spec in specs] if by == "identity" else list(specs)
    if by == "lists":
        _check_listed(specs)

    members = [spec for spec in specs if not _is_unlisted(spec)]
    component_of = _components(members)
    split_of = _draw(members, component_of, fractions, salt)
    return [
        spec
        if spec.split is not None or _is_unlisted(spec)
        else dataclasses.replace(spec, split=split_of[component_of["identity", spec.identity]])
        for spec in specs
    ]


@dataclasses.dataclass(frozen=True)
class Leak:
    """An identity or a video id that is in more than one split.

    Attributes:
        kind: ``identity`` or ``video_id``.
        value: which one.
        clips: split -> ``source/clip`` of its clips there, sorted.
    """

    kind: str
    value: str
    clips: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        where = "; ".join(
            f"{split}: {', '.join(clips[:3])}{f' and {len(clips) - 3} more' if len(clips) > 3 else ''}"
            for split, clips in self.clips.items()
        )
        return f"{self.kind.replace('_', ' ')} {self.value} is in {len(self.clips)} splits ({where})"


def leaks(rows: Iterable[ClipSpec | Mapping[str, Any]]) -> list[Leak]:
    """Identities and video ids in more than one split, sorted; none is what must be.

    Args:
        rows: the clips (or samples) that are in the data set: specs, or mappings with ``source``, ``clip``,
            ``identity``, ``video_id`` and ``split``. Those without a split do not count.
    """
    found: dict[Node, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        values = row if isinstance(row, Mapping) else vars(row)
        if values["split"] is None:
            continue
        for kind in ("identity", "video_id"):
            if values[kind] is not None:
                found[kind, values[kind]][values["split"]].add(f"{values['source']}/{values['clip']}")
    return [
        Leak(kind, value, {split: tuple(sorted(splits[split])) for split in sorted(splits, key=_split_order)})
        for (kind, value), splits in sorted(found.items())
        if len(splits) > 1
    ]


def _draw(
    members: Sequence[ClipSpec],
    component_of: Mapping[Node, str],
    fractions: tuple[float, float, float],
    salt: str,
) -> dict[str, str]:
    """Component -> split."""
    listed: dict[str, set[str]] = defaultdict(set)
    present: dict[str, set[str]] = defaultdict(set)  # source -> its components
    for spec in members:
        component = component_of["identity", spec.identity]
        if spec.split is not None:
            listed[component].add(spec.split)
        if spec.absent is None:
            present[spec.source].add(component)

    split_of, position = {}, {}
    for component in set(component_of.values()):
        if component in listed:
            split_of[component] = min(listed[component], key=_HELD_OUT_FIRST.index)
        else:
            position[component] = _position(component, salt)
            split_of[component] = _split_at(position[component], fractions)

    for source in sorted(present):
        drawn = [component for component in present[source] if component in position]
        tested = any(split_of[component] == "test" for component in present[source])
        # Absent clips count for the draw (they may arrive later), not as a test set.
        if drawn and not tested and fractions[2] > 0 and len(present[source]) >= _MIN_COMPONENTS_FOR_TEST:
            split_of[min(drawn, key=lambda component: (position[component], component))] = "test"
    return split_of


def _position(component: str, salt: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{salt}\0{component}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _split_at(position: float, fractions: tuple[float, float, float]) -> str:
    """Test lies at 0, so that the smallest position is the nearest to it."""
    _, val, test = fractions
    if position < test:
        return "test"
    # Shares that add up to 1 only nearly must not open a gap for a split that was asked to be empty.
    return "val" if position < test + val or fractions[0] == 0 else "train"


def _components(specs: Iterable[ClipSpec]) -> dict[Node, str]:
    """Node -> its component's first identity, by union-find over identities and video ids."""
    above: dict[Node, Node] = {}

    def top(node: Node) -> Node:
        above.setdefault(node, node)
        while above[node] != node:
            above[node] = above[above[node]]
            node = above[node]
        return node

    for spec in specs:
        person = top(("identity", spec.identity))
        if spec.video_id is not None:
            # The smaller node stays on top; "identity" sorts before "video_id": the top is an identity.
            first, second = sorted((person, top(("video_id", spec.video_id))))
            above[second] = first
    return {node: top(node)[1] for node in list(above)}


def _forget_lists(spec: ClipSpec) -> ClipSpec:
    return dataclasses.replace(spec, split=None, absent=None if _is_unlisted(spec) else spec.absent)


def _is_unlisted(spec: ClipSpec) -> bool:
    return spec.absent is not None and spec.absent.reason is Reason.NOT_IN_SPLIT_LIST


def _check_listed(specs: Iterable[ClipSpec]) -> None:
    missing = [spec for spec in specs if spec.absent is None and spec.split is None]
    if missing:
        sources = ", ".join(sorted({spec.source for spec in missing}))
        raise UsageError(
            f"{len(missing)} clips of {sources} are on no split list, {missing[0].uid} among them",
            "Give the lists, or leave --split-by away: then what is on no list is drawn by identity.",
        )


def _check_fractions(fractions: Sequence[float]) -> None:
    if not (all(0 <= share <= 1 for share in fractions) and math.isclose(sum(fractions), 1, abs_tol=1e-6)):
        raise UsageError(
            f"fractions {','.join(f'{share:g}' for share in fractions)} do not add up to 1",
            "Write --fractions 0.8,0.1,0.1 (train,val,test).",
        )


def _split_order(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)
