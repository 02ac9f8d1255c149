"""What a ranking is worth: the area between its curve of accuracy and that of heads (FFNs) pruned in random order.

Rankings are measured on the same questions, so that what one is worth more than another is a paired difference, in
which the random curve cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from lm_headroom.analysis.bootstrap import RESAMPLES, Interval, interval, resample
from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import ArtifactError, reads
from lm_headroom.report.pages import write_table
from lm_headroom.results.curves import Curve, study_curves
from lm_headroom.results.matrix import AVERAGE, COMPONENTS, Component, ResultsMatrix
from lm_headroom.study.ranking_names import CRITERIA, RANDOM, ffn_controls

Array = np.ndarray[Any, np.dtype[np.float64]]
OWN = "own"
COLUMNS = (
    *("shots", "component", "task", "ranking", "questions", "worth", "worth low", "worth high"),
    *("over own", "over own low", "over own high", "random orders", "SD over orders"),
)


class Gain(NamedTuple):
    """What one ranking is worth on one task or on average over tasks, in percentage points of accuracy.

    Attributes:
        worth: mean accuracy over the range of percents less that of random orders.
        limits: its 95% interval.
        gain: worth less the own ranking's.
        gain_limits: its 95% interval, questions paired.
    """

    worth: float
    limits: Interval
    gain: float
    gain_limits: Interval


class Table(NamedTuple):
    """Worths of one number of shots and component.

    Attributes:
        worths: task (or ``average``) to ranking to its worth.
        questions: of each task, and of all.
        orders: how many random orders there are.
        spread: standard deviation over random orders of the area below their curves, by task; NaN for a single one.
        percents: the lowest and the highest level.
    """

    worths: dict[str, dict[str, Gain]]
    questions: dict[str, int]
    orders: int
    spread: dict[str, float]
    percents: tuple[int, int]


def level_weights(percent: Sequence[int]) -> Array:
    """Weight of each level in the mean over the range by the trapezoid rule; they sum to 1.

    Args:
        percent: levels, ascending; two or more.
    """
    steps = np.diff(np.asarray(percent, dtype=float))
    weights: Array = np.concatenate([steps, [0.0]]) + np.concatenate([[0.0], steps])
    return weights / weights.sum()


def measured(matrix: ResultsMatrix, shots: int, component: Component) -> Table | None:
    """Worths of the study's rankings; None without a random order to compare with, or without a level above 0.

    FFNs have no curve of the aggregate ranking alone, and of the controls those that need no scores of heads.

    Raises:
        ArtifactError: a task's rankings were evaluated on different questions or at different levels.
    """
    heads, ffns = [AGGREGATE, *matrix.controls], ffn_controls(matrix.controls)
    names = [OWN, *(heads if component == "heads" else ffns)]
    curves = {name: study_curves(matrix, shots, name, component) for name in names}
    percent = next(iter(curves[OWN].values())).percent
    if len(percent) < 2 or not any(name.startswith(RANDOM) for name in names):
        return None
    areas = {task: {name: _area(curves[name][task], curves[OWN][task]) for name in names} for task in matrix.tasks}
    worths, spread, orders = compare(areas)
    questions = {task: len(curves[OWN][task].questions) for task in matrix.tasks}
    questions[AVERAGE] = sum(questions.values())
    return Table(worths, questions, orders, spread, (percent[0], percent[-1]))


def _area(curve: Curve, own: Curve) -> Array:
    """Of each question, the area below its outcomes over the range of percents, in points; [question]."""
    if (curve.percent, curve.questions) != (own.percent, own.questions):
        raise ArtifactError(
            f"{curve.path} and {own.path} hold different questions or levels; delete both and run the workflow again"
        )
    area: Array = 100 * (level_weights(curve.percent) @ curve.correct)
    return area


def compare(
    areas: Mapping[str, Mapping[str, Array]], seed: int = 0
) -> tuple[dict[str, dict[str, Gain]], dict[str, float], int]:
    """Worths of rankings from the areas below their curves, per task and on average.

    Intervals have two sources. Questions are drawn anew within tasks, the same for all rankings. Where there are S > 1
    random orders, each sample's random curve is moved by t s / sqrt(S), with s the standard deviation of the area over
    orders and t drawn from Student's distribution with S - 1 degrees of freedom: few orders say little of how much
    they differ. A difference between two rankings has no such part.

    Args:
        areas: task to ranking to the area of each question, [question]; rankings named ``random_N`` are the orders.
        seed: of the draws.

    Returns:
        Task (``average`` last) to ranking to its worth; the standard deviation over orders by task; and their number.
    """
    names = list(next(iter(areas.values())))
    drawn = [name for name in names if name.startswith(RANDOM)]
    ranked = [name for name in names if name not in drawn]
    points, samples, orders = {}, {}, {}
    for number, (task, by_ranking) in enumerate(areas.items()):
        random = np.array([by_ranking[name] for name in drawn])
        above = np.array([by_ranking[name] for name in ranked]) - random.mean(axis=0)
        points[task], orders[task] = above.mean(axis=1), random.mean(axis=1)
        # Streams of their own, so that the tasks' samples are independent and their mean is one of the average.
        samples[task] = resample([above], seed=seed + number)
    for by_task in (points, samples, orders):
        by_task[AVERAGE] = np.mean(list(by_task.values()), axis=0)
    # Its quantiles in random order: draws without the noise of their own distribution.
    quantiles = student_t.ppf((np.arange(RESAMPLES) + 0.5) / RESAMPLES, max(1, len(drawn) - 1))
    student = np.random.default_rng([seed, len(areas)]).permutation(quantiles)
    worths: dict[str, dict[str, Gain]] = {}
    spread = {}
    for task in points:
        spread[task] = float(orders[task].std(ddof=1)) if len(drawn) > 1 else float("nan")
        luck = student * spread[task] / np.sqrt(len(drawn)) if len(drawn) > 1 else np.zeros(RESAMPLES)
        own = ranked.index(OWN)
        limits = interval(samples[task] + luck[:, None])
        gain_limits = interval(samples[task] - samples[task][:, own, None])
        worths[task] = {
            name: Gain(
                float(points[task][i]),
                Interval(float(limits.low[i]), float(limits.high[i])),
                # Equal areas differ by rounding where random ones are taken from both.
                round(float(points[task][i] - points[task][own]), 9),
                Interval(float(gain_limits.low[i]), float(gain_limits.high[i])),
            )
            for i, name in enumerate(ranked)
        }
    return worths, spread, len(drawn)


def rows(matrix: ResultsMatrix) -> list[tuple[Any, ...]]:
    """The table: per number of shots and component, the average over tasks and each of them, a row per ranking."""
    found: list[tuple[Any, ...]] = []
    for shots, component in product(matrix.shots, COMPONENTS):
        table = measured(matrix, shots, component)
        if table is None:
            continue
        # What is looked at first stands first.
        for task in (*matrix.averages, *matrix.tasks):
            by_ranking = table.worths[task]
            for ranking, worth in by_ranking.items():
                over = ("", "", "") if ranking == OWN else (worth.gain, *worth.gain_limits)
                last = (table.orders, table.spread[task] if table.orders > 1 else "")
                value = (worth.worth, *worth.limits)
                found.append((shots, component, task, ranking, table.questions[task], *value, *over, *last))
    return found


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        table = rows(matrix)
    made = describe_drawn("table", "report.tables.gains", sources, matrix.options, out)
    notes = [
        "Worth is the area between a ranking's curve of accuracy and the mean curve of heads (FFNs) pruned in random "
        "order, over the percents pruned (trapezoids, divided by the range), in percentage points of accuracy. "
        "Limits are of 95% intervals: a bootstrap over questions within tasks, questions paired over rankings.",
        "The variance between random orders is part of the interval of worth where there are several. With one it is "
        "not: worth is then against that order, and another would move all rankings alike.",
        "Over own: how much more a ranking is worth than the task's own; the random orders cancel. The reading of eq. "
        "8 that is configured is the own ranking, and its difference 0. Many differences are shown: of those that are "
        "nothing, one in twenty has an interval without 0.",
    ]
    if any(row[1] == "ffns" for row in table):
        notes.append(
            "Where FFNs are ranked by the evaluation documents (`ffn.selection`), which also judge, the worth of their "
            "own ranking holds its optimism."
        )
    if not table:
        notes = ["No worth can be told: no random order (`pruning.controls`), or no level above 0, was evaluated."]
    write_table(out, f"What rankings of heads and FFNs are worth: {matrix.model}", COLUMNS, table, made, notes)


def gain_sentence(matrix: ResultsMatrix, shots: int, component: Component) -> list[str]:
    """What the findings say: the own ranking's worth, and how other rankings compare; none without a random order."""
    table = measured(matrix, shots, component)
    if table is None:
        return []
    worths = table.worths[AVERAGE]
    luck = (
        f"{table.orders} random orders, whose variance is part of the interval"
        if table.orders > 1
        else "one random order, whose luck is no part of the interval"
    )
    tasks = f"{len(matrix.tasks)} task" + ("s" if len(matrix.tasks) > 1 else "")
    text = (
        f"- {shots}-shot, worth of a ranking: averaged over {table.percents[0]} to {table.percents[1]}% of "
        f"{COMPONENTS[component]} pruned and {tasks}, accuracy under each task's own ranking differs from that under "
        f"random order by {_points(worths[OWN].worth, worths[OWN].limits)} ({luck})."
    )
    # The configured reading is the own ranking.
    others = [name for name in worths if name in CRITERIA and worths[name].gain_limits != (0.0, 0.0)]
    if others:
        gains = ", ".join(f"{name} {_points(worths[name].gain, worths[name].gain_limits)}" for name in others)
        told = [name for name in others if not worths[name].gain_limits[0] <= 0 <= worths[name].gain_limits[1]]
        text += f" Other rankings differ from the own by: {gains}; "
        text += (
            f"of these, {_listed(told)} {'is' if len(told) == 1 else 'are'} told from it"
            if told
            else ("none is told from it")
        )
        text += f" ({len(others)} comparisons, each at 95%)." if len(others) > 1 else "."
    return [text]


def _points(value: float, limits: Interval) -> str:
    return f"{value:+.1f} points ({limits.low:+.1f} to {limits.high:+.1f})"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
