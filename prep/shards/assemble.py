"""Parts of clips joined to a shard: tar, index, marker."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from g4g_core import provenance, storage
from prep.records import FPS
from prep.shards import schema
from prep.shards.sample import TarAppender

_CHUNK = 1 << 22
PACKAGES = ("g4g", "av", "dlib-bin", "numpy", "opencv-python-headless", "pyarrow", "face-alignment", "torch")


def assemble_shard(request: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``<stem>.tar``, ``<stem>.parquet`` and, last, ``<stem>.stats.json``.

    Args:
        request: ``stem`` (URL without suffix), ``shard`` (name), ``fingerprint`` (of the shard's content), ``reasons``
            (clips planned here that gave nothing, by reason), ``clip_seconds`` (seconds per stage) and ``parts``: of
            each its ``source``, ``clip``, ``part``, ``fingerprint``, the ``record`` (URL of its JSON) and where its
            tar blocks are: ``tar`` (URL), ``start``, ``bytes``.
    """
    rows: list[dict[str, Any]] = []
    placed = []
    seconds: collections.Counter[str] = collections.Counter(request["clip_seconds"])
    with storage.atomic_writer(request["stem"] + ".tar") as stream:
        hashing = _Hashing(stream)
        appender = TarAppender(hashing)
        for part in request["parts"]:
            record = storage.read_json(part["record"])
            start = appender.add_blocks(_read(part["tar"], part["start"], part["bytes"]))
            for row in record["rows"]:
                rows.append({**row, "offsets": [offset + start for offset in row["offsets"]]})
            placed.append([part["source"], part["clip"], part["part"], part["fingerprint"], start, part["bytes"]])
            if part["part"] > 0 or part["several"]:
                seconds.update(record["seconds"])  # of a single part they are in the clip's own count
        n_bytes = appender.finish()
    index = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.INDEX), index, compression="zstd")
    index_bytes = index.getvalue().to_pybytes()
    storage.write_bytes(request["stem"] + ".parquet", index_bytes)
    frames = sum(row["n_frames"] for row in rows)
    storage.write_json(
        request["stem"] + ".stats.json",
        {
            "schema_version": schema.SCHEMA_VERSION,
            "shard": request["shard"],
            "sha256": hashing.digest.hexdigest(),
            "bytes": n_bytes,
            "index_sha256": hashlib.sha256(index_bytes).hexdigest(),
            "clips": len({(row["source"], row["clip"]) for row in rows}),
            "samples": len(rows),
            "frames": frames,
            "seconds": round(frames / FPS, 2),
            "fingerprint": request["fingerprint"],
            "parts": placed,
            "reasons": request["reasons"],
            "stage_seconds": {stage: round(value, 3) for stage, value in sorted(seconds.items())},
            "environment": {
                "packages": provenance.versions(PACKAGES),
                "cpu_features": provenance.cpu_features(),
            },
        },
    )
    return {"samples": len(rows)}


class _Hashing:
    """A stream that knows the SHA-256 of what went through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._stream.write(data)


def _read(url: str, start: int, n_bytes: int) -> Iterator[bytes]:
    with storage.open_read(url) as stream:
        stream.seek(start)
        left = n_bytes
        while left:
            chunk = stream.read(min(left, _CHUNK))
            if not chunk:
                raise EOFError(f"{url} ends {left} bytes too early")
            left -= len(chunk)
            yield chunk
