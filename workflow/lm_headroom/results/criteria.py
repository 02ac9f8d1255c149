"""Scores of a task's heads and FFNs by each criterion, and first-order estimates beside the true rise of the loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_headroom.analysis.outcomes import MEASURES
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.heads import computed
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.store import ArtifactError, read, read_artifact
from lm_headroom.results.curves import UndefinedOutcomeError, lost_by_question
from lm_headroom.results.matrix import Component, ResultsMatrix
from lm_headroom.results.oracle import read_heads
from lm_headroom.results.scores import read_scores
from lm_headroom.study.choices import ACCURACY
from lm_headroom.study.criteria import CRITERIA, FFNS, criterion_columns
from lm_headroom.study.ranking_names import ORACLES

Array = np.ndarray[Any, np.dtype[np.float64]]
ESTIMATE = "loss_rise"
"""The criterion that estimates the rise of the loss, to first order."""


def read_criteria(matrix: ResultsMatrix, shots: int, component: Component, task: str) -> dict[str, Array]:
    """Criterion to a task's scores, each [layer, head], of FFNs [layer, 1].

    The oracles are among them where the task defines their outcome; of heads, where each head was removed.

    Raises:
        ArtifactError: an artifact is missing or another's.
    """
    if component == "heads":
        path = matrix.path("head_importance", shots, task=task)
        columns = dict(read_scores(path, **matrix.expected(shots, task)).others)
        return columns | (_head_oracles(matrix, shots, task) if task in _oracle_tasks(matrix) else {})
    table = read(matrix.path("ffn_gradient", shots, task=task), FFN_GRADIENT, **matrix.expected(shots, task))
    columns = {name: layers(table, name)[:, None] for name in computed(table, criterion_columns(FFNS))}
    oracle = read_artifact(
        matrix.path("ffn_importance", shots, task=task), FFN_IMPORTANCE, **matrix.expected(shots, task)
    )
    rows = oracle.table.sort_by("layer")
    for name in ORACLES:
        with suppress(UndefinedOutcomeError):
            lost = lost_by_question(rows, oracle.path, CRITERIA[name].knockout or ACCURACY)
            columns[name] = lost.mean(axis=1, keepdims=True)
    return columns


def _oracle_tasks(matrix: ResultsMatrix) -> list[str]:
    """Tasks whose heads an oracle removed one at a time."""
    rows = read(matrix.path("oracle_agreement"), ORACLE_AGREEMENT, **matrix.expected()).to_pylist()
    return list(dict.fromkeys(row["task"] for row in rows if row["component"] == "heads"))


def _head_oracles(matrix: ResultsMatrix, shots: int, task: str) -> dict[str, Array]:
    """Oracle to its scores, [layer, head]; nothing of a sample of the heads."""
    heads = read_heads(matrix, shots, task)
    if heads.sampled:
        return {}
    by_outcome = {MEASURES[measure]: lost for measure, lost in heads.outcomes.items() if measure in MEASURES}
    losts = {name: by_outcome.get(CRITERIA[name].knockout or ACCURACY) for name in ORACLES}
    assert heads.layers is not None
    n_layers = len(np.unique(heads.layers))
    return {name: lost.mean(axis=1).reshape(n_layers, -1) for name, lost in losts.items() if lost is not None}


@dataclass(frozen=True)
class Estimates:
    """First-order estimates of what the loss rises by without each head, or FFN, and what it does rise by.

    Attributes:
        component, task, shots: what of.
        estimate: from gradients on the scoring documents, nats, [component].
        rise: measured without each alone, nats, [component]; ``error`` is its standard error over questions.
        layers: of each, from 0.
    """

    component: Component
    task: str
    shots: int
    estimate: Array
    rise: Array
    error: Array
    layers: Array


def read_estimates(matrix: ResultsMatrix, shots: int) -> Iterator[Estimates]:
    """Estimates of each task's FFNs, and of the heads that an oracle removed one at a time.

    Raises:
        ArtifactError: an artifact is missing or another's.
    """
    for task in _oracle_tasks(matrix):
        heads = read_heads(matrix, shots, task)
        assert heads.layers is not None
        assert heads.heads is not None
        scores = read_criteria(matrix, shots, "heads", task)[ESTIMATE]
        # Heads of all layers have scores, those of the oracle's sample may not be of all.
        places = (heads.rows, heads.heads)
        yield _estimates("heads", task, shots, scores[places], heads.outcomes["loss_rise"], heads.layers)
    for task in matrix.tasks:
        path = matrix.path("ffn_importance", shots, task=task)
        oracle = read_artifact(path, FFN_IMPORTANCE, **matrix.expected(shots, task))
        rows = oracle.table.sort_by("layer")
        estimate = read_criteria(matrix, shots, "ffns", task)[ESTIMATE][:, 0]
        if len(rows) != len(estimate):
            raise ArtifactError(
                f"{path}: has {len(rows)} layers, the gradient scores have {len(estimate)}; run the workflow again"
            )
        rises = lost_by_question(rows, path, "loss")
        yield _estimates("ffns", task, shots, estimate, rises, np.arange(len(estimate)))


def _estimates(
    component: Component, task: str, shots: int, estimate: Array, rises: Array, layers_: np.ndarray[Any, Any]
) -> Estimates:
    error = rises.std(axis=1, ddof=1) / np.sqrt(rises.shape[1])
    return Estimates(component, task, shots, estimate, rises.mean(axis=1), error, layers_)
