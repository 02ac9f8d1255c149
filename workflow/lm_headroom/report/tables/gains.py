"""The gain of a ranking over random order: the area between its curve of an outcome and that of random order.

Rankings are measured on the same questions, so that the gain of one over another is a paired difference, in which the
random curve cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from lm_headroom.analysis.bootstrap import RESAMPLES, Interval, interval, resample
from lm_headroom.analysis.outcomes import OUTCOMES, OutcomeSpec, in_title
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import ArtifactError, reads
from lm_headroom.report.pages import listed, write_table
from lm_headroom.report.tables.by_outcome import notes_on
from lm_headroom.results.chance import ChanceLevel, explain_overlap
from lm_headroom.results.curves import Curve, study_curves
from lm_headroom.results.matrix import AVERAGE, COMPONENTS, Component, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.ranking_names import AGGREGATE, ORACLES, OWN, drawn_with, is_reference

Array = np.ndarray[Any, np.dtype[np.float64]]
COLUMNS = (
    *("shots", "component", "task", "ranking", "questions", "gain over random", "gain low", "gain high"),
    *("gain over own", "gain over own low", "gain over own high", "random orders", "SD over orders"),
    *("outcome", "unit"),
)


class Gain(NamedTuple):
    """The gain of one ranking on one task or on average over tasks, in the outcome's unit: of accuracy, points.

    Attributes:
        over_random: mean score over the range of percents less that of random orders.
        over_random_limits: its 95% interval.
        over_own: the same less that of the own ranking.
        over_own_limits: its 95% interval, questions paired.
    """

    over_random: float
    over_random_limits: Interval
    over_own: float
    over_own_limits: Interval


class Table(NamedTuple):
    """Gains of one number of shots and component.

    Attributes:
        gains: task (or ``average``) to ranking to its gain.
        questions: of each task, and of all.
        orders: how many random orders there are.
        spread: standard deviation over random orders of the area below their curves, by task; NaN for a single one.
        percents: the lowest and the highest level.
    """

    gains: dict[str, dict[str, Gain]]
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


def measure_gains(matrix: ResultsMatrix, shots: int, component: Component) -> Table | None:
    """Gains of the study's rankings; None without a random order to compare with, or without a level above 0.

    FFNs have no curve of the aggregate ranking alone, and of the controls those that rank FFNs.

    Raises:
        ArtifactError: a task's rankings were evaluated on different questions or at different levels.
    """
    names = [OWN, *([AGGREGATE] if component == "heads" else []), *matrix.other_orders(component)]
    curves = {name: study_curves(matrix, shots, name, component) for name in names}
    percent = next(iter(curves[OWN].values())).percent
    if len(percent) < 2 or not any(drawn_with(name) is not None for name in names):
        return None
    shown = OUTCOMES[matrix.outcome].shown_loss
    areas = {
        task: {name: shown(_area(curves[name][task], curves[OWN][task])) for name in names} for task in matrix.tasks
    }
    gains, spread, orders = compare(areas)
    questions = {task: len(curves[OWN][task].questions) for task in matrix.tasks}
    questions[AVERAGE] = sum(questions.values())
    return Table(gains, questions, orders, spread, (percent[0], percent[-1]))


def _area(curve: Curve, own: Curve) -> Array:
    """Of each question, the area below its scores over the range of percents; [question]."""
    if (curve.percent, curve.questions) != (own.percent, own.questions):
        raise ArtifactError(
            f"{curve.path} and {own.path} hold different questions or levels; delete both and run the workflow again"
        )
    area: Array = level_weights(curve.percent) @ curve.scores
    return area


def compare(
    areas: Mapping[str, Mapping[str, Array]], seed: int = 0
) -> tuple[dict[str, dict[str, Gain]], dict[str, float], int]:
    """Gains of rankings from the areas below their curves, per task and on average.

    Intervals have two sources. Questions are drawn anew within tasks, the same for all rankings. Where there are S > 1
    random orders, each sample's random curve is moved by t s / sqrt(S), with s the standard deviation of the area over
    orders and t drawn from Student's distribution with S - 1 degrees of freedom: few orders say little of how much
    they differ. A difference between two rankings has no such part.

    Args:
        areas: task to ranking to the area of each question, [question]; rankings named ``random_N`` are the orders.
        seed: of the draws.

    Returns:
        Task (``average`` last) to ranking to its gain; the standard deviation over orders by task; and their number.
    """
    names = list(next(iter(areas.values())))
    random_names = [name for name in names if drawn_with(name) is not None]
    ranked = [name for name in names if name not in random_names]
    points, samples, orders = {}, {}, {}
    for number, (task, by_ranking) in enumerate(areas.items()):
        random = np.array([by_ranking[name] for name in random_names])
        above = np.array([by_ranking[name] for name in ranked]) - random.mean(axis=0)
        points[task], orders[task] = above.mean(axis=1), random.mean(axis=1)
        # Streams of their own, so that the tasks' samples are independent and their mean is one of the average.
        samples[task] = resample([above], seed=seed + number)
    for by_task in (points, samples, orders):
        by_task[AVERAGE] = np.mean(list(by_task.values()), axis=0)
    # Its quantiles in random order: draws without the noise of their own distribution.
    quantiles = student_t.ppf((np.arange(RESAMPLES) + 0.5) / RESAMPLES, max(1, len(random_names) - 1))
    student = np.random.default_rng([seed, len(areas)]).permutation(quantiles)
    gains: dict[str, dict[str, Gain]] = {}
    spread = {}
    for task in points:
        spread[task] = float(orders[task].std(ddof=1)) if len(random_names) > 1 else float("nan")
        luck = student * spread[task] / np.sqrt(len(random_names)) if len(random_names) > 1 else np.zeros(RESAMPLES)
        own = ranked.index(OWN)
        over_random = interval(samples[task] + luck[:, None])
        over_own = interval(samples[task] - samples[task][:, own, None])
        gains[task] = {
            name: Gain(
                float(points[task][i]),
                Interval(float(over_random.low[i]), float(over_random.high[i])),
                # Equal areas differ by rounding where random ones are taken from both.
                round(float(points[task][i] - points[task][own]), 9),
                Interval(float(over_own.low[i]), float(over_own.high[i])),
            )
            for i, name in enumerate(ranked)
        }
    return gains, spread, len(random_names)


def rows(matrix: ResultsMatrix) -> list[tuple[Any, ...]]:
    """The table: per number of shots and component, the average over tasks and each of them, a row per ranking."""
    cells: list[tuple[Any, ...]] = []
    for shots, component in product(matrix.shots if matrix.tasks else (), COMPONENTS):
        table = measure_gains(matrix, shots, component)
        if table is None:
            continue
        # The average, which readers look at first, comes first.
        for task in (*matrix.averages, *matrix.tasks):
            for ranking, gain in table.gains[task].items():
                over_own = ("", "", "") if ranking == OWN else (gain.over_own, *gain.over_own_limits)
                over_random = (gain.over_random, *gain.over_random_limits)
                orders = (table.orders, table.spread[task] if table.orders > 1 else "")
                place = (shots, component, task, ranking, table.questions[task])
                judged = (matrix.outcome, OUTCOMES[matrix.outcome].unit)
                cells.append((*place, *over_random, *over_own, *orders, *judged))
    return cells


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        defining, left_out = restrict(matrix)
        table = rows(defining)
    record = describe_drawn("table", "report.tables.gains", sources, matrix.options, out)
    spec = OUTCOMES[matrix.outcome]
    notes = [
        f"The gain over random order is the area between a ranking's curve of {spec.title} and the mean curve of heads "
        f"(FFNs) pruned in random order, over the percents pruned (trapezoids, divided by the range), in {spec.unit}, "
        "positive where the ranking is better. Limits are of 95% intervals: a bootstrap over questions within tasks, "
        "questions paired over rankings.",
        "With several random orders, the interval includes the variance between them. With one it does not: the gain "
        "is then over that order, and another would move all rankings alike.",
        "The gain over own is the difference from the task's own ranking; the random orders cancel. The configured "
        "variant of eq. 8 is the own ranking, and its difference 0. The table has many differences: of those that are "
        "truly 0, one in twenty has an interval without 0.",
    ]
    if any(row[1] == "ffns" for row in table):
        notes.append(
            "Where the evaluation documents rank FFNs (`ffn.selection`), the gains of the own ranking and of the "
            "oracles include their selection bias."
        )
    if any(row[1] == "heads" and row[3] in ORACLES for row in table):
        notes.append("The evaluation questions also rank heads by the oracles, whose gains include a selection bias.")
    if not table and defining.tasks:
        notes = ["The study evaluated no random order (`pruning.controls`) or no level above 0, so it has no gains."]
    notes += notes_on(matrix, left_out)
    title = f"Gain of rankings over random order: {matrix.model}{in_title(matrix.outcome)}"
    write_table(out, title, COLUMNS, table, record, notes)


def gain_sentence(
    matrix: ResultsMatrix, shots: int, component: Component, chance: Mapping[str, ChanceLevel]
) -> list[str]:
    """The finding about the own ranking's gain, and how other criteria compare; none without a random order.

    Criteria are not compared where the evaluation questions ranked what one of the two prunes.
    """
    table = measure_gains(matrix, shots, component)
    if table is None:
        return []
    gains, spec = table.gains[AVERAGE], OUTCOMES[matrix.outcome]
    own, gained = gains[OWN], partial(gain_in_words, spec)
    low, high = own.over_random_limits
    verdict = "better than" if low > 0 else "worse than" if high < 0 else "not significantly different from"
    variance = (
        f"the interval includes the variance of {table.orders} random orders"
        if table.orders > 1
        else "the interval ignores the luck of the one random order"
    )
    tasks = f"{len(matrix.tasks)} task" + ("s" if len(matrix.tasks) > 1 else "")
    # A unit other than points names its outcome.
    of_outcome = f" of {spec.title}" if spec.unit == "points" else ""
    text = (
        f"- **The importance ranking of {COMPONENTS[component]} is {verdict} random order with {shots}-shot prompts.** "
        f"Each task's own ranking gains {gained(own.over_random, own.over_random_limits)}{of_outcome} over random "
        f"order, averaged over {table.percents[0]} to {table.percents[1]}% pruned and {tasks}; {variance}."
    )
    others = {
        name: gain
        for name, gain in gains.items()
        # The configured variant is the own ranking.
        if not (name in (OWN, AGGREGATE) or is_reference(name) or gain.over_own_limits == (0.0, 0.0))
        and not any(explain_overlap(matrix, shots, component, chance, ranking=either) for either in (OWN, name))
    }
    if not others:
        return [text]
    differences = ", ".join(f"`{name}` {gained(gain.over_own, gain.over_own_limits)}" for name, gain in others.items())
    different = [
        f"`{name}`" for name, gain in others.items() if not gain.over_own_limits[0] <= 0 <= gain.over_own_limits[1]
    ]
    which = f"Only {listed(different)}" if different else "None"
    if len(different) == len(others):
        which = listed(different)
    verb = "differ" if len(different) > 1 else "differs"
    tests = f" ({len(others)} comparisons, each at 95%)" if len(others) > 1 else ""
    return [f"{text} Other criteria add to this gain: {differences}. {which} {verb} significantly from it{tests}."]


def gain_in_words(spec: OutcomeSpec, value: float, limits: Interval) -> str:
    """``+1.2 points (+0.3 to +2.1)``, of a gain in the outcome's unit."""
    gained, low, high = (f"{number:+z.{spec.decimals}f}" for number in (value, *limits))
    return f"{gained} {spec.unit} ({low} to {high})"
