"""Templates and assets of all pages."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def page_environment() -> jinja2.Environment:
    """Templates of this package; everything is escaped, and a name that is not given is an error."""
    import jinja2

    # autoescape by extension would not know "html.j2"
    return jinja2.Environment(
        loader=jinja2.PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> str:
    """Text of a style sheet or script of this package."""
    return resources.files("reports").joinpath("templates").joinpath(name).read_text(encoding="utf-8")
