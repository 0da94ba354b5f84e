"""The harness: the same prompts for all, nothing of the target, failures as rows, and nothing computed twice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluating import KIND, InProcess, Register, evaluated

from evaluation.harness import metrics_named
from evaluation.metrics import MEASURES
from evaluation.models import TRUTH, models_of
from evaluation.shots import shots_of
from g4g_core.errors import UsageError
from prep.run.runners import SyncRunner, close_guard
from prep.shards.index import Dataset

FAST = ["psnr", "temporal"]
"""Measures that take no time."""


def mean(summary: Mapping[str, Any], model: str, metric: str) -> Any:
    (table,) = summary["tables"].values()
    return table["rows"][model]["cells"][metric]["mean"]


@pytest.fixture(scope="module")
def controls(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both controls on everything that needs no weights."""
    return evaluated(shards, tmp_path_factory.mktemp("runs") / "controls", InProcess(), models=["still", "shuffled"])


def test_the_truth_stands_above_both_controls(controls: Any) -> None:
    summary = controls.summary
    (table,) = summary["tables"].values()

    for control in ("still", "shuffled"):
        assert mean(summary, control, "m-lmd@20") > 0.5
        assert mean(summary, control, "psnr@mouth") < 40
        assert mean(summary, control, "ssim@mouth") < 0.99
        assert mean(summary, "ground-truth", "sync_score@judge") > mean(summary, control, "sync_score@judge")
    assert mean(summary, "still", "motion@mouth") < 0.5
    for metric in ("m-lmd@20", "psnr@mouth", "ssim@mouth", "motion@mouth"):
        assert table["rows"]["ground-truth"]["cells"][metric] == {"mean": None, "reason": "identical"}


def test_columns_without_weights_say_which_and_how_to_get_them(controls: Any) -> None:
    metrics = controls.summary["metrics"]

    for metric, name in (
        ("lse_d@crop1", "syncnet-v2"),
        ("fid@face256", "inception-fid"),
        ("lpips-alex@face", "lpips-alex"),
    ):
        assert f"g4g-eval weights fetch {name}" in metrics[metric]["unavailable"]


def test_set_metrics_carry_their_number_of_frames_and_the_truth_its_floor(controls: Any) -> None:
    (table,) = controls.summary["tables"].values()
    floor, still = (table["rows"][name]["cells"]["ffd-dlib"] for name in ("ground-truth", "still"))

    assert floor["reason"] == "split-half" and floor["mean"] > 0
    assert still["frames"] == still["truth_frames"] > floor["frames"] > 0  # half of them on either side
    assert still["few_frames"] and floor["few_frames"]


def test_few_identities_are_marked_and_nothing_is_called_significant(controls: Any) -> None:
    (table,) = controls.summary["tables"].values()

    assert table["identities"] == 3
    assert all(row["p"] is None and row["p_holm"] is None for rows in table["pairs"].values() for row in rows)
    assert table["rows"]["still"]["cells"]["m-lmd@20"]["few"]
    assert {table["rows"][name]["cells"]["m-lmd@20"]["rank"] for name in ("still", "shuffled")} == {1}


def test_files_of_a_run_agree_with_its_summary(controls: Any) -> None:
    out = Path(controls.out)
    text = (out / "summary.json").read_text()
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    values = [row["value"] for row in scores if row["model"] == "still" and row["metric"] == "psnr@face"]

    assert json.loads(text) == controls.summary
    assert "NaN" not in text and "Infinity" not in text
    assert np.mean(values) == pytest.approx(mean(controls.summary, "still", "psnr@face"), rel=1e-5)
    assert {row["error"] for row in scores if row["model"] == "ground-truth" and row["metric"] == "psnr@face"} == {
        "identical"
    }
    run = json.loads((out / "run.json").read_text())
    assert run["environment"]["packages"]["g4g"] and run["settings"]["models"] == ["still", "shuffled"]
    for volatile in (run["environment"]["host"], run["finished"], str(out)):
        assert volatile not in text


CHEAT = (
    KIND
    + '''
import gc, sys

def reachable():
    """Every array that this process can get at: containers, objects' fields, and the frames of all callers."""
    seen, todo = set(), [*gc.get_objects()]
    frame = sys._getframe()
    while frame is not None:
        todo += list(frame.f_locals.values())
        frame = frame.f_back
    for thing in todo:
        for value in [thing, *gc.get_referents(thing)]:
            if isinstance(value, np.ndarray) and id(value) not in seen:
                seen.add(id(value))
                yield value

class Cheat(Base):
    """Looks everywhere it can for its target: in the prompt, and in whatever memory it can reach."""
    def generate(self, prompt):
        outside = prompt.erase == 0
        looked = 0
        for thing in reachable():
            looked += 1
            if thing.dtype != np.uint8 or thing.shape != prompt.source.shape or thing is prompt.source:
                continue
            if (thing[outside] == prompt.source[outside]).all() and not (thing[~outside] == 128).all():
                return thing.copy()
        if looked < 5:
            raise RuntimeError(f"the cheat did not look properly: {looked}")
        # else the reference whose pose is nearest, frame by frame
        poses = prompt.reference_landmarks[:, POSE_POINTS]
        out = []
        for source, erase, pose in zip(prompt.source, prompt.erase, prompt.pose):
            near = int(np.argmin([np.abs(other - pose).sum() for other in poses]))
            out.append(redraw(source, erase, pose, prompt.references[near], poses[near]))
        return np.stack(out)

CHEAT = Kind(Cheat)
'''
)


def test_a_cheat_that_returns_whatever_it_finds_of_its_target_scores_like_still(
    shards: str, tmp_path: Path, register: Register
) -> None:
    register(CHEAT, cheat="CHEAT")
    try:
        report = evaluated(
            shards, tmp_path / "run", SyncRunner(), models=["still", "cheat"], metrics=["psnr", "landmarks", "judge"]
        )
    finally:
        close_guard()

    assert not report.failed
    assert mean(report.summary, "cheat", "psnr@mouth") < 40
    for metric, slack in (("m-lmd@20", 1.5), ("psnr@mouth", 4.0), ("sync_score@judge", 0.2)):
        still, cheat = (mean(report.summary, name, metric) for name in ("still", "cheat"))
        assert abs(still - cheat) < slack, metric
    assert (
        mean(report.summary, "ground-truth", "sync_score@judge")
        > mean(report.summary, "cheat", "sync_score@judge") + 0.1
    )


RECORDER = (
    KIND
    + '''
import os

class First(Base):
    def generate(self, prompt):
        with open(os.environ["SEEN"], "a") as log:  # the models stand in processes of their own
            print(type(self).__name__, prompt.digest(), file=log)
        return np.where(prompt.erase[..., None] > 0, np.uint8(90), prompt.source)

class Second(First):
    pass

class Spoiler(First):
    """Scribbles over its prompt: nobody else's may change."""
    def generate(self, prompt):
        out = super().generate(prompt)
        for name in ("source", "references", "pcm", "mel", "pose"):
            try:
                getattr(prompt, name)[:] = 0
            except ValueError:
                pass
        return out

FIRST, SECOND, SPOILER = Kind(First), Kind(Second), Kind(Spoiler)
'''
)


def test_models_get_identical_prompts_whatever_their_order(
    shards: str, tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    register(RECORDER, first="FIRST", second="SECOND", spoiler="SPOILER")
    digests = []
    for number, models in enumerate((["first", "spoiler", "second"], ["second", "spoiler", "first"])):
        report = evaluated(shards, tmp_path / str(number), InProcess(), models=models, metrics=["psnr"])
        digests.append(report.summary["prompts"])
    seen: dict[str, set[str]] = {}
    for line in (tmp_path / "seen").read_text().splitlines():
        name, digest = line.split()
        seen.setdefault(name, set()).add(digest)
    assert seen["First"] == seen["Second"] == seen["Spoiler"]
    assert digests[0] == digests[1]


FAULTY = (
    KIND
    + """
import os, time

class Painter(Base):
    def generate(self, prompt):
        return np.where(prompt.erase[..., None] > 0, np.uint8(90), prompt.source)

def faulty(fault):
    class Faulty(Painter):
        def generate(self, prompt):
            out = super().generate(prompt)
            if prompt.source[0, :8, :8].astype(int).sum() != TARGET:
                return out
            return fault(out, prompt)
    Faulty.__name__ = fault.__name__
    return Kind(Faulty)

def raises(out, prompt):
    raise RuntimeError("no memory left <b>")

def crashes(out, prompt):
    os.abort()

def hangs(out, prompt):
    time.sleep(600)

def nan(out, prompt):
    return np.where(prompt.erase[..., None] > 0, np.nan, out.astype(np.float32))

def shape(out, prompt):
    return out[:, ::2]

def grey(out, prompt):
    return prompt.source

def nothing(out, prompt):
    return None

TARGET = int(os.environ["FAULTY_ON"])
RAISES, CRASHES, HANGS = faulty(raises), faulty(crashes), faulty(hangs)
NAN, SHAPE, GREY, NOTHING = faulty(nan), faulty(shape), faulty(grey), faulty(nothing)
"""
)


@pytest.fixture
def faulty(shards: str, register: Register, monkeypatch: pytest.MonkeyPatch) -> str:
    """Models that fail on the first prompt of the first shot; returns its key."""
    from evaluation.shots import ShotReader

    shot = shots_of(Dataset.open(shards), "test")[0]
    with ShotReader(shards, shot) as reader:
        corner = int(reader.pictures(np.array([0]))[0, :8, :8].astype(int).sum())
    monkeypatch.setenv("FAULTY_ON", str(corner))
    names = ("raises", "crashes", "hangs", "nan", "shape", "grey", "nothing")
    register(FAULTY, **{name: name.upper() for name in names})
    return shot.key


REASONS = {
    "raises": ("model_error", "RuntimeError: no memory left <b>"),
    "crashes": ("crashed", "signal 6"),
    "hangs": ("timeout", "no end within 4 s"),
    "nan": ("bad_output", "NaN"),
    "shape": ("bad_output", "was due"),
    "grey": ("bad_output", "still grey"),
    "nothing": ("bad_output", "NoneType"),
}


def test_a_model_that_fails_on_one_clip_is_a_row_with_its_reason_and_the_run_ends(
    shards: str, tmp_path: Path, faulty: str
) -> None:
    try:
        report = evaluated(
            shards, tmp_path / "run", SyncRunner(), models=["still", *REASONS], metrics=FAST, timeout=4.0
        )
    finally:
        close_guard()

    assert {(model, shot) for model, shot, _, _ in report.failed} == {(name, faulty) for name in REASONS}
    for model, _, code, detail in report.failed:
        assert code == REASONS[model][0] and REASONS[model][1] in detail
    (table,) = report.summary["tables"].values()
    for name in REASONS:
        row = table["rows"][name]
        assert (row["scored"], row["failed"]) == (2, 1) and list(row["reasons"]) == [REASONS[name][0]]
    # drop-everywhere: the shot counts for none, so that all means are over the same clips
    assert {row["cells"]["psnr@face"]["n"] for name, row in table["rows"].items() if name != "ground-truth"} == {2}


@pytest.mark.parametrize(("rule", "n"), [("drop-everywhere", 2), ("worst", 3), ("error", None)])
def test_means_follow_the_rule_for_failures(shards: str, tmp_path: Path, faulty: str, rule: str, n: int | None) -> None:
    settings = {"models": ["still", "nothing"], "metrics": FAST, "on_failure": rule}
    report = evaluated(shards, tmp_path / "run", InProcess(), **settings)

    if n is None:
        assert report.summary["tables"] == {} and report.summary["refused"]
        return
    (table,) = report.summary["tables"].values()
    cells = [table["rows"][name]["cells"]["psnr@face"] for name in ("still", "nothing")]
    assert [cell["n"] for cell in cells] == [n, n]
    if rule == "worst":
        scores = pq.read_table(tmp_path / "run" / "scores.parquet").to_pylist()
        values = [row["value"] for row in scores if row["metric"] == "psnr@face" and row["value"] is not None]
        own = [row["value"] for row in scores if (row["metric"], row["model"]) == ("psnr@face", "nothing")]
        assert cells[1]["mean"] == pytest.approx((sum(v for v in own if v is not None) + min(values)) / 3, rel=1e-5)


def test_failures_are_kept_until_they_are_asked_for_again(shards: str, tmp_path: Path, faulty: str) -> None:
    settings = {"models": ["nothing"], "metrics": FAST}
    evaluated(shards, tmp_path / "run", InProcess(), **settings)
    again, retried = InProcess(), InProcess()

    evaluated(shards, tmp_path / "run", again, **settings)
    evaluated(shards, tmp_path / "run", retried, **settings, retry_failed=True)

    assert again.operations == []
    assert retried.operations == [("generate", "nothing", faulty)]


def test_adding_a_model_computes_only_that_model(shards: str, tmp_path: Path) -> None:
    evaluated(shards, tmp_path / "run", InProcess(), models=["still"], metrics=FAST)
    runner = InProcess()

    both = evaluated(shards, tmp_path / "run", runner, models=["still", "shuffled"], metrics=FAST)
    fresh = evaluated(shards, tmp_path / "fresh", InProcess(), models=["still", "shuffled"], metrics=FAST)

    assert {model for _, model, _ in runner.operations} == {"shuffled"}
    assert both.summary == fresh.summary


def test_models_take_turns_model_by_model_for_to_start_one_takes_seconds(shards: str, tmp_path: Path) -> None:
    runner = InProcess()
    evaluated(shards, tmp_path / "run", runner, models=["still", "again=still", "shuffled"], metrics=["psnr"])
    models = [model for _, model, _ in runner.operations]
    assert [model for model, _ in itertools.groupby(models)] == [TRUTH, "still", "again", "shuffled"]


def test_a_new_version_of_a_metric_measures_only_that_metric(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    evaluated(shards, tmp_path / "run", InProcess(), models=["still"], metrics=FAST)
    measure = MEASURES["psnr"]
    newer = tuple(dataclasses.replace(metric, version=2) for metric in measure.metrics)
    monkeypatch.setattr(type(measure), "metrics", newer)
    runner = InProcess()

    evaluated(shards, tmp_path / "run", runner, models=["still"], metrics=FAST)

    assert {operation for operation, _, _ in runner.operations} == {"score"}
    assert all(set(task["measures"]) == {"psnr"} for task in runner.done)


@pytest.mark.parametrize("steps", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_and_resumed_gives_the_summary_of_one_that_was_not(
    shards: str, tmp_path: Path, steps: int
) -> None:
    settings = {"models": ["still", "shuffled"], "metrics": FAST}
    whole = evaluated(shards, tmp_path / "whole", InProcess(), **settings)
    with pytest.raises(KeyboardInterrupt):
        evaluated(shards, tmp_path / "cut", InProcess(stop_after=steps), **settings)
    rest = InProcess()

    resumed = evaluated(shards, tmp_path / "cut", rest, **settings)

    assert (tmp_path / "cut" / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    assert resumed.summary == whole.summary and len(rest.done) == 18 - steps


def test_outputs_are_kept_without_loss_and_damaged_ones_are_made_again(shards: str, tmp_path: Path) -> None:
    settings = {"models": ["still"], "metrics": FAST}
    whole = evaluated(shards, tmp_path / "run", InProcess(), **settings)
    shot = shots_of(Dataset.open(shards), "test")[0]
    output = tmp_path / "run" / "outputs" / "still" / f"{shot.key}.avi"
    before = output.read_bytes()
    output.unlink()
    runner = InProcess()

    again = evaluated(shards, tmp_path / "run", runner, **settings)

    assert runner.operations[0] == ("generate", "still", shot.key)
    assert output.read_bytes() == before and again.summary == whole.summary


def test_an_output_damaged_behind_our_back_is_made_again(shards: str, tmp_path: Path) -> None:
    """Cut short: seen by its size. One bit of it turned: seen by its hash, when a new metric reads it."""
    whole = evaluated(shards, tmp_path / "run", InProcess(), models=["still"], metrics=["psnr"])
    outputs = sorted((tmp_path / "run" / "outputs" / "still").glob("*.avi"))
    before = [path.read_bytes() for path in outputs]
    outputs[0].write_bytes(before[0][: len(before[0]) // 2])
    middle = len(before[1]) // 2
    outputs[1].write_bytes(before[1][:middle] + bytes([before[1][middle] ^ 1]) + before[1][middle + 1 :])
    runner = InProcess()

    again = evaluated(shards, tmp_path / "run", runner, models=["still"], metrics=["psnr", "temporal"])

    assert not again.failed
    assert [path.read_bytes() for path in outputs] == before
    assert mean(again.summary, "still", "psnr@face") == mean(whole.summary, "still", "psnr@face")
    assert sum(op == "generate" and model == "still" for op, model, _ in runner.operations) == 2


def test_a_measure_that_breaks_is_a_row_and_is_tried_again_when_asked(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: Any, context: Any) -> Any:
        raise MemoryError("no memory for this")

    settings = {"models": ["still"], "metrics": FAST}
    with monkeypatch.context() as patch:
        patch.setattr(type(MEASURES["temporal"]), "start", breaks)
        broken = evaluated(shards, tmp_path / "run", InProcess(), **settings)
    kept = evaluated(shards, tmp_path / "run", InProcess(), **settings)
    mended = evaluated(shards, tmp_path / "run", InProcess(), **settings, retry_failed=True)

    assert {code for _, _, code, _ in broken.failed} == {"metric_error"}
    assert "no memory for this" in broken.failed[0][3] and "motion@mouth" in broken.failed[0][3]
    assert mean(broken.summary, "still", "psnr@face") is not None  # one measure does not take the others with it
    assert kept.failed == broken.failed
    assert not mended.failed and mean(mended.summary, "still", "motion@mouth") is not None


@pytest.mark.slow
def test_another_time_limit_tries_again_what_the_old_one_broke(shards: str, tmp_path: Path, faulty: str) -> None:
    try:
        settings = {"models": ["hangs"], "metrics": FAST}
        evaluated(shards, tmp_path / "run", SyncRunner(), **settings, timeout=2.0)
        again = evaluated(shards, tmp_path / "run", SyncRunner(), **settings, timeout=3.0)
    finally:
        close_guard()

    assert [detail for *_, detail in again.failed] == ["no end within 3 s"]


def test_controls_are_rows_though_nobody_names_them() -> None:
    assert [model.name for model in models_of(["x=still"], controls=True)] == ["ground-truth", "x", "still", "shuffled"]
    assert [model.name for model in models_of(["shuffled", "still"], controls=True)][1:] == ["shuffled", "still"]


def test_data_built_anew_under_the_same_path_are_not_taken_for_the_old(shards: str) -> None:
    import dataclasses

    from evaluation.shots import ShotReader
    from g4g_core.errors import DatasetError

    shot = shots_of(Dataset.open(shards), "test")[0]

    with pytest.raises(DatasetError, match="has changed"):
        ShotReader(shards, dataclasses.replace(shot, shard_sha256="of another tar"))


def test_a_cell_that_was_damaged_is_made_again(shards: str, tmp_path: Path) -> None:
    settings = {"models": ["still"], "metrics": FAST}
    whole = evaluated(shards, tmp_path / "run", InProcess(), **settings)
    for number, cell in enumerate(sorted((tmp_path / "run" / "cells" / "still").glob("*.json"))):
        cell.write_bytes([b"", b'{"shot": 3}', cell.read_bytes()[:40]][number % 3])

    assert evaluated(shards, tmp_path / "run", InProcess(), **settings).summary == whole.summary


def test_cross_gives_everybody_somebody_else_s_words_and_compares_with_no_clip(shards: str, tmp_path: Path) -> None:
    runner = InProcess()
    report = evaluated(shards, tmp_path / "run", runner, models=["still"], protocol="cross")

    assert report.summary["protocol"] == "cross/1"
    for task in runner.done:
        assert task["speaker"]["identity"] != task["shot"]["identity"]
    assert not any(about["full_reference"] for about in report.summary["metrics"].values())
    assert mean(report.summary, "ground-truth", "sync_score@judge") > mean(report.summary, "still", "sync_score@judge")
    (table,) = report.summary["tables"].values()
    assert table["rows"]["still"]["cells"]["sync_score@judge"]["n"] == 3


def test_workers_give_what_one_process_gives(shards: str, tmp_path: Path) -> None:
    from prep.run.runners import open_runner

    settings = {"models": ["still"], "metrics": FAST}
    one = evaluated(shards, tmp_path / "one", InProcess(), **settings)
    with open_runner(2, None) as runner:
        two = evaluated(shards, tmp_path / "two", runner, **settings)

    assert two.summary == one.summary


@pytest.mark.parametrize(
    ("models", "checkpoints", "says"),
    [
        (["stil"], {}, "did you mean 'still'"),
        (["still", "still"], {}, "twice"),
        (["a=precomputed:/nowhere"], {}, "no folder"),
        (["a=external:/nowhere.yaml"], {}, "not there"),
        (["a=external:musetolk"], {}, "did you mean 'musetalk'"),
        (["a=external:musetalk"], {}, "MUSETALK_HOME is not set"),
        (["musetalk"], {}, "musetalk=external:musetalk"),
        (["still"], {"wav2lip": "x"}, "belongs to no model"),
        (["<b>=still"], {}, "no name for a model"),
    ],
)
def test_models_that_cannot_be_are_refused_in_one_line(
    models: list[str], checkpoints: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        models_of(models, checkpoints)

    assert says.lower() in str(refused.value).lower()


def test_a_metric_is_named_by_id_by_group_or_without_its_place() -> None:
    assert [m.id for m in metrics_named("cpbd@face256")] == ["cpbd@face256"]
    assert {m.id for m in metrics_named("judge")} >= {"sync_d@judge", "sync_c@judge"}
    assert [m.id for m in metrics_named("lse_c")] == ["lse_c@crop1", "lse_c@lrs", "lse_c@s3fd"]
    assert metrics_named("lse_x") == []


def test_a_folder_of_something_else_is_refused_and_left_alone(shards: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(UsageError, match="not empty"):
        evaluated(shards, tmp_path, InProcess(), models=["still"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
