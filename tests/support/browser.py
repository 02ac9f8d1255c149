"""A headless Chromium for tests of pages: installed where apt allows, and they are skipped where it cannot be had."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

PACKAGE = "chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome")
LONGEST = 600_000
"""Milliseconds that a page may take to be ready."""


class Unavailable(Exception):
    """There is no Chromium, and it cannot be had; the message says why."""


def install(lock: Path) -> str:
    """Path of Chromium, which is installed from the distribution's packages where it is not there.

    Args:
        lock: a file that the workers of one run share; one installs, and the others wait for it.

    Raises:
        Unavailable: this user may not install, there is no apt, or the package cannot be had.
    """
    with FileLock(lock):
        if path := _program():
            return path
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise Unavailable(f"Chromium is not installed, and only root with apt-get can install {PACKAGE} here")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        order = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", PACKAGE]
        output = ""
        for command in (order, ["apt-get", "update", "--quiet"], order):
            output = subprocess.run(
                command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            ).stdout
            if path := _program():
                return path
    raise Unavailable(f"{' '.join(order)} failed: {(output.strip().splitlines() or ['no output'])[-1]}")


def _program() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests of a worker."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    try:
        # Workers have folders of their own in the run's; a failed attempt of one does not stop another from trying.
        path = install(tmp_path_factory.getbasetemp().parent / "chromium.lock")
    except Unavailable as reason:
        pytest.skip(str(reason))
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
