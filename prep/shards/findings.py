"""What a verification can find."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any


class Code(str, enum.Enum):
    """What is wrong. The values are stable: scripts look at them."""

    # the folder
    NO_DATASET = "no_dataset"  # dataset.json is missing or cannot be read
    SCHEMA_VERSION = "schema_version"
    UNSAFE_SHARD_NAME = "unsafe_shard_name"
    MISSING_FILE = "missing_file"
    FOREIGN_TAR = "foreign_tar"
    FOREIGN_INDEX = "foreign_index"
    FOREIGN_MARKER = "foreign_marker"
    # a shard
    BAD_MARKER = "bad_marker"
    STALE_MARKER = "stale_marker"
    TAR_SHA256 = "tar_sha256"
    INDEX_SHA256 = "index_sha256"
    BAD_INDEX = "bad_index"
    BAD_TAR = "bad_tar"
    UNSAFE_MEMBER = "unsafe_member"
    # samples
    MISSING_MEMBER = "missing_member"
    UNKNOWN_MEMBER = "unknown_member"
    MEMBER_PLACE = "member_place"
    ROW_WITHOUT_SAMPLE = "row_without_sample"
    SAMPLE_WITHOUT_ROW = "sample_without_row"
    DUPLICATE_KEY = "duplicate_key"
    BAD_JSON = "bad_json"
    JSON_DISAGREES = "json_disagrees"
    BAD_MEMBER = "bad_member"
    MASKS_DO_NOT_NEST = "masks_do_not_nest"
    # all shards together
    COUNTS = "counts"
    BAD_MANIFEST = "bad_manifest"
    LEAK = "leak"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault: its kind, the file, member or clip concerned, and what was seen there."""

    code: Code
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code.value}: {self.where}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`prep.shards.verify.verify` found, and how much it looked at. No finding means a sound data set."""

    root: str
    deep: bool
    findings: tuple[Finding, ...]
    shards: int
    samples: int
    members: int
    bytes: int

    @property
    def ok(self) -> bool:
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        values = dataclasses.asdict(self)
        values["findings"] = [{**finding, "code": finding["code"].value} for finding in values["findings"]]
        return values
