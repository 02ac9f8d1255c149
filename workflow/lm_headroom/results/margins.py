"""The margin of an outcome: the loss that counts as none."""

from __future__ import annotations

from lm_headroom.analysis.non_inferiority import Margin
from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.choices import DEFAULT_MARGINS, RELATIVE_OUTCOMES, Outcome


def margin_of(matrix: ResultsMatrix) -> Margin:
    """The margin of the matrix's outcome, in units of the score; the default where the matrix has none.

    Example:
        >>> from pathlib import Path
        >>> margin_of(ResultsMatrix(Path("results/opt"), ("copa",), (0,), margin=3)).value
        0.03
    """
    is_relative = matrix.outcome in RELATIVE_OUTCOMES
    return Margin(_value(matrix) / (100 if is_relative else OUTCOMES[matrix.outcome].factor), is_relative)


def margin_in_words(matrix: ResultsMatrix) -> str:
    """``2 points``, ``1 point``, ``1% of the whole model's``, ``0.01 nats per byte``."""
    value, unit = _value(matrix), margin_unit(matrix.outcome)
    if unit.startswith("%"):
        return f"{value:g}{unit}"
    return f"{value:g} {'point' if value == 1 and unit == 'points' else unit}"


def margin_unit(outcome: Outcome) -> str:
    """The unit of an outcome's margin."""
    return "% of the whole model's" if outcome in RELATIVE_OUTCOMES else OUTCOMES[outcome].unit


def _value(matrix: ResultsMatrix) -> float:
    return matrix.margin or DEFAULT_MARGINS[matrix.outcome]
