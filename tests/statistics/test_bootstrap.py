"""Intervals and tests of accuracies where the truth is known; seeded."""

from __future__ import annotations

import numpy as np
import pytest

from lm_headroom.analysis.bootstrap import interval, mcnemar, resample, wilson
from tests.support.simulations import simulated

N = simulated(2000)
COVERAGE = 0.93
ALLOWED = 0.05 + 2 * np.sqrt(0.05 * 0.95 / N)


def covered(low: float, truth: float, high: float) -> bool:
    return low - 1e-12 <= truth <= high + 1e-12


@pytest.mark.parametrize(("sizes", "accuracies"), [((100,), (0.7,)), ((60, 40, 100), (0.9, 0.5, 0.7))])
def test_bootstrap_intervals_of_averages_cover_the_truth(sizes: tuple[int, ...], accuracies: tuple[float, ...]) -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(N):
        tasks = [(rng.random((1, n)) < p).astype(float) for n, p in zip(sizes, accuracies, strict=True)]
        low, high = interval(resample(tasks))
        hits += covered(low[0], float(np.mean(accuracies)), high[0])
    assert hits / N >= COVERAGE


def test_bootstrap_intervals_of_paired_losses_cover_the_truth() -> None:
    rng, hits, n = np.random.default_rng(2), 0, 80
    # 8% of the questions are lost, 3% gained, on each of three tasks.
    for _ in range(N):
        changes = [rng.choice([1.0, -1.0, 0.0], p=[0.08, 0.03, 0.89], size=(1, n)) for _ in range(3)]
        low, high = interval(resample(changes))
        hits += covered(low[0], 0.05, high[0])
    assert hits / N >= COVERAGE


@pytest.mark.parametrize(("n", "share"), [(16, 0.5), (16, 0.9), (100, 0.7), (100, 0.97)])
def test_wilson_intervals_cover_the_truth_on_average(n: int, share: float) -> None:
    # At single shares it swings around 95%, as every interval of a binomial does: over near ones it must hold.
    shares = np.linspace(max(0.02, share - 0.02), min(0.99, share + 0.02), 20)
    right = np.random.default_rng(3).binomial(n, np.repeat(shares, N // 20))
    known = {int(k): wilson(int(k), n) for k in np.unique(right)}
    truths = np.repeat(shares, N // 20)
    hits = [covered(known[int(k)].low, p, known[int(k)].high) for k, p in zip(right, truths, strict=True)]
    assert np.mean(hits) >= COVERAGE


@pytest.mark.parametrize(("n", "changed"), [(50, 0.1), (200, 0.15), (1000, 0.3)])
def test_mcnemar_seldom_finds_what_is_not_there(n: int, changed: float) -> None:
    rng = np.random.default_rng(4)
    p_values = []
    for _ in range(N):
        whole = rng.random(n) < 0.6
        pruned = whole ^ (rng.random(n) < changed * 0.5 / np.where(whole, 0.6, 0.4))
        p_values.append(mcnemar(whole, pruned))
    assert np.mean(np.array(p_values) <= 0.05) <= ALLOWED
    # And it finds what is there.
    lost = [mcnemar(whole, whole & (rng.random(n) > 0.3)) for whole in rng.random((200, n)) < 0.6]
    assert np.mean(np.array(lost) <= 0.05) > 0.9
