"""Bootstrap and McNemar's test against known values; their coverage is in test_simulations_uncertainty.py."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from lm_headroom.analysis.bootstrap import RESAMPLES, interval, mcnemar, resample, wilson


def test_mcnemar_is_the_binomial_test_of_the_changed_questions() -> None:
    before = np.array([1] * 9 + [0] * 2 + [1] * 5 + [0] * 4, dtype=bool)
    after = np.array([0] * 9 + [1] * 2 + [1] * 5 + [0] * 4, dtype=bool)
    by_hand = 2 * sum(comb(11, k) for k in range(3)) / 2**11
    assert mcnemar(before, after) == pytest.approx(by_hand, rel=1e-12)
    assert mcnemar(after, before) == pytest.approx(by_hand, rel=1e-12)
    assert mcnemar(before, before) == 1.0


def test_wilson_limits_are_those_of_the_formula() -> None:
    z, n, share = 1.959963984540054, 20, 0.9
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert wilson(18, 20) == pytest.approx((middle - half, middle + half), rel=1e-9)


def test_bootstrap_has_the_mean_and_the_error_of_plain_resampling() -> None:
    rng = np.random.default_rng(3)
    tasks = [rng.random((2, n)) < p for n, p in ((40, 0.7), (15, 0.4))]
    resampled = resample([values.astype(float) for values in tasks])
    plain = np.zeros((RESAMPLES, 2))
    for i in range(RESAMPLES):
        plain[i] = np.mean([v[:, rng.integers(0, v.shape[1], v.shape[1])].mean(axis=1) for v in tasks], axis=0)
    assert resampled.shape == (RESAMPLES, 2)
    np.testing.assert_allclose(resampled.mean(axis=0), np.mean([v.mean(axis=1) for v in tasks], axis=0), atol=0.01)
    np.testing.assert_allclose(np.cov(resampled.T), np.cov(plain.T), rtol=0.12, atol=1e-4)


def test_levels_share_the_draw_and_tasks_do_not() -> None:
    values = np.array([[1.0, 0, 1, 1, 0, 1, 0, 0]] * 2)
    resampled = resample([values])
    np.testing.assert_array_equal(resampled[:, 0], resampled[:, 1])
    alone = [resample([values[:1]], seed) for seed in (0, 1)]
    assert (alone[0] != alone[1]).any()
    both = resample([values[:1], 1 - values[:1]])
    assert np.ptp(both) > 0, "the same draw for both tasks would always give one half"


def test_a_single_question_says_nothing() -> None:
    assert np.isnan(resample([np.ones((3, 1)), np.ones((3, 5))])).all()
    assert np.isnan(interval(np.full((5, 2), np.nan)).low).all()


def test_the_same_seed_gives_the_same_numbers() -> None:
    values = np.random.default_rng(0).random((3, 200))
    np.testing.assert_array_equal(resample([values]), resample([values]))
