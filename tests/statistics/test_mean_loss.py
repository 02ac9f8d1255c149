"""The test of a mean loss, and bootstrap intervals of it, where the truth is known: skewed scores, seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lm_headroom.analysis.bootstrap import interval, resample
from lm_headroom.analysis.non_inferiority import CONFIDENCE, Margin, find_prunable, loss_interval
from tests.support.paired_scores import Draw, bits_per_byte, mean_loss_of, probability, rare_losses
from tests.support.simulations import simulated

N = simulated(3000)
ERROR_RATE = 1 - CONFIDENCE
ALLOWED = ERROR_RATE + 2 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / N)
SIZES = [(60,), (200,), (60, 40, 80, 60, 100), (30, 60, 120, 200, 250)]
PROBABILITIES = {
    "few change": probability(0.1, 0.15),
    "many change": probability(0.3, 0.5),
    "2% lose": rare_losses(0.02, 0.2, 1.0),
    "3% lose all": rare_losses(0.03, 0.8, 1.0),
    "10% lose": rare_losses(0.1, 0.2, 1.0),
    "20% lose little": rare_losses(0.2, 0.02, 0.3),
}
BITS = {
    "alike": bits_per_byte(0.01, 0.05, 0.6),
    "apart": bits_per_byte(0.02, 0.05, 1.0),
    "2% double": bits_per_byte(0.0, 0.03, 0.0, rare=0.02),
    "5% double": bits_per_byte(0.0, 0.03, 0.0, rare=0.05),
}


def studies(rng: np.random.Generator, draw: Draw, sizes: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
    """Scores with nothing and with something pruned, per task, [study, question]."""
    whole, pruned = zip(*(draw(rng, (N, n)) for n in sizes), strict=True)
    return list(whole), list(pruned)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", PROBABILITIES)
def test_a_loss_of_the_margin_is_seldom_shown_or_refuted(sizes: tuple[int, ...], name: str) -> None:
    draw = PROBABILITIES[name]
    loss = Margin(mean_loss_of(draw)).judge(*studies(np.random.default_rng(sum(sizes)), draw, sizes))
    assert loss.within(CONFIDENCE).mean() <= ALLOWED
    assert loss.beyond(CONFIDENCE).mean() <= ALLOWED


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", BITS)
def test_nor_is_one_of_a_share_of_the_bits_per_byte(sizes: tuple[int, ...], name: str) -> None:
    draw = BITS[name]
    share = mean_loss_of(draw) / np.exp(0.5**2 / 2)
    assert share > 0.01
    loss = Margin(share, relative=True).judge(*studies(np.random.default_rng(sum(sizes)), draw, sizes))
    assert loss.within(CONFIDENCE).mean() <= ALLOWED
    assert loss.beyond(CONFIDENCE).mean() <= ALLOWED


def test_a_plain_t_test_would_show_too_much() -> None:
    """Why skew is corrected: with 200 questions, of which 3% lose nearly all."""
    draw = PROBABILITIES["3% lose all"]
    whole, pruned = draw(np.random.default_rng(0), (N, 200))
    spare = pruned - whole + mean_loss_of(draw)
    t = spare.mean(axis=1) / (spare.std(axis=1, ddof=1) / np.sqrt(200))
    assert (t >= 1.6525).mean() > 1.5 * ERROR_RATE


DROPS = np.array([0.0, 0.02, 0.1, 0.2, 0.6])


def curve(rng: np.random.Generator, shape: Any) -> Any:
    """Probabilities of the gold choice, [level, *shape]: the same questions, which every level lowers by more."""
    odds = rng.normal(0.5, 1.8, shape)
    size = np.exp(rng.standard_normal(shape))
    drops = DROPS.reshape(-1, *[1] * odds.ndim)
    lower = odds - size * (drops - 0.1 * np.sqrt(drops) * rng.standard_normal((len(DROPS), *odds.shape)))
    return 1 / (1 + np.exp(-lower))


def test_levels_in_sequence_have_one_error_rate() -> None:
    truth = curve(np.random.default_rng(99), 1_000_000)
    losses = truth[0].mean() - truth.mean(axis=1)
    # Two levels are within the margin, and the third loses just that.
    margin, n = Margin(float(losses[3])), simulated(1000)
    rng, too_much, too_little, informative = np.random.default_rng(3), 0, 0, 0
    for _ in range(n):
        scores = [curve(rng, size) for size in (250, 150, 200, 300)]
        right = [(values[0] > 0.5).astype(float) for values in scores]
        prunable = find_prunable(scores, [0.25] * 4, margin, whole_right=right)
        assert prunable.level is not None
        too_much += prunable.level > 2
        too_little += prunable.below is not None and prunable.below <= 2
        informative += prunable.level == 2 and prunable.below is not None
    allowed = ERROR_RATE + 2 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / n)
    assert too_much / n <= allowed
    assert too_little / n <= allowed
    assert informative / n > 0.5, "the rule must say something at this size"


def chosen_ffn(rng: np.random.Generator, drops: Any, n_scoring: int, n: int, studies: int) -> tuple[Any, Any, Any, Any]:
    """Scores of whole models and without one FFN, [study, question], and which FFN that is, [study].

    Returns:
        The whole model's scores; those without the FFN that other questions rank last, and without the one that the
        same questions rank last; both choices, [2, study].
    """
    without = [probability(drop, 0.3) for drop in drops]
    scoring = np.stack([np.subtract(*draw(rng, (studies, n_scoring))).mean(axis=1) for draw in without])
    odds, size = rng.normal(0.5, 1.8, (studies, n)), np.exp(rng.standard_normal((studies, n)))
    whole = 1 / (1 + np.exp(-odds))
    pruned = np.stack([1 / (1 + np.exp(size * (d + 0.3 * rng.standard_normal((studies, n))) - odds)) for d in drops])
    choices = np.stack([scoring.argmin(axis=0), pruned.mean(axis=2).argmax(axis=0)])
    apart, same = (pruned[choice, np.arange(studies)] for choice in choices)
    return whole, apart, same, choices


def test_ffns_that_cost_the_margin_pass_only_if_the_same_questions_chose_them() -> None:
    drops = np.full(12, 0.15)
    margin = Margin(mean_loss_of(probability(0.15, 0.3)))
    whole, apart, same, _ = chosen_ffn(np.random.default_rng(4), drops, 60, 200, N)
    assert margin.judge([whole], [apart]).within(CONFIDENCE).mean() <= ALLOWED
    assert margin.judge([whole], [same]).within(CONFIDENCE).mean() > 4 * ERROR_RATE
    right = [(whole[0] > 0.5).astype(float)]
    prunable = find_prunable([np.stack([whole[0], same[0]])], [0.25], margin, "ranked by them", whole_right=right)
    assert prunable.level is None, "and then the estimate stands alone"


def covered(whole: list[Any], pruned: list[Any], truth: Any) -> float:
    """Share of intervals of the average loss that hold the truth; scores per task, [study, question]."""
    low, high = loss_interval(whole, pruned)
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("sizes", [(60,), (200,), (60, 40, 80, 60, 100), (200, 100, 150, 250, 200)])
@pytest.mark.parametrize("name", PROBABILITIES | BITS)
def test_intervals_of_losses_cover_the_truth(sizes: tuple[int, ...], name: str) -> None:
    draw = (PROBABILITIES | BITS)[name]
    whole, pruned = studies(np.random.default_rng(5), draw, sizes)
    assert covered(whole, pruned, mean_loss_of(draw)) >= 0.93


def test_the_bootstrap_would_cover_less_where_few_of_few_questions_lose() -> None:
    """Why losses have the interval of their test: of 60 questions, one or two lose, or none of those drawn."""
    whole, pruned = studies(np.random.default_rng(6), PROBABILITIES["3% lose all"], (60,))
    low, high = interval(resample([whole[0] - pruned[0]]))
    truth = mean_loss_of(PROBABILITIES["3% lose all"])
    assert ((low <= truth) & (truth <= high)).mean() < 0.88


def test_they_cover_the_loss_of_an_ffn_that_other_questions_chose() -> None:
    drops = np.linspace(0.1, 0.25, 12)
    truths = np.array([mean_loss_of(probability(drop, 0.3)) for drop in drops])
    # In a quarter of these studies what the choice hides is too seldom seen.
    whole, apart, same, choices = chosen_ffn(np.random.default_rng(7), drops, 60, 200, 3000)
    assert covered([whole], [apart], truths[choices[0]]) >= 0.93
    high = loss_interval([whole], [same])[1]
    assert (truths[choices[1]] > high).mean() > 0.031, (
        "its choice hides more than 2.5% of losses, by two binomial errors"
    )
