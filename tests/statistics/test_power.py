"""Questions that a test needs, and effective sample sizes, where the truth is known; seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lm_headroom.analysis.non_inferiority import CONFIDENCE, Margin, paired_loss
from lm_headroom.analysis.power import effective_sample_ratio, questions_needed
from tests.support.paired_scores import Draw, bits_per_byte, mean_loss_of, probability, rare_losses
from tests.support.simulations import simulated

N = 3000
POWER = 0.8
OUTCOMES = {
    "few change": (probability(0.1, 0.15), Margin(0.01)),
    "many change": (probability(0.3, 0.5), Margin(0.02)),
    "10% lose": (rare_losses(0.1, 0.2, 1.0), Margin(0.02)),
    "alike": (bits_per_byte(0.01, 0.05, 0.6), Margin(0.01, relative=True)),
    "apart": (bits_per_byte(0.02, 0.05, 1.0), Margin(0.02, relative=True)),
}


def without_loss(draw: Draw) -> Draw:
    """The same spread, but nothing lost on average."""
    loss = mean_loss_of(draw)

    def centred(rng: np.random.Generator, shape: Any) -> tuple[Any, Any]:
        whole, pruned = draw(rng, shape)
        return whole, pruned + loss

    return centred


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_study_of_as_many_questions_as_are_needed_passes_as_often_as_is_asked_for(name: str) -> None:
    lossy, margin = OUTCOMES[name]
    draw, rng = without_loss(lossy), np.random.default_rng(1)
    # The pilot has a loss, and other numbers of questions.
    needed = questions_needed([np.stack(lossy(rng, n)) for n in (20_000, 40_000)], margin)
    assert needed is not None
    whole, pruned = zip(*(draw(rng, (N, round(share * needed))) for share in (2 / 3, 4 / 3)), strict=True)
    passed = margin.judge(whole, pruned).within(CONFIDENCE).mean()
    assert passed == pytest.approx(POWER, abs=0.03)


def answers(rng: np.random.Generator, shape: Any) -> tuple[Any, Any]:
    """Right answers, of which one in five changes, as many to wrong as to right."""
    whole = rng.random(shape) < 0.5
    return whole.astype(float), (whole ^ (rng.random(shape) < 0.2)).astype(float)


def test_so_does_one_of_right_answers() -> None:
    rng, margin = np.random.default_rng(2), Margin(0.03)
    needed = questions_needed([np.stack(answers(rng, n)) for n in (20_000, 40_000)], margin)
    assert needed is not None
    whole, pruned = zip(*(answers(rng, (N, round(share * needed))) for share in (2 / 3, 4 / 3)), strict=True)
    lost, gained = (
        np.stack([(sign * (before - after) > 0).sum(axis=1) for before, after in zip(whole, pruned, strict=True)], 1)
        for sign in (1, -1)
    )
    loss = paired_loss(lost.astype(float), gained.astype(float), np.array([before.shape[1] for before in whole], float))
    assert loss.within(margin.value).mean() == pytest.approx(POWER, abs=0.03)


def test_what_a_small_study_says_it_needs_is_right_on_average() -> None:
    """The spread of 200 questions of each of three tasks is uncertain, and with it the number."""
    lossy, margin = OUTCOMES["few change"]
    draw, rng, passed = without_loss(lossy), np.random.default_rng(3), []
    for _ in range(simulated(1000)):
        needed = questions_needed([np.stack(lossy(rng, 200)) for _ in range(3)], margin)
        assert needed is not None
        whole, pruned = zip(*(draw(rng, (4, round(needed))) for _ in range(3)), strict=True)
        passed.append(margin.judge(whole, pruned).within(CONFIDENCE).mean())
    assert np.mean(passed) == pytest.approx(POWER, abs=0.03)


def both_outcomes(rng: np.random.Generator, drops: Any, shape: Any) -> tuple[Any, Any]:
    """Probability of the gold choice of two, and whether it is the answer, [level, *shape]."""
    odds = rng.normal(0.5, 1.8, shape)
    drops = np.reshape(drops, (-1, *[1] * odds.ndim))
    lower = odds - drops - 0.8 * (drops > 0) * rng.standard_normal((len(drops), *odds.shape))
    return 1 / (1 + np.exp(-lower)), (lower > 0).astype(float)


def true_ratio(drops: Any) -> float:
    """Of one task, by its formula over two million questions."""
    squares = []
    for scores in both_outcomes(np.random.default_rng(99), drops, 2_000_000):
        signal, variance = np.ptp(scores.mean(axis=1)), (scores[0] - scores[1:]).var(axis=1).mean()
        squares.append(signal**2 / variance)
    return float(squares[0] / squares[1])


def test_the_effective_sample_ratio_is_the_true_one_on_average() -> None:
    drops, rng = [0.0, 0.3, 0.6, 0.9], np.random.default_rng(4)
    ratios = []
    for _ in range(simulated(1000)):
        tasks = [both_outcomes(rng, drops, n) for n in (150, 250, 200)]
        ratios.append(effective_sample_ratio([scores for scores, _ in tasks], [right for _, right in tasks]))
    assert true_ratio(drops) > 1.5
    assert np.median(np.array(ratios, dtype=float)) == pytest.approx(true_ratio(drops), rel=0.05)


def test_accuracy_tells_a_level_apart_as_well_with_that_many_times_the_questions() -> None:
    drops, rng, n = [0.0, 0.1], np.random.default_rng(5), 200
    ratio = true_ratio(drops)

    def share_that_differs(which: int, size: int) -> float:
        whole, pruned = both_outcomes(rng, drops, (N, size))[which]
        lost = whole - pruned
        return float((lost.mean(axis=1) > 1.96 * lost.std(axis=1, ddof=1) / np.sqrt(size)).mean())

    sharp = share_that_differs(0, n)
    assert 0.4 < sharp < 0.9
    assert share_that_differs(1, round(ratio * n)) == pytest.approx(sharp, abs=0.03)
    assert share_that_differs(1, n) < sharp - 0.1
