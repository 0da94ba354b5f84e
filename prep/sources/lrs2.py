"""The source ``lrs2``: LRS2-BBC as shipped, ``mvlrs_v1/{main,pretrain}/<programme>/<clip>.mp4|.txt``."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from g4g_core import storage
from g4g_core.errors import SourceError
from prep.records import SPLITS, ClipSpec, Reason, Rejection, Word
from prep.sources import naming

LICENCE = "BBC LRS2: non-commercial research, no redistribution"

_ARCHIVE = "mvlrs_v1"
_PARTS = ("main", "pretrain")
_LISTS = (*SPLITS, "pretrain")
_READERS = 32
_WORD_TABLE = "\nWORD START END"
_VIDEO = re.compile(r"(main|pretrain)/([^/.][^/]*)/([^/.][^/]*)\.mp4")
_LISTED = re.compile(r"([A-Za-z0-9_-]+/[A-Za-z0-9_-]+?)(?:\.mp4)?")


def scan(root: storage.Url, *, lists: storage.Url | None = None, name: str = "lrs2") -> list[ClipSpec]:
    """Every clip of the split lists, and every one on disk, sorted by clip id.

    The identity is the programme's id. Clip ids start below ``mvlrs_v1`` (``main_<programme>_<clip>``), so
    they are the same whether ``root`` is that folder or the one above.

    - A clip of ``main`` has the split of the list that names it. One on disk that no list names is absent
      with ``not_in_split_list``, unless there is none of the three lists: then all splits stay ``None``.
    - A clip of ``pretrain`` has split ``train`` and subset ``pretrain``; ``pretrain.txt``, where there is
      one, decides which belong.
    - A clip that a list names and the disk does not hold is absent with ``source_missing``.

    Args:
        root: ``mvlrs_v1`` or the folder that holds it.
        lists: folder of ``train.txt val.txt test.txt pretrain.txt``; by default beside ``mvlrs_v1`` or in it.
        name: the source's name.

    Raises:
        SourceError: when ``root`` is no LRS2 folder, a list is malformed, or two lists name the same clip.
    """
    home = _home(root)
    files = set(storage.list_files(storage.join(root, home) if home else root, recursive=True))
    split_lists = _read_lists(
        [lists] if lists is not None else _list_folders(root, home), explicit=lists is not None
    )
    listed = _split_of(split_lists)

    found = {match[0][: -len(".mp4")] for file in files if (match := _VIDEO.fullmatch(file))}
    if not found and not listed:
        raise SourceError(
            f"{root} holds no LRS2 clip",
            f"Clips are {_ARCHIVE}/main/<programme>/<5 digits>.mp4, with a .txt beside.",
        )
    has_lists = {"main": any(split in split_lists for split in SPLITS), "pretrain": "pretrain" in split_lists}
    stems = sorted(found | listed.keys())
    transcripts = _read_transcripts(root, home, [f"{stem}.txt" for stem in stems if stem in found], files)

    specs = []
    for stem in stems:
        part, programme, _ = stem.split("/")
        split = listed.get(stem) or ("train" if part == "pretrain" and not has_lists[part] else None)
        absent = None
        if stem not in found:
            absent = Rejection(
                "source", Reason.SOURCE_MISSING, f"a split list names {stem}, but there is no such file"
            )
        elif has_lists[part] and stem not in listed:
            absent = Rejection("source", Reason.NOT_IN_SPLIT_LIST, f"no split list names {stem}")
        text, words = parse_transcript(transcripts[stem]) if stem in transcripts else (None, ())
        specs.append(
            ClipSpec(
                source=name,
                clip=naming.clip_id(f"{stem}.mp4"),
                identity=programme,
                path=f"{home}/{stem}.mp4" if home else f"{stem}.mp4",
                split=split,
                subset=part,
                text=text,
                words=words,
                licence=LICENCE,
                absent=absent,
            )
        )
    return specs


def parse_transcript(data: str) -> tuple[str | None, tuple[Word, ...]]:
    """Text and timed words of a clip's ``.txt``: ``Text:  WORDS``, ``Conf:  n``; in pretrain a word table.

    The table follows a line ``WORD START END ASDSCORE``; times are seconds from the clip's start. A row that
    does not parse is left out: the text and the clip are worth more than one word's times.
    """
    head, header, table = data.partition(_WORD_TABLE)
    text = None
    for line in head.splitlines():
        label, colon, value = line.partition(":")
        if colon and label.strip() == "Text":
            text = " ".join(value.split())
            break
    return text, tuple(_parse_words(table)) if header else ()


def _parse_words(table: str) -> list[Word]:
    words = []
    for line in table.splitlines()[1:]:  # the first is the rest of the header
        fields = line.split()
        try:
            start, end = float(fields[1]), float(fields[2])
            score = float(fields[3]) if len(fields) > 3 else None
        except (IndexError, ValueError):
            continue
        # NaN compares false, so it fails here too.
        if 0 <= start <= end < math.inf and (score is None or math.isfinite(score)):
            words.append(Word(fields[0], start, end, score))
    return words


def _home(root: storage.Url) -> str:
    """``mvlrs_v1`` where ``root`` holds that folder, "" where it is that folder."""
    if storage.exists(storage.join(root, _ARCHIVE)):
        return _ARCHIVE
    if any(storage.exists(storage.join(root, part)) for part in _PARTS):
        return ""
    if not storage.exists(root):
        raise SourceError(f"there is no folder {root}", "Check the path.")
    raise SourceError(
        f"{root} is no LRS2 folder: it holds neither {_ARCHIVE} nor main nor pretrain",
        f"Point at {_ARCHIVE} or at the folder that holds it.",
    )


def _list_folders(root: storage.Url, home: str) -> list[storage.Url]:
    if home:
        return [root, storage.join(root, home)]
    # "." has no parent in its name
    absolute = os.path.abspath(storage.local_path(root)) if storage.is_local(root) else root
    return [storage.parent(absolute), root]


def _read_lists(folders: Iterable[storage.Url], *, explicit: bool) -> dict[str, list[str]]:
    """Entries ``programme/clip`` of each list that is there; the first folder that has a list wins."""
    lists: dict[str, list[str]] = {}
    for folder in folders:
        names = set(storage.list_files(folder))
        for split in _LISTS:
            if f"{split}.txt" in names and split not in lists:
                lists[split] = _read_list(storage.join(folder, f"{split}.txt"))
        if explicit and not lists:
            raise SourceError(
                f"{folder} holds none of {', '.join(f'{s}.txt' for s in _LISTS)}", "Check --lists."
            )
    return lists


def _read_list(path: str) -> list[str]:
    entries = []
    for number, line in enumerate(storage.read_bytes(path).decode("utf-8-sig", "replace").splitlines(), 1):
        # Lines of test.txt have a second column (NF, MV).
        for token in line.split()[:1]:
            match = _LISTED.fullmatch(token)
            if match is None:
                raise SourceError(
                    f"line {number} of {path} is {token[:80]!r}, not <programme>/<clip>",
                    "Use the lists that come with LRS2, or say where they are.",
                )
            entries.append(match[1])
    return entries


def _split_of(lists: Mapping[str, list[str]]) -> dict[str, str]:
    """``part/programme/clip`` -> split. Raises SourceError for a clip that two lists claim."""
    listed: dict[str, str] = {}
    for split, entries in lists.items():
        part, value = ("pretrain", "train") if split == "pretrain" else ("main", split)
        for entry in entries:
            other = listed.setdefault(f"{part}/{entry}", value)
            if other != value:
                raise SourceError(
                    f"{other}.txt and {split}.txt both name {entry}", "Remove it from one of the two lists."
                )
    return listed


def _read_transcripts(root: storage.Url, home: str, names: Iterable[str], files: set[str]) -> dict[str, str]:
    """Contents of those ``names`` that are among ``files``, by name without suffix."""
    names = [name for name in names if name in files]
    folder = f"{os.fspath(root).rstrip('/')}/{home}".rstrip("/")

    def read(name: str) -> str:
        return storage.read_bytes(f"{folder}/{name}").decode("utf-8-sig", "replace")

    if storage.is_local(root):
        texts = [read(name) for name in names]
    else:  # a store answers in tens of milliseconds, and LRS2 has 144,000 of these
        with ThreadPoolExecutor(_READERS) as pool:
            texts = list(pool.map(read, names))
    return {name[: -len(".txt")]: text for name, text in zip(names, texts, strict=True)}
