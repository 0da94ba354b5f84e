from __future__ import annotations

import collections
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_rating import MODELS, SECRET, STARTED, SimulatedRater, sealed, study_of

from evaluation.study_answers import Refusal, read_submission, read_submissions
from evaluation.study_design import DAMAGED, SCALES, Study, plan_trials, read_study, trials_to_score
from evaluation.study_results import print_results, study_results
from g4g_core import storage
from g4g_core.errors import UsageError

MERITS = {"ground-truth": 1.1, "alpha": 0.2, "beta": -1.1}
Content = dict[str, Any]


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of()


def raters(count: int, merits: dict[str, float] | None = None) -> list[SimulatedRater]:
    return [SimulatedRater(f"P{n:02d}", merits or MERITS, n) for n in range(count)]


def refusals(study: Study, *paths: Path) -> list[str]:
    return [one.reason for one in read_submissions([str(path) for path in paths], study)[1]]


def results_of(study: Study, folder: Path, *people: SimulatedRater) -> dict[str, Any]:
    files = [str(one.write(folder, study)) for one in people]
    return study_results(study, *read_submissions(files, study))


# ---------------------------------------------------------------- the design


def test_every_model_is_scored_on_the_same_shots(study: Study) -> None:
    shots = collections.defaultdict(list)
    for trial in study.trials:
        if trial.kind == "rating":
            (model,) = trial.clips.values()
            shots[model].append(trial.shot)
    assert set(shots) == set(MODELS)
    assert all(sorted(of) == sorted(shots["alpha"]) for of in shots.values())
    assert len(set(shots["alpha"])) == len(shots["alpha"]) == 12


def test_pairs_are_compared_equally_often_and_never_twice_on_a_shot(study: Study) -> None:
    pairs = [(tuple(sorted(t.clips.values())), t.shot) for t in study.trials if t.kind == "preference"]
    counts = collections.Counter(pair for pair, _ in pairs)
    assert len(counts) == 3
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize(("models", "trials"), [(2, 3), (2, 40), (3, 5), (5, 9), (5, 40), (9, 17), (9, 100)])
def test_there_are_as_many_trials_as_asked_for_and_comparisons_link_all_models(models: int, trials: int) -> None:
    names = [f"m{n}" for n in range(models)]
    found = plan_trials(SECRET, names, {f"s{n}": f"p{n}" for n in range(30)}, trials, 0)
    plain = [trial for trial in found if not trial.is_check]
    assert len(plain) == trials
    linked = {names[0]}
    for _ in names:
        for trial in plain:
            if len(trial.clips) == 2 and linked & set(trial.clips.values()):
                linked |= set(trial.clips.values())
    assert linked == set(names)


def test_checks_are_added_a_tenth_and_two_at_least() -> None:
    for trials, checks in ((5, 2), (40, 4), (100, 10)):
        assert sum(t.is_check for t in study_of(shots=40, trials=trials).trials) == checks


def test_a_check_by_eye_is_a_clip_of_any_model_beside_a_damaged_copy() -> None:
    looks = [t for n in range(8) for t in study_of(key=f"{n:02x}" * 32).trials if t.kind == "check-look"]
    for trial in looks:
        assert sorted(trial.clips.values()) == sorted([DAMAGED, trial.clips[str(trial.expected)]])
    assert {trial.clips[str(trial.expected)] for trial in looks} == set(MODELS)


def test_a_check_by_reading_shows_a_clip_of_any_model() -> None:
    reads = [t for n in range(8) for t in study_of(key=f"{n:02x}" * 32).trials if t.kind == "check-read"]
    assert {model for trial in reads for model in trial.clips.values()} == set(MODELS)
    assert len({trial.expected for trial in reads}) > 1


def test_no_token_of_a_clip_stands_in_two_trials(study: Study) -> None:
    tokens = [token for trial in study.trials for token in trial.clips]
    assert len(set(tokens)) == len(tokens)


def test_people_who_are_not_in_the_study_yet_come_first() -> None:
    shots = {f"s{n}": f"person{n % 4}" for n in range(40)}
    found = plan_trials(SECRET, MODELS, shots, 20, 3)
    assert len({trial.shot for trial in found if trial.kind == "rating"}) == 4
    assert {trial.identity for trial in found if trial.kind == "rating"} == {f"person{n}" for n in range(4)}


def test_the_seed_chooses_the_shots_and_the_key_the_names() -> None:
    trials = {(seed, key): study_of(shots=40, trials=20, seed=seed, key=key * 32).trials
              for seed in (0, 1) for key in ("5a", "5b")}  # fmt: skip
    shots = {at: sorted(t.shot for t in of) for at, of in trials.items()}
    tokens = {at: {t.token for t in of} for at, of in trials.items()}
    assert shots[0, "5a"] == shots[0, "5b"] != shots[1, "5a"]
    assert not tokens[0, "5a"] & tokens[0, "5b"]
    assert study_of(shots=40, trials=20, seed=0).trials == trials[0, "5a"]


@pytest.mark.parametrize(
    ("models", "shots", "trials", "why"),
    [(["a"], 3, 9, "compares models"), (["a", "b"], 0, 9, "no shot"), (["a", "b", "c"], 3, 4, "too few for 3 models")],
)
def test_a_study_that_cannot_be_is_refused(models: list[str], shots: int, trials: int, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        plan_trials(SECRET, models, {f"s{n}": f"p{n}" for n in range(shots)}, trials, 0)


def test_the_key_file_gives_the_study_back(study: Study, tmp_path: Path) -> None:
    storage.write_json(tmp_path / "study.json", study.to_json())
    assert read_study(str(tmp_path / "study.json")).to_json() == study.to_json()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("rating", {"seconds": None}),
        ("rating", {"clips": {}}),
        ("rating", {"clips": {"ab": "gamma"}}),
        ("preference", {"kind": "other"}),
        ("check-look", {"expected": None}),
        ("check-look", {"expected": "ab" * 8}),
        ("check-read", {"expected": 9}),
        ("preference", {"expected": 3}),
    ],
)
def test_a_key_file_with_a_damaged_trial_is_refused(study: Study, tmp_path: Path, kind: str, change: Content) -> None:
    whole = study.to_json()
    damaged = next(n for n, trial in enumerate(whole["trials"]) if trial["kind"] == kind)
    whole["trials"][damaged] |= change
    storage.write_json(tmp_path / "study.json", whole)
    with pytest.raises(UsageError, match="damaged"):
        read_study(str(tmp_path / "study.json"))


@pytest.mark.parametrize("models", [2, 3, 5, 9])
@pytest.mark.parametrize("people", [1, 6, 11])
def test_the_fewest_trials_that_score_so_many_people(models: int, people: int) -> None:
    names, shots = [f"m{n}" for n in range(models)], {f"s{n}": f"p{n}" for n in range(30)}
    fewest = trials_to_score(people, models)

    def scored(trials: int) -> int:
        return Study(SECRET, names, plan_trials(SECRET, names, shots, trials, 0), {}).people("rating")

    assert scored(fewest) == people
    assert fewest == 2 * models - 1 or scored(fewest - 1) < people


@pytest.mark.parametrize("place", ["answers", "answers/", "gone.json"])
def test_a_refusal_says_nothing_of_where_files_lie(study: Study, tmp_path: Path, place: str) -> None:
    (tmp_path / "answers").mkdir()
    found = read_submission(f"{tmp_path}/{place}", study)
    assert isinstance(found, Refusal)
    assert found.file == place.rstrip("/") and found.reason.startswith("unreadable")
    assert str(tmp_path) not in found.reason


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "other"}, "no study's key file"),
        ({"schema_version": 9}, "schema version 9"),
        ({"trials": [{}]}, "damaged"),
        ({"trials": []}, "damaged: it has no models or no trials"),
        ({"key": "zz"}, "damaged"),
        ({"key": "ab" * 32}, "damaged: its key is that of study"),
        ({"facts": {}}, "damaged: no 'run'"),
        ({"facts": {"run": 7}}, "damaged"),
        ({"models": None}, "damaged"),
    ],
)
def test_a_file_that_is_no_key_file_is_refused(study: Study, tmp_path: Path, change: Content, why: str) -> None:
    storage.write_json(tmp_path / "study.json", {**study.to_json(), **change})
    with pytest.raises(UsageError, match=why):
        read_study(str(tmp_path / "study.json"))


# ---------------------------------------------------------------- files that are refused


def test_a_whole_file_is_taken(study: Study, tmp_path: Path) -> None:
    (one,), refused = read_submissions([str(raters(1)[0].write(tmp_path, study))], study)
    assert (one.answers.rater, refused) == ("P00", [])


def _edit_score(content: Content) -> None:
    next(a for a in content["answers"] if "sync" in a["scores"])["scores"]["sync"] = 5


def _edit_choice(content: Content) -> None:
    next(a for a in content["answers"] if a["choice"] not in (None, "same"))["choice"] = "same"


def _edit_time(content: Content) -> None:
    content["answers"][0]["ms"] += 1


def _edit_rater(content: Content) -> None:
    content["rater"] = "P99"


def _drop_an_answer(content: Content) -> None:
    content["answers"].pop()


@pytest.mark.parametrize("edit", [_edit_score, _edit_choice, _edit_time, _edit_rater, _drop_an_answer])
def test_an_edited_file_is_refused(study: Study, tmp_path: Path, edit: Callable[[Content], None]) -> None:
    path = SimulatedRater("P00", dict.fromkeys(MODELS, -9.0), 0).write(tmp_path, study)
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    assert refusals(study, path) == ["tampered: the checksum does not fit the answers"]


def _other_side(content: Content) -> None:
    answer = next(a for a in content["answers"] if a["choice"] not in (None, "same"))
    answer["left"] = "0" * 16


def _other_order(content: Content) -> None:
    content["answers"].reverse()


def _twice(content: Content) -> None:
    content["answers"].append(content["answers"][0])


def _unknown_trial(content: Content) -> None:
    content["answers"][0]["trial"] = "ff" * 8


def _no_such_clip(content: Content) -> None:
    next(a for a in content["answers"] if a["choice"])["choice"] = "ee" * 8


def _no_such_scale(content: Content) -> None:
    next(a for a in content["answers"] if "sync" in a["scores"])["scores"] = {"sync": 3}


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (_other_side, "cannot be answered like this"),
        (_other_order, "not in the order"),
        (_twice, "answered twice"),
        (_unknown_trial, "is no trial of this study"),
        (_no_such_clip, "cannot be answered like this"),
        (_no_such_scale, "cannot be answered like this"),
        (_drop_an_answer, "incomplete: 65 of 66"),
        (lambda content: content.update(page="00" * 32), "not the one that was built"),
        (lambda content: content.update(study="00" * 8), "another study"),
        (lambda content: content.update(rater="../../etc"), "malformed: rater"),
        (lambda content: content.update(extra=1), "malformed: extra"),
        (lambda content: content["answers"][0].update(ms=-1), "malformed: answers.0.ms"),
        (lambda content: content["answers"][0].update(ms=1.5), "malformed: answers.0.ms"),
        (lambda content: content["answers"][0].update(scores={"sync": 6}), "malformed: answers.0.scores.sync"),
    ],
)
def test_answers_that_the_page_never_gave_are_refused_though_sealed(
    study: Study, tmp_path: Path, edit: Callable[[Content], None], why: str
) -> None:
    content = raters(1)[0].content(study)
    edit(content)
    (reason,) = refusals(study, sealed(tmp_path / "P00.json", content, study))
    assert why in reason
    assert "\n" not in reason


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", "[" * 100_000, '{"kind": "other"}'])
def test_a_file_that_is_no_answers_file_is_refused(study: Study, tmp_path: Path, text: str) -> None:
    path = tmp_path / "strange.json"
    path.write_text(text)
    (reason,) = refusals(study, path)
    assert reason.startswith("unreadable")


def test_a_file_that_is_not_there_is_refused(study: Study, tmp_path: Path) -> None:
    assert "unreadable" in refusals(study, tmp_path / "nowhere.json")[0]


@pytest.mark.parametrize("key", ["\x1b[2J", "\u202egnp", "a\nb", "\ud800"])
def test_what_a_tampered_file_says_is_told_without_what_moves_the_cursor(
    study: Study, tmp_path: Path, key: str
) -> None:
    content = raters(1)[0].content(study)
    content[key] = 1
    (reason,) = refusals(study, sealed(tmp_path / "P00.json", content, study))
    assert reason.startswith("malformed: ")
    assert reason.isprintable()


def test_the_name_of_a_file_is_told_without_what_moves_the_cursor_and_a_long_reason_is_cut() -> None:
    found = Refusal("a\x1b[31m.json", "x" * 10_000)
    assert found.file == r"a\x1b[31m.json"
    assert len(found.reason) == 200


def test_the_seal_of_another_study_does_not_fit(study: Study, tmp_path: Path) -> None:
    content = raters(1)[0].content(study)
    path = sealed(tmp_path / "P00.json", content, study_of(key="77" * 32))
    assert refusals(study, path) == ["tampered: the checksum does not fit the answers"]


def test_the_same_file_counts_once_whatever_it_is_called(study: Study, tmp_path: Path) -> None:
    first = raters(1)[0].write(tmp_path, study)
    copy = tmp_path / "copy of P00.json"
    shutil.copy(first, copy)
    for order in ([first, copy], [copy, first]):
        kept, refused = read_submissions([str(path) for path in order], study)
        assert len(kept) == 1
        assert [(one.file, one.reason) for one in refused] == [
            ("copy of P00.json", "duplicate: the same answers as P00.json")
        ]


def test_of_two_files_of_a_rater_the_first_begun_counts(study: Study, tmp_path: Path) -> None:
    (tmp_path / "later").mkdir()
    SimulatedRater("P00", MERITS, 5).write(tmp_path / "later", study, started=STARTED + 1)
    later = (tmp_path / "later" / "P00.json").rename(tmp_path / "again.json")
    first = raters(1)[0].write(tmp_path, study)
    kept, refused = read_submissions([str(later), str(first)], study)
    assert [one.file for one in kept] == ["P00.json"]
    assert [one.reason for one in refused] == ["duplicate: rater P00 had answered before, in P00.json"]


def test_a_code_in_capitals_is_the_same_rater(study: Study, tmp_path: Path) -> None:
    first = SimulatedRater("anna", MERITS, 1).write(tmp_path, study)
    (tmp_path / "later").mkdir()
    later = SimulatedRater("Anna", MERITS, 2).write(tmp_path / "later", study, started=STARTED + 1)
    kept, refused = read_submissions([str(later), str(first)], study)
    assert [one.answers.rater for one in kept] == ["anna"]
    assert [(one.file, one.reason) for one in refused] == [
        ("Anna.json", "duplicate: rater Anna had answered before as anna, in anna.json")
    ]


def test_a_refusal_names_the_file_without_its_folder(study: Study, tmp_path: Path) -> None:
    found = read_submission(str(tmp_path / "nowhere.json"), study)
    assert getattr(found, "file", None) == "nowhere.json"


# ---------------------------------------------------------------- numbers


def test_simulated_raters_give_back_the_order_they_were_given(study: Study, tmp_path: Path) -> None:
    results = results_of(study, tmp_path, *raters(16))
    strengths = [results["preference"]["models"][name]["strength"] for name in MODELS]
    assert strengths == sorted(strengths, reverse=True)
    assert [results["preference"]["models"][name]["rank"] for name in MODELS] == [1, 2, 3]
    for scale in SCALES:
        means = [results["opinion"][scale]["models"][name]["mean"] for name in MODELS]
        assert means == sorted(means, reverse=True)
        assert [results["opinion"][scale]["models"][name]["rank"] for name in MODELS] == [1, 2, 3]


def test_intervals_hold_the_strengths_that_raters_were_given(study: Study, tmp_path: Path) -> None:
    held = []
    for group in range(12):
        people = [SimulatedRater(f"G{group}-{n}", MERITS, 100 * group + n) for n in range(8)]
        centre = sum(MERITS.values()) / 3
        cells = results_of(study, tmp_path, *people)["preference"]["models"]
        # a tie in ten draws strengths a little together: 0.9 (w - 0.5) + 0.5
        held += [cells[n]["low"] - 0.1 <= MERITS[n] - centre <= cells[n]["high"] + 0.1 for n in MODELS]
    assert sum(held) >= 0.85 * len(held)


def test_results_hold_no_nan_no_path_and_are_the_same_for_any_order_of_files(study: Study, tmp_path: Path) -> None:
    files = [str(one.write(tmp_path, study)) for one in raters(5)]
    results = [study_results(study, *read_submissions(order, study)) for order in (files, files[::-1])]
    texts = [json.dumps(one, allow_nan=False, sort_keys=True) for one in results]
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]
    assert study.key not in texts[0]


def test_excluded_raters_change_no_number_and_are_named_with_reasons(study: Study, tmp_path: Path) -> None:
    good = raters(6)
    careless = SimulatedRater("Z1", {name: -value for name, value in MERITS.items()}, 99, passes=False)
    without = results_of(study, tmp_path, *good)
    with_them = results_of(study, tmp_path, *good, careless)
    for part in ("opinion", "preference", "agreement"):
        assert without[part] == with_them[part]
    (excluded,) = with_them["raters"]["excluded"]
    assert (excluded["rater"], excluded["file"]) == ("Z1", "Z1.json")
    assert excluded["reasons"] == ["attention: 6 of 6 checks missed"]


def test_a_rater_who_hurries_is_excluded(study: Study, tmp_path: Path) -> None:
    content = raters(1)[0].content(study)
    for answer in content["answers"]:
        answer["ms"] = 1999
    path = sealed(tmp_path / "P00.json", content, study)
    (excluded,) = study_results(study, *read_submissions([str(path)], study))["raters"]["excluded"]
    assert excluded["reasons"][0].startswith("too fast: 66 of 66")


def test_counts_of_wins_and_ties_are_those_of_the_answers(study: Study, tmp_path: Path) -> None:
    results = results_of(study, tmp_path, *raters(4))
    n = 4 * results["trials"]["preference"]
    cells = results["preference"]["models"].values()
    assert sum(cell["won"] + cell["lost"] + cell["tied"] for cell in cells) == 2 * n
    assert sum(pair["a_preferred"] + pair["tied"] + pair["b_preferred"] for pair in results["preference"]["pairs"]) == n
    for cell in results["opinion"]["sync"]["models"].values():
        assert cell["n"] == 4 * results["trials"]["rating"] / len(MODELS)


def test_raters_who_see_alike_agree_more_than_raters_who_guess(study: Study, tmp_path: Path) -> None:
    strong = results_of(study, tmp_path, *raters(6, {"ground-truth": 3.0, "alpha": 0.0, "beta": -3.0}))
    none = results_of(study, tmp_path, *raters(6, dict.fromkeys(MODELS, 0.0)))
    for name in (*SCALES, "preference"):
        assert strong["agreement"][name]["alpha"] > 0.5
        assert none["agreement"][name]["alpha"] < 0.3


def test_agreement_on_comparisons_does_not_depend_on_which_model_comes_first(study: Study, tmp_path: Path) -> None:
    turned = dataclasses.replace(study, models=MODELS[::-1])
    one, other = (results_of(each, tmp_path, *raters(6))["agreement"]["preference"] for each in (study, turned))
    assert one == other
    assert one["units"] == sum(trial.kind == "preference" for trial in study.trials)


def test_when_nobody_counts_there_are_no_numbers(study: Study, tmp_path: Path, capsys: Any) -> None:
    results = study_results(study, [], [])
    assert results["opinion"]["sync"] == results["preference"] == {"models": {}, "pairs": []}
    print_results(results)
    assert "raters: 0 counted" in capsys.readouterr().out


def test_the_printed_table_shows_the_numbers(study: Study, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    results = results_of(study, tmp_path, *raters(12))
    print_results(results)
    printed = capsys.readouterr().out
    for name in MODELS:
        cell = results["opinion"]["sync"]["models"][name]
        assert f"{cell['mean']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}] #{cell['rank']}" in printed
