"""How sure accuracies and their differences are: bootstrap over questions within tasks, and McNemar's test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

Array = np.ndarray[Any, np.dtype[np.float64]]
LEVEL = 0.95
"""Confidence of two-sided intervals."""
RESAMPLES = 2000


class Interval(NamedTuple):
    """Limits of an interval: numbers, or arrays of them."""

    low: Any
    high: Any


def mcnemar(before: Sequence[bool] | Array, after: Sequence[bool] | Array) -> float:
    """Two-sided p-value of the exact McNemar test: whether as many questions went wrong as came right.

    Conditional on the questions that changed, as many are expected in either direction: a binomial test (McNemar 1947;
    the exact form is conservative). Nothing changed: 1.

    Args:
        before, after: right or wrong per question, the same questions.
    """
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    lost, gained = int((first & ~second).sum()), int((~first & second).sum())
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def wilson(right: int, total: int) -> Interval:
    """Interval of a share (Wilson 1927), for one task's accuracy.

    Args:
        right: questions answered right.
        total: all questions.
    """
    interval = binomtest(right, total).proportion_ci(LEVEL, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def resample(outcomes: Sequence[Array], seed: int = 0) -> Array:
    """Bootstrap samples of a mean over questions, averaged over tasks (Efron 1979; strata are tasks).

    Questions are drawn with replacement within each task. All leading indices of a task (levels, rankings) share the
    draw, so that their differences are of the same questions.

    Args:
        outcomes: per task, [..., question]; the same leading shape for all.
        seed: of the draws.

    Returns:
        [RESAMPLES, ...]. NaN where a task has a single question, of which nothing is known.
    """
    streams = np.random.default_rng(seed).spawn(len(outcomes))
    total = np.zeros((RESAMPLES, *outcomes[0].shape[:-1]))
    for values, stream in zip(outcomes, streams, strict=True):
        n = values.shape[-1]
        if n < 2:
            return np.full_like(total, np.nan)
        # Questions with equal outcomes throughout are one cell of the multinomial: the same law, far fewer numbers.
        patterns, counts = np.unique(values.reshape(-1, n), axis=1, return_counts=True)
        drawn = stream.multinomial(n, counts / n, size=RESAMPLES)
        total += (drawn @ patterns.T / n).reshape(total.shape)
    samples: Array = total / len(outcomes)
    return samples


def interval(samples: Array, axis: int = 0) -> Interval:
    """Percentile limits of bootstrap samples; NaN where the samples are."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=axis)
    return Interval(low, high)
