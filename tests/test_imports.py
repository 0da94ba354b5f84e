"""Who may import whom: reports -> evaluation -> baselines -> g4g_model -> prep -> g4g_core."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("g4g_core", "prep", "g4g_model", "baselines", "evaluation", "reports")
"""A package may import itself and those before it."""

PACKAGES = [name for name in ORDER if (ROOT / name / "__init__.py").is_file()]
MODULES = sorted(path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
NOT_SHIPPED = ("tests", "benchmarks", "tools", "examples")


def imported(source: str, module: Path) -> Iterator[tuple[int, str]]:
    """(line, full name) of every import in ``source``, inside functions and under ``if TYPE_CHECKING`` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.ImportFrom):
            # level 1 is the package that holds the module, whether it is a file or that package's __init__.py
            base = [*module.parts[: len(module.parts) - node.level], *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function, first = node.func, node.args[0]
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def forbidden(source: str, module: Path) -> list[str]:
    """One line per import that goes the wrong way."""
    allowed = ORDER[: ORDER.index(module.parts[0]) + 1]
    wrong = {*ORDER, *NOT_SHIPPED} - {*allowed}
    return [
        f"{module}:{line} imports {name}"
        for line, name in imported(source, module)
        if name.split(".", maxsplit=1)[0] in wrong
    ]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_packages_to_the_right_of_its_own(module: Path) -> None:
    assert forbidden((ROOT / module).read_text(encoding="utf-8"), module) == []


def test_the_packages_on_disk_are_those_of_the_order() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {*NOT_SHIPPED}

    assert found == {*PACKAGES}
    assert {"g4g_core", "prep"} <= found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("g4g_core/a.py", "import prep"),
        ("g4g_core/a.py", "def f():\n    from prep.records import FPS"),
        ("g4g_core/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import prep.cli as cli"),
        ("g4g_core/a.py", "import importlib\nimportlib.import_module('prep.cli')"),
        ("g4g_core/a.py", "from .. import prep"),
        ("g4g_core/b/c.py", "from ...prep import cli"),
        ("prep/a.py", "import evaluation.metrics"),
        ("prep/a.py", "from tests.prep import synthetic_shards"),
    ],
)
def test_an_import_to_the_left_is_found_wherever_it_stands(module: str, source: str) -> None:
    assert len(forbidden(source, Path(module))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("prep/a.py", "from g4g_core.errors import G4GError\nfrom prep.records import FPS\nimport numpy"),
        ("prep/run/a.py", "from . import b\nfrom ..stages import mel"),
        ("reports/a.py", "import evaluation, baselines, g4g_model, prep, g4g_core"),
    ],
)
def test_an_import_to_the_right_is_allowed(module: str, source: str) -> None:
    assert forbidden(source, Path(module)) == []
