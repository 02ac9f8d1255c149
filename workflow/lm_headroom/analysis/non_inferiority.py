"""How much of a model can go by a stated rule, instead of by eye: a loss within a margin, shown level by level.

A share is certified where the loss of accuracy is shown, with 95% confidence, to be within the margin at that level
and at every level before it. Levels are tested in this order and the first that fails ends it (a fixed sequence), so
that the confidence is that of the whole statement. It holds only where the questions that judge took no part in the
ranking, and says something only of tasks that the whole model answers better than chance; elsewhere the estimate stands
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom, norm

from lm_headroom.settings import MARGIN

Array = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
CONFIDENCE = 0.95
"""Of each one-sided statement."""
ENOUGH_POWER = 0.8
"""Below it, a study is too small to show at a level that nothing is lost there (the convention of Cohen 1988)."""
RELATIVE_MARGIN = 0.1
"""The other margin: a share of the accuracy above chance, which 2 points may be a tenth of, or all."""
UP_TO, AT_LEAST, ESTIMATE_ONLY, NOT_CERTIFIABLE = "up to", "at least", "estimate only", "not certifiable"
"""Verdicts on what can go."""
CERTIFIED = "certified"
"""That on heads and FFNs together."""


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
        shown: Flags = self._distance(margin) >= norm.ppf(confidence)
        return shown

    def beyond(self, margin: float, confidence: float = CONFIDENCE) -> Flags:
        """Where the average loss is shown to be more than ``margin``, [...]."""
        shown: Flags = self._distance(margin) <= -norm.ppf(confidence)
        return shown

    def power(self, margin: float, confidence: float = CONFIDENCE) -> Array:
        """Probability to show that the loss is within ``margin`` if there were none and as many questions changed."""
        error = np.sqrt((self.changed / self.questions).sum(axis=-1)) / self.loss.shape[-1]
        power: Array = norm.cdf(margin / error - norm.ppf(confidence))
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
    correct: Sequence[Array], chance: Sequence[float], share: float = RELATIVE_MARGIN, confidence: float = CONFIDENCE
) -> Flags:
    """Where the average loss is shown to be less than ``share`` of the whole model's accuracy above chance, [level].

    The margin moves with the whole model's accuracy, so that both are one number per question: pruned - (1 - share)
    whole - share chance, whose mean is shown to be above 0. Pseudo-questions are those of :func:`paired_loss`.

    Args:
        correct: per task, [level, question]; level 0 is the whole model.
        chance: accuracy by chance, of each task.
    """
    tasks = len(correct)
    means, variances = [], []
    for outcomes, level in zip(correct, chance, strict=True):
        kept = outcomes[1:] - (1 - share) * outcomes[0] - share * level
        pseudo = np.array([share - 1, 1.0]) - share * level
        n = outcomes.shape[1] + 2 / tasks
        mean = (kept.sum(axis=1) + pseudo.sum() / tasks) / n
        square = ((kept**2).sum(axis=1) + (pseudo**2).sum() / tasks) / n
        means.append(mean)
        variances.append((square - mean**2) / (n - 1))
    error = np.sqrt(np.sum(variances, axis=0)) / tasks
    shown: Flags = np.mean(means, axis=0) >= norm.ppf(confidence) * error
    return shown


def is_above_chance(whole: Array, chance: float) -> bool:
    """Whether the whole model answers a task better than chance: exact one-sided binomial test at 5%.

    Args:
        whole: right (1) or wrong (0), [question].
        chance: accuracy by chance.
    """
    return bool(binom.sf(whole.sum() - 1, len(whole), chance) <= 1 - CONFIDENCE)


@dataclass(frozen=True)
class Prunable:
    """How much can go along a curve.

    Attributes:
        level: index of the largest level that is shown to lose no more than the margin, as all before it; 0 where none
            is; None where nothing is certified.
        estimate: index of the largest level up to which no observed loss exceeds the margin; None where the data do
            not allow to say.
        below: index of the lowest level found from the top, without a gap, to lose more than the margin: less than
            that can go. None where no level is.
        power: probability, without a true loss, to certify the level at which it ended; None where none was left.
        reason: why nothing is certified; empty where something can be.
        relative: as ``level``, by the margin that is a share of the accuracy above chance.
    """

    level: int | None
    estimate: int | None = None
    below: int | None = None
    power: float | None = None
    reason: str = ""
    relative: int | None = None

    @property
    def verdict(self) -> str:
        """``at least``: more questions or levels could show more; ``up to``: enough questions did not."""
        if self.level is None:
            return NOT_CERTIFIABLE if self.estimate is None else ESTIMATE_ONLY
        ended_by_loss = self.power is not None and (self.power >= ENOUGH_POWER or self.below == self.level + 1)
        return UP_TO if ended_by_loss else AT_LEAST


def untestable(whole: Sequence[Array], levels: int, chance: Sequence[float]) -> str:
    """Why nothing can be said, whatever the losses; empty where something can.

    A model that guesses loses nothing when it is pruned, a single question has no standard error.

    Args:
        whole: per task, outcomes of the whole model, [question].
        levels: how many levels above 0 were evaluated.
        chance: accuracy by chance, of each task.
    """
    if levels < 1:
        return "no level above 0 was evaluated"
    if min(len(right) for right in whole) < 2:
        return "a task has one question alone, and no standard error"
    if any(map(is_above_chance, whole, chance)):
        return ""
    accuracy = float(np.mean([right.mean() for right in whole]))
    error = float(np.sqrt(sum(right.var(ddof=1) / len(right) for right in whole)) / len(whole))
    where = "" if len(whole) == 1 else " on any task"
    shown = f"{accuracy:.2f} ± {error:.2f}"
    return f"the whole model's accuracy, {shown}, is not told from chance{where}, {np.mean(chance):.2f}"


def unsound(whole: Sequence[Array], chance: Sequence[float], chosen: str) -> str:
    """Why an estimate has no certificate; empty where it may have one.

    Args:
        whole, chance: as :func:`untestable` takes them.
        chosen: why the documents that judge have ranked, too; empty where they have not.
    """
    n_guessed = len(whole) - sum(map(is_above_chance, whole, chance))
    guessed = f"{n_guessed} of {len(whole)} tasks {'is' if n_guessed == 1 else 'are'} at chance" if n_guessed else ""
    return "; ".join(filter(None, (guessed, chosen)))


def certify(correct: Sequence[Array], chance: Sequence[float], margin: float = MARGIN, chosen: str = "") -> Prunable:
    """How much can go along a curve.

    Args:
        correct: per task, right (1) or wrong (0) per level and question, [level, question]; level 0 is the whole model.
        chance: accuracy by chance, of each task.
        margin: in percentage points.
        chosen: why the documents that judge have ranked, too, which leaves the estimate alone; empty where they have
            not.
    """
    whole = [outcomes[0] for outcomes in correct]
    last = len(correct[0]) - 1
    reason = untestable(whole, last, chance)
    if reason:
        return Prunable(None, reason=reason)
    within = margin / 100
    losses = np.mean([outcomes[:1].mean(axis=1) - outcomes[1:].mean(axis=1) for outcomes in correct], axis=0)
    # A loss of the margin itself is within it, however it was rounded.
    estimate = _run(losses <= within + 1e-12)
    reason = unsound(whole, chance, chosen)
    if reason:
        return Prunable(None, estimate, reason=reason)
    loss = loss_from(whole, [outcomes[1:] for outcomes in correct])
    level = _run(loss.within(within))
    below = last + 1 - _run(loss.beyond(within)[::-1])
    result = Prunable(
        level,
        # What is shown of all levels may rest on pseudo-counts; what is seen is never less.
        max(level, estimate),
        below if below <= last else None,
        float(loss.power(within)[level]) if level < last else None,
        relative=_run(within_share(correct, chance)),
    )
    if level == 0 and result.verdict == AT_LEAST:
        return Prunable(
            None,
            power=result.power,
            reason=f"too few questions: power {result.power:.2f} at the first level",
        )
    return result


@dataclass(frozen=True)
class PrunableCell:
    """How much can go of two components together.

    Attributes:
        cell: (head level, FFN level) with the most parameters among those certified; None where nothing is.
        estimate: the same of the cells up to which, from the top of their column, no observed loss exceeds the margin;
            None where the data do not allow to say.
        reason: why nothing is certified; empty where something can be.
    """

    cell: tuple[int, int] | None
    estimate: tuple[int, int] | None = None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """Whether there is a certificate, an estimate alone, or nothing to say."""
        if self.cell is not None:
            return CERTIFIED
        return NOT_CERTIFIABLE if self.estimate is None else ESTIMATE_ONLY


def certify_grid(
    correct: Sequence[Array], removed: Array, chance: Sequence[float], margin: float = MARGIN, chosen: str = ""
) -> PrunableCell:
    """How much can go of heads and FFNs together.

    Each level of FFNs is a fixed sequence over the levels of heads, at the error rate shared among these sequences
    (Bonferroni), so that with 95% confidence no certified cell loses more than the margin.

    Args:
        correct: per task, right (1) or wrong (0), [head level, FFN level, question]; the first cell is the whole model.
        removed: parameters that go, [head level, FFN level].
        chance: accuracy by chance, of each task.
        margin: in percentage points.
        chosen: as :func:`certify` takes it.
    """
    whole = [outcomes[0, 0] for outcomes in correct]
    reason = untestable(whole, removed.size - 1, chance)
    if reason:
        return PrunableCell(None, reason=reason)
    losses = np.mean([outcomes[0, 0].mean() - outcomes.mean(axis=-1) for outcomes in correct], axis=0)
    estimate = _largest(losses <= margin / 100 + 1e-12, removed)
    reason = unsound(whole, chance, chosen)
    if reason:
        return PrunableCell(None, estimate, reason)
    confidence = 1 - (1 - CONFIDENCE) / removed.shape[1]
    loss = loss_from(whole, correct)
    cell = _largest(loss.within(margin / 100, confidence), removed)
    if cell == (0, 0):
        power = np.where(removed > 0, loss.power(margin / 100, confidence), 0).max()
        if power < ENOUGH_POWER:
            return PrunableCell(None, reason=f"too few questions: power {power:.2f} at most")
    return PrunableCell(cell, estimate)


def _largest(good: Flags, removed: Array) -> tuple[int, int]:
    """The cell with the most parameters among those that are good with all cells of their column before them."""
    # Nothing goes, nothing is lost: not a test.
    good[0, 0] = True
    reached = np.logical_and.accumulate(good, axis=0)
    head, ffn = np.unravel_index(int(np.argmax(np.where(reached, removed, -1))), removed.shape)
    return int(head), int(ffn)


def _run(values: Flags) -> int:
    """How many are true before the first that is not."""
    return int(np.argmin([*values, False]))
