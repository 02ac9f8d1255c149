"""The t test of a mean loss, on scores counted by hand and against scipy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import skew, ttest_rel
from scipy.stats import t as student

from lm_headroom.analysis.non_inferiority import PSEUDO_CHANGE, Margin

# Losses that are symmetric about their mean, of a whole model whose scores are all the same: no skew to correct, and
# pseudo-questions that do not change.
SYMMETRIC = np.array([-0.3, -0.1, -0.05, 0.0, 0.0, 0.05, 0.1, 0.3]) + 0.02
FLAT = np.full(8, 0.5)


def one_task(whole: Any, pruned: Any, margin: float) -> Any:
    return Margin(margin).judge([whole], [pruned])


def confidence_of(shown: Any) -> float:
    """The highest confidence at which a test passes, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if shown(middle) else (low, middle)
    return low


@pytest.mark.parametrize("margin", [0.05, 0.1, 0.3])
def test_one_task_without_skew_is_scipys_paired_t_test(margin: float) -> None:
    pruned = FLAT - SYMMETRIC
    shown = confidence_of(one_task(FLAT, pruned, margin).within)
    assert shown == pytest.approx(1 - ttest_rel(pruned + margin, FLAT, alternative="greater").pvalue, abs=1e-9)
    worse = pruned - 2 * margin
    refuted = confidence_of(one_task(FLAT, worse, margin).beyond)
    assert refuted == pytest.approx(1 - ttest_rel(worse + margin, FLAT, alternative="less").pvalue, abs=1e-9)


def test_tasks_of_unequal_sizes_have_welchs_degrees_of_freedom() -> None:
    other = np.tile(np.array([-0.02, 0.02]), 10)
    whole, losses = [FLAT, np.full(20, 0.3)], [SYMMETRIC, other]
    loss = Margin(0.1).judge(whole, [w - x for w, x in zip(whole, losses, strict=True)])
    variances = np.array([x.var(ddof=1) / len(x) for x in losses])
    degrees = variances.sum() ** 2 / (variances**2 / np.array([7, 19])).sum()
    distance = (0.1 - np.mean([0.02, 0.0])) / (np.sqrt(variances.sum()) / 2)
    assert confidence_of(loss.within) == pytest.approx(student.cdf(distance, degrees), abs=1e-9)


def test_skew_is_corrected_by_halls_transformation_and_pseudo_questions_widen_the_error() -> None:
    rng = np.random.default_rng(0)
    whole = rng.random(40)
    pruned = whole - np.where(rng.random(40) < 0.2, 0.4, 0.0)
    spare = pruned - whole + 0.15
    variance = (spare.var() * 40 + 2 * (PSEUDO_CHANGE * whole.std(ddof=1)) ** 2) / 39 / 40
    t, size = spare.mean() / np.sqrt(variance), skew(spare) * spare.var() ** 1.5 / 40**2 / variance**1.5
    distance = ((1 + size * t / 3) ** 3 - 1) / size + size / 6
    assert size < 0
    assert confidence_of(one_task(whole, pruned, 0.15).within) == pytest.approx(student.cdf(distance, 39), abs=1e-9)


def test_levels_are_judged_each_by_itself() -> None:
    whole = np.linspace(0.1, 0.9, 300)
    pruned = whole - np.array([[0.0], [0.01], [0.2]])
    loss = one_task(whole, pruned, 0.05)
    assert loss.within(0.95).tolist() == [True, True, False]
    assert loss.beyond(0.95).tolist() == [False, False, True]
    assert loss.power(0.95).shape == (3,)


@pytest.mark.parametrize(("n", "certain"), [(60, False), (3000, True)])
def test_scores_that_do_not_change_are_not_certain_of_few_questions(n: int, certain: bool) -> None:
    whole = np.random.default_rng(1).random(n)
    loss = one_task(whole, whole, 0.01)
    assert bool(loss.within(0.95)) == certain
    assert float(loss.power(0.95)) == pytest.approx(float(certain))
    # Nothing differs between questions either: nothing is known of how much one may change.
    flat = one_task(np.full(n, 0.1), np.full(n, 0.1), 0.01)
    assert not flat.within(0.95)
    assert not flat.beyond(0.95)
    assert flat.power(0.95) == 0


def test_a_relative_margin_is_that_of_one_number_per_question() -> None:
    """As scipy's test of pruned - (1 + value) whole, in which a pseudo-question doubles its bits per byte."""
    rng = np.random.default_rng(2)
    bits = -rng.uniform(0.5, 2.0, 100)
    pruned = bits * 1.001
    loss = Margin(0.05, relative=True).judge([bits], [pruned])
    spare = pruned - bits * 1.05
    assert loss.spare[0] == pytest.approx(spare.mean())
    assert loss.second[0] == pytest.approx(spare.var())
    assert loss.change[0] == pytest.approx(np.sqrt(np.mean(bits**2)))
    assert loss.allowed[0] == pytest.approx(-0.05 * bits.mean())
    assert bool(loss.within(0.95))
