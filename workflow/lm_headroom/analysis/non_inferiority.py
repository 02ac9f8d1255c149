"""How much of a model can be pruned: non-inferiority tests of the loss against a margin, level by level.

A share is prunable within the margin if a test shows, with 95% confidence, that the loss of accuracy, or of another
score, is within the margin at that level and at every level before it. Levels are tested in this order and the first
that fails ends it (a fixed sequence), so that the confidence is that of the whole statement. A test is valid only if
the evaluation questions took no part in the ranking, and informative only on tasks that the whole model answers better
than chance; elsewhere the point estimate stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.special import bdtrc, ndtr, ndtri

from lm_headroom.analysis.bootstrap import LEVEL, Interval
from lm_headroom.analysis.mean_loss import MeanLoss, mean_loss
from lm_headroom.settings import MARGIN

Array = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
CONFIDENCE = 0.95
"""Of each one-sided statement."""
ENOUGH_POWER = 0.8
"""Below it, a study is too small to show at a level that nothing is lost there (the convention of Cohen 1988)."""
RELATIVE_MARGIN = 0.1
"""The other margin: a share of the accuracy above chance, which 2 points may be a tenth of, or all."""
UP_TO, AT_LEAST, ESTIMATE_ONLY, INCONCLUSIVE = "up to", "at least", "estimate only", "inconclusive"
"""Verdicts on the share of one component that can be pruned."""
PSEUDO_CHANGE = 3.0
"""By how many standard deviations a pseudo-question changes: of a probability, about its whole range."""
PRUNABLE = "prunable"
"""The verdict on heads and FFNs together."""


@dataclass(frozen=True)
class Margin:
    """The loss that counts as none.

    Attributes:
        value: in units of the score (of accuracy, 0.02 is 2 percentage points).
        relative: ``value`` is instead a share of the whole model's own score (0.01 is 1% of its bits per byte).
    """

    value: float
    relative: bool = False

    def of(self, whole: Array) -> Array:
        """The margin of each question, in units of the score, [..., question]."""
        return self.value * np.abs(whole) if self.relative else np.full_like(whole, self.value)

    def judge(self, whole: Sequence[Array], pruned: Sequence[Array]) -> MeanLoss:
        """The mean loss against this margin; arguments as :func:`lm_headroom.analysis.mean_loss.mean_loss` takes them.

        A pseudo-question changes by what is much for a question: under a relative margin by the root mean square of
        the whole model's scores (its bits per byte double), elsewhere by :data:`PSEUDO_CHANGE` of their deviations.
        """
        # Shifted by the first, equal scores have no deviation to the last digit.
        change = [
            np.sqrt((scores**2).mean(axis=-1))
            if self.relative
            else PSEUDO_CHANGE * (scores - scores[..., :1]).std(axis=-1, ddof=1)
            for scores in whole
        ]
        return mean_loss(whole, pruned, [self.of(scores) for scores in whole], change)


DEFAULT_MARGIN = Margin(MARGIN / 100)


@dataclass(frozen=True)
class PairedLoss:
    """Loss of accuracy on the same questions, to be averaged over tasks; shares of 1.

    Attributes:
        loss: per task, [..., task].
        changed: share of questions whose outcome changed, [..., task].
        questions: per task, with pseudo-counts, [task].
    """

    loss: Array
    changed: Array
    questions: Array

    def within(self, margin: float, confidence: float = CONFIDENCE) -> Flags:
        """Where the average loss is shown to be less than ``margin``, [...]."""
        shown: Flags = self._distance(margin) >= ndtri(confidence)
        return shown

    def beyond(self, margin: float, confidence: float = CONFIDENCE) -> Flags:
        """Where the average loss is shown to be more than ``margin``, [...]."""
        shown: Flags = self._distance(margin) <= -ndtri(confidence)
        return shown

    def power(self, margin: float, confidence: float = CONFIDENCE) -> Array:
        """Probability to show that the loss is within ``margin`` if there were none and as many questions changed."""
        error = np.sqrt((self.changed / self.questions).sum(axis=-1)) / self.loss.shape[-1]
        power: Array = ndtr(margin / error - ndtri(confidence))
        return power

    def _distance(self, margin: float) -> Array:
        """How far below ``margin`` the average loss is, in standard errors as they are if it is the margin, [...].

        A score test, as Tango (1998) has for one task: with the variance of what was observed, a lucky draw of few lost
        questions would look precise as well. Losses are moved to where their average is the margin, each task by its
        share of the variance, and questions that changed along with them, to first order.
        """
        gap = margin - self.loss.mean(axis=-1)
        variance = (self.changed - self.loss**2) / self.questions
        shift = gap[..., None] * variance / variance.mean(axis=-1, keepdims=True)
        loss = self.loss + shift
        # The regression of questions that changed on those lost less those gained.
        slope = np.clip(loss * (1 - self.changed) / np.maximum(self.changed - loss**2, 1e-9), -1, 1)
        changed = np.maximum(self.changed + slope * shift, np.abs(loss))
        error = np.sqrt(((changed - loss**2) / (self.questions - 1)).sum(axis=-1)) / loss.shape[-1]
        distance: Array = gap / error
        return distance


def paired_loss(lost: Array, gained: Array, questions: Array) -> PairedLoss:
    """Estimates with pseudo-counts (Bonett and Price 2012).

    One pseudo-question that was lost and one that was gained are shared among the tasks: without them, a level at which
    no question happens to change would be certain.

    Args:
        lost, gained: questions that went wrong, and that came right, [..., task].
        questions: their number, [task].
    """
    tasks = lost.shape[-1]
    n = questions + 2 / tasks
    return PairedLoss((lost - gained) / n, (lost + gained + 2 / tasks) / n, n)


def loss_from(whole: Sequence[Array], pruned: Sequence[Array]) -> PairedLoss:
    """The same from outcomes.

    Args:
        whole: per task, right (1) or wrong (0) with nothing pruned, [question].
        pruned: per task, the same with something pruned, [..., question].
    """
    changes = [before - after for before, after in zip(whole, pruned, strict=True)]
    lost, gained = (np.stack([(sign * change > 0).sum(axis=-1) for change in changes], axis=-1) for sign in (1, -1))
    return paired_loss(lost.astype(float), gained.astype(float), np.array([len(before) for before in whole], float))


def within_share(
    correct: Sequence[Array],
    chance_levels: Sequence[float],
    share: float = RELATIVE_MARGIN,
    confidence: float = CONFIDENCE,
) -> Flags:
    """Where the average loss is shown to be less than ``share`` of the whole model's accuracy above chance, [level].

    The margin moves with the whole model's accuracy, so that both are one number per question: pruned - (1 - share)
    whole - share chance, whose mean is shown to be above 0. Pseudo-questions are those of :func:`paired_loss`.

    Args:
        correct: per task, [level, question]; level 0 is the whole model.
        chance_levels: chance level of each task.
    """
    tasks = len(correct)
    means, variances = [], []
    for outcomes, level in zip(correct, chance_levels, strict=True):
        kept = outcomes[1:] - (1 - share) * outcomes[0] - share * level
        pseudo = np.array([share - 1, 1.0]) - share * level
        n = outcomes.shape[1] + 2 / tasks
        mean = (kept.sum(axis=1) + pseudo.sum() / tasks) / n
        square = ((kept**2).sum(axis=1) + (pseudo**2).sum() / tasks) / n
        means.append(mean)
        variances.append((square - mean**2) / (n - 1))
    error = np.sqrt(np.sum(variances, axis=0)) / tasks
    shown: Flags = np.mean(means, axis=0) >= ndtri(confidence) * error
    return shown


class _Judgement(NamedTuple):
    """Where the loss is shown to be within the margin and beyond it, and the power of the former, [...]."""

    within: Flags
    beyond: Flags
    power: Array


def judge(whole: Sequence[Array], pruned: Sequence[Array], margin: Margin, confidence: float) -> _Judgement:
    """The score test where all scores are 0 or 1, and the t test of the mean loss elsewhere.

    Args:
        whole: per task, scores with nothing pruned, [question].
        pruned: per task, the same with something pruned, [..., question].
    """
    if are_right_or_wrong([*whole, *pruned]) and not margin.relative:
        loss, value = loss_from(whole, pruned), margin.value
        return _Judgement(loss.within(value, confidence), loss.beyond(value, confidence), loss.power(value, confidence))
    mean = margin.judge(whole, pruned)
    return _Judgement(mean.within(confidence), mean.beyond(confidence), mean.power(confidence))


def loss_interval(whole: Sequence[Array], pruned: Sequence[Array]) -> Interval:
    """95% limits of the average loss of a score that is no mere right or wrong: what one-sided tests do not refute.

    Of tests without a margin: under a relative one, the verdict's pseudo-questions change by more.

    Args:
        whole: per task, scores with nothing pruned, [question].
        pruned: per task, the same with something pruned, [..., question].
    """
    # Where nothing is pruned, not one score changes, and nothing is lost for certain.
    same = np.all([(before == after).all(axis=-1) for before, after in zip(whole, pruned, strict=True)], axis=0)
    return Interval(*(np.where(same, 0.0, limit) for limit in Margin(0.0).judge(whole, pruned).interval(LEVEL)))


class LossDifference(NamedTuple):
    """What one way of pruning loses beyond another: its value and 95% limits, and the two-sided p value of none."""

    limits: tuple[Array, Array, Array]
    p: Array


def compare_losses(own: Sequence[Array], other: Sequence[Array]) -> LossDifference:
    """By how much more ``other`` loses than ``own``, questions paired, averaged over tasks; each [...].

    Args:
        own: per task, scores under one ranking, higher is better, [..., question].
        other: the same under another.

    Example:
        >>> own, other = np.linspace(0.2, 0.8, 300), np.linspace(0.3, 0.9, 300)
        >>> difference = compare_losses([own], [other])
        >>> [round(float(value), 2) for value in difference.limits], bool(difference.p < 0.01)
        ([-0.1, -0.11, -0.09], True)
    """
    judged = Margin(0.0).judge(own, other)
    lost = np.mean([(before - after).mean(axis=-1) for before, after in zip(own, other, strict=True)], axis=0)
    return LossDifference((lost, *judged.interval(LEVEL)), judged.p_value())


def are_right_or_wrong(scores: Sequence[Array]) -> bool:
    """Whether all scores are 0 or 1, as those of accuracy are."""
    return all(bool(((values == 0) | (values == 1)).all()) for values in scores)


def _right_answers(whole: Sequence[Array], whole_right: Sequence[Array] | None) -> Sequence[Array]:
    """Right (1) or wrong (0) answers of the whole model, per task, [question]: of accuracy, its scores."""
    if whole_right is None:
        if not are_right_or_wrong(whole):
            raise ValueError("scores other than 0 and 1 need the whole model's right answers: pass whole_right")
        return whole
    if (sizes := [len(right) for right in whole_right]) != (expected := [len(scores) for scores in whole]):
        raise ValueError(f"whole_right has {sizes} questions by task, but scores have {expected}: pass the same ones")
    return whole_right


def _spare(scores: Sequence[Array], whole: Sequence[Array], margin: Margin) -> Array:
    """What the margin leaves of the mean score, averaged over tasks, [...]; at least 0 where the loss is within it."""
    left = [
        values.mean(axis=-1) - before.mean() + margin.of(before).mean()
        for values, before in zip(scores, whole, strict=True)
    ]
    # A loss of the margin itself is within it, however it was rounded.
    spare: Array = np.mean(left, axis=0) + 1e-12
    return spare


def is_above_chance(whole: Array, chance_level: float) -> bool:
    """Whether the whole model answers a task better than its chance level: exact one-sided binomial test at 5%.

    Args:
        whole: right (1) or wrong (0), [question].
        chance_level: accuracy that needs no model.
    """
    return bool(bdtrc(whole.sum() - 1, len(whole), chance_level) <= 1 - CONFIDENCE)


@dataclass(frozen=True)
class Prunable:
    """The share of a component that can be pruned, as an index of the curve's levels.

    Attributes:
        level: the largest level that is shown to lose no more than the margin, as all before it; 0 where none is; None
            where the tests are not valid or too weak.
        estimate: the largest level up to which no observed loss exceeds the margin; None where the data do not allow
            an estimate.
        below: the lowest level from which on, up to the last, the loss is shown to exceed the margin: the upper bound
            of the share that can be pruned. None where there is no such level.
        power: probability that the test passes at the level where it failed if nothing is lost there; None where none
            failed.
        reason: why there is no level, as a clause; empty where there is one.
        relative: as ``level``, by the margin that is a share of the accuracy above chance; None for other scores.
        verdict: ``at least``: more questions or levels could show more; ``up to``: enough questions did not.
    """

    level: int | None
    estimate: int | None = None
    below: int | None = None
    power: float | None = None
    reason: str = ""
    relative: int | None = None
    verdict: str = INCONCLUSIVE

    def among(self, levels: Sequence[int]) -> Prunable:
        """The same where its levels are ``levels`` of a longer curve.

        Example:
            >>> Prunable(0, 1, below=2).among([0, 2, 3])
            Prunable(level=0, estimate=2, below=3, power=None, reason='', relative=None, verdict='inconclusive')
        """
        places = (self.level, self.estimate, self.below, self.relative)
        level, estimate, below, relative = (None if place is None else levels[place] for place in places)
        return replace(self, level=level, estimate=estimate, below=below, relative=relative)


def explain_inconclusive(whole: Sequence[Array], levels: int, chance_levels: Sequence[float]) -> str:
    """Why the study is inconclusive whatever the losses, as a clause; empty where it is not.

    A model at chance level loses nothing when it is pruned, and a single question has no standard error.

    Args:
        whole: per task, outcomes of the whole model, [question].
        levels: how many levels that prune something were evaluated.
        chance_levels: chance level of each task.
    """
    if levels < 1:
        return "the study evaluated no level that prunes anything"
    if min(len(right) for right in whole) < 2:
        return "a task has only one question and thus no standard error"
    if any(map(is_above_chance, whole, chance_levels)):
        return ""
    accuracy = float(np.mean([right.mean() for right in whole]))
    error = float(np.sqrt(sum(right.var(ddof=1) / len(right) for right in whole)) / len(whole))
    where = "" if len(whole) == 1 else " on any task"
    shown = f"accuracy {accuracy:.2f} ± {error:.2f}, chance level {np.mean(chance_levels):.2f}"
    return f"the whole model is not significantly better than chance{where} ({shown})"


def explain_estimate_only(whole: Sequence[Array], chance_levels: Sequence[float], overlap: str) -> str:
    """Why no test can confirm an estimate, as a clause; empty where one can.

    Args:
        whole, chance_levels: as :func:`explain_inconclusive` takes them.
        overlap: how the evaluation documents took part in the ranking; empty where they did not.
    """
    n_at_chance = len(whole) - sum(map(is_above_chance, whole, chance_levels))
    verb = "is" if n_at_chance == 1 else "are"
    at_chance = f"{n_at_chance} of {len(whole)} tasks {verb} at chance level" if n_at_chance else ""
    return "; ".join(filter(None, (at_chance, overlap)))


def find_prunable(
    scores: Sequence[Array],
    chance_levels: Sequence[float],
    margin: Margin = DEFAULT_MARGIN,
    overlap: str = "",
    whole_right: Sequence[Array] | None = None,
) -> Prunable:
    """The share of a component that can be pruned, by non-inferiority tests along its curve.

    Args:
        scores: per task, per level and question, higher is better, [level, question]; level 0 is the whole model, and
            each other one prunes something. Of accuracy, right (1) or wrong (0).
        chance_levels: chance level of each task's accuracy.
        margin: the loss that counts as none.
        overlap: how the evaluation documents took part in the ranking, which leaves the estimate alone; empty where
            they did not.
        whole_right: per task, right (1) or wrong (0) answers of the whole model, [question], by which it is above
            chance whatever the score; None if the scores are of accuracy.

    Raises:
        ValueError: ``whole_right`` is missing though scores are not 0 or 1, or is of other questions.
    """
    whole = [values[0] for values in scores]
    right = _right_answers(whole, whole_right)
    last = len(scores[0]) - 1
    reason = explain_inconclusive(right, last, chance_levels)
    if reason:
        return Prunable(None, reason=reason)
    pruned = [values[1:] for values in scores]
    estimate = _run(_spare(pruned, whole, margin) >= 0)
    reason = explain_estimate_only(right, chance_levels, overlap)
    if reason:
        return Prunable(None, estimate, reason=reason, verdict=ESTIMATE_ONLY)
    shown = judge(whole, pruned, margin, CONFIDENCE)
    level = _run(shown.within)
    below = last + 1 - _run(shown.beyond[::-1])
    power = float(shown.power[level]) if level < last else None
    ended_by_loss = power is not None and (power >= ENOUGH_POWER or below == level + 1)
    if level == 0 and not ended_by_loss:
        reason = f"the study has too few questions (power {power:.2f} at the lowest pruning level)"
        return Prunable(None, power=power, reason=reason)
    return Prunable(
        level,
        # A test may pass by its pseudo-counts alone; the estimate is never below it.
        max(level, estimate),
        below if below <= last else None,
        power,
        relative=_run(within_share(scores, chance_levels)) if whole_right is None else None,
        verdict=UP_TO if ended_by_loss else AT_LEAST,
    )


@dataclass(frozen=True)
class PrunableCell:
    """The cell of the joint grid that can be pruned.

    Attributes:
        cell: (head level, FFN level) with the most parameters among those shown to lose no more than the margin; None
            where the tests are not valid or too weak.
        estimate: the same of the cells up to which, from the top of their column, no observed loss exceeds the margin;
            None where the data do not allow an estimate.
        reason: why there is no cell, as a clause; empty where there is one.
    """

    cell: tuple[int, int] | None
    estimate: tuple[int, int] | None = None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """Whether a test shows the cell, the estimate stands alone, or neither is there."""
        if self.cell is not None:
            return PRUNABLE
        return INCONCLUSIVE if self.estimate is None else ESTIMATE_ONLY


def find_prunable_cell(
    scores: Sequence[Array],
    removed: Array,
    chance_levels: Sequence[float],
    margin: Margin = DEFAULT_MARGIN,
    overlap: str = "",
    whole_right: Sequence[Array] | None = None,
) -> PrunableCell:
    """The heads and FFNs that can be pruned together, by non-inferiority tests.

    Each level of FFNs is a fixed sequence over the levels of heads, at the error rate shared among these sequences
    (Bonferroni), so that with 95% confidence no cell that passes loses more than the margin.

    Args:
        scores: per task, [head level, FFN level, question]; the first cell is the whole model.
        removed: parameters that are pruned, [head level, FFN level].
        chance_levels, margin, overlap, whole_right: as :func:`find_prunable` takes them.

    Raises:
        ValueError: as :func:`find_prunable`.
    """
    whole = [values[0, 0] for values in scores]
    right = _right_answers(whole, whole_right)
    reason = explain_inconclusive(right, int((removed > 0).sum()), chance_levels)
    if reason:
        return PrunableCell(None, reason=reason)
    estimate = _largest(_spare(scores, whole, margin) >= 0, removed)
    reason = explain_estimate_only(right, chance_levels, overlap)
    if reason:
        return PrunableCell(None, estimate, reason)
    confidence = 1 - (1 - CONFIDENCE) / removed.shape[1]
    shown = judge(whole, scores, margin, confidence)
    cell = _largest(shown.within, removed)
    if cell == (0, 0):
        power = np.where(removed > 0, shown.power, 0).max()
        if power < ENOUGH_POWER and not shown.beyond[removed > 0].all():
            return PrunableCell(None, reason=f"the study has too few questions (power {power:.2f} at most)")
    return PrunableCell(cell, estimate)


def _largest(good: Flags, removed: Array) -> tuple[int, int]:
    """The cell with the most parameters among those that are good with all cells of their column before them."""
    # Nothing is pruned, nothing is lost: not a test.
    reached = np.logical_and.accumulate(good | (removed == 0), axis=0)
    head, ffn = np.unravel_index(int(np.argmax(np.where(reached, removed, -1))), removed.shape)
    return int(head), int(ffn)


def _run(values: Flags) -> int:
    """How many are true before the first that is not."""
    return int(np.argmin([*values, False]))
