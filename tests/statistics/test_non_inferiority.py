"""The rule for what can be pruned, where the truth is known: 4000 simulations each, seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from lm_headroom.analysis.non_inferiority import (
    CONFIDENCE,
    find_prunable,
    find_prunable_cell,
    is_above_chance,
    paired_loss,
    within_share,
)
from tests.support.simulations import members, simulated

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
def test_a_loss_of_the_margin_is_seldom_shown_or_refuted(tasks: int, n: int) -> None:
    rng = np.random.default_rng(tasks * n)
    for changed in CHANGED:
        loss = paired_loss(*counts(rng, tasks, n, changed, MARGIN), np.full(tasks, float(n)))
        assert loss.within(MARGIN).mean() <= ALLOWED, changed
        assert loss.beyond(MARGIN).mean() <= ALLOWED, changed


@pytest.mark.parametrize(("n", "power"), [(200, 0.18), (1000, 0.50), (2000, 0.75)])
def test_power_without_a_loss_is_what_is_said(n: int, power: float) -> None:
    loss = paired_loss(*counts(np.random.default_rng(n), 1, n, 0.15, 0.0), np.full(1, float(n)))
    assert loss.within(MARGIN).mean() == pytest.approx(power, abs=0.02)
    assert np.median(loss.power(MARGIN)) == pytest.approx(power, abs=0.02)


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


def test_prunable_and_refuted_levels_hold_the_truth() -> None:
    # 20% can be pruned: at 30% the loss is beyond the margin by a hair, from 50% on by much.
    losses = np.array([0.0, 0.01, 0.0201, 0.03, 0.08, 0.2])
    changed = np.array([0.03, 0.05, 0.1, 0.15, 0.2, 0.3])
    truth, too_much, too_little, informative = 2, 0, 0, 0
    rng = np.random.default_rng(5)
    for _ in range(N // 2):
        prunable = find_prunable([outcomes(rng, 0.7, losses, changed, 250) for _ in range(4)], chance_levels=[0.3] * 4)
        if prunable.level is None:
            continue
        too_much += prunable.level > truth
        too_little += prunable.below is not None and prunable.below <= truth
        informative += prunable.level >= 1 and prunable.below is not None
        assert prunable.estimate is not None
        assert prunable.level <= prunable.estimate
        assert prunable.below is None or prunable.estimate < prunable.below
    allowed = ERROR_RATE + 2 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / (N // 2))
    assert too_much / (N // 2) <= allowed
    assert too_little / (N // 2) <= allowed
    assert informative / (N // 2) > 0.5, "the rule must say something at this size"


def test_no_cell_beyond_the_margin_is_prunable_in_more_than_one_study_of_twenty() -> None:
    # Heads down, FFNs across; beyond the margin from a frontier of three cells on.
    losses = np.array([[0.0, 0.0, 0.021], [0.0, 0.021, 0.04], [0.021, 0.05, 0.1]])
    changed = np.array([[0.02, 0.05, 0.1], [0.05, 0.1, 0.15], [0.1, 0.15, 0.2]])
    removed = np.add.outer(np.arange(3), 2 * np.arange(3)).astype(float)
    rng, wrong, some = np.random.default_rng(6), 0, 0
    n = 1500
    for _ in range(n):
        tasks = [outcomes(rng, 0.7, losses.ravel()[1:], changed.ravel()[1:], 400).reshape(3, 3, -1) for _ in range(3)]
        cell = find_prunable_cell(tasks, removed, chance_levels=[0.3] * 3).cell
        if cell is not None:
            wrong += losses[cell] > MARGIN
            some += cell != (0, 0)
    assert wrong / n <= ERROR_RATE + 2 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / n)
    assert some / n > 0.5


STUDIES = simulated(1000)
"""Simulated studies of FFNs, and of tasks near chance."""
ALLOWED_OF_STUDIES = ERROR_RATE + 2 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / STUDIES)


def without_each(rng: np.random.Generator, ffns: int, n: int, changed: float, correlation: float) -> tuple[Any, Any]:
    """Outcomes of one task by the whole model, [question], and without each FFN, [FFN, question].

    Each FFN truly costs the margin. Which questions it changes has one normal variable per question in common with the
    other FFNs, of this correlation.
    """
    whole = rng.random(n) < 0.6
    luck = np.sqrt(correlation) * rng.standard_normal(n, dtype=np.float32)
    luck = luck + np.sqrt(1 - correlation) * rng.standard_normal((ffns, n), dtype=np.float32)
    lost, gained = (changed + MARGIN) / 2 / 0.6, (changed - MARGIN) / 2 / 0.4
    return whole, np.where(whole, luck >= norm.ppf(lost), luck < norm.ppf(gained))


def prunable_first_levels(
    ffns: int, tasks: int, n: int, changed: float, correlation: float, seed: int
) -> tuple[float, float, float]:
    """How often pruning the least important FFN of each task is found prunable, by three rules.

    Returns:
        Ranked by the questions that judge and called prunable all the same; ranked by them, as they are said to be; and
        ranked by as many others.
    """
    rng = np.random.default_rng(seed)
    positives = np.zeros(3)
    for _ in range(STUDIES):
        same, apart = [], []
        for _ in range(tasks):
            whole, without = without_each(rng, ffns, n, changed, correlation)
            right = without.sum(axis=1)
            same.append(np.vstack([whole, without[right.argmax()]]).astype(float))
            # Other questions choose among FFNs of equal importance, which is any of them.
            apart.append(np.vstack([whole, without[rng.integers(ffns)]]).astype(float))
        chance_levels = [0.25] * tasks
        for i, (curves, overlap) in enumerate(((same, ""), (same, "ranked by them"), (apart, ""))):
            positives[i] += (find_prunable(curves, chance_levels, overlap=overlap).level or 0) > 0
    always, by_rule, elsewhere = (positives / STUDIES).tolist()
    return always, by_rule, elsewhere


@pytest.mark.parametrize(
    ("ffns", "tasks", "n", "least"), members([(12, 1, 1000, 0.3), (18, 3, 1000, 0.9)], [(24, 14, 200, 0.99)])
)
def test_ffns_that_cost_the_margin_are_not_prunable_by_the_questions_that_chose_them(
    ffns: int, tasks: int, n: int, least: float
) -> None:
    always, by_rule, elsewhere = prunable_first_levels(ffns, tasks, n, 0.1, 0.0, ffns)
    assert always > least, "taken for a fixed ranking, the one that was chosen is prunable"
    assert by_rule == 0
    assert elsewhere <= ALLOWED_OF_STUDIES


@pytest.mark.parametrize(("ffns", "tasks", "n"), members([(12, 1, 1000), (18, 3, 1000)], [(24, 14, 200)]))
def test_nor_are_they_where_ffns_change_much_the_same_questions(ffns: int, tasks: int, n: int) -> None:
    always, by_rule, elsewhere = prunable_first_levels(ffns, tasks, n, 0.1, 0.95, ffns)
    assert always > 2 * ERROR_RATE
    assert by_rule == 0
    assert elsewhere <= ALLOWED_OF_STUDIES


@pytest.mark.parametrize("above", [0.0, 0.03, 0.06, 0.1])
@pytest.mark.parametrize("changed", [0.1, 0.3])
def test_tasks_chosen_for_the_whole_models_accuracy_show_no_more_than_they_should(above: float, changed: float) -> None:
    """Every task truly loses the margin, however few of them are found above chance: the loss stays the margin."""
    rng, wrong, overlap = np.random.default_rng(int(1000 * above + 10 * changed)), 0, []
    for _ in range(STUDIES):
        accuracy = 0.5 + above
        tasks = [outcomes(rng, accuracy, np.array([MARGIN]), np.array([changed]), 200) for _ in range(6)]
        able = [task for task in tasks if is_above_chance(task[0], 0.5)]
        overlap.append(len(able))
        wrong += bool(able) and (find_prunable(able, [0.5] * len(able)).level or 0) > 0
    assert wrong / STUDIES <= ALLOWED_OF_STUDIES
    if above == 0:
        assert np.mean(overlap) / 6 <= 0.05, "of tasks at chance one in twenty passes for one that is not"


@pytest.mark.parametrize(("tasks", "n"), [(1, 200), (1, 1000), (3, 100), (14, 50)])
@pytest.mark.parametrize("changed", [0.05, 0.15, 0.3])
def test_a_loss_of_a_tenth_above_chance_is_seldom_prunable(tasks: int, n: int, changed: float) -> None:
    rng = np.random.default_rng(tasks * n)
    accuracy, chance_levels = 0.7, 0.4
    loss = np.array([0.1 * (accuracy - chance_levels)])
    shown = [
        within_share(
            [outcomes(rng, accuracy, loss, np.array([changed]), n) for _ in range(tasks)], [chance_levels] * tasks
        )[0]
        for _ in range(STUDIES)
    ]
    assert np.mean(shown) <= ALLOWED_OF_STUDIES
