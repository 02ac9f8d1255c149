"""Step: the head oracle of one task, shot and seed: what is lost without each head, or each of a sample, alone."""

from __future__ import annotations

from pathlib import Path

from lm_headroom.artifacts.head_oracle import HEAD_ORACLE
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.scoring import knockout
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_evaluation import prepare


def run(out: Path, model: Path, prompts: Path, heads: int | None, settings: Settings) -> None:
    """Write a head-oracle artifact.

    Args:
        out: the artifact.
        model, prompts: what is evaluated.
        heads: how many heads, a stratified sample; None for all.
        settings: how to run the model.
    """
    prepared = prepare("head-oracle", model, prompts, settings, keeps_layers=True)
    evaluation, loaded = prepared.evaluation, prepared.loaded
    chosen = knockout.sample_heads(loaded.shape, heads)
    prepared.expect(len(chosen))
    knockouts = knockout.knock_out_heads(loaded, evaluation.batches, chosen, evaluation.progress, evaluation.cache)
    evaluation.keep_whole(knockouts.dense)
    columns = knockout.head_oracle_columns(evaluation.documents, evaluation.choices, chosen, knockouts)
    options = {"heads": heads or "all", "add_bos": settings.add_bos}
    inputs = {"prompts": prepared.prompts.source}
    record = build_provenance("steps.score_head_knockouts", inputs, options, prepared.provenance)
    write(out, HEAD_ORACLE, columns, record, prepared.run_statistics)
