"""Models that are compared, as commands are given them. Standard library only: the command line imports this."""

from __future__ import annotations

import re
from dataclasses import dataclass

COMPARISONS = ("prunable", "rankings", "induction", "profiles")
"""What models are compared by: each a step and a figure, ``compare_prunable`` and so on."""


@dataclass(frozen=True)
class ComparedModel:
    """A model among others.

    Attributes:
        name: in the study.
        group: what it is a size, a checkpoint or a version of; models of one group are joined by a line.
        step: training step of the checkpoint; None where there is none to speak of.
    """

    name: str
    group: str
    step: int | None = None

    def __str__(self) -> str:
        """The form in which commands are given it: ``name,group=...,step=...``."""
        return f"{self.name},group={self.group}" + ("" if self.step is None else f",step={self.step}")

    @classmethod
    def parse(cls, text: str) -> ComparedModel:
        """The reverse; a name alone is a group of its own.

        Raises:
            ValueError: it is of another form.
        """
        match = re.fullmatch(r"([^,=]+)(?:,group=([^,=]+)(?:,step=(\d+))?)?", text)
        if not match:
            raise ValueError(text)
        return cls(match[1], match[2] or match[1], None if match[3] is None else int(match[3]))
