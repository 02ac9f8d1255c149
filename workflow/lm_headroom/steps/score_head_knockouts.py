"""Step: the head oracle of one task, shot and seed: what is lost without each head, or each of a sample, alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lm_headroom.artifacts.head_oracle import HEAD_ORACLE
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.options import EvaluationSettings, HeadCount, OutFile, StudyKey, recorded_options


def score_head_knockouts(
    *,
    settings: EvaluationSettings,
    prompts: Path,
    heads: Annotated[HeadCount, StudyKey("oracle_heads")] = "all",
    out: OutFile,
) -> None:
    """Score heads by the rise of the gold continuation's loss, and by accuracy, without each of them alone.

    The artifact keeps the log-likelihoods, from which any other outcome follows.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        heads: how many heads, a random sample with as many of each layer, or `all`.
        out: the head-oracle artifact.

    Example:
        lm-headroom score-head-knockouts --model results/opt/model.json
        --prompts results/prompts/copa/0shot-seed1234.parquet --heads 36 --out knockouts.parquet
    """
    from lm_headroom.scoring import knockout
    from lm_headroom.steps.prepare_evaluation import prepare

    options = recorded_options(score_head_knockouts, locals())
    prepared = prepare("score-head-knockouts", settings.model, prompts, settings, keeps_layers=True)
    evaluation, loaded = prepared.evaluation, prepared.loaded
    chosen = knockout.sample_heads(loaded.shape, None if heads == "all" else heads)
    prepared.expect(len(chosen))
    knockouts = knockout.knock_out_heads(
        loaded, evaluation.batches, chosen, evaluation.progress, evaluation.cache, evaluation.ablation
    )
    evaluation.keep_whole(knockouts.dense)
    columns = knockout.head_oracle_columns(evaluation.documents, evaluation.choices, chosen, knockouts)
    inputs = {"prompts": prepared.prompts.source}
    record = build_provenance("steps.score_head_knockouts", inputs, options, prepared.provenance)
    write(out, HEAD_ORACLE, columns, record, prepared.run_statistics)
