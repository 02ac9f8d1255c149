"""Step: the head oracle of one task, shot and seed: what is lost without each head, or each of a sample, alone."""

from __future__ import annotations

from pathlib import Path

from headroom import oracle
from headroom.artifacts.head_oracle import HEAD_ORACLE
from headroom.artifacts.store import write
from headroom.provenance import describe
from headroom.settings import Settings
from headroom.steps.prepare_evaluation import prepare


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
    chosen = oracle.sample_heads(loaded.shape, heads)
    prepared.expect(len(chosen))
    found = oracle.knock_out_heads(loaded, evaluation.batches, chosen, evaluation.progress, evaluation.parts)
    evaluation.keep_whole(found.dense)
    columns = oracle.head_oracle(evaluation.documents, evaluation.choices, chosen, found)
    options = {"heads": heads or "all", "add_bos": settings.add_bos}
    record = describe("steps.score_head_knockouts", {"prompts": prompts}, options, prepared.facts)
    write(out, HEAD_ORACLE, columns, record, prepared.run)
