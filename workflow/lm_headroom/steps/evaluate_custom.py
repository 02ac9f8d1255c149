"""Step: the accuracy curve of one task, shot and seed with heads or FFNs pruned under the user's own ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lm_headroom.artifacts.ordered import order_ffns, order_heads
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking_kinds import OF_EITHER
from lm_headroom.artifacts.store import read_artifact, write
from lm_headroom.options import EvaluationSettings, Levels, OutFile, StudyKey, recorded_options
from lm_headroom.study.choices import LEVELS, with_zero
from lm_headroom.study.criteria import FFNS


def evaluate_custom(
    *,
    settings: EvaluationSettings,
    prompts: Path,
    ranking: Path,
    levels: Annotated[Levels, StudyKey("pruning.levels", with_zero)] = LEVELS,
    out: OutFile,
) -> None:
    """Evaluate with heads or FFNs pruned, level by level, under a ranking of your own, or a learned one.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        ranking: custom-ranking or learned-ranking artifact, of the same task, shots and seed.
        levels: percents pruned; 0 is always evaluated.
        out: the pruned-evaluation artifact.

    Raises:
        HeadroomError: the ranking is not of this model and task.

    Example:
        lm-headroom evaluate-custom --model results/opt/model.json
        --prompts results/prompts/copa/0shot-seed1234.parquet --ranking ranking.parquet --out mine.parquet
    """
    from lm_headroom.steps.prepare_evaluation import prepare

    options = recorded_options(evaluate_custom, locals())
    prepared = prepare("evaluate-custom", settings.model, prompts, settings, len(levels))
    artifact = read_artifact(ranking, *OF_EITHER, **prepared.expected())
    if artifact.provenance["component"] == FFNS:
        columns = prepared.evaluation.ffn_curve(order_ffns(artifact).order, levels)
    else:
        columns = prepared.evaluation.curve(order_heads(artifact).order, levels)
    inputs = {"prompts": prepared.prompts.source, "ranking": artifact.source}
    details = {**prepared.provenance, "ranking": artifact.provenance["ranking"]}
    record = build_provenance("steps.evaluate_custom", inputs, options, details)
    write(out, PRUNED_EVAL, columns, record, prepared.run_statistics)
