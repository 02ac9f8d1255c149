"""Step: oracle FFN importance of one task, shot and seed, the ranking it gives, and the curve under it (Figure 6).

One step, because the curve needs the ranking alone, and begins with an evaluation that the oracle has made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lm_headroom.analysis.ranking import ffn_columns, random_ffns, rank_ffns
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import FFN_RANKING
from lm_headroom.artifacts.store import ArtifactSchema, write
from lm_headroom.scoring import knockout
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_evaluation import prepare, prepare_documents
from lm_headroom.study.ranking_names import drawn_with

Selection = Literal["evaluation", "scoring"]
PURPOSES = {"evaluation": EVALUATION, "scoring": IMPORTANCE}


def run(
    out: Path,
    ranking: Path | None,
    curve: Path | None,
    model: Path,
    prompts: Path,
    selection: Selection,
    levels: Sequence[int],
    settings: Settings,
    kind: ArtifactSchema = FFN_IMPORTANCE,
    step: str = "steps.score_ffns",
    controls: Sequence[str] = (),
) -> None:
    """Write an FFN-importance artifact and, where asked for, its ranking, the curve under it, and control curves.

    Args:
        out, ranking, curve: the artifacts.
        model, prompts: what is evaluated.
        selection: which documents score: those of ``evaluation``, as the paper did, which makes curves under the
            ranking optimistic, or the ``scoring`` documents.
        levels: percents of FFNs of the curve, which is always measured on the evaluation documents.
        settings: how to run the model.
        kind: of ``out``, whose columns are those of an FFN-importance artifact.
        step: whose results these are.
        controls: orders whose curves are written as ``{name}.parquet`` beside ``curve``: ``reversed`` (the most
            important first), ``random_N`` (drawn with seed N).
    """
    purpose = PURPOSES[selection]
    prepared = prepare("ffn-importance", model, prompts, settings, purpose=purpose, keeps_layers=True)
    evaluation, loaded = prepared.evaluation, prepared.loaded
    prepared.expect(loaded.shape.layers)
    knockouts = knockout.knock_out_ffns(loaded, evaluation.batches, evaluation.progress, evaluation.cache)
    evaluation.keep_whole(knockouts.dense)
    columns = knockout.ffn_importance_columns(evaluation.documents, evaluation.choices, knockouts)
    options: dict[str, Any] = {"selection": selection, "add_bos": settings.add_bos}
    inputs = {"prompts": prepared.prompts.source}
    record = build_provenance(step, inputs, options, prepared.provenance)
    write(out, kind, columns, record, prepared.run_statistics)
    scores = np.array(columns["score"])
    order = rank_ffns(scores)
    if ranking:
        write(ranking, FFN_RANKING, ffn_columns(order, scores), record, prepared.run_statistics)
    if curve:
        evaluation.remember(knockouts.dense)
        for layer, ablated in enumerate(knockouts.ablated):
            evaluation.remember(ablated, ffns=[layer])
        judged = prepared
        if purpose != EVALUATION:
            judged = prepare_documents("ffn-importance", loaded, prepared.prompts, EVALUATION, settings)
        judged.expect(len(levels) * (1 + len(controls)))
        options = {**options, "levels": list(levels)}
        orders = {curve.stem: order} | {name: control_order(name, order) for name in controls}
        for name, layers in orders.items():
            record = build_provenance(step, inputs, options, {**prepared.provenance, "ranking": name})
            columns = judged.evaluation.ffn_curve(layers, levels)
            write(curve.with_stem(name), PRUNED_EVAL, columns, record, judged.run_statistics)


def control_order(name: str, own: Sequence[int]) -> list[int]:
    """The layers in the order in which a control ranking prunes their FFNs; ``own`` is the task's."""
    seed = drawn_with(name)
    return list(own[::-1]) if seed is None else random_ffns(len(own), seed)
