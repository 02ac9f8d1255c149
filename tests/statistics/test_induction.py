"""Ablation effects and selection bias where the truth is known: it is covered, and nothing is found where nothing is.

Outcomes of a question share its difficulty, so that those of two sets of heads, or two numbers of shots, are paired as
real ones are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_headroom.report.tables.selection_bias import Least, average_least
from lm_headroom.results.ablation import ACCURACY, Ablation, Cell, effects_between, quantities
from lm_headroom.results.estimates import estimates
from tests.support.simulations import simulated

N, MANY = simulated(1000), simulated(4000)
"""Simulations of each rule, and where they are made a hundred at a time."""
COVERAGE = 0.93
CELL = Cell("both", 5)
SIZES = {"a": 120, "b": 80}
"""Questions per task."""


def at_most(rate: float, n: int = N) -> float:
    """A rate and its binomial error, one-sided at 99%: what a rule of that rate may show in ``n`` simulations."""
    return rate + 2.33 * np.sqrt(rate * (1 - rate) / n)


def draw(rng: Any, shape: int | tuple[int, ...], *accuracies: float) -> Any:
    """Outcomes of questions with these accuracies, [accuracy, *shape]: half by the question's difficulty."""
    difficulty = rng.random(shape)
    drawn = [np.where(rng.random(shape) < 0.5, difficulty, rng.random(shape)) < wanted for wanted in accuracies]
    return np.array(drawn, dtype=float)


def ablation(outcomes: Any) -> Ablation:
    """Whole, chosen, and controls."""
    whole, chosen, *controls = outcomes
    questions = list(range(len(whole)))
    return Ablation(Path("x"), questions, whole, {CELL: chosen}, {CELL: np.array(controls)}, {CELL: 5}, {CELL: 0.0})


def covers(estimate: Any, truth: float) -> bool:
    return bool(estimate.low - 1e-12 <= truth <= estimate.high + 1e-12)


def coverage(simulated: Any, truths: dict[int, float]) -> Any:
    """How often each quantity's interval covers its truth.

    Simulations are rows of ``estimates``: each has questions of its own, but a hundred share the bootstrap's draws.

    Args:
        simulated: gives a task's simulations from its number of questions, [simulation, quantity, question].
        truths: number of a quantity to its true value.
    """
    hits = []
    for _ in range(MANY // 100):
        rows = estimates([simulated(n) for n in SIZES.values()])
        hits += [[covers(row[k], truth) for k, truth in truths.items()] for row in rows]
    assert len(hits) == MANY
    return np.mean(hits, axis=0)


LOST, CONTROL_LOST, EXTRA = 2, 4, 5
"""Of the quantities of an effect."""


def test_losses_and_their_excess_over_controls_are_covered() -> None:
    rng = np.random.default_rng(1)
    accuracies = (0.7, 0.55, 0.68, 0.7, 0.63)
    control = np.mean(accuracies[2:])

    def simulated(n: int) -> Any:
        whole, chosen, *controls = draw(rng, (100, n), *accuracies)
        return quantities(whole, chosen, np.stack(controls, axis=-2))

    covered = coverage(simulated, {0: 0.7, LOST: 0.15, CONTROL_LOST: 0.7 - control, EXTRA: control - 0.55})
    assert (covered >= COVERAGE).all(), covered


def test_lost_few_shot_gain_is_covered() -> None:
    rng = np.random.default_rng(4)
    at_0, at_k = (0.6, 0.55, 0.58, 0.6, 0.57), (0.75, 0.5, 0.72, 0.74, 0.7)

    def simulated(n: int) -> Any:
        both = draw(rng, (100, n), *at_0, *at_k)
        before, after = (quantities(x[0], x[1], np.stack([*x[2:]], axis=-2)) for x in (both[:5], both[5:]))
        return after - before

    lost = (0.75 - 0.5) - (0.6 - 0.55)
    control_lost = (0.75 - np.mean(at_k[2:])) - (0.6 - np.mean(at_0[2:]))
    covered = coverage(simulated, {0: 0.15, LOST: lost, CONTROL_LOST: control_lost, EXTRA: lost - control_lost})
    assert (covered >= COVERAGE).all(), covered


@pytest.mark.usefixtures("fewer_resamples")
def test_heads_that_matter_no_more_than_their_controls_are_seldom_found() -> None:
    """Neither by McNemar's test, where they do not matter at all, nor as more than the controls."""
    rng = np.random.default_rng(2)
    p_values, beyond, low = [], [], []
    for _ in range(N):
        tasks = {task: ablation(draw(rng, n, 0.6, 0.6, 0.6, 0.6, 0.6)) for task, n in SIZES.items()}
        average, *single = effects_between(ACCURACY, 0, tasks)
        p_values += [e.p_value for e in single]
        beyond.append(average.beyond_controls)
        low.append(average.extra.low > 0)
    assert np.mean(np.array(p_values) < 0.05) <= at_most(0.05, 2 * N)
    assert np.mean(low) <= at_most(0.025)
    assert np.mean(beyond) <= np.mean(low)


@pytest.mark.usefixtures("fewer_resamples")
def test_a_set_like_any_other_exceeds_all_controls_by_chance_only() -> None:
    """Sets of heads differ: one more draw of them is beyond n controls at most once in n + 1 times."""
    rng, n_controls = np.random.default_rng(3), 3
    beyond, low = [], []
    for _ in range(N):
        ablated = 0.6 - 0.12 * rng.random(1 + n_controls)
        (average, _) = effects_between(ACCURACY, 0, {"a": ablation(draw(rng, 200, 0.6, *ablated))})
        beyond.append(average.beyond_controls)
        low.append(average.extra.low > 0)
    assert np.mean(beyond) <= at_most(1 / (1 + n_controls))
    # The interval alone is of the controls that were drawn, and does not know how other sets differ.
    assert np.mean(low) > at_most(0.025)


def biased(rng: Any, shares_documents: bool) -> tuple[Any, Any]:
    """Twelve equally important FFNs: the one that goes first by one set of documents against that by another.

    Returns:
        The estimates of the difference between the two rankings, and of the first FFN's score apart and where chosen.
    """
    whole, without = 0.7, [0.6] * 12
    judge, other, third = (draw(rng, 100, whole, *without) for _ in range(3))
    first, second = (int(np.argmax(x[1:].mean(axis=1))) + 1 for x in ((judge if shares_documents else third), other))
    pair = np.array([judge[first], judge[second], judge[first] - judge[second]])
    chosen_on = judge if shares_documents else third
    # Apart from the choice in either case: not the judge's documents, which the first case has chosen on.
    known = chosen_on if shares_documents else judge
    _, _, least = average_least([Least(selected=known[0] - known[first], apart=other[0] - other[first])])
    return estimates([pair[None]])[0][2], least


def test_two_rankings_that_have_not_seen_the_judge_differ_by_nothing() -> None:
    rng = np.random.default_rng(5)
    runs = [biased(rng, shares_documents=False) for _ in range(N)]
    # All FFNs are equally important: 0 is the truth of whichever two were chosen.
    for estimate in zip(*runs, strict=True):
        assert np.mean([covers(e, 0.0) for e in estimate]) >= COVERAGE
        assert abs(np.mean([e.value for e in estimate])) < 0.01


def test_a_ranking_that_has_seen_the_judge_is_biased() -> None:
    rng = np.random.default_rng(6)
    runs = [biased(rng, shares_documents=True) for _ in range(N)]
    for estimate in zip(*runs, strict=True):
        assert np.mean([e.value for e in estimate]) > 0.03
        assert np.mean([e.low > 0 for e in estimate]) > 2 * at_most(0.025)
