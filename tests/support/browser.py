"""A headless Chromium for tests of pages, which are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LONGEST = 600_000
"""Milliseconds that a page may take to be ready."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests of a worker."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no Chromium; apt-get install chromium")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens a file, at a fragment; console errors and requests are noted on the page."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, color_scheme="light")

    def open_at(path: Path, fragment: str = "", ready: str = "body") -> Any:
        page = context.new_page()
        page.problems, page.requested = [], []
        page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(f"{path.as_uri()}#{fragment}")
        page.wait_for_selector(ready, timeout=LONGEST)
        return page

    yield open_at
    context.close()
