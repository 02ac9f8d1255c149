"""The induction-ablation table: what each task, and the average, loses without induction heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lm_headroom.analysis.outcomes import in_title
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import reads
from lm_headroom.report.pages import write_table
from lm_headroom.report.tables.by_outcome import notes_on, unit_of, value_of
from lm_headroom.results.ablation import GAIN, Effect, effects
from lm_headroom.results.matrix import AVERAGE, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.choices import Outcome

COLUMNS = (
    *("quantity", "task", "shots", "selection", "percent", "heads", "questions", "whole", "ablated"),
    *("lost", "lost low", "lost high", "McNemar p", "controls lost", "controls low", "controls high"),
    *("least control lost", "most control lost", "extra lost", "extra low", "extra high", "heads shared"),
    *("outcome", "unit"),
)
NOTES = (
    "The top percent of all heads by prefix matching, by copying, or by both (the worse of a head's two ranks) is "
    "ablated. Lost: what the whole model has more. Controls: as many random heads of the same layers; their mean, and "
    "the least and the most that one of them loses. Extra lost: lost by the chosen heads beyond the controls' mean, "
    "the number that a claim about induction heads rests on.",
    "Few-shot gain: the outcome at these shots minus the same at 0 shots (of a cost, what it falls by), on the same "
    "questions; what is lost of it is the loss at these shots minus the loss at 0 shots.",
    "low and high: 95% bootstrap intervals over questions, paired; they are of the control sets that were drawn, and "
    "of this table's many none is corrected for the number of them. McNemar's exact test is of right answers lost, per "
    "task. Heads shared: of a control's heads, how many are chosen ones, because their layer has too few others.",
)


def row(effect: Effect, outcome: Outcome) -> list[object]:
    """An effect as a row of the table."""
    e = effect
    values = [e.whole.value, e.ablated.value]
    # A gain is positive where the model got better, also of a cost.
    values = values if e.outcome == GAIN else [value_of(outcome, value) for value in values]
    lost = [*e.lost, "" if e.p_value is None else e.p_value]
    return [
        *(e.outcome, e.task, e.shots, e.cell.selection, e.cell.percent, e.n_heads, e.n_questions),
        *(*values, *lost, *e.control_lost, e.least, e.most, *e.extra, e.n_shared),
        *(outcome, unit_of(outcome)),
    ]


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        defining, left_out = restrict(matrix, INDUCTION_ABLATION)
        measured = effects(defining) if defining.ablated else []
    # A task alone is its own average.
    rows = [row(e, matrix.outcome) for e in measured if e.task != AVERAGE or len(defining.ablated) > 1]
    provenance = describe_drawn("table", "report.tables.induction_ablation", sources, matrix.options, out)
    title = f"Without induction heads: {matrix.model}{in_title(matrix.outcome)}"
    notes = [*NOTES, *notes_on(replace(matrix, tasks=matrix.ablated), left_out)]
    write_table(out, title, COLUMNS, rows, provenance, notes)
