"""The work list: every input clip probed, fingerprinted and given a shard, before anything is decoded in earnest."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from g4g_core import provenance, storage, weights
from g4g_core.progress import progress
from prep.config import BuildConfig
from prep.landmarks import weights_of
from prep.records import FPS, ClipSpec, Reason, Rejection, rejection_from_json
from prep.run.runners import Result, Runner, Task
from prep.run.work import (
    read_record,
)
from prep.shards import schema
from prep.shards.plan import bytes_per_frame, shards_of
from prep.sources import SourceRoot, scan_all
from prep.sources.identity import IdentityRule
from prep.stages.sync import EXPERTS
from prep.sync_expert import infer

PIPELINE_SOURCES = (
    *("prep.stages", "prep.landmarks", "prep.run.tracked", "prep.run.track_pass", "prep.run.encode_pass"),
    *("prep.shards.sample", "prep.records", "prep.media", "prep.sync_expert.mouths", "prep.sync_expert.design"),
    *("prep.sync_expert.audio", "prep.sync_expert.infer", "prep.sync_expert.reading"),
)
"""The code that decides the bytes of a sample."""

FAN_PACKAGES = ("face-alignment", "torch")

SECONDS_PER_SECOND = {"dlib": 10.0, "fan": 60.0}
"""Seconds that a second of footage may take on top of ``time_limit`` before a clip is given up."""

PIPELINE_PACKAGES = ("av", "dlib-bin", "numpy", "opencv-python-headless", "opencv-python")

SECONDS_PER_FRAME = {"dlib": 0.008, "fan": 0.65}
"""Core-seconds a frame without a GPU, for estimates before a run (512x512 footage, one 2.8 GHz core)."""
GPU_SECONDS_PER_FRAME = {"dlib": 0.0, "fan": 0.002}
_PROBE_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class PlannedClip:
    """One row of the work list.

    Attributes:
        spec: the clip.
        url: where its file lies.
        content_sha256: of the file; "" where there is none.
        frames: expected 25 fps frames.
        fingerprint: of everything that the clip's bytes depend on.
        rejection: why there is nothing to do, where the source or the probe knows.
    """

    spec: ClipSpec
    url: str
    content_sha256: str
    frames: int
    fingerprint: str
    rejection: Rejection | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work list, and which clips share a shard.

    Attributes:
        clips: every input clip, sorted by (source, clip).
        shards: by split, uids of clips that are to share a shard.
    """

    clips: list[PlannedClip]
    shards: dict[str, list[list[str]]]

    @property
    def todo(self) -> list[PlannedClip]:
        return [clip for clip in self.clips if clip.rejection is None]

    def estimate(self, config: BuildConfig) -> dict[str, float]:
        """Frames, hours of footage, core-hours, GPU-hours and bytes that the plan will take."""
        frames = sum(clip.frames for clip in self.todo)
        return {
            "clips": len(self.clips),
            "clips_to_process": len(self.todo),
            "frames": frames,
            "hours": round(frames / FPS / 3600, 4),
            "core_hours": round(frames * SECONDS_PER_FRAME[config.landmarks] / 3600, 3),
            "gpu_hours": round(frames * GPU_SECONDS_PER_FRAME[config.landmarks] / 3600, 3),
            "bytes": round(frames * bytes_per_frame(config.size)),
            "shards": sum(len(shards) for shards in self.shards.values()),
        }


class Planner:
    """Turns sources into a :class:`Plan`.

    Args:
        work: folder of the build's own files.
    """

    def __init__(
        self,
        sources: Sequence[SourceRoot],
        config: BuildConfig,
        identity_rule: IdentityRule | None,
        work: str,
        quiet: bool,
    ) -> None:
        self.sources, self.config, self.identity_rule = sources, config, identity_rule
        self.work, self.quiet = work, quiet

    def plan(self, runner: Runner, before_writing: Callable[[], None]) -> Plan:
        """Probe every clip and decide shards. Files that did not change since the last plan are not opened again."""
        specs, roots = scan_all(self.sources, self.identity_rule, self.config.split_by, self.config.fractions)
        before_writing()
        urls = [storage.join(roots[spec.source], spec.path) for spec in specs]
        known = ProbeCache.load(self.work, code_digest(self.config.landmarks))
        answers: dict[int, dict[str, Any]] = {}
        for position, (spec, url) in enumerate(zip(specs, urls, strict=True)):
            if spec.absent is None and (answer := known.find(spec, url, self.config)) is not None:
                answers[position] = answer
        missing = [i for i, spec in enumerate(specs) if spec.absent is None and i not in answers]
        self._probe(runner, missing, specs, urls, answers)
        for position in missing:
            known.remember(specs[position], urls[position], self.config, answers[position])
        known.save()
        clips = [
            self._planned(spec, url, answers.get(i, {})) for i, (spec, url) in enumerate(zip(specs, urls, strict=True))
        ]
        plan = Plan(clips, self._shards(clips))
        storage.write_bytes(storage.join(self.work, "plan.parquet"), _plan_table(plan, self.config))
        return plan

    def _probe(
        self,
        runner: Runner,
        missing: list[int],
        specs: list[ClipSpec],
        urls: list[str],
        answers: dict[int, dict[str, Any]],
    ) -> None:
        """Fill ``answers`` for the clips at ``missing``; a file that kills the prober is a row as well."""
        config = self.config.model_dump(mode="json")

        def task(positions: list[int]) -> Task:
            clips = [{"spec": specs[i], "url": urls[i]} for i in positions]
            limit = 60 + self.config.time_limit * len(positions) / 4
            cost = _PROBE_SECONDS * len(positions)
            return {
                "op": "probe", "clips": clips, "config": config, "timeout": limit, "cost": cost, "positions": positions
            }  # fmt: skip

        with progress(len(missing), "probing", quiet=self.quiet) as bar:

            def handle(done: Task, result: Result) -> Iterable[Task]:
                positions = done["positions"]
                if "answers" in result:
                    answers.update(zip(positions, result["answers"], strict=True))
                elif len(positions) > 1:
                    return [task([position]) for position in positions]
                else:
                    rejection = failure("probe", result)
                    answers[positions[0]] = {"rejection": dataclasses.asdict(rejection)}
                bar.advance(len(positions))
                return []

            runner.run([task(missing[i : i + 16]) for i in range(0, len(missing), 16)], handle)

    def _planned(self, spec: ClipSpec, url: str, answer: Mapping[str, Any]) -> PlannedClip:
        rejection = spec.absent
        if rejection is None and "rejection" in answer:
            rejection = rejection_from_json(answer["rejection"])
        content = str(answer.get("content_sha256") or "")
        frames = 0
        if "probe" in answer:
            frames = max(0, round(answer["probe"]["duration"] * FPS))
        fingerprint = provenance.digest(
            {
                "spec": spec.to_json(),
                "content": content,
                "config": self.config.content(),
                "part_frames": self.config.part_frames,  # not the bytes of a sample, but where a part ends
                "code": code_digest(self.config.landmarks),
            }
        )
        return PlannedClip(spec, url, content, frames, fingerprint, rejection)

    def _shards(self, clips: list[PlannedClip]) -> dict[str, list[list[str]]]:
        sizes: dict[str, dict[str, float]] = collections.defaultdict(dict)
        for clip in clips:
            if clip.rejection is None and clip.spec.split is not None:
                sizes[clip.spec.split][clip.spec.uid] = max(1, clip.frames) * bytes_per_frame(self.config.size)
        return {split: shards_of(sizes[split], self.config.shard_mb * 1e6) for split in sorted(sizes)}


def failure(stage: str, result: Result) -> Rejection:
    if "timeout" in result:
        return Rejection(stage, Reason.TIMEOUT, f"gave no result within {result['timeout']:.0f} s")
    if "bug" in result:
        return Rejection(stage, Reason.CRASHED, f"a fault of this program: {result['bug']} (trace in .work/errors)")
    return Rejection(stage, Reason.CRASHED, f"the process that read it was {result.get('died', 'lost')}")


@functools.cache
def code_digest(landmarks: str) -> str:
    """Digest of the code, packages and weights that decide the bytes of a sample."""
    return provenance.digest(
        {
            "schema": schema.SCHEMA_VERSION,
            "code": provenance.code_fingerprint(PIPELINE_SOURCES),
            "packages": provenance.versions(PIPELINE_PACKAGES + (FAN_PACKAGES if landmarks == "fan" else ())),
            "cpu_features": provenance.cpu_features(),
            "weights": {name: weights.verify(name) for name in weights_of(landmarks)},
            "sync_experts": {name: infer.fingerprint(name) for name in EXPERTS},
        }
    )


class ProbeCache:
    """Probe answers of local files by size and time of change, so that a resumed run opens only what is new."""

    def __init__(self, url: str, code: str, entries: dict[str, Any]) -> None:
        self._url, self._code, self._old, self._new = url, code, entries, dict[str, Any]()

    @classmethod
    def load(cls, work: str, code: str) -> ProbeCache:
        url = storage.join(work, "probes.json")
        entries = read_record(url) or {}
        return cls(url, code, entries if entries.get("version") == code else {})

    def find(self, spec: ClipSpec, url: str, config: BuildConfig) -> dict[str, Any] | None:
        state = self._state(spec, url, config)
        entry = self._old.get(spec.uid)
        if state is None or entry is None or entry["state"] != state:
            return None
        self._new[spec.uid] = entry
        answer: dict[str, Any] = entry["answer"]
        return answer

    def remember(self, spec: ClipSpec, url: str, config: BuildConfig, answer: dict[str, Any]) -> None:
        rejection = answer.get("rejection") or {}
        state = self._state(spec, url, config)
        if state is not None and rejection.get("reason") not in (Reason.TIMEOUT, Reason.CRASHED):
            self._new[spec.uid] = {"state": state, "answer": answer}

    def save(self) -> None:
        storage.write_json(self._url, {**self._new, "version": self._code})

    @staticmethod
    def _state(spec: ClipSpec, url: str, config: BuildConfig) -> list[Any] | None:
        if not storage.is_local(url):
            return None
        try:
            found = os.stat(url)
        except OSError:
            return None
        time_range = list(spec.time_range) if spec.time_range is not None else None
        # the time of the last change of the inode cannot be set: it betrays what keeps its size and date
        return [spec.path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, time_range, config.min_frames]


def _plan_table(plan: Plan, config: BuildConfig) -> bytes:
    """The work list as parquet: what is to be done, how large, and into which shard it goes."""
    shard_of = {
        uid: f"{split}/{position}"
        for split, shards in plan.shards.items()
        for position, uids in enumerate(shards)
        for uid in uids
    }
    rows = [
        {
            "source": clip.spec.source,
            "clip": clip.spec.clip,
            "identity": clip.spec.identity,
            "split": clip.spec.split,
            "path": clip.spec.path,
            "content_sha256": clip.content_sha256 or None,
            "frames": clip.frames,
            "core_seconds": round(clip.frames * SECONDS_PER_FRAME[config.landmarks], 3),
            "bytes": round(clip.frames * bytes_per_frame(config.size)),
            "planned_shard": shard_of.get(clip.spec.uid),
            "fingerprint": clip.fingerprint,
            "reason": clip.rejection.reason.value if clip.rejection else None,
            "detail": clip.rejection.detail if clip.rejection else None,
        }
        for clip in plan.clips
    ]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows) if rows else pa.table({}), buffer, compression="zstd")
    data: bytes = buffer.getvalue().to_pybytes()
    return data
