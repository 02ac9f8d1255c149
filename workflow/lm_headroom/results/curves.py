"""Outcomes of pruned models: curves, the joint grid, their averages over tasks, losses, with errors and intervals.

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
from scipy.stats import t

from lm_headroom.analysis.bootstrap import LEVEL, Interval, interval, resample, wilson
from lm_headroom.analysis.metrics import mean_and_error
from lm_headroom.analysis.non_inferiority import are_right_or_wrong, loss_interval
from lm_headroom.analysis.outcomes import RIGHT_ANSWERS, answer_key_of, explain_undefined
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.store import ArtifactError, read
from lm_headroom.errors import HeadroomError
from lm_headroom.results.matrix import ONE_PARTNER, Component, ResultsMatrix
from lm_headroom.study.choices import ACCURACY, Outcome
from lm_headroom.study.ranking_names import HIGHEST, LOWEST

Array = np.ndarray[Any, np.dtype[np.float64]]


class UndefinedOutcomeError(HeadroomError):
    """A task does not define an outcome."""


@dataclass(frozen=True)
class Curve:
    """One task's outcome against percent pruned; scores are higher where the model is better.

    Attributes:
        path: the artifact.
        percent: levels, ascending from 0.
        removed: parameters removed, per level.
        mean, stderr: of the scores, [level].
        scores: of the outcome; for accuracy 1 where a question is answered right, else 0; [level, question].
        whole_right: 1 where the whole model answers a question right, else 0; [question].
        questions: their doc_ids.
        partner, correlation: whose ranking this is, and its correlation with the task's; None outside transfer.
    """

    path: Path
    percent: list[int]
    removed: list[int]
    mean: Array
    stderr: Array
    scores: Array
    whole_right: Array
    questions: list[int]
    partner: str | None
    correlation: float | None


@dataclass(frozen=True)
class Grid:
    """One task's outcome over percents of heads and FFNs pruned together.

    Attributes:
        heads, ffns: percents, ascending from 0.
        removed: parameters removed; [head level, FFN level].
        mean: of the scores, [head level, FFN level].
        scores: [head level, FFN level, question].
        whole_right: as a curve's.
    """

    heads: list[int]
    ffns: list[int]
    removed: Array
    mean: Array
    scores: Array
    whole_right: Array


@dataclass(frozen=True)
class Average:
    """An outcome averaged over tasks and the loss against the whole model; each [level ...].

    Attributes:
        mean, stderr: with standard errors over questions.
        loss, loss_stderr: the same of what is lost, questions paired.
        band, loss_interval: 95% limits of both: from a bootstrap over questions within tasks; those of the loss of a
            score that is no mere right or wrong from its test.
        scores: per task, [level ..., question].
        whole_right: per task, as a curve's.
    """

    mean: Array
    stderr: Array
    loss: Array
    loss_stderr: Array
    band: Interval
    loss_interval: Interval
    scores: list[Array]
    whole_right: list[Array]

    @property
    def questions(self) -> int:
        """Over all tasks."""
        return sum(outcomes.shape[-1] for outcomes in self.scores)

    @property
    def accuracy(self) -> float:
        """Of the whole model, whatever the outcome."""
        return float(np.mean([right.mean() for right in self.whole_right]))

    @property
    def accuracy_stderr(self) -> float:
        """Its standard error over questions."""
        variances = [right.var(ddof=1) / len(right) for right in self.whole_right]
        return float(np.sqrt(np.sum(variances)) / len(variances))


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


def pruning_levels(curve: Curve | AverageCurve) -> list[int]:
    """Places of the levels that prune anything: of few components, a small percent is none."""
    return [place for place, removed in enumerate(curve.removed) if removed]


def read_curve(path: Path, outcome: Outcome = ACCURACY, **expected: Any) -> Curve:
    """Read a pruned-evaluation artifact.

    Args:
        path: the artifact.
        outcome: whose scores are read.
        expected: see :func:`lm_headroom.artifacts.store.read`.

    Raises:
        ArtifactError: it is none or not the one expected (see :func:`lm_headroom.artifacts.store.read`), has no level
            0, or its levels were evaluated on different questions.
    """
    table = read(path, PRUNED_EVAL, **expected)
    percent = table.column("percent").to_pylist()
    if percent != sorted(set(percent)) or percent[:1] != [0]:
        raise ArtifactError(f"{path}: levels must ascend from 0, got {percent}; delete the file and run again")
    scores = per_question(table, path, outcome)
    mean, stderr = np.transpose([mean_and_error(level) for level in scores])
    partner, correlation = (table.column(name)[0].as_py() for name in ("partner", "correlation"))
    removed, questions = table.column("parameters_removed").to_pylist(), table.column("doc_id")[0].as_py()
    right = per_question(table.slice(0, 1), path)[0]
    return Curve(path, percent, removed, mean, stderr, scores, right, questions, partner, correlation)


def read_grid(path: Path, outcome: Outcome = ACCURACY, **expected: Any) -> Grid:
    """Read a joint-evaluation artifact.

    Args:
        path: the artifact.
        outcome: whose scores are read.
        expected: see :func:`lm_headroom.artifacts.store.read`.

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
    removed = table.column("parameters_removed").to_numpy()[order].reshape(shape)
    scores = per_question(table, path, outcome)[order].reshape(*shape, -1)
    right = per_question(table.slice(order[0], 1), path)[0]
    return Grid(heads, ffns, removed, scores.mean(axis=-1), scores, right)


def study_curves(
    matrix: ResultsMatrix, shots: int, ranking: str = "own", component: Component = "heads"
) -> dict[str, Curve]:
    """Curves of the study's tasks under a ranking."""
    return {
        task: read_curve(
            matrix.curve(task, shots, ranking, component), matrix.outcome, **matrix.expected(shots, task, ranking)
        )
        for task in matrix.tasks
    }


def study_grids(matrix: ResultsMatrix, shots: int) -> list[Grid]:
    """Joint grids of the study's tasks."""
    return [
        read_grid(matrix.path("joint_eval", shots, task=task), matrix.outcome, **matrix.expected(shots, task))
        for task in matrix.tasks
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
            {
                name: read_curve(matrix.curve(task, shots, name), matrix.outcome, **matrix.expected(shots, task, name))
                for name in names
            }
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
    averaged = _average(curves)
    return AverageCurve(**vars(averaged), removed=removed, percent=curves[0].percent)


def average_grid(grids: Sequence[Grid]) -> AverageGrid:
    """Average over tasks.

    Raises:
        HeadroomError: the grids have different levels.
    """
    if len({(*grid.heads, -1, *grid.ffns) for grid in grids}) > 1:
        raise HeadroomError("the tasks' joint grids have different levels; run the study again")
    averaged = _average(grids)
    removed = np.mean([grid.removed for grid in grids], axis=0)
    return AverageGrid(**vars(averaged), removed=removed, heads=grids[0].heads, ffns=grids[0].ffns)


def band(curve: Curve) -> Interval:
    """95% limits of one task's mean score, each [level]: Wilson's of right answers, Student's of other outcomes."""
    if are_right_or_wrong([curve.scores]):
        return Interval(*np.transpose([wilson(int(right.sum()), len(right)) for right in curve.scores]))
    half = t.ppf((1 + LEVEL) / 2, len(curve.questions) - 1) * curve.stderr
    return Interval(curve.mean - half, curve.mean + half)


def difference(curve: Curve, other: Curve, levels: Sequence[int]) -> tuple[float, float]:
    """How much better ``other`` is on average over ``levels``, and the standard error, questions paired.

    Raises:
        ArtifactError: the two were evaluated on different questions.
    """
    if curve.questions != other.questions:
        raise ArtifactError(f"{curve.path} and {other.path} hold different questions; delete both and run again")
    gained = over_levels(other, levels) - over_levels(curve, levels)
    return float(gained.mean()), float(gained.std(ddof=1) / np.sqrt(len(gained)))


def over_levels(curve: Curve, levels: Sequence[int]) -> Array:
    """Mean score of each question over ``levels``, [question]: for accuracy, the share at which it is right."""
    means: Array = curve.scores[[curve.percent.index(percent) for percent in levels]].mean(axis=0)
    return means


def _average(members: Sequence[Curve] | Sequence[Grid]) -> Average:
    """Average over tasks of curves or grids, whose first level or cell is the whole model; each [level ...]."""
    scores = [member.scores for member in members]
    whole = [of_task.reshape(-1, of_task.shape[-1])[0] for of_task in scores]
    lost = [before - after for before, after in zip(whole, scores, strict=True)]
    mean, loss = (np.mean([values.mean(axis=-1) for values in by], axis=0) for by in (scores, lost))
    errors = [
        np.sqrt(np.sum([values.var(axis=-1, ddof=1) / values.shape[-1] for values in by], axis=0)) / len(by)
        for by in (scores, lost)
    ]
    samples = resample(scores)
    first = samples.reshape(len(samples), -1)[:, 0].reshape(-1, *[1] * loss.ndim)
    # Few questions that lose much are missing from most resamples: no bootstrap of losses that are no mere 0 or 1.
    binary = are_right_or_wrong(scores)
    loss_limits = interval(first - samples) if binary else loss_interval(whole, scores)
    limits = interval(samples), loss_limits
    right = [member.whole_right for member in members]
    return Average(mean, errors[0], loss, errors[1], *limits, scores, right)


def per_question(table: pa.Table, path: Path, outcome: Outcome = ACCURACY) -> Array:
    """Scores of an evaluation's rows by question, [row, question]; higher is better.

    Args:
        table: rows with the columns :data:`lm_headroom.artifacts.pruned_eval.EVALUATED`.
        path: where they are from.
        outcome: of which scores.

    Raises:
        ArtifactError: the rows are of different questions.
        HeadroomError: the task does not define the outcome.
    """
    questions = _same_in_all(table, path, "doc_id")
    if outcome in RIGHT_ANSWERS:
        column = table.column("correct" if outcome == ACCURACY else "correct_norm").combine_chunks()
        if column.null_count:
            raise UndefinedOutcomeError(f"{path}: {explain_undefined(outcome)}")
        right = column.flatten().to_numpy(zero_copy_only=False)
        if len(right) != table.num_rows * len(questions):
            raise ArtifactError(f"{path}: rows hold different questions; delete the file and run the workflow again")
        scores: Array = right.astype(float).reshape(table.num_rows, -1)
        return scores
    return answers(table, path, outcome, "log_likelihoods")


def answers(table: pa.Table, path: Path, outcome: Outcome, column: str) -> Array:
    """Scores of an outcome that follows from a column of log-likelihoods; see :func:`per_question`."""
    names = ("document_question", "gold", "n_bytes", "n_tokens")
    key = answer_key_of({name: _same_in_all(table, path, name) for name in names})
    if outcome in RIGHT_ANSWERS or not key.defines(outcome):
        raise UndefinedOutcomeError(f"{path}: {explain_undefined(outcome)}")
    values = table.column(column).combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
    if len(values) != table.num_rows * len(key.gold):
        raise ArtifactError(f"{path}: rows hold different choices; delete the file and run the workflow again")
    return key.scores(outcome, values.reshape(table.num_rows, -1))


def lost_by_question(table: pa.Table, path: Path, outcome: Outcome = ACCURACY) -> Array:
    """What knockouts lose of an outcome by question, [row, question]; above 0 where the model is worse.

    Args:
        table: rows with right answers and log-likelihoods of the whole model and without a component each.
        path: where they are from.
        outcome: of which losses.

    Raises:
        ArtifactError: the rows are an aggregate's, or of different questions.
        UndefinedOutcomeError: the task does not define the outcome.
    """
    if table.column("doc_id").null_count:
        raise ArtifactError(f"{path}: does not say which questions were answered right; delete it and run again")
    if outcome == ACCURACY:
        right = (table.column(name).to_pylist() for name in ("correct_dense", "correct_ablated"))
        dense, ablated = (np.array(values, dtype=float) for values in right)
    else:
        dense, ablated = (answers(table, path, outcome, name) for name in ("log_likelihoods_dense", "log_likelihoods"))
    lost: Array = dense - ablated
    return lost


def _same_in_all(table: pa.Table, path: Path, name: str) -> list[Any]:
    """The list that a column holds in each row.

    Raises:
        ArtifactError: rows hold different ones.
    """
    column = table.column(name).combine_chunks()
    if not all(column.slice(row, 1).equals(column.slice(0, 1)) for row in range(1, len(column))):
        raise ArtifactError(f"{path}: rows hold different questions; delete the file and run the workflow again")
    first: list[Any] = column[0].as_py()
    return first
