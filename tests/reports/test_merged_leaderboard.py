from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from playable_run import ALPHA, BETA, write_playable_run
from synthetic_run import GROUND_TRUTH, LPIPS, SETS, model, shot, training, write_synthetic_run

from evaluation.cells import Cell
from evaluation.cli import main
from evaluation.merge import merge_runs
from evaluation.metrics import METRICS
from evaluation.metrics.sets import SET_STATISTICS
from evaluation.models import TRUTH, Model
from evaluation.protocols import CROSS
from g4g_core import storage
from g4g_core.errors import UsageError
from reports.leaderboard import read_board, write_page
from reports.media import Choice

STILL = Model("still", "generator", "still", fingerprint="still/1")
CLIP_METRICS = [name for name in METRICS if name not in SETS and name != "csim-dlib"]  # its floor is of features, too
SHOTS = [*(shot(number) for number in range(8)), *(shot(100 + i, "hdtf", f"q{i}") for i in range(6))]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three models, one of which failed once."""
    run = tmp_path_factory.mktemp("runs") / "together"
    failed = {(BETA, SHOTS[2].key): ("timeout", "600 s were not enough")}
    models = [GROUND_TRUTH, STILL, model(ALPHA), model(BETA)]
    write_synthetic_run(run, models, SHOTS, failed=failed, unavailable=LPIPS, effect=0.7, metrics=CLIP_METRICS)
    return run


def part_of(run: Path, out: Path, names: Sequence[str]) -> Path:
    """The run as it would be had only these models been evaluated (tables, which merging does not read, stay)."""
    out.mkdir(parents=True)
    summary, shots, facts = (storage.read_json(run / name) for name in ("summary.json", "shots.json", "run.json"))
    summary["models"] = {name: about for name, about in summary["models"].items() if name in names}
    for one in shots["shots"].values():
        one["models"] = {name: row for name, row in one["models"].items() if name in names}
    facts["models"] = [about for about in facts["models"] if about["name"] in names]
    for name, content in (("summary.json", summary), ("shots.json", shots), ("run.json", facts)):
        storage.write_json(out / name, content)
    table = pq.read_table(io.BytesIO((run / "scores.parquet").read_bytes()))
    pq.write_table(table.filter(pc.is_in(table.column("model"), pa.array(list(names)))), out / "scores.parquet")
    return out


def changed(run: Path, out: Path, **fields: Any) -> Path:
    copy = Path(shutil.copytree(run, out))
    storage.write_json(copy / "summary.json", storage.read_json(copy / "summary.json") | fields)
    return copy


def test_two_runs_merged_are_the_run_of_all_their_models(together: Path, tmp_path: Path) -> None:
    mine = part_of(together, tmp_path / "mine", [TRUTH, "still", ALPHA])
    theirs = part_of(together, tmp_path / "theirs", [TRUTH, "still", BETA])
    merged = merge_runs([str(mine), str(theirs)], str(tmp_path / "both"))
    assert merged == storage.read_json(together / "summary.json")
    assert storage.read_json(tmp_path / "both" / "shots.json") == storage.read_json(together / "shots.json")


def test_the_page_of_a_merged_run_names_its_parts_and_how_each_was_made(together: Path, tmp_path: Path) -> None:
    mine = part_of(together, tmp_path / "mine", [TRUTH, "still", ALPHA])
    theirs = part_of(together, tmp_path / "theirs", [TRUTH, BETA])
    done = CliRunner().invoke(main, ["report", str(mine), str(theirs)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "merged" / "report.html").read_text(encoding="utf-8")
    assert "Merged from 2 runs" in page
    provenance = storage.read_json(tmp_path / "merged" / "leaderboard.json")["provenance"]
    assert [part["models"] for part in provenance["merged"]] == [[TRUTH, "still", ALPHA], [BETA]]
    assert provenance["render"] == "g4g-eval report mine theirs"
    alone = read_board(str(together))["provenance"]
    assert {name: provenance[name] for name in ("judge", "weights")} == {
        name: alone[name] for name in ("judge", "weights")
    }
    assert page.count(alone["judge"]) == 1
    assert str(tmp_path) not in page
    again = CliRunner().invoke(main, ["report", str(mine), str(theirs), "--quiet"])
    assert again.exit_code == 0
    assert (tmp_path / "merged" / "report.html").read_text(encoding="utf-8") == page


def test_parts_of_other_machines_and_versions_are_each_installed_as_they_were(together: Path, tmp_path: Path) -> None:
    runs = [part_of(together, tmp_path / name, names) for name, names in (("a", [TRUTH, ALPHA]), ("b", [TRUTH, BETA]))]
    machines = [
        {"python": python, "packages": {"torch": torch, "numpy": "2.0"}, "git_commit": commit, "processor": processor}
        for python, torch, commit, processor in
        (("3.11.7", "2.15.0", "ab", "CPU one"), ("3.10.1", "2.6", "cd", "CPU two"))
    ]
    for run, machine in zip(runs, machines, strict=True):
        storage.write_json(run / "run.json", {**storage.read_json(run / "run.json"), "environment": machine})
    merge_runs([str(run) for run in runs], str(tmp_path / "both"))
    told = read_board(str(tmp_path / "both"))["provenance"]
    assert (told["processor"], told["python"], told["gpu"]) == ("CPU one and CPU two", "3.11.7 and 3.10.1", None)
    assert told["packages"] == {"numpy": "2.0", "torch": "2.15.0 and 2.6"}
    assert told["install"] == [
        "# for a", "git clone REPOSITORY g4g-1 && cd g4g-1 && git checkout ab",
        "python3.11 -m venv .venv && . .venv/bin/activate", "pip install . numpy==2.0 torch==2.15.0",
        "# for b", "git clone REPOSITORY g4g-2 && cd g4g-2 && git checkout cd",
        "python3.10 -m venv .venv && . .venv/bin/activate", "pip install . numpy==2.0 torch==2.6",
    ]  # fmt: skip

    storage.write_json(runs[1] / "run.json", {**storage.read_json(runs[1] / "run.json"), "environment": machines[0]})
    merge_runs([str(run) for run in runs], str(tmp_path / "same"))
    assert read_board(str(tmp_path / "same"))["provenance"]["install"] == [
        "git clone REPOSITORY g4g && cd g4g && git checkout ab", "python3.11 -m venv .venv && . .venv/bin/activate",
        "pip install . numpy==2.0 torch==2.15.0",
    ]  # fmt: skip


def test_runs_of_one_name_are_told_apart_in_names_and_commands(together: Path, tmp_path: Path) -> None:
    whose = (("me", ALPHA), ("you", BETA))
    runs = [part_of(together, tmp_path / owner / "run", [TRUTH, name]) for owner, name in whose]
    merge_runs([str(run) for run in runs], str(tmp_path / "both"))
    told = read_board(str(tmp_path / "both"))["provenance"]
    assert [part["name"] for part in told["merged"]] == ["run", "run-2"]
    assert [part["command"].rpartition(" --out ")[2] for part in told["merged"]] == ["run", "run-2"]
    assert told["render"] == "g4g-eval report run run-2"


def test_models_of_one_name_and_two_fingerprints_keep_apart(together: Path, tmp_path: Path) -> None:
    runs = [part_of(together, tmp_path / name, [TRUTH, ALPHA]) for name in ("first", "second")]
    facts = storage.read_json(runs[1] / "run.json")
    facts["models"][1]["fingerprint"] = "another checkpoint"
    storage.write_json(runs[1] / "run.json", facts)
    merged = merge_runs([str(run) for run in runs], str(tmp_path / "both"))
    assert list(merged["models"]) == [TRUTH, ALPHA, f"{ALPHA} (second)"]
    assert [row["model"] for row in read_board(str(tmp_path / "both"))["sources"][0]["rows"]] == list(merged["models"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"protocol": "cross/1"}, "differ in protocol .reconstruction/1 and cross/1.: another protocol"),
        ({"judge": "another"}, "differ in judge"),
        ({"seed": 1}, "differ in seed"),
        ({"precision": "bf16"}, "differ in precision"),
        ({"split": "val"}, "differ in split"),
        ({"on_failure": "worst"}, "differ in on_failure"),
    ],
)
def test_runs_that_cannot_stand_in_one_table_are_refused_with_the_reason(
    together: Path, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    other = changed(together, tmp_path / "other", **fields)
    with pytest.raises(UsageError, match=said):
        merge_runs([str(together), str(other)], str(tmp_path / "both"))
    assert not (tmp_path / "both").exists()


def test_other_data_and_versions_of_metrics_are_refused(together: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    write_synthetic_run(few, [GROUND_TRUTH, STILL], SHOTS[:5], metrics=CLIP_METRICS, unavailable=LPIPS)
    with pytest.raises(UsageError, match="of other data: 14 and 5 shots, 5 of them the same"):
        merge_runs([str(together), str(few)], str(tmp_path / "both"))
    metrics = json.loads((together / "summary.json").read_text())["metrics"]
    metrics["psnr@mouth"]["version"] += 1
    newer = changed(together, tmp_path / "newer", metrics=metrics)
    with pytest.raises(UsageError, match="psnr@mouth has other version"):
        merge_runs([str(together), str(newer)], str(tmp_path / "both"))


def test_a_metric_that_one_run_lacks_is_a_column_with_the_reason(together: Path, tmp_path: Path) -> None:
    less = tmp_path / "less"
    kept = [name for name in CLIP_METRICS if name != "cpbd@face256"]
    why = {"lse_d@crop1": "needs the weights syncnet-v2: fetch them", **LPIPS}
    write_synthetic_run(less, [GROUND_TRUTH, model("gamma")], SHOTS, metrics=kept, unavailable=why)
    merged = merge_runs([str(together), str(less)], str(tmp_path / "both"))
    assert merged["metrics"]["cpbd@face256"]["unavailable"] == "not measured in less"
    assert merged["metrics"]["lse_d@crop1"]["unavailable"] == why["lse_d@crop1"]
    assert merged["tables"]["lrs2"]["rows"]["gamma"]["cells"]["psnr@mouth"]["mean"] is not None


def test_metrics_of_sets_are_taken_from_the_features_of_each_run(tmp_path: Path) -> None:
    metric = "ffd-dlib"
    name = SET_STATISTICS[metric].features
    rng = np.random.default_rng(0)
    kept: dict[str, list[np.ndarray]] = {}
    for run, own in (("a", ALPHA), ("b", BETA)):
        models = [GROUND_TRUTH, model(own)]
        write_synthetic_run(tmp_path / run, models, SHOTS[:8], metrics=[metric, "psnr@mouth"])
        for each in SHOTS[:8]:
            for one in (TRUTH, own):
                cell = Cell(str(tmp_path / run), one, each.key)
                values = rng.normal(size=(40, 4)).astype(np.float32)
                cell.write({"output": {}, "measures": {"identity": {"features": [name]}}})
                cell.write_features(name, values)
                if one != TRUTH or run == "a":  # the truth of the first run counts
                    kept.setdefault(one, []).append(values)
    merged = merge_runs([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "both"))
    rows = merged["tables"]["lrs2"]["rows"]
    for one in (ALPHA, BETA):
        expected = SET_STATISTICS[metric](np.concatenate(kept[one]), np.concatenate(kept[TRUTH]))
        assert rows[one]["cells"][metric]["mean"] == pytest.approx(expected, rel=1e-5)
    shutil.rmtree(tmp_path / "b" / "cells")
    merged = merge_runs([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "both"))
    assert "features of b are not there" in merged["metrics"][metric]["unavailable"]


def test_videos_of_a_merged_run_come_from_the_runs_it_was_made_of(tmp_path: Path) -> None:
    mine = write_playable_run(tmp_path, [GROUND_TRUTH, model(ALPHA)])
    mine = mine.rename(tmp_path / "mine")
    theirs = write_playable_run(tmp_path, [GROUND_TRUTH, dataclasses.replace(model(ALPHA), fingerprint="other")])
    merge_runs([str(mine), str(theirs)], str(tmp_path / "both"))
    _, media = write_page(str(tmp_path / "both"), Choice("folder"))
    views = next(iter(media.shots.values()))["views"]
    assert [view.get("model") for view in views] == [None, TRUTH, ALPHA, f"{ALPHA} (run)"]


def test_what_cannot_make_one_leaderboard_is_refused(together: Path, tmp_path: Path) -> None:
    mine = part_of(together, tmp_path / "mine", [TRUTH, ALPHA])
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"mine and .*mine/ are one run"):
        merge_runs([str(mine), f"{mine}/../mine/"], str(out))
    shutil.copytree(mine, tmp_path / "copy")
    with pytest.raises(UsageError, match="mine holds all models of the others"):
        merge_runs([str(mine), str(tmp_path / "copy")], str(out))
    for name, metric in (("one", "psnr@mouth"), ("other", "ssim@mouth")):
        write_synthetic_run(tmp_path / name, [GROUND_TRUTH, model(name)], SHOTS, metrics=[metric])
    with pytest.raises(UsageError, match=r"no metric is measured in all of .*one, .*other"):
        merge_runs([str(tmp_path / "one"), str(tmp_path / "other")], str(out))
    assert not out.exists()


def test_a_run_whose_models_are_all_in_others_takes_no_metric_away_and_is_no_part(
    together: Path, tmp_path: Path
) -> None:
    mine, theirs = (part_of(together, tmp_path / name, [TRUTH, name]) for name in (ALPHA, BETA))
    both = merge_runs([str(mine), str(theirs)], str(tmp_path / "both"))
    write_synthetic_run(tmp_path / "less", [GROUND_TRUTH, model(ALPHA)], SHOTS, metrics=["psnr@mouth"])
    named = [str(run) for run in (mine, tmp_path / "less", theirs)]
    done = CliRunner().invoke(main, ["report", *named, "--out", str(tmp_path / "three")])
    assert done.exit_code == 0 and f"left out: {tmp_path / 'less'}, " in done.stderr, done.output
    assert storage.read_json(tmp_path / "three" / "summary.json") == both
    assert [part["name"] for part in storage.read_json(tmp_path / "three" / "run.json")["merged"]] == [ALPHA, BETA]


def test_a_trained_model_that_runs_share_is_trained_once_and_named_in_each_command(tmp_path: Path) -> None:
    shared = model("g4g", training=training(command="g4g-model train --model g4g --out RUNS/g4g"))
    rivals = {"a": "first", "b": "second"}
    for run, rival in rivals.items():
        settings = {"models": ["g4g", rival], "checkpoints": {"g4g": "/home/me/g4g.safetensors"}}
        write_synthetic_run(tmp_path / run, [GROUND_TRUTH, shared, model(rival)], SHOTS[:8], metrics=["psnr@mouth"],
                            settings=settings)  # fmt: skip
    merge_runs([str(tmp_path / run) for run in rivals], str(tmp_path / "both"))
    told = read_board(str(tmp_path / "both"))["provenance"]
    assert [part["models"] for part in told["merged"]] == [[TRUTH, "g4g", "first"], ["second"]]
    assert all("--checkpoint g4g=RUNS/g4g" in part["command"] for part in told["merged"])
    assert not told["told_by_nobody"] and len(told["trainings"]) == 1


def test_folders_that_hold_something_else_and_merged_runs_are_refused(together: Path, tmp_path: Path) -> None:
    mine = part_of(together, tmp_path / "mine", [TRUTH, ALPHA])
    with pytest.raises(UsageError, match="holds a run of its own"):
        merge_runs([str(mine), str(together)], str(mine))
    merge_runs([str(mine), str(together)], str(tmp_path / "both"))
    with pytest.raises(UsageError, match="is itself merged"):
        merge_runs([str(tmp_path / "both"), str(mine)], str(tmp_path / "more"))
    done = CliRunner().invoke(main, ["report", str(mine), "--out", str(tmp_path / "x")])
    assert done.exit_code == 2
    crossed = tmp_path / "crossed"
    free = [name for name in CLIP_METRICS if not METRICS[name].full_reference]
    write_synthetic_run(crossed, [GROUND_TRUTH, STILL], SHOTS, metrics=free, protocol=CROSS)
    with pytest.raises(UsageError, match="another protocol asks another question"):
        merge_runs([str(together), str(crossed)], str(tmp_path / "z"))
