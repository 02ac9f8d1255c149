"""Scores of all heads by the oracle: what an outcome loses without each head alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from lm_headroom.analysis.outcomes import answer_key_of, explain_undefined
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.store import ArtifactFile
from lm_headroom.errors import HeadroomError
from lm_headroom.study.choices import ACCURACY, KnockoutOutcome

Array = np.ndarray[Any, np.dtype[np.float64]]


def oracle_scores(oracle: ArtifactFile, outcome: KnockoutOutcome, shape: tuple[int, int]) -> Array:
    """The mean over questions of what an outcome loses without each head, [layer, head].

    Args:
        oracle: a head-oracle artifact of all heads.
        outcome: what is lost.
        shape: layers of the model, and heads of each.

    Raises:
        HeadroomError: the artifact has a sample of the heads, or the task does not define the outcome.
    """
    rows = oracle.table.sort_by([("layer", "ascending"), ("head", "ascending")])
    if len(rows) != shape[0] * shape[1]:
        raise HeadroomError(
            f"{oracle.path}: has {len(rows)} of the model's {shape[0] * shape[1]} heads; ranking by the oracle needs "
            "all (config key head_oracle.heads)"
        )
    if outcome == ACCURACY:
        return grid(rows, "accuracy_lost")
    names = ("document_question", "gold", "n_bytes", "n_tokens")
    key = answer_key_of({name: rows.column(name)[0].as_py() for name in names})
    if not key.defines(outcome):
        raise HeadroomError(f"{oracle.path}: {explain_undefined(outcome)}")
    dense, ablated = (
        rows.column(name).combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
        for name in ("log_likelihoods_dense", "log_likelihoods")
    )
    lost: Array = (key.scores(outcome, dense) - key.scores(outcome, ablated)).mean(axis=1)
    return lost.reshape(shape)
