"""Step: oracle FFN importance of one task, shot and seed, and the ranking it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from headroom import oracle
from headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from headroom.artifacts.prompts import EVALUATION, IMPORTANCE
from headroom.artifacts.ranking import FFN_RANKING
from headroom.artifacts.store import write
from headroom.provenance import describe
from headroom.ranking import ffn_columns, rank_ffns
from headroom.settings import Settings
from headroom.steps.prepare_evaluation import prepare

Selection = Literal["evaluation", "scoring"]
PURPOSES = {"evaluation": EVALUATION, "scoring": IMPORTANCE}


def run(out: Path, ranking: Path | None, model: Path, prompts: Path, selection: Selection, settings: Settings) -> None:
    """Write an FFN-importance artifact and, where asked for, its ranking.

    Args:
        out, ranking: the artifacts.
        model, prompts: what is evaluated.
        selection: which documents: those of ``evaluation``, as the paper did, which makes curves under the ranking
            optimistic, or the ``scoring`` documents.
        settings: how to run the model.
    """
    prepared = prepare("ffn-importance", model, prompts, settings, 0, PURPOSES[selection])
    evaluation, loaded = prepared.evaluation, prepared.loaded
    if evaluation.progress:
        evaluation.progress.total = len(evaluation.documents) * loaded.shape.layers
    found = oracle.knock_out_ffns(loaded, evaluation.batches, evaluation.n_rows, evaluation.progress)
    columns = oracle.importance(evaluation.documents, evaluation.choices, found)
    options = {"selection": selection, "add_bos": settings.add_bos}
    record = describe("steps.score_ffns", {"prompts": prompts}, options, prepared.facts)
    write(out, FFN_IMPORTANCE, columns, record)
    if ranking:
        scores = np.array(columns["score"])
        write(ranking, FFN_RANKING, ffn_columns(rank_ffns(scores), scores), record)
