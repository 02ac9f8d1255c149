"""Outcomes with their margins, as commands are given them. Standard library only: the command line imports this."""

from __future__ import annotations

from dataclasses import dataclass

from lm_headroom.study.choices import OUTCOMES, Outcome


@dataclass(frozen=True)
class JudgedOutcome:
    """An outcome that evaluations are judged by.

    Attributes:
        outcome: its name.
        margin: loss that counts as none: percentage points, or the outcome's own unit or percent; see
            :class:`lm_headroom.study.config.Margins`.
    """

    outcome: Outcome
    margin: float

    def __str__(self) -> str:
        """The form in which commands are given it: ``accuracy=2``."""
        return f"{self.outcome}={self.margin:g}"

    @classmethod
    def parse(cls, text: str) -> JudgedOutcome:
        """The reverse.

        Raises:
            ValueError: it is of another form.

        Example:
            >>> JudgedOutcome.parse("gold_probability=1").margin
            1.0
        """
        name, _, number = text.partition("=")
        margin = float(number)
        for outcome in OUTCOMES:
            if outcome == name and 0 < margin <= 100:
                return cls(outcome, margin)
        raise ValueError(text)
