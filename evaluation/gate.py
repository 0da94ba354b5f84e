"""A quality gate: a run's means held against a baseline's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from evaluation.compare import read_summary
from evaluation.models import TRUTH
from g4g_core.errors import UsageError
from g4g_core.registry import unknown

_RULE = re.compile(
    r"\s*(?P<metric>[A-Za-z0-9_@.-]+?)\s*(?P<sign>>=|<=)\s*(?P<amount>[+-]?\d+(\.\d+)?)\s*(?P<percent>%?)\s*"
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """``metric >= amount`` or ``metric <= amount``, where the amount is the change against the baseline.

    Attributes:
        metric: an id, or an id without what follows its ``@`` where that is enough to know it.
        at_least: ``>=``.
        amount: in the metric's unit, or a share of the baseline's absolute value where ``relative``.
    """

    text: str
    metric: str
    at_least: bool
    amount: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Rule:
        """The rule that ``text`` states. Raises UsageError for anything else."""
        match = _RULE.fullmatch(text)
        if match is None:
            raise UsageError(f"{text!r} is no rule", 'For instance "lse_c>=-2%" or "m-lmd<=+0.1".')
        relative = bool(match["percent"])
        amount = float(match["amount"]) / (100 if relative else 1)
        return cls(text.strip(), match["metric"], match["sign"] == ">=", amount, relative)

    def limit(self, baseline: float) -> float:
        """The value that the new mean is held against."""
        return baseline + (abs(baseline) * self.amount if self.relative else self.amount)

    def holds(self, baseline: float, value: float) -> bool:
        # six digits are stored: what lies beyond them breaks no rule
        slack = 1e-6 * max(abs(baseline), abs(value))
        limit = self.limit(baseline)
        return value >= limit - slack if self.at_least else value <= limit + slack


def check(
    baseline: str, summary: str, rules: Sequence[str], models: Sequence[str] = (), sources: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Hold a summary against a baseline.

    Args:
        baseline, summary: paths of ``summary.json``.
        models: those to judge; by default the baseline's, except controls (the controls, where it has no others).
        sources: tables to judge; by default the baseline's.

    Returns:
        A row per (rule, source, model): ``outcome`` is ``ok``, ``broken`` or ``unknown``, with ``why``.

    Raises:
        UsageError: a file that is no summary, no rule, or a name that the summary does not have.
    """
    old, new = read_summary(baseline), read_summary(summary)
    parsed = [Rule.parse(text) for text in rules]
    why = _not_comparable(old, new)
    for name in models:
        if name not in new["models"]:
            raise unknown(f"model in {summary}", name, list(new["models"]))
    for source in sources:
        if source not in new["tables"]:
            raise unknown(f"table in {summary}", source, list(new["tables"]))
    learned = [name for name, about in old["models"].items() if not about["control"]]
    chosen = list(models) or learned or [name for name in old["models"] if name in new["models"] and name != TRUTH]
    tables = list(sources) or list(old["tables"])
    verdicts = []
    for rule in parsed:
        metric = _metric(rule.metric, new)
        for source in tables:
            for model in chosen:
                row = {"rule": rule.text, "metric": metric, "source": source, "model": model}
                verdicts.append({**row, **_verdict(rule, metric, old, new, source, model, why)})
    return verdicts


def _not_comparable(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    for name in ("protocol", "seed", "precision", "on_failure", "judge"):
        if old[name] != new[name]:
            return f"the runs differ in {name}: {old[name]} and {new[name]}"
    if old["data"]["fingerprint"] != new["data"]["fingerprint"]:
        return "the runs were made on different data"
    return None


def _metric(text: str, summary: Mapping[str, Any]) -> str:
    """The id that a rule means. Raises UsageError where it is unknown or ambiguous."""
    found = [name for name in summary["metrics"] if name == text]
    found = found or [name for name in summary["metrics"] if name.partition("@")[0] == text]
    if not found:
        raise unknown("metric in the summary", text, list(summary["metrics"]))
    if len(found) > 1:
        raise UsageError(f"{text!r} may mean {' or '.join(found)}", "Write it in full.")
    return found[0]


def _verdict(
    rule: Rule, metric: str, old: Mapping[str, Any], new: Mapping[str, Any], source: str, model: str, why: str | None
) -> dict[str, Any]:
    rows = [summary["tables"].get(source, {}).get("rows", {}).get(model, {}) for summary in (old, new)]
    cells = [row.get("cells", {}).get(metric, {}) for row in rows]
    before, after = (cell.get("mean") for cell in cells)
    known = old["metrics"].get(metric)
    if why is None and known is not None and known["version"] != new["metrics"][metric]["version"]:
        why = f"{metric} has another version in the baseline"
    if (
        why is None
        and known is not None
        and known.get("weights_sha256") != new["metrics"][metric].get("weights_sha256")
    ):
        why = f"{metric} was measured with other weights in the baseline"
    if why is None and (before is None or after is None):
        why = f"the {'baseline' if before is None else 'run'} has no value"
    if why is None and cells[0].get("n") != cells[1].get("n"):
        # means over other clips are not comparable: a model that fails on the hard ones would pass
        why = f"the baseline's mean is over {cells[0].get('n')} shots, this one over {cells[1].get('n')}"
    if why is not None or before is None or after is None:
        return {"outcome": "unknown", "why": why, "baseline": before, "value": after, "limit": None}
    holds = rule.holds(before, after)
    return {
        "outcome": "ok" if holds else "broken", "why": None, "baseline": before, "value": after,
        "limit": rule.limit(before),
    }  # fmt: skip


def print_verdicts(verdicts: Sequence[Mapping[str, Any]]) -> None:
    """A line each; what is broken or unknown is said in full."""
    if not verdicts:
        click.echo("cannot tell: the two runs share no model and source")
    for row in verdicts:
        where = f"{row['source']}, {row['model']}: {row['rule']}"
        if row["outcome"] == "unknown":
            click.echo(f"cannot tell  {where}: {row['why']}")
        else:
            click.echo(
                f"{row['outcome']:11}  {where}: {row['baseline']:.6g} -> {row['value']:.6g} (limit {row['limit']:.6g})"
            )
