"""Intervals of a ranking's gain over random order, on data whose truth is known."""

import numpy as np
import pytest

from lm_headroom.report.tables.gains import AVERAGE, compare, level_weights
from tests.support.simulations import members, simulated

SIMULATIONS = simulated(1000)
QUESTIONS = (70, 110)
"""Of two tasks."""
PERCENT = [0, 40, 90]
LOST = {"own": [0.0, 0.04, 0.25], "example": [0.0, 0.06, 0.25], "random": [0.0, 0.15, 0.3]}
"""Accuracy lost at each level."""
ORDERS_DIFFER = 0.08
"""Standard deviation over random orders of what they lose at all levels above 0, shared by the tasks."""
TRUE = {
    name: 100 * float(level_weights(PERCENT) @ (np.array(LOST["random"]) - LOST[name])) for name in ("own", "example")
}


def areas(rng, orders):
    """Areas of a study drawn at random, and what the orders that were drawn lose more than orders do on average.

    A question has a threshold, which a ranking's accuracy at a level passes or not; half of them have one more for each
    ranking, so that outcomes go together and differ.
    """
    weights = level_weights(PERCENT)
    luck = rng.normal(0, ORDERS_DIFFER, orders)
    curves = {}
    for task, n in enumerate(QUESTIONS):
        shared = rng.random(n)
        curves[str(task)] = {}
        for name in ("own", "example", *(f"random_{s}" for s in range(orders))):
            lost = np.array(LOST[name if name in LOST else "random"])
            if name.startswith("random"):
                lost = lost + luck[int(name[-1])] * (lost > 0)
            threshold = np.where(rng.random(n) < 0.5, rng.random(n), shared)
            curves[str(task)][name] = 100 * (weights @ (threshold < 0.7 - lost[:, None]))
    return curves, 100 * float(luck.mean()) * float(weights[1:].sum())


@pytest.mark.parametrize("orders", members([1, 3], [5]))
def test_intervals_of_gains_cover_the_truth(orders):
    """1000 studies each. With one order, the truth is the gain over that order."""
    rng = np.random.default_rng(orders)
    covered = {"own": 0, "gain": 0}
    for number in range(SIMULATIONS):
        drawn, luck = areas(rng, orders)
        gains, _, _ = compare(drawn, seed=10 * number)
        own, other = gains[AVERAGE]["own"], gains[AVERAGE]["example"]
        true = TRUE["own"] + (luck if orders == 1 else 0)
        covered["own"] += own.over_random_limits.low <= true <= own.over_random_limits.high
        gain = TRUE["example"] - TRUE["own"]
        covered["gain"] += other.over_own_limits.low <= gain <= other.over_own_limits.high
    assert covered["own"] >= 0.93 * SIMULATIONS
    assert covered["gain"] >= 0.93 * SIMULATIONS


@pytest.mark.usefixtures("fewer_resamples")
def test_without_the_orders_variance_several_orders_would_cover_too_little():
    """That the simulation can fail: the bootstrap over questions alone, of three orders."""
    rng = np.random.default_rng(3)
    covered = 0
    for number in range(SIMULATIONS):
        drawn, _ = areas(rng, 3)
        mean = {task: {"own": curves["own"], "random_0": np.mean([curves[f"random_{s}"] for s in range(3)], axis=0)}
                for task, curves in drawn.items()}  # fmt: skip
        own = compare(mean, seed=10 * number)[0][AVERAGE]["own"]
        covered += own.over_random_limits.low <= TRUE["own"] <= own.over_random_limits.high
    assert covered < 0.9 * SIMULATIONS
