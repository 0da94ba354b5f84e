"""Other people's programs as models: a command per shot, without a shell. ``--models NAME=external:YAML``.

The YAML file::

    command: [python, /opt/Wav2Lip/inference.py, --face, "{video}", --audio, "{audio}", --outfile, "{output}"]
    input: crop            # {video} is the whole face crop without loss; or footage: the shot's frames as filmed
    timeout: 600           # seconds a shot
    directory: /opt/Wav2Lip
    environment: {CUDA_VISIBLE_DEVICES: "0"}
    output: result.mp4     # where the program leaves its video, inside {work}; {output} stands for it
    tolerance: 5           # frames that its video may be longer or shorter

``{video}``, ``{audio}`` (WAV, 16 kHz mono), ``{output}`` and ``{work}`` (an empty folder of this shot) are put into the
words of the command, which then go to the program as they are: blanks and quotes in paths mean nothing. Files of
``baselines/adapters`` are named by their bare name (``external:musetalk``). docs/external.md has all fields.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from g4g_core.config import Config, load_config
from g4g_core.errors import UsageError
from g4g_core.registry import unknown

ADAPTERS = Path(__file__).with_name("adapters")
"""Folder of the YAML files that come with this package."""

PLACES = ("video", "audio", "output", "work")
LOG = "program.log"
"""What a program says, inside ``{work}``."""
_PLACE = re.compile(r"\{(\w+)\}")


class Variable(Config):
    """An environment variable of the user that stands in a program's YAML as ``{ITS_NAME}``.

    Attributes:
        means: what it should hold; said where it is missing.
        default: its value where it is not set; without one it must be set.
    """

    means: str
    default: str | None = None


class External(Config):
    """One program; the module's text has the usual fields.

    Attributes:
        summary: one line for lists.
        variables: environment variables that stand in the other fields, by name.
        checkout: a folder; the program then runs in ``{work}``, where every entry of this folder stands as a link. So
            relative paths find its weights, and what it writes beside its code belongs to this shot alone.
        own: names or patterns of entries of ``checkout`` that are not linked: folders that the program writes to.
        inputs: names inside ``{work}`` under which video and sound stand too, for programs that hand paths to a shell.
        files: files to write into ``{work}`` first, by name: a text, or a mapping or list that is written as JSON
            (which readers of YAML read), so that nothing in a path needs quoting.
        before: commands that run before ``command``, in the same place, within the same time.
        output: may hold ``*``, where the name cannot be known; exactly one file must then match.
        keep: the part of the output's frames that is the result: left, top, right, bottom as shares of the frame.
    """

    summary: str = ""
    command: list[str] = pydantic.Field(min_length=1)
    before: list[list[str]] = pydantic.Field(default_factory=list)
    variables: dict[str, Variable] = pydantic.Field(default_factory=dict)
    checkout: str | None = None
    own: list[str] = pydantic.Field(default_factory=list)
    inputs: dict[Literal["video", "audio"], str] = pydantic.Field(default_factory=dict)
    files: dict[str, str | dict[str, Any] | list[Any]] = pydantic.Field(default_factory=dict)
    input: Literal["crop", "footage"] = "crop"
    timeout: float = pydantic.Field(600.0, gt=0)
    directory: str | None = None
    environment: dict[str, str] = pydantic.Field(default_factory=dict)
    output: str = "output.mp4"
    keep: tuple[float, float, float, float] | None = None
    tolerance: int = pydantic.Field(5, ge=0)

    @pydantic.field_validator("before")
    @classmethod
    def _some_words(cls, value: list[list[str]]) -> list[list[str]]:
        if not all(value):
            raise ValueError("every command must have a first word")
        return value

    @pydantic.field_validator("keep")
    @classmethod
    def _a_part(cls, value: tuple[float, float, float, float] | None) -> tuple[float, float, float, float] | None:
        if value is not None and not (0 <= value[0] < value[2] <= 1 and 0 <= value[1] < value[3] <= 1):
            raise ValueError("must be left, top, right, bottom as shares of the frame")
        return value

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> External:
        for name in (self.output, *self.inputs.values(), *self.files):
            path = Path(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ValueError(f"{name!r} must lie inside the work folder")
        self._require_places()
        self._require_plain()
        foreign = sorted(set(self._named()) - {*PLACES, *self.variables})
        if foreign:
            there = ", ".join("{" + place + "}" for place in (*PLACES, *self.variables))
            raise ValueError(f"knows no {{{foreign[0]}}}; there are: {there}")
        taken = sorted({*PLACES} & {*self.variables})
        if taken:
            raise ValueError(f"no variable can be called {taken[0]}: {{{taken[0]}}} stands for something else")
        if "*" in self.output and "output" in self._named():
            raise ValueError("{output} stands for nothing where 'output' is a pattern")
        if self.checkout is not None and self.directory is not None:
            raise ValueError("'checkout' and 'directory' exclude each other: with a checkout it runs in {work}")
        if self.own and self.checkout is None:
            raise ValueError("'own' names entries of a 'checkout', which is not given")
        return self

    def _require_places(self) -> None:
        """Every name inside the work folder is a place of its own, and none is the folder of another."""
        names = sorted((LOG, self.output, *self.inputs.values(), *self.files), key=lambda name: Path(name).parts)
        for one, two in itertools.pairwise(names):
            if Path(two).parts[: len(Path(one).parts)] == Path(one).parts:
                raise ValueError(f"{one!r} and {two!r} cannot both stand in the work folder")

    def _require_plain(self) -> None:
        """Only what a system takes as words, names and environment, and what JSON can hold."""
        for name in self.environment:
            if not name or "=" in name:
                raise ValueError(f"environment: {name!r} is no name of a variable")
        for text in _texts([self.model_dump(exclude={"files"}), *self.environment, *self.files]):
            if "\0" in text:
                raise ValueError(f"{text!r} holds a zero byte")
        for name, content in self.files.items():
            try:
                json.dumps(content)
            except TypeError as error:
                raise ValueError(f"files: {name!r} cannot be written as JSON: {error}") from error

    def _named(self) -> list[str]:
        """The places that stand anywhere in the fields that have them."""
        where = (self.command, self.before, self.checkout, self.directory, self.environment, self.files)
        return [place for text in _texts(where) for place in _PLACE.findall(text)]


def adapters() -> dict[str, str]:
    """Name and summary of every program whose YAML comes with this package; none of the programs does."""
    return {path.stem: read_external(path.stem).summary for path in sorted(ADAPTERS.glob("*.yaml"))}


def is_adapter(name: str) -> bool:
    """Whether a name is one of :func:`adapters`, and no path."""
    return name in {path.stem for path in ADAPTERS.glob("*.yaml")}


def read_external(target: str) -> External:
    """The program that a YAML file describes, or the packaged one of this name. Raises UsageError."""
    path = str(ADAPTERS / f"{target}.yaml") if is_adapter(target) else target
    if not Path(path).is_file():
        if re.fullmatch(r"[\w-]+", target):
            raise unknown("adapter", target, [file.stem for file in ADAPTERS.glob("*.yaml")])
        raise UsageError(f"{target} is not there", "Name the YAML file of a program, see docs/external.md.")
    try:
        return load_config(External, path)
    except UsageError as error:
        if path in error.what:
            raise
        raise UsageError(f"{path}: {error.what}", error.mend) from error


def values_of(program: External, environment: Mapping[str, str]) -> dict[str, str]:
    """The values of a program's variables.

    Raises:
        UsageError: one is not set, or the checkout that they name is no folder.
    """
    values = {}
    for name, variable in program.variables.items():
        value = environment.get(name) or variable.default
        if value is None:
            raise UsageError(f"the environment variable {name} is not set: {variable.means}", f"export {name}=...")
        values[name] = value
    if program.checkout is not None:
        checkout = put(program.checkout, values)
        if not os.path.isabs(checkout) or not os.path.isdir(checkout):
            named = ", ".join(_PLACE.findall(program.checkout))
            raise UsageError(
                f"the checkout {checkout} is no folder", f"Give its absolute path{named and f' in {named}'}."
            )
    return values


def fingerprint(program: External, values: Mapping[str, str]) -> str:
    """SHA-256 of all that is known of a program: its YAML and the values of its variables."""
    text = program.model_dump_json(exclude={"summary"}, exclude_defaults=True)
    return hashlib.sha256((text + json.dumps(dict(values), sort_keys=True)).encode()).hexdigest()


def put(value: Any, places: Mapping[str, str]) -> Any:
    """The same text, list or mapping with places filled in; an unknown one stays."""
    if isinstance(value, str):
        return _PLACE.sub(lambda match: places.get(match.group(1), match.group(0)), value)
    if isinstance(value, list):
        return [put(part, places) for part in value]
    if isinstance(value, dict):
        return {name: put(part, places) for name, part in value.items()}
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, dict):
        yield from _texts([*value.values()])
