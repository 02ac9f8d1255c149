"""What the tables of an outcome share: its unit, what its values look like, and the notes that explain it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_headroom.analysis.outcomes import OUTCOMES, RIGHT_ANSWERS, explain_undefined
from lm_headroom.results.margins import margin_in_words
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.choices import Outcome


def unit_of(outcome: Outcome) -> str:
    """The unit of numbers in a CSV, where points are shares of 1."""
    unit = OUTCOMES[outcome].unit
    return "share" if unit == "points" else unit


def value_of(outcome: Outcome, score: Any) -> Any:
    """A score as a CSV has it: a cost is positive, points are shares of 1."""
    return -score if OUTCOMES[outcome].is_cost else score


def value_title(outcome: Outcome) -> str:
    """The title and unit of an outcome's value on a page: of what is shown in points, percent."""
    spec = OUTCOMES[outcome]
    return f"{spec.title} in {'%' if spec.unit == 'points' else spec.unit}"


def in_unit(outcome: Outcome, *values: float | None) -> list[str]:
    """Numbers of a CSV in the outcome's unit, with its decimals; without a number, 0."""
    spec = OUTCOMES[outcome]
    return [f"{spec.shown_loss(value or 0):z.{spec.decimals}f}" for value in values]


def with_interval(outcome: Outcome, value: float, low: float | None, high: float | None) -> str:
    """``12.3 (10.1 to 14.2)`` of numbers of a CSV."""
    return "{} ({} to {})".format(*in_unit(outcome, value, low, high))


def loss_interval_in_words(outcome: Outcome) -> str:
    """Where the 95% interval of an average loss comes from, as :mod:`lm_headroom.results.curves` has it."""
    resampled = "a bootstrap over questions, paired within tasks"
    return resampled if outcome in RIGHT_ANSWERS else "a paired t test over questions within tasks, corrected for skew"


def p_in_words(p: float) -> str:
    """``= 0.021`` or ``< 0.0001``: smaller ones say more of the approximation than of the evidence.

    Example:
        >>> p_in_words(0.0212), p_in_words(3e-9)
        ('= 0.021', '< 0.0001')
    """
    return "< 0.0001" if p < 0.0001 else f"= {p:.2g}"


def notes_on(matrix: ResultsMatrix, left_out: Sequence[str] = (), is_tested: bool = False) -> list[str]:
    """Notes on a table's outcome and on tasks that do not define it.

    Args:
        matrix: all of the study's tasks.
        left_out: those that do not define the outcome.
        is_tested: whether the table tests losses against the margin.
    """
    spec = OUTCOMES[matrix.outcome]
    test = "score test for right and wrong answers" if matrix.outcome in RIGHT_ANSWERS else "paired t test"
    tested = f" The loss that counts as none is {margin_in_words(matrix)}; the test is a {test}." if is_tested else ""
    columns = f" The CSV's numbers are in the unit `{unit_of(matrix.outcome)}`."
    cost = " Less is better; a positive loss is a rise." if spec.is_cost else ""
    notes = [f"*Outcome*: {spec.title}, {spec.formula} ({spec.source}).{cost}{tested}{columns}"]
    if left_out:
        names = ", ".join(left_out)
        notes.append(f"Left out, since {explain_undefined(matrix.outcome)}: {names}.")
    if not set(matrix.tasks) - set(left_out):
        notes.append(f"No task of the study defines {spec.title}, so this table has no numbers of it.")
    return notes
