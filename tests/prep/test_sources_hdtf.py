from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from g4g_core.errors import SourceError
from prep.records import ClipSpec, CropHint, Reason
from prep.sources import hdtf, hdtf_annotations

ANNOTATIONS = {
    # BOM, time in the url, trailing space, unsorted intervals, missing final newlines: all real
    "WDA_video_url.txt": "\ufeffAnnaOne1 https://www.youtube.com/watch?v=AAAA&t=6s\nAnnaOne2 https://youtu.be/BBBB",
    "WDA_annotion_time.txt": "AnnaOne1.mp4 08:10-08:30 00:33-08:53 \nAnnaOne2.mp4 00:05-01:00",
    "WDA_crop_wh.txt": "AnnaOne1_0.mp4 10 300 20 300\nAnnaOne2_0.mp4 1 240 2 240",
    "WDA_resolution.txt": "AnnaOne1.mp4 720\nAnnaOne2.mp4 0",
    "RD_video_url.txt": "Radio1 https://www.youtube.com/watch?v=CCCC\nRadio2 https://www.youtube.com/watch?v=DDDD\n",
    "RD_annotion_time.txt": "Radio1.mp4 00:10-00:20\n",
}


def annotate(folder: Path, files: dict[str, str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (ANNOTATIONS if files is None else files).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def videos(root: Path, *paths: str) -> Path:
    root.mkdir(exist_ok=True)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def by_clip(specs: list[ClipSpec]) -> dict[str, ClipSpec]:
    assert len({spec.clip for spec in specs}) == len(specs)
    return {spec.clip: spec for spec in specs}


def reason(spec: ClipSpec) -> Reason | None:
    return spec.absent.reason if spec.absent else None


@pytest.mark.parametrize(
    ("stem", "person"),
    [
        ("WDA_BobMenendez_000", "WDA_BobMenendez"),
        ("WRA_AdamKinzinger2_001", "WRA_AdamKinzinger"),
        ("WRA_AdamKinzinger0_000", "WRA_AdamKinzinger"),
        ("RD_Radio2_000", "RD_Radio2"),
        ("RD_Radio25_003", "RD_Radio25"),
        ("WDA_LucilleRoybal-Allard_000", "WDA_LucilleRoybal-Allard"),
        ("WDA_WhipJimClyburn_000", "WDA_JamesClyburn"),
        ("WDA_JamesClyburn1_000", "WDA_JamesClyburn"),
        ("BobMenendez_0", "BobMenendez"),
        ("BobMenendez", "BobMenendez"),
        ("0042", "0042"),
    ],
)
def test_the_person_is_the_name_without_the_count_of_uploads(stem: str, person: str) -> None:
    assert hdtf.identity_of(stem) == person


def test_without_annotations_every_video_is_a_clip_already_cut(tmp_path: Path) -> None:
    root = videos(tmp_path / "hdtf", "WDA_AnnaOne1_000.mp4", "RD_Radio1_000.mp4", "notes.txt")
    specs = by_clip(hdtf.scan(root))
    assert {clip: spec.identity for clip, spec in specs.items()} == {
        "WDA_AnnaOne1_000": "WDA_AnnaOne",
        "RD_Radio1_000": "RD_Radio1",
    }
    spec = specs["RD_Radio1_000"]
    assert (spec.path, spec.time_range, spec.crop_hint, spec.absent) == (
        "RD_Radio1_000.mp4",
        None,
        None,
        None,
    )
    assert spec.licence == "HDTF: annotations CC BY 4.0, videos YouTube's"


def test_every_annotated_interval_is_a_clip_in_the_order_of_the_file(tmp_path: Path) -> None:
    root = videos(tmp_path / "raw", "AnnaOne1.mp4", "sub/WDA_AnnaOne2.webm", "Radio1.mkv", "Radio2.mp4")
    specs = by_clip(hdtf.scan(root, annotations=annotate(tmp_path / "notes")))
    assert sorted(specs) == [
        "RD_Radio1_000",
        "RD_Radio2",
        "WDA_AnnaOne1_000",
        "WDA_AnnaOne1_001",
        "WDA_AnnaOne2_000",
    ]

    first, second, other = (specs[f"WDA_AnnaOne{clip}"] for clip in ("1_000", "1_001", "2_000"))
    assert (first.time_range, second.time_range) == ((490.0, 510.0), (33.0, 533.0))
    assert first.crop_hint == CropHint(x=10, y=20, width=300, height=300, listed_height=720)
    assert other.crop_hint == CropHint(x=1, y=2, width=240, height=240, listed_height=0)
    assert (first.video_id, other.video_id) == ("AAAA", "BBBB")
    assert first.path == second.path == "AnnaOne1.mp4"
    assert other.path == "sub/WDA_AnnaOne2.webm"
    assert {spec.identity for spec in (first, second, other)} == {"WDA_AnnaOne"}


def test_an_interval_without_a_crop_box_is_kept(tmp_path: Path) -> None:
    root = videos(tmp_path / "raw", "AnnaOne1.mp4")
    spec = by_clip(hdtf.scan(root, annotations=annotate(tmp_path / "notes")))["WDA_AnnaOne1_001"]
    assert (spec.crop_hint, spec.absent) == (None, None)


def test_what_is_missing_or_unknown_is_an_absent_row_with_its_reason(tmp_path: Path) -> None:
    root = videos(tmp_path / "raw", "AnnaOne1.mp4", "Radio2.mp4", "holiday.mp4")
    specs = by_clip(hdtf.scan(root, annotations=annotate(tmp_path / "notes")))
    assert {clip: reason(spec) for clip, spec in specs.items()} == {
        "WDA_AnnaOne1_000": None,
        "WDA_AnnaOne1_001": None,
        "WDA_AnnaOne2_000": Reason.SOURCE_MISSING,
        "RD_Radio1_000": Reason.SOURCE_MISSING,
        "RD_Radio2": Reason.NO_ANNOTATION,
        "holiday": Reason.NO_ANNOTATION,
    }
    missing = specs["RD_Radio1_000"].absent
    assert missing is not None and "https://www.youtube.com/watch?v=CCCC" in missing.detail


def test_a_cut_clip_stands_in_for_a_missing_original(tmp_path: Path) -> None:
    root = videos(tmp_path / "raw", "WDA_AnnaOne1_001.mp4", "AnnaOne2_0.mp4", "AnnaOne1.txt")
    specs = by_clip(hdtf.scan(root, annotations=annotate(tmp_path / "notes")))
    cut = specs["WDA_AnnaOne1_001"]
    assert (cut.path, cut.time_range, cut.crop_hint, cut.video_id) == (
        "WDA_AnnaOne1_001.mp4",
        None,
        None,
        "AAAA",
    )
    assert specs["WDA_AnnaOne2_000"].path == "AnnaOne2_0.mp4"
    assert reason(specs["WDA_AnnaOne1_000"]) is Reason.SOURCE_MISSING


def test_an_original_wins_over_the_clips_cut_from_it(tmp_path: Path) -> None:
    root = videos(tmp_path / "raw", "AnnaOne2.mp4", "WDA_AnnaOne2_000.mp4")
    spec = by_clip(hdtf.scan(root, annotations=annotate(tmp_path / "notes")))["WDA_AnnaOne2_000"]
    assert (spec.path, spec.time_range) == ("AnnaOne2.mp4", (5.0, 60.0))


def test_two_files_that_could_be_one_upload_are_refused(tmp_path: Path) -> None:
    root = videos(tmp_path / "raw", "AnnaOne2.mp4", "AnnaOne2.webm")
    with pytest.raises(SourceError, match=r"'AnnaOne2\.mp4' and 'AnnaOne2\.webm' could both be AnnaOne2"):
        hdtf.scan(root, annotations=annotate(tmp_path / "notes"))


def test_annotations_are_found_inside_a_clone_of_the_repository(tmp_path: Path) -> None:
    annotate(tmp_path / "HDTF/HDTF_dataset")
    assert len(hdtf_annotations.read(tmp_path / "HDTF")) == 4


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("WDA_annotion_time.txt", "AnnaOne1.mp4 00:10"),
        ("WDA_annotion_time.txt", "AnnaOne1.mp4 00:10-00:05"),
        ("WDA_annotion_time.txt", "AnnaOne1.mp4 ten-twenty"),
        ("WDA_crop_wh.txt", "AnnaOne1_0.mp4 1 2 3"),
        ("WDA_crop_wh.txt", "AnnaOne1_0.mp4 1 0 2 0"),
        ("WDA_resolution.txt", "AnnaOne1.mp4 high"),
    ],
)
def test_a_malformed_annotation_is_named_with_file_and_line(tmp_path: Path, name: str, line: str) -> None:
    notes = annotate(tmp_path / "notes", {**ANNOTATIONS, name: f"\n{line}\n"})
    with pytest.raises(SourceError, match=f"line 2 of .*{name}"):
        hdtf_annotations.read(notes)


def test_folders_that_hold_nothing_of_hdtf_say_so(tmp_path: Path) -> None:
    root = videos(tmp_path / "raw")
    with pytest.raises(SourceError, match="holds no video"):
        hdtf.scan(root)
    with pytest.raises(SourceError, match="annotion_time"):
        hdtf.scan(root, annotations=tmp_path)
    with pytest.raises(SourceError, match="there is no folder"):
        hdtf.scan(tmp_path / "nowhere", annotations=annotate(tmp_path / "notes"))


def test_the_download_list_tells_what_is_there_and_at_which_height(tmp_path: Path) -> None:
    notes = annotate(tmp_path / "notes")
    root = videos(tmp_path / "raw", "AnnaOne1.mp4", "RD_Radio1_000.mp4")
    rows = {row.name: row for row in hdtf.to_download(notes, root)}
    assert {name: row.present for name, row in rows.items()} == {
        "AnnaOne1": True,
        "AnnaOne2": False,
        "Radio1": True,
        "Radio2": False,
    }
    assert rows["AnnaOne1"] == hdtf.Download(
        "WDA",
        "AnnaOne1",
        "https://www.youtube.com/watch?v=AAAA&t=6s",
        720,
        ((490.0, 510.0), (33.0, 533.0)),
        True,
    )
    assert rows["Radio2"].intervals == ()
    assert not any(row.present for row in hdtf.to_download(notes))


def test_the_real_annotations_are_read_whole(clips: Path) -> None:
    uploads = hdtf_annotations.read(clips / "hdtf_annotations")
    assert Counter(upload.group for upload in uploads) == {"RD": 57, "WDA": 183, "WRA": 130}
    assert sum(bool(upload.intervals) for upload in uploads) == 369
    assert [upload.name for upload in uploads if not upload.intervals] == ["Radio24"]
    assert sum(len(upload.intervals) for upload in uploads) == 436
    assert sum(len(upload.crops) for upload in uploads) == 421
    assert all(upload.video_id for upload in uploads)

    named = {upload.name: upload for upload in uploads}
    assert named["CarolynMaloney2"].video_id == "RApGxN-O9Qc"  # behind the BOM
    assert named["MittRomney"].intervals == ((490.0, 510.0), (33.0, 533.0))
    assert named["KevinMcCarthy1"].listed_height == 0
    hours = sum(end - start for upload in uploads for start, end in upload.intervals) / 3600
    assert hours == pytest.approx(17.07, abs=0.01)


def test_names_that_share_a_real_video_id_are_one_person(clips: Path) -> None:
    people = defaultdict(set)
    for upload in hdtf_annotations.read(clips / "hdtf_annotations"):
        people[upload.video_id].add(hdtf.identity_of(f"{upload.group}_{upload.name}"))
    assert people["gh3YqnvNdio"] == {"WDA_JamesClyburn"}
    assert [ids for ids in people.values() if len(ids) > 1] == []


def test_the_57_real_radio_uploads_are_57_people(clips: Path) -> None:
    uploads = hdtf_annotations.read(clips / "hdtf_annotations")
    assert len({hdtf.identity_of(f"RD_{upload.name}") for upload in uploads if upload.group == "RD"}) == 57


def test_the_real_cut_clips_stand_in_for_their_annotated_intervals(clips: Path) -> None:
    specs = hdtf.scan(clips / "hdtf", annotations=clips / "hdtf_annotations")
    assert Counter(reason(spec) for spec in specs) == {
        None: 4,
        Reason.SOURCE_MISSING: 432,
        Reason.NO_ANNOTATION: 1,
    }
    assert {spec.clip for spec in specs if spec.absent is None} == {
        "RD_Radio2_000",
        "WDA_AlexandriaOcasioCortez_000",
        "WDA_BobMenendez_000",
        "WDA_EdMarkey0_000",
    }
