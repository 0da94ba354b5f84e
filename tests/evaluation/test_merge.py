from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluating import KIND, InProcess, Register, evaluated

from evaluation.compare import read_summary
from evaluation.merge import merge_runs
from evaluation.models import TRUTH
from g4g_core import storage
from g4g_core.errors import UsageError

METRICS = ["psnr", "identity"]  # a metric of clips; CSIM with its floor and FFD, which are of features


@pytest.fixture(scope="module")
def runs(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``still`` and ``shuffled``, each in a run of its own, and in one together."""
    folder = tmp_path_factory.mktemp("runs")
    for name, models in (("a", ["still"]), ("b", ["shuffled"]), ("together", ["still", "shuffled"])):
        evaluated(shards, folder / name, InProcess(), models=models, metrics=METRICS)
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies a run; ``change`` is given what the file ``name`` of the copy holds."""

    def copy(run: str, to: str, name: str = "summary.json", change: Callable[[Any], None] = lambda _: None) -> Path:
        place = Path(shutil.copytree(runs / run, tmp_path / to))
        content = storage.read_json(place / name)
        change(content)
        storage.write_json(place / name, content)
        return place

    return copy


def merged(*parts: Path, out: Path) -> dict[str, Any]:
    return merge_runs([str(part) for part in parts], str(out))


def test_runs_merged_are_the_run_of_all_models_down_to_metrics_of_sets(runs: Path, tmp_path: Path) -> None:
    both = merged(runs / "a", runs / "b", out=tmp_path / "both")
    assert both == storage.read_json(runs / "together" / "summary.json")
    cells = both["tables"]["people"]["rows"]["shuffled"]["cells"]
    assert cells["ffd-dlib"]["mean"] > 0 and cells["ffd-dlib"]["frames"] > 0
    assert both["tables"]["people"]["pairs"]["ffd-dlib"]


def test_failures_do_not_stand_in_the_way(runs: Path, shards: str, tmp_path: Path, register: Register) -> None:
    source = KIND + (
        "class Moody(Base):\n"
        "    asked = 0\n"
        "    def generate(self, prompt):\n"
        "        self.asked += 1\n"
        "        if self.asked == 1:\n"
        "            raise ValueError('not today')\n"
        "        return np.where(prompt.erase[..., None] > 0, np.uint8(90), prompt.source)\n"
        "MOODY = Kind(Moody)\n"
    )
    register(source, moody="MOODY")
    found = evaluated(shards, tmp_path / "c", InProcess(), models=["moody"], metrics=METRICS)
    assert len(found.failed) == 1
    assert found.summary["prompts"] != storage.read_json(runs / "a" / "summary.json")["prompts"]
    both = merged(runs / "a", tmp_path / "c", out=tmp_path / "both")
    assert both["tables"]["people"]["rows"]["moody"]["failed"] == len(found.failed)
    assert both["prompts"] == storage.read_json(runs / "a" / "summary.json")["prompts"]


def _other_prompts(shots: Any) -> None:
    next(iter(shots["shots"].values()))["models"]["still"]["prompts"] = ["another"]


def test_every_two_runs_must_have_prompted_alike(runs: Path, copied: Callable[..., Path], tmp_path: Path) -> None:
    other = copied("a", "other", "shots.json", _other_prompts)
    with pytest.raises(UsageError, match=r"a and .*other prompted their models differently"):
        merged(runs / "b", runs / "a", other, out=tmp_path / "all")  # b has no prompted model: it agrees with both


def test_runs_that_noted_one_digest_of_all_prompts_are_held_against_each_other_by_it(
    copied: Callable[..., Path], tmp_path: Path
) -> None:
    def as_before(shots: Any) -> None:
        for shot in shots["shots"].values():
            for row in shot["models"].values():
                del row["prompts"]

    old, same = copied("a", "old", "shots.json", as_before), copied("b", "same", "shots.json", as_before)
    digest = storage.read_json(old / "summary.json")["prompts"]
    assert merged(old, same, out=tmp_path / "both")["prompts"] == digest
    storage.write_json(same / "summary.json", storage.read_json(same / "summary.json") | {"prompts": "other"})
    with pytest.raises(UsageError, match="prompted their models differently"):
        merged(old, same, out=tmp_path / "both")


def test_a_model_counts_once_in_however_many_runs_and_under_whatever_name(
    runs: Path, shards: str, copied: Callable[..., Path], tmp_path: Path
) -> None:
    evaluated(shards, tmp_path / "renamed", InProcess(), models=["mine=still"], metrics=METRICS)

    def another(facts: Any) -> None:
        facts["models"][1]["fingerprint"] = "still/0"

    changed = [copied("a", name, "run.json", another) for name in ("x", "y")]
    both = merged(runs / "a", tmp_path / "renamed", *changed, out=tmp_path / "all")
    assert list(both["models"]) == [TRUTH, "still", "still (x)"]


def test_what_is_said_of_a_metric_and_the_judge_is_what_the_runs_measured(
    copied: Callable[..., Path], tmp_path: Path
) -> None:
    def older(summary: Any) -> None:
        summary["judge"] = "the judge of then"
        summary["metrics"]["csim-dlib"] |= {"version": 0, "weights_sha256": {"dlib-resnet": "of then"}}
        summary["metrics"]["ffd-dlib"]["version"] = 0

    both = merged(copied("a", "old", change=older), copied("b", "old too", change=older), out=tmp_path / "both")
    assert both["judge"] == "the judge of then"
    csim, ffd = both["metrics"]["csim-dlib"], both["metrics"]["ffd-dlib"]
    assert (csim["version"], csim["weights_sha256"], csim["unavailable"]) == (0, {"dlib-resnet": "of then"}, None)
    assert ffd["unavailable"] == "version 0 was measured; here it is 1"  # a set's value is made anew by this program


def test_versions_of_runs_that_the_first_says_nothing_of_must_agree(
    copied: Callable[..., Path], tmp_path: Path
) -> None:
    def without(summary: Any) -> None:
        del summary["metrics"]["psnr@face"]

    def newer(summary: Any) -> None:
        summary["metrics"]["psnr@face"]["version"] += 1

    with pytest.raises(UsageError, match="psnr@face has other version"):
        merged(copied("a", "1", change=without), copied("b", "2"), copied("b", "3", change=newer), out=tmp_path / "all")


def test_a_run_that_is_not_finished_is_not_written_over(runs: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    storage.write_json(begun / "run.json", {"finished": None})
    with pytest.raises(UsageError, match="begun holds a run of its own"):
        merged(runs / "a", runs / "b", out=begun)
    assert [path.name for path in begun.iterdir()] == ["run.json"]


def test_a_merge_that_was_killed_is_done_again(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("evaluation.merge.write_run", killed)
        merged(runs / "a", runs / "b", out=tmp_path / "both")
    assert merged(runs / "a", runs / "b", out=tmp_path / "both")["models"]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_a_summary_with_a_number_that_is_none_is_refused_in_a_line(
    runs: Path, copied: Callable[..., Path], tmp_path: Path, text: str
) -> None:
    broken = copied("b", "broken") / "summary.json"
    broken.write_text(broken.read_text().replace('"seed": 0', f'"seed": {text}'))
    with pytest.raises(UsageError, match=r"it holds (NaN|-?Infinity)"):
        read_summary(str(broken))
    with pytest.raises(UsageError, match=r"it holds (NaN|-?Infinity)"):
        merged(runs / "a", broken.parent, out=tmp_path / "both")
