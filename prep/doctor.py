"""Is a data set fit to train and to evaluate on? A verdict, and the checks behind it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from g4g_core.errors import ExitCode
from g4g_core.storage import Url
from prep.checks import FIT_IDENTITIES, FIT_SECONDS, Check, State, all_checks, is_large_enough
from prep.summary import Tables, load_tables

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {State.OK: "green", State.WARN: "yellow", State.FAULT: "bold red", State.UNKNOWN: "cyan"}


class Verdict(str, enum.Enum):
    """``fit`` to train and publish on, ``demo-size`` (sound, but small), ``unfit`` or ``unknown``."""

    FIT = "fit"
    DEMO_SIZE = "demo-size"
    UNFIT = "unfit"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The verdict on a data set, why in one line, and the checks behind it."""

    verdict: Verdict
    why: str
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> ExitCode:
        """0 for ``fit`` and ``demo-size``, 1 for ``unfit``, 3 for ``unknown``."""
        if self.verdict is Verdict.UNFIT:
            return ExitCode.FINDING
        return ExitCode.CANNOT_TELL if self.verdict is Verdict.UNKNOWN else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        checks = [
            {**dataclasses.asdict(check), "state": check.state.value, "names": list(check.names)}
            for check in self.checks
        ]
        return {"verdict": self.verdict.value, "why": self.why, "checks": checks}


def doctor(root: Url) -> Diagnosis:
    """Look at the tables of the data set under ``root``; no shard is opened.

    ``fit`` asks for at least 20 identities, 30 minutes, and 90 % of the clips within 1 frame of AV offset.
    Any fault makes the set ``unfit``; a sound set below that size is ``demo-size``; one large enough, but
    whose sync nobody has measured, is ``unknown``.

    Raises:
        DatasetError, StorageError: the data set cannot be read.
    """
    return diagnose(load_tables(root))


def diagnose(tables: Tables) -> Diagnosis:
    """:func:`doctor` of tables that are already in memory."""
    checks = tuple(all_checks(tables))
    verdict, why = _conclude(checks, is_large_enough(tables.samples))
    return Diagnosis(verdict, why, checks)


def render(diagnosis: Diagnosis) -> RenderableType:
    """:class:`Diagnosis` for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "found", "expected", "state")
    advice = []
    for check in diagnosis.checks:
        # names come from file names: Text keeps rich from reading "[bold]" in them
        state = Text(check.state.value, style=_STYLES[check.state])
        table.add_row(check.name, Text(check.value), check.threshold, state)
        if check.advice:
            advice.append(Text.assemble((f"{check.name}: ", _STYLES[check.state]), check.advice))
    verdict = Text(f"verdict: {diagnosis.verdict.value} ({diagnosis.why})", style="bold")
    return Group(table, *advice, verdict)


def _conclude(checks: Sequence[Check], large: bool) -> tuple[Verdict, str]:
    faults = [check.name for check in checks if check.state is State.FAULT]
    unknown = [check.name for check in checks if check.state is State.UNKNOWN]
    if faults:
        return Verdict.UNFIT, f"faults: {', '.join(faults)}"
    if not large:
        wanted = f"{FIT_IDENTITIES} identities and {FIT_SECONDS // 60} minutes"
        return Verdict.DEMO_SIZE, f"no fault, but fit means at least {wanted}"
    if unknown:
        return Verdict.UNKNOWN, f"large enough and no fault, but not known yet: {', '.join(unknown)}"
    return Verdict.FIT, "large enough, no fault, in sync"
