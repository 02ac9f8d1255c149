"""How far two measurements of the same heads or FFNs rank them alike: gradient scores against the oracle's.

The gradient score is known with a standard error and in two halves, the oracle's outcomes question by question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from lm_headroom.analysis.bootstrap import LEVEL, interval, resample
from lm_headroom.analysis.correlation import TaskScores, corrected_srcc, noise_ceiling, reliability, srcc

Array = np.ndarray[Any, np.dtype[np.float64]]
UNDEFINED = 0.05
"""Share of resamples whose halves do not agree at all, from which on nothing corrected for noise is said."""


@dataclass(frozen=True)
class Gradient:
    """Gradient scores of some heads or FFNs, their standard errors, and those of both halves; each [component]."""

    score: Array
    stderr: Array
    even: Array
    odd: Array


@dataclass(frozen=True)
class OracleAgreement:
    """SRCC of gradient scores and oracle, and how sure it is; None where it is not defined.

    Attributes:
        srcc, low, high: as measured, and limits for what as many other questions (and heads of a sample) would give.
        within_layer: mean of the SRCC inside layers, or their key-value groups; None for FFNs.
        reliability_gradient, reliability_oracle: split-half, Spearman-Brown.
        noise_ceiling: the root of their product: what the SRCC of equal rankings would be, measured as noisily.
        corrected, corrected_low, corrected_high: that of the scores without noise, by
            :func:`lm_headroom.analysis.correlation.corrected_srcc`. Above 1 by chance.
    """

    srcc: float | None
    low: float | None
    high: float | None
    within_layer: float | None
    reliability_gradient: float | None
    reliability_oracle: float | None
    noise_ceiling: float | None
    corrected: float | None
    corrected_low: float | None
    corrected_high: float | None


def agreement(
    gradient: Gradient,
    outcomes: Array,
    blocks: Array | None = None,
    sampled: bool = False,
    same_documents: bool = False,
) -> OracleAgreement:
    """Rank correlation of gradient scores with what the oracle lost.

    Questions are drawn anew within the two halves of them, gradient scores by their standard errors, and, where the
    heads are a sample, these, too. A resample adds its noise to outcomes that carry as much already: its SRCC is lower
    than the measured one, and its spread too small by the root of 2 - ceiling^2. The spread, made up for that, gives
    the limits around the measured SRCC. The SRCC over the noise ceiling is not shifted, since a resample's ceiling
    falls along with it: its limits are percentiles. So are those of the SRCC of halves that share no document.

    Args:
        gradient: of n components.
        outcomes: what was lost without each, [component, question].
        blocks: a number for the layer, or its key-value group, of each head; None for FFNs.
        sampled: whether the components are a random sample of the model's.
        same_documents: whether the gradient scores are of the oracle's questions, in the same order.
    """
    even, odd = outcomes[:, ::2].mean(axis=1), outcomes[:, 1::2].mean(axis=1)
    lost = outcomes.mean(axis=1)
    sides = TaskScores(gradient.score, gradient.even, gradient.odd), TaskScores(lost, even, odd)
    statistic, ceiling = _defined(srcc(gradient.score, lost)[0]), noise_ceiling(*sides)
    drawn, ratios = _resamples(gradient, outcomes, sampled, same_documents)
    low = high = corrected_low = corrected_high = None
    if statistic is not None and _mostly(np.isfinite(drawn)):
        # The spread of a bootstrap of n / 2 questions is short by the root of (n / 2 - 1) / (n / 2).
        half = outcomes.shape[1] // 2
        error = np.nanstd(drawn) * np.sqrt((2 - min(1.0, ceiling or 0) ** 2) * half / (half - 1))
        spread = norm.ppf((1 + LEVEL) / 2) * error
        low, high = _bounded(statistic - spread), _bounded(statistic + spread)
    of_gradient, of_oracle = (_defined(reliability(side)) for side in sides)
    corrected = corrected_srcc(*sides, same_documents) if _mostly(np.isfinite(ratios)) else None
    if corrected is not None:
        corrected_low, corrected_high = map(float, interval(ratios[np.isfinite(ratios)]))
    within = None if blocks is None else _within(gradient.score, lost, blocks)
    limits = corrected, corrected_low, corrected_high
    return OracleAgreement(statistic, low, high, within, of_gradient, of_oracle, ceiling, *limits)


def _resamples(gradient: Gradient, outcomes: Array, sampled: bool, same_documents: bool) -> tuple[Array, Array]:
    """SRCC of each resample, and the same without noise, [RESAMPLES]; NaN where they are not defined."""
    halves = [resample([outcomes[:, half::2]], seed=half) for half in (0, 1)]
    sizes = [outcomes[:, half::2].shape[1] for half in (0, 1)]
    rng = np.random.default_rng(2)
    # A half's error is that of the whole times the root of two.
    noise = np.sqrt(2) * gradient.stderr * rng.standard_normal((2, *halves[0].shape))
    lost = (sizes[0] * halves[0] + sizes[1] * halves[1]) / sum(sizes)
    score = gradient.score + noise.mean(axis=0)
    scores = [gradient.even + noise[0], gradient.odd + noise[1]]
    if sampled:
        chosen = rng.integers(outcomes.shape[0], size=lost.shape)
        lost, score, *rest = (np.take_along_axis(values, chosen, axis=1) for values in (lost, score, *halves, *scores))
        halves, scores = rest[:2], rest[2:]
    drawn = _srcc_by_row(score, lost)
    # Where the halves do not agree, nothing can be said.
    agreed = [np.where(r > 0, r, np.nan) for r in (_srcc_by_row(*halves), _srcc_by_row(*scores))]
    if same_documents:
        crossed = (_srcc_by_row(scores[0], halves[1]) + _srcc_by_row(scores[1], halves[0])) / 2
        return drawn, crossed / np.sqrt(agreed[0] * agreed[1])
    of_oracle, of_gradient = (2 * r / (1 + r) for r in agreed)
    return drawn, drawn / np.sqrt(of_oracle * of_gradient)


def _srcc_by_row(a: Array, b: Array) -> Array:
    """SRCC of each row of [row, component] with the same row of another; NaN where one is constant."""
    first, second = (rankdata(values, axis=1) for values in (a, b))
    first, second = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (first, second))
    norms = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations: Array = np.where(norms > 0, (first * second).sum(axis=1) / norms, np.nan)
    return correlations


def _within(score: Array, lost: Array, blocks: Array) -> float | None:
    """Mean over blocks of the SRCC inside a block, of blocks that have one."""
    values = [srcc(score[blocks == block], lost[blocks == block])[0] for block in np.unique(blocks)]
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else None


def _mostly(good: Array) -> bool:
    return bool(good.mean() > 1 - UNDEFINED)


def _defined(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _bounded(value: float) -> float:
    return float(np.clip(value, -1, 1))
