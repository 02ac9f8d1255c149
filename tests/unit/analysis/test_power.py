"""How many questions a test needs, on scores counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from lm_headroom.analysis.non_inferiority import CONFIDENCE, Margin, find_prunable
from lm_headroom.analysis.power import effective_sample_ratio, questions_needed


def changed(n: int, lost: int, gained: int) -> Any:
    """Right answers of one task, [level, question], of which half are right with nothing pruned."""
    whole = (np.arange(n) < n // 2).astype(float)
    pruned = whole.copy()
    pruned[:lost], pruned[n - gained :] = 0, 1
    return np.stack([whole, pruned])


def test_accuracy_needs_what_its_share_of_changed_questions_says() -> None:
    scores = [changed(200, 19, 10)]
    # With both pseudo-questions 31 of 202 change; the loss itself does not count.
    expected = 31 / 202 * ((norm.ppf(0.8) + norm.ppf(CONFIDENCE)) / 0.02) ** 2
    needed = questions_needed(scores, Margin(0.02))
    assert needed == pytest.approx(expected * 200 / 202)
    assert questions_needed(scores, Margin(0.04)) == pytest.approx(expected * 200 / 202 / 4)


@pytest.mark.parametrize("margin", [Margin(0.01), Margin(0.02, relative=True)])
def test_so_many_questions_have_the_power(margin: Margin) -> None:
    rng = np.random.default_rng(0)
    scores = [-rng.uniform(0.5, 1.5, (1, n)) + rng.normal(0, 0.1, (3, n)) for n in (100, 300)]
    needed = questions_needed(scores, margin, power=0.9, level=2)
    assert needed is not None
    many = [np.tile(values, 40)[:, : round(needed * values.shape[1] / 200)] for values in scores]
    power = margin.judge([values[0] for values in many], [values[2] for values in many]).power(CONFIDENCE)
    assert float(power) == pytest.approx(0.9, abs=0.02)


def test_a_study_of_too_few_questions_says_what_it_needs() -> None:
    scores = [changed(500, 38, 38)]
    assert "too few questions" in find_prunable(scores, [0.25]).reason
    needed = questions_needed(scores, Margin(0.02))
    assert needed is not None
    enough = round(needed / 500) + 1
    assert find_prunable([np.tile(scores[0], enough)], [0.25]).level == 1


def test_what_has_no_answer_is_none() -> None:
    flat = np.full((2, 50), 0.5)
    assert questions_needed([flat], Margin(0.01)) is None
    assert questions_needed([flat], Margin(0.01), level=2) is None
    assert questions_needed([flat], Margin(0.01), level=0) is None
    assert questions_needed([flat[:, :1]], Margin(0.01)) is None
    assert effective_sample_ratio([flat], [flat]) is None
    assert effective_sample_ratio([flat[:1]], [flat[:1]]) is None
    # Right answers that change, though no more of them are wrong: noise without a signal.
    still = changed(50, 5, 5)
    assert effective_sample_ratio([still + np.arange(50) / 50], [still]) is None
    assert effective_sample_ratio([still], [changed(50, 5, 0)]) == 0


def test_the_ratio_is_that_of_squared_signals_to_noise() -> None:
    # Two levels; accuracy loses 2 and 4 of 10 questions on one task and none of the other, which has no noise.
    right = np.ones((3, 10))
    right[1, :2], right[2, :4] = 0, 0
    accuracy = [right, np.ones((3, 10))]
    # The other outcome falls by 0.2 and 0.4 on average too, but every question by 0.1 more or less.
    tilt = np.tile([0.1, -0.1], 5)
    scores = [np.stack([np.full(10, 0.9), 0.7 + tilt, 0.5 + tilt]), np.full((3, 10), 0.5)]
    noise = np.mean([0.2 * 0.8, 0.4 * 0.6])
    assert effective_sample_ratio(scores, accuracy) == pytest.approx(noise / 0.01)
    # Units cancel.
    assert effective_sample_ratio([5 * values for values in scores], accuracy) == pytest.approx(noise / 0.01)
