"""Errors that a user can cause, and the exit codes of the command lines."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes shared by ``g4g-prep``, ``g4g-model`` and ``g4g-eval``."""

    OK = 0
    FINDING = 1
    USAGE = 2
    CANNOT_TELL = 3
    SOME_FAILED = 4


class G4GError(Exception):
    """A fault that the user can mend; printed in a line or two, without a traceback.

    Args:
        what: what is wrong and where, in one sentence.
        mend: how to put it right, in one sentence (optional).
    """

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what}\n  {self.mend}" if self.mend else self.what


class UsageError(G4GError):
    """Options or a configuration that contradict each other or name nothing."""


class SourceError(G4GError):
    """A source folder, list or annotation file that cannot be read as what it claims to be."""


class DatasetError(G4GError):
    """A shard folder that is missing, incomplete or damaged."""


class WeightsError(G4GError):
    """Pretrained weights that are missing, truncated or not the file we know."""


class StorageError(G4GError):
    """A path or URL that cannot be read or written."""


class MissingDependency(G4GError):
    """An optional Python or system package that this step needs."""
