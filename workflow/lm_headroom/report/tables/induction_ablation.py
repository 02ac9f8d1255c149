"""The induction-ablation table: what each task, and the average, loses without induction heads."""

from __future__ import annotations

from pathlib import Path

from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import reads
from lm_headroom.report.pages import write_table
from lm_headroom.results.ablation import Effect, effects
from lm_headroom.results.matrix import AVERAGE, ResultsMatrix

COLUMNS = (
    *("outcome", "task", "shots", "selection", "percent", "heads", "questions", "whole", "ablated"),
    *("lost", "lost low", "lost high", "McNemar p", "controls lost", "controls low", "controls high"),
    *("least control lost", "most control lost", "extra lost", "extra low", "extra high", "heads shared"),
)
NOTES = (
    "The top percent of all heads by prefix matching, by copying, or by both (the worse of a head's two ranks) is "
    "ablated. Lost: what the whole model has more. Controls: as many random heads of the same layers; their mean, and "
    "the least and the most that one of them loses. Extra lost: lost by the chosen heads beyond the controls' mean, "
    "the number that a claim about induction heads rests on.",
    "Few-shot gain: accuracy at these shots minus accuracy at 0 shots, on the same questions; what is lost of it is "
    "the loss at these shots minus the loss at 0 shots.",
    "low and high: 95% bootstrap intervals over questions, paired; they are of the control sets that were drawn, and "
    "of this table's many none is corrected for the number of them. McNemar's exact test is of lost, per task. Heads "
    "shared: of a control's heads, how many are chosen ones, because their layer has too few others.",
)


def row(effect: Effect) -> list[object]:
    """An effect as a row of the table."""
    e = effect
    lost = [*e.lost, "" if e.p_value is None else e.p_value]
    return [
        *(e.outcome, e.task, e.shots, e.cell.selection, e.cell.percent, e.n_heads, e.n_questions),
        *(e.whole.value, e.ablated.value, *lost, *e.control_lost, e.least, e.most, *e.extra, e.n_shared),
    ]


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        # A task alone is its own average.
        rows = [row(effect) for effect in effects(matrix) if effect.task != AVERAGE or len(matrix.ablated) > 1]
    provenance = describe_drawn("table", "report.tables.induction_ablation", sources, matrix.options, out)
    write_table(out, f"Without induction heads: {matrix.model}", COLUMNS, rows, provenance, NOTES)
