from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Scheme, axe_source, chromium, visit
from click.testing import CliRunner
from playable_run import write_playable_run

from evaluation.study_answers import Submission, read_submission
from evaluation.study_design import left_of, place_in_order
from g4g_core import storage
from reports.study_cli import study as study_command
from reports.study_page import BuiltStudy, build_study

RATER = "P07"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltStudy:
    """Five trials and two checks of clips of 0.3 s."""
    folder = tmp_path_factory.mktemp("study")
    run = write_playable_run(folder)
    return build_study(str(run), str(folder / "out"), trials=5, seconds=0.3, seed=5, quiet=True)


def start(page: Any, rater: str = RATER) -> None:
    page.get_by_label("Your rater code").fill(rater)
    page.get_by_role("button", name="Start").click()


def kind(page: Any) -> str:
    if page.locator("#stage video").count() == 2:
        return "pair"
    return "rate" if page.locator("#stage img").count() else "read"


def blank(built: BuiltStudy) -> str:
    """A page that shares its storage with the study's, as files do, and keeps nothing there."""
    path = Path(built.page).with_name("blank.html")
    path.write_text("<!doctype html>", encoding="utf-8")
    return path.as_uri()


def jump(page: Any, built: BuiltStudy, done: int, rater: str = RATER) -> None:
    """To where a rater stands who has done so many tasks."""
    order = sorted((t.token for t in built.study.trials), key=lambda t: place_in_order(built.study.id, rater, t))
    kept = {"rater": rater, "started": 1, "answers": [{"trial": token} for token in order[:done]], "ms": 0}
    page.goto(blank(built))
    slot = f"g4g-study-{built.study.id}"
    page.evaluate("([slot, text]) => localStorage.setItem(slot, text)", [slot, json.dumps(kept)])
    page.goto(Path(built.page).as_uri())
    page.get_by_role("button", name=f"Yes, go on as {rater}").click()


def until_open(page: Any) -> None:
    """Wait until the page has read what it kept."""
    page.locator("main > section:visible").wait_for()


def jump_to(page: Any, built: BuiltStudy, wanted: str) -> None:
    """To the first task of a kind."""
    for done in range(len(built.study.trials)):
        jump(page, built, done)
        if kind(page) == wanted:
            return


def play(page: Any) -> None:
    """Play to the end, and wait until questions can be answered."""
    page.keyboard.press("p")
    page.locator("#questions input:enabled").first.wait_for(state="attached")


def answer_with_keys(page: Any, built: BuiltStudy) -> None:
    """The current task, as an attentive rater would: checks are passed."""
    play(page)
    shown = kind(page)
    if shown == "rate":
        for key in "425":
            page.keyboard.press(key)
    elif shown == "read":
        (wanted,) = [word for word in page.locator("legend").inner_text() if word.isdigit()]
        page.keyboard.press(wanted)
    else:
        tokens = {str(trial.expected) for trial in built.study.trials if trial.kind == "check-look"}
        choices = [node.get_attribute("value") for node in page.locator("#questions input").all()]
        page.keyboard.press("a" if choices[0] in tokens else "b" if choices[2] in tokens else "n")
    page.keyboard.press("Enter")


def answer_all(page: Any, built: BuiltStudy) -> None:
    while page.locator("#done").is_hidden():
        answer_with_keys(page, built)


def save(page: Any, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Save my answers").click()
    path = folder / str(waiting.value.suggested_filename)
    waiting.value.save_as(path)
    return path


def test_rate_reload_finish_export_collect(browser: Any, built: BuiltStudy, tmp_path: Path) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        start(page)
        for _ in range(3):
            answer_with_keys(page, built)
        assert page.locator("#trial-title").inner_text() == "Task 4 of 7"
        page.reload()
        stand_at(4, page)
        answer_all(page, built)
        page.reload()
        page.locator("#done-title").wait_for()
        path = save(page, tmp_path)
        outside = [address for address in seen.requests if not address.startswith(("file:", "blob:"))]
        assert outside == []

    assert path.name == f"answers-{built.study.id}-{RATER}.json"
    submission = read_submission(str(path), built.study)
    assert isinstance(submission, Submission), submission
    answers = submission.answers
    assert answers.rater == RATER
    assert [a.scores for a in answers.answers if "sync" in a.scores] == [{"sync": 4, "fidelity": 2, "identity": 5}] * 3
    assert all(answer.ms >= 300 for answer in answers.answers)
    assert all(answer.plays >= 1 for answer in answers.answers)

    out = str(tmp_path / "results.json")
    done = CliRunner().invoke(study_command, ["collect", str(path), "--study", built.key, "--out", out])
    assert done.exit_code == 0, done.output
    results = storage.read_json(out)
    assert results["raters"]["counted"] == [RATER]
    assert {cell["mean"] for cell in results["opinion"]["sync"]["models"].values()} == {4.0}
    edited = tmp_path / "edited.json"
    edited.write_text(path.read_text().replace('"fidelity": 2', '"fidelity": 5'))
    refused = CliRunner().invoke(study_command, ["collect", str(path), str(edited), "--study", built.key, "--out", out])
    assert refused.exit_code == 1
    assert "refused  edited.json: tampered" in refused.output


def test_order_and_sides_are_those_that_the_checker_expects(browser: Any, built: BuiltStudy) -> None:
    lefts = set()
    with visit(browser, Path(built.page)) as seen:
        for rater in ("P07", "Q_1-a", "z"):
            order = sorted(built.study.trials, key=lambda t: place_in_order(built.study.id, rater, t.token))
            for done, trial in enumerate(order):
                jump(seen.page, built, done, rater)
                assert (kind(seen.page) == "pair") == (len(trial.clips) == 2)
                if len(trial.clips) == 2:
                    shown = seen.page.locator("#questions input").first.get_attribute("value")
                    assert shown == left_of(built.study.id, rater, trial.token, list(trial.clips))
                    lefts.add((trial.token, shown))
    assert len(lefts) > len({token for token, _ in lefts})  # sides do change


def tab(first: Any, address: str) -> Any:
    """Another tab of the same browser."""
    page = first.context.new_page()
    page.set_default_timeout(10_000)
    page.goto(address)
    return page


def tab_of_rater(first: Any, built: BuiltStudy) -> Any:
    """Another tab with the study, of the same rater."""
    page = tab(first, Path(built.page).as_uri())
    page.get_by_role("button", name="Yes, go on as").click()
    return page


def until_kept(page: Any, answers: int) -> None:
    """Wait until a tab sees so many answers in the storage: another's writing reaches it a moment later."""
    for _ in range(200):
        if page.evaluate("() => JSON.parse(Object.values(localStorage)[0]).answers.length") == answers:
            return
        page.wait_for_timeout(25)
    pytest.fail(f"in vain: {answers} answers")


def stand_at(task: int, *pages: Any) -> None:
    for page in pages:
        page.get_by_text(f"Task {task} of 7").wait_for()


def test_tabs_of_one_rater_stand_at_the_same_task_and_none_undoes_what_another_kept(
    browser: Any, built: BuiltStudy
) -> None:
    with visit(browser, Path(built.page)) as seen:
        first = seen.page
        start(first)
        second = tab_of_rater(first, built)
        answer_with_keys(first, built)
        answer_with_keys(first, built)
        stand_at(3, second)
        answer_with_keys(second, built)
        stand_at(4, first)
        for page in (second, first):
            page.reload()
            stand_at(4, first, second)
        second.close()
        older = first.evaluate("() => Object.entries(localStorage)[0]")
        answer_with_keys(first, built)
        tab(first, blank(built)).evaluate("([slot, text]) => localStorage.setItem(slot, text)", older)
        until_kept(first, 4)
        stand_at(5, first)


def test_a_tab_that_heard_of_nothing_writes_nothing_over_newer_answers(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        first = seen.page
        start(first)
        first.context.add_init_script("addEventListener('storage', (event) => event.stopImmediatePropagation(), true);")
        stale = tab_of_rater(first, built)
        for _ in range(3):
            answer_with_keys(first, built)
        stand_at(4, first)
        stand_at(1, stale)
        until_kept(stale, 3)
        answer_with_keys(stale, built)
        stand_at(4, stale)  # what was just answered there had been answered before
        answer_with_keys(first, built)
        until_kept(stale, 4)
        stale.reload()
        stand_at(5, first, stale)


def test_a_rater_who_makes_way_does_so_in_every_tab(browser: Any, built: BuiltStudy, tmp_path: Path) -> None:
    with visit(browser, Path(built.page)) as seen:
        first = seen.page
        jump(first, built, 7)
        second = tab_of_rater(first, built)
        save(first, tmp_path)
        second.get_by_role("button", name="Let another rater start").wait_for()
        first.get_by_role("button", name="Let another rater start").click()
        second.locator("#intro-title").wait_for()
        start(second, "P08")
        first.get_by_role("button", name="Yes, go on as P08").click()  # who sits at the other tab is not known
        for page in (second, first):
            stand_at(1, first, second)
            page.reload()
        stand_at(1, first, second)


def test_nothing_can_be_answered_before_the_clip_has_ended(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        start(seen.page)
        assert seen.page.locator("#questions input:enabled").count() == 0
        for key in ("1", "a", "n", "Enter"):
            seen.page.keyboard.press(key)
        assert seen.page.locator("#questions input:checked").count() == 0
        assert seen.page.locator("#trial-title").inner_text() == "Task 1 of 7"
        play(seen.page)
        assert seen.page.get_by_role("button", name="Next").is_disabled()


def test_both_clips_of_a_pair_must_be_seen_one_by_one_or_together(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        jump_to(page, built, "pair")
        page.get_by_role("button", name="Play A").click()
        page.get_by_text("Play B to the end").wait_for()
        assert page.locator("#questions input:enabled").count() == 0
        assert page.evaluate("[...document.querySelectorAll('video')].map((v) => v.muted)") == [False, False]
        page.get_by_role("button", name="Play both together").click()
        assert page.evaluate("[...document.querySelectorAll('video')].map((v) => v.muted)") == [False, True]
        page.locator("#questions input:enabled").first.wait_for(state="attached")


def test_a_code_that_cannot_be_is_explained(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        for code in ("", "   ", "my name", "a" * 33, "<b>"):
            seen.page.locator("#rater-error").evaluate("(node) => { node.textContent = ''; }")
            seen.page.locator("#rater").evaluate("(node, text) => { node.value = text; }", code)
            seen.page.get_by_role("button", name="Start").click()
            assert "1 to 32 letters" in seen.page.locator("#rater-error").inner_text()
            assert seen.page.locator("#trial").is_hidden()


def test_another_rater_can_start_after_the_first_has_saved(browser: Any, built: BuiltStudy, tmp_path: Path) -> None:
    with visit(browser, Path(built.page)) as seen:
        jump(seen.page, built, 7)
        another = seen.page.get_by_role("button", name="Let another rater start")
        assert another.is_hidden()
        save(seen.page, tmp_path)
        another.click()
        start(seen.page, "P08")
        assert seen.page.locator("#trial-title").inner_text() == "Task 1 of 7"


def answers_of(page: Any, built: BuiltStudy) -> int:
    """How many answers the storage holds of whoever rates now."""
    slot = f"g4g-study-{built.study.id}"
    return int(page.evaluate("(slot) => JSON.parse(localStorage.getItem(slot)).answers.length", slot))


def test_who_opens_the_page_is_asked_who_they_are_and_raters_go_on_where_they_stopped(
    browser: Any, built: BuiltStudy
) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        start(page)
        answer_with_keys(page, built)
        page.goto(Path(built.page).as_uri())
        page.get_by_role("heading", name="Are you P07?").wait_for()
        assert "answered 1 of 7 tasks" in page.locator("#back").inner_text()
        page.get_by_role("button", name="No, I have another code").click()
        start(page, "P08")
        stand_at(1, page)
        assert page.locator("#who").inner_text() == "P08"
        answer_with_keys(page, built)
        answer_with_keys(page, built)
        page.get_by_role("button", name="That is not my code").click()
        start(page, "P07")
        stand_at(2, page)
        page.get_by_role("button", name="That is not my code").click()
        start(page, "P08")
        stand_at(3, page)
        page.reload()
        stand_at(3, page)  # who reloads is not asked


def test_a_rater_who_has_saved_and_made_way_can_save_again(browser: Any, built: BuiltStudy, tmp_path: Path) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        start(page)
        answer_all(page, built)
        first = save(page, tmp_path).read_bytes()
        page.get_by_role("button", name="Let another rater start").click()
        start(page, "P08")
        page.get_by_role("button", name="That is not my code").click()
        start(page, RATER)
        page.locator("#done-title").wait_for()
        assert save(page, tmp_path).read_bytes() == first


def scores(page: Any) -> list[int]:
    """What is chosen, question by question."""
    return [int(node.get_attribute("value")) for node in page.locator("#questions input:checked").all()]


def test_a_digit_answers_the_question_that_the_ring_stands_at(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        jump_to(page, built, "rate")
        play(page)
        for key in "425":
            page.keyboard.press(key)
        assert scores(page) == [4, 2, 5]
        page.keyboard.press("3")
        assert scores(page) == [4, 2, 3]  # the last one, where the ring has stayed
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("1")
        assert scores(page) == [4, 1, 3]


def test_a_digit_after_a_click_goes_to_the_next_open_question_and_to_none_where_there_is_none(
    browser: Any, built: BuiltStudy
) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        jump_to(page, built, "rate")
        play(page)
        questions = page.locator("#questions fieldset")
        questions.nth(0).locator("input").nth(3).click()
        page.keyboard.press("2")
        assert scores(page) == [4, 2]
        questions.nth(2).locator("input").nth(4).click()
        page.keyboard.press("1")
        assert scores(page) == [4, 2, 5]
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("1")
        assert scores(page) == [4, 2, 1]  # an arrow brings the ring


def test_a_clip_in_a_hidden_tab_stops_and_is_not_seen(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        jump_to(page, built, "rate")
        turn = """(hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
        page.keyboard.press("p")
        page.wait_for_function("() => !document.querySelector('video').paused")
        page.evaluate(turn, True)
        page.wait_for_timeout(800)  # more than twice as long as the clip
        page.evaluate(turn, False)
        assert page.locator("#questions input:enabled").count() == 0
        play(page)


FULL = """() => {
    window.write ??= Storage.prototype.setItem;
    Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };
}"""


def test_a_rater_who_begins_where_nothing_can_be_written_any_more_can_finish(
    browser: Any, built: BuiltStudy, tmp_path: Path
) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        start(page)
        page.get_by_role("button", name="That is not my code").click()
        page.evaluate(FULL)
        start(page, "P08")
        answer_with_keys(page, built)
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        stand_at(2, page)
        page.get_by_role("button", name="That is not my code").click()
        page.get_by_text("Nothing can be put aside").wait_for()
        stand_at(2, page)
        answer_all(page, built)
        save(page, tmp_path)
        page.get_by_role("button", name="Let another rater start").click()
        start(page, "P09")
        stand_at(1, page)
        assert page.locator("#unkept").is_visible()


def test_two_raters_in_two_tabs_are_asked_before_one_goes_on_as_the_other(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        first = seen.page
        start(first)
        answer_with_keys(first, built)
        second = tab(first, Path(built.page).as_uri())
        second.get_by_role("button", name="No, I have another code").click()
        start(second, "P08")
        first.get_by_role("heading", name="Are you P08?").wait_for()
        first.get_by_role("button", name="No, I have another code").click()
        start(first, "p07")  # the same rater
        stand_at(2, first)
        assert first.locator("#who").inner_text() == "P07"
        second.get_by_role("heading", name="Are you P07?").wait_for()


def test_keeping_is_tried_again_where_the_storage_was_full_for_a_while(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        start(page)
        answer_with_keys(page, built)
        page.evaluate(FULL)
        answer_with_keys(page, built)
        assert page.locator("#unkept").is_visible() and answers_of(page, built) == 1
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        assert page.locator("#unkept").is_visible()  # that it can be read says nothing
        page.evaluate("() => { Storage.prototype.setItem = window.write; }")
        answer_with_keys(page, built)
        assert page.locator("#unkept").is_hidden() and answers_of(page, built) == 3


def test_damaged_progress_is_begun_anew(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        for text in ("{", "[]", '{"rater": 7}', "null"):
            slot = f"g4g-study-{built.study.id}"
            seen.page.evaluate("([slot, text]) => localStorage.setItem(slot, text)", [slot, text])
            seen.page.reload()
            seen.page.locator("#intro").wait_for()
            assert seen.page.locator("#unkept").is_hidden()


# Chromium's fault, without its chance: a storage asked for before the browser has answered anything is empty for good.
EARLY_IS_EMPTY = """(() => {
  const whole = Object.getOwnPropertyDescriptor(window, "localStorage").get, lost = new Map();
  const query = navigator.locks.query.bind(navigator.locks);
  const empty = {
    getItem: (key) => lost.get(key) ?? null,
    setItem: (key, text) => lost.set(key, text),
    removeItem: (key) => lost.delete(key),
  };
  let answered = false, given = null;
  navigator.locks.query = async () => { const found = await query(); answered = true; return found; };
  Object.defineProperty(window, "localStorage", { get: () => (given ??= answered ? whole.call(window) : empty) });
})();"""


def test_a_page_on_disk_asks_for_its_storage_when_the_browser_knows_it(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        start(seen.page)
        answer_with_keys(seen.page, built)
        seen.page.context.add_init_script(EARLY_IS_EMPTY)
        seen.page.reload()
        stand_at(2, seen.page)


@pytest.mark.parametrize("locks", ["undefined", "{ query: () => Promise.reject(new DOMException('no')) }"])
def test_a_page_is_opened_where_locks_are_missing_or_refused(browser: Any, built: BuiltStudy, locks: str) -> None:
    with visit(browser, Path(built.page)) as seen:
        start(seen.page)
        seen.page.add_init_script(f"Object.defineProperty(navigator, 'locks', {{ value: {locks} }});")
        seen.page.reload()
        stand_at(1, seen.page)


def test_a_page_that_may_keep_nothing_says_so_and_works(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        page.add_init_script(
            "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no'); }});"
        )
        page.reload()
        page.locator("#unkept").wait_for()
        start(page)
        answer_with_keys(page, built)
        assert page.locator("#trial-title").inner_text() == "Task 2 of 7"


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_every_view_fits_the_screen(browser: Any, built: BuiltStudy, width: int, scheme: Scheme) -> None:
    with visit(browser, Path(built.page), width=width, scheme=scheme) as seen:
        for _view in views(seen.page, built):
            assert seen.sideways() <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_view(browser: Any, built: BuiltStudy, scheme: Scheme) -> None:
    program = axe_source()
    with visit(browser, Path(built.page), scheme=scheme) as seen:
        for view in views(seen.page, built):
            seen.page.evaluate(f"(() => {{ {program} }})()")
            found = seen.page.evaluate("axe.run(document)")
            assert found["passes"]
            grave = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
            assert [(view, v["id"], v["nodes"][0]["html"]) for v in grave] == []


def views(page: Any, built: BuiltStudy) -> Iterator[str]:
    """Every view of the page: tasks of each kind before and after their clip was seen."""
    until_open(page)
    yield "intro"
    kinds = set()
    for done in range(len(built.study.trials)):
        jump(page, built, done)
        if kind(page) not in kinds:
            kinds.add(kind(page))
            yield f"{kind(page)} at first"
            play(page)
            yield f"{kind(page)} seen"
    page.goto(Path(built.page).as_uri())
    until_open(page)
    yield "back"
    assert kinds == {"pair", "rate", "read"}
    jump(page, built, len(built.study.trials))
    yield "done"


def test_the_whole_study_can_be_done_with_tab_and_space(browser: Any, built: BuiltStudy) -> None:
    with visit(browser, Path(built.page)) as seen:
        page = seen.page
        jump_to(page, built, "rate")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "▶ Play"
        page.keyboard.press("Space")
        page.locator("#questions input:enabled").first.wait_for(state="attached")
        for _ in range(3):
            page.keyboard.press("Tab")
            page.keyboard.press("Space")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Next"
        done = page.locator("#progress").evaluate("(node) => node.value")
        page.keyboard.press("Enter")
        assert page.locator("#progress").evaluate("(node) => node.value") == done + 1
