"""The table of losses: every outcome with its interval, what is lost against the whole model, and McNemar's test."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lm_headroom.analysis.bootstrap import Interval, mcnemar
from lm_headroom.analysis.outcomes import OUTCOMES, RIGHT_ANSWERS, in_title
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import reads
from lm_headroom.report.pages import write_table
from lm_headroom.report.tables.by_outcome import (
    loss_interval_in_words,
    notes_on,
    unit_of,
    value_of,
    value_title,
    with_interval,
)
from lm_headroom.report.tables.headroom import BOTH
from lm_headroom.results.curves import (
    Average,
    average,
    average_grid,
    band,
    study_curves,
    study_grids,
    transfer_curves,
)
from lm_headroom.results.matrix import AVERAGE, COMPONENTS, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.choices import ACCURACY, Outcome
from lm_headroom.study.ranking_names import AGGREGATE, ITERATIVE

NOTES = {
    True: (
        "The page has the averages over tasks; the CSV has every task, with the two-sided p-value of the exact McNemar "
        "test of its loss. Intervals are of 95%: an average's from a bootstrap over questions within tasks, a task's "
        "accuracy by Wilson, a loss from {test}.",
        "Each ranking has draws of its own, so that limits of one and the same accuracy differ a little between "
        "rankings.",
        "p-values are of single tests. Of many, one in twenty is below 0.05 where nothing is lost.",
    ),
    False: (
        "The page has the averages over tasks; the CSV has every task. Intervals are of 95%: an average's from a "
        "bootstrap over questions within tasks, a task's mean by Student's t, a loss from {test}. McNemar's test is of "
        "right answers alone: its column is empty.",
        "Each ranking has draws of its own, so that limits of one and the same mean differ a little between rankings.",
    ),
}
"""By whether the outcome is a right answer."""


class LossRow(NamedTuple):
    """Outcome and loss of one task or the average at one level, in ``unit``; percents of all heads or FFNs."""

    shots: int
    component: str
    ranking: str
    task: str
    outcome: str
    unit: str
    percent_heads: int
    percent_ffns: int
    questions: int
    value: float
    stderr: float
    low: float
    high: float
    loss: float
    loss_stderr: float
    loss_low: float
    loss_high: float
    mcnemar_p: float | None


def rows(matrix: ResultsMatrix) -> Iterator[LossRow]:
    """All rows: per shot and ranking the average over tasks and each task, then transfer, then the joint grid.

    Args:
        matrix: its tasks define its outcome.

    Raises:
        ArtifactError: an artifact of the study is missing or not its own.
    """
    to_rows = partial(_rows, matrix.outcome)
    for shots in matrix.shots if matrix.tasks else ():
        again = (ITERATIVE,) if matrix.iterative else ()
        rankings = ("own", AGGREGATE, *again, *matrix.beside_own("heads"))
        heads = [("heads", name) for name in dict.fromkeys(rankings)]
        ffns = [("ffns", name) for name in ("own", *matrix.beside_own("ffns"))]
        for component, ranking in (*heads, *ffns):
            curves = study_curves(matrix, shots, ranking, component)  # type: ignore[arg-type]
            places = [(p, 0) if component == "heads" else (0, p) for p in next(iter(curves.values())).percent]
            for name in matrix.averages:
                yield from to_rows((shots, component, ranking, name), places, average(list(curves.values())))
            for task, curve in curves.items():
                cell = (shots, component, ranking, task)
                yield from to_rows(cell, places, average([curve]), band(curve))
        for task, by_ranking in transfer_curves(matrix, shots).items():
            for ranking, curve in by_ranking.items():
                # Tasks of the study have their own and the aggregate ranking above.
                if task in matrix.unseen or ranking not in ("own", AGGREGATE):
                    places = [(p, 0) for p in curve.percent]
                    yield from to_rows((shots, "heads", ranking, task), places, average([curve]), band(curve))
        if matrix.joint:
            yield from _joint_rows(matrix, shots)


def _joint_rows(matrix: ResultsMatrix, shots: int) -> Iterator[LossRow]:
    grids = study_grids(matrix, shots)
    places = [(h, f) for h in grids[0].heads for f in grids[0].ffns]
    of_tasks = {task: [grid] for task, grid in zip(matrix.tasks, grids, strict=True)}
    for task, members in {**dict.fromkeys(matrix.averages, grids), **of_tasks}.items():
        yield from _rows(matrix.outcome, (shots, BOTH, "joint grid", task), places, average_grid(members))


def _rows(
    outcome: Outcome,
    cell: tuple[int, str, str, str],
    places: list[tuple[int, int]],
    average: Average,
    band: Interval | None = None,
) -> Iterator[LossRow]:
    mean, *limits = (value_of(outcome, scores) for scores in (average.mean, *(band or average.band)))
    # The limits of a cost are those of its score in reverse.
    low, high = limits[::-1] if OUTCOMES[outcome].is_cost else limits
    columns = (
        mean, average.stderr, low, high,
        average.loss, average.loss_stderr, average.loss_interval.low, average.loss_interval.high,
    )  # fmt: skip
    is_tested = cell[-1] != AVERAGE and outcome in RIGHT_ANSWERS
    right = average.scores[0].reshape(len(places), -1)
    for number, (place, *values) in enumerate(zip(places, *(column.ravel() for column in columns), strict=True)):
        p = mcnemar(right[0], right[number]) if is_tested else None
        yield LossRow._make((*cell, outcome, unit_of(outcome), *place, average.questions, *map(float, values), p))


def in_words(row: LossRow) -> tuple[object, ...]:
    """A row of the page."""
    component = COMPONENTS.get(row.component, row.component)  # type: ignore[call-overload]
    pruned = {"heads": f"{row.percent_heads}%", "ffns": f"{row.percent_ffns}%"}.get(
        row.component, f"{row.percent_heads}% and {row.percent_ffns}%"
    )
    value, lost = (
        with_interval(row.outcome, *numbers)  # type: ignore[arg-type]
        for numbers in ((row.value, row.low, row.high), (row.loss, row.loss_low, row.loss_high))
    )
    return (f"{row.shots}-shot", f"{component}, {row.ranking}", pruned, value, lost)


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        defining, left_out = restrict(matrix)
        all_rows = list(rows(defining))
    provenance = describe_drawn("table", "report.tables.losses", sources, matrix.options, out)
    spec = OUTCOMES[matrix.outcome]
    columns = (*("shots", "component, ranking", "pruned"), f"{value_title(matrix.outcome)} (95%)")
    shown = (*defining.averages, *defining.tasks)[:1]
    page = ((*columns, f"{spec.unit} lost (95%)"), [in_words(row) for row in all_rows if row.task in shown])
    test = loss_interval_in_words(matrix.outcome)
    notes = [*(note.format(test=test) for note in NOTES[matrix.outcome in RIGHT_ANSWERS]), *notes_on(matrix, left_out)]
    is_accuracy = matrix.outcome == ACCURACY
    names = [ACCURACY if name == "value" and is_accuracy else name for name in LossRow._fields]
    title = "Accuracies and losses" if is_accuracy else "Values and losses"
    write_table(out, f"{title} of {matrix.model}{in_title(matrix.outcome)}", names, all_rows, provenance, notes, page)
