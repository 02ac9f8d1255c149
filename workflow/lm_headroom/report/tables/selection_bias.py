"""The selection bias of curves that are measured on the questions which ranked their FFNs.

FFNs are ranked by the evaluation documents and by the scoring documents; both curves are measured on the evaluation
documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lm_headroom.analysis.bootstrap import interval, resample
from lm_headroom.analysis.correlation import srcc
from lm_headroom.analysis.outcomes import OUTCOMES, in_title
from lm_headroom.analysis.ranking import rank_ffns
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE, selection_of
from lm_headroom.artifacts.ffn_selection import FFN_SELECTION
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import ArtifactError, ArtifactSchema, made_by, read, reads
from lm_headroom.errors import HeadroomError
from lm_headroom.report.pages import write_table
from lm_headroom.report.tables.by_outcome import notes_on, unit_of, value_of
from lm_headroom.results.curves import answers, pruning_levels, read_curve
from lm_headroom.results.estimates import Estimate, estimates
from lm_headroom.results.matrix import AVERAGE, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.choices import ACCURACY, Outcome
from lm_headroom.study.ranking_names import OTHER_DOCUMENTS

Array = np.ndarray[Any, np.dtype[np.float64]]
COLUMNS = (
    *("task", "shots", "percent", "questions", "ranked by evaluation", "ranked by scoring"),
    *("selection bias", "low", "high", "SRCC"),
    *("least FFN lost where ranked", "least FFN lost apart", "least FFN selection bias"),
    *("least FFN low", "least FFN high"),
    *("outcome", "unit"),
)
NOTES = (
    "{Outcome} on the evaluation documents with FFNs pruned, ranked by the evaluation documents themselves (the "
    "paper's way) and by the scoring documents, which are apart. Selection bias: the former minus the latter, with its "
    "paired 95% bootstrap interval over questions, positive where the first ranking looks better. It includes the gain "
    "of the first ranking from having seen the evaluation questions, and whatever else makes it better or worse, such "
    "as a larger number of documents. `mean` is over all levels that prune an FFN.",
    "SRCC: between the two vectors of FFN scores. The least FFN is the one that the evaluation documents rank least "
    "important: {outcome} lost without it there, where it is the least of many noisy numbers, and on the scoring "
    "documents; the difference has an interval of two independent samples.",
)


@dataclass(frozen=True)
class Least:
    """Outcome lost without the FFN that the evaluation documents rank least important.

    Attributes:
        selected: on the evaluation documents, by question.
        apart: on the scoring documents, by question.
    """

    selected: Array
    apart: Array


@dataclass(frozen=True)
class Selections:
    """One task and number of shots under both rankings.

    Attributes:
        percents: levels that prune an FFN.
        scores: of the outcome under the ranking by evaluation documents, under that by scoring documents, and the
            difference; per level, then as the mean over levels; [level, 3, question].
        srcc: between the two score vectors; NaN where one is constant.
        least: the FFN that would be pruned first; None where knockouts do not keep the outcome.
    """

    percents: list[int]
    scores: Array
    srcc: float
    least: Least | None


@dataclass(frozen=True)
class SelectionBias:
    """A row of the table: one level, or the mean over levels, of a task or the average over tasks.

    Attributes:
        task: or ``average``.
        shots: few-shot examples.
        percent: None for the mean over levels.
        n_levels: how many levels that is a mean over, or 1.
        n_questions: of the task, or of all.
        evaluation, scoring: the outcome's score, ranked by these documents.
        difference: the former minus the latter.
        srcc: between the score vectors, of the mean over levels; averaged over tasks.
        least: outcome lost without the least FFN where it was ranked, apart, and their difference; likewise.
    """

    task: str
    shots: int
    percent: int | None
    n_levels: int
    n_questions: int
    evaluation: Estimate
    scoring: Estimate
    difference: Estimate
    srcc: float | None = None
    least: tuple[float, float, Estimate] | None = None


def read_selections(matrix: ResultsMatrix, shots: int, task: str) -> Selections:
    """Both rankings of one task.

    Raises:
        HeadroomError: the curves differ in levels or questions, both rankings are by the same documents, or scores are
            without outcomes.
    """
    paths = [matrix.curve(task, shots, ranking, "ffns") for ranking in ("own", OTHER_DOCUMENTS)]
    curves = [read_curve(path, matrix.outcome, **matrix.expected(shots, task, path.stem)) for path in paths]
    if curves[0].percent != curves[1].percent or curves[0].questions != curves[1].questions:
        raise HeadroomError(f"{paths[0]} and {paths[1]} have different levels or questions; delete both and run again")
    kinds: dict[str, ArtifactSchema] = {"ffn_importance": FFN_IMPORTANCE, "ffn_selection": FFN_SELECTION}
    tables = {}
    for (step, kind), curve in zip(kinds.items(), curves, strict=True):
        path = matrix.path(step, shots, task=task)
        table = read(path, kind, **matrix.expected(shots, task))
        tables[str(selection_of(made_by(table)))] = path, table, curve
    if set(tables) != {"evaluation", "scoring"}:
        raise HeadroomError(
            f"{matrix.path('ffn_selection', shots, task=task)}: expected FFNs ranked by the evaluation and by the "
            f"scoring documents, found {' and '.join(sorted(tables))}; delete the file and run the workflow again"
        )
    (path, evaluation, first), (other_path, scoring, second) = tables["evaluation"], tables["scoring"]
    kept = pruning_levels(first)
    if not kept:
        raise HeadroomError(f"{first.path}: no level prunes an FFN; give larger ones in pruning.levels")
    pair = np.stack([first.scores[kept], second.scores[kept]], axis=1)
    pair = np.concatenate([pair, pair.mean(axis=0, keepdims=True)])
    scores = np.concatenate([pair, pair[:, :1] - pair[:, 1:]], axis=1)
    ffn_scores = [layers(table, "score") for table in (evaluation, scoring)]
    layer = rank_ffns(ffn_scores[0])[0]
    lost = partial(_lost, matrix.outcome, layer)
    # Knockouts keep log-likelihoods without the number of characters.
    least = None if matrix.outcome == "accuracy_norm" else Least(lost(path, evaluation), lost(other_path, scoring))
    return Selections([first.percent[i] for i in kept], scores, srcc(*ffn_scores)[0], least)


def _lost(outcome: Outcome, layer: int, path: Path, table: pa.Table) -> Array:
    """Outcome lost without an FFN by question; of accuracy 1, 0 or -1."""
    row = table.slice(table.column("layer").to_pylist().index(layer), 1)
    right = [row.column(name)[0].as_py() for name in ("correct_dense", "correct_ablated")]
    if None in right:
        raise ArtifactError(f"{path}: no outcomes by question; delete the file and run the workflow again")
    if outcome == ACCURACY:
        dense, ablated = np.array(right, dtype=float)
    else:
        dense, ablated = (answers(row, path, outcome, name)[0] for name in ("log_likelihoods_dense", "log_likelihoods"))
    lost: Array = dense - ablated
    return lost


def measure_selection_bias(matrix: ResultsMatrix, shots: int) -> list[SelectionBias]:
    """Rows of one number of shots: levels and their mean, of the average over tasks and then of each task.

    Raises:
        HeadroomError: see :func:`read_selections`; or tasks have different levels.
    """
    tasks = {task: read_selections(matrix, shots, task) for task in matrix.tasks}
    first, *others = tasks.values()
    if any(other.percents != first.percents for other in others):
        raise HeadroomError(f"{matrix.results}: tasks have FFN curves of different levels; run the study again")
    rows = []
    for group, members in {AVERAGE: list(tasks.values()), **{task: [one] for task, one in tasks.items()}}.items():
        n_questions = sum(one.scores.shape[-1] for one in members)
        for percent, row in zip([*first.percents, None], estimates([one.scores for one in members]), strict=True):
            mean = percent is None
            evaluation, scoring, difference = row
            rows.append(
                SelectionBias(
                    task=group,
                    shots=shots,
                    percent=percent,
                    n_levels=len(first.percents) if mean else 1,
                    n_questions=n_questions,
                    evaluation=evaluation,
                    scoring=scoring,
                    difference=difference,
                    srcc=float(np.mean([one.srcc for one in members])) if mean else None,
                    least=average_least([one.least for one in members if one.least]) if mean else None,
                )
            )
    return rows


def average_least(members: list[Least]) -> tuple[float, float, Estimate] | None:
    """Averages over tasks; the two sets of documents are independent samples, hence other draws for each."""
    if not members:
        return None
    selected, apart = ([getattr(one, name) for one in members] for name in ("selected", "apart"))
    values = [float(np.mean([lost.mean() for lost in losses])) for losses in (selected, apart)]
    limits = interval(resample(apart, seed=1) - resample(selected, seed=2))
    return values[0], values[1], Estimate(values[1] - values[0], float(limits.low), float(limits.high))


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        defining, left_out = restrict(matrix, component="ffns")
        biases = [row for shots in matrix.shots if defining.tasks for row in measure_selection_bias(defining, shots)]
    shown = partial(value_of, matrix.outcome)
    rows = [
        [
            *(b.task, b.shots, "mean" if b.percent is None else b.percent, b.n_questions),
            *(shown(b.evaluation.value), shown(b.scoring.value), *b.difference, "" if b.srcc is None else b.srcc),
            *((*b.least[:2], *b.least[2]) if b.least else [""] * 5),
            *(matrix.outcome, unit_of(matrix.outcome)),
        ]
        for b in biases
        if b.task in (*defining.averages, *defining.tasks)
    ]
    record = describe_drawn("table", "report.tables.selection_bias", sources, matrix.options, out)
    name = OUTCOMES[matrix.outcome].title
    notes = [note.format(Outcome=f"{name[:1].upper()}{name[1:]}", outcome=name) for note in NOTES]
    title = f"Selection bias of FFN rankings: {matrix.model}{in_title(matrix.outcome)}"
    write_table(out, title, COLUMNS, rows, record, [*notes, *notes_on(matrix, left_out)])
