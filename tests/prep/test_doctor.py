from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from edited_shards import edit_description, edit_index, edit_manifest, write_sound_dataset
from rich.console import Console

from g4g_core.errors import ExitCode
from prep.checks import Check, State
from prep.doctor import Diagnosis, Verdict, diagnose, doctor, render
from prep.summary import Tables, load_tables


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_sound_dataset(tmp_path / "set")


def found(diagnosis: Diagnosis, name: str) -> Check:
    (check,) = [check for check in diagnosis.checks if check.name == name]
    return check


def faults(diagnosis: Diagnosis) -> set[str]:
    return {check.name for check in diagnosis.checks if check.state is State.FAULT}


def enlarged(root: Path, people: int = 24, **columns: Any) -> Tables:
    """The tables as if the set had ``people`` people with 100 s each, and ``columns`` on every sample."""
    tables = load_tables(root)
    row = tables.samples.iloc[[0]]
    parts = [
        row.assign(identity=f"p{n}", clip=f"c{n}", n_frames=2500, split=("train", "test")[n % 2])
        for n in range(people)
    ]
    samples = pd.concat(parts, ignore_index=True).assign(**columns)
    manifest = tables.manifest[tables.manifest["outcome"] == "ok"]
    return dataclasses.replace(tables, samples=samples, manifest=manifest)


def test_a_small_sound_set_is_of_demo_size_and_its_sync_is_unknown(root: Path) -> None:
    diagnosis = doctor(root)
    assert diagnosis.verdict is Verdict.DEMO_SIZE
    assert diagnosis.exit_code is ExitCode.OK
    assert found(diagnosis, "AV offset").state is State.UNKNOWN
    assert found(diagnosis, "sync confidence").state is State.UNKNOWN
    assert "no estimator" in found(diagnosis, "AV offset").advice
    assert not faults(diagnosis)


def test_one_identity_in_two_splits_is_a_fault_that_names_it(root: Path) -> None:
    def leak(row: dict[str, Any]) -> None:
        if row["identity"] == "dora":
            row["identity"] = "anna"

    edit_index(root, leak)
    diagnosis = doctor(root)
    assert diagnosis.verdict is Verdict.UNFIT
    assert diagnosis.exit_code is ExitCode.FINDING
    assert faults(diagnosis) == {"identity in two splits"}
    assert found(diagnosis, "identity in two splits").names == ("anna (train, test)",)
    assert "identity in two splits" in diagnosis.why


def test_one_video_in_two_splits_is_a_fault_that_names_it(root: Path) -> None:
    def leak(row: dict[str, Any]) -> None:
        if row["clip"] in ("c_00", "d_00"):
            row["video_id"] = "upload-7"

    edit_index(root, leak)
    diagnosis = doctor(root)
    assert faults(diagnosis) == {"video in two splits"}
    assert "upload-7" in found(diagnosis, "video in two splits").value


def test_audio_that_is_silent_in_part_of_the_set_is_a_fault_that_names_the_clips(root: Path) -> None:
    def mute(row: dict[str, Any]) -> None:
        if row["clip"] == "b_01":
            row["loudness_dbfs"] = -91.0

    edit_index(root, mute)
    diagnosis = doctor(root)
    assert diagnosis.verdict is Verdict.UNFIT
    assert faults(diagnosis) == {"silent audio"}
    assert found(diagnosis, "silent audio").names == ("toy/b_01",)
    assert "1 of 7 samples" in found(diagnosis, "silent audio").value


def test_a_rare_silent_segment_of_a_clip_that_speaks_is_only_a_warning(root: Path) -> None:
    loudness = [-25.0] * 24
    tables = enlarged(root)
    pause = tables.samples.iloc[[0]].assign(segment=1, loudness_dbfs=-70.0)
    samples = pd.concat([tables.samples.assign(loudness_dbfs=loudness), pause], ignore_index=True)
    check = found(diagnose(dataclasses.replace(tables, samples=samples)), "silent audio")
    assert check.state is State.WARN
    assert check.names == ("toy/c0",)


def test_many_downloads_without_sound_are_a_fault_although_they_were_left_out(root: Path) -> None:
    def mute(row: dict[str, Any]) -> None:
        if row["clip"] in ("a_01", "b_00", "e_00"):
            row.update(outcome="rejected", stage="probe", reason="silent_audio", detail="peak -91 dBFS")

    edit_manifest(root, mute)
    diagnosis = doctor(root)
    assert faults(diagnosis) == {"clips without sound"}
    assert found(diagnosis, "clips without sound").value == "toy: 3 of 7 clips"


def test_faces_that_are_too_small_are_a_fault_that_says_how_many_and_in_which_source(root: Path) -> None:
    def shrink(row: dict[str, Any]) -> None:
        if row["identity"] == "anna":
            row.update(face_px=40.0, source="webcam")

    edit_index(root, shrink)
    diagnosis = doctor(root)
    assert diagnosis.verdict is Verdict.UNFIT
    assert faults(diagnosis) == {"face size"}
    assert "webcam: 3 of 3 samples too small" in found(diagnosis, "face size").value
    assert found(diagnosis, "face size").names == ("webcam/a_00", "webcam/a_01")


def test_crops_of_fewer_pixels_than_any_model_takes_are_a_fault(tmp_path: Path) -> None:
    diagnosis = doctor(write_sound_dataset(tmp_path / "set", size=64))
    assert faults(diagnosis) == {"crop size"}
    assert found(diagnosis, "crop size").value == "64 px"


def test_a_set_without_test_split_is_warned_about(root: Path) -> None:
    description = json.loads((root / "dataset.json").read_text())
    splits = {name: split for name, split in description["splits"].items() if name != "test"}
    edit_description(root, splits=splits)
    assert found(doctor(root), "split test").state is State.WARN


def test_a_large_sound_set_is_unknown_until_its_sync_is_measured(root: Path) -> None:
    diagnosis = diagnose(enlarged(root))
    assert diagnosis.verdict is Verdict.UNKNOWN
    assert diagnosis.exit_code is ExitCode.CANNOT_TELL
    assert "AV offset" in diagnosis.why


def test_a_large_sound_set_in_sync_is_fit(root: Path) -> None:
    diagnosis = diagnose(enlarged(root, av_offset=[0.0, 1.0] * 12, av_confidence=5.0, sync_reason=None))
    assert diagnosis.verdict is Verdict.FIT
    assert diagnosis.exit_code is ExitCode.OK


@pytest.mark.parametrize("change", [{"people": 19}, {"people": 24, "n_frames": 100}])
def test_too_few_people_or_too_little_time_is_of_demo_size(root: Path, change: dict[str, Any]) -> None:
    tables = enlarged(root, av_offset=0.0, av_confidence=5.0, **change)
    assert diagnose(tables).verdict is Verdict.DEMO_SIZE


def test_clips_out_of_sync_are_a_fault_that_names_them(root: Path) -> None:
    offsets = [0.0] * 21 + [4.0, -3.0, 2.0]
    diagnosis = diagnose(enlarged(root, av_offset=offsets, av_confidence=5.0))
    assert faults(diagnosis) == {"AV offset"}
    assert found(diagnosis, "AV offset").names == ("toy/c21", "toy/c22", "toy/c23")


def test_a_few_measured_clips_leave_the_offset_unknown(root: Path) -> None:
    offsets = [0.0] * 11 + [None] * 13
    check = found(diagnose(enlarged(root, av_offset=offsets, av_confidence=5.0)), "AV offset")
    assert check.state is State.UNKNOWN
    assert "11 of 24" in check.value


def test_an_offset_that_nobody_is_sure_of_is_not_held_against_a_clip(root: Path) -> None:
    unsure = [5.0] * 18 + [0.01] * 6
    offsets = [0.0] * 18 + [-12.0] * 6
    check = found(diagnose(enlarged(root, av_offset=offsets, av_confidence=unsure)), "AV offset")
    assert check.state is State.OK
    assert "sure of 18 of 24" in check.value


def test_a_source_of_one_person_is_named(root: Path) -> None:
    def one(row: dict[str, Any]) -> None:
        if row["identity"] == "ben":
            row["source"] = "solo"

    edit_index(root, one)
    assert found(doctor(root), "sources with one identity").names == ("solo",)


def test_rejected_clips_are_counted_with_their_reasons(root: Path) -> None:
    assert found(doctor(root), "rejected clips").value == "1 of 7 (14.3%): no_face 1"
    assert found(doctor(root), "rejected clips").names == ("toy/e_00",)


def test_a_set_of_no_samples_is_unfit_and_still_tells_the_reasons(root: Path) -> None:
    edit_description(root, splits={})

    def reject(row: dict[str, Any]) -> None:
        row.update(outcome="rejected", stage="probe", reason="unreadable", detail="?")

    edit_manifest(root, reject)
    diagnosis = doctor(root)
    assert diagnosis.verdict is Verdict.UNFIT
    assert "unreadable 7" in found(diagnosis, "rejected clips").value


def test_the_diagnosis_is_json_and_prints_names_as_they_are(root: Path) -> None:
    def rename(row: dict[str, Any]) -> None:
        if row["clip"] == "b_01":
            row.update(clip="[bold]x[/oops]", loudness_dbfs=-91.0)

    edit_index(root, rename)
    diagnosis = doctor(root)
    values = json.loads(json.dumps(diagnosis.to_json(), allow_nan=False))
    assert values["verdict"] == "unfit"
    assert {check["state"] for check in values["checks"]} >= {"ok", "warn", "fault", "unknown"}
    screen = io.StringIO()
    Console(file=screen, width=200).print(render(diagnosis))
    assert "toy/[bold]x[/oops]" in screen.getvalue()
    assert "verdict: unfit" in screen.getvalue()
