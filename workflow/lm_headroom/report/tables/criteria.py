"""The table of criteria: how much each ranking lets one prune, and what it loses beside the study's own ranking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm_headroom.analysis.mean_loss import holm
from lm_headroom.analysis.non_inferiority import CONFIDENCE, INCONCLUSIVE, Prunable, compare_losses
from lm_headroom.analysis.outcomes import OUTCOMES, in_title
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import ArtifactError, reads
from lm_headroom.report.pages import write_table
from lm_headroom.report.tables.by_outcome import notes_on, p_in_words, unit_of, with_interval
from lm_headroom.report.tables.headroom import ABOVE_CHANCE, groups, percent_at, prunable_of, share_in_words, whole_of
from lm_headroom.results.chance import ChanceLevel, explain_overlap, read_chance_levels
from lm_headroom.results.curves import AverageCurve, Curve, average, over_levels, pruning_levels, study_curves
from lm_headroom.results.estimates import Estimate
from lm_headroom.results.matrix import NAMES, Component, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.choices import Outcome
from lm_headroom.study.ranking_names import ITERATIVE, OWN

Curves = Mapping[str, Mapping[str, Curve]]
"""Ranking to task to its curve."""
PAGE = (
    "shots",
    "pruned",
    "tasks",
    "ranking",
    "prunable",
    "loss beyond the own ranking's",
    "over all levels",
    "p (Holm)",
)
NOTES = (
    "*Ranking*: `own` is the criterion of the study (`importance`, `ffn.metric`, `experts.criterion`), the paper's "
    "unless it is changed; the others are in docs/criteria.md. *Prunable*: as in the table of headroom, with "
    f"{100 * CONFIDENCE:.0f}% confidence for each row by itself.",
    "*Loss beyond the own ranking's*: by how much more, or with a minus sign less, a ranking loses than the own "
    "ranking at the same level and on the same questions, with its 95% interval by a paired t test corrected for skew. "
    "*Over all levels*: the mean over the levels that prune anything. *p (Holm)*: its two-sided p value, corrected "
    "for the number of rankings that are compared with the own one in the same rows' shots, component and tasks; none "
    "where the evaluation questions ranked what one of the two prunes.",
    "The page has the averages over tasks; the CSV has every task and level. The ranking that does best on these "
    "questions looks better than it is: choose one here, and confirm it on other documents.",
)


class CriterionRow(NamedTuple):
    """One ranking at one level, for one task or on average.

    Losses are in ``unit``; ``beyond_own`` is the loss less the own ranking's, ``mean_beyond_own`` its mean over levels,
    and ``p_holm`` belongs to that mean. Percents are of all heads, FFNs or experts; None where not defined.
    """

    shots: int
    component: Component
    task: str
    ranking: str
    outcome: str
    unit: str
    tasks: int
    questions: int
    verdict: str
    share: int | None
    estimate: int | None
    below: int | None
    power: float | None
    reason: str
    percent: int
    loss: float
    loss_low: float
    loss_high: float
    beyond_own: float | None = None
    beyond_own_low: float | None = None
    beyond_own_high: float | None = None
    mean_beyond_own: float | None = None
    mean_beyond_own_low: float | None = None
    mean_beyond_own_high: float | None = None
    p: float | None = None
    p_holm: float | None = None


class Cell(NamedTuple):
    """What is compared: a ranking of a component on a task or an average, over so many tasks."""

    shots: int
    component: Component
    task: str
    ranking: str
    tasks: int


class Compared(NamedTuple):
    """A ranking beside the own one.

    Attributes:
        curve: its average.
        prunable: how much it lets one prune.
        beyond_own: its loss less the own ranking's and the 95% limits, each [level]; None of the own ranking.
        mean_beyond_own: the same of the mean over levels that prune anything.
        p, p_holm: two-sided p value of that mean, and the same corrected for the number of rankings.
    """

    curve: AverageCurve
    prunable: Prunable
    beyond_own: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    mean_beyond_own: Estimate | None = None
    p: float | None = None
    p_holm: float | None = None


def compared_rankings(matrix: ResultsMatrix, component: Component) -> list[str]:
    """The rankings that are compared, the own one first."""
    again = [ITERATIVE] if component == "heads" and matrix.iterative else []
    return list(dict.fromkeys([OWN, *again, *matrix.other_orders(component)]))


def compare(
    matrix: ResultsMatrix, shots: int, component: Component, chance: Mapping[str, ChanceLevel]
) -> dict[str, tuple[list[str], dict[str, Compared]]]:
    """Rankings of one number of shots and component, per average and per task: its tasks, and ranking to comparison.

    Args:
        matrix: of one seed; its tasks define its outcome.
        shots: number of few-shot examples.
        component: what is pruned.
        chance: chance levels by task.

    Raises:
        ArtifactError: an artifact is missing, or rankings were evaluated on different questions or at other levels.
    """
    curves = _read_curves(matrix, shots, component)
    members_of = _averages(matrix, curves, chance) | {task: [task] for task in matrix.tasks}
    return {
        name: (tasks, _compare_group(matrix, shots, component, chance, tasks, curves))
        for name, tasks in members_of.items()
    }


def compare_average(
    matrix: ResultsMatrix, shots: int, component: Component, chance: Mapping[str, ChanceLevel]
) -> tuple[str, list[str], dict[str, Compared]]:
    """The average that stands for a study: its name, its tasks, and ranking to comparison.

    Tasks at chance have nothing to lose, so it is over those above chance where only some are; of one task, it is that.

    Args, Raises: as :func:`compare`.
    """
    curves = _read_curves(matrix, shots, component)
    averages = _averages(matrix, curves, chance) or {matrix.tasks[0]: [matrix.tasks[0]]}
    name = ABOVE_CHANCE if ABOVE_CHANCE in averages else next(iter(averages))
    return name, averages[name], _compare_group(matrix, shots, component, chance, averages[name], curves)


def _averages(matrix: ResultsMatrix, curves: Curves, chance: Mapping[str, ChanceLevel]) -> dict[str, list[str]]:
    return groups(matrix.tasks, whole_of(curves[OWN]), chance)


def _read_curves(matrix: ResultsMatrix, shots: int, component: Component) -> Curves:
    curves = {name: study_curves(matrix, shots, name, component) for name in compared_rankings(matrix, component)}
    for by_task in curves.values():
        for task, curve in by_task.items():
            own = curves[OWN][task]
            if (curve.percent, curve.questions) != (own.percent, own.questions):
                raise ArtifactError(
                    f"{curve.path} and {own.path} hold different questions or levels; delete both and run the "
                    "workflow again"
                )
    return curves


def _compare_group(
    matrix: ResultsMatrix,
    shots: int,
    component: Component,
    chance: Mapping[str, ChanceLevel],
    tasks: Sequence[str],
    curves: Curves,
) -> dict[str, Compared]:
    compared = {}
    own = [curves[OWN][task] for task in tasks]
    levels = [own[0].percent[place] for place in pruning_levels(own[0])]
    overlaps = {name: explain_overlap(matrix, shots, component, chance, tasks, name) for name in curves}
    for name, by_task in curves.items():
        curve = average([by_task[task] for task in tasks])
        prunable = prunable_of(matrix, curve, [chance[task] for task in tasks], overlaps[name])
        compared[name] = Compared(curve, prunable)
        if name == OWN or not levels:
            continue
        loss = compare_losses([task.scores for task in own], curve.scores)
        means = [[over_levels(by[task], levels) for task in tasks] for by in (curves[OWN], by_task)]
        mean = compare_losses(*means)
        # Questions that ranked what one of the two prunes favour it, so that no test between them is valid.
        p = None if overlaps[name] or overlaps[OWN] else float(mean.p)
        compared[name] = Compared(curve, prunable, loss.limits, Estimate(*map(float, mean.limits)), p)
    tested = {name: row.p for name, row in compared.items() if row.p is not None}
    for name, p_holm in zip(tested, holm(list(tested.values())), strict=True):
        compared[name] = compared[name]._replace(p_holm=p_holm)
    return compared


def compare_all(matrix: ResultsMatrix) -> Iterator[tuple[Cell, Compared]]:
    """All comparisons: per shots and component the averages, then each task; of each all rankings.

    Args:
        matrix: its tasks define its outcome.

    Raises:
        ArtifactError: an artifact of the study is missing or not its own.
    """
    chance = read_chance_levels(matrix)
    for shots in matrix.shots if matrix.tasks else ():
        for component in matrix.components:
            for task, (tasks, compared) in compare(matrix, shots, component, chance).items():
                for name, row in compared.items():
                    yield Cell(shots, component, task, name, len(tasks)), row


def rows(matrix: ResultsMatrix) -> Iterator[CriterionRow]:
    """A row for each level that prunes anything of each of :func:`compare_all`."""
    for cell, row in compare_all(matrix):
        yield from _level_rows(matrix.outcome, cell, row)


def _level_rows(outcome: Outcome, cell: Cell, row: Compared) -> Iterator[CriterionRow]:
    curve, prunable = row.curve, row.prunable
    shares = (percent_at(curve, level) for level in (prunable.level, prunable.estimate, prunable.below))
    place = (*cell[:-1], outcome, unit_of(outcome), cell.tasks)
    verdict = (curve.questions, prunable.verdict, *shares, prunable.power, prunable.reason)
    losses = (curve.loss, curve.loss_interval.low, curve.loss_interval.high)
    for level in pruning_levels(curve):
        compared: tuple[float | None, ...] = ()
        if row.beyond_own is not None and row.mean_beyond_own is not None:
            beyond = (float(values[level]) for values in row.beyond_own)
            compared = (*beyond, *row.mean_beyond_own, row.p, row.p_holm)
        lost = (float(values[level]) for values in losses)
        yield CriterionRow(*place, *verdict, curve.percent[level], *lost, *compared)  # type: ignore[call-arg,arg-type]


def _is_shown(cell: Cell, matrix: ResultsMatrix) -> bool:
    """Whether the page has it: the averages, or the only task."""
    return cell.task not in matrix.tasks or len(matrix.tasks) == 1


def _in_words(matrix: ResultsMatrix, row: Compared) -> Iterator[str]:
    share = share_in_words(row.prunable, row.curve)
    yield f"{share}: {row.prunable.reason}" if share == INCONCLUSIVE else share
    if row.beyond_own is None or row.mean_beyond_own is None:
        yield from ("", "", "")
        return
    by_level = list(zip(row.curve.percent, *row.beyond_own, strict=True))
    shown = (by_level[place] for place in pruning_levels(row.curve))
    yield "; ".join(f"{percent}%: {with_interval(matrix.outcome, *map(float, values))}" for percent, *values in shown)
    yield with_interval(matrix.outcome, *row.mean_beyond_own)
    yield "" if row.p_holm is None else p_in_words(row.p_holm).removeprefix("= ")


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        defining, left_out = restrict(matrix)
        compared = list(compare_all(defining))
    table = [line for cell, row in compared for line in _level_rows(matrix.outcome, cell, row)]
    page = [
        (f"{cell.shots}-shot", NAMES[cell.component], cell.task, cell.ranking, *_in_words(matrix, row))
        for cell, row in compared
        if _is_shown(cell, defining)
    ]
    record = describe_drawn("table", "report.tables.criteria", sources, matrix.options, out)
    unit = OUTCOMES[matrix.outcome].unit
    notes = [*NOTES, f"Losses on the page are in {unit}.", *notes_on(matrix, left_out, is_tested=True)]
    title = f"How much each criterion lets one prune: {matrix.model}{in_title(matrix.outcome)}"
    write_table(out, title, CriterionRow._fields, table, record, notes, (PAGE, page))
