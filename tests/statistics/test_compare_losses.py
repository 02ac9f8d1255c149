"""Rankings compared with the own one on the same questions: error rates by simulation, choosing the best included."""

import numpy as np
import pytest

from lm_headroom.analysis.mean_loss import holm
from lm_headroom.analysis.non_inferiority import compare_losses

STUDIES, QUESTIONS, CRITERIA = 1000, 100, 8


def outcomes(rng, kind, lost=0.0):
    """Scores of two tasks under the own ranking and of each criterion, of equal means but for what the last loses."""
    own, others = [], []
    for ability in (0.6, 0.8):
        level = rng.beta(4 * ability, 4 * (1 - ability), QUESTIONS)
        chance = np.clip(
            level - np.linspace(0, lost, CRITERIA)[:, None] * (np.arange(CRITERIA) == CRITERIA - 1)[:, None], 0, 1
        )
        if kind == "right":
            own.append((rng.random(QUESTIONS) < level).astype(float))
            others.append((rng.random((CRITERIA, QUESTIONS)) < chance).astype(float))
        else:
            own.append(-np.log(level + 0.05) + rng.normal(0, 0.2, QUESTIONS))
            others.append(-np.log(chance + 0.05) + rng.normal(0, 0.2, (CRITERIA, QUESTIONS)))
    return own, others


@pytest.mark.parametrize("kind", ["right", "loss"])
def test_one_study_in_twenty_at_most_prefers_some_criterion_where_all_are_alike(kind):
    rng = np.random.default_rng(1)
    false = sum(min(holm(list(compare_losses(*outcomes(rng, kind)).p))) < 0.05 for _ in range(STUDIES))
    assert false / STUDIES <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / STUDIES)


@pytest.mark.parametrize("kind", ["right", "loss"])
def test_intervals_cover_the_difference(kind):
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(STUDIES):
        _, low, high = compare_losses(*outcomes(rng, kind)).limits
        covered.append((low <= 0) & (high >= 0))
    assert np.mean(covered) >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / STUDIES)


def test_a_criterion_that_loses_twenty_points_more_is_seen():
    rng = np.random.default_rng(3)
    seen = sum(holm(list(compare_losses(*outcomes(rng, "right", lost=0.2)).p))[-1] < 0.05 for _ in range(100))
    assert seen >= 80
