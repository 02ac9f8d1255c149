"""Finding 2: how many FFNs can be pruned, alone and together with heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lm_headroom.analysis.non_inferiority import ESTIMATE_ONLY, INCONCLUSIVE, PrunableCell, find_prunable_cell
from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.artifacts.ffn_importance import selection_of
from lm_headroom.artifacts.store import provenance
from lm_headroom.report.findings.shares import pruning_findings, without_tasks_at_chance, without_undefined
from lm_headroom.report.findings.words import (
    at,
    by,
    count,
    loss_at,
    loss_in_words,
    score_in_words,
    with_error,
)
from lm_headroom.report.pages import listed, size
from lm_headroom.report.tables.selection_bias import SelectionBias, measure_selection_bias
from lm_headroom.results.chance import ChanceLevel, explain_overlap, tasks_above_chance
from lm_headroom.results.curves import AverageGrid, average_grid, study_grids
from lm_headroom.results.ffns import largest_swing, read_ffns
from lm_headroom.results.margins import margin_in_words, margin_of
from lm_headroom.results.matrix import AVERAGE, ResultsMatrix
from lm_headroom.results.power import Judge, judges_of


def ffn_findings(matrix: ResultsMatrix, chance: Mapping[str, ChanceLevel]) -> list[str]:
    """All sentences of the finding."""
    by_shots = {shots: judges_of(matrix, shots, "ffns", chance) for shots in matrix.shots}
    return [
        *pruning_findings(matrix, "ffns", chance),
        *(swing_sentence(matrix.by_accuracy, shots) for shots in matrix.shots),
        *(joint_sentence(matrix, judges, shots, chance) for shots, judges in by_shots.items() if matrix.joint),
        *selection_note(matrix, by_shots),
    ]


def swing_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """The single FFN that matters most, or those that do as much."""
    task, layer, loss, error = largest_swing(matrix, shots, matrix.tasks)
    losses = np.array([*read_ffns(matrix, shots).tasks.values()])
    if loss <= 0:
        return (
            f"- **No FFN is needed by itself {at(shots)}.** The largest of {losses.size} measured losses of accuracy "
            f"is {with_error(loss, error)}."
        )
    tied = np.flatnonzero(np.isclose(losses, loss).any(axis=0)) + 1
    most = f"The FFN of layer {layer + 1} matters"
    if len(tied) > 1:
        most = f"The FFNs of layers {listed(list(map(str, tied)))} matter"
    without = "it" if len(tied) == 1 else f"that of layer {layer + 1}"
    return (
        f"- **{most} most {at(shots)}.** Without {without}, {task} loses "
        f"{with_error(loss, error)} of accuracy (layers count from 1; this is the largest of {losses.size} measured "
        "losses, so noise has raised it)."
    )


def joint_sentence(
    matrix: ResultsMatrix, judges: Sequence[Judge], shots: int, chance: Mapping[str, ChanceLevel]
) -> str:
    """Heads and FFNs together, by the outcome that is the sharpest for FFNs, which limit the grid."""
    overlap = explain_overlap(matrix, shots, "ffns", chance)
    verdicts = []
    for judge in judges:
        grids = dict(zip(judge.matrix.tasks, study_grids(judge.matrix, shots), strict=True))
        tasks = tasks_above_chance({task: grid.whole_right for task, grid in grids.items()}, chance)
        grid, levels = average_grid([grids[task] for task in tasks]), [chance[task].level for task in tasks]
        margin = margin_of(judge.matrix)
        cell = find_prunable_cell(grid.scores, grid.removed, levels, margin, overlap, grid.whole_right)
        verdicts.append((judge.matrix, grid, cell, tasks))
    lead, *others = verdicts
    in_short = "".join(f" {by(judged.outcome)}: {_share(grid, cell)}." for judged, grid, cell, _ in others)
    at_chance = without_tasks_at_chance(lead[0].tasks, lead[3])
    return f"- {_joint_verdict(shots, *lead[:3])}{in_short}{at_chance}{without_undefined(judges)}"


def _joint_verdict(shots: int, matrix: ResultsMatrix, grid: AverageGrid, prunable: PrunableCell) -> str:
    margin, outcome = margin_in_words(matrix), matrix.outcome
    if prunable.verdict == INCONCLUSIVE:
        return f"**Inconclusive for heads and FFNs together {at(shots)}.** {by(outcome)}, {prunable.reason}."
    share, cell = _share(grid, prunable), prunable.cell or prunable.estimate or (0, 0)
    if prunable.verdict == ESTIMATE_ONLY:
        return (
            f"**Estimate only for heads and FFNs together {at(shots)}.** {by(outcome)}, observed losses stay within "
            f"{margin} (up to {_percents(grid, cell)}, {size(grid.removed[cell])} parameters), but no test can confirm "
            f"it: {prunable.reason}."
        )
    if cell == (0, 0):
        return (
            f"**No tested share of heads and FFNs can be pruned together {at(shots)}.** {by(outcome)}, no test shows a "
            f"loss within {margin} (95% confidence)."
        )
    return (
        f"**{share} can be pruned together {at(shots)}.** {by(outcome)}, this cell removes the most parameters "
        f"({size(grid.removed[cell])}) of those shown to lose no more than {margin}; it loses "
        f"{loss_at(grid, cell, outcome)}."
    )


def _share(grid: AverageGrid, prunable: PrunableCell) -> str:
    """The cell in words, or why there is none."""
    if prunable.cell is None:
        return prunable.verdict
    return _percents(grid, prunable.cell) if prunable.cell != (0, 0) else "no tested share"


def _percents(grid: AverageGrid, cell: tuple[int, int]) -> str:
    return f"{grid.heads[cell[0]]}% of heads and {grid.ffns[cell[1]]}% of FFNs"


def selection_note(matrix: ResultsMatrix, by_shots: Mapping[int, Sequence[Judge]]) -> Iterator[str]:
    """Whether the evaluation questions also ranked the FFNs, and the gain from that."""
    record = provenance(matrix.path("ffn_importance", matrix.shots[0], task=matrix.tasks[0]))
    if matrix.selection_bias:
        yield from (selection_bias_sentence(judges, shots) for shots, judges in by_shots.items())
    if selection_of(record) == "evaluation":
        bias = "the lines above give its size" if matrix.selection_bias else "the study does not measure its size"
        yield ""
        note = "As in the paper, the evaluation questions also rank the FFNs, so accuracies include a selection bias"
        yield f"{note}: {bias}."


def selection_bias_sentence(judges: Sequence[Judge], shots: int) -> str:
    """What a ranking of FFNs gains from the documents that evaluate it, by the sharpest outcome first."""
    matrix, *others = (judge.matrix for judge in judges)
    row, outcome = _average_bias(matrix, shots), matrix.outcome
    effect = "improves" if row.difference.low > 0 else "worsens" if row.difference.high < 0 else ""
    title = OUTCOMES[outcome].title
    in_short = (
        f" {by(other.outcome)}: {loss_in_words(_average_bias(other, shots).difference, other.outcome)}."
        for other in others
    )
    return (
        f"- **Ranking FFNs on the evaluation documents {effect or 'does not significantly change'} {title} "
        f"{at(shots)}.** The selection bias is {loss_in_words(row.difference, outcome)}: {title} averages "
        f"{score_in_words(row.evaluation.value, outcome)} under this ranking and "
        f"{score_in_words(row.scoring.value, outcome)} under that of the scoring documents, over "
        f"{count(len(matrix.tasks), 'task')} and {count(row.n_levels, 'level')}.{''.join(in_short)}"
    )


def _average_bias(matrix: ResultsMatrix, shots: int) -> SelectionBias:
    return next(row for row in measure_selection_bias(matrix, shots) if row.task == AVERAGE and row.percent is None)
