"""What the guarded child does for its worker: requests in, small answers out; files are committed as it goes.

A unit is a clip. Its folder holds ``clip.json`` (what pass 1 found), for long clips ``tracks.npz``, and per part
``part-000.tar`` and ``part-000.json``; each JSON is written after the files it speaks of, and carries the fingerprint
of everything that its bytes depend on.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from g4g_core import storage
from g4g_core.errors import StorageError
from prep.config import BuildConfig
from prep.media import explain_failure, open_media
from prep.records import ClipSpec, Reason, Rejection
from prep.run.encode_pass import encode_part
from prep.run.track_pass import track_clip
from prep.run.tracked import Backends, FrameCache, Timings, TrackedClip, load_tracks, save_tracks
from prep.stages.probe import probe

CLIP_FILE = "clip.json"
TRACKS_FILE = "tracks.npz"


def part_stem(part: int) -> str:
    return f"part-{part:03d}"


def unit_folder(work: str, uid: str) -> str:
    """Where a clip's files lie: hashed, because clip ids may be longer than file names."""
    name = hashlib.sha256(uid.encode()).hexdigest()[:24]
    return storage.join(work, "units", name[:2], name)


def committed_part(folder: str, part: int, fingerprint: str) -> dict[str, Any] | None:
    """The record of a part that was finished for this ``fingerprint``; its tar may have gone into a shard since."""
    url = storage.join(folder, part_stem(part) + ".json")
    record = read_record(url)
    return record if record is not None and record.get("fingerprint") == fingerprint else None


def has_blocks(folder: str, part: int, record: Mapping[str, Any]) -> bool:
    """Whether the tar blocks of a committed part are still in its folder, whole."""
    url = storage.join(folder, part_stem(part) + ".tar")
    return storage.exists(url) and storage.size(url) == record["bytes"]


def read_record(url: str) -> dict[str, Any] | None:
    """A JSON file of ours; ``None`` where there is none, or where something damaged it: then it is made again."""
    if not storage.exists(url):
        return None
    try:
        record = json.loads(storage.read_bytes(url))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def probe_clips(request: Mapping[str, Any]) -> dict[str, Any]:
    """``probe``: headers and content hashes of clips, one answer each, in order."""
    config = BuildConfig.model_validate(request["config"])
    hashes: dict[str, str] = {}
    answers: list[dict[str, Any]] = []
    for item in request["clips"]:
        spec, url = ClipSpec.from_json(item["spec"]), item["url"]
        found = _refuse_unreadable(url)
        if found is not None:
            answers.append({"rejection": dataclasses.asdict(found)})
            continue
        found = _probe(url, spec, config)
        if isinstance(found, Rejection) and found.reason is Reason.SOURCE_MISSING:
            answers.append({"rejection": dataclasses.asdict(found)})
            continue
        if url not in hashes:
            hashes[url] = _content_sha256(url)
        key = "rejection" if isinstance(found, Rejection) else "probe"
        answers.append({"content_sha256": hashes[url], key: dataclasses.asdict(found)})
    return {"answers": answers}


def _refuse_unreadable(url: str) -> Rejection | None:
    """Why a local file cannot even be read: one file without rights, or a pipe, must not end a run of thousands."""
    if not storage.is_local(url):
        return None
    path = storage.local_path(url)
    if os.path.exists(path) and not os.path.isfile(path):
        return Rejection("probe", Reason.UNREADABLE, "it is no regular file")
    try:
        with open(path, "rb") as stream:
            stream.read(1)
    except FileNotFoundError:
        return Rejection("probe", Reason.SOURCE_MISSING, "the file is not there")
    except OSError as error:
        return Rejection("probe", Reason.UNREADABLE, f"the file cannot be read: {error.strerror}")
    return None


def _probe(url: str, spec: ClipSpec, config: BuildConfig) -> Any:
    import av

    try:
        with open_media(url) as container:
            return probe(container, time_range=spec.time_range, min_frames=config.min_frames)
    except (av.error.FFmpegError, OSError, EOFError) as error:
        return explain_failure(url, error)
    except StorageError as error:  # one object of a store that is gone or refused is a row, not the end of the run
        return Rejection("probe", Reason.SOURCE_MISSING, error.what)


def _content_sha256(url: str) -> str:
    hasher = hashlib.sha256()
    with storage.open_read(url) as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


def process_clip(request: Mapping[str, Any]) -> dict[str, Any]:
    """``clip``: pass 1, and pass 2 at once where the clip is one part."""
    spec = ClipSpec.from_json(request["spec"])
    config = BuildConfig.model_validate(request["config"])
    folder, url = request["folder"], request["url"]
    done = _committed_clip(folder, request["fingerprint"])
    if done is not None:
        return {"outcome": done["outcome"], "parts": done["parts"]}
    # the record goes before what it speaks of is written anew: a kill in between must not leave an older record,
    # of another configuration, beside newer bytes
    storage.delete(storage.join(folder, CLIP_FILE))
    timings = Timings()
    long = request["estimated_frames"] > config.part_frames
    cache = FrameCache(0 if long else config.cache_mb << 20)
    found = track_clip(url, spec, config, _backends(config.landmarks, config.batch_size), timings, cache)
    record: dict[str, Any] = {"fingerprint": request["fingerprint"], "uid": spec.uid}
    if isinstance(found, Rejection):
        record |= {"outcome": "rejected", "rejection": dataclasses.asdict(found), "parts": 0}
    else:
        parts = found.parts(config.part_frames)
        record |= {"outcome": "ok", "parts": len(parts), **_facts(found)}
        if len(parts) > 1:
            storage.write_bytes(storage.join(folder, TRACKS_FILE), save_tracks(found))
        else:
            _write_part(request, spec, found, 0, config, cache, timings)
    record["seconds"] = {stage: round(seconds, 4) for stage, seconds in sorted(timings.seconds.items())}
    storage.write_json(storage.join(folder, CLIP_FILE), record)
    return {"outcome": record["outcome"], "parts": record["parts"]}


def _committed_clip(folder: str, fingerprint: str) -> dict[str, Any] | None:
    """What an earlier attempt left: Dask repeats a whole batch when a worker dies, finished clips included."""
    record = read_record(storage.join(folder, CLIP_FILE))
    if record is None or record.get("fingerprint") != fingerprint:
        return None
    if record["parts"] > 1:
        return record if storage.exists(storage.join(folder, TRACKS_FILE)) else None
    for part in range(record["parts"]):
        committed = committed_part(folder, part, fingerprint)
        if committed is None or not has_blocks(folder, part, committed):
            return None
    return record


def process_part(request: Mapping[str, Any]) -> dict[str, Any]:
    """``part``: pass 2 of one part of a long clip."""
    spec = ClipSpec.from_json(request["spec"])
    config = BuildConfig.model_validate(request["config"])
    done = committed_part(request["folder"], request["part"], request["fingerprint"])
    if done is not None and has_blocks(request["folder"], request["part"], done):
        return {"outcome": "ok"}
    tracked = load_tracks(storage.read_bytes(storage.join(request["folder"], TRACKS_FILE)))
    cache = FrameCache(0)
    _write_part(request, spec, tracked, request["part"], config, cache, Timings())
    return {"outcome": "ok"}


def _write_part(
    request: Mapping[str, Any],
    spec: ClipSpec,
    tracked: TrackedClip,
    part: int,
    config: BuildConfig,
    cache: FrameCache,
    timings: Timings,
) -> None:
    stem = storage.join(request["folder"], part_stem(part))
    pieces = tracked.parts(config.part_frames)[part]
    kept = cache.frames or None
    before = dict(timings.seconds)
    storage.delete(f"{stem}.json")  # as clip.json above
    with storage.atomic_writer(f"{stem}.tar") as stream:
        rows = encode_part(
            request["url"], spec, tracked, pieces, request["content_sha256"], config, kept, stream, timings
        )
        n_bytes = stream.tell()
    spent = {stage: round(seconds - before.get(stage, 0.0), 4) for stage, seconds in timings.seconds.items()}
    record = {"fingerprint": request["fingerprint"], "rows": rows, "bytes": n_bytes, "seconds": spent}
    storage.write_json(f"{stem}.json", record)


def _facts(clip: TrackedClip) -> dict[str, Any]:
    """What the manifest says of a clip that gave samples."""
    return {
        "partial": [dataclasses.asdict(rejection) for rejection in clip.partial],
        "clip_frames": clip.n_frames,
        "width": clip.probe.width,
        "height": clip.probe.height,
        "fps": round(clip.probe.fps, 4),
        **clip.facts,
    }


@functools.cache
def _backends(name: str, batch_size: int | None) -> Backends:
    from prep.landmarks.dlib import DlibLandmarks

    if name == "fan":
        from prep.landmarks.fan import FanLandmarks

        return Backends(DlibLandmarks(), FanLandmarks(batch_size=batch_size))
    return Backends(DlibLandmarks())


def _crash(request: Mapping[str, Any]) -> dict[str, Any]:
    """``crash``: end as a native library would; for tests of the guard."""
    os.abort()


def _sleep(request: Mapping[str, Any]) -> dict[str, Any]:
    """``sleep``: hang; for tests of the guard."""
    import time

    time.sleep(float(request["seconds"]))
    return {}


def assemble(request: Mapping[str, Any]) -> dict[str, Any]:
    """``assemble``: join committed parts to a shard; see :mod:`prep.shards.assemble`."""
    from prep.shards.assemble import assemble_shard

    return assemble_shard(request)


OPERATIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "probe": probe_clips,
    "clip": process_clip,
    "part": process_part,
    "assemble": assemble,
    "crash": _crash,
    "sleep": _sleep,
}
