"""Where clips come from: each source lists what is to be processed, and opens no video."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from g4g_core import storage
from g4g_core.errors import SourceError, UsageError
from prep.records import ClipSpec
from prep.sources import folder, hdtf, lrs2, naming, splits
from prep.sources.identity import IdentityRule, Table, apply_identity, apply_splits

_SCANNERS: Mapping[str, tuple[Callable[..., list[ClipSpec]], frozenset[str]]] = {
    "lrs2": (lrs2.scan, frozenset({"lists"})),
    "hdtf": (hdtf.scan, frozenset({"annotations"})),
    "folder": (folder.scan, frozenset()),
}
"""Kind of source -> what scans it, and the options that takes."""


@dataclasses.dataclass(frozen=True)
class SourceRoot:
    """A source as the user named it.

    Attributes:
        name: its name in every table, letters, digits and ``_``.
        kind: ``lrs2``, ``hdtf`` or ``folder``.
        root: folder, local or any fsspec URL.
        options: ``lists`` (lrs2) or ``annotations`` (hdtf): a folder; an empty value counts as not given.
        about: what it is and whose, in a line for readers of pages; "": the user did not say.
    """

    name: str
    kind: str
    root: str
    options: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    about: str = ""


def scan(source: SourceRoot) -> list[ClipSpec]:
    """The clips of one source.

    Raises:
        UsageError: for an unknown kind or option.
        SourceError: for what is not there or cannot be read.
    """
    if source.kind not in _SCANNERS:
        near = difflib.get_close_matches(source.kind, _SCANNERS, n=1)
        raise UsageError(
            f"{source.kind!r} is no kind of source",
            f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(_SCANNERS)}.",
        )
    scanner, allowed = _SCANNERS[source.kind]
    options = {key: value for key, value in source.options.items() if value}
    unknown = sorted(options.keys() - allowed)
    if unknown:
        raise UsageError(f"source {source.name} ({source.kind}) takes no {unknown[0]!r}", "Leave it away.")
    return _with_licence(scanner(source.root, name=source.name, **options), source.root)


def _with_licence(specs: list[ClipSpec], root: str) -> list[ClipSpec]:
    """The sample data set imitates LRS2 and HDTF in everything but its licence: anybody may pass it on."""
    place = storage.join(root, "LICENCE.txt")
    if not storage.exists(place):
        return specs
    from prep.sources.sample import LICENCE

    text = storage.read_bytes(place).decode("utf-8", "replace").strip()
    if text != LICENCE.strip():
        return specs
    return [dataclasses.replace(spec, licence=text, redistributable=True) for spec in specs]


def scan_all(
    roots: Sequence[SourceRoot],
    identity_rule: IdentityRule | None = None,
    split_by: str = "auto",
    fractions: tuple[float, float, float] = splits.FRACTIONS,
) -> tuple[list[ClipSpec], dict[str, str]]:
    """Every input clip with identity and split, sorted by (source, clip), and the root of each source.

    A CSV speaks about the clips of every source, row by row; any other identity rule about ``folder``
    sources only, because LRS2 and HDTF know their people better.

    Raises:
        UsageError: for two sources of one name, an option that fits no source, ``csv`` splits without a CSV.
        SourceError: for what cannot be read, two clips with one id, a file that two sources claim, or a CSV
            that names no clip at all.
    """
    naming.check_source_names(source.name for source in roots)
    table = identity_rule if isinstance(identity_rule, Table) else None
    if split_by == "csv" and not (table and table.has_splits):
        raise UsageError(
            "--split-by csv needs a CSV with a column 'split'", "Give it as --identity csv:FILE."
        )
    if identity_rule and not table and not any(source.kind == "folder" for source in roots):
        raise UsageError(
            "--identity applies to --folder sources, and there is none",
            "LRS2 and HDTF have rules of their own; a csv:FILE overrides them.",
        )

    all_specs: list[ClipSpec] = []
    n_named = 0
    for source in roots:
        specs = scan(source)
        if identity_rule and (table or source.kind == "folder"):
            specs = apply_identity(specs, source.root, identity_rule)
        if table:
            n_named += sum(table.names(spec, source.root) for spec in specs)
            if split_by == "csv":
                specs = apply_splits(specs, source.root, table)
        all_specs += specs

    if table and table.rows and all_specs and not n_named:
        raise SourceError(
            f"{table.path} names none of the {len(all_specs)} clips",
            "Its paths are relative to its own folder.",
        )
    places = {source.name: source.root for source in roots}
    naming.check_collisions(all_specs)
    _check_claims(all_specs, places)
    assigned = splits.assign(all_specs, by=split_by, fractions=fractions)
    return sorted(assigned, key=lambda spec: (spec.source, spec.clip)), places


def _check_claims(specs: Iterable[ClipSpec], roots: Mapping[str, str]) -> None:
    """Raises SourceError when two sources hold one file: it would be counted twice, perhaps in two splits."""
    absolute = {
        name: os.path.realpath(storage.local_path(root)) if storage.is_local(root) else root.rstrip("/")
        for name, root in roots.items()
    }
    claimed: dict[str, ClipSpec] = {}
    for spec in specs:
        if spec.absent is not None:
            continue
        other = claimed.setdefault(f"{absolute[spec.source]}/{spec.path}", spec)
        if other.source != spec.source:
            raise SourceError(
                f"{roots[spec.source]}/{spec.path} belongs to two sources, {other.source} and {spec.source}",
                "Give each folder once, and none inside another.",
            )
