"""The rule for what can go, on outcomes counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from headroom.certify import AT_LEAST, NOT_CERTIFIABLE, UP_TO, certify, certify_grid, paired_loss


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
    found = paired_loss(np.array([[lost]], float), np.array([[gained]], float), np.array([float(n)]))
    # Tango (1998): the restricted maximum of the share gained, in closed form.
    b = -lost - gained + (2 * n - lost + gained) * margin
    c = -gained * margin * (1 - margin)
    q = (np.sqrt(b**2 - 8 * n * c) - b) / (4 * n)
    z = (n * margin - (lost - gained)) / np.sqrt(n * (2 * q + margin * (1 - margin)))
    for confidence in (norm.cdf(z) - 0.001, norm.cdf(z) + 0.001):
        assert found.within(margin, confidence)[0] == (confidence < norm.cdf(z))


def test_levels_are_certified_until_the_first_that_fails() -> None:
    # Nothing lost, nothing lost, much, nothing: the last does not count.
    found = certify([task(2000, 1500, (4, 4), (5, 5), (200, 50), (0, 0))], guess=0.25)
    assert (found.level, found.estimate, found.below) == (2, 2, None)
    assert found.verdict == UP_TO
    assert found.power is not None
    assert found.power > 0.5


def test_refuted_levels_are_found_from_the_top() -> None:
    found = certify([task(2000, 1500, (4, 4), (60, 20), (300, 50), (600, 50))], guess=0.25)
    assert (found.level, found.estimate, found.below) == (1, 2, 3)
    assert found.verdict == UP_TO


def test_a_level_that_too_few_questions_reach_leaves_it_open() -> None:
    found = certify([task(500, 400, (1, 1), (40, 40))], guess=0.25)
    assert (found.level, found.estimate, found.below) == (1, 2, None)
    assert found.power is not None
    assert found.power < 0.5
    assert found.verdict == AT_LEAST


def test_every_level_within_the_margin_is_at_least_the_last() -> None:
    found = certify([task(2000, 1500, (4, 4), (5, 5))], guess=0.25)
    assert (found.level, found.below, found.power, found.verdict) == (2, None, None, AT_LEAST)


def test_few_questions_certify_nothing_and_say_so() -> None:
    found = certify([task(16, 12, (1, 1), (2, 1))], guess=0.25)
    assert (found.level, found.verdict) == (None, NOT_CERTIFIABLE)
    assert "too few questions" in found.reason
    # No question changes, and still nothing is certain of 16.
    assert certify([task(16, 12, (0, 0))], guess=0.25).level is None


def test_few_questions_refute_a_collapse_all_the_same() -> None:
    found = certify([task(60, 60, (45, 0))], guess=0.25)
    assert (found.level, found.below, found.verdict) == (0, 1, UP_TO)


@pytest.mark.parametrize(
    ("tasks", "guess", "reason"),
    [
        ([task(2000, 1010, (0, 0))], 0.5, "not told from guessing, 0.50"),
        ([task(2000, 1500)], 0.25, "no level above 0"),
        ([task(2000, 1500, (0, 0)), task(1, 1, (0, 0))], 0.25, "one question alone"),
    ],
)
def test_what_cannot_be_tested_is_said(tasks: list[Any], guess: float, reason: str) -> None:
    found = certify(tasks, guess)
    assert found.level is None
    assert reason in found.reason


def test_a_wider_margin_lets_more_go() -> None:
    tasks = [task(2000, 1500, (60, 20), (150, 20))]
    levels = [certify(tasks, 0.25, margin).level for margin in (1.0, 4.0, 10.0)]
    assert levels == [0, 1, 2]


def test_the_grid_certifies_down_each_level_of_ffns() -> None:
    # Heads down: in the first column all goes, in the second nothing is left once heads go.
    cells = task(3000, 2400, (3, 3), (3, 3), (400, 20), (3, 3), (3, 3)).reshape(3, 2, -1)
    removed = np.array([[0, 10], [1, 11], [2, 12]], dtype=float)
    # (0, 1) is certified, (1, 1) is not, so (2, 1) is not tested.
    assert certify_grid([cells], removed, guess=0.25).cell == (0, 1)
    small = certify_grid([cells[..., ::300]], removed, guess=0.0)
    assert small.cell is None
    assert "too few questions" in small.reason
