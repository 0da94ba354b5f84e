from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from synthetic_run import GROUND_TRUTH, LPIPS, SETS, model, shot, training, write_synthetic_run

from evaluation.cli import main
from evaluation.config import RunConfig
from evaluation.metrics import METRICS
from evaluation.metrics.judge import has_met
from evaluation.models import JUDGED, Model
from evaluation.protocols import CROSS, PAIRS, VIDEOS, VIDEOS_REFERENCE, Protocol
from evaluation.tables import number
from g4g_core import storage
from g4g_core.errors import UsageError
from g4g_core.protocols import Training
from prep.sources.sample import LICENCE
from prep.sync_expert.judge import learned_clips
from reports.about import what_is_asked
from reports.clips import ALPHABET, MISSING, pack_column, pack_curve
from reports.exports import board_csv, board_latex, board_markdown
from reports.headline import _against, _against_counted, _among, _Comparison, _speechless
from reports.leaderboard import read_board, write_report

EVIL = "<img src=x onerror=alert(1)>"
EVIL_TEXT = "broke: </script><script>alert(2)</script> & \u2028 \u2029"
STILL = Model("still", "generator", "still", fingerprint="still/1")
FEW_METRICS = ("lse_d@crop1", "m-lmd@20", "psnr@mouth", "sync_offset@judge", "sync_score@judge", "lpips-alex@mouth")


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with attributes, rows of tables as texts, scripts apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self._within = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts[-1] += data
        elif not self._within:
            self.text += data
            if self.rows and self.rows[-1]:
                self.rows[-1][-1] += data

    def all(self, tag: str, kind: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag and kind in (attrs.get("class") or "").split()]

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.scripts[0]))

    def row(self, name: str) -> list[str]:
        """Cells of the first board row whose head begins with ``name``."""
        found = next(row for row in self.rows if row and row[0].strip().startswith(name))
        return [" ".join(cell.split()) for cell in found]


def rendered(run: Path) -> Page:
    return Page(Path(write_report(str(run))))


def people(count: int, source: str = "lrs2") -> list[Any]:
    return [shot(number, source) for number in range(count)]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources, three models that differ, one failure, two columns without weights."""
    run = tmp_path_factory.mktemp("runs") / "usual"
    shots = [*people(12), *(shot(100 + i, "hdtf", f"q{i}") for i in range(7))]
    failed = {("beta", shots[2].key): ("timeout", "600 s were not enough")}
    write_synthetic_run(
        run, [GROUND_TRUTH, STILL, model("alpha"), model("beta")], shots, failed=failed, unavailable=LPIPS, effect=1.0,
        settings={"models": ["still", "alpha", "beta"], "checkpoints": {"alpha": "/home/me/a.pt"}, "split": "test"},
    )  # fmt: skip
    return run


@pytest.fixture(scope="module")
def page(usual: Path) -> Page:
    return rendered(usual)


def test_a_second_rendering_gives_the_same_bytes_wherever_the_run_was_made(usual: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(usual, tmp_path / "moved"))
    facts = storage.read_json(moved / "run.json")
    facts["environment"] |= {"host": "other", "time": "2031-01-01T00:00:00+00:00", "platform": "other"}
    storage.write_json(moved / "run.json", facts | {"data": "/other", "seconds": 99.9, "finished": "2031-01-01"})
    for run in (usual, moved):
        write_report(str(run))
    for name in ("report.html", "leaderboard.json", "leaderboard.csv"):
        assert (usual / name).read_bytes() == (moved / name).read_bytes(), name


def test_the_page_names_no_date_host_or_folder(usual: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(usual, tmp_path / "copy"))
    facts = storage.read_json(copy / "run.json")
    facts["environment"] |= {"host": "host-of-somebody", "platform": "platform-of-somebody"}
    facts["environment"]["time"] = facts["finished"] = "2031-05-06T07:08:09+00:00"
    facts |= {"seconds": 98765.4, "data": "/home/somebody/shards"}
    storage.write_json(copy / "run.json", facts)
    source = Path(write_report(str(copy))).read_text(encoding="utf-8") + (copy / "leaderboard.json").read_text()
    for volatile in ("-of-somebody", "2031-05", "07:08:09", "98765.4", "/home/", str(tmp_path)):
        assert volatile not in source


def test_the_page_gives_the_digest_of_the_prompts_that_all_models_were_given(usual: Path, page: Page) -> None:
    digest = storage.read_json(usual / "summary.json")["prompts"]
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert f"{digest}: what models were given, the same for every model" in " ".join(page.text.split())


def test_the_provenance_names_the_judge_and_the_hash_of_every_weights_file_that_measured(
    usual: Path, page: Page
) -> None:
    summary = storage.read_json(usual / "summary.json")
    footer = " ".join(page.text[page.text.index("Provenance", page.text.index("Statistics and marks")) :].split())
    assert f"the embedded sync expert, weights {summary['judge']}" in footer
    measured = [about for about in summary["metrics"].values() if about["unavailable"] is None]
    hashes = {name: sha256 for about in measured for name, sha256 in about["weights_sha256"].items()}
    assert {"syncnet-v2", "dlib-68"} <= hashes.keys()
    assert all(f"{name} {sha256}" in footer for name, sha256 in hashes.items())
    assert "lpips" not in footer.split("measuring weights")[1].split("seed, precision")[0]


def with_licence(one: Any, licence: str) -> Any:
    return dataclasses.replace(one, about={**one.about, "licence": licence, "redistributable": True})


def test_a_page_of_the_rendered_sample_says_at_its_top_that_it_is_nobody(tmp_path: Path) -> None:
    models = [GROUND_TRUTH, STILL]
    rendered_clips = [with_licence(one, LICENCE) for one in people(3)]
    real = [shot(100 + i, "hdtf") for i in range(3)]
    tops = {}
    for name, shots in (("sample", rendered_clips), ("both", [*rendered_clips, *real]), ("real", real),
                        ("mixed", [*rendered_clips, *people(5)[3:]])):  # fmt: skip
        write_synthetic_run(tmp_path / name, models, shots, metrics=FEW_METRICS)
        page = rendered(tmp_path / name)
        tops[name] = " ".join(page.text[: page.text.index("Who is best at what")].split())
    assert "Synthetic sample: one portrait in many disguises, with synthesised speech" in tops["sample"]
    assert "numbers, intervals and tests say nothing of real ones" in tops["sample"]
    assert tops["sample"].index("Synthetic sample") < tops["sample"].index("redrew the mouth")
    assert "Synthetic sample (lrs2):" in tops["both"]
    assert "Synthetic" not in tops["real"] + tops["mixed"]


def test_the_licence_stands_in_short_under_the_head_of_its_source(usual: Path, page: Page, tmp_path: Path) -> None:
    text = " ".join(page.text.split())
    assert "Licence: licence of hdtf; may not be passed on" in text
    assert "Licence: licence of lrs2; may not be passed on" in text
    long = [with_licence(one, "words " * 60) for one in people(2)]
    write_synthetic_run(tmp_path, [GROUND_TRUTH, STILL], long, metrics=FEW_METRICS)
    (line,) = re.findall(r"Licence: ((?:words )+…)(?! ?;)", " ".join(rendered(tmp_path).text.split()))
    assert 70 < len(line) <= 90


def test_the_page_asks_for_nothing_from_outside_itself(page: Page) -> None:
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert "url(" not in page.source
    assert "@import" not in page.source
    for tag, attrs in page.elements:
        assert not {"src", "srcset", "action"} & attrs.keys()
        assert tag not in ("link", "iframe", "object", "img")
        assert (attrs.get("href") or "#").startswith("#")


def test_the_script_that_runs_is_the_one_that_the_policy_names(page: Page) -> None:
    import base64
    import hashlib

    (policy,) = [a["content"] or "" for tag, a in page.elements if tag == "meta" and a.get("http-equiv")]
    assert base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode() in policy


def test_every_number_is_that_of_the_summary_to_the_printed_digit(usual: Path, page: Page) -> None:
    summary, board = storage.read_json(usual / "summary.json"), storage.read_json(usual / "leaderboard.json")
    order = [metric["id"] for metric in board["metrics"]]
    compared = 0
    for source in board["sources"]:
        start = page.source.index(f'aria-label="Results on {source["source"]}"')
        section = page.source[start : page.source.index("</table>", start)]
        for row in source["rows"]:
            text = re.search(rf'<th scope="row">{row["model"]}\b.*?</tr>', section, re.DOTALL)
            assert text
            cells = re.findall(r"<td.*?</td>", text[0], re.DOTALL)[1:]
            assert len(cells) == len(order)
            for metric, printed in zip(order, cells, strict=True):
                raw = summary["tables"][source["source"]]["rows"][row["model"]]["cells"].get(metric)
                if raw is None or raw["mean"] is None:
                    assert 'class="num"' not in printed
                    continue
                expected = number(raw["mean"], raw.get("low"), raw.get("high"))
                assert f'<span class="num">{expected.replace("-", "−")}</span>' in printed
                assert row["cells"][metric]["mean"] == float(expected)
                if "rank" in raw:
                    assert f"#{raw['rank']}" in printed
                compared += 1
    assert compared > 100


def test_the_truth_stands_first_and_apart_and_is_identical_to_itself(page: Page) -> None:
    assert page.source.index('<tbody class="truth">') < page.source.index('<tbody class="ranked">')
    row = page.row("ground-truth")
    full_reference = sum(metric.full_reference and name not in LPIPS for name, metric in METRICS.items())
    assert row.count("identical") == full_reference
    assert sum("split-half floor" in cell for cell in row) == sum(m.kind == "set" for m in METRICS.values())


def test_models_stand_best_first_by_the_leading_metric(usual: Path, page: Page) -> None:
    heads = [row[0].split()[0] for row in page.rows if row and row[0].split()]
    names = [head for head in heads if head in ("still", "alpha", "beta")]
    assert names[:3] == ["beta", "alpha", "still"]
    assert page.data["models"][0] == {"name": "ground-truth", "truth": True}


def test_a_column_without_weights_says_why_and_what_fetches_them(page: Page) -> None:
    assert "g4g-eval weights fetch lpips-alex" in page.text
    assert len(page.all("th", "off")) == 2 * len(LPIPS)
    assert "LPIPS mouth" in page.text


def test_failures_are_counted_with_their_reasons_and_listed_with_their_text(page: Page) -> None:
    assert "1 failed" in page.text
    assert "timeout × 1" in page.text
    assert "11 shots that all of them were scored on" in " ".join(page.text.split())
    ((_, code, text),) = page.data["clips"]["errors"]
    assert (code, text) == ("timeout", "600 s were not enough")


def test_headers_have_scopes_and_tables_captions(page: Page) -> None:
    assert all(attrs.get("scope") in ("col", "colgroup", "row") for tag, attrs in page.elements if tag == "th")
    assert page.source.count("<table") == page.source.count("<caption")
    ids = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for wanted in (attrs.get("aria-describedby"), attrs.get("aria-labelledby"), attrs.get("data-def")):
            assert wanted is None or wanted in ids


def test_the_command_that_computes_it_again_holds_no_path(usual: Path) -> None:
    command = read_board(str(usual))["provenance"]["command"]
    assert command == (
        "g4g-eval run --models still,alpha,beta --data DATA --split test --protocol reconstruction/1 "
        "--checkpoint alpha=PATH --out RUN"
    )


def parsed(command: str) -> dict[str, Any]:
    """What the command line makes of a printed command: options that are not left at their defaults."""
    program, name, *words = shlex.split(command)
    assert program == "g4g-eval"
    known = main.commands[name]
    given = known.make_context(name, words).params
    assert given.pop("out") == "RUN"
    defaults = {option.name: option.get_default(click.Context(known)) for option in known.params}
    return {key: value for key, value in given.items() if value != defaults[key] and value not in (None, ())}


def command_of(run: Path, models: list[Model], protocol: Protocol, settings: dict[str, Any], **more: Any) -> str:
    metrics = [name for name, about in METRICS.items() if about.kind == "clip" and not about.full_reference]
    write_synthetic_run(run, models, people(6), metrics=metrics, protocol=protocol, settings=settings, **more)
    return str(read_board(str(run))["provenance"]["command"])


def test_every_option_of_a_run_stands_in_the_command_that_computes_it_again(tmp_path: Path) -> None:
    config = RunConfig(
        data="/home/me/shards", split="val,test", selection="/home/me/keys.parquet", limit=7, seed=3, timeout=90.5,
        models=["g4g", "a b=precomputed:/home/me/out", "w=external:ip_lap", "x=external:/home/me/x.yaml"],
        checkpoints={"g4g": "/home/me/g4g.pt"}, footage={"": "/home/me/v", "hdtf": "/home/me/h"}, controls=False,
        protocol="cross/1", metrics=["sync", "csim-dlib"], on_failure="worst", pooled=True, precision="bf16",
    )  # fmt: skip
    settings = config.model_dump(mode="json")
    command = command_of(tmp_path, [GROUND_TRUTH, model("g4g")], CROSS, settings)
    assert "/home" not in command
    assert parsed(command) == {
        "models": "g4g,a b=precomputed:DIR,w=external:ip_lap,x=external:YAML", "data": "DATA", "split": "val,test",
        "selection": "TEST_KEYS", "footage": ("ROOT", "hdtf=ROOT"), "checkpoints": ("g4g=PATH",), "no_controls": True,
        "pooled": True, "seed": 3, "protocol": "cross/1", "limit": 7, "metrics": "sync,csim-dlib",
        "on_failure": "worst", "timeout": 90.5, "precision": "bf16",
    }  # fmt: skip
    untold = {"data", "models", "checkpoints", "footage", "controls", "metrics"}
    changed = {name for name, field in RunConfig.model_fields.items() if settings[name] != field.get_default()}
    assert changed == {*RunConfig.model_fields} - untold | untold  # no field of a run is forgotten above


def test_finished_videos_are_scored_again_by_the_command_with_their_options(tmp_path: Path) -> None:
    settings = {"videos": {"mine": "/home/me/out"}, "metrics": ["sync_score@judge"], "timeout": 30.0}
    alone = Model("my videos", "truth", "", fingerprint="truth/1")
    command = command_of(tmp_path / "a", [alone], VIDEOS, {**settings, "reference": None}, on_failure="worst")
    assert parsed(command) == {
        "videos": ("my videos=DIR",), "metrics": "sync_score@judge", "timeout": 30.0, "on_failure": "worst",
    }  # fmt: skip
    recut = Model("mine", "recut", "/home/me/videos", marks=("unguarded",))
    command = command_of(tmp_path / "b", [GROUND_TRUTH, recut], VIDEOS_REFERENCE, {})
    assert parsed(command) == {"videos": ("mine=DIR",), "reference": "DIR"}


def test_pairs_are_dubbed_again_by_the_command_with_their_options(tmp_path: Path) -> None:
    settings = {
        "pairs": "/home/me/list",
        "root": "/home/me",
        "models": ["g4g"],
        "checkpoints": {"g4g": "/x"},
        "seed": 5,
    }
    command = command_of(tmp_path, [model("g4g")], PAIRS, settings)
    assert parsed(command) == {
        "file": "FILE", "models": "g4g", "root": "DIR", "checkpoints": ("g4g=PATH",), "seed": 5,
    }  # fmt: skip


def test_keys_that_do_not_follow_from_the_clip_are_in_the_page_with_the_number_of_their_pair(tmp_path: Path) -> None:
    usual = people(2)
    paired = [dataclasses.replace(usual[0], key=f"{number:05d}-{usual[0].key}") for number in (1, 12)]
    own = dataclasses.replace(usual[1], key="a key of its own")
    write_synthetic_run(tmp_path, [model("alpha")], [usual[1], *paired, own], metrics=["sync_score@judge"])
    shots = rendered(tmp_path).data["clips"]["shots"]
    order = list(storage.read_json(tmp_path / "shots.json")["shots"])
    assert {int(at): key for at, key in shots["keys"].items()} == {
        at: key for at, key in enumerate(order) if key != usual[1].key
    }
    assert {order[int(at)]: number for at, number in shots["pairs"].items()} == {paired[0].key: 1, paired[1].key: 12}


def test_text_of_users_is_never_markup(tmp_path: Path) -> None:
    shots = [shot(number, "lrs2", f"{EVIL}{number}") for number in range(7)]
    models = [GROUND_TRUTH, model(EVIL, marks=("perception: off",)), model("alpha")]
    failed = {(EVIL, shots[0].key): ("model_failed", EVIL_TEXT)}
    why = {"lpips-alex@mouth": EVIL_TEXT}
    write_synthetic_run(tmp_path, models, shots, failed=failed, metrics=FEW_METRICS, unavailable=why)
    page = rendered(tmp_path)
    assert len(page.scripts) == 2
    assert "</script" not in page.scripts[0]
    assert "<" not in page.scripts[0]
    assert "\u2028" not in page.scripts[0]
    assert not [tag for tag, attrs in page.elements if tag == "img" or any(name.startswith("on") for name in attrs)]
    assert EVIL in page.text
    assert EVIL in [found["name"] for found in page.data["models"]]
    assert page.data["clips"]["errors"][0][2] == EVIL_TEXT
    markdown = board_markdown(read_board(str(tmp_path)))
    assert markdown.count("<img") == markdown.count("\\<img") > 0


def test_models_that_cannot_be_told_apart_share_the_first_rank_and_nobody_is_called_best(tmp_path: Path) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("alpha"), model("beta")], people(8), metrics=FEW_METRICS)
    board = read_board(str(tmp_path))
    (source,) = board["sources"]
    for row in source["rows"][1:]:
        assert (row["cells"]["psnr@mouth"]["rank"], row["cells"]["psnr@mouth"]["shared"]) == (1, True)
        assert not row["cells"]["psnr@mouth"]["leads"]
    assert {verdict["claim"] for verdict in source["verdicts"]} == {"tie"}
    assert "No model is significantly ahead" in board["headline"][1]
    assert "#1=" in rendered(tmp_path).row("alpha")[3]


def test_under_six_identities_nothing_is_ranked_and_no_difference_claimed(tmp_path: Path) -> None:
    models = [GROUND_TRUTH, model("alpha"), model("beta")]
    write_synthetic_run(tmp_path, models, people(5), metrics=FEW_METRICS, effect=9.0)
    board = read_board(str(tmp_path))
    (source,) = board["sources"]
    assert not [cell for row in source["rows"] for cell in row["cells"].values() if "rank" in cell]
    assert {verdict["claim"] for verdict in source["verdicts"]} == {"untested"}
    assert all(pair["verdict"].startswith("no claim") for pairs in source["pairs"].values() for pair in pairs)
    assert "No difference between them is claimed" in board["headline"][1]
    page = rendered(tmp_path)
    assert not page.all("span", "rank")
    assert "Few identities." in page.text


def test_a_clear_winner_is_said_in_the_headline_and_in_the_pairs(tmp_path: Path) -> None:
    models = [GROUND_TRUTH, model("alpha"), model("beta")]
    write_synthetic_run(tmp_path, models, people(12), metrics=FEW_METRICS, effect=6.0)
    board = read_board(str(tmp_path))
    (source,) = board["sources"]
    assert "beta is significantly ahead of alpha in lip sync, mouth shape" in board["headline"][1]
    (pair,) = source["pairs"]["lse_d@crop1"]
    assert (pair["a"], pair["b"], pair["verdict"]) == ("alpha", "beta", "beta is better")
    assert source["rows"][2]["cells"]["lse_d@crop1"]["gap"]["beyond"]
    assert "beyond the truth" in rendered(tmp_path).text


def test_a_leader_beyond_the_ground_truth_is_said_to_have_won_nothing_by_that(tmp_path: Path) -> None:
    models = [GROUND_TRUTH, model("alpha"), model("beta")]
    write_synthetic_run(tmp_path, models, people(12), metrics=FEW_METRICS, effect=6.0)
    board = read_board(str(tmp_path))
    cells = board["sources"][0]["rows"][2]["cells"]
    marked = [verdict for verdict in board["sources"][0]["verdicts"] if "no win" in verdict["sentence"]]
    assert [verdict["metric"] for verdict in marked] == ["lse_d@crop1"]
    assert marked[0]["sentence"].endswith("; beyond the ground truth, which is no win")
    assert cells["lse_d@crop1"]["gap"]["beyond"]
    assert board["headline"][2] == "Beyond the ground truth, which is no win: beta in lip sync."


def test_a_win_over_controls_is_called_one_and_controls_are_counted_apart(tmp_path: Path) -> None:
    shuffled = Model("shuffled", "shuffled", "", fingerprint="shuffled/1")
    for controls, field, tile in (
        ([STILL], "still (control)", "1 + 1 control"),
        ([STILL, shuffled], "both controls", "1 + 2 controls"),
    ):
        run = tmp_path / str(len(controls))
        models = [GROUND_TRUTH, *controls, model("alpha")]
        write_synthetic_run(run, models, people(12), metrics=FEW_METRICS, effect=6.0)
        page = rendered(run)
        board = read_board(str(run))
        assert f"alpha is significantly ahead of {field} in lip sync" in board["headline"][1]
        stand = "still stands beside it as a control" if len(controls) == 1 else "stand beside it as controls"
        assert stand in board["headline"][0] and "every other" not in board["headline"][1]
        assert all(f"alpha is ahead of {field} (p" in v["sentence"] for v in board["sources"][0]["verdicts"])
        assert f"models{tile}" in page.text


def test_among_three_rivals_a_winner_is_ahead_of_every_other_model(usual: Path, page: Page, tmp_path: Path) -> None:
    assert "ahead of alpha in" in read_board(str(usual))["headline"][1]
    assert "models2 + 1 control" in page.text
    models = [GROUND_TRUTH, *map(model, ("alpha", "beta", "gamma"))]
    write_synthetic_run(tmp_path, models, people(12), metrics=FEW_METRICS, effect=6.0)
    assert "is significantly ahead of every other model in" in read_board(str(tmp_path))["headline"][1]


def test_a_model_trained_against_the_judge_is_marked_and_not_ranked_by_it(tmp_path: Path) -> None:
    taught = model("taught", marks=("trained against the judge",), judged_by_its_teacher=True)
    models = [GROUND_TRUTH, taught, model("alpha"), model("beta")]
    write_synthetic_run(tmp_path, models, people(12), metrics=FEW_METRICS)
    (source,) = read_board(str(tmp_path))["sources"]
    cells = {row["model"]: row["cells"]["sync_score@judge"] for row in source["rows"]}
    assert "rank" not in cells["taught"]
    assert "rank" in cells["alpha"]
    verdicts = {frozenset((p["a"], p["b"])): p["verdict"] for p in source["pairs"]["sync_score@judge"]}
    assert verdicts[frozenset(("taught", "alpha"))] == "no comparison: trained against the judge"
    page = rendered(tmp_path)
    assert page.all("span", "loud")
    assert "not ranked" in " ".join(page.row("taught"))


@pytest.mark.parametrize("count", [1, 2])
def test_one_model_on_one_or_two_clips_makes_a_page(tmp_path: Path, count: int) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("alpha")], people(count), unavailable=LPIPS)
    page = rendered(tmp_path)
    assert "only alpha was measured" in page.text
    assert len(page.data["clips"]["shots"]["clip"]) == count


def test_only_the_truth_makes_a_page(tmp_path: Path) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH], people(3), metrics=FEW_METRICS)
    assert "Only the footage itself was measured" in rendered(tmp_path).text


def test_protocols_without_the_clip_or_without_any_footage_make_pages(tmp_path: Path) -> None:
    free = [name for name, metric in METRICS.items() if not metric.full_reference]
    write_synthetic_run(tmp_path / "a", [GROUND_TRUTH, model("alpha")], people(6), metrics=free, protocol=CROSS)
    assert "another person's speech" in rendered(tmp_path / "a").text
    alone = [name for name in free if not METRICS[name].needs_clip]
    mine = Model("mine", "recut", "/home/me/videos", marks=("unguarded",))
    write_synthetic_run(tmp_path / "b", [mine], people(6), metrics=alone, protocol=VIDEOS)
    page = rendered(tmp_path / "b")
    assert '<tbody class="truth">' not in page.source
    assert "g4g-eval score --videos mine=DIR" in page.text
    assert "unguarded" in " ".join(page.row("mine"))


def test_a_model_that_failed_everywhere_leaves_reasons_and_no_numbers(tmp_path: Path) -> None:
    shots = people(3)
    failed = {("alpha", one.key): ("timeout", "too slow") for one in shots}
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("alpha")], shots, failed=failed, metrics=FEW_METRICS)
    page = rendered(tmp_path)
    assert "timeout × 3" in page.text
    assert "no shot that every model was scored on" in " ".join(page.row("alpha"))


def test_a_refused_run_shows_why_there_is_no_table_and_its_clips(tmp_path: Path) -> None:
    shots = people(3)
    failed = {("alpha", shots[0].key): ("timeout", "too slow")}
    models = [GROUND_TRUTH, model("alpha")]
    write_synthetic_run(tmp_path, models, shots, failed=failed, metrics=FEW_METRICS, on_failure="error")
    page = rendered(tmp_path)
    assert "There is no table" in page.text
    assert page.data["clips"]["errors"]


def test_a_pooled_table_has_its_own_offsets_and_licences(tmp_path: Path) -> None:
    shots = [*people(3), *(shot(100 + i, "hdtf") for i in range(3))]
    write_synthetic_run(tmp_path, [GROUND_TRUTH, STILL], shots, metrics=FEW_METRICS, pooled=True)
    page = rendered(tmp_path)
    assert "of 6 shots within ±1 frame" in page.text
    pooled = next(s for s in read_board(str(tmp_path))["sources"] if s["source"] == "all sources")
    assert pooled["licences"] == ["licence of hdtf", "licence of lrs2"]


@pytest.mark.parametrize(
    ("score", "offset"), [("sync_score@judge", "sync_offset@judge"), ("lse_d@crop1", "av_offset@crop1")]
)
def test_lip_sync_says_how_often_its_measure_hears_the_footage_itself_and_controls(
    tmp_path: Path, score: str, offset: str
) -> None:
    shots = [*people(9), *(shot(100 + i, "hdtf") for i in range(7))]
    models = [GROUND_TRUTH, STILL, model("alpha")]
    write_synthetic_run(tmp_path, models, shots, metrics=[score, offset, "psnr@mouth"])
    measured = storage.read_json(tmp_path / "shots.json")["shots"].values()
    page = rendered(tmp_path)
    for source in read_board(str(tmp_path))["sources"]:
        here = [one["models"] for one in measured if one["source"] == source["source"]]
        names = ("ground-truth", "still", "alpha")
        near = {name: sum(abs(one[name]["values"][offset]) <= 1 for one in here) for name in names}
        of = source["shots"]
        by_group = {verdict["group"]: verdict["trust"] for verdict in source["verdicts"]}
        assert by_group == {
            "sync": f"{METRICS[offset].name} finds sound and lips in step (±1 frame): ground-truth in "
            f"{near['ground-truth']} of {of} shots, still (control) in {near['still']} of {of}, "
            f"alpha in {near['alpha']} of {of}.",
            "picture": None,
        }
        assert by_group["sync"] in page.text


def test_without_offsets_nothing_is_said_of_how_far_the_measure_is_to_be_trusted(tmp_path: Path) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, STILL], people(6), metrics=["sync_score@judge", "psnr@mouth"])
    assert {verdict["trust"] for verdict in read_board(str(tmp_path))["sources"][0]["verdicts"]} == {None}
    assert "in step" not in rendered(tmp_path).text


def test_a_leader_s_losses_in_other_metrics_of_the_aspect_are_named(tmp_path: Path) -> None:
    models = [GROUND_TRUTH, model("alpha"), model("beta")]
    metrics = ("ssim@mouth", "psnr@mouth", "cpbd@face256", "m-lmd@20")
    write_synthetic_run(tmp_path, models, people(14), metrics=metrics, effect=3.0)
    summary = storage.read_json(tmp_path / "summary.json")
    table = summary["tables"]["lrs2"]
    lead = next(v for v in read_board(str(tmp_path))["sources"][0]["verdicts"] if v["group"] == "picture")
    assert (lead["claim"], lead["leaders"], lead["behind"]) == ("ahead", ["beta"], {})
    other = next(name for name in metrics if name in ("psnr@mouth", "cpbd@face256") and name != lead["metric"])
    for pair in table["pairs"][other]:
        pair["effect"] = -pair["effect"]
    storage.write_json(tmp_path / "summary.json", summary)
    lead = next(v for v in read_board(str(tmp_path))["sources"][0]["verdicts"] if v["group"] == "picture")
    assert lead["behind"] == {METRICS[other].name: ["alpha"]}
    assert lead["sentence"].endswith(f"; alpha is better in {METRICS[other].name}")


def test_ten_models_on_a_thousand_clips_stay_under_three_megabytes(tmp_path: Path) -> None:
    names = [f"a model of a usual name {number}" for number in range(10)]
    kept = [name for name, about in METRICS.items() if name not in SETS and not about.needs_frames]
    write_synthetic_run(tmp_path, [GROUND_TRUTH, *map(model, names)], people(6), metrics=kept)
    shots, summary = (storage.read_json(tmp_path / name) for name in ("shots.json", "summary.json"))
    patterns = list(shots["shots"].values())
    shots["shots"] = {
        f"{i:04d}": patterns[i % 6] | {"clip": f"63{i:08d}_{i:05d}", "identity": f"63{i:08d}"} for i in range(1000)
    }
    by_identity = summary["tables"]["lrs2"]["breakdowns"][-1]
    assert by_identity["by"] == "identity"
    by_identity["parts"] = [by_identity["parts"][i % 6] | {"label": f"63{i:08d}"} for i in range(1000)]
    storage.write_json(tmp_path / "shots.json", shots)
    storage.write_json(tmp_path / "summary.json", summary)
    page = rendered(tmp_path)
    assert len(page.data["clips"]["columns"]) == len(kept)
    assert len(page.data["clips"]["curves"]) == 2
    assert len(page.source.encode()) < 3_000_000


@pytest.mark.parametrize(
    "values",
    [
        [0.4647, 0.31, None, 1.4142],
        [24.296771, 18.2, 33.0],
        [-3.0, 15.0, 0.0, None],
        [0.994566, 0.994568],
        [-0.00004, 0.3],
        [123456.7, -99999.1],
        [5.5],
        [None, None],
        [],
        [0.1, 0.2, 0.30001, 0.4, 1e300],
        [0.1, 0.2, 0.30001, 0.4, -1e300, 1e300, None],
        [1e20, 2e20, 3e20],
        [0.25, math.nan, 0.5, math.inf, -math.inf],
        [math.nan, None],
        [7.125, 7.125, 7.125, 1.7e308],
    ],
)
def test_packed_numbers_come_back_as_they_are_printed(values: list[float | None]) -> None:
    packed = pack_column(values)
    width, digits = packed["width"], packed["digits"]
    for place, value in enumerate(values):
        text = packed["data"][place * width : (place + 1) * width]
        if value is None:
            assert text == MISSING * width
            assert place not in packed.get("far", {})
            continue
        if place in packed.get("far", {}):
            assert text == MISSING * width
            assert not abs(value) < 1e6
            assert float(packed["far"][place]) == pytest.approx(value, rel=1e-5, nan_ok=True)
            continue
        units = sum(ALPHABET.index(letter) * 64**power for power, letter in enumerate(reversed(text)))
        assert (units + packed["low"]) / 10**digits == float(f"{value:.{digits}f}")
    assert len(packed["data"]) == len(values) * width
    assert width <= 8
    usual = [value for value in values if value is not None and abs(value) < 1]
    assert digits >= 4 or len(usual) < 4


def test_a_packed_curve_keeps_its_ends_and_its_gaps() -> None:
    packed = pack_curve([1.0, None, 2.0, 1.5])
    assert packed is not None
    low, high, data = packed
    assert (low, high) == (1.0, 2.0)
    assert (data[0], data[1], data[2]) == (ALPHABET[0], MISSING, ALPHABET[63])
    assert pack_curve([None, None]) is None


def test_csv_markdown_and_latex_hold_the_numbers_of_the_page(usual: Path) -> None:
    write_report(str(usual))
    board = storage.read_json(usual / "leaderboard.json")
    rows = list(csv.DictReader(io.StringIO((usual / "leaderboard.csv").read_text(encoding="utf-8"))))
    assert len(rows) == sum(len(source["rows"]) for source in board["sources"]) * len(METRICS)
    (found,) = [r for r in rows if (r["source"], r["model"], r["metric"]) == ("lrs2", "beta", "lse_d@crop1")]
    (source,) = [source for source in board["sources"] if source["source"] == "lrs2"]
    (row,) = [row for row in source["rows"] if row["model"] == "beta"]
    cell = row["cells"]["lse_d@crop1"]
    assert [found[name] for name in ("mean", "half_width")] == [cell["text"], cell["half_width_text"]]
    assert int(found["rank"]) == cell["rank"]
    assert {r["note"] for r in rows if r["metric"] == "lpips-alex@face"} == {LPIPS["lpips-alex@face"]}
    printed = CliRunner().invoke(main, ["report", str(usual), "--markdown"])
    assert printed.exit_code == 0, printed.output
    bold = "**" if cell["leads"] else ""
    assert f"{bold}{cell['text']}{bold} ±{cell['half_width_text']} \\#{cell['rank']}" in printed.output
    latex = CliRunner().invoke(main, ["report", str(usual), "--latex"]).output
    assert f"{cell['text']}" in latex
    body = [line for line in latex.splitlines() if line.startswith("beta")]
    assert len(body) == 2
    assert all(line.count("&") == len(METRICS) - len(LPIPS) and line.endswith(r"\\") for line in body)


def test_what_is_printed_stands_in_the_order_of_the_page_and_says_what_the_page_says(tmp_path: Path) -> None:
    names = ["g4g-no-fusion", "other", "g4g"]
    models = [Model(name, "generator", name, fingerprint=name) for name in names]
    models.append(model("taught", marks=(JUDGED,), judged_by_its_teacher=True))
    shots = people(8)
    failed = {("other", shots[0].key): ("timeout", "too slow")}
    metrics = ["sync_score@judge", "psnr@mouth", "fid@face256"]
    write_synthetic_run(
        tmp_path, [GROUND_TRUTH, *models], shots, metrics=metrics, effect=9.0, failed=failed, on_failure="worst"
    )
    board = read_board(str(tmp_path))
    markdown, latex = board_markdown(board), board_latex(board)
    rows = [line.split(" | ")[0].strip("| ") for line in markdown.splitlines() if line.startswith("| ")]
    assert rows == ["model", "ground-truth", "g4g", "other", "g4g-no-fusion", f"taught ({JUDGED})",
                    "model", "g4g (the whole model)",
                    "g4g-no-fusion (with a hard edge instead of deformation fusion)"]  # fmt: skip
    for text in (markdown, latex):
        assert text.count("(worse without it)") == 2
        assert "(not ranked" in text
        assert "split-half floor" in text
        assert "beyond the truth" in text
        assert "fewer than 10 identities" in text
        assert f"Not ranked: {JUDGED}." in text


def test_csv_holds_what_users_wrote_as_text_that_no_spreadsheet_computes(tmp_path: Path) -> None:
    names = ['=HYPERLINK("http://x","y")', "-dashed", "@SUM(1)", "+1-800", "usual"]
    shots = [shot(number, "=1+1") for number in range(6)]
    why = {"lpips-alex@mouth": "\tbroken\rline"}
    models = [GROUND_TRUTH, *map(model, names)]
    write_synthetic_run(tmp_path, models, shots, metrics=FEW_METRICS, unavailable=why)
    board = read_board(str(tmp_path))
    cell = board["sources"][0]["rows"][-1]["cells"]["sync_offset@judge"]
    cell["text"], cell["low_text"] = "-0.4", "-3.2e-7"
    rows = list(csv.DictReader(io.StringIO(board_csv(board), newline="")))
    assert {row["source"] for row in rows} == {"'=1+1"}
    assert {row["model"] for row in rows} == {"ground-truth", "usual", *(f"'{name}" for name in names[:-1])}
    assert {row["note"] for row in rows if row["metric"] == "lpips-alex@mouth"} == {"'\tbroken\rline"}
    (found,) = [row for row in rows if (row["model"], row["metric"]) == ("usual", "sync_offset@judge")]
    assert (found["mean"], found["low"]) == ("-0.4", "-3.2e-7")
    assert all(math.isfinite(float(row["mean"])) for row in rows if row["mean"])


def test_numbers_too_small_for_six_decimals_are_read_in_every_form(tmp_path: Path) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("alpha")], people(8), metrics=["psnr@mouth"])
    summary = storage.read_json(tmp_path / "summary.json")
    summary["tables"]["lrs2"]["rows"]["alpha"]["cells"]["psnr@mouth"] |= {"mean": -3.2e-7, "low": -4e-7, "high": -2e-7}
    storage.write_json(tmp_path / "summary.json", summary)
    board = read_board(str(tmp_path))
    cell = board["sources"][0]["rows"][-1]["cells"]["psnr@mouth"]
    assert (cell["mean"], cell["half_width"], cell["low"]) == (-3.2e-7, 1e-7, -4e-7)
    assert "−3.2e−7 ±1.0e−7" in rendered(tmp_path).row("alpha")[2]
    assert "-3.2\\times 10^{-7} {\\scriptstyle\\pm 1.0\\times 10^{-7}}$" in board_latex(board)
    assert "-3.2e-7 ±1.0e-7" in board_markdown(board)


def test_latex_escapes_what_users_wrote(tmp_path: Path) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("a_b & 50% $x$ #1")], people(2), metrics=FEW_METRICS)
    assert r"a\_b \& 50\% \$x\$ \#1" in board_latex(read_board(str(tmp_path)))


def test_latex_of_a_page_without_a_measured_metric_is_no_table(tmp_path: Path) -> None:
    why = {"lse_d@crop1": "needs weights"}
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("a")], people(2), metrics=["lse_d@crop1"], unavailable=why)
    assert board_latex(read_board(str(tmp_path))) == "% There is no table: nothing was measured."


@pytest.mark.parametrize("name", ["summary.json", "shots.json"])
def test_another_schema_version_is_refused(usual: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(usual, tmp_path / "run"))
    storage.write_json(run / name, storage.read_json(run / name) | {"schema_version": 99})
    with pytest.raises(UsageError, match="schema version 99"):
        write_report(str(run))


def test_a_folder_that_is_no_run_is_refused_in_plain_words(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "summary.json is not there" in done.output


def test_the_command_writes_the_page_and_says_where_it_is(usual: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(usual)])
    assert done.exit_code == 0
    assert str(usual / "report.html") in done.output


def test_the_page_says_how_models_were_trained_and_how_all_is_made_again(tmp_path: Path) -> None:
    public = dataclasses.asdict(Training("the public wav2lip.pth", "ef" * 32))
    full = training(
        size=64, selected=True, sources=("hdtf", "lrs2"), teacher="wav2lip-expert:PATH", met=0, torch="2.15.0",
        off_because={"sync": "no expert was there"}, processor="Some <b>CPU", command=None,
    )  # fmt: skip
    models = [
        GROUND_TRUTH, STILL, model("alpha", training=training()), model("beta", training=training(seed=7)),
        model("gamma", training=full, marks=("gan: off", "sync: off")),
        model("delta", training=training(teacher="wav2lip-expert:PATH", teacher_sha256="9a" * 32)),
        model("wav2lip", training=public), Model("theirs", "external", "theirs", marks=("unguarded",)),
    ]  # fmt: skip
    write_synthetic_run(tmp_path, models, people(8), metrics=FEW_METRICS)
    facts = storage.read_json(tmp_path / "run.json")
    built = "g4g-prep build-shards --lrs2 ROOT --out DATA"
    storage.write_json(tmp_path / "run.json", {**facts, "built_by": built})
    board = read_board(str(tmp_path))

    made = {one["name"]: one["made"] for one in board["models"]}
    assert made["alpha"] == (
        "200 steps of 3 windows of 5 frames, on 39 segments of 24 identities (all samples of train), "
        "1.89 min of footage (hash cdcdcdcdcdcd), seed 0"
    )
    assert made["gamma"] == (
        "200 steps of 3 windows of 5 frames at 64 px, on 39 segments of 24 identities, none of whom are shown here "
        "(some samples of train: hdtf and lrs2), 1.89 min of footage (hash cdcdcdcdcdcd), seed 0, without its gan "
        "loss, without its sync loss (no expert was there), on Some <b>CPU with torch 2.15.0"
    )
    assert made["delta"].endswith(
        "(hash cdcdcdcdcdcd), against the sync expert wav2lip-expert (hash 9a9a9a9a9a9a), seed 0"
    )
    assert made["wav2lip"] == "the public wav2lip.pth"
    assert made["still"] == made["ground-truth"] == "nothing is learned"
    assert made["theirs"] == "nothing is known here"
    same = "the same footage, steps and frames a step; different losses left out"
    assert board["learned_alike"] == f"Trainings of alpha, beta, gamma and delta: {same}."
    page = rendered(tmp_path)
    commands = [built, training()["command"], board["provenance"]["command"], "g4g-eval report RUN"]
    for told in (made["alpha"], made["gamma"], board["learned_alike"], *commands):
        assert told in page.text
    places = [page.text.index(command) for command in commands]
    assert places == sorted(places)
    beta = training()["command"].replace("RUNS/alpha", "RUNS/beta")  # trained as alpha is, under a name of its own
    delta = training()["command"].replace("RUNS/alpha", "RUNS/delta")
    assert board["provenance"]["trainings"] == [training()["command"], beta, delta]


def test_in_what_models_were_not_trained_alike_is_said(tmp_path: Path) -> None:
    for place, (fields, marks, says) in enumerate(
        (
            ({"step": 400}, (), "the same footage, frames a step and losses left out; different steps."),
            ({"footage_sha256": "00" * 32}, ("sync: off",), "different footage and losses left out."),
            ({"clips": 6, "step": 100}, (), "different steps and frames a step."),
        )
    ):
        run = tmp_path / str(place)
        other = model("beta", training=training(**fields), marks=marks)
        models = [GROUND_TRUTH, model("alpha", training=training()), other]
        write_synthetic_run(run, models, people(6), metrics=FEW_METRICS)
        said = read_board(str(run))["learned_alike"]
        assert said.startswith("Trainings of alpha and beta: the same ") and said.endswith(says)
        assert said in rendered(run).text
        assert ("without its sync loss" in read_board(str(run))["models"][2]["made"]) is bool(marks)


def test_the_headline_tells_of_models_before_it_tells_of_controls(tmp_path: Path) -> None:
    shuffled = Model("shuffled", "shuffled", "", fingerprint="shuffled/1")
    models = [GROUND_TRUTH, STILL, shuffled, model("alpha"), model("beta")]
    write_synthetic_run(tmp_path, models, people(12), metrics=FEW_METRICS, effect=6.0)
    asked, among, against, *_ = read_board(str(tmp_path))["headline"]
    assert asked.startswith("alpha and beta redrew")
    assert "still and shuffled stand beside them as controls. Each aspect goes by one headline metric; tests" in asked
    assert among.startswith("beta is significantly ahead of alpha in") and "control" not in among
    assert against.startswith("alpha is significantly ahead of both controls in lip sync")
    assert ". beta is significantly ahead of both controls in lip sync" in against


def test_what_a_model_is_worth_beside_the_controls_is_one_sentence() -> None:
    controls, called = ["still", "shuffled"], {"a": "a", "still": "still (control)", "shuffled": "shuffled (control)"}

    def compared(aspect: str, *better: tuple[str, str]) -> _Comparison:
        tested = frozenset(frozenset(("a", control)) for control in controls)
        return _Comparison(aspect, "lrs2", frozenset({"a", *controls}), frozenset(better), tested)

    won = compared("picture", ("a", "still"), ("a", "shuffled"))
    lost = compared("motion", ("still", "a"), ("shuffled", "a"))
    half = compared("identity", ("shuffled", "a"), ("a", "still"))
    assert _against(["a"], controls, [won, lost, half], called, False) == (
        "a is significantly ahead of both controls in picture; significantly behind both controls in motion; behind "
        "shuffled (control) in identity."
    )
    assert _against(["a"], controls, [half], called, True) == (
        "a is nowhere significantly ahead of both controls; significantly behind shuffled (control) in identity (lrs2)."
    )
    assert _against(["b"], controls, [won], called, False).startswith("No difference between them is claimed")


def test_many_models_are_counted_beside_the_controls(tmp_path: Path) -> None:
    models = [GROUND_TRUTH, STILL, *(model(name) for name in ("alpha", "beta", "gamma"))]
    write_synthetic_run(tmp_path, models, people(12), metrics=FEW_METRICS, effect=6.0)
    against = read_board(str(tmp_path))["headline"][2]
    assert against.startswith("Beside still (control), of these models all are significantly better in lip sync")


def test_what_tells_models_apart_and_what_does_not_is_named() -> None:
    def compared(aspect: str, *better: tuple[str, str]) -> _Comparison:
        names = ("a", "b", "c")
        pairs = frozenset(frozenset((one, other)) for one in names for other in names if one < other)
        return _Comparison(aspect, "lrs2", frozenset(names), frozenset(better), pairs)

    found = [compared("lip sync"), compared("mouth shape", ("a", "b")), compared("picture"), compared("motion")]
    called = {name: name for name in "abc"}
    assert _among(["a", "b"], found, called, False) == (
        "a is significantly ahead of b in mouth shape. They are not told apart in lip sync, picture and motion."
    )
    found[1] = compared("mouth shape", ("a", "b"), ("a", "c"))
    assert _among(["a", "b", "c"], found, called, False) == (
        "a is significantly ahead of every other model in mouth shape. Who is best is open in lip sync, picture and "
        "motion."
    )
    assert _among(["a", "b", "c"], found[2:], called, False) == (
        "No model is significantly ahead of all the others at anything listed below."
    )


def test_who_does_not_speak_is_said_of_what_speech_shows_in() -> None:
    def compared(aspect: str, *better: tuple[str, str]) -> _Comparison:
        tested = frozenset(frozenset((name, "still")) for name in "ab")
        return _Comparison(aspect, "lrs2", frozenset({"a", "b", "still"}), frozenset(better), tested)

    def said(*comparisons: _Comparison, names: str = "ab") -> list[str]:
        return _speechless(list(names), ["still"], comparisons, {"a": "a", "b": "b", "still": "still (control)"})

    (both,) = said(compared("lip sync"), compared("picture", ("a", "still"), ("b", "still")))
    assert both == (
        "In the headline metric of lip sync a and b are nowhere significantly ahead of still (control): no sign here "
        "that they have learnt speech."
    )
    (both,) = said(compared("lip sync"), compared("mouth shape"))
    assert both.startswith("In the headline metrics of lip sync and mouth shape a and b are nowhere")
    assert said(compared("lip sync"), compared("mouth shape", ("a", "still"), ("b", "still"))) == []
    (one,) = said(compared("lip sync", ("a", "still")))
    assert one.startswith("In the headline metric of lip sync b is nowhere")
    assert one.endswith("that it has learnt speech.")
    assert said(compared("lip sync", ("a", "still")), compared("lip sync", ("b", "still"))) == []
    assert said(compared("picture")) == [] == said(compared("lip sync"), names="c")  # nothing was tested


def test_miniatures_are_called_so_before_anything_is_claimed(tmp_path: Path) -> None:
    models = [GROUND_TRUTH, model("alpha", marks=("tiny, changed",)), model("beta", marks=("g4g-256",))]
    write_synthetic_run(tmp_path, models, people(6), metrics=FEW_METRICS)
    board, text = read_board(str(tmp_path)), " ".join(rendered(tmp_path).text.split())
    assert board["miniatures"] == ["alpha"] and "alpha is of a size that learns in minutes" in text
    assert text.index("Miniatures:") < text.index(board["headline"][0])


def test_the_protocol_is_explained(tmp_path: Path) -> None:
    models, free = [GROUND_TRUTH, model("alpha")], ("sync_score@judge",)
    write_synthetic_run(tmp_path / "a", models, people(6), metrics=FEW_METRICS)
    write_synthetic_run(tmp_path / "b", models, people(6), metrics=free, protocol=CROSS)
    assert "and the clip's own speech; nothing of the mouth" in rendered(tmp_path / "a").text
    assert "speech of another person of the same source" in rendered(tmp_path / "b").text
    assert what_is_asked("unheard-of/3") == ""


def test_what_sources_are_is_told_as_far_as_it_was_said(tmp_path: Path) -> None:
    shots = [*people(8), *(shot(100 + i, "mine", f"q{i}") for i in range(3))]
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("a")], shots, metrics=FEW_METRICS, pooled=True)
    facts = storage.read_json(tmp_path / "run.json")
    storage.write_json(tmp_path / "run.json", {**facts, "about": {"mine": "interviews; <i>ours</i>."}})
    about = {source["source"]: source["about"] for source in read_board(str(tmp_path))["sources"]}
    assert about == {
        "all sources": "all others together: 8 of its 11 shots are lrs2's", "mine": "interviews; <i>ours</i>.",
        "lrs2": "whoever built the data set did not say",
    }  # fmt: skip
    text = rendered(tmp_path).text
    assert "Interviews; <i>ours</i>. 3 shots of 3 identities" in text and text.count("did not say") == 2


def test_sources_that_allow_no_test_are_named_once(tmp_path: Path) -> None:
    shots = [*people(8), *(shot(100 + i, "hdtf", f"q{i}") for i in range(2))]
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("alpha"), model("beta")], shots, metrics=FEW_METRICS)
    assert [source["untested"] for source in read_board(str(tmp_path))["sources"]] == [True, False]
    text = rendered(tmp_path).text
    assert "No column for hdtf: under 6 identities there is no test." in text and "too few for a test" not in text


def test_what_was_evaluated_is_told_with_its_splits_and_its_choice(tmp_path: Path) -> None:
    settings = {"selection": "/home/me/keys.parquet"}
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("alpha")], people(6), metrics=FEW_METRICS, settings=settings)
    assert "shots of the split test that a file of keys names" in rendered(tmp_path).text
    summary, facts = (storage.read_json(tmp_path / name) for name in ("summary.json", "run.json"))
    storage.write_json(tmp_path / "summary.json", {**summary, "split": "train,test"})
    storage.write_json(tmp_path / "run.json", {**facts, "leaks": 0, "selected_by": "g4g-prep select DATA --where <x>"})
    page = rendered(tmp_path).text
    assert "shots of the splits train, test that g4g-prep select DATA --where <x> chooses" in page
    assert "train, test; selected shots" in page
    assert "share no person" not in page  # with all splits shown, that says nothing of who was learned from


def test_losses_to_controls_and_models_without_a_rank_are_counted_too() -> None:
    comparison = _Comparison(
        "lip sync", "lrs2", frozenset({"still", "a", "b"}), frozenset({("a", "still"), ("b", "still"), ("a", "b")}),
        frozenset({frozenset(("a", "still")), frozenset(("b", "still"))}),
    )  # fmt: skip
    worse = dataclasses.replace(comparison, aspect="motion", better=frozenset({("still", "a"), ("b", "still")}))
    called = {"still": "still (control)", "a": "a", "b": "b", "c": "c"}
    said = _against_counted(["a", "b", "c"], ["still"], [comparison, worse], called, False)
    assert said == (
        "Beside still (control), of these models all that are ranked are significantly better in lip sync; "
        "1 of 2 that are ranked is significantly better in motion. "
        "Of them, 1 of 2 that are ranked is significantly worse than a control in motion."
    )


def test_the_page_says_what_to_install_and_what_numbers_were_computed_on(tmp_path: Path) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("alpha")], people(6), metrics=FEW_METRICS)
    facts = storage.read_json(tmp_path / "run.json")
    packages = {"g4g": "0.1.0", "torch": "2.15.0+cpu", "pytorch-fid": None, "numpy": "2.4.6"}
    machine = {"python": "3.11.7", "packages": packages, "processor": "Some CPU", "gpu": "Some GPU"}
    for commit, checkout, says in (
        ("ab" * 20, f" && git checkout {'ab' * 20}", ""),
        ("ab" * 20 + "-dirty", f" && git checkout {'ab' * 20}", "The checkout held changes that are in no commit."),
        (None, "", "g4g 0.1.0 is all that is known of it."),
    ):
        storage.write_json(tmp_path / "run.json", {**facts, "environment": {**machine, "git_commit": commit}})
        told = read_board(str(tmp_path))["provenance"]
        assert told["install"] == [
            f"git clone REPOSITORY g4g && cd g4g{checkout}", "python3.11 -m venv .venv && . .venv/bin/activate",
            "pip install . numpy==2.4.6 torch==2.15.0",
        ]  # fmt: skip
        page = rendered(tmp_path).text
        assert all(text in page for text in (*told["install"], "Some CPU, networks on Some GPU", says))
        assert "pytorch-fid" not in page


def test_code_of_unknown_origin_is_called_so(tmp_path: Path) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("alpha")], people(6), metrics=FEW_METRICS)
    facts = storage.read_json(tmp_path / "run.json")
    machine = {"python": "3.11.7", "packages": {"g4g": None, "numpy": "2.4.6"}, "git_commit": None}
    storage.write_json(tmp_path / "run.json", {**facts, "environment": machine})
    assert "The code was no checkout of git: nothing is known of it." in " ".join(rendered(tmp_path).text.split())


def test_syncnets_package_is_installed_where_it_measured_and_headless_opencv_after_it(tmp_path: Path) -> None:
    packages = {"syncnet-python": "0.2.3", "opencv-python-headless": "5.0.0.93"}
    machine = {"python": "3.11.7", "git_commit": None, "packages": packages}
    first = ["git clone REPOSITORY g4g && cd g4g", "python3.11 -m venv .venv && . .venv/bin/activate"]
    for place, (unavailable, installs) in enumerate((
        ({"lse_d@crop1": "needs weights"}, ["pip install . opencv-python-headless==5.0.0.93"]),
        ({}, ["pip install . opencv-python-headless==5.0.0.93 syncnet-python==0.2.3",
              "pip install --force-reinstall --no-deps opencv-python-headless==5.0.0.93"]),
    )):  # fmt: skip
        run, metrics = tmp_path / str(place), ("psnr@mouth", "lse_d@crop1")
        write_synthetic_run(run, [GROUND_TRUTH, model("a")], people(6), metrics=metrics, unavailable=unavailable)
        facts = storage.read_json(run / "run.json")
        storage.write_json(run / "run.json", {**facts, "environment": machine})
        assert read_board(str(run))["provenance"]["install"] == first + installs


def test_files_of_keys_are_made_by_commands_where_they_say_how(tmp_path: Path) -> None:
    def trained(name: str, condition: str | None) -> Model:
        own = f"g4g-model train --model {name} --shards DATA --selection TRAIN_KEYS --out RUNS/{name}"
        made = [] if condition is None else [f"g4g-prep select DATA --where '{condition}' --out TRAIN_KEYS"]
        return model(name, training=training(command="\n".join([*made, own])))

    settings = {"selection": "/home/me/keys.parquet"}
    models = [GROUND_TRUTH, trained("one", "yaw < 9"), trained("two", "yaw > 9"), trained("three", "yaw < 9")]
    write_synthetic_run(tmp_path, models, people(6), metrics=FEW_METRICS, settings=settings)
    told = read_board(str(tmp_path))["provenance"]
    assert [(line.split()[1], line.split()[-1]) for line in told["trainings"]] == [
        ("select", "TRAIN_KEYS"), ("train", "RUNS/one"), ("select", "TRAIN_KEYS-2"), ("train", "RUNS/two"),
        ("train", "RUNS/three"),
    ]  # fmt: skip
    asked = [line.split("--selection ")[1].split()[0] for line in told["trainings"] if "--selection" in line]
    assert asked == ["TRAIN_KEYS", "TRAIN_KEYS-2", "TRAIN_KEYS"]
    assert told["unmade"] == ["TEST_KEYS"]
    assert "TEST_KEYS comes from whoever made this page" in rendered(tmp_path).text

    facts = storage.read_json(tmp_path / "run.json")
    selected = "g4g-prep select DATA --where 'role == \"test\"'"
    storage.write_json(tmp_path / "run.json", {**facts, "selected_by": selected})
    told = read_board(str(tmp_path))["provenance"]
    assert told["unmade"] == [] and told["command"].startswith(f"{selected} --out TEST_KEYS\ng4g-eval run ")
    assert f"{selected} --out TEST_KEYS" in rendered(tmp_path).text

    strange = trained("odd", "text == a\u2028b\x85")  # characters that end lines, though not of commands
    write_synthetic_run(tmp_path / "c", [GROUND_TRUTH, strange], people(6), metrics=FEW_METRICS)
    assert len(read_board(str(tmp_path / "c"))["provenance"]["trainings"]) == 2

    early = strange.training | {"command": "\n".join([
        "g4g-model train --model expert --selection TRAIN_KEYS --out RUNS/expert",
        "g4g-prep select DATA --where 'yaw < 9' --out TRAIN_KEYS",
        "g4g-model train --model odd --selection TRAIN_KEYS --set expert=RUNS/expert --out RUNS/odd",
    ])}  # fmt: skip
    models = [GROUND_TRUTH, dataclasses.replace(strange, training=early)]
    write_synthetic_run(tmp_path / "d", models, people(6), metrics=FEW_METRICS)
    told = read_board(str(tmp_path / "d"))["provenance"]  # the expert's file, of whoever has it, is not the pupil's
    assert told["unmade"] == ["TRAIN_KEYS"] and "--selection TRAIN_KEYS " in told["trainings"][0]
    assert told["trainings"][1].endswith("TRAIN_KEYS-2") and "--selection TRAIN_KEYS-2 " in told["trainings"][2]

    unknown = [GROUND_TRUTH, trained("one", "yaw < 9"), trained("theirs", None)]
    write_synthetic_run(tmp_path / "b", unknown, people(6), metrics=FEW_METRICS)
    told = read_board(str(tmp_path / "b"))["provenance"]
    assert told["unmade"] == ["TRAIN_KEYS"]
    assert "--selection TRAIN_KEYS-2" in told["trainings"][1] and "--selection TRAIN_KEYS " in told["trainings"][2]


def test_whether_the_judge_has_learned_from_what_it_judges_is_said(tmp_path: Path) -> None:
    known = next(iter(learned_clips()))
    unmet, by_role, by_file = (shot(number, "lrs2") for number in range(3))
    by_role = dataclasses.replace(by_role, about={**by_role.about, "role": "sync-b"})
    by_file = dataclasses.replace(by_file, about={**by_file.about, "content_sha256": known})
    assert [has_met(one) for one in (unmet, by_role, by_file)] == [False, True, True]
    assert len(learned_clips()) == 37 and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in learned_clips())

    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("alpha")], people(6), metrics=FEW_METRICS)
    facts = storage.read_json(tmp_path / "run.json")
    for met, says in ((0, "it learned from none of these clips"), (3, "The judge knows 3 of these shots: it learned")):
        storage.write_json(tmp_path / "run.json", {**facts, "judge_met": met})
        assert says in " ".join(rendered(tmp_path).text.split())
    storage.write_json(tmp_path / "run.json", facts)
    assert "learned from none of these" not in rendered(tmp_path).text


def test_whether_splits_share_people_is_said(tmp_path: Path) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, model("alpha")], people(6), metrics=FEW_METRICS)
    facts = storage.read_json(tmp_path / "run.json")
    for leaks, says in ((0, "share no person and no video"), (2, "2 people or videos stand in more than one split")):
        storage.write_json(tmp_path / "run.json", {**facts, "leaks": leaks})
        assert says in rendered(tmp_path).text
    storage.write_json(tmp_path / "run.json", facts)
    assert "share no person" not in rendered(tmp_path).text


def test_experts_that_differ_are_trained_into_folders_of_their_own(tmp_path: Path) -> None:
    def pupil(name: str, seed: int) -> Model:
        expert = f"g4g-model train --model wav2lip-expert --shards DATA --seed {seed} --out RUNS/wav2lip-expert"
        own = "g4g-model train --model wav2lip --shards DATA --set expert=RUNS/wav2lip-expert --out RUNS/wav2lip"
        return model(name, training=training(command=f"{expert}\n{own}"))

    models = [GROUND_TRUTH, pupil("one", 0), pupil("two", 1), pupil("three", 0)]
    write_synthetic_run(tmp_path, models, people(6), metrics=FEW_METRICS)
    lines = [shlex.split(line) for line in read_board(str(tmp_path))["provenance"]["trainings"]]
    places = [line[-1] for line in lines]
    assert places == ["RUNS/wav2lip-expert", "RUNS/one", "RUNS/wav2lip-expert-2", "RUNS/two", "RUNS/three"]
    taught = {line[-1]: line[line.index("--set") + 1] for line in lines if "--set" in line}
    first, second = "expert=RUNS/wav2lip-expert", "expert=RUNS/wav2lip-expert-2"
    assert taught == {"RUNS/one": first, "RUNS/two": second, "RUNS/three": first}
