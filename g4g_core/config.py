"""Configurations: pydantic models filled from a project file, a YAML file and the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import pydantic
import yaml

from g4g_core import storage
from g4g_core.errors import UsageError
from g4g_core.registry import nearest

PROJECT_FILE = "g4g.yaml"
"""File of the working folder that holds the defaults of all commands, a section each."""

_HEADER = "# Defaults of the g4g commands, written by them; comments are not kept.\n"


class Config(pydantic.BaseModel):
    """Base of all configurations: frozen, and a field that is not declared is an error."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class NetworkConfig(Config):
    """Base of the configurations of networks that are trained from named presets."""

    places: ClassVar[frozenset[str]] = frozenset()
    """Fields that only say where something lies: whoever names another place has not changed the preset."""

    preset: str | None = pydantic.Field(
        default=None, description="named settings that it was made from; 'NAME, changed' where some were given anew"
    )

    def of_preset(self: NetworkT, name: str, preset: NetworkConfig) -> NetworkT:
        """The same, noting the preset that it was made from."""
        changed = self.model_dump(exclude=set(self.places)) != preset.model_dump(exclude=set(self.places))
        return self.model_copy(update={"preset": name + (", changed" if changed else "")})

    def why_off(self, term: str, *, taught: bool) -> str:
        """Why a term of the loss was part of no step of a training with this configuration; "": not known.

        Args:
            term: its name.
            taught: whether a sync expert took part.
        """
        return ""


ConfigT = TypeVar("ConfigT", bound=Config)
NetworkT = TypeVar("NetworkT", bound=NetworkConfig)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """Values from one origin; a later layer wins over an earlier one, field by field."""

    origin: str
    values: Mapping[str, Any]


def load_config(
    cls: type[ConfigT],
    yaml_path: storage.Url | None = None,
    overrides: Mapping[str, Any] | None = None,
    project_defaults: Mapping[str, Any] | None = None,
) -> ConfigT:
    """The configuration of one command: project defaults, below a YAML file, below the command line.

    Args:
        cls: the model to fill.
        yaml_path: a YAML mapping, local or an fsspec URL.
        overrides: options of the command line; ``None`` means not given, ``a.b`` reaches into a section.
        project_defaults: this command's section of :data:`PROJECT_FILE`.

    Raises:
        UsageError: a line per fault, with the file and the field, and the nearest name of an unknown field.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    layers = [
        _Layer(PROJECT_FILE, project_defaults or {}),
        _Layer(str(yaml_path), read_yaml(yaml_path) if yaml_path is not None else {}),
        _Layer("command line", _nested(given)),
    ]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer.values)
    try:
        return cls.model_validate(merged)
    except pydantic.ValidationError as error:
        faults = [_describe(cls, layers, fault) for fault in error.errors(include_url=False)]
    hints = [hint for _, hint in faults if hint]
    mend = hints[0] if len(faults) == 1 and hints else ""
    lines = [what if mend or not hint else f"{what}. {hint}" for what, hint in faults]
    raise UsageError("\n  ".join(lines), mend)


def read_yaml(url: storage.Url) -> dict[str, Any]:
    """A YAML mapping. Raises UsageError when the file holds anything else."""
    try:
        data = yaml.safe_load(storage.read_bytes(url))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{url} is not a YAML file: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise UsageError(f"{url} must hold 'field: value' lines", "See the configuration page of the docs.")
    return data


def read_project_file(folder: storage.Url) -> dict[str, Any]:
    """The sections of a folder's :data:`PROJECT_FILE`; ``{}`` where there is none."""
    url = storage.join(folder, PROJECT_FILE)
    return read_yaml(url) if storage.exists(url) else {}


def update_project_file(folder: storage.Url, section: str, values: Mapping[str, Any]) -> None:
    """Sets fields of one section and keeps all other fields and sections; comments are lost.

    Commands that end at the same time in one local folder take turns.
    """
    with _alone_in(folder):
        sections = read_project_file(folder)
        sections[section] = _merge(sections.get(section) or {}, values)
        text = yaml.safe_dump(sections, sort_keys=True, allow_unicode=True, default_flow_style=False)
        storage.write_bytes(storage.join(folder, PROJECT_FILE), (_HEADER + text).encode("utf-8"))


@contextlib.contextmanager
def _alone_in(folder: storage.Url) -> Iterator[None]:
    if not storage.is_local(folder):
        yield
        return
    place = os.open(folder, os.O_RDONLY)  # the folder itself is locked: no file is left behind
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"crop.size": 96}`` -> ``{"crop": {"size": 96}}``."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        nested = _merge(nested, value)
    return nested


def _describe(cls: type[Config], layers: Sequence[_Layer], fault: Any) -> tuple[str, str]:
    """What is wrong with one field, and the hint for an unknown one."""
    location = tuple(fault["loc"])
    field = ".".join(map(str, location))
    origin = _origin(layers, location)
    if fault["type"] == "extra_forbidden":
        name, above = str(location[-1]), location[:-1]
        fields = sorted({field for model in _models_at(cls, above) for field in model.model_fields})
        near = nearest(name, fields, count=1)
        prefix = ".".join([*map(str, above), ""])
        known = ", ".join(prefix + field for field in fields)
        hint = f"Did you mean '{prefix}{near[0]}'?" if near else f"There are: {known}."
        return f"{origin}: there is no field '{field}'", hint
    if fault["type"] == "missing":
        return f"field '{field}' is missing", ""
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:]
    if not location:
        return message, ""
    shown = repr(fault["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{origin}: field '{field}': {message}, not {shown}", ""


def _origin(layers: Sequence[_Layer], location: Sequence[Any]) -> str:
    """The topmost layer that reaches deepest into ``location``."""
    best, depth = "defaults", 0
    for layer in layers:
        value: Any = layer.values
        reached = 0
        for part in location:
            if not isinstance(value, Mapping) or part not in value:
                break
            value, reached = value[part], reached + 1
        if reached and reached >= depth:
            best, depth = layer.origin, reached
    return best


def _models_at(cls: type[pydantic.BaseModel], location: Sequence[Any]) -> list[type[pydantic.BaseModel]]:
    """The models that ``location`` may be a value of."""
    models = [cls]
    for part in location:
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if annotations:  # else an index, a key, or the tag of a union: still the same models
            models = [model for annotation in annotations for model in _models_in(annotation)]
    return models


def _models_in(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)
