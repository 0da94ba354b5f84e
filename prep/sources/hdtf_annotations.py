"""The annotation files of HDTF: which stretch of which upload is a clip, and where the face is.

``HDTF_dataset`` holds five files for each of the groups RD, WDA and WRA, space-separated, without header::

    *_video_url.txt      name url                            one file starts with a BOM
    *_annotion_time.txt  name.mp4 MM:SS-MM:SS ...            interval i is clip name_i; (sic)
    *_crop_wh.txt        name_i.mp4 x w y h                  pixels of a video of the listed height
    *_resolution.txt     name.mp4 height                     0 where nobody noted it
    *_crop_ratio.txt     not needed: our own crop replaces theirs
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, urlparse

from g4g_core import storage
from g4g_core.errors import SourceError
from prep.records import CropHint

_FILE = re.compile(r"([A-Za-z0-9]+)_(video_url|annot(?:at)?ion_time|crop_wh|resolution)\.txt")
_INNER_FOLDER = "HDTF_dataset"


@dataclasses.dataclass(frozen=True)
class Upload:
    """One original video as the annotations describe it.

    Attributes:
        group: ``RD``, ``WDA`` or ``WRA``.
        name: the authors' name of it, e.g. ``BobMenendez``.
        url: where it is, or "".
        listed_height: height in pixels that the crop boxes assume; 0 where not noted.
        intervals: (start, end) in seconds of each clip, in the file's order: neither sorted nor disjoint.
        crops: the face square of clip ``i``, where there is one.
    """

    group: str
    name: str
    url: str = ""
    listed_height: int = 0
    intervals: tuple[tuple[float, float], ...] = ()
    crops: Mapping[int, CropHint] = dataclasses.field(default_factory=dict)

    @property
    def video_id(self) -> str | None:
        """The upload's id on YouTube, ``None`` where the url holds none."""
        url = urlparse(self.url)
        ids = parse_qs(url.query).get("v")
        if ids:
            return ids[0]
        return url.path.strip("/") or None if url.netloc == "youtu.be" else None

    def clip_name(self, index: int) -> str:
        """The name under which people publish the cut clip, e.g. ``WDA_BobMenendez_000``."""
        return f"{self.group}_{self.name}_{index:03d}"


def read(annotations: storage.Url) -> list[Upload]:
    """All uploads of the annotation folder (or of a clone of the repository), by group, in the files' order.

    Raises:
        SourceError: when the folder holds no annotation files, or a line in them is malformed.
    """
    folder = annotations
    files = _find(folder)
    if not files:
        folder = storage.join(annotations, _INNER_FOLDER)
        files = _find(folder)
    if not any("time" in kinds for kinds in files.values()):
        raise SourceError(
            f"{annotations} holds no *_annotion_time.txt",
            f"Point at the folder {_INNER_FOLDER} of the HDTF repository.",
        )
    uploads = []
    for group in sorted(files):
        tables = {kind: _read_table(storage.join(folder, name)) for kind, name in files[group].items()}
        uploads += _uploads(group, tables)
    return uploads


def _find(folder: storage.Url) -> dict[str, dict[str, str]]:
    """group -> kind -> file name."""
    files: dict[str, dict[str, str]] = {}
    for name in storage.list_files(folder):
        if match := _FILE.fullmatch(name):
            kind = "time" if match[2].endswith("_time") else match[2]
            files.setdefault(match[1], {})[kind] = name
    return files


def _read_table(path: str) -> dict[str, tuple[str, list[str]]]:
    """First column without ``.mp4`` -> (where it stands, the other columns)."""
    table = {}
    for number, line in enumerate(storage.read_bytes(path).decode("utf-8-sig", "replace").splitlines(), 1):
        fields = line.split()
        if fields:
            table[fields[0].removesuffix(".mp4")] = (f"line {number} of {path}", fields[1:])
    return table


def _uploads(group: str, tables: Mapping[str, dict[str, tuple[str, list[str]]]]) -> list[Upload]:
    urls, times = tables.get("video_url", {}), tables.get("time", {})
    heights, crops = tables.get("resolution", {}), tables.get("crop_wh", {})
    uploads = []
    for name in dict.fromkeys([*urls, *times]):
        height = _height(*heights[name]) if name in heights else 0
        where, spans = times.get(name, ("", []))
        intervals = tuple(_interval(where, span) for span in spans)
        uploads.append(
            Upload(
                group=group,
                name=name,
                url=" ".join(urls[name][1][:1]) if name in urls else "",
                listed_height=height,
                intervals=intervals,
                crops={
                    index: _crop(*crops[f"{name}_{index}"], height)
                    for index in range(len(intervals))
                    if f"{name}_{index}" in crops
                },
            )
        )
    return uploads


def _height(where: str, fields: list[str]) -> int:
    if len(fields) != 1 or not fields[0].isdecimal():
        raise SourceError(f"{where} gives no height", "It should read: name.mp4 720")
    return int(fields[0])


def _interval(where: str, span: str) -> tuple[float, float]:
    times = span.split("-")
    if len(times) != 2 or not all(re.fullmatch(r"\d+(:\d+){1,2}", time) for time in times):
        raise SourceError(f"{where}: {span[:40]!r} is no interval", "It should read MM:SS-MM:SS.")
    start, end = (_seconds(time) for time in times)
    if end <= start:
        raise SourceError(f"{where}: {span!r} ends before it starts", "Correct the line.")
    return start, end


def _seconds(time: str) -> float:
    seconds = 0
    for part in time.split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)


def _crop(where: str, fields: list[str], listed_height: int) -> CropHint:
    try:
        x, width, y, height = (int(field) for field in fields)
    except ValueError:
        raise SourceError(f"{where} gives no box", "It should read: name_0.mp4 x w y h") from None
    if width <= 0 or height <= 0:
        raise SourceError(f"{where} gives an empty box", "It should read: name_0.mp4 x w y h")
    return CropHint(float(x), float(y), float(width), float(height), listed_height)
