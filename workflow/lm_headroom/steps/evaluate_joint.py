"""Step: heads and FFNs pruned together (Figure 7), and the heads alone under the aggregate ranking.

One step, because the grid's edge without FFNs pruned is the heads' curve: sets of pruned components that both need
are evaluated once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lm_headroom.artifacts.ordered import Head, Ranking, read_ffn_ranking, read_ranking
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.store import write
from lm_headroom.errors import HeadroomError
from lm_headroom.options import EvaluationSettings, Levels, OutFile, StudyKey, recorded_options
from lm_headroom.study.choices import LEVELS, with_zero
from lm_headroom.study.ranking_names import AGGREGATE

if TYPE_CHECKING:
    from lm_headroom.steps.prepare_evaluation import Prepared


def evaluate_joint(
    *,
    settings: EvaluationSettings,
    prompts: Path,
    heads_ranking: Path,
    ffns_ranking: Path,
    joint_heads: Annotated[Levels, StudyKey("joint.heads", with_zero)] = LEVELS,
    joint_ffns: Annotated[Levels, StudyKey("joint.ffns", with_zero)] = LEVELS,
    curve: OutFile | None = None,
    curve_ranking: Path | None = None,
    levels: Annotated[Levels, StudyKey("pruning.levels", with_zero)] = LEVELS,
    out: OutFile,
) -> None:
    """Evaluate with heads and FFNs pruned together, over a grid of levels.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        heads_ranking: ranking artifact of the grid's heads.
        ffns_ranking: ranking artifact of the grid's FFNs.
        joint_heads: percents of heads pruned in the grid; 0 is always evaluated.
        joint_ffns: percents of FFNs pruned in the grid; 0 is always evaluated.
        curve: also write an accuracy curve of heads alone here, which shares evaluations with the grid.
        curve_ranking: ranking artifact of that curve.
        levels: percents of heads pruned, of that curve; 0 is always evaluated.
        out: the joint-evaluation artifact.

    Raises:
        HeadroomError: a ranking is of another model, task, shot or seed.

    Example:
        lm-headroom evaluate-joint --model results/opt/model.json
        --prompts results/prompts/copa/0shot-seed1234.parquet --heads-ranking heads.parquet
        --ffns-ranking ffns.parquet --out joint.parquet
    """
    from lm_headroom.steps.prepare_evaluation import prepare

    recorded = recorded_options(evaluate_joint, locals())
    if (curve is None) != (curve_ranking is None):
        raise HeadroomError("--curve and --curve-ranking go together")
    n_sets = len(joint_heads) * len(joint_ffns) + (len(levels) if curve else 0)
    prepared = prepare("evaluate-joint", settings.model, prompts, settings, n_sets)
    # The grid may be under the aggregate's rankings or the task's own.
    either = prepared.expected(AGGREGATE, prepared.prompts.task or AGGREGATE)
    heads, ffns = read_ranking(heads_ranking, **either), read_ffn_ranking(ffns_ranking, **either)
    pruned = heads
    if curve and curve_ranking:
        if curve_ranking != heads_ranking:
            pruned = read_ranking(curve_ranking)
        pruned.artifact.check_origin(**(prepared.expected(AGGREGATE) if curve.stem == AGGREGATE else either))
    for ranking in (heads, ffns, pruned):
        prepared.check_fits(ranking)
    if curve:
        _write_curve(curve, prepared, pruned, levels, recorded)
    options = {name: value for name, value in recorded.items() if name != "levels"}
    rankings = {"heads_ranking": heads.artifact.source, "ffns_ranking": ffns.artifact.source}
    inputs = {"prompts": prepared.prompts.source, **rankings}
    record = build_provenance("steps.evaluate_joint", inputs, options, prepared.provenance)
    columns = prepared.evaluation.grid(heads.order, ffns.order, joint_heads, joint_ffns)
    write(out, JOINT_EVAL, columns, record, prepared.run_statistics)


def _write_curve(
    out: Path, prepared: Prepared, ranking: Ranking[Head], levels: Sequence[int], recorded: Mapping[str, Any]
) -> None:
    """Write the accuracy curve of heads alone, whose file is called like its ranking."""
    options = {name: value for name, value in recorded.items() if not name.startswith("joint_")}
    inputs = {"prompts": prepared.prompts.source, "ranking": ranking.artifact.source}
    record = build_provenance("steps.evaluate_joint", inputs, options, {**prepared.provenance, "ranking": out.stem})
    columns = prepared.evaluation.curve(ranking.order, levels)
    write(out, PRUNED_EVAL, columns, record, prepared.run_statistics)
