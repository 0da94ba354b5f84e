"""Choosing samples by their numbers: conditions over the index, a list of keys as the result.

Shards are never rewritten: a selection is a small parquet file (``key``, ``split``) that readers take along
(:meth:`prep.shards.index.Dataset.rows`).
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from g4g_core import storage
from g4g_core.errors import UsageError
from g4g_core.storage import Url
from prep.shards import schema
from prep.summary import BYTE_COLUMNS, Tables, human_duration, load_tables

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(
    r"\s*(?:(?P<abs>abs)\(\s*(?P<inner>\w+)\s*\)|(?P<column>\w+))\s*(?P<operator>>=|<=|==|!=|>|<)\s*"
    r"(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s\"'<>=!]+))\s*"
)
_AND = re.compile(r"and\b", re.IGNORECASE)
_GRAMMAR = "Write 'column op value' with op one of >= <= > < == !=, e.g. 'abs(yaw) <= 30 and n_frames >= 50'."


@dataclasses.dataclass(frozen=True)
class Condition:
    """``column op value``, or ``abs(column) op value``; a sample without a value never satisfies it."""

    column: str
    operator: str
    value: float | str | bool
    absolute: bool = False

    def __str__(self) -> str:
        column = f"abs({self.column})" if self.absolute else self.column
        return f"{column} {self.operator} {_written(self.value)}"


def _written(value: float | str | bool) -> str:
    """A value as conditions are read, to the last digit; strings know no escapes, so one holds one kind of quote."""
    if isinstance(value, str):
        return f"'{value}'" if '"' in value else f'"{value}"'
    if isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


@dataclasses.dataclass(frozen=True)
class Dropped:
    """What one condition alone takes away: samples that fail it, and samples without a value to compare."""

    condition: str
    failed: int
    unknown: int


@dataclasses.dataclass(frozen=True)
class Selection:
    """Samples that satisfy all conditions.

    Attributes:
        keys: their keys, in the order of the data set.
        counts: {split: {source: samples}} of the chosen ones.
        considered: samples of the splits and sources asked for.
        seconds: duration of the chosen ones.
        dropped: per condition, each counted on its own over all samples considered.
        fingerprint: of the data set, see :attr:`prep.summary.Tables.fingerprint`.
    """

    keys: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    considered: int
    seconds: float
    dropped: tuple[Dropped, ...]
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, without the keys themselves."""
        values = dataclasses.asdict(self)
        values["selected"] = len(values.pop("keys"))
        return values


def parse_conditions(texts: Sequence[str]) -> list[Condition]:
    """Read conditions; those of one text are joined by ``and``, and so are the texts.

    Raises:
        UsageError: text that is no condition, an unknown column, a value of the wrong kind.
    """
    return [condition for text in texts for condition in _parse(text)]


def select(
    root: Url,
    *,
    where: Sequence[str] = (),
    split: str | None = None,
    source: str | None = None,
    out: Url | None = None,
) -> Selection:
    """Choose samples of the data set under ``root``.

    Args:
        root: the data set.
        where: conditions over the columns of the index, see :func:`parse_conditions`.
        split, source: only these; ``None`` for all.
        out: where to write the selection: a parquet file with the columns ``key`` and ``split``, whose
            metadata holds the conditions and the fingerprint of the data set; ``None`` writes nothing.

    Raises:
        UsageError: conditions as in :func:`parse_conditions`; a split or source that the data set has not.
        DatasetError, StorageError: the data set cannot be read, or ``out`` cannot be written.
    """
    conditions = parse_conditions(where)
    tables = load_tables(root)
    samples = tables.samples
    for name, wanted in (("split", split), ("source", source)):
        if wanted is not None:
            _require_known(name, wanted, sorted(samples[name].unique()))
            samples = samples[samples[name] == wanted]
    passed = samples["n_frames"] > 0
    dropped = []
    for condition in conditions:
        known = samples[condition.column].notna()
        holds = known & _holds(condition, samples[condition.column])
        dropped.append(Dropped(str(condition), int((known & ~holds).sum()), int((~known).sum())))
        passed &= holds
    chosen = samples[passed]
    counts: dict[str, dict[str, int]] = {}
    for (in_split, of_source), rows in chosen.groupby(["split", "source"]):
        counts.setdefault(in_split, {})[of_source] = len(rows)
    if out is not None:
        _write(chosen, tables, conditions, split, source, out)
    return Selection(
        keys=tuple(chosen["key"]),
        counts=counts,
        considered=len(samples),
        seconds=round(float(chosen["duration"].sum()), 2),
        dropped=tuple(dropped),
        fingerprint=tables.fingerprint,
    )


def render(result: Selection) -> RenderableType:
    """:class:`Selection` for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [
        f"{len(result.keys):,} of {result.considered:,} samples chosen ({human_duration(result.seconds)})"
    ]
    if result.counts:
        table = Table("split", "source")
        table.add_column("samples", justify="right")
        for split, sources in result.counts.items():
            for source, number in sources.items():
                table.add_row(split, Text(source), f"{number:,}")
        parts.append(table)
    if result.dropped:
        drops = Table("condition", title="what each condition drops on its own", title_justify="left")
        drops.add_column("not satisfied", justify="right")
        drops.add_column("not measured", justify="right")
        for drop in result.dropped:
            drops.add_row(Text(drop.condition), f"{drop.failed:,}", f"{drop.unknown:,}")
        parts.append(drops)
    return Group(*parts)


def _parse(text: str) -> list[Condition]:
    conditions, position = [], 0
    while True:
        match = _CONDITION.match(text, position)
        if match is None:
            raise UsageError(f"cannot read the condition {text[position:].strip() or text!r}", _GRAMMAR)
        conditions.append(_condition(match))
        position = match.end()
        if position == len(text):
            return conditions
        joint = _AND.match(text, position)
        if joint is None:
            raise UsageError(f"expected 'and' before {text[position:].strip()!r}", _GRAMMAR)
        position = joint.end()


def _condition(match: re.Match[str]) -> Condition:
    import pyarrow as pa

    column = match["inner"] or match["column"]
    comparable = [name for name in schema.INDEX.names if name not in BYTE_COLUMNS]
    _require_known("column", column, comparable)
    kind = schema.INDEX.field(column).type
    quoted = match["double"] if match["double"] is not None else match["single"]
    text = match["bare"] if quoted is None else quoted
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        if match["abs"] or match["operator"] not in ("==", "!="):
            raise UsageError(f"{column} holds {kind} values: only == and != compare them", _GRAMMAR)
        if pa.types.is_string(kind):
            return Condition(column, match["operator"], text)
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{column} is true or false, not {text!r}", _GRAMMAR)
        return Condition(column, match["operator"], text.lower() == "true")
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if quoted is not None or math.isnan(number):
        raise UsageError(f"{column} is a number, not {text!r}", _GRAMMAR)
    return Condition(column, match["operator"], number, absolute=bool(match["abs"]))


def _holds(condition: Condition, values: pd.Series) -> pd.Series:
    left = values.abs() if condition.absolute else values
    if isinstance(condition.value, float):
        # an index stores float32: 0.1 there must equal the 0.1 that a user types
        right: Any = values.dtype.type(condition.value) if values.dtype.kind == "f" else condition.value
    else:
        right = condition.value
    result: pd.Series = _OPERATORS[condition.operator](left, right).fillna(False).astype(bool)
    return result


def _require_known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
        mend = f"Did you mean {' or '.join(near)}?" if near else f"There is: {', '.join(known)}."
        raise UsageError(f"the data set has no {what} {name!r}", mend)


def _write(
    chosen: pd.DataFrame,
    tables: Tables,
    conditions: list[Condition],
    split: str | None,
    source: str | None,
    out: Url,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {
        "schema_version": schema.SCHEMA_VERSION,
        "where": [str(condition) for condition in conditions],
        "split": split,
        "source": source,
        "dataset": tables.fingerprint,
    }
    table = pa.table(
        {"key": pa.array(chosen["key"], pa.string()), "split": pa.array(chosen["split"], pa.string())},
    ).replace_schema_metadata({schema.SELECTION_METADATA: json.dumps(about, sort_keys=True).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.write_bytes(out, buffer.getvalue())
