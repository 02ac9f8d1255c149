"""The table of outcomes: how sharp each is on the same questions, and how many questions each would need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import ceil
from pathlib import Path
from typing import NamedTuple

from lm_headroom.analysis.non_inferiority import CONFIDENCE, ENOUGH_POWER
from lm_headroom.analysis.outcomes import OUTCOMES, explain_undefined
from lm_headroom.analysis.power import effective_sample_ratio, power_at, questions_needed
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import reads
from lm_headroom.report.pages import write_table
from lm_headroom.report.tables.by_outcome import in_unit, unit_of, value_of, with_interval
from lm_headroom.results.curves import Curve, average, pruning_levels, study_curves
from lm_headroom.results.margins import margin_in_words, margin_of, margin_unit
from lm_headroom.results.matrix import COMPONENTS, Component, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.choices import ACCURACY, DEFAULT_MARGINS
from lm_headroom.study.judged import JudgedOutcome
from lm_headroom.study.ranking_names import OWN

PAGE = (
    *("shots", "component, ranking", "task", "outcome", "questions", "mean with nothing pruned", "pruned"),
    *("lost (95%)", "effective questions (ratio)", "margin", "power", "needed per task", "more per task"),
)
NOTES = (
    "Each row reads one outcome off the same passes of the model. *Lost* is what the first level that prunes anything "
    "loses against the whole model, in the outcome's unit, with its 95% interval over questions.",
    "*Effective questions*: how many questions accuracy would need to tell the levels apart as well as this outcome "
    "does with the questions there are; the *ratio* is that number over the questions, 1 for accuracy itself. It is "
    "the squared ratio of signal to noise, relative to accuracy's, in the sense of Signal and Noise (arXiv 2508.13144) "
    "adapted to pruning: the signal is the range of an outcome's means over levels, the noise the standard error of "
    "its paired losses. It is an estimate without an interval, and empty where accuracy has no signal.",
    "*Margin*: the loss that counts as none, which the study sets by outcome. *Power*: the probability that the "
    f"non-inferiority test passes at that level, with {100 * CONFIDENCE:.0f}% confidence and these questions, if "
    f"nothing is lost there. *Needed per task*: questions of each task for a power of {ENOUGH_POWER}, from the spread "
    "between questions that was observed; *more per task*: how many that is beyond those there are, 0 where they "
    "suffice. Power and numbers of two outcomes are comparable as far as their margins are.",
)


class OutcomeRow(NamedTuple):
    """One outcome of one task or the average at the first level that prunes anything.

    ``value`` and losses are in ``unit``, ``margin`` in ``margin_unit``; ``value`` is of the whole model.
    """

    shots: int
    component: Component
    ranking: str
    task: str
    outcome: str
    unit: str
    tasks: int
    questions: int
    value: float
    percent: int
    loss: float
    loss_low: float
    loss_high: float
    effective_ratio: float | None
    effective_questions: float | None
    margin: float
    margin_unit: str
    power: float
    questions_needed: float | None
    more_questions: int | None


def rows(judges: Mapping[ResultsMatrix, ResultsMatrix]) -> Iterator[OutcomeRow]:
    """All rows: per shots and component the average over tasks and each task, a row per outcome that they define.

    Args:
        judges: the study judged by each outcome to its part whose tasks define that outcome.
    """
    study = next(iter(judges))
    for shots, component in product(study.shots, COMPONENTS):
        accuracy = study_curves(study.changed(outcome=ACCURACY), shots, OWN, component)
        curves = {matrix: study_curves(matrix, shots, OWN, component) for matrix in judges.values()}
        for name in (*study.averages, *study.tasks):
            for matrix, by_task in curves.items():
                tasks = list(by_task) if name in study.averages else [name]
                if by_task and set(tasks) <= set(by_task):
                    yield from _row(matrix, (shots, component, OWN, name), tasks, by_task, accuracy)


def _row(
    matrix: ResultsMatrix,
    cell: tuple[int, Component, str, str],
    tasks: list[str],
    curves: Mapping[str, Curve],
    accuracy: Mapping[str, Curve],
) -> Iterator[OutcomeRow]:
    """A row; none where no level prunes anything."""
    curve = average([curves[task] for task in tasks])
    level = next(iter(pruning_levels(curve)), None)
    if level is None:
        return
    margin = margin_of(matrix)
    ratio = effective_sample_ratio(curve.scores, [accuracy[task].scores for task in tasks])
    needed = questions_needed(curve.scores, margin, level=level)
    yield OutcomeRow(
        *cell,
        outcome=matrix.outcome,
        unit=unit_of(matrix.outcome),
        tasks=len(tasks),
        questions=curve.questions,
        value=value_of(matrix.outcome, float(curve.mean[0])),
        percent=curve.percent[level],
        loss=float(curve.loss[level]),
        loss_low=float(curve.loss_interval.low[level]),
        loss_high=float(curve.loss_interval.high[level]),
        effective_ratio=ratio,
        effective_questions=None if ratio is None else ratio * curve.questions,
        margin=matrix.margin or DEFAULT_MARGINS[matrix.outcome],
        margin_unit=margin_unit(matrix.outcome),
        power=power_at(curve.scores, margin, level),
        questions_needed=needed,
        more_questions=None if needed is None else max(0, ceil(needed - curve.questions / len(tasks))),
    )


def in_words(row: OutcomeRow, matrix: ResultsMatrix) -> tuple[object, ...]:
    """A row of the page."""
    spec = OUTCOMES[matrix.outcome]
    unit = "%" if spec.unit == "points" else f" {spec.unit}"
    effective = ""
    if row.effective_questions is not None:
        effective = f"{row.effective_questions:.0f} ({row.effective_ratio:.2f})"
    return (
        *(f"{row.shots}-shot", f"{COMPONENTS[row.component]}, {row.ranking}", row.task, spec.title, row.questions),
        *(f"{in_unit(matrix.outcome, row.value)[0]}{unit}", f"{row.percent}%"),
        f"{with_interval(matrix.outcome, row.loss, row.loss_low, row.loss_high)} {spec.unit}",
        *(effective, margin_in_words(matrix), f"{row.power:.2f}"),
        "no number suffices" if row.questions_needed is None else ceil(row.questions_needed),
        row.more_questions,
    )


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html: of all outcomes where the matrix names none."""
    every = tuple(JudgedOutcome(outcome, margin) for outcome, margin in DEFAULT_MARGINS.items())
    study = replace(matrix, outcomes=matrix.outcomes or every)
    with reads() as sources:
        parts = {judged: restrict(judged) for judged in study.judges}
        table = list(rows({judged: defining for judged, (defining, _) in parts.items()}))
    record = describe_drawn("table", "report.tables.outcomes", sources, study.options, out)
    by_outcome = {judged.outcome: judged for judged in parts}
    notes = list(NOTES)
    notes += [
        f"Left out, since {explain_undefined(judged.outcome)}: {', '.join(left_out)}."
        for judged, (_, left_out) in parts.items()
        if left_out
    ]
    if not table:
        notes.append("The study evaluated no level that prunes anything, so this table is empty.")
    page = (PAGE, [in_words(row, by_outcome[row.outcome]) for row in table])  # type: ignore[index]
    write_table(out, f"How sharp outcomes are: {matrix.model}", OutcomeRow._fields, table, record, notes, page)
