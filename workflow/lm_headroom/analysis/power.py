"""How many questions a test would need, and how many times as many accuracy needs as a sharper outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from lm_headroom.analysis.non_inferiority import (
    CONFIDENCE,
    ENOUGH_POWER,
    Margin,
    are_right_or_wrong,
    judge,
    loss_from,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
MOST = 1e6
"""Times a study's questions; beyond it, no number counts as sufficient."""


def power_at(scores: Sequence[Array], margin: Margin, level: int = 1) -> float:
    """Probability that a level passes its non-inferiority test with the study's questions if it loses nothing.

    Args:
        scores, margin, level: as :func:`questions_needed` takes them.

    Example:
        >>> import numpy as np
        >>> from lm_headroom.analysis.non_inferiority import Margin
        >>> whole = np.tile([1.0, 0.0], 682)
        >>> pruned = np.where(np.arange(1364) < 109, 1 - whole, whole)
        >>> round(power_at([np.stack([whole, pruned])], Margin(0.02)), 1)
        0.8
    """
    whole, pruned = [values[0] for values in scores], [values[level] for values in scores]
    return float(judge(whole, pruned, margin, CONFIDENCE).power)


def questions_needed(
    scores: Sequence[Array], margin: Margin, power: float = ENOUGH_POWER, level: int = 1
) -> float | None:
    """Questions per task with which a level would pass its non-inferiority test with this power if it lost nothing.

    The spread of the paired differences at that level is taken as it was observed, and all tasks grow by one factor.

    Args:
        scores: per task, per level and question, higher is better, [level, question]; level 0 is the whole model.
        margin: the loss that counts as none.
        power: probability to pass.
        level: of pruning.

    Returns:
        Their mean over tasks. None if the level was not evaluated, a task has one question, or no number of questions
        suffices.

    Example:
        >>> import numpy as np
        >>> from lm_headroom.analysis.non_inferiority import Margin
        >>> whole = np.tile([1.0, 0.0], 100)
        >>> pruned = np.where(np.arange(200) < 16, 1 - whole, whole)
        >>> round(questions_needed([np.stack([whole, pruned])], Margin(0.02)))
        1364
    """
    whole, pruned = [values[0] for values in scores], [values[level : level + 1] for values in scores]
    sizes = [len(values) for values in whole]
    if min(sizes) < 2 or not 1 <= level < len(scores[0]):
        return None
    if are_right_or_wrong([*whole, *pruned]) and not margin.relative:
        loss = loss_from(whole, pruned)
        error = float(np.sqrt((loss.changed / loss.questions).sum())) / len(scores)
        # The error at which loss.power is the power asked for.
        factor = ((ndtri(power) + ndtri(CONFIDENCE)) * error / margin.value) ** 2
        return float(factor * np.mean(sizes))
    mean = margin.judge(whole, pruned)

    def short_of(log_factor: float) -> float:
        return float(mean.power(CONFIDENCE, float(np.exp(log_factor)))[0]) - power

    least, most = np.log(2 / min(sizes)), np.log(MOST)
    if short_of(most) < 0:
        return None
    factor = np.exp(least if short_of(least) >= 0 else brentq(short_of, least, most, xtol=1e-6))
    return float(factor * np.mean(sizes))


def effective_sample_ratio(scores: Sequence[Array], accuracy: Sequence[Array]) -> float | None:
    """How many times as many questions accuracy would need to tell levels apart as well as another outcome does.

    The ratio of squared signal-to-noise ratios of the outcome and of accuracy, in the sense of "Signal and Noise"
    (arXiv 2508.13144) adapted to pruning: its signal is the spread of final scores between models and its noise that
    between checkpoints of one; here, levels of pruning take the place of models, and samples of questions that of
    checkpoints. Signal: the largest less the smallest mean score of a level, averaged over tasks. Noise: the root mean
    square, over levels above 0, of the standard error of the paired loss averaged over tasks, which falls as one over
    the square root of the number of questions. Neither has a unit that does not cancel.

    Args:
        scores: of the outcome, per task, [level, question]; level 0 is the whole model.
        accuracy: of the same levels and questions, right (1) or wrong (0).

    Returns:
        Above 1 where the outcome is sharper. None where accuracy has no signal, one of them no noise, or a task a
        single question.

    Example:
        >>> import numpy as np
        >>> right = np.array([[1.0, 1, 1, 0], [1, 0, 1, 0]])
        >>> effective_sample_ratio([3 * right], [right])
        1.0
    """
    outcome, base = _signal_to_noise(scores), _signal_to_noise(accuracy)
    return None if outcome is None or not base else (outcome / base) ** 2


def _signal_to_noise(scores: Sequence[Array]) -> float | None:
    """None where there is no noise to compare with."""
    if len(scores[0]) < 2 or min(values.shape[1] for values in scores) < 2:
        return None
    signal = float(np.ptp(np.mean([values.mean(axis=1) for values in scores], axis=0)))
    lost = [values[:1] - values[1:] for values in scores]
    variances = np.sum([values.var(axis=1, ddof=1) / values.shape[1] for values in lost], axis=0) / len(scores) ** 2
    noise = float(np.sqrt(variances.mean()))
    return signal / noise if noise > 0 else None
