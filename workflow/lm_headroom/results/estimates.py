"""Means over questions, averaged over tasks, with their 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_headroom.analysis.bootstrap import interval, resample

Array = np.ndarray[Any, np.dtype[np.float64]]


class Estimate(NamedTuple):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


def estimates(outcomes: Sequence[Array]) -> list[list[Estimate]]:
    """Estimates of quantities that are means over questions, questions paired between all of them.

    Args:
        outcomes: per task, [row, quantity, question].

    Returns:
        Per row, an estimate per quantity.
    """
    values = np.mean([values.mean(axis=-1) for values in outcomes], axis=0)
    rows = np.stack([values, *interval(resample(outcomes))], axis=-1)
    return [[Estimate(*numbers) for numbers in row] for row in rows.tolist()]
