"""Rules on rank correlations, simulated where the truth is known (docs/statistics.md)."""

from pathlib import Path

import numpy as np
import pytest

from lm_headroom.analysis.correlation import (
    TaskScores,
    corrected_srcc,
    leave_one_out,
    permutation_p,
    reliability,
    srcc,
    within_layer_shuffles,
)
from lm_headroom.analysis.variance import components, head_components
from lm_headroom.results.curves import Curve
from lm_headroom.results.gain import gain
from tests.support.simulations import simulated

N = simulated(1000)
"""Simulations of each rule."""
SHAPE = (15, 12)


def sure(share, n=N):
    """Upper limit of a share that is at most ``share``, by three binomial standard errors."""
    return share + 3 * np.sqrt(share * (1 - share) / n)


def correlated(rng, rho, tails):
    """Two true score vectors whose population SRCC is known: 6 / pi arcsin(rho / 2) for normal ones (Pearson 1907).

    Heavy tails are those of a log-normal; a monotone map leaves ranks as they are.
    """
    a, b = rng.standard_normal((2, *SHAPE))
    b = rho * a + np.sqrt(1 - rho**2) * b
    return (np.exp(a), np.exp(b)) if tails else (a, b)


def measured(rng, truth, noise, tails, shared=None):
    """Scores from halves; noise grows with the score where tails are heavy, as that of a mean of absolute values."""
    errors = rng.standard_normal((2, *SHAPE)) if shared is None else shared
    even, odd = truth + noise * errors * (truth if tails else 1)
    return TaskScores((even + odd) / 2, even, odd)


@pytest.mark.parametrize(
    ("rho", "noise", "tails", "bias"),
    [(0, 0.8, False, 0.01), (0.5, 0.8, False, 0.01), (0.9, 0.8, False, 0.01), (0.5, 0.4, True, 0.025)],
)
def test_corrected_srcc_is_close_to_the_true_one(rho, noise, tails, bias):
    """Reliabilities are about 0.7 (noise 0.8) and 0.9 (0.4, heavy tails); n = 1000, 180 heads."""
    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(rho / 2)
    plain, corrected = [], []
    for _ in range(N):
        a, b = (measured(rng, t, noise, tails) for t in correlated(rng, rho, tails))
        plain.append(srcc(a.score, b.score)[0])
        corrected.append(corrected_srcc(a, b))
    assert None not in corrected
    error = np.std(corrected) / np.sqrt(N)
    assert abs(np.mean(corrected) - truth) < bias + 3 * error
    if rho:
        assert np.mean(plain) < 0.95 * truth, "the plain one is too low"


def test_noise_of_the_same_documents_is_corrected_for_by_halves_of_others():
    """Half of the noise is of the documents and the same in both rankings; n = 1000."""
    rng = np.random.default_rng(2)
    truth = 6 / np.pi * np.arcsin(0.5 / 2)
    apart, plain = [], []
    for _ in range(N):
        common, own_a, own_b = rng.standard_normal((3, 2, *SHAPE)) / np.sqrt(2)
        a, b = correlated(rng, 0.5, False)
        a, b = measured(rng, a, 0.8, False, common + own_a), measured(rng, b, 0.8, False, common + own_b)
        apart.append(corrected_srcc(a, b, same_documents=True))
        plain.append(corrected_srcc(a, b))
    assert abs(np.mean(apart) - truth) < 0.01 + 3 * np.std(apart) / np.sqrt(N)
    assert np.mean(plain) > truth + 0.1, "taken for independent, shared noise passes for agreement"


def test_split_half_reliability_is_that_of_the_whole():
    """The SRCC of two measurements of all documents is what the halves of one predict; n = 1000."""
    rng = np.random.default_rng(3)
    predicted, observed = [], []
    for _ in range(N):
        truth = rng.standard_normal(SHAPE)
        a, b = (measured(rng, truth, 0.8, False) for _ in "ab")
        predicted.append(reliability(a))
        observed.append(srcc(a.score, b.score)[0])
    assert abs(np.mean(predicted) - np.mean(observed)) < 0.01


def test_a_layer_profile_alone_passes_the_permutation_test_as_rarely_as_it_should():
    """Two rankings that share a layer-wise trend and nothing else; n = 1000 pairs."""
    rng = np.random.default_rng(4)
    profile = np.linspace(0, 2, SHAPE[0])[:, None]
    by_layers, plain = [], []
    for _ in range(N // 50):
        scores = profile + rng.standard_normal((100, *SHAPE))
        p_values = permutation_p(scores)
        by_layers += [p_values[i, i + 50] for i in range(50)]
        plain += [srcc(scores[i], scores[i + 50])[1] for i in range(50)]
    assert len(by_layers) == N
    for level in (0.05, 0.01):
        assert np.mean(np.array(by_layers) < level) <= sure(level)
    assert np.mean(np.array(plain) < 0.05) > 0.5, "the plain p finds the profile in most runs"


@pytest.mark.parametrize(("heads", "groups"), [(12, 2), (12, 4), (9, 3), (8, 4)])
def test_a_profile_over_key_value_groups_passes_as_rarely_as_it_should(heads, groups):
    """Rankings that share profiles over layers and over their groups, a third of the variance inside; n = 1000."""
    rng = np.random.default_rng(heads + groups)
    by_groups, by_layers = [], []
    for _ in range(N // 50):
        profile = np.linspace(0, 2, SHAPE[0])[:, None] + 0.7 * rng.standard_normal((SHAPE[0], groups)).repeat(
            heads // groups, axis=1
        )
        scores = profile + rng.standard_normal((100, SHAPE[0], heads))
        for collected, n in ((by_groups, groups), (by_layers, 1)):
            p_values = permutation_p(scores, within_layer_shuffles((SHAPE[0], heads), 199, groups=n))
            collected += [p_values[i, i + 50] for i in range(50)]
    p_values = np.array(by_groups)
    # Uniform: between the quantiles as often as it should be, by three binomial errors.
    for level in (0.05, 0.25, 0.5, 0.75):
        assert abs(np.mean(p_values <= level) - level) <= sure(level) - level, level
    assert np.mean(np.array(by_layers) < 0.05) > 0.3, "layers alone take a profile over groups for agreement"


def test_the_permutation_test_finds_what_heads_share_inside_layers():
    rng = np.random.default_rng(5)
    profile = np.linspace(0, 2, SHAPE[0])[:, None]
    shared = rng.standard_normal((50, *SHAPE))
    scores = np.concatenate([profile + shared + 1.5 * rng.standard_normal((50, *SHAPE)) for _ in "ab"])
    p_values = permutation_p(scores)
    assert np.mean([p_values[i, i + 50] < 0.05 for i in range(50)]) > 0.9


def test_independent_tasks_correlate_with_their_aggregate_and_not_with_that_of_the_others():
    """14 tasks with nothing in common; n = 1000 studies, a task of each."""
    rng = np.random.default_rng(6)
    plain, left_out = [], []
    for _ in range(N):
        scores = rng.random((14, *SHAPE))
        plain.append(srcc(scores[0], scores.mean(axis=0))[0])
        left_out.append(srcc(scores[0], scores[1:].mean(axis=0))[0])
    error = np.std(left_out) / np.sqrt(N)
    assert abs(np.mean(left_out)) < 3 * error
    assert np.mean(plain) > 0.2
    tasks = {str(i): TaskScores(values, values, values) for i, values in enumerate(scores)}
    assert leave_one_out(tasks)["0"]["srcc_leave_one_out"] == pytest.approx(left_out[-1])


@pytest.mark.parametrize("spread", [0.0, 0.04])
def test_the_seeds_component_is_unbiased(spread):
    """4 seeds, 150 questions that differ much in how hard they are; seeds shift all of them; n = 2000."""
    rng = np.random.default_rng(7)
    hard = rng.uniform(0.2, 0.8, (2000, 1, 150))
    seeds = np.clip(spread * rng.standard_normal((2000, 4, 1)), -0.15, 0.15)
    parts = components((rng.random((2000, 4, 150)) < hard + seeds).astype(float))
    truth = np.var(np.clip(spread * rng.standard_normal(10**6), -0.15, 0.15))
    error = parts.unclipped.std() / np.sqrt(2000)
    assert abs(parts.unclipped.mean() - truth) < 3 * error
    assert parts.seed.mean() >= parts.unclipped.mean(), "not below 0: a little too high"
    assert (parts.total - parts.sampling).mean() < truth - 3 * error, "unpaired, too low: seeds share the questions"


def test_the_seeds_component_of_heads_is_unbiased():
    """Halves of documents in the place of documents; 3 seeds, 180 heads; n = 1000."""
    rng = np.random.default_rng(8)
    means = []
    for _ in range(N):
        heads, halves = rng.random(SHAPE), 0.3 * rng.standard_normal((2, *SHAPE))
        seeds = []
        for _ in range(3):
            even, odd = heads + halves + 0.2 * rng.standard_normal(SHAPE) + 0.4 * rng.standard_normal((2, *SHAPE))
            seeds.append(TaskScores((even + odd) / 2, even, odd))
        means.append(head_components(seeds).unclipped.mean())
    assert abs(np.mean(means) - 0.2**2) < 3 * np.std(means) / np.sqrt(N)


def test_the_interval_of_a_gain_covers_the_true_one():
    """Three tasks of 60 questions, four levels; questions that are hard at one level are at others; n = 1000."""
    rng = np.random.default_rng(9)
    truth, covered = 0.06, 0
    for _ in range(N):
        own, other = {}, {}
        for task in "abc":
            hard = rng.uniform(0.2, 0.8, 60)
            drop = np.array([0, 0.02, 0.04, 0.1, 0.14])[:, None]
            right = [rng.random((5, 60)) < hard + shift * (drop > 0) - drop for shift in (0, truth)]
            own[task], other[task] = (curve_of(values) for values in right)
        limits = gain(own, other, [10, 20, 30, 40])[1]
        covered += limits.low <= truth <= limits.high
    assert covered / N >= 0.93


def curve_of(right):
    """A curve over levels 0 to 40 with these outcomes, [level, question]."""
    values = right.astype(float)
    levels, questions = [0, 10, 20, 30, 40], list(range(values.shape[1]))
    mean = values.mean(axis=1)
    return Curve(Path(), levels, levels, mean, mean, values, values[0], questions, None, None)
