"""A small data set of rendered people, made once, and models that tests register for themselves."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import footage_of, write_clip
from evaluating import Register

from evaluation.work import close_models
from prep.run.runners import SyncRunner, close_guard


@pytest.fixture(scope="session")
def videos(sample_lrs2_clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three talking people, 160 px, a second and a half each."""
    folder = tmp_path_factory.mktemp("talking")
    for number, clip in enumerate(sample_lrs2_clips[:3]):
        write_clip(folder / f"person{number}.mp4", footage_of(clip), 0, 36)
    return folder


@pytest.fixture(scope="session")
def shards(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Their shots, all in the split ``test``."""
    from evaluation.prepared import prepare

    try:
        return prepare(str(videos), "people", str(tmp_path_factory.mktemp("data") / "shards"), SyncRunner(), quiet=True)
    finally:
        close_guard()


@pytest.fixture(autouse=True)
def no_model_outlives_its_test() -> Iterator[None]:
    yield
    close_models()


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Installs a module with generators and their entry points where this process and its children find them."""

    def install(source: str, **kinds: str) -> None:
        folder = tmp_path / "site packages"
        (folder / "extra_models-1.dist-info").mkdir(parents=True)
        (folder / "extra_models.py").write_text(textwrap.dedent(source), encoding="utf-8")
        (folder / "extra_models-1.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: extra-models\nVersion: 1\n"
        )
        lines = [f"{name.replace('_', '-')} = extra_models:{kind}" for name, kind in kinds.items()]
        (folder / "extra_models-1.dist-info" / "entry_points.txt").write_text(
            "[g4g.models]\n" + "\n".join(lines) + "\n"
        )
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "extra_models", raising=False)

    return install
