"""Bad input: the table of docs/errors.md, which is what its tests are held against, and what they share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "errors.md"
HANDLED = "Warnings: the run continues"
"""The section of the page whose cases are no errors."""


@dataclass(frozen=True)
class Row:
    """A row of the page: ``...`` in the message stands for what differs from case to case."""

    situation: str
    message: str
    handled: bool

    def matches(self, printed: str) -> bool:
        """Whether the message is in what was printed; line breaks count as spaces."""
        pattern = ".*".join(re.escape(part) for part in " ".join(self.message.split()).split("..."))
        return re.search(pattern, " ".join(printed.split())) is not None


def rows() -> dict[str, Row]:
    """The rows of all tables of the page, by situation."""
    by_code = {}
    section = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("|") and len(cells) == 3 and cells[1].startswith("`"):
            assert cells[0] not in by_code, f"{cells[0]} is twice on the page"
            by_code[cells[0]] = Row(cells[0], cells[1].strip("`"), section == HANDLED)
    return by_code


@dataclass(frozen=True)
class Outcome:
    """Exit status of a command and what it printed for the user."""

    status: int
    printed: str


class Cases(dict[str, Callable[..., Outcome]]):
    """Situation to the function that brings it about."""

    def case(self, situation: str) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
        """Register a function for a situation."""

        def register(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
            assert situation not in self
            self[situation] = function
            return function

        return register


def check(situation: str, outcome: Outcome) -> None:
    """Hold a case against its row of the page."""
    row = rows()[situation]
    assert row.matches(outcome.printed), f"expected: {row.message}\nprinted: {outcome.printed}"
    assert "Traceback" not in outcome.printed
    assert (outcome.status == 0) == row.handled


def snapshot(folder: Path) -> dict[str, Any]:
    """The bytes of every file below a folder, hidden ones too, but for two that hold whatever goes wrong later.

    They are Python's byte code of imported modules, and what a loaded model proved.
    """
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "__pycache__")
    return {str(path): path.read_bytes() for path in paths if path.name != ".model.proofs.json"}
