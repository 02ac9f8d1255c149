"""Gradient scores and oracle outcomes of the same heads or FFNs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_headroom.analysis.correlation import key_value_groups
from lm_headroom.analysis.oracle_agreement import Gradient
from lm_headroom.analysis.outcomes import MEASURES
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE, metric_of, selection_of
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.head_oracle import HEAD_ORACLE
from lm_headroom.artifacts.heads import layers_of
from lm_headroom.artifacts.store import ArtifactError, read, read_artifact
from lm_headroom.results.curves import UndefinedOutcomeError, lost_by_question
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.scores import read_scores

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class OracleScores:
    """Heads or FFNs of one task and shot.

    Attributes:
        provenance: of the oracle's artifact.
        gradient: their gradient scores.
        outcomes: measure of the oracle to what was lost without each, [component, question]; of FFNs the one that
            ranks them.
        layers, heads: of heads, [component]; None for FFNs.
        rows: of the layers in arrays of scores, [component], which have none for layers without heads; likewise.
        blocks: numbers of their key-value groups, or of their layers where these are not grouped; likewise.
        sampled: whether they are a sample of the model's heads.
        same_documents: whether the gradient scores and the oracle's outcomes are of the same documents.
    """

    provenance: Mapping[str, Any]
    gradient: Gradient
    outcomes: dict[str, Array]
    layers: Array | None = None
    heads: Array | None = None
    rows: Array | None = None
    blocks: Array | None = None
    sampled: bool = False
    same_documents: bool = False


def read_ffns(matrix: ResultsMatrix, shots: int, task: str) -> OracleScores:
    """FFNs of a task.

    Raises:
        ArtifactError: an artifact is missing or another's, or they are of different numbers of layers.
    """
    path = matrix.path("ffn_gradient", shots, task=task)
    table = read(path, FFN_GRADIENT, **matrix.expected(shots, task))
    gradient = Gradient(*(layers(table, name) for name in ("score", "stderr", "score_even", "score_odd")))
    oracle = read_artifact(
        matrix.path("ffn_importance", shots, task=task), FFN_IMPORTANCE, **matrix.expected(shots, task)
    )
    rows = oracle.table.sort_by("layer")
    if len(rows) != len(gradient.score):
        raise ArtifactError(
            f"{path}: has {len(gradient.score)} layers, {oracle.path} has {len(rows)}; run the workflow again"
        )
    metric = metric_of(oracle.provenance)
    measure = next(name for name, outcome in MEASURES.items() if outcome == metric)
    outcomes = {measure: lost_by_question(rows, oracle.path, metric)}
    same_documents = selection_of(oracle.provenance) == "scoring"
    return OracleScores(oracle.provenance, gradient, outcomes, same_documents=same_documents)


def read_heads(matrix: ResultsMatrix, shots: int, task: str) -> OracleScores:
    """Heads of a task that the oracle removed; gold probabilities where the task defines them.

    Raises:
        ArtifactError: an artifact is missing or another's, or the oracle has heads that the scores have not.
    """
    oracle = read_artifact(matrix.path("head_oracle", shots, task=task), HEAD_ORACLE, **matrix.expected(shots, task))
    rows = oracle.table.sort_by([("layer", "ascending"), ("head", "ascending")])
    places = tuple(rows.column(name).to_numpy() for name in ("layer", "head"))
    scores = read_scores(matrix.path("head_importance", shots, task=task), **matrix.expected(shots, task))
    known = layers_of(scores.artifact.table)
    if not set(places[0].tolist()) <= set(known) or places[1].max() >= scores.score.shape[1]:
        raise ArtifactError(f"{oracle.path}: has heads that {scores.artifact.path} has not; run the workflow again")
    at = np.searchsorted(known, places[0]), places[1]
    gradient = Gradient(*(values[at] for values in (scores.score, scores.stderr, scores.even, scores.odd)))
    rises = np.array(rows.column("loss_rises").to_pylist(), dtype=float)
    outcomes = {
        "loss_rise": rises,
        # A gradient score has no sign: it says how much a question's loss changes, up or down.
        "loss_change": np.abs(rises),
        "accuracy_lost": lost_by_question(rows, oracle.path),
    }
    with suppress(UndefinedOutcomeError):
        outcomes["gold_probability_lost"] = lost_by_question(rows, oracle.path, "gold_probability")
    groups, n_heads = key_value_groups(scores.provenance), scores.score.shape[1]
    blocks = groups * places[0] + places[1] * groups // n_heads
    sampled = len(places[0]) < scores.score.size
    return OracleScores(oracle.provenance, gradient, outcomes, places[0], places[1], at[0], blocks, sampled)
