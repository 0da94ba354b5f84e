"""Who speaks in a clip: rules over paths, or a CSV that says so."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from g4g_core import storage
from g4g_core.errors import SourceError, UsageError
from prep.records import SPLITS, ClipSpec, Reason


class IdentityRule(Protocol):
    """Answers who speaks in a clip.

    Attributes:
        placeless: the rule as ``--identity`` takes it, ``FILE`` for the place of a file.
    """

    @property
    def placeless(self) -> str: ...

    def __call__(self, spec: ClipSpec, root: storage.Url) -> str:
        """The identity of ``spec``, whose path is relative to ``root``."""
        ...


class Stem:
    """The file's name without suffix."""

    placeless = "stem"

    def __call__(self, spec: ClipSpec, root: storage.Url) -> str:
        return posixpath.splitext(posixpath.basename(spec.path))[0]


class Parent:
    """The name of the folder that holds the file; the root's own name for a file directly in it."""

    placeless = "parent"

    def __call__(self, spec: ClipSpec, root: storage.Url) -> str:
        return posixpath.basename(posixpath.dirname(_place(root, spec.path)))


@dataclasses.dataclass(frozen=True)
class Regex:
    """The first group of ``pattern``, searched in the path below the root; the whole match without a group.

    A path in which it finds nothing falls back to the file's stem.
    """

    pattern: re.Pattern[str]

    @property
    def placeless(self) -> str:
        return f"regex:{self.pattern.pattern}"

    def __call__(self, spec: ClipSpec, root: storage.Url) -> str:
        match = self.pattern.search(spec.path)
        found = match and match[1 if self.pattern.groups else 0]
        return found or Stem()(spec, root)


@dataclasses.dataclass(frozen=True)
class TableRow:
    """What a CSV says about one file; "" or ``None`` where it is silent."""

    identity: str = ""
    split: str | None = None
    role: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV ``file,identity[,role][,split]``; a file that it does not name keeps the identity it has.

    Attributes:
        path: where the CSV is, for messages.
        rows: by the place of the file on disk, whatever source it belongs to.
        has_splits: whether there is a column ``split``.
    """

    path: str
    rows: Mapping[str, TableRow]
    has_splits: bool
    placeless = "csv:FILE"

    def __call__(self, spec: ClipSpec, root: storage.Url) -> str:
        return self.row(spec, root).identity or spec.identity

    def row(self, spec: ClipSpec, root: storage.Url) -> TableRow:
        """The row about the file of ``spec``, an empty one where there is none."""
        return self.rows.get(_place(root, spec.path), TableRow())

    def names(self, spec: ClipSpec, root: storage.Url) -> bool:
        """Whether the CSV has a row about the file of ``spec``."""
        return _place(root, spec.path) in self.rows


def parse_rule(text: str) -> IdentityRule:
    """The rule that ``stem``, ``parent``, ``regex:PATTERN`` or ``csv:FILE`` stands for.

    Raises:
        UsageError: for any other text or a pattern that does not compile.
        SourceError: for a CSV that cannot be read as one.
    """
    kind, _, argument = text.partition(":")
    if text == "stem":
        return Stem()
    if text == "parent":
        return Parent()
    if kind == "regex" and argument:
        try:
            return Regex(re.compile(argument))
        except re.error as error:
            raise UsageError(
                f"{argument!r} is no regular expression: {error}", "Quote it for the shell."
            ) from None
    if kind == "csv" and argument:
        return read_table(argument)
    raise UsageError(f"{text!r} is no identity rule", "Use stem, parent, regex:PATTERN or csv:FILE.")


def read_table(path: str) -> Table:
    """The CSV at ``path``. Files in it are relative to its own folder, or absolute.

    Raises:
        SourceError: without the header ``file,identity``, for an unknown split, or for two rows that
            contradict each other.
    """
    folder = storage.parent(path)
    try:
        reader = csv.DictReader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig"), newline=""))
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        lines = [(reader.line_num, line) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} is no CSV in UTF-8: {error}", "Save it as CSV, UTF-8.") from None
    if not {"file", "identity"} <= set(columns):
        raise SourceError(
            f"{path} has no header with file and identity: it starts with {','.join(columns)[:80]!r}",
            "The first line should read: file,identity (and role or split, if you like).",
        )

    rows: dict[str, TableRow] = {}
    for number, line in lines:
        file, identity, split, role = (
            (line.get(key) or "").strip() for key in ("file", "identity", "split", "role")
        )
        if not file:
            raise SourceError(f"line {number} of {path} names no file", "Fill in the column file.")
        if split and split not in SPLITS:
            raise SourceError(
                f"line {number} of {path}: {split!r} is no split", f"Use {', '.join(SPLITS)} or nothing."
            )
        row = TableRow(identity, split or None, role)
        if rows.setdefault(_place(folder, file), row) != row:
            raise SourceError(
                f"line {number} of {path} says something else about {file} than a line above", "Keep one."
            )
    return Table(path, rows, has_splits="split" in columns)


def apply_identity(specs: Iterable[ClipSpec], root: storage.Url, rule: IdentityRule) -> list[ClipSpec]:
    """``specs`` of the source at ``root`` with the identities (and of a table the roles) that ``rule`` gives."""
    named = [dataclasses.replace(spec, identity=rule(spec, root)) for spec in specs]
    if not isinstance(rule, Table):
        return named
    return [dataclasses.replace(spec, role=rule.row(spec, root).role) for spec in named]


def apply_splits(specs: Iterable[ClipSpec], root: storage.Url, table: Table) -> list[ClipSpec]:
    """``specs`` with the splits of ``table``; where that is silent they keep their own.

    A clip that is absent only because no list of its source names it is no longer absent once the table does.
    """
    out = []
    for spec in specs:
        split = table.row(spec, root).split
        if split is not None:
            unlisted = spec.absent is not None and spec.absent.reason is Reason.NOT_IN_SPLIT_LIST
            spec = dataclasses.replace(spec, split=split, absent=None if unlisted else spec.absent)
        out.append(spec)
    return out


def _place(root: storage.Url, path: str) -> str:
    """One spelling for a file, however it is reached.

    Links to folders are resolved, so that a CSV matches a source that was named by another way; a link to a
    file keeps its own name, because that is the name that people write into a CSV.
    """
    if not storage.is_local(path):
        return path
    if storage.is_local(root) or os.path.isabs(path):
        base = "" if os.path.isabs(path) else storage.local_path(root)
        folder, name = os.path.split(os.path.join(base, path))
        return f"{_real_folder(os.path.abspath(folder))}/{name}"
    scheme, _, rest = os.fspath(root).partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(rest, path))}"


@functools.lru_cache(maxsize=65536)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
