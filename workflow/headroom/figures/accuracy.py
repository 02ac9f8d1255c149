"""Accuracies of pruned models: curves, the joint grid, their averages over tasks, losses with paired errors.

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

from headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from headroom.artifacts.store import ArtifactError, read
from headroom.errors import HeadroomError
from headroom.figures.study import HIGHEST, LOWEST, Component, Study

Array = np.ndarray[Any, np.dtype[np.float64]]
NOISE = 2.0
"""A loss of up to this many standard errors is not told from noise here."""


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
    """Accuracy averaged over tasks and the loss against the whole model, with standard errors; each [level ...]."""

    accuracy: Array
    stderr: Array
    loss: Array
    loss_stderr: Array


@dataclass(frozen=True)
class AverageCurve(Average):
    """The same per percent pruned, with the parameters removed; each [level]."""

    removed: Array
    percent: list[int]


@dataclass(frozen=True)
class Prunable:
    """How much of a component can go by the stated rule, :func:`prunable`.

    Attributes:
        level: index of the largest level that can go; None where the data do not allow to say.
        at_least: no level that was evaluated loses more: the answer may be larger.
        reason: why the data do not allow to say; empty where they do.
    """

    level: int | None
    at_least: bool = False
    reason: str = ""


@dataclass(frozen=True)
class AverageGrid(Average):
    """The same per percent of heads and of FFNs, with the parameters removed; each [head level, FFN level]."""

    removed: Array
    heads: list[int]
    ffns: list[int]


def read_curve(path: Path, **expected: Any) -> Curve:
    """Read a pruned-evaluation artifact.

    Raises:
        ArtifactError: it is none or not the one expected (see :func:`headroom.artifacts.store.read`), has no level 0,
            or its levels were evaluated on different questions.
    """
    table = read(path, PRUNED_EVAL, **expected)
    percent = table.column("percent").to_pylist()
    if percent != sorted(set(percent)) or percent[:1] != [0]:
        raise ArtifactError(f"{path}: levels must ascend from 0, got {percent}; delete the file and run again")
    accuracy, stderr = (table.column(name).to_numpy() for name in ("accuracy", "stderr"))
    partner, correlation = (table.column(name)[0].as_py() for name in ("partner", "correlation"))
    removed, questions = table.column("parameters_removed").to_pylist(), table.column("doc_id")[0].as_py()
    return Curve(path, percent, removed, accuracy, stderr, _per_question(table, path), questions, partner, correlation)


def read_grid(path: Path, **expected: Any) -> Grid:
    """Read a joint-evaluation artifact.

    Raises:
        ArtifactError: it is none or not the one expected (see :func:`headroom.artifacts.store.read`), its cells are
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
    return Grid(heads, ffns, removed, accuracy, _per_question(table, path)[order].reshape(*shape, -1))


def study_curves(study: Study, shots: int, ranking: str = "own", component: Component = "heads") -> dict[str, Curve]:
    """Curves of the study's tasks under a ranking."""
    return {
        task: read_curve(study.curve(task, shots, ranking, component), **study.of(shots, task, ranking))
        for task in study.tasks
    }


def study_grids(study: Study, shots: int) -> list[Grid]:
    """Joint grids of the study's tasks."""
    return [read_grid(study.file("pruned_eval", shots, "joint", task), **study.of(shots, task)) for task in study.tasks]


def transfer_curves(study: Study, shots: int) -> dict[str, dict[str, Curve]]:
    """Curves per task and ranking, for tasks that are also evaluated under other rankings than their own.

    A transfer task has its own and the aggregate ranking and those of the tasks that correlate with it the most and the
    least; an unseen task the first two.
    """
    plain = ("own", "aggregate")
    rankings = dict.fromkeys(study.transfer, (*plain, HIGHEST, LOWEST)) | dict.fromkeys(study.unseen, plain)
    return {
        task: {name: read_curve(study.curve(task, shots, name), **study.of(shots, task, name)) for name in names}
        for task, names in rankings.items()
    }


def average(curves: Sequence[Curve]) -> AverageCurve:
    """Average over tasks.

    Raises:
        HeadroomError: the curves have different levels.
    """
    levels = {tuple(curve.percent) for curve in curves}
    if len(levels) > 1:
        raise HeadroomError(f"{curves[0].path} and others have different levels: {sorted(levels)}; run the study again")
    found = _average([curve.correct for curve in curves])
    removed = np.mean([curve.removed for curve in curves], axis=0)
    return AverageCurve(found.accuracy, found.stderr, found.loss, found.loss_stderr, removed, curves[0].percent)


def average_grid(grids: Sequence[Grid]) -> AverageGrid:
    """Average over tasks.

    Raises:
        HeadroomError: the grids have different levels.
    """
    if len({(*grid.heads, -1, *grid.ffns) for grid in grids}) > 1:
        raise HeadroomError("the tasks' joint grids have different levels; run the study again")
    shape = grids[0].accuracy.shape
    flat = _average([grid.correct.reshape(-1, grid.correct.shape[-1]) for grid in grids])
    return AverageGrid(
        accuracy=flat.accuracy.reshape(shape),
        stderr=flat.stderr.reshape(shape),
        loss=flat.loss.reshape(shape),
        loss_stderr=flat.loss_stderr.reshape(shape),
        removed=np.mean([grid.removed for grid in grids], axis=0),
        heads=grids[0].heads,
        ffns=grids[0].ffns,
    )


def flat_until(curve: AverageCurve) -> int:
    """Index of the largest level up to which no level loses more than ``NOISE`` paired standard errors."""
    return max(0, int(np.argmin([*_within_noise(curve), False])) - 1)


def prunable(curve: AverageCurve, guess: float) -> Prunable:
    """The rule for what can go: the largest level up to which no level's loss is told from noise (:func:`flat_until`).

    It says nothing where nothing could be lost: of a single question, of the whole model alone, or of a model that
    itself is not told from guessing, such as one before its training.

    Args:
        curve: the average over tasks.
        guess: accuracy of guessing, averaged over the same tasks.
    """
    if len(curve.percent) < 2:
        return Prunable(None, reason="no level above 0 was evaluated")
    if not np.isfinite([curve.stderr[0], *curve.loss_stderr]).all():
        return Prunable(None, reason="a task has one question alone, and no standard error")
    accuracy, error = curve.accuracy[0], curve.stderr[0]
    if accuracy - guess <= NOISE * error:
        whole = f"{accuracy:.2f} ± {error:.2f}"
        return Prunable(None, reason=f"the whole model's accuracy, {whole}, is not told from guessing, {guess:.2f}")
    level = flat_until(curve)
    return Prunable(level, at_least=level == len(curve.percent) - 1)


def best_cell(grid: AverageGrid) -> tuple[int, int]:
    """(head level, FFN level) that removes the most parameters without a loss beyond ``NOISE`` paired standard errors.

    As along a curve, no cell with as many or fewer heads and FFNs pruned may lose more either: of many cells some are
    lucky.
    """
    # True where everything up to and including the cell is within noise.
    flat = np.logical_and.accumulate(np.logical_and.accumulate(_within_noise(grid), axis=0), axis=1)
    head, ffn = np.unravel_index(int(np.argmax(np.where(flat, grid.removed, -1))), flat.shape)
    return int(head), int(ffn)


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


def _within_noise(average: Average) -> np.ndarray[Any, np.dtype[np.bool_]]:
    within: np.ndarray[Any, np.dtype[np.bool_]] = average.loss <= NOISE * average.loss_stderr
    return within


def _average(correct: Sequence[Array]) -> Average:
    """Average over tasks of [level, question] arrays whose first level is the whole model; each [level]."""
    lost = [outcomes[:1] - outcomes for outcomes in correct]
    accuracy, loss = (np.mean([values.mean(axis=1) for values in by], axis=0) for by in (correct, lost))
    errors = [
        np.sqrt(np.sum([values.var(axis=1, ddof=1) / values.shape[1] for values in by], axis=0)) / len(by)
        for by in (correct, lost)
    ]
    return Average(accuracy, errors[0], loss, errors[1])


def _per_question(table: pa.Table, path: Path) -> Array:
    """The lists of right and wrong answers, [row, question]."""
    lengths = set(table.column("doc_id").combine_chunks().value_lengths().to_pylist())
    questions, correct = (
        table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in ("doc_id", "correct")
    )
    rows = questions.reshape(table.num_rows, -1) if len(lengths) == 1 else questions
    if len(lengths) != 1 or (rows != rows[0]).any() or len(correct) != len(questions):
        raise ArtifactError(f"{path}: rows hold different questions; delete the file and run the workflow again")
    return correct.astype(float).reshape(rows.shape)
