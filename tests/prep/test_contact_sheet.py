from __future__ import annotations

import base64
import html.parser
import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from edited_shards import edit_description, edit_index, edit_manifest, write_sound_dataset
from synthetic_shards import mask_plane

from g4g_core.errors import UsageError
from prep import drawing
from prep.contact_sheet import choose_clips, contact_sheet
from prep.shards.schema import MaskBit
from prep.summary import load_tables, summary

EVIL = "<script>alert(1)</script>"


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data

    def all(self, tag: str, kind: str | None = None) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag and kind in (None, attrs.get("class"))]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sound_dataset(tmp_path_factory.mktemp("sets") / "set")


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "set"))


def sheet(root: Path, **options: Any) -> Page:
    out = root.parent / "sheet.html"
    contact_sheet(root, out, **options)
    return Page(out)


def test_every_clip_of_the_index_has_a_card_with_its_crops_masks_and_mel(root: Path) -> None:
    page = sheet(root)
    assert len(page.all("article", "card")) == 6
    frames = [27 + 0, 30 + 25, 4, 26, 28, 26]
    assert len(page.all("figure")) == sum(min(6, count) for count in frames)
    for layer in ("lips", "mouth", "lower_face", "erase", "landmarks"):
        assert len(page.all("path", f"l-{layer}")) == len(page.all("figure")) + 1  # one in the legend
        (box,) = [box for box in page.all("input") if box.get("id") == f"layer-{layer}"]
        assert box["type"] == "checkbox"
        assert "checked" in box
    assert len(page.all("img")) == len(page.all("figure")) + 6


def test_numbers_on_the_cards_are_those_of_the_index(root: Path) -> None:
    def spread(row: dict[str, Any]) -> None:
        row.update(sharpness=10.0 * row["n_frames"], yaw=-float(row["n_frames"]), face_px=99.5)
        row.update(n_interpolated=2, av_offset=1.0, av_confidence=4.5)

    edit_index(root, spread)
    samples = load_tables(root).samples
    cards = sheet(root).all("article", "card")
    clips = sorted(samples.groupby(["source", "clip"]), key=lambda item: item[0])
    for card, ((source, _), rows) in zip(cards, clips, strict=True):
        weights = rows["n_frames"]
        assert card["data-source"] == source
        assert int(card["data-frames"] or "") == weights.sum()
        assert float(card["data-seconds"] or "") == pytest.approx(weights.sum() / 25)
        for column in ("sharpness", "yaw", "face_px", "loudness_dbfs", "snr_db", "brightness"):
            mean = (rows[column] * weights).sum() / weights.sum()
            assert float(card[f"data-{column}"] or "") == pytest.approx(mean, abs=1e-3)
        assert int(card["data-n_interpolated"] or "") == 2 * len(rows)
        assert float(card["data-av_offset"] or "") == 1.0
        assert float(card["data-av_confidence"] or "") == 4.5


def test_sync_that_nobody_measured_says_so_with_the_reason(root: Path) -> None:
    page = sheet(root)
    assert page.text.count("not measured: no estimator") == 6
    assert not any("data-av_offset" in card for card in page.all("article", "card"))


def test_strings_of_the_user_show_as_text(root: Path) -> None:
    def inject(row: dict[str, Any]) -> None:
        row.update(clip=f"{EVIL}{row['clip']}", source='"><i>s', identity=EVIL, text=f"{EVIL} said")
        row.update(licence=EVIL, redistributable=False, sync_reason=EVIL)

    def inject_rejected(row: dict[str, Any]) -> None:
        if row["outcome"] == "rejected":
            row.update(clip="<img src=x onerror=alert(2)>", detail=EVIL, source="'\"><b>")
        else:
            loss = {"stage": "shots", "reason": "face_lost", "detail": EVIL, "frame_start": 3, "n_frames": 9}
            row.update(partial=json.dumps([loss]))

    edit_index(root, inject)
    edit_manifest(root, inject_rejected)
    page = sheet(root)
    assert len(page.all("script")) == 1
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert page.text.count(EVIL) >= 6 * 4
    assert "<img src=x onerror=alert(2)>" in page.text
    assert {card["data-source"] for card in page.all("article", "card")} == {'"><i>s'}


def test_the_same_data_set_gives_the_same_bytes_in_any_folder(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "elsewhere" / "copy"))
    contact_sheet(root, tmp_path / "one.html")
    contact_sheet(f"{copy}/", tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert str(tmp_path) not in (tmp_path / "one.html").read_text()


def test_the_page_needs_nothing_but_itself(root: Path) -> None:
    page = sheet(root)
    links = [attrs[name] or "" for _, attrs in page.elements for name in ("src", "href") if name in attrs]
    assert links
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page.source)
    assert "@import" not in page.source
    assert "url(" not in page.source


def test_every_rejected_clip_is_listed_however_few_cards_there_are(root: Path) -> None:
    def reject(row: dict[str, Any]) -> None:
        if row["clip"] in ("a_00", "a_01"):
            row.update(outcome="rejected", stage="probe", reason="truncated", detail=f"cut: {row['clip']}")

    edit_manifest(root, reject)
    out = root.parent / "sheet.html"
    result = contact_sheet(root, out, limit=2)
    page = Page(out)
    assert (result.cards, result.rejected, result.left_out) == (2, 3, {"toy": 4})
    assert result.bytes == out.stat().st_size
    assert len(page.all("article", "card")) == 2
    for detail in ("cut: a_00", "cut: a_01", "no face in 9 frames"):
        assert detail in page.text
    assert "4 more are in the data set without a card" in page.text


def test_parts_that_were_not_taken_are_listed_with_their_place(root: Path) -> None:
    def lose(row: dict[str, Any]) -> None:
        if row["clip"] == "a_01":
            loss = {"stage": "tracking", "reason": "face_lost", "detail": "looked away"}
            row["partial"] = json.dumps([{**loss, "frame_start": 30, "n_frames": 10}])

    edit_manifest(root, lose)
    page = sheet(root)
    assert "looked away" in page.text
    assert "1.20 s" in page.text


def test_footage_that_may_not_be_passed_on_is_announced_on_top(root: Path) -> None:
    assert "may not be passed on" not in sheet(root).text

    def restrict(row: dict[str, Any]) -> None:
        if row["identity"] == "anna":
            row.update(source="lrs2", redistributable=False, licence="BBC terms")

    edit_index(root, restrict)
    text = sheet(root).text
    assert text.index("may not be passed on") < text.index("lrs2 (licence: BBC terms)") < text.index("Clips")
    assert "toy (licence" not in text


def test_cards_are_spread_over_sources_and_people() -> None:
    rows = [("big", f"p{n % 5}", f"c{n:02d}") for n in range(40)]
    rows += [("small", "q0", "d0"), ("small", "q0", "d1"), ("small", "q1", "d2")]
    samples = pd.DataFrame(rows, columns=["source", "identity", "clip"])
    people = {(source, clip): identity for source, identity, clip in rows}
    chosen = choose_clips(samples, limit=8)
    assert len([clip for clip in chosen if clip[0] == "small"]) == 3
    assert {people[clip] for clip in chosen} == {"p0", "p1", "p2", "p3", "p4", "q0", "q1"}
    assert choose_clips(samples.sample(frac=1, random_state=3), limit=8) == chosen
    assert choose_clips(samples, limit=8, seed=1) != chosen
    assert len(choose_clips(samples, per_source=2)) == 4


@pytest.mark.parametrize("options", [{"limit": 0}, {"per_source": 0}])
def test_a_sheet_without_cards_is_refused(root: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        sheet(root, **options)


def test_a_set_in_which_every_clip_was_rejected_still_has_a_page(root: Path) -> None:
    def reject(row: dict[str, Any]) -> None:
        row.update(outcome="rejected", stage="probe", reason="unreadable", detail=f"bad {row['clip']}")

    edit_description(root, splits={})
    edit_manifest(root, reject)
    page = sheet(root)
    assert "No clip gave a sample." in page.text
    assert "bad a_00" in page.text


def test_the_outline_of_a_mask_encloses_its_pixels() -> None:
    plane = mask_plane(128)
    for bit in MaskBit:
        outline = np.array(absolute(drawing.mask_path(plane, bit)))
        drawn = np.zeros((drawing.VIEW, drawing.VIEW), np.uint8)
        cv2.fillPoly(drawn, [outline.astype(np.int32)], 1)
        wanted = ((plane & int(bit)) > 0).repeat(2, axis=0).repeat(2, axis=1)
        assert (drawn != wanted).mean() < 0.01
    assert drawing.mask_path(np.zeros((128, 128), np.uint8), MaskBit.LIPS) == ""


def absolute(path: str) -> list[tuple[int, int]]:
    """Corners of a path of one contour."""
    x, y = map(int, re.fullmatch(r"M(-?\d+) (-?\d+)(?:l-?\d+ -?\d+)+z", path).groups())  # type: ignore[union-attr]
    corners = [(x, y)]
    for step_x, step_y in re.findall(r"l(-?\d+) (-?\d+)", path):
        x, y = x + int(step_x), y + int(step_y)
        corners.append((x, y))
    return corners


def test_landmarks_are_drawn_as_nine_lines_in_the_coordinates_of_the_crop() -> None:
    points = np.stack([np.arange(68), np.arange(68) + 10], axis=1).astype(np.float32)
    path = drawing.landmark_path(points, 128)
    assert path.startswith("M1 21")
    assert path.count("M") == 9
    assert path.count("z") == 4


def test_mel_columns_that_no_segment_holds_are_grey() -> None:
    mel = np.full((40, 80), 3.0, np.float32)
    uri = drawing.mel_strip([(0, mel), (80, mel)], 120)
    data = base64.b64decode(uri.partition("base64,")[2])
    image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), int)
    assert image.shape == (40, 120, 3)
    saturation = (image.max(axis=2) - image.min(axis=2)).mean(axis=0)
    assert saturation[50:70].max() < 10 < saturation[[5, 30, 90, 110]].min()


def test_the_summary_adds_up(root: Path) -> None:
    result = summary(root)
    values = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [(group.split, group.clips, group.samples, group.frames) for group in result.groups] == [
        ("test", 1, 1, 26),
        ("train", 4, 5, 112),
        ("val", 1, 1, 28),
    ]
    assert (result.total.identities, result.total.frames) == (4, 166)
    assert values["rejected"] == {"toy": {"no_face": 1}}
    assert values["bytes"] == sum(path.stat().st_size for path in root.glob("*.tar"))
    assert result.total.av_offset is None
