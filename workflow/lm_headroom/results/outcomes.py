"""The tasks of a study that define the outcome it is judged by, and those that do not."""

from __future__ import annotations

from collections.abc import Iterable

from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import ArtifactSchema, read
from lm_headroom.results.curves import UndefinedOutcomeError, answers, per_question
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.choices import ACCURACY

OWN_HEADS = {"component": "heads", "ranking": "own"}
"""The curve that every evaluated task has."""


def restrict(
    matrix: ResultsMatrix, kind: ArtifactSchema = PRUNED_EVAL, **dimensions: str
) -> tuple[ResultsMatrix, tuple[str, ...]]:
    """The part of a study whose tasks define its outcome, and the names of those that are left out.

    Every task defines accuracy: for it nothing is read.

    Args:
        matrix: the tasks of which there is such an artifact are asked: all for curves of heads, the ``ablated`` ones
            for ablations of induction heads, else ``tasks``.
        kind: an artifact with answers, read at the first number of shots.
        dimensions: its dimensions besides task, shots and seed; of curves, those of :data:`OWN_HEADS` by default.

    Returns:
        the matrix, which may have no tasks, and the tasks left out, in order.

    Raises:
        ArtifactError: an artifact is missing, or not the one expected.

    Example:
        >>> from pathlib import Path
        >>> restrict(ResultsMatrix(Path("results/opt"), ("copa",), (0,)))[1]
        ()
    """
    if matrix.outcome == ACCURACY:
        return matrix, ()
    if kind is PRUNED_EVAL:
        dimensions = OWN_HEADS | dimensions
    lists = {name: getattr(matrix, name) for name in ("tasks", "unseen", "transfer", "ablated")}
    asked: Iterable[str] = matrix.ablated if kind is INDUCTION_ABLATION else matrix.tasks
    if dimensions.get("component") == "heads":
        asked = dict.fromkeys(task for tasks in lists.values() for task in tasks)
    left_out = tuple(task for task in asked if not _defines(matrix, task, kind, dimensions))
    kept = {name: tuple(task for task in tasks if task not in left_out) for name, tasks in lists.items()}
    return matrix.changed(**kept), left_out


def _defines(matrix: ResultsMatrix, task: str, kind: ArtifactSchema, dimensions: dict[str, str]) -> bool:
    """Whether a task defines the matrix's outcome."""
    shots = matrix.shots[0]
    path = matrix.path(kind.name, shots, task=task, **dimensions)
    table = read(path, kind, **matrix.expected(shots, task))
    try:
        if kind is FFN_IMPORTANCE:
            answers(table.slice(0, 1), path, matrix.outcome, "log_likelihoods")
        else:
            per_question(table.slice(0, 1), path, matrix.outcome)
    except UndefinedOutcomeError:
        return False
    return True
