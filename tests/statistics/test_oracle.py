"""Limits of the agreement between gradient and oracle, where the truth is known."""

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from lm_headroom.analysis import bootstrap
from lm_headroom.analysis.correlation import srcc
from lm_headroom.analysis.oracle_agreement import Gradient, agreement
from tests.support.simulations import members, simulated

SIMULATIONS = simulated(1000)
QUESTIONS = 60


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """For time; fewer make limits a little less sure, not narrower."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)


def true_scores(rng, n, rho):
    """Heavy-tailed gradient and oracle scores of n components, as measured without noise."""
    first, second = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=n).T
    return np.exp(first), np.exp(second)


def measured(rng, gradient, oracle, noise):
    """Gradient scores with errors of 10%; outcomes by question, which are more or less hard for all components."""
    n = len(gradient)
    halves = [gradient * (1 + np.sqrt(2) * 0.1 * rng.standard_normal(n)) for _ in range(2)]
    outcomes = oracle[:, None] * (1 + 0.5 * rng.standard_normal(QUESTIONS))
    outcomes = outcomes + noise * rng.standard_t(5, size=(n, QUESTIONS))
    return Gradient((halves[0] + halves[1]) / 2, 0.1 * gradient, *halves), outcomes


@cache
def simulate(n, rho, noise, population=None):
    """(true SRCC, agreements); the components are all there are, or a random sample of a population each time."""
    rng = np.random.default_rng(1)
    everything = true_scores(rng, population or n, rho)
    agreements = []
    for _ in range(SIMULATIONS):
        chosen = rng.choice(population, n, replace=False) if population else np.arange(n)
        gradient, outcomes = measured(rng, everything[0][chosen], everything[1][chosen], noise)
        agreements.append(agreement(gradient, outcomes, sampled=population is not None))
    return srcc(*everything)[0], agreements


@pytest.mark.parametrize(
    ("n", "rho", "noise", "population"),
    members(
        [(40, 0.0, 1, None), (40, 0.6, 4, None), (40, 0.9, 12, None), (12, 0.6, 3, None), (30, 0.6, 3, 270)],
        [(40, 0.9, 1, None)],
    ),
)
def test_limits_hold_the_truth(n, rho, noise, population):
    """1000 simulations of 60 questions: little, some and nearly all noise, few components, and a sample of them."""
    truth, agreements = simulate(n, rho, noise, population)
    # What as many other questions would give on average.
    expected = np.mean([each.srcc for each in agreements])
    assert np.mean([each.low <= expected <= each.high for each in agreements]) >= 0.93
    # The SRCC of the scores without noise: of all studies, those that say something wrong about it.
    correctable = [each for each in agreements if each.corrected is not None]
    wrong = sum(not each.corrected_low <= truth <= each.corrected_high for each in correctable)
    assert wrong <= 0.07 * SIMULATIONS
    if len(correctable) > 0.5 * SIMULATIONS:
        assert wrong <= 0.07 * len(correctable)
    elif noise < 10 and n > 12:
        pytest.fail(f"said something of {len(correctable)} studies")


def shared(rng, gradient, oracle, noise):
    """The same where half of the noise of gradient scores is the oracle's, on the same questions."""
    common, *own = (noise / np.sqrt(2) * rng.standard_t(5, size=(len(gradient), QUESTIONS)) for _ in range(3))
    of_gradient = gradient[:, None] + own[0] + common
    outcomes = oracle[:, None] * (1 + 0.5 * rng.standard_normal(QUESTIONS)) + own[1] + common
    stderr = of_gradient.std(axis=1, ddof=1) / np.sqrt(QUESTIONS)
    halves = [of_gradient[:, half::2].mean(axis=1) for half in (0, 1)]
    return Gradient(of_gradient.mean(axis=1), stderr, *halves), outcomes


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_noise_that_both_share_is_not_taken_for_agreement(rho):
    """1000 simulations of 40 FFNs, drawn anew each time, that are scored and removed on the same 60 questions."""
    rng = np.random.default_rng(3)
    differences, covered = {True: [], False: []}, []
    for _ in range(SIMULATIONS):
        scores = true_scores(rng, 40, rho)
        truth, study = srcc(*scores)[0], shared(rng, *scores, 4)
        for same_documents, errors in differences.items():
            agreed = agreement(*study, same_documents=same_documents)
            if agreed.corrected is not None:
                errors.append(agreed.corrected - truth)
                covered += [agreed.corrected_low <= truth <= agreed.corrected_high] if same_documents else []
    assert len(covered) > 0.5 * SIMULATIONS
    assert abs(np.mean(differences[True])) <= 0.03
    assert np.mean(differences[False]) > 0.1
    assert np.mean(covered) >= 0.93


def test_without_agreement_zero_is_rarely_left_out():
    """False positives: 40 components whose oracle has nothing to do with the gradient, drawn anew each time."""
    rng = np.random.default_rng(2)
    positive = 0
    for _ in range(SIMULATIONS):
        gradient, oracle = (np.exp(rng.standard_normal(40)) for _ in range(2))
        agreed = agreement(*measured(rng, gradient, oracle, 3), sampled=True)
        positive += not agreed.low <= 0 <= agreed.high
    assert positive <= binom.ppf(0.99, SIMULATIONS, 0.05)


def test_noise_lowers_the_srcc_and_not_what_is_corrected_for_it():
    truth, agreements = simulate(40, 0.6, 4)
    raw = np.mean([each.srcc for each in agreements])
    corrected = np.mean([each.corrected for each in agreements if each.corrected is not None])
    assert raw < truth - 0.05
    assert corrected == pytest.approx(truth, abs=0.05)


def test_each_head_is_as_likely_to_be_in_the_sample(monkeypatch):
    """1000 seeds: each of 12 heads is in 7 of 12 samples, give or take the binomial error."""
    from lm_headroom.models.architecture import HeadLayout
    from lm_headroom.scoring import knockout as oracle

    counts = np.zeros((3, 4))
    for seed in range(SIMULATIONS):
        monkeypatch.setattr(oracle, "SAMPLE_SEED", seed)
        for head in oracle.sample_heads(HeadLayout(3, 4, 4, 8), 7):
            counts[head] += 1
    # Seven of 12: two of each layer, three of one.
    low, high = binom.ppf([0.0005, 0.9995], SIMULATIONS, 7 / 12)
    assert low <= counts.min() <= counts.max() <= high
