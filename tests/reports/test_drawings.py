from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from synthetic_run import GROUND_TRUTH, model, shot, study_results, write_synthetic_run

from evaluation.models import JUDGED, Model
from g4g_core import storage
from g4g_core.errors import UsageError
from reports.claims import taught
from reports.clips import decimals, pack_column
from reports.figures import Axis, Point, Scale, pareto_front, scatter, whiskers
from reports.leaderboard import read_board, write_report
from reports.opinions import STUDY, read_opinions


def point(label: str, x: float, y: float, *, truth: bool = False) -> Point:
    return Point(label, x, y, None, None, truth)


def test_the_front_holds_the_models_that_none_beats_in_both_directions() -> None:
    points = [
        point("a", 1, 9),
        point("b", 2, 7),
        point("c", 1.5, 6),
        point("d", 3, 1),
        point("truth", 9, 9, truth=True),
    ]
    assert [p.label for p in pareto_front(points, "higher", "higher")] == ["a", "b", "d"]
    assert [p.label for p in pareto_front(points, "higher", "lower")] == ["d"]
    assert [p.label for p in pareto_front(points, "lower", "higher")] == ["a"]
    assert pareto_front(points, 1.0, "higher") == []


def test_models_that_tie_in_both_directions_share_the_front() -> None:
    assert [p.label for p in pareto_front([point("a", 1, 1), point("b", 1, 1)], "higher", "higher")] == ["a", "b"]


def test_the_front_is_drawn_and_said() -> None:
    drawn = scatter([point("a", 1, 9), point("b", 2, 7), point("c", 0, 0)], Axis("x", "higher"), Axis("y", "higher"))
    assert drawn.count('class="front"') == 1
    assert "Pareto front: a, b" in drawn


def test_one_group_far_off_is_left_out_of_the_scale_and_shown_at_its_border() -> None:
    scale = Scale.clear([[1.0, 0.9, 1.1], [1.2], [1.4], [1e6]], 0, 100)
    assert (scale.low, scale.high) == (0.9, 1.4)
    assert scale.holds(1.4)
    assert not scale.holds(1e6)
    assert scale(1e6) == 100
    cells = {name: {"mean": mean} for name, mean in (("a", 1.0), ("b", 1.2), ("c", 1.4), ("far", -1e6))}
    drawn = whiskers(cells)
    assert [name for name, svg in drawn.items() if "beyond" in svg] == ["far"]
    assert "circle" not in drawn["far"]


def arrow(svg: str) -> str:
    """Where the arrow of a drawing points."""
    (turned,) = re.findall(r'class="beyond[^>]* rotate\((-?\d+)\)', svg)
    return {"0": "right", "180": "left", "90": "down", "-90": "up"}[turned]


@pytest.mark.parametrize(("mean", "way"), [(-1e6, "left"), (1e6, "right")])
def test_the_arrow_of_a_model_far_off_points_to_where_it_lies(mean: float, way: str) -> None:
    cells = {name: {"mean": value} for name, value in (("a", 1.0), ("b", 1.2), ("c", 1.4), ("far", mean))}
    assert arrow(whiskers(cells)["far"]) == way


@pytest.mark.parametrize(
    ("x", "y", "way"), [(-1e6, 2.0, "left"), (1e6, 2.0, "right"), (2.0, -1e6, "down"), (2.0, 1e6, "up")]
)
def test_in_a_scatter_arrows_point_along_the_axis_that_a_model_leaves(x: float, y: float, way: str) -> None:
    points = [point("a", 1, 1), point("b", 2, 2), point("c", 3, 3), point("far", x, y)]
    assert arrow(scatter(points, Axis("x", "higher"), Axis("y", "higher"))) == way


def test_a_model_that_is_not_ranked_is_drawn_and_neither_stands_on_the_front_nor_keeps_others_from_it() -> None:
    taught = dataclasses.replace(point("taught", 9, 9), unranked=True)
    points = [point("a", 1, 9), point("b", 2, 7), taught]
    assert [p.label for p in pareto_front(points, "higher", "higher")] == ["a", "b"]
    drawn = scatter(points, Axis("x", "higher"), Axis("y", "higher"))
    assert drawn.count('class="dot model aside"') == 1
    assert "taught: 9, 9 (not ranked)" in drawn


@pytest.mark.parametrize("groups", [[[1.0], [1.0], [9.0]], [[1.0], [9.0]], [[1.0], [2.0], [9.0]], [[3.0]]])
def test_what_differs_plainly_stays_on_the_scale(groups: list[list[float]]) -> None:
    scale = Scale.clear(groups, 0, 100)
    assert all(scale.holds(value) for (value,) in groups)


def test_an_outlier_costs_no_other_clip_its_digits() -> None:
    values = [0.412345, 0.512345, 0.612345, 0.712345, 1e6]
    assert decimals(values) >= 3
    packed = pack_column(values)
    assert packed["digits"] == decimals(values)
    assert len(packed["data"]) == 5 * packed["width"]


@pytest.mark.parametrize("value", [0.125, 0.375, 1.005, 2.675, -0.125, -2.5])
def test_halves_are_rounded_as_python_prints_them(value: float) -> None:
    packed = pack_column([value, 100.0], digits=2)
    assert packed["low"] / 100 == float(f"{value:.2f}")


# ---------------------------------------------------------------- ablation


def test_variants_are_compared_with_the_whole_model_whatever_their_order(tmp_path: Path) -> None:
    names = ["g4g-no-fusion", "g4g", "other", "g4g-no-intra"]
    models = [GROUND_TRUTH, *(Model(f"{name} (tiny)", "generator", name, fingerprint=name) for name in names)]
    write_synthetic_run(tmp_path, models, [shot(i) for i in range(12)], metrics=["psnr@mouth", "m-lmd@20"], effect=3.0)
    (source,) = read_board(str(tmp_path))["sources"]
    found = source["ablation"]
    assert found["whole"] == "g4g (tiny)"
    assert [row["model"] for row in found["rows"]] == ["g4g (tiny)", "g4g-no-fusion (tiny)", "g4g-no-intra (tiny)"]
    assert found["rows"][1]["what"] == "with a hard edge instead of deformation fusion"
    worse, better = (row["cells"]["psnr@mouth"]["change"] for row in found["rows"][1:])
    assert worse["verdict"] == "worse without it"
    assert better["verdict"] == "better without it"
    assert float(worse["effect"]) < 0 < float(better["effect"])
    assert float(worse["low"]) <= float(worse["effect"]) <= float(worse["high"])
    cells = storage.read_json(tmp_path / "summary.json")["tables"]["lrs2"]["rows"]
    means = [cells[f"{name} (tiny)"]["cells"]["psnr@mouth"]["mean"] for name in ("g4g-no-fusion", "g4g")]
    assert float(worse["effect"]) == pytest.approx(means[0] - means[1], abs=0.1)


def test_by_the_judge_that_taught_it_a_variant_is_compared_with_nothing(tmp_path: Path) -> None:
    taught = {"marks": (JUDGED,), "judged_by_its_teacher": True}
    models = [GROUND_TRUTH, *(Model(name, "generator", name, fingerprint=name) for name in ("g4g", "other"))]
    models.append(Model("g4g-no-intra", "generator", "g4g-no-intra", fingerprint="x", **taught))
    metrics = ["sync_score@judge", "psnr@mouth"]
    write_synthetic_run(tmp_path, models, [shot(i) for i in range(12)], metrics=metrics, effect=9.0)
    board = read_board(str(tmp_path))
    (source,) = board["sources"]
    variant = source["ablation"]["rows"][1]["cells"]
    assert variant["sync_score@judge"]["change"]["verdict"] == f"no comparison: {JUDGED}"
    assert variant["sync_score@judge"]["unranked"] == JUDGED
    assert variant["psnr@mouth"]["change"]["verdict"] == "better without it"
    sync, picture = source["verdicts"]
    assert sync["sentence"].endswith(f"not ranked, for {JUDGED}: g4g-no-intra")
    assert sync["leaders"] == ["other"]
    assert picture["leaders"] == ["g4g-no-intra"]
    assert "other is significantly ahead of g4g in lip sync" in board["headline"][1]
    assert "g4g-no-intra is significantly ahead of every other model in picture" in board["headline"][1]
    page = Path(write_report(str(tmp_path))).read_text(encoding="utf-8")
    assert page.count('class="dot model aside"') == 1
    assert "takes no part in the front" in page
    assert len(re.findall(r"g4g-no-intra: [^;]* \(not ranked\)", page)) == 1


def test_without_variants_or_without_the_whole_model_there_is_no_ablation(tmp_path: Path) -> None:
    shots = [shot(i) for i in range(3)]
    for names in (["g4g", "other"], ["g4g-no-intra", "other"]):
        models = [GROUND_TRUTH, *(Model(name, "generator", name, fingerprint=name) for name in names)]
        write_synthetic_run(tmp_path, models, shots, metrics=["psnr@mouth"])
        assert read_board(str(tmp_path))["sources"][0]["ablation"] is None


def test_a_pupil_is_set_aside_by_what_its_own_teacher_measures_and_by_nothing_else() -> None:
    metrics = {
        "judge": {"by_judge": True, "weights": []},
        "lse": {"by_judge": False, "weights": ["syncnet-v2"]},
        "psnr": {"by_judge": False, "weights": []},
    }
    for marks, found in (
        ((JUDGED,), {"judge": JUDGED, "lse": None, "psnr": None}),
        (("tiny", "trained against syncnet-v2"), {"judge": None, "lse": "trained against syncnet-v2", "psnr": None}),
        ((), dict.fromkeys(metrics)),
    ):
        assert {name: taught(metric, {"marks": marks}) for name, metric in metrics.items()} == found


# ---------------------------------------------------------------- what people said, and what a reader must be told


def test_what_raters_said_stands_on_the_page_with_intervals_and_who_was_left_out(tmp_path: Path) -> None:
    models = [GROUND_TRUTH, model("alpha"), model("beta")]
    write_synthetic_run(tmp_path, models, [shot(1), shot(2)], metrics=["psnr@mouth"])
    assert read_opinions(str(tmp_path)) is None
    assert "Nobody was asked how it looks" in Path(write_report(str(tmp_path))).read_text(encoding="utf-8")
    storage.write_json(tmp_path / STUDY, study_results(["ground-truth", "alpha"], tmp_path))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", Path(write_report(str(tmp_path))).read_text(encoding="utf-8")))
    for words in ("What people said", "2 raters, 12 clips of 8 people", "3.50 (3.10 to 3.90)", "60.0 % (52.0 to 68.0)",
                  "r3: too fast", "&lt;b&gt;d: edited", "9 / 1 / 3", "α 0.61"):  # fmt: skip
        assert words in text, words
    assert "Nobody was asked" not in text
    storage.write_json(tmp_path / STUDY, {"kind": "something else"})
    with pytest.raises(UsageError, match="no results of a study"):
        write_report(str(tmp_path))


def test_the_page_says_what_each_model_is_and_what_each_source(tmp_path: Path) -> None:
    still = Model("still", "generator", "still", fingerprint="still/1")
    models = [GROUND_TRUTH, still, Model("theirs", "precomputed", "/x", marks=("unguarded",)), model("mine")]
    write_synthetic_run(tmp_path, models, [shot(i) for i in range(3)], metrics=["psnr@mouth"])
    board = read_board(str(tmp_path))
    whats = {found["name"]: found["what"] for found in board["models"]}
    assert whats["ground-truth"].startswith("the footage itself")
    assert whats["still"].startswith("control:")
    assert whats["theirs"] == "finished videos of the crop"
    (source,) = board["sources"]
    assert (source["shots"], source["identities"], source["seconds"]) == (3, 3, 12)
    assert source["licences"] == ["licence of lrs2"]


def test_an_option_that_was_not_given_stands_in_no_command(tmp_path: Path) -> None:
    settings = {"models": ["still"], "split": "test", "footage": {}, "selection": None, "limit": 8}
    write_synthetic_run(tmp_path, [GROUND_TRUTH], [shot(1)], metrics=["psnr@mouth"], settings=settings)
    command = read_board(str(tmp_path))["provenance"]["command"]
    assert "--footage" not in command
    assert command.endswith("--limit 8 --out RUN")
