"""The rule for what can go, where the truth is known: 4000 simulations each, seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headroom.certify import CONFIDENCE, certify, certify_grid, paired_loss

N = 4000
MARGIN = 0.02
# The nominal rate of errors and twice its binomial error over N simulations.
ERROR_RATE = 1 - CONFIDENCE
ALLOWED = ERROR_RATE + 2 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / N)
SIZES = [(1, 50), (1, 200), (1, 1000), (3, 20), (3, 100), (14, 16), (14, 100)]
CHANGED = (0.02, 0.05, 0.15, 0.3)


def counts(rng: np.random.Generator, tasks: int, n: int, changed: float, loss: float) -> tuple[Any, Any]:
    """Questions lost and gained, [simulation, task], of a true loss and share that changes."""
    law = [(changed + loss) / 2, (changed - loss) / 2, 1 - changed]
    drawn = rng.multinomial(n, law, size=(N, tasks)).astype(float)
    return drawn[..., 0], drawn[..., 1]


@pytest.mark.parametrize(("tasks", "n"), SIZES)
def test_a_loss_of_the_margin_is_seldom_certified_or_refuted(tasks: int, n: int) -> None:
    rng = np.random.default_rng(tasks * n)
    for changed in CHANGED:
        found = paired_loss(*counts(rng, tasks, n, changed, MARGIN), np.full(tasks, float(n)))
        assert found.within(MARGIN).mean() <= ALLOWED, changed
        assert found.beyond(MARGIN).mean() <= ALLOWED, changed


@pytest.mark.parametrize(("n", "power"), [(200, 0.18), (1000, 0.50), (2000, 0.75)])
def test_power_without_a_loss_is_what_is_said(n: int, power: float) -> None:
    found = paired_loss(*counts(np.random.default_rng(n), 1, n, 0.15, 0.0), np.full(1, float(n)))
    assert found.within(MARGIN).mean() == pytest.approx(power, abs=0.02)
    assert np.median(found.power(MARGIN)) == pytest.approx(power, abs=0.02)


def outcomes(rng: np.random.Generator, accuracy: float, losses: Any, changed: Any, n: int) -> Any:
    """Right or wrong per level and question of one task; level 0 is the whole model.

    Losses and shares that change are true ones against the whole model, per level.
    """
    whole = rng.random(n) < accuracy
    lost = (changed + losses) / 2 / accuracy
    gained = (changed - losses) / 2 / (1 - accuracy)
    luck = rng.random(n)
    pruned = np.where(whole, luck >= lost[:, None], luck < gained[:, None])
    return np.vstack([whole, pruned]).astype(float)


def test_certified_and_refuted_levels_hold_the_truth() -> None:
    # 20 % can go: at 30 % the loss is beyond the margin by a hair, from 50 % on by much.
    losses = np.array([0.0, 0.01, 0.0201, 0.03, 0.08, 0.2])
    changed = np.array([0.03, 0.05, 0.1, 0.15, 0.2, 0.3])
    truth, too_much, too_little, informative = 2, 0, 0, 0
    rng = np.random.default_rng(5)
    for _ in range(N // 2):
        found = certify([outcomes(rng, 0.7, losses, changed, 250) for _ in range(4)], guess=0.3)
        if found.level is None:
            continue
        too_much += found.level > truth
        too_little += found.below is not None and found.below <= truth
        informative += found.level >= 1 and found.below is not None
        assert found.estimate is not None
        assert found.level <= found.estimate
        assert found.below is None or found.estimate < found.below
    allowed = ERROR_RATE + 2 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / (N // 2))
    assert too_much / (N // 2) <= allowed
    assert too_little / (N // 2) <= allowed
    assert informative / (N // 2) > 0.5, "the rule must say something at this size"


def test_no_cell_beyond_the_margin_is_certified_in_more_than_one_study_of_twenty() -> None:
    # Heads down, FFNs across; beyond the margin from a frontier of three cells on.
    losses = np.array([[0.0, 0.0, 0.021], [0.0, 0.021, 0.04], [0.021, 0.05, 0.1]])
    changed = np.array([[0.02, 0.05, 0.1], [0.05, 0.1, 0.15], [0.1, 0.15, 0.2]])
    removed = np.add.outer(np.arange(3), 2 * np.arange(3)).astype(float)
    rng, wrong, some = np.random.default_rng(6), 0, 0
    n = 1500
    for _ in range(n):
        tasks = [outcomes(rng, 0.7, losses.ravel()[1:], changed.ravel()[1:], 400).reshape(3, 3, -1) for _ in range(3)]
        cell = certify_grid(tasks, removed, guess=0.3).cell
        if cell is not None:
            wrong += losses[cell] > MARGIN
            some += cell != (0, 0)
    assert wrong / n <= ERROR_RATE + 2 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / n)
    assert some / n > 0.5
