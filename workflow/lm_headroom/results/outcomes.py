"""The tasks of a study that define the outcome it is judged by, and those that do not."""

from __future__ import annotations

from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import ArtifactSchema, read
from lm_headroom.results.curves import UndefinedOutcomeError, per_question
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
        matrix: all of its tasks are asked: ``tasks``, ``unseen``, ``transfer`` and ``ablated``.
        kind: an artifact with answers that each of these has, read at the first number of shots.
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
    lists = {name: getattr(matrix, name) for name in ("tasks", "unseen", "transfer", "ablated")}
    asked = dict.fromkeys(task for tasks in lists.values() for task in tasks)
    left_out = tuple(task for task in asked if not _defines(matrix, task, kind, dimensions))
    kept = {name: tuple(task for task in tasks if task not in left_out) for name, tasks in lists.items()}
    return matrix.changed(**kept), left_out


def _defines(matrix: ResultsMatrix, task: str, kind: ArtifactSchema, dimensions: dict[str, str]) -> bool:
    """Whether a task defines the matrix's outcome."""
    shots = matrix.shots[0]
    of_curves = OWN_HEADS if kind == PRUNED_EVAL else {}
    path = matrix.path(kind.name, shots, task=task, **(of_curves | dimensions))
    table = read(path, kind, **matrix.expected(shots, task))
    if kind == FFN_IMPORTANCE and matrix.outcome == "accuracy_norm":
        # Knockouts keep log-likelihoods without the number of characters.
        return False
    try:
        per_question(table.slice(0, 1), path, matrix.outcome)
    except UndefinedOutcomeError:
        return False
    return True
