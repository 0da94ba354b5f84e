"""What a result was made with: code, packages, machine; and digests that stay the same for ever."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import socket
import subprocess
from collections.abc import Iterable
from typing import Any

from g4g_core import storage

PACKAGES = (
    "g4g", "av", "dlib-bin", "face-alignment", "numpy", "opencv-python-headless", "pyarrow", "scikit-image", "scipy",
    "torch", "torchvision", "webdataset",
)  # fmt: skip
"""Distributions whose versions :func:`environment` names."""

_CHUNK_BYTES = 1 << 20
# Instruction sets that make numerical libraries take another path, and so another last digit.
_NUMERIC_FEATURES = frozenset({
    "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "avx512_vnni", "avx512_bf16", "amx_tile", "neon", "asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16",
})  # fmt: skip


def stable_json(obj: Any) -> bytes:
    """Canonical JSON of ``obj``: ASCII, sorted keys, no spaces.

    Raises:
        ValueError: on NaN or infinity. TypeError: on what JSON cannot hold.
    """
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(obj: Any) -> str:
    """SHA-256 of :func:`stable_json`, 64 hex digits."""
    return hashlib.sha256(stable_json(obj)).hexdigest()


def stable_hash(text: str) -> int:
    """A number in [0, 2**64) that depends on ``text`` alone, on any machine (BLAKE2b, big-endian)."""
    encoded = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "big")


def file_sha256(url: storage.Url) -> str:
    """SHA-256 of a file, 64 hex digits, in constant memory."""
    hasher = hashlib.sha256()
    with storage.open_read(url) as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def tensors_sha256(data: bytes) -> str:
    """SHA-256 of what follows the header of a safetensors file, 64 hex digits: the header may hold it."""
    return hashlib.sha256(memoryview(data)[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def code_fingerprint(sources: Iterable[str | os.PathLike[str]]) -> str:
    """SHA-256 over the ``.py`` files of packages and modules, 64 hex digits.

    Args:
        sources: dotted names of importable packages or modules (not imported here, only found; the
            parents of a dotted name are imported), or paths of folders and files.

    The same code gives the same fingerprint wherever it is installed. Raises:
        ModuleNotFoundError: when a name is neither importable nor an existing path.
    """
    hasher = hashlib.sha256()
    for label, file in sorted(_source_files(sources)):
        content = file.read_bytes()
        hasher.update(f"{label}\0{len(content)}\0".encode())
        hasher.update(content)
    return hasher.hexdigest()


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """Versions of installed distributions; ``None`` for those that are not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def cpu_features() -> list[str]:
    """Instruction sets of this CPU that float results may depend on, sorted.

    Where the system does not list them (anything but Linux): the machine's name, e.g. ``arm64``.
    """
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return sorted(_NUMERIC_FEATURES.intersection(flags)) or [platform.machine()]


def processor() -> str:
    """The name that this machine's CPU gives itself; the machine's name where it gives none, e.g. ``arm64``."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def gpu() -> str | None:
    """The name of the first GPU that torch can compute on; torch is not imported where there is no device at all."""
    if not os.path.exists("/dev/nvidia0"):
        return None
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def git_commit() -> str | None:
    """Commit of the checkout that this code runs from, with ``-dirty`` after edits; ``None`` outside of one."""
    folder = str(pathlib.Path(__file__).resolve().parent)
    # An installed copy may lie inside somebody else's repository: ours is the one that tracks this file.
    if _git(folder, "ls-files", "--error-unmatch", pathlib.Path(__file__).name) is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def environment(names: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """What was true when a result was made; holds the time and the host, so never put it into data that must
    be the same twice."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions(names),
        "processor": processor(),
        "gpu": gpu(),
        "cpu_features": cpu_features(),
        "git_commit": git_commit(),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
    }


def _cpuinfo(field: str) -> str:
    """A field of the first processor in Linux's list; "" where there is no list, or no such field in it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((" ".join(value.split()) for key, _, value in fields if key.strip() == field), "")


def _source_files(sources: Iterable[str | os.PathLike[str]]) -> Iterable[tuple[str, pathlib.Path]]:
    for source in sources:
        name, root = _locate(source)
        if root.is_file():
            yield name, root
            continue
        for file in root.rglob("*.py"):
            yield f"{name}/{file.relative_to(root).as_posix()}", file


def _locate(source: str | os.PathLike[str]) -> tuple[str, pathlib.Path]:
    """The label and the file or folder of one source; the label holds no machine's path."""
    text = os.fspath(source)
    if not isinstance(source, str) or os.sep in text or text.endswith(".py"):
        path = pathlib.Path(text)
        if not path.exists():
            raise ModuleNotFoundError(f"no source at {text}")
        return path.name, path
    spec = importlib.util.find_spec(text)
    if spec is None:
        raise ModuleNotFoundError(f"no module named {text}")
    if spec.submodule_search_locations:
        return text, pathlib.Path(next(iter(spec.submodule_search_locations)))
    if not spec.origin or not spec.origin.endswith(".py"):
        raise ModuleNotFoundError(f"module {text} has no source")
    return text, pathlib.Path(spec.origin)


def _git(folder: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
