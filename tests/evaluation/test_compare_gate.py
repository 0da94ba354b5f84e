"""Comparisons and the gate: what two runs say about each other, and when nothing can be said."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from evaluation.cli import main
from evaluation.compare import compare_models, read_summary
from evaluation.gate import Rule, check
from evaluation.metrics import METRICS
from evaluation.stats import paired_difference
from g4g_core.errors import UsageError

SHOTS = 40


def write_run(folder: Path, models: dict[str, float], fingerprint: str = "same", **changes: Any) -> Path:
    """A run whose models have these means of CPBD and an AV offset, on ``SHOTS`` shots of 10 people."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, SHOTS)
    rows, cells = [], {}
    for name, centre in models.items():
        cells[name] = {"cells": {"cpbd@face256": {"mean": float(np.mean(centre + noise)), "n": SHOTS}}}
        for shot in range(SHOTS):
            place = {"model": name, "source": "s", "shot": f"s{shot}", "clip": f"c{shot}", "identity": f"p{shot % 10}"}
            own = noise[shot] + rng.normal(0, 0.001)
            rows.append({**place, "metric": "cpbd@face256", "value": centre + own, "error": None, "detail": None})
            offset = float(shot % 3 - 1) * centre * 10
            rows.append({**place, "metric": "sync_offset@judge", "value": offset, "error": None, "detail": None})
    summary = {
        "schema_version": 1, "protocol": "reconstruction/1", "seed": 0, "precision": "fp32",
        "on_failure": "drop-everywhere", "data": {"fingerprint": "abc"}, "judge": "print of it",
        "metrics": {name: {"version": METRICS[name].version} for name in ("cpbd@face256", "sync_offset@judge")},
        "models": {name: {"control": name in ("still", "ground-truth")} for name in models},
        "tables": {"s": {"rows": cells, "pairs": {}}},
    }  # fmt: skip
    summary.update(changes)
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    pq.write_table(pa.Table.from_pylist(rows), folder / "scores.parquet")
    shots = {f"s{shot}": {"fingerprint": f"{fingerprint} {shot}"} for shot in range(SHOTS)}
    (folder / "shots.json").write_text(json.dumps({"schema_version": 1, "shots": shots}))
    return folder


def test_comparing_two_models_gives_effect_interval_and_p_per_metric(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": 0.30, "b": 0.27})
    scores = pq.read_table(run / "scores.parquet").to_pylist()
    values = {
        name: [r["value"] for r in scores if r["model"] == name and r["metric"] == "cpbd@face256"] for name in "ab"
    }
    due = paired_difference(values["a"], values["b"], [f"s p{i % 10}" for i in range(SHOTS)])

    rows = {row["metric"]: row for row in compare_models("a", "b", str(run))}
    sharp = rows["cpbd@face256"]

    assert sharp["effect"] == pytest.approx(due.effect) and sharp["low"] == pytest.approx(due.low)
    assert sharp["p"] == pytest.approx(due.p) and sharp["p_holm"] == pytest.approx(2 * due.p)
    assert (sharp["n"], sharp["clusters"]) == (SHOTS, 10)
    # offsets are compared by their distance from 0: 2 for a, 1.8 for b, on the two thirds that are off at all
    assert rows["sync_offset@judge"]["effect"] == pytest.approx((3.0 - 2.7) * 26 / 40, abs=0.02)


def test_models_of_two_runs_are_compared_on_the_shots_they_share(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", {"m": 0.30})
    new = write_run(tmp_path / "new", {"m": 0.30, "other": 0.2})

    (row, _) = compare_models(f"{old}:m", f"{new}:m", "nowhere")

    assert row["effect"] == pytest.approx(0, abs=0.01) and row["n"] == SHOTS


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocol": "cross/1"}, "differ in protocol"),
        ({"seed": 3}, "differ in seed"),
        ({"precision": "bf16"}, "differ in precision"),
        ({"metrics": {"cpbd@face256": {"version": 9}}}, "another version"),
        ({"schema_version": 2}, "schema version 2; this program reads 1"),
    ],
)
def test_runs_that_do_not_compare_are_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    old, new = write_run(tmp_path / "old", {"m": 0.3}), write_run(tmp_path / "new", {"m": 0.3}, **changes)

    with pytest.raises(UsageError) as refused:
        compare_models(f"{old}:m", f"{new}:m", "nowhere")

    assert says in str(refused.value)


def test_a_model_that_is_not_in_the_run_is_answered_with_those_that_are(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"alpha": 0.3, "beta": 0.3})

    with pytest.raises(UsageError, match="alpha"):
        compare_models("alhpa", "beta", str(run))


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"schema_version": "x"}'])
def test_a_file_that_is_no_summary_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)

    with pytest.raises(UsageError):
        read_summary(str(tmp_path / "s.json"))


@pytest.mark.parametrize(
    ("rule", "baseline", "value", "holds"),
    [
        ("cpbd>=-2%", 0.5, 0.49, True),
        ("cpbd>=-2%", 0.5, 0.4899, False),
        ("m-lmd<=+0.1", 3.0, 3.1, True),
        ("m-lmd <= +0.1", 3.0, 3.101, False),
        ("m-lmd<=-5%", 2.0, 1.9, True),
        ("x>=-10%", -2.0, -2.2, True),  # of the absolute value: a fall is a fall below zero too
        ("x>=-10%", -2.0, -2.3, False),
        ("x>=0", 1.0, 1.0, True),
    ],
)
def test_a_rule_holds_or_does_not(rule: str, baseline: float, value: float, holds: bool) -> None:
    assert Rule.parse(rule).holds(baseline, value) is holds


@pytest.mark.parametrize("text", ["cpbd", "cpbd>2", "cpbd>=two", ">=2", "cpbd>=2%%", "a b>=1"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no rule"):
        Rule.parse(text)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(
    ("before", "after", "changes", "code"),
    [
        (0.30, 0.30, {}, 0),
        (0.30, 0.25, {}, 1),
        (0.30, 0.30, {"data": {"fingerprint": "other"}}, 3),
        (0.30, 0.30, {"on_failure": "worst"}, 3),
        (0.30, 0.30, {"metrics": {"cpbd@face256": {"version": 7}}}, 3),
        (0.30, 0.30, {"tables": {"s": {"rows": {"m": {"cells": {}}}}}}, 3),
        (0.30, 0.30, {"tables": {}}, 3),
        (0.30, 0.30, {"judge": "trained anew"}, 3),
        (0.30, 0.30, {"tables": {"s": {"rows": {"m": {"cells": {"cpbd@face256": {"mean": 0.3, "n": 5}}}}}}}, 3),
        (0.30, 0.30, {"schema_version": 2}, 2),
    ],
)
def test_the_gate_exits_with_0_1_or_3(
    tmp_path: Path, before: float, after: float, changes: dict[str, Any], code: int
) -> None:
    old = write_run(tmp_path / "old", {"m": before, "still": 0.1})
    new = write_run(tmp_path / "new", {"m": after, "still": 0.0}, **copy.deepcopy(changes))
    files = ["--baseline", str(old / "summary.json"), "--summary", str(new / "summary.json")]

    result = invoke("gate", *files, "--rule", "cpbd@face256>=-2%")

    assert result.exit_code == code, result.output


def test_a_learned_model_that_is_gone_is_not_a_gate_passed(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", {"m": 0.3, "still": 0.2})
    new = write_run(tmp_path / "new", {"still": 0.2})
    files = ["--baseline", str(old / "summary.json"), "--summary", str(new / "summary.json")]

    result = invoke("gate", *files, "--rule", "cpbd@face256>=-2%")

    assert result.exit_code == 3 and "the run has no value" in result.output


def test_a_summary_that_lacks_parts_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"m": 0.3})
    summary = json.loads((run / "summary.json").read_text())
    del summary["tables"]
    (run / "summary.json").write_text(json.dumps(summary))

    assert invoke("gate", "--baseline", str(run / "summary.json"), "--rule", "cpbd>=0").exit_code == 2


def test_shots_of_other_bytes_are_not_compared(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", {"m": 0.3})
    new = write_run(tmp_path / "new", {"m": 0.3}, fingerprint="built anew")

    with pytest.raises(UsageError, match="share no scored clip"):
        compare_models(f"{old}:m", f"{new}:m", "nowhere")


def test_the_gate_judges_learned_models_unless_told_otherwise(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", {"m": 0.3, "still": 0.2})
    new = write_run(tmp_path / "new", {"m": 0.3, "still": 0.1})
    paths = str(old / "summary.json"), str(new / "summary.json")

    assert [row["model"] for row in check(*paths, ["cpbd>=-2%"])] == ["m"]
    assert [row["outcome"] for row in check(*paths, ["cpbd>=-2%"], ["still"])] == ["broken"]
    with pytest.raises(UsageError, match="no model"):
        check(*paths, ["cpbd>=-2%"], ["stil"])
    with pytest.raises(UsageError, match="no metric"):
        check(*paths, ["cpdb>=-2%"])


def test_the_command_prints_json_that_scripts_can_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": 0.30, "b": 0.27})

    rows = json.loads(invoke("compare", "a", "b", "--run", str(run), "--json").output)
    table = invoke("compare", "a", "b", "--run", str(run)).output

    assert {row["metric"] for row in rows} == {"cpbd@face256", "sync_offset@judge"}
    assert "CPBD" in table and "0.004" in table  # 2 / 2^10, the least of ten people, times two metrics
