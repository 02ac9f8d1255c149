"""Step: heads and FFNs pruned together (Figure 7), and the heads alone under the aggregate ranking.

One step, because the grid's edge without FFNs pruned is the heads' curve: sets of pruned components that both need
are evaluated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.artifacts.ordered import read_ffn_ranking, read_ranking
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.store import write
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_evaluation import prepare


def run(
    out: Path,
    curve: Path | None,
    model: Path,
    prompts: Path,
    head_ranking: Path,
    ffn_ranking: Path,
    curve_ranking: Path | None,
    head_levels: Sequence[int],
    ffn_levels: Sequence[int],
    curve_levels: Sequence[int],
    settings: Settings,
) -> None:
    """Write a joint-evaluation artifact and, where asked for, a curve of heads.

    Args:
        out: the joint artifact.
        curve: the pruned-evaluation artifact of heads under ``curve_ranking`` at ``curve_levels``; None for none.
        model, prompts: what is evaluated.
        head_ranking, ffn_ranking: rankings of the grid.
        curve_ranking: ranking of the curve.
        head_levels, ffn_levels, curve_levels: percents pruned.
        settings: how to run the model.

    Raises:
        HeadroomError: a ranking is of another model, task, shot or seed.
    """
    n_sets = len(head_levels) * len(ffn_levels) + (len(curve_levels) if curve else 0)
    prepared = prepare("joint", model, prompts, settings, n_sets)
    # The grid may be under the aggregate's rankings or the task's own.
    either = prepared.expected(AGGREGATE, prepared.prompts.task or AGGREGATE)
    heads, ffns = read_ranking(head_ranking, **either), read_ffn_ranking(ffn_ranking, **either)
    pruned = heads
    if curve and curve_ranking:
        if curve_ranking != head_ranking:
            pruned = read_ranking(curve_ranking)
        pruned.artifact.check_origin(**(prepared.expected(AGGREGATE) if curve.stem == AGGREGATE else either))
    for ranking in (heads, ffns, pruned):
        ranking.check_fits(prepared.shape)
    prompts_source = prepared.prompts.source
    if curve:
        options = {"levels": list(curve_levels), "add_bos": settings.add_bos}
        inputs = {"prompts": prompts_source, "ranking": pruned.artifact.source}
        provenance = {**prepared.provenance, "ranking": curve.stem}
        record = build_provenance("steps.evaluate_joint", inputs, options, provenance)
        columns = prepared.evaluation.curve(pruned.order, curve_levels)
        write(curve, PRUNED_EVAL, columns, record, prepared.run_statistics)
    options = {"heads": list(head_levels), "ffns": list(ffn_levels), "add_bos": settings.add_bos}
    inputs = {
        "prompts": prompts_source,
        "head_ranking": heads.artifact.source,
        "ffn_ranking": ffns.artifact.source,
    }
    record = build_provenance("steps.evaluate_joint", inputs, options, prepared.provenance)
    columns = prepared.evaluation.grid(heads.order, ffns.order, head_levels, ffn_levels)
    write(out, JOINT_EVAL, columns, record, prepared.run_statistics)
