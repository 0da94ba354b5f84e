"""Names that packages offer."""

from __future__ import annotations

import importlib.metadata

import pytest

from g4g_core import registry
from g4g_core.errors import MissingDependency, UsageError


@pytest.fixture(autouse=True)
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few entry points, as installed packages would declare them."""
    declared = [
        ("wav2lip", "json:dumps"),
        ("wav2lip-gan", "json:loads"),
        ("still", "no_such_package_at_all:make"),
        ("twice", "json:dumps"),
        ("twice", "json:loads"),
    ]
    points = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name=name, value=value, group="g4g.models") for name, value in declared
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", points.select)


def test_names_are_listed_without_importing() -> None:
    assert registry.names("g4g.models") == ["still", "twice", "wav2lip", "wav2lip-gan"]
    assert registry.names("g4g.nothing") == []


def test_a_name_gives_its_object() -> None:
    import json

    assert registry.load("g4g.models", "wav2lip") is json.dumps


def test_a_wrong_name_lists_the_nearest_and_all() -> None:
    with pytest.raises(UsageError) as caught:
        registry.load("g4g.models", "Wav2Lip_GAN2")
    assert caught.value.what == "there is no model 'Wav2Lip_GAN2'"
    assert caught.value.mend.startswith("Did you mean 'wav2lip-gan'")
    assert "There are: still, twice, wav2lip, wav2lip-gan." in caught.value.mend


def test_a_missing_package_is_named() -> None:
    with pytest.raises(MissingDependency, match="no_such_package_at_all"):
        registry.load("g4g.models", "still")


def test_a_name_offered_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="offered twice"):
        registry.load("g4g.models", "twice")


def test_an_empty_group_says_so() -> None:
    with pytest.raises(UsageError) as caught:
        registry.load("g4g.trainables", "g4g")
    assert caught.value.mend == "There are none."


def test_nothing_near_gives_no_guess() -> None:
    assert registry.nearest("zzzzzz", ["wav2lip", "still"]) == []
    assert registry.nearest("CROP_SIZE", ["crop-size", "workers"]) == ["crop-size"]
