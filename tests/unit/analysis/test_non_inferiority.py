"""Non-inferiority tests along a curve, on outcomes counted by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from lm_headroom.analysis.non_inferiority import (
    AT_LEAST,
    ESTIMATE_ONLY,
    INCONCLUSIVE,
    UP_TO,
    Margin,
    find_prunable,
    find_prunable_cell,
    is_above_chance,
    paired_loss,
    within_share,
)


def task(n: int, right: int, *changes: tuple[int, int]) -> Any:
    """Outcomes of one task, [level, question]: ``right`` of ``n``, then (lost, gained) per level."""
    rows = [np.arange(n) < right]
    for lost, gained in changes:
        row = rows[0].copy()
        row[:lost] = False
        row[right : right + gained] = True
        rows.append(row)
    return np.array(rows, dtype=float)


def test_the_score_statistic_is_tangos_up_to_pseudo_counts_and_first_order() -> None:
    n, lost, gained, margin = 4000, 130, 90, 0.02
    loss = paired_loss(np.array([[lost]], float), np.array([[gained]], float), np.array([float(n)]))
    # Tango (1998): the restricted maximum of the share gained, in closed form.
    b = -lost - gained + (2 * n - lost + gained) * margin
    c = -gained * margin * (1 - margin)
    q = (np.sqrt(b**2 - 8 * n * c) - b) / (4 * n)
    z = (n * margin - (lost - gained)) / np.sqrt(n * (2 * q + margin * (1 - margin)))
    for confidence in (norm.cdf(z) - 0.001, norm.cdf(z) + 0.001):
        assert loss.within(margin, confidence)[0] == (confidence < norm.cdf(z))


def test_levels_pass_until_the_first_that_fails() -> None:
    # Nothing lost, nothing lost, much, nothing: the last does not count.
    prunable = find_prunable([task(2000, 1500, (4, 4), (5, 5), (200, 50), (0, 0))], chance_levels=[0.25])
    assert (prunable.level, prunable.estimate, prunable.below) == (2, 2, None)
    assert prunable.verdict == UP_TO
    assert prunable.power is not None
    assert prunable.power > 0.8


def test_refuted_levels_are_found_from_the_top() -> None:
    prunable = find_prunable([task(2000, 1500, (4, 4), (60, 20), (300, 50), (600, 50))], chance_levels=[0.25])
    assert (prunable.level, prunable.estimate, prunable.below) == (1, 2, 3)
    assert prunable.verdict == UP_TO


def test_a_level_that_too_few_questions_reach_leaves_it_open() -> None:
    prunable = find_prunable([task(500, 400, (1, 1), (40, 40))], chance_levels=[0.25])
    assert (prunable.level, prunable.estimate, prunable.below) == (1, 2, None)
    assert prunable.power is not None
    assert prunable.power < 0.8
    assert prunable.verdict == AT_LEAST


def test_every_level_within_the_margin_is_at_least_the_last() -> None:
    prunable = find_prunable([task(2000, 1500, (4, 4), (5, 5))], chance_levels=[0.25])
    assert (prunable.level, prunable.below, prunable.power, prunable.verdict) == (2, None, None, AT_LEAST)


def test_few_questions_are_inconclusive_and_say_so() -> None:
    prunable = find_prunable([task(16, 12, (1, 1), (2, 1))], chance_levels=[0.25])
    assert (prunable.level, prunable.verdict) == (None, INCONCLUSIVE)
    assert "too few questions" in prunable.reason
    # No question changes, and still nothing is certain of 16.
    assert find_prunable([task(16, 12, (0, 0))], chance_levels=[0.25]).level is None


def test_few_questions_refute_a_collapse_all_the_same() -> None:
    prunable = find_prunable([task(60, 60, (45, 0))], chance_levels=[0.25])
    assert (prunable.level, prunable.below, prunable.verdict) == (0, 1, UP_TO)


@pytest.mark.parametrize(
    ("tasks", "chance_level", "reason"),
    [
        ([task(2000, 1010, (0, 0))], 0.5, "better than chance (accuracy 0.51 ± 0.01, chance level 0.50)"),
        ([task(2000, 1500)], 0.25, "no level that prunes anything"),
        ([task(2000, 1500, (0, 0)), task(1, 1, (0, 0))], 0.25, "only one question"),
        (
            [task(200, 100, (0, 0)), task(200, 99, (0, 0))],
            0.5,
            "chance on any task (accuracy 0.50 ± 0.03, chance level 0.50)",
        ),
    ],
)
def test_what_cannot_be_tested_is_said(tasks: list[Any], chance_level: float, reason: str) -> None:
    prunable = find_prunable(tasks, [chance_level] * len(tasks))
    assert prunable.level is None
    assert reason in prunable.reason


def test_a_wider_margin_lets_more_be_pruned() -> None:
    tasks = [task(2000, 1500, (60, 20), (150, 20))]
    levels = [find_prunable(tasks, [0.25], Margin(value)).level for value in (0.01, 0.04, 0.1)]
    assert levels == [0, 1, 2]


def test_the_grid_is_tested_down_each_level_of_ffns() -> None:
    # Heads down: in the first column all can be pruned, in the second nothing is left once heads are pruned.
    cells = task(3000, 2400, (3, 3), (3, 3), (400, 20), (3, 3), (3, 3)).reshape(3, 2, -1)
    removed = np.array([[0, 10], [1, 11], [2, 12]], dtype=float)
    # (0, 1) passes, (1, 1) does not, so (2, 1) is not tested.
    assert find_prunable_cell([cells], removed, chance_levels=[0.25]).cell == (0, 1)
    small = find_prunable_cell([cells[..., ::300]], removed, chance_levels=[0.0])
    assert small.cell is None
    assert "too few questions" in small.reason
    # Of five questions, a collapse in all cells is shown all the same.
    lost = np.ones((2, 2, 40))
    lost[0, 1], lost[1] = 0.0, 0.0
    assert find_prunable_cell([lost], removed[:2], chance_levels=[0.25]).cell == (0, 0)
    nothing = find_prunable_cell([lost], np.zeros((2, 2)), chance_levels=[0.25])
    assert (nothing.cell, nothing.reason) == (None, "the study evaluated no level that prunes anything")
    # A level of heads that prunes nothing ends no sequence.
    removed[1, 0] = 0
    assert find_prunable_cell([cells], removed, chance_levels=[0.25]).cell == (0, 1)


def test_enough_questions_are_a_power_of_four_fifths() -> None:
    """15% of the questions change at the second level, too many for it to pass: 1000 have a power of 0.50."""
    for n, verdict in ((1000, AT_LEAST), (2000, AT_LEAST), (2500, UP_TO)):
        prunable = find_prunable([task(n, 3 * n // 4, (1, 1), (17 * n // 200, 13 * n // 200))], chance_levels=[0.25])
        assert (prunable.level, prunable.below, prunable.verdict) == (1, None, verdict), prunable.power
        assert prunable.power is not None
        assert (prunable.power >= 0.8) == (verdict == UP_TO)
    nothing = find_prunable([task(2000, 1500, (170, 130))], chance_levels=[0.25])
    assert (nothing.level, nothing.verdict) == (None, INCONCLUSIVE)
    assert nothing.reason == "the study has too few questions (power 0.75 at the lowest pruning level)"


def test_documents_that_ranked_leave_an_estimate() -> None:
    tasks = [task(2000, 1500, (4, 4), (60, 20), (300, 50))]
    assert find_prunable(tasks, [0.25]).level == 1
    prunable = find_prunable(tasks, [0.25], overlap="the questions have ranked")
    assert (prunable.level, prunable.estimate, prunable.below, prunable.relative) == (None, 2, None, None)
    assert (prunable.verdict, prunable.reason) == (ESTIMATE_ONLY, "the questions have ranked")
    cells = tasks[0].reshape(2, 2, -1)
    removed = np.array([[0, 10], [1, 11]], dtype=float)
    both = find_prunable_cell([cells], removed, [0.25], overlap="the questions have ranked")
    assert (both.cell, both.estimate, both.verdict) == (None, (0, 1), ESTIMATE_ONLY)
    assert find_prunable_cell([cells], removed, [0.25]).cell == (0, 1)


def test_an_average_that_holds_a_task_at_chance_is_an_estimate() -> None:
    able, guessed = task(2000, 1500, (4, 4), (300, 50)), task(2000, 1010, (0, 0), (0, 0))
    prunable = find_prunable([able, guessed], [0.25, 0.5])
    assert (prunable.level, prunable.estimate, prunable.verdict) == (None, 1, ESTIMATE_ONLY)
    assert prunable.reason == "1 of 2 tasks is at chance level"
    assert find_prunable([able], [0.25]).level == 1
    both = find_prunable_cell(
        [able[:2, None], guessed[:2, None]], np.array([[0.0], [1.0]]), [0.25, 0.5], overlap="overlap"
    )
    assert both.verdict == ESTIMATE_ONLY
    assert both.reason == "1 of 2 tasks is at chance level; overlap"


@pytest.mark.parametrize(("n", "chance_level"), [(10, 0.5), (100, 0.25), (50, 0.0), (40, 1.0), (2, 0.3)])
def test_above_chance_is_an_exact_binomial_test(n: int, chance_level: float) -> None:
    for right in range(n + 1):
        expected = binomtest(right, n, chance_level, alternative="greater").pvalue <= 0.05
        assert is_above_chance(np.arange(n) < right, chance_level) == expected, right


def test_the_other_margin_is_a_share_of_the_accuracy_above_chance() -> None:
    # 20 of 2000 lost is 1 point: less than a tenth of 50 points above chance, more than a tenth of 5.
    tasks = [task(2000, 1500, (25, 5))]
    assert find_prunable(tasks, [0.25]).relative == 1
    assert within_share(tasks, [0.25]).tolist() == [True]
    assert within_share(tasks, [0.7]).tolist() == [False]
    # Nothing changes: within any margin but that of a model at chance.
    assert within_share([task(2000, 1500, (0, 0))], [0.25]).tolist() == [True]
    assert within_share([task(2000, 1500, (0, 0))], [0.76]).tolist() == [False]


def probabilities(right: Any, *losses: float) -> Any:
    """Scores of one task, [level, question]: high where the answer is right, then lower by each loss."""
    whole = np.where(right > 0, 0.8, 0.2) + np.linspace(-0.1, 0.1, len(right))
    jitter = np.tile([0.05, -0.05], len(right) // 2)
    return np.vstack([whole, *(whole - loss + jitter for loss in losses)])


def test_other_scores_are_tested_on_the_tasks_that_accuracy_chooses() -> None:
    able, guessed = (np.arange(1000) < right for right in (800, 510))
    scores = probabilities(able, 0.0, 0.005, 0.05)
    prunable = find_prunable([scores], [0.5], Margin(0.02), whole_right=[able.astype(float)])
    assert (prunable.level, prunable.estimate, prunable.below, prunable.relative) == (2, 2, 3, None)
    assert prunable.verdict == UP_TO
    reason = find_prunable([scores], [0.5], Margin(0.02), whole_right=[guessed.astype(float)]).reason
    assert "not significantly better than chance (accuracy 0.51" in reason
    both = find_prunable([scores, scores], [0.5] * 2, Margin(0.02), whole_right=[able * 1.0, guessed * 1.0])
    assert (both.verdict, both.estimate, both.reason) == (ESTIMATE_ONLY, 2, "1 of 2 tasks is at chance level")


def test_a_relative_margin_is_a_share_of_the_whole_models_score() -> None:
    right = np.ones(2000)
    bits = -np.linspace(0.5, 1.5, 2000)
    scores = np.vstack([bits, bits * 1.005, bits * 1.02])
    relative = find_prunable([scores], [0.5], Margin(0.01, relative=True), whole_right=[right])
    assert (relative.level, relative.estimate, relative.below) == (1, 1, 2)
    # The same in other units.
    assert find_prunable([100 * scores], [0.5], Margin(0.01, relative=True), whole_right=[right]) == relative
    cell = find_prunable_cell(
        [scores[[0, 1, 1, 2]].reshape(2, 2, -1)],
        np.array([[0.0, 10.0], [1.0, 11.0]]),
        [0.5],
        Margin(0.01, relative=True),
        whole_right=[right],
    )
    assert (cell.cell, cell.estimate) == ((0, 1), (0, 1))


def test_right_answers_are_asked_for_and_compared() -> None:
    scores = probabilities(np.arange(100) < 80, 0.0)
    with pytest.raises(ValueError, match="pass whole_right"):
        find_prunable([scores], [0.5])
    with pytest.raises(ValueError, match=r"whole_right has \[90\] questions by task, but scores have \[100\]"):
        find_prunable([scores], [0.5], whole_right=[np.ones(90)])


def test_normalised_accuracy_is_judged_as_accuracy_is() -> None:
    tasks = [task(2000, 1500, (4, 4), (5, 5), (200, 50))]
    own = find_prunable(tasks, [0.25])
    other = find_prunable(tasks, [0.25], whole_right=[tasks[0][0]])
    assert replace(own, relative=None) == other
