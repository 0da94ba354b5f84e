"""Pages in a real browser: Debian's Chromium under Playwright, with everything noted that a page must not do."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

Scheme = Literal["light", "dark"]
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_SANDBOX_OFF = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


@dataclasses.dataclass
class Visit:
    """A page that is open.

    Attributes:
        page: Playwright's.
        requests: addresses that it asked for.
        troubles: errors and warnings of its console, exceptions, and dialogs that its scripts opened.
    """

    page: Any
    requests: list[str]
    troubles: list[str]

    def texts(self, selector: str) -> list[str]:
        return [" ".join(text.split()) for text in self.page.locator(selector).all_inner_texts()]

    def sideways(self) -> int:
        """Pixels by which the whole page can be scrolled sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test where Playwright or a Chromium is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for found in map(shutil.which, _NAMES) if found), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is on the PATH")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_SANDBOX_OFF)
        yield browser
        browser.close()


@contextlib.contextmanager
def visit(
    browser: Any,
    page: Path,
    *,
    fragment: str = "",
    width: int = 1280,
    height: int = 900,
    scheme: Scheme = "light",
    touch: bool = False,
) -> Iterator[Visit]:
    """Open a file of this machine; what it did wrong fails the test when it is closed."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", has_touch=touch
    )
    opened = context.new_page()
    seen = Visit(opened, [], [])
    opened.on("request", lambda request: seen.requests.append(request.url))
    opened.on("pageerror", lambda error: seen.troubles.append(str(error)))
    opened.on("console", lambda m: seen.troubles.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("dialog", lambda dialog: (seen.troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    opened.set_default_timeout(10_000)
    opened.goto(page.as_uri() + fragment)
    yield seen
    assert seen.troubles == []
    context.close()


def axe_source() -> str:
    """axe-core, from ``AXE_CORE`` (a file) or ``node_modules``; skips the test where it is not there."""
    root = Path(__file__).resolve().parents[2]
    named = os.environ.get("AXE_CORE")
    places = [Path(named)] if named else [root / "node_modules" / "axe-core" / "axe.min.js"]
    for place in places:
        if place.is_file():
            return place.read_text(encoding="utf-8")
    pytest.skip(f"axe-core is not there: {places[0]} (npm install --no-save axe-core, or set AXE_CORE to axe.min.js)")
