"""Accuracies of pruned models: curves, the joint grid, their averages over tasks, losses, with errors and intervals.

Errors over questions are of tasks sampled independently; a loss is measured on the same questions, so its error is that
of the paired difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lm_headroom.analysis.bootstrap import Interval, interval, resample, wilson
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.store import ArtifactError, read
from lm_headroom.errors import HeadroomError
from lm_headroom.results.matrix import ONE_PARTNER, Component, ResultsMatrix
from lm_headroom.study.ranking_names import HIGHEST, LOWEST

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Curve:
    """One task's accuracy against percent pruned.

    Attributes:
        path: the artifact.
        percent: levels, ascending from 0.
        removed: parameters removed, per level.
        accuracy, stderr: [level].
        correct: 1 where a question is answered right, else 0; [level, question].
        questions: their doc_ids.
        partner, correlation: whose ranking this is, and its correlation with the task's; None outside transfer.
    """

    path: Path
    percent: list[int]
    removed: list[int]
    accuracy: Array
    stderr: Array
    correct: Array
    questions: list[int]
    partner: str | None
    correlation: float | None


@dataclass(frozen=True)
class Grid:
    """One task's accuracy over percents of heads and FFNs pruned together.

    Attributes:
        heads, ffns: percents, ascending from 0.
        removed: parameters removed; [head level, FFN level].
        accuracy: [head level, FFN level].
        correct: [head level, FFN level, question].
    """

    heads: list[int]
    ffns: list[int]
    removed: Array
    accuracy: Array
    correct: Array


@dataclass(frozen=True)
class Average:
    """Accuracy averaged over tasks and the loss against the whole model; each [level ...].

    Attributes:
        accuracy, stderr: with standard errors over questions.
        loss, loss_stderr: the same of what is lost, questions paired.
        band, loss_interval: 95% limits of both, from a bootstrap over questions within tasks.
        correct: per task, right (1) or wrong (0), [level ..., question].
    """

    accuracy: Array
    stderr: Array
    loss: Array
    loss_stderr: Array
    band: Interval
    loss_interval: Interval
    correct: list[Array]

    @property
    def questions(self) -> int:
        """Over all tasks."""
        return sum(outcomes.shape[-1] for outcomes in self.correct)


@dataclass(frozen=True)
class AverageCurve(Average):
    """The same per percent pruned, with the parameters removed; each [level]."""

    removed: Array
    percent: list[int]


@dataclass(frozen=True)
class AverageGrid(Average):
    """The same per percent of heads and of FFNs, with the parameters removed; each [head level, FFN level]."""

    removed: Array
    heads: list[int]
    ffns: list[int]


def read_curve(path: Path, **expected: Any) -> Curve:
    """Read a pruned-evaluation artifact.

    Raises:
        ArtifactError: it is none or not the one expected (see :func:`lm_headroom.artifacts.store.read`), has no level
            0, or its levels were evaluated on different questions.
    """
    table = read(path, PRUNED_EVAL, **expected)
    percent = table.column("percent").to_pylist()
    if percent != sorted(set(percent)) or percent[:1] != [0]:
        raise ArtifactError(f"{path}: levels must ascend from 0, got {percent}; delete the file and run again")
    accuracy, stderr = (table.column(name).to_numpy() for name in ("accuracy", "stderr"))
    partner, correlation = (table.column(name)[0].as_py() for name in ("partner", "correlation"))
    removed, questions = table.column("parameters_removed").to_pylist(), table.column("doc_id")[0].as_py()
    return Curve(path, percent, removed, accuracy, stderr, per_question(table, path), questions, partner, correlation)


def read_grid(path: Path, **expected: Any) -> Grid:
    """Read a joint-evaluation artifact.

    Raises:
        ArtifactError: it is none or not the one expected (see :func:`lm_headroom.artifacts.store.read`), its cells are
            not a grid from 0 and 0, or were evaluated on different questions.
    """
    table = read(path, JOINT_EVAL, **expected)
    cells = list(zip(*(table.column(name).to_pylist() for name in ("percent_heads", "percent_ffns")), strict=True))
    heads, ffns = (sorted(set(values)) for values in zip(*cells, strict=True)) if cells else ([], [])
    wanted = [(h, f) for h in heads for f in ffns]
    if sorted(cells) != wanted or wanted[:1] != [(0, 0)]:
        raise ArtifactError(f"{path}: cells must be a grid of percents from 0 and 0; delete the file and run again")
    order, shape = [cells.index(cell) for cell in wanted], (len(heads), len(ffns))
    removed, accuracy = (
        table.column(name).to_numpy()[order].reshape(shape) for name in ("parameters_removed", "accuracy")
    )
    return Grid(heads, ffns, removed, accuracy, per_question(table, path)[order].reshape(*shape, -1))


def study_curves(
    matrix: ResultsMatrix, shots: int, ranking: str = "own", component: Component = "heads"
) -> dict[str, Curve]:
    """Curves of the study's tasks under a ranking."""
    return {
        task: read_curve(matrix.curve(task, shots, ranking, component), **matrix.expected(shots, task, ranking))
        for task in matrix.tasks
    }


def study_grids(matrix: ResultsMatrix, shots: int) -> list[Grid]:
    """Joint grids of the study's tasks."""
    return [
        read_grid(matrix.path("joint_eval", shots, task=task), **matrix.expected(shots, task)) for task in matrix.tasks
    ]


def transfer_curves(matrix: ResultsMatrix, shots: int) -> dict[str, dict[str, Curve]]:
    """Curves per task and ranking, for tasks that are also evaluated under other rankings than their own.

    A transfer task has its own and the aggregate ranking and those of the tasks that correlate with it the most and the
    least, once where that is the same task; an unseen task the first two.
    """
    plain = ("own", "aggregate")
    rankings = dict.fromkeys(matrix.transfer, (*plain, HIGHEST, LOWEST)) | dict.fromkeys(matrix.unseen, plain)
    return {
        task: _partners_once(
            {name: read_curve(matrix.curve(task, shots, name), **matrix.expected(shots, task, name)) for name in names}
        )
        for task, names in rankings.items()
    }


def _partners_once(curves: dict[str, Curve]) -> dict[str, Curve]:
    """One curve instead of two where the same task correlates the most and the least."""
    if HIGHEST not in curves or curves[HIGHEST].partner != curves[LOWEST].partner:
        return curves
    return {ONE_PARTNER if name == HIGHEST else name: curve for name, curve in curves.items() if name != LOWEST}


def average(curves: Sequence[Curve]) -> AverageCurve:
    """Average over tasks.

    Raises:
        HeadroomError: the curves have different levels.
    """
    levels = {tuple(curve.percent) for curve in curves}
    if len(levels) > 1:
        raise HeadroomError(f"{curves[0].path} and others have different levels: {sorted(levels)}; run the study again")
    removed = np.mean([curve.removed for curve in curves], axis=0)
    averaged = _average([curve.correct for curve in curves])
    return AverageCurve(**vars(averaged), removed=removed, percent=curves[0].percent)


def average_grid(grids: Sequence[Grid]) -> AverageGrid:
    """Average over tasks.

    Raises:
        HeadroomError: the grids have different levels.
    """
    if len({(*grid.heads, -1, *grid.ffns) for grid in grids}) > 1:
        raise HeadroomError("the tasks' joint grids have different levels; run the study again")
    averaged = _average([grid.correct for grid in grids])
    removed = np.mean([grid.removed for grid in grids], axis=0)
    return AverageGrid(**vars(averaged), removed=removed, heads=grids[0].heads, ffns=grids[0].ffns)


def accuracy_band(curve: Curve) -> Interval:
    """95% limits of one task's accuracy, each [level]."""
    limits = [wilson(int(right.sum()), len(right)) for right in curve.correct]
    return Interval(*np.transpose(limits))


def difference(curve: Curve, other: Curve, levels: Sequence[int]) -> tuple[float, float]:
    """How much more accurate ``other`` is on average over ``levels``, and the standard error, questions paired.

    Raises:
        ArtifactError: the two were evaluated on different questions.
    """
    if curve.questions != other.questions:
        raise ArtifactError(f"{curve.path} and {other.path} hold different questions; delete both and run again")
    gained = over_levels(other, levels) - over_levels(curve, levels)
    return float(gained.mean()), float(gained.std(ddof=1) / np.sqrt(len(gained)))


def over_levels(curve: Curve, levels: Sequence[int]) -> Array:
    """Share of ``levels`` at which each question is answered right, [question]."""
    shares: Array = curve.correct[[curve.percent.index(percent) for percent in levels]].mean(axis=0)
    return shares


def _average(correct: Sequence[Array]) -> Average:
    """Average over tasks of [level ..., question] arrays whose first level is the whole model; each [level ...]."""
    # Of a curve the first row, of a grid the first cell.
    whole = [outcomes.reshape(-1, outcomes.shape[-1])[0] for outcomes in correct]
    lost = [before - outcomes for before, outcomes in zip(whole, correct, strict=True)]
    accuracy, loss = (np.mean([values.mean(axis=-1) for values in by], axis=0) for by in (correct, lost))
    errors = [
        np.sqrt(np.sum([values.var(axis=-1, ddof=1) / values.shape[-1] for values in by], axis=0)) / len(by)
        for by in (correct, lost)
    ]
    samples = resample(correct)
    first = samples.reshape(len(samples), -1)[:, 0].reshape(-1, *[1] * loss.ndim)
    return Average(accuracy, errors[0], loss, errors[1], interval(samples), interval(first - samples), list(correct))


def per_question(table: pa.Table, path: Path) -> Array:
    """The lists of right and wrong answers of an evaluation's rows, [row, question].

    Raises:
        ArtifactError: the rows are of different questions.
    """
    lengths = set(table.column("doc_id").combine_chunks().value_lengths().to_pylist())
    questions, correct = (
        table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in ("doc_id", "correct")
    )
    rows = questions.reshape(table.num_rows, -1) if len(lengths) == 1 else questions
    if len(lengths) != 1 or (rows != rows[0]).any() or len(correct) != len(questions):
        raise ArtifactError(f"{path}: rows hold different questions; delete the file and run the workflow again")
    return correct.astype(float).reshape(rows.shape)
