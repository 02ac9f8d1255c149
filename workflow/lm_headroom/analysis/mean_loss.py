"""The mean loss of a score that is no mere right or wrong: a paired t test, corrected for skew, averaged over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

# Not scipy.stats: its distributions check arguments for longer than these functions compute the same numbers.
from scipy.special import ndtr, stdtr, stdtrit

Array = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


class _Precision(NamedTuple):
    """Of the mean over tasks, [...].

    Attributes:
        error: standard error, pseudo-questions included.
        degrees: of freedom, by Welch.
        skewness: third central moment, in units of ``error``.
        spread: variance without pseudo-questions, in units of ``error``.
    """

    error: Array
    degrees: Array
    skewness: Array
    spread: Array


@dataclass(frozen=True)
class MeanLoss:
    """What a margin leaves of each question's score, to be averaged over tasks: pruned - whole + margin.

    Attributes:
        spare: mean of that number, per task, [..., task].
        second, third: its central moments between questions, [..., task].
        allowed: mean margin, in units of the score, [..., task].
        change: by how much a pseudo-question changes, in units of the score, [..., task].
        questions: per task, [task].
    """

    spare: Array
    second: Array
    third: Array
    allowed: Array
    change: Array
    questions: Array

    def within(self, confidence: float) -> Flags:
        """Where the average loss is shown to be less than the margin, [...]."""
        precision = self._precision()
        shown: Flags = self._distance(precision) >= stdtrit(precision.degrees, confidence)
        return shown

    def beyond(self, confidence: float) -> Flags:
        """Where the average loss is shown to be more than the margin, [...]."""
        precision = self._precision()
        shown: Flags = self._distance(precision) <= -stdtrit(precision.degrees, confidence)
        return shown

    def interval(self, confidence: float) -> tuple[Array, Array]:
        """Two-sided limits of the average loss, [...]: the margins that neither one-sided test refutes.

        Args:
            confidence: of both limits together.
        """
        precision = self._precision()
        lost, limit = (self.allowed - self.spare).mean(axis=-1), stdtrit(precision.degrees, (1 + confidence) / 2)
        low, high = (lost + precision.error * _untransformed(sign * limit, precision.skewness) for sign in (-1, 1))
        return low, high

    def p_value(self) -> Array:
        """Two-sided p value of an average loss of exactly the margin, [...]; 1 where no score changes.

        It is below 1 - c where the interval of confidence c leaves the margin out.
        """
        precision = self._precision()
        p: Array = 2 * stdtr(precision.degrees, -np.abs(self._distance(precision)))
        return np.nan_to_num(np.minimum(p, 1), nan=1.0)

    def power(self, confidence: float, factor: float = 1.0) -> Array:
        """Probability to show that the loss is within the margin if there were none and the spread is as it is, [...].

        0 where no score differs between questions or levels. The first correction for skew includes that losses which
        move the mean also widen the error; pseudo-questions widen it, and move nothing.

        Args:
            confidence: of the test.
            factor: how many times as many questions each task has.
        """
        error, degrees, skewness, spread = self._precision(factor)
        limit = stdtrit(degrees, confidence)
        critical = _untransformed(limit, skewness)
        with np.errstate(divide="ignore", invalid="ignore"):
            deviation = np.sqrt(np.maximum(spread - critical * skewness, 0.01))
            short = (critical - self.allowed.mean(axis=-1) / error) / deviation
        density = np.exp(-(short**2) / 2) / np.sqrt(2 * np.pi)
        power = ndtr(-short) + skewness / deviation**3 / 6 * (short**2 - 1) * density
        clipped: Array = np.clip(np.nan_to_num(power), 0, 1)
        return clipped

    def _precision(self, factor: float = 1.0) -> _Precision:
        tasks, n = len(self.questions), self.questions * factor
        # One pseudo-question that loses and one that gains, shared among the tasks.
        observed = self.second / (n - 1)
        variance = observed + 2 / tasks / n * self.change**2 / (n - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.sqrt(variance.sum(axis=-1)) / tasks
            degrees = variance.sum(axis=-1) ** 2 / (variance**2 / (n - 1)).sum(axis=-1)
            skewness = (self.third / n**2).sum(axis=-1) / (tasks * error) ** 3
            spread = observed.sum(axis=-1) / variance.sum(axis=-1)
        return _Precision(error, degrees, skewness, spread)

    def _distance(self, precision: _Precision) -> Array:
        """How far below the margin the average loss is, [...]: the t statistic by Hall's (1992) transformation.

        A few questions that lose much are rare and skew the mean: samples that lack them have a high mean and a small
        error at once, and plain t would call them certain too often. NaN, which shows nothing, if the error is 0.
        """
        skewness = precision.skewness
        with np.errstate(divide="ignore", invalid="ignore"):
            t = self.spare.mean(axis=-1) / precision.error
        distance: Array = t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6
        return distance


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's (1979) step-down method, in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1)
    return [float(value) for value in corrected]


def _untransformed(distance: Array, skewness: Array) -> Array:
    """The t statistic that Hall's transformation brings to a distance, [...]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = 3 / skewness * (np.cbrt(1 + skewness * (distance - skewness / 6)) - 1)
    t: Array = np.where(np.abs(skewness) < 1e-6, distance, bend)
    return t


def mean_loss(
    whole: Sequence[Array], pruned: Sequence[Array], allowed: Sequence[Array], change: Sequence[Array]
) -> MeanLoss:
    """Estimates with two pseudo-questions, as :func:`lm_headroom.analysis.non_inferiority.paired_loss` has them.

    One loses and one gains ``change``: without them, a level at which no score happens to change would be certain, and
    rare large losses would be certain not to exist wherever no question of a few has one.

    Args:
        whole: per task, scores with nothing pruned, higher is better, [..., question].
        pruned: per task, the same with something pruned, [..., question].
        allowed: per task, the margin of each question, in units of the score, [..., question].
        change: per task, by how much a pseudo-question changes, [...].

    Example:
        >>> import numpy as np
        >>> whole = np.linspace(0.2, 0.8, 500)
        >>> loss = mean_loss([whole], [whole - [[0.01], [0.1]]], [np.full(500, 0.05)], [np.array(0.5)])
        >>> loss.within(0.95).tolist()
        [True, False]
    """
    spare = [after - before + most for before, after, most in zip(whole, pruned, allowed, strict=True)]
    # Of numbers shifted by the first, as equal ones then have no variance to the last digit.
    centred = [x - x[..., :1] for x in spare]
    centred = [x - x.mean(axis=-1, keepdims=True) for x in centred]
    mean, second, third = (
        np.stack([(x**power).mean(axis=-1) for x in values], axis=-1)
        for values, power in ((spare, 1), (centred, 2), (centred, 3))
    )
    return MeanLoss(
        mean,
        second,
        third,
        np.stack([most.mean(axis=-1) for most in allowed], axis=-1),
        np.stack(change, axis=-1),
        np.array([before.shape[-1] for before in whole], float),
    )
