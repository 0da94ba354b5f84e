"""The source ``hdtf``: clips that are already cut, or the original uploads plus the authors' annotations."""

from __future__ import annotations

import dataclasses
import posixpath
import re

from g4g_core import storage
from g4g_core.errors import SourceError
from prep.records import ClipSpec, Reason, Rejection
from prep.sources import hdtf_annotations, naming
from prep.sources.folder import list_videos
from prep.sources.hdtf_annotations import Upload

LICENCE = "HDTF: annotations CC BY 4.0, videos YouTube's"

SAME_PERSON = {"WhipJimClyburn": "JamesClyburn"}
"""Names of one person that do not read alike: the annotations give both one video id (``gh3YqnvNdio``).

Cut clips carry no video id, so without this table that upload could be on both sides of a split.
"""

_CUT = re.compile(r"(?:(?P<group>RD|WDA|WRA)_)?(?P<name>.+?)(?:_\d+)*")
_RADIO = re.compile(r"Radio\d+")


@dataclasses.dataclass(frozen=True)
class Download:
    """One upload that the annotations use, and whether it is there.

    Attributes:
        group, name: the authors' names of it; the file is expected as ``<name>.mp4``.
        url: where it is, "" where the annotations do not say.
        listed_height: height in pixels that the crop boxes assume (boxes are scaled to others); 0: not noted.
        intervals: (start, end) in seconds that are used; empty where the upload is of no use.
        present: whether the original, or every clip cut from it, is in the root.
    """

    group: str
    name: str
    url: str
    listed_height: int
    intervals: tuple[tuple[float, float], ...]
    present: bool


def scan(root: storage.Url, *, annotations: storage.Url | None = None, name: str = "hdtf") -> list[ClipSpec]:
    """Clips of HDTF, sorted by clip id.

    Without ``annotations`` every video under ``root`` is a clip already cut, ``WDA_BobMenendez_000.mp4``.

    With them there is one clip per annotated interval, ``WDA_BobMenendez_000``, inside the original
    ``BobMenendez.mp4`` (or ``WDA_BobMenendez.mp4``, or another video suffix, in any folder). Where the
    original is missing but the cut clip is there, that is taken whole. Absent are: intervals with neither
    (``source_missing``), uploads without times, and videos that the annotations do not know
    (``no_annotation``). An interval without a crop box is kept: the detector finds the face.

    Raises:
        SourceError: when nothing is there, an annotation is malformed, or two files could be one upload.
    """
    paths = list_videos(root)
    if not paths and not storage.exists(root):
        raise SourceError(f"there is no folder {root}", "Check the path.")
    if annotations is None:
        if not paths:
            raise SourceError(
                f"{root} holds no video", "Point at the folder of clips, such as WDA_BobMenendez_000.mp4."
            )
        specs = [_cut_clip(path, name) for path in paths]
    else:
        files = _Files(paths)
        specs = [
            spec for upload in hdtf_annotations.read(annotations) for spec in _annotated(upload, files, name)
        ]
        detail = "the annotations do not know this file"
        specs += [
            dataclasses.replace(
                _cut_clip(path, name), absent=Rejection("source", Reason.NO_ANNOTATION, detail)
            )
            for path in files.unknown()
        ]
    return sorted(specs, key=lambda spec: spec.clip)


def to_download(annotations: storage.Url, root: storage.Url | None = None) -> list[Download]:
    """Every upload of the annotations, by group, and whether ``root`` holds it (``None`` holds nothing)."""
    files = _Files(list_videos(root) if root is not None else [])
    downloads = []
    for upload in hdtf_annotations.read(annotations):
        cuts = [files.cut(upload, index) is not None for index in range(len(upload.intervals))]
        present = files.original(upload) is not None or (bool(cuts) and all(cuts))
        downloads.append(
            Download(upload.group, upload.name, upload.url, upload.listed_height, upload.intervals, present)
        )
    return downloads


def identity_of(stem: str) -> str:
    """The person of ``WDA_AdamKinzinger2_000``: ``WDA_AdamKinzinger``.

    Trailing digits of a name count that person's uploads, except in ``Radio<n>``: those are 57 people.
    """
    match = _CUT.fullmatch(stem)
    if match is None:
        return stem
    person = match["name"] if _RADIO.fullmatch(match["name"]) else match["name"].rstrip("0123456789")
    person = SAME_PERSON.get(person, person) or match["name"]
    return f"{match['group']}_{person}" if match["group"] else person


class _Files:
    """The videos of a root, looked up by the names that annotations use."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths
        self._by_stem: dict[str, list[str]] = {}
        for path in paths:
            self._by_stem.setdefault(_stem(path), []).append(path)
        self._known: set[str] = set()

    def original(self, upload: Upload) -> str | None:
        return self._find(upload.name, f"{upload.group}_{upload.name}")

    def cut(self, upload: Upload, index: int) -> str | None:
        return self._find(upload.clip_name(index), f"{upload.name}_{index:03d}", f"{upload.name}_{index}")

    def unknown(self) -> list[str]:
        """Those that nobody has asked for."""
        return [path for path in self._paths if path not in self._known]

    def _find(self, *stems: str) -> str | None:
        found = [path for stem in stems for path in self._by_stem.get(stem, [])]
        if len(found) > 1:
            raise SourceError(
                f"{found[0]!r} and {found[1]!r} could both be {stems[0]}", "Keep one of them under the root."
            )
        self._known.update(found)
        return found[0] if found else None


def _cut_clip(path: str, source: str) -> ClipSpec:
    return ClipSpec(
        source=source,
        clip=naming.clip_id(path),
        identity=identity_of(_stem(path)),
        path=path,
        licence=LICENCE,
    )


def _annotated(upload: Upload, files: _Files, source: str) -> list[ClipSpec]:
    original = files.original(upload)
    whole = ClipSpec(
        source=source,
        clip=naming.clip_id(f"{upload.group}_{upload.name}"),
        identity=identity_of(f"{upload.group}_{upload.name}"),
        path=original or f"{upload.name}.mp4",
        video_id=upload.video_id,
        licence=LICENCE,
    )
    if not upload.intervals:
        detail = f"the annotations give no times for {upload.name}"
        return [dataclasses.replace(whole, absent=Rejection("source", Reason.NO_ANNOTATION, detail))]

    specs = []
    for index, interval in enumerate(upload.intervals):
        clip = dataclasses.replace(
            whole,
            clip=naming.clip_id(upload.clip_name(index)),
            time_range=interval,
            crop_hint=upload.crops.get(index),
        )
        cut = files.cut(upload, index)
        if original is None and cut is not None:
            clip = dataclasses.replace(clip, path=cut, time_range=None, crop_hint=None)
        elif original is None:
            detail = f"{upload.name}.mp4 is not there" + (f"; it is {upload.url}" if upload.url else "")
            clip = dataclasses.replace(clip, absent=Rejection("source", Reason.SOURCE_MISSING, detail))
        specs.append(clip)
    return specs


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]
