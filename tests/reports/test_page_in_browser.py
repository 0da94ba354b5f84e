from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Scheme, axe_source, chromium, visit
from playable_run import ALPHA, frame_of, store, write_playable_run
from synthetic_run import GROUND_TRUTH, LPIPS, model, shot, study_results, write_synthetic_run

from evaluation.models import Model
from evaluation.protocols import PAIRS
from evaluation.tables import number
from g4g_core import storage
from reports.leaderboard import write_page, write_report
from reports.media import Choice
from reports.opinions import STUDY

EVIL = "<img src=x onerror=alert(1)>"
EVIL_TEXT = "</script><script>alert(2)</script><svg onload=alert(3)>"
KEY = "toy-d_00-000"
STILL = Model("still", "generator", "still", fingerprint="still/1")
VARIANTS = [Model(name, "generator", name, fingerprint=name) for name in ("g4g", "g4g-no-intra", "g4g-no-inter")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources, ten identities and seven, six models with marks and variants, a failure, columns without weights."""
    out = tmp_path_factory.mktemp("runs") / "usual"
    shots = [*(shot(number) for number in range(12)), *(shot(100 + i, "hdtf", f"q{i}") for i in range(7))]
    taught = model("taught", marks=("trained against the judge",), judged_by_its_teacher=True)
    models = [GROUND_TRUTH, STILL, taught, *VARIANTS, model("last", marks=("perception: off", "unguarded"))]
    failed = {("last", shots[2].key): ("timeout", "600 s were not enough")}
    write_synthetic_run(out, models, shots, failed=failed, unavailable=LPIPS, effect=0.8)
    return out


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    return Path(write_report(str(run)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of everything that a page can hold but videos, once."""
    out = tmp_path_factory.mktemp("runs") / "small"
    shots = [shot(number) for number in range(8)]
    taught = model("taught", marks=("trained against the judge", "unguarded"), judged_by_its_teacher=True)
    metrics = ["lse_d@crop1", "m-lmd@20", "psnr@mouth", "sync_offset@judge", "sync_score@judge", "lpips-alex@mouth"]
    models, failed = [GROUND_TRUTH, taught, *VARIANTS], {("taught", shots[1].key): ("timeout", "too slow")}
    why = {"lpips-alex@mouth": LPIPS["lpips-alex@mouth"]}
    write_synthetic_run(out, models, shots, metrics=metrics, failed=failed, unavailable=why, effect=2.0)
    storage.write_json(out / STUDY, study_results([one.name for one in models], out))
    return Path(write_report(str(out)))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_playable_run(tmp_path_factory.mktemp("playable"))
    return Path(write_page(str(run), Choice("embed"))[0])


def until(page: Any, condition: str) -> None:
    """Wait for a condition; Playwright's own way would need a policy that lets a page evaluate strings."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    pytest.fail(f"in vain: {condition}")


def titled(clip: str) -> str:
    """Whether the dialog shows this clip: links are followed a moment after they are clicked."""
    return f"document.querySelector('dialog').open && document.querySelector('#clip-title').textContent === '{clip}'"


def open_all(page: Any) -> None:
    page.evaluate("for (const fold of document.querySelectorAll('main details')) fold.open = true")
    page.wait_for_timeout(100)


# ---------------------------------------------------------------- nothing from outside, nothing broken


def test_the_page_asks_the_network_for_nothing_and_logs_no_error(browser: Any, page: Path) -> None:
    with visit(browser, page) as seen:
        open_all(seen.page)
        seen.page.locator("#clip-rows a").first.click()
        until(seen.page, "document.querySelector('dialog').open")
        assert seen.requests == [page.as_uri()]


@pytest.mark.parametrize("kind", ["embed", "folder"])
def test_media_are_read_from_the_page_or_from_the_folder_beside_it(browser: Any, tmp_path: Path, kind: Any) -> None:
    page = Path(write_page(str(write_playable_run(tmp_path)), Choice(kind))[0])
    with visit(browser, page, fragment=f"#clip={KEY}") as seen:
        until(seen.page, "document.querySelector('.where')?.textContent.startsWith('frame 1 of 40')")
        until(seen.page, "document.querySelector('.mel').naturalWidth > 0")
        beside = [url for url in seen.requests if not url.startswith("data:")]
        assert all(url.startswith(page.parent.as_uri()) for url in beside)
        assert (len(beside) > 1) == (kind == "folder")


def test_text_of_users_runs_nothing_and_shows_as_text(browser: Any, tmp_path: Path) -> None:
    shots = [shot(number, "lrs2", f"{EVIL}{number}") for number in range(7)]
    failed = {(EVIL, shots[0].key): ("model_failed", EVIL_TEXT)}
    models = [GROUND_TRUTH, model(EVIL, marks=(EVIL,)), model("beta")]
    write_synthetic_run(tmp_path, models, shots, failed=failed, unavailable={"lpips-alex@mouth": EVIL_TEXT})
    with visit(browser, Path(write_report(str(tmp_path)))) as seen:
        open_all(seen.page)
        assert EVIL in seen.page.locator("table.board").inner_text()
        assert EVIL_TEXT in seen.page.locator("#clip-rows").inner_text()
        seen.page.locator("#clip-rows a").first.click()
        until(seen.page, "document.querySelector('dialog').open")
        assert EVIL_TEXT in seen.page.locator("dialog").inner_text()
        seen.page.locator("#clip-close").click()
        seen.page.locator(".export button").first.click()
        assert seen.page.locator("img, svg[onload]").count() == 0


# ---------------------------------------------------------------- tables


SORTED = """() => {
  const table = document.querySelector("table.board"), found = [];
  [...table.querySelectorAll("thead tr:last-child th")].forEach((head, place) => {
    const button = head.querySelector("button.sort");
    if (!button) return;
    for (const worst of [false, true]) {
      if (worst || !head.hasAttribute("aria-sort")) button.click();
      const metric = document.querySelector(`#${button.dataset.def} code`).textContent;
      found.push([metric, worst, head.getAttribute("aria-sort"),
        [...table.querySelectorAll("tbody.ranked tr")].map((row) => {
          const { tier, value } = row.cells[place].dataset;
          return [Number(tier), tier === "2" ? null : Number(value), row.cells[0].firstChild.textContent.trim()];
        })]);
    }
  });
  return found;
}"""


def test_every_metric_sorts_best_first_in_its_own_direction_and_worst_first_at_the_second_click(
    browser: Any, run: Path, page: Path
) -> None:
    metrics = storage.read_json(run / "summary.json")["metrics"]
    with visit(browser, page) as seen:
        found = seen.page.evaluate(SORTED)
        assert seen.page.locator("table.board tbody").first.get_attribute("class") == "truth"
    assert len(found) == 2 * sum(about["unavailable"] is None for about in metrics.values())
    for metric, worst, told, rows in found:
        higher = metrics[metric]["better"] == "higher"
        values = [value for tier, value, _ in rows if tier == 0]
        assert len(values) >= 5
        assert values == sorted(values, reverse=higher != worst), metric
        assert [tier for tier, _, _ in rows] == sorted(tier for tier, _, _ in rows), metric
        assert told == ("descending" if higher != worst else "ascending")
        assert (rows[-1][2] == "taught") or not metrics[metric]["by_judge"]


PRINTED = """() => [...document.querySelectorAll("table.board")].map((table) => {
  const heads = [...table.querySelectorAll("thead tr:last-child th")].map((head) =>
    document.querySelector(`#${head.querySelector("[data-def]")?.dataset.def ?? "none"} code`)?.textContent);
  return [...table.tBodies].flatMap((body) => [...body.rows]).flatMap((row) => heads.flatMap((metric, place) => {
    const number = metric && row.cells[place].querySelector(".num");
    const half = metric && row.cells[place].querySelector("[data-half]");
    const name = row.cells[0].firstChild.textContent.trim();
    return number ? [[name, metric, number.textContent, half?.textContent ?? null]] : [];
  }));
})"""


def test_the_numbers_that_are_read_are_those_of_the_summary_with_the_digits_of_their_interval(
    browser: Any, run: Path, page: Path
) -> None:
    tables = storage.read_json(run / "summary.json")["tables"]
    with visit(browser, page) as seen:
        printed = seen.page.evaluate(PRINTED)
    compared = 0
    for table, cells in zip(tables.values(), printed, strict=True):
        for name, metric, text, half in cells:
            raw = table["rows"][name]["cells"][metric]
            low, high = raw.get("low"), raw.get("high")
            assert text == number(raw["mean"], low, high).replace("-", "−")
            if half is not None:
                assert half == "±" + number((high - low) / 2, low, high).replace("-", "−")
                assert len(text.partition(".")[2]) == len(half.partition(".")[2])
            compared += 1
        known = [c for row in table["rows"].values() for c in row["cells"].values() if c["mean"] is not None]
        assert len(cells) == len(known)
    assert compared > 200


def test_groups_of_columns_can_be_shown_alone_and_the_table_taken_away_as_it_stands(browser: Any, page: Path) -> None:
    with visit(browser, page) as seen:
        section = seen.page.locator("section").first
        section.get_by_role("button", name="Picture").click()
        heads = section.locator("table.board thead tr:last-child th:visible").all_inner_texts()
        assert not any("LSE" in head for head in heads)
        section.get_by_role("button", name="PSNR mouth").click()
        order = section.locator("tbody.ranked th").evaluate_all(
            "(rows) => rows.map((r) => r.firstChild.textContent.trim())"
        )
        export = section.locator(".export").first
        export.get_by_role("button", name="As Markdown").click()
        lines = export.locator("textarea").input_value().splitlines()
        assert [line.split("|")[1].split("(")[0].strip() for line in lines[4:]] == ["ground-truth", *order]
        shown = [head for head in heads if "not measured" not in head]
        assert all(line.replace("\\|", "").count("|") == len(shown) + 1 for line in lines[2:])
        export.get_by_role("button", name="As LaTeX").click()
        latex = export.locator("textarea").input_value()
        assert latex.count("{") == latex.count("}")
        body = [line for line in latex.splitlines() if line.endswith(r"\\")]
        assert {line.count("&") for line in body} == {len(shown) - 1}
        assert "\\textbf{" in latex or "#1" not in latex


def exported(seen: Any, export: Any, form: str) -> str:
    export.get_by_role("button", name=f"As {form}").click()
    return str(export.locator("textarea").input_value())


def test_what_is_exported_says_of_every_number_what_the_page_says(browser: Any, page: Path) -> None:
    with visit(browser, page) as seen:
        section = seen.page.locator("section").nth(1)
        markdown = exported(seen, section.locator(".export").first, "Markdown")
        rows = {line.split("|")[1].split("(")[0].strip(): line for line in markdown.splitlines()[4:]}
        assert "(split-half floor" in rows["ground-truth"]
        assert "(not ranked" in rows["taught"]
        assert "(1 failed)" in rows["last"]
        assert "fewer than 10 identities" not in markdown
        table = list(csv.DictReader(io.StringIO(exported(seen, section.locator(".export").first, "CSV"))))
        (taught,) = (row for row in table if row["Model"] == "taught")
        names = [" ".join(row.split())[:6] for row in section.locator("table.board tbody th").all_inner_texts()]
        row = section.locator("table.board tbody tr").nth(names.index("taught"))
        shown = row.locator("td", has_text="not ranked").first.locator(".num").inner_text()
        judged = next(name for name in taught if name.startswith("Sync (judge)"))
        assert taught["Model note"] == "trained against the judge"
        assert "not ranked" in taught[f"{judged} note"]
        assert taught[f"{judged} rank"] == ""
        assert taught[judged] == shown.replace("−", "-")


def test_the_ablation_is_exported_with_its_changes_and_verdicts(browser: Any, page: Path) -> None:
    with visit(browser, page) as seen:
        section = seen.page.locator("section").first
        shown = section.locator("table.ablation tbody tr").nth(1).locator("td").first.inner_text().split()
        for form in ("Markdown", "CSV", "LaTeX"):
            text = exported(seen, section.locator(".export").nth(1), form)
            assert "g4g-no-intra" in text
            assert "without the alignment of pictures with sketches" in text
            assert shown[0] in text
            assert shown[1].replace("−", {"CSV": "-", "LaTeX": "$-$"}.get(form, "−")) in text
            assert shown[-2] in text


def test_clips_are_exported_as_they_are_filtered_and_ordered(browser: Any, page: Path) -> None:
    with visit(browser, page) as seen:
        seen.page.locator("#f-text").fill("clip00")
        seen.page.locator("#f-model").select_option(label="last")
        seen.page.locator("#f-order").select_option("worst psnr@mouth")
        rows = list(csv.DictReader(io.StringIO(exported(seen, seen.page.locator(".export").last, "CSV"))))
        assert [row["Clip"] for row in rows] == seen.texts("#clip-rows th a")
        assert {row["Model"] for row in rows} == {"last"}
        scores = [float(row["PSNR mouth dB ↑"]) for row in rows if row["PSNR mouth dB ↑"]]
        assert len(scores) == len(rows) - 1 == 11
        assert scores == sorted(scores)
        assert [row["Error"] for row in rows if row["Error"]] == ["timeout: 600 s were not enough"]
        markdown = exported(seen, seen.page.locator(".export").last, "Markdown")
        assert "12 of " in markdown.splitlines()[0]
        assert "model: last; order: worst PSNR mouth first" in markdown.splitlines()[0]


def test_text_that_a_spreadsheet_would_compute_is_exported_as_text(browser: Any, tmp_path: Path) -> None:
    names = ["=1+1", "-dashed", "@SUM(1)", "usual"]
    shots = [shot(number, identity=f"+{number}\rq") for number in range(6)]
    models = [GROUND_TRUTH, *map(model, names)]
    write_synthetic_run(tmp_path, models, shots, metrics=["sync_offset@judge"])
    with visit(browser, Path(write_report(str(tmp_path)))) as seen:
        board = exported(seen, seen.page.locator(".export").first, "CSV")
        clips = exported(seen, seen.page.locator(".export").last, "CSV")
        offsets = seen.texts("#clip-rows td.n:last-child")
    written = {"'=1+1", "'-dashed", "'@SUM(1)", "usual"}
    assert {row["Model"] for row in csv.DictReader(io.StringIO(board))} == {"ground-truth", *written}
    rows = list(csv.DictReader(io.StringIO(clips)))
    assert {row["Model"] for row in rows} == written
    assert {" ".join(row["Identity"].split()) for row in rows} == {f"'+{number} q" for number in range(6)}
    numbers = [row["Offset (judge) frames → 0"] for row in rows]
    assert numbers == [text.replace("−", "-") for text in offsets]
    assert any(float(number) < 0 for number in numbers)


# ---------------------------------------------------------------- clips


def test_pairs_of_one_video_are_told_apart_in_links_names_search_and_export(browser: Any, tmp_path: Path) -> None:
    video = shot(0, "pairs")
    shots = [dataclasses.replace(video, key=f"{number:05d}-{video.key}") for number in (1, 2)]
    write_synthetic_run(tmp_path, [model("alpha")], shots, metrics=["sync_score@judge"], protocol=PAIRS)
    page = Path(write_report(str(tmp_path)))
    with visit(browser, page, fragment=f"#clip={shots[1].key}") as seen:
        until(seen.page, titled("pair 2: clip0000"))
        seen.page.keyboard.press("Escape")
        scores = seen.texts("#clip-rows td.n:last-child")
        assert len(set(scores)) == 2
        for place, name in enumerate(("pair 1: clip0000", "pair 2: clip0000")):
            seen.page.locator("#clip-rows a").nth(place).click()
            until(seen.page, titled(name))
            assert seen.texts("dialog .numbers td") == [scores[place]]
            seen.page.keyboard.press("Escape")
        rows = list(csv.DictReader(io.StringIO(exported(seen, seen.page.locator(".export").last, "CSV"))))
        assert [(row["Pair"], row["Clip"]) for row in rows] == [("1", "clip0000"), ("2", "clip0000")]
        seen.page.locator("#f-text").fill("pair 2")
        assert seen.texts("#clip-rows a") == ["pair 2: clip0000"]


def test_clips_are_filtered_by_words_model_and_source(browser: Any, page: Path) -> None:
    with visit(browser, page) as seen:
        count = seen.page.locator("#count")
        everything = int(count.inner_text().split(" of ")[0])
        seen.page.locator("#f-text").fill("clip0003")
        assert count.inner_text().startswith("6 of")
        seen.page.locator("#f-model").select_option(label="taught")
        assert seen.texts("#clip-rows .who:not(.id)") == ["taught"]
        seen.page.locator("#f-text").fill("600 not enough")
        seen.page.locator("#f-model").select_option(label="all but the ground truth")
        assert seen.texts("#clip-rows .error") == ["failed: timeout: 600 s were not enough"]
        seen.page.locator("#f-text").fill("")
        seen.page.locator("#f-source").select_option("hdtf")
        assert int(count.inner_text().split(" of ")[0]) == 7 * 6 < everything
        seen.page.locator("#f-text").fill("no such clip")
        assert count.inner_text().startswith("0 of")


def test_who_comes_back_to_the_page_finds_the_rows_that_its_filters_name(browser: Any, page: Path) -> None:
    with visit(browser, page) as seen:
        count, chosen = seen.page.locator("#count"), seen.page.locator("#f-model option:checked")
        everything = (count.inner_text(), chosen.inner_text())
        seen.page.locator("#f-model").select_option(label="taught")
        taught = (count.inner_text(), chosen.inner_text())
        assert taught[0] != everything[0]
        seen.page.goto("about:blank")
        seen.page.go_back()
        assert (count.inner_text(), chosen.inner_text()) in (everything, taught)


def test_on_paper_every_measured_metric_stands_in_a_table_that_fits(browser: Any, page: Path) -> None:
    paper = 718  # px: A4 between the margins that browsers leave
    with visit(browser, page, width=paper) as seen:
        tables = seen.page.locator("section").first.locator("table.board")
        heads = "thead tr:last-child th[class*='g-']"
        measured = tables.locator(f"{heads}:not(.off)").all_inner_texts()
        rows = tables.locator("tbody tr").count()
        seen.page.emulate_media(media="print")
        seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        printed = [table for table in tables.all() if table.is_visible()]
        assert len(printed) == math.ceil(len(measured) / 4) > 2
        for table in printed:
            assert table.locator("tbody tr").count() == rows
            assert table.evaluate("(one) => one.getBoundingClientRect().right") <= paper
            spans = "(one) => [...one.tHead.rows].map((row) => [...row.cells].reduce((n, cell) => n + cell.colSpan, 0))"
            assert table.evaluate(spans) == [table.locator(heads).count() + 2] * 2
        shown = [text for table in printed for text in table.locator(heads).all_inner_texts()]
        assert [text.split() for text in shown] == [text.split() for text in measured]
        seen.page.evaluate("dispatchEvent(new Event('afterprint'))")
        seen.page.emulate_media(media="screen")
        assert tables.count() == 1 and tables.first.is_visible()


def test_paper_is_light_whatever_the_screen_is(browser: Any, small: Path) -> None:
    colour = "getComputedStyle(document.body).color"
    with visit(browser, small) as seen:
        light = seen.page.evaluate(colour)
    with visit(browser, small, scheme="dark") as seen:
        button = seen.page.get_by_role("button", name="theme")
        for clicks in (0, 1, 1):  # as the system has it, then light and dark by choice
            for _ in range(clicks):
                button.click()
            seen.page.emulate_media(media="print", color_scheme="dark")
            assert seen.page.evaluate(colour) == light
            seen.page.emulate_media(media="screen", color_scheme="dark")
        assert seen.page.evaluate(colour) != light


def test_a_link_opens_a_clip_and_closing_leaves_the_page(browser: Any, page: Path) -> None:
    with visit(browser, page, fragment="#clip=lrs2-clip0002-000") as seen:
        dialog = seen.page.locator("dialog")
        until(seen.page, titled("clip0002"))
        assert "last failed: timeout: 600 s were not enough" in dialog.inner_text()
        assert "footage of hdtf, lrs2 may not be passed on" in dialog.inner_text()
        seen.page.locator("#clip-next").click()
        until(seen.page, titled("clip0003"))
        assert seen.page.evaluate("location.hash") == "#clip=lrs2-clip0003-000"
        seen.page.go_back()
        until(seen.page, titled("clip0002"))
        seen.page.locator("#clip-close").click()
        assert not dialog.is_visible()
        assert seen.page.evaluate("location.hash") == ""
    with visit(browser, page, fragment="#clip=nobody-knows-000") as seen:
        assert "This run has no clip nobody-knows-000" in seen.page.locator("dialog").inner_text()


@pytest.mark.parametrize("fragment", ["#clip=%", "#clip=100%25%zz", "#clip=", "#clip=%3Cimg%20src%3Dx%3E"])
def test_a_link_that_names_no_clip_says_so_and_breaks_nothing(browser: Any, page: Path, fragment: str) -> None:
    with visit(browser, page, fragment=fragment) as seen:
        assert "This run has no clip" in seen.page.locator("dialog").inner_text()
        seen.page.locator("#clip-close").click()
        seen.page.locator("#clip-rows a").first.click()
        until(seen.page, titled("clip0100"))


def test_playing_that_is_broken_off_or_refused_logs_no_error(browser: Any, played: Path) -> None:
    with visit(browser, played, fragment=f"#clip={KEY}") as seen:
        stands_at(seen.page, 0)
        for _ in range(4):
            seen.page.evaluate("""() => {
              const video = document.querySelector("video"), keys = document.querySelector("dialog");
              video.load();
              for (const key of ["k", "k", "k", "n"]) keys.dispatchEvent(new KeyboardEvent("keydown", { key }));
            }""")
            seen.page.wait_for_timeout(60)
        seen.page.evaluate("""() => {
          HTMLMediaElement.prototype.play = () => Promise.reject(new DOMException("not now", "NotAllowedError"));
        }""")
        until(seen.page, "document.querySelector('.where').textContent.startsWith('frame 1 of')")
        seen.page.get_by_role("button", name="Play").click()
        until(seen.page, "document.querySelector('.where').textContent === 'This browser does not play: not now'")


GREYS = """() => [...document.querySelectorAll(".views canvas")].slice(2).map((canvas) => {
  const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return copy.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[1];
})"""


def shown_frames(page: Any) -> list[int]:
    """The frame that each model's view shows, read from its pixels."""
    return [frame_of(grey) for grey in page.evaluate(GREYS)]


def stands_at(page: Any, frame: int) -> None:
    until(page, f"document.querySelector('.where')?.textContent.startsWith('frame {frame + 1} of')")
    assert shown_frames(page) == [frame, frame]


def test_all_views_step_frame_by_frame_together(browser: Any, played: Path) -> None:
    with visit(browser, played, fragment=f"#clip={KEY}") as seen:
        stands_at(seen.page, 0)
        for frame in (1, 2, 3, 4, 5, 6):
            seen.page.get_by_role("button", name="One frame on").click()
            stands_at(seen.page, frame)
        seen.page.keyboard.press("ArrowLeft")
        stands_at(seen.page, 5)
        seen.page.keyboard.press("End")
        stands_at(seen.page, 39)
        seen.page.keyboard.press("ArrowRight")
        stands_at(seen.page, 39)
        for frame in (31, 0, 17):
            seen.page.locator(".controls input[type=range]").fill(str(frame))
            stands_at(seen.page, frame)
        cursors = seen.page.locator(".cursor").evaluate_all("(all) => all.map((one) => parseFloat(one.style.left))")
        assert len(cursors) == 2
        assert all(cursor == pytest.approx(100 * 17.5 / 40) for cursor in cursors)
        seen.page.locator(".track").first.click(position={"x": 3, "y": 20})
        stands_at(seen.page, 0)


def test_while_it_plays_all_views_show_the_same_frame(browser: Any, played: Path) -> None:
    with visit(browser, played, fragment=f"#clip={KEY}") as seen:
        stands_at(seen.page, 0)
        seen.page.keyboard.press("k")
        met = set()
        for _ in range(12):
            seen.page.wait_for_timeout(60)
            frames = shown_frames(seen.page)
            assert max(frames) - min(frames) <= 1
            met.add(frames[0])
        seen.page.keyboard.press("k")
        assert len(met) > 3
        assert seen.page.get_by_role("button", name="Play").is_visible()


def test_the_difference_is_black_where_a_model_gives_the_truth_and_bright_where_not(
    browser: Any, tmp_path: Path
) -> None:
    import numpy as np

    from evaluation.shots import ShotReader, shots_of
    from prep.shards.index import Dataset

    run = write_playable_run(tmp_path)
    (found,) = [one for one in shots_of(Dataset.open(str(tmp_path / "shards")), "test") if one.key == KEY]
    with ShotReader(str(tmp_path / "shards"), found) as reader:
        truth = reader.pictures(np.arange(found.n_frames))
    store(run, ALPHA, KEY, truth)
    page = Path(write_page(str(run), Choice("embed"))[0])
    mean = """() => [...document.querySelectorAll(".views canvas")].slice(2).map((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(8, 8, canvas.width - 16, canvas.height - 16);
      return data.reduce((sum, value, at) => sum + (at % 4 === 1 ? value : 0), 0) / (data.length / 4);
    })"""
    with visit(browser, page, fragment=f"#clip={KEY}") as seen:
        until(seen.page, "document.querySelector('.where')?.textContent.startsWith('frame 1')")
        seen.page.get_by_label("What is shown").select_option("difference")
        same, other = seen.page.evaluate(mean)
        assert same < 40
        assert other > 100


# ---------------------------------------------------------------- for everybody


def test_keys_alone_reach_sorting_a_clip_and_back(browser: Any, page: Path) -> None:
    with visit(browser, page) as seen:
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.className") == "skip"
        for _ in range(40):
            seen.page.keyboard.press("Tab")
            if seen.page.evaluate("document.activeElement.className") == "sort":
                break
        seen.page.keyboard.press("Enter")
        focused = "document.activeElement.closest('th').getAttribute('aria-sort')"
        assert seen.page.evaluate(focused) in ("ascending", "descending")
        assert seen.page.locator("#tip").is_visible()
        seen.page.locator("#clip-rows a").first.focus()
        seen.page.keyboard.press("Enter")
        until(seen.page, titled("clip0100"))
        seen.page.keyboard.press("n")
        until(seen.page, titled("clip0101"))
        seen.page.keyboard.press("Escape")
        assert not seen.page.locator("dialog").is_visible()
        assert seen.page.evaluate("document.activeElement.closest('#clip-rows') !== null")


HELD = "document.activeElement.textContent || document.activeElement.getAttribute('aria-label')"


def test_keys_go_on_from_clip_to_clip_from_wherever_the_focus_is(browser: Any, played: Path) -> None:
    with visit(browser, played, width=390, fragment=f"#clip={KEY}") as seen:
        stands_at(seen.page, 0)
        seen.page.get_by_role("button", name="Play").focus()
        for key, clip in (("n", "e_00"), ("n", "f_00"), ("p", "e_00")):
            seen.page.keyboard.press(key)
            until(seen.page, titled(clip))
            assert seen.page.evaluate(HELD) == "Play"
        seen.page.get_by_role("button", name="Turn the sound off").click()
        for clip in ("f_00", "d_00"):
            seen.page.keyboard.press("n")
            until(seen.page, titled(clip))
        assert seen.page.evaluate(HELD) == "Close"


def test_arrow_keys_scroll_a_table_that_has_the_focus_and_step_the_video_elsewhere(browser: Any, played: Path) -> None:
    with visit(browser, played, width=390, fragment=f"#clip={KEY}") as seen:
        stands_at(seen.page, 0)
        table = seen.page.locator("dialog .scroll").first
        assert table.evaluate("(node) => node.scrollWidth > node.clientWidth")
        table.focus()
        for _ in range(3):
            seen.page.keyboard.press("ArrowRight")
        until(seen.page, "document.querySelector('dialog .scroll').scrollLeft > 0")
        stands_at(seen.page, 0)
        seen.page.keyboard.press(".")
        stands_at(seen.page, 1)
        seen.page.get_by_role("button", name="Play").focus()
        seen.page.keyboard.press("ArrowRight")
        stands_at(seen.page, 2)


CELL = "document.activeElement.matches('table.board td')"
NOTE = """() => {
  const cell = document.activeElement, tip = document.querySelector("#tip");
  const text = tip.hidden ? "" : tip.textContent;
  return [cell.parentElement.rowIndex, cell.cellIndex, text, cell.getAttribute("aria-describedby")];
}"""


def test_arrow_keys_reach_what_stands_behind_every_number(browser: Any, run: Path, page: Path) -> None:
    with visit(browser, page) as seen:
        table = seen.page.locator("table.board").first
        assert table.locator("td[tabindex='0']").count() == 1
        table.locator("thead button").last.focus()
        while not seen.page.evaluate(CELL):
            seen.page.keyboard.press("Tab")
        met = [seen.page.evaluate(NOTE)]
        for key in ("ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft"):
            seen.page.keyboard.press(key)
            met.append(seen.page.evaluate(NOTE))
        (row, column, _, _), places = met[0], [tuple(note[:2]) for note in met]
        assert places[1:] == [(row + 1, column), (row + 1, column + 1), (row, column + 1), (row, column)]
        assert all(note[2] and note[3] == "tip" for note in met)
        assert "95 % interval" in met[1][2]
        assert "7 shots of 7 identities" in met[1][2]
        seen.page.keyboard.press("Escape")
        assert seen.page.evaluate(NOTE)[2] == ""
        section = seen.page.locator("section").first
        section.get_by_role("button", name="Picture").click()
        assert table.locator("td[tabindex='0']:visible").count() == 1


def test_a_finger_reaches_what_stands_behind_a_number(browser: Any, page: Path) -> None:
    with visit(browser, page, width=390, touch=True) as seen:
        table = seen.page.locator("table.board").nth(1)
        cell = table.locator("tbody.ranked tr", has_text="last").locator("td.value").first
        cell.tap()
        note = seen.page.locator("#tip").inner_text()
        assert "11 shots of 11 identities" in note
        assert "Failed on 1 shot: timeout × 1." in note
        assert " from the ground truth (p " in note
        assert seen.sideways() <= 0
        seen.page.locator("h1").tap()
        assert not seen.page.locator("#tip").is_visible()


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_need_not_scroll_sideways(browser: Any, page: Path, played: Path, width: int) -> None:
    with visit(browser, page, width=width) as seen:
        assert seen.sideways() <= 0
        open_all(seen.page)
        assert seen.sideways() <= 0
    with visit(browser, played, width=width, fragment=f"#clip={KEY}") as seen:
        stands_at(seen.page, 0)
        assert seen.page.locator("dialog").evaluate("(one) => one.scrollWidth - one.clientWidth") <= 0


def test_a_source_described_in_one_long_word_fits_a_phone(browser: Any, tmp_path: Path) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, STILL, model("alpha")], [shot(0), shot(1)])
    facts = storage.read_json(tmp_path / "run.json")
    storage.write_json(tmp_path / "run.json", {**facts, "about": {"lrs2": "f" * 80}})
    write_report(str(tmp_path))
    with visit(browser, tmp_path / "report.html", width=320) as seen:
        assert seen.sideways() <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_and_the_button_turns_it(browser: Any, page: Path, scheme: Scheme) -> None:
    brightness = (
        "Math.max(...getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number))"
    )
    with visit(browser, page, scheme=scheme) as seen:
        assert (seen.page.evaluate(brightness) > 128) == (scheme == "light")
        seen.page.locator("#theme").click()
        assert (seen.page.evaluate(brightness) > 128) == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(browser: Any, small: Path, played: Path, scheme: Scheme) -> None:
    source = axe_source()
    for address, fragment in ((small, ""), (played, f"#clip={KEY}")):
        with visit(browser, address, fragment=fragment, scheme=scheme) as seen:
            if not fragment:
                open_all(seen.page)
            else:
                stands_at(seen.page, 0)
            seen.page.evaluate(source)
            found = seen.page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
            serious = [
                (one["id"], node["target"], node["failureSummary"])
                for one in found
                if one["impact"] in ("serious", "critical")
                for node in one["nodes"][:3]
            ]
            assert serious == []


# ---------------------------------------------------------------- looks for what is rare


def test_a_model_far_off_leaves_the_others_their_scale(browser: Any, tmp_path: Path) -> None:
    models = [GROUND_TRUTH, *map(model, ("a", "b", "c", "far"))]
    write_synthetic_run(tmp_path, models, [shot(number) for number in range(8)], metrics=["psnr@mouth", "lse_d@crop1"])
    summary = storage.read_json(tmp_path / "summary.json")
    cell = summary["tables"]["lrs2"]["rows"]["far"]["cells"]["psnr@mouth"]
    cell |= {"mean": 1e7, "low": 0.9e7, "high": 1.1e7}
    storage.write_json(tmp_path / "summary.json", summary)
    with visit(browser, Path(write_report(str(tmp_path)))) as seen:
        place = seen.texts("table.board thead tr:last-child th").index("PSNR mouth dB ↑")
        rows = seen.page.locator("table.board tbody tr")
        places = f"""(rows) => rows.map((row) => [...row.cells[{place}].querySelectorAll(".dot")]
          .map((dot) => Number(dot.getAttribute("cx"))))"""
        dots = rows.evaluate_all(places)
        near = [at for (at,) in (found for found in dots if found)]
        assert len(near) == 3
        assert max(near) - min(near) > 20
        assert seen.page.locator("table.board .beyond").count() == 1
        seen.page.locator("details[data-part=intervals] summary").click()
        seen.page.locator("details[data-part=intervals] .beyond").first.wait_for(state="attached")
        assert seen.page.locator("details[data-part=intervals] .beyond").count() == 1


@pytest.mark.parametrize("width", [390, 1280])
def test_intervals_keep_their_numbers_beside_names_of_any_length(browser: Any, tmp_path: Path, width: int) -> None:
    names = ["short", "a model of sixty four letters with blanks 0123456789 (variant) x", "x" * 150]
    models = [GROUND_TRUTH, *map(model, names)]
    write_synthetic_run(tmp_path, models, [shot(number) for number in range(8)], metrics=["sync_score@judge"])
    with visit(browser, Path(write_report(str(tmp_path))), width=width) as seen:
        seen.page.locator("details[data-part=intervals] summary").click()
        cut = """(all) => all.map((node) => [node, node.closest("figure")].map((one) => one.getBoundingClientRect()))
          .filter(([own, box]) => own.width === 0 || own.left < box.left || own.right > box.right).length"""
        labels = seen.page.locator("details[data-part=intervals] li span")
        labels.first.wait_for(state="attached")
        assert labels.evaluate_all(cut) == 0
        cells = storage.read_json(tmp_path / "leaderboard.json")["sources"][0]["rows"]
        told = [row["cells"]["sync_score@judge"] for row in cells]
        numbers = [f"{cell['text']} ({cell['low_text']} to {cell['high_text']})" for cell in told]
        assert [text.strip() for text in labels.all_inner_texts()] == [
            text for pair in zip(["ground-truth", *names], numbers, strict=True) for text in pair
        ]


@pytest.mark.parametrize(("shots", "names"), [(1, ["alpha"]), (2, []), (3, ["alpha", "beta"])])
def test_little_is_a_page_too(browser: Any, tmp_path: Path, shots: int, names: list[str]) -> None:
    write_synthetic_run(tmp_path, [GROUND_TRUTH, *map(model, names)], [shot(number) for number in range(shots)])
    with visit(browser, Path(write_report(str(tmp_path))), width=390) as seen:
        open_all(seen.page)
        assert seen.sideways() <= 0
        assert "NaN" not in seen.page.locator("body").inner_text()
        assert "undefined" not in seen.page.locator("body").inner_text()
        assert seen.page.locator("table.board tbody tr").count() == 1 + len(names)


def test_the_whole_model_stands_above_its_variants_with_what_each_lacks(browser: Any, page: Path) -> None:
    with visit(browser, page) as seen:
        rows = seen.texts("table.ablation >> nth=0 >> tbody th")
        assert [row.split(" ")[0] for row in rows] == ["g4g", "g4g-no-intra", "g4g-no-inter"]
        assert "without the alignment of pictures with sketches" in rows[1]
        assert seen.page.locator("table.ablation .chip").count() > 0
