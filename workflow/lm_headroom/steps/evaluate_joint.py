"""Step: heads and FFNs pruned together (Figure 7), and the heads alone under the aggregate ranking.

One step, because the grid's edge without FFNs pruned is the heads' curve: sets of pruned components that both need
are evaluated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.artifacts.ffns import read_ffn_ranking
from lm_headroom.artifacts.heads import read_ranking
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.store import write
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_evaluation import check_ffns, check_heads, expected_ranking, prepare
from lm_headroom.steps.read_prompts import task_provenance


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
    # The grid may be under the aggregate's rankings or the task's own.
    either = expected_ranking(model, prompts, AGGREGATE, task_provenance(prompts).get("task", AGGREGATE))
    heads, ffns = read_ranking(head_ranking, **either), read_ffn_ranking(ffn_ranking, **either)
    pairs: list[tuple[int, int]] = []
    if curve and curve_ranking:
        named = expected_ranking(model, prompts, AGGREGATE) if curve.stem == AGGREGATE else either
        pairs = read_ranking(curve_ranking, **named)
    n_sets = len(head_levels) * len(ffn_levels) + (len(curve_levels) if curve else 0)
    prepared = prepare("joint", model, prompts, settings, n_sets)
    check_heads(head_ranking, heads, prepared.loaded)
    check_ffns(ffn_ranking, ffns, prepared.loaded)
    if curve and curve_ranking:
        check_heads(curve_ranking, pairs, prepared.loaded)
        options = {"levels": list(curve_levels), "add_bos": settings.add_bos}
        inputs = {"prompts": prompts, "ranking": curve_ranking}
        record = build_provenance("steps.evaluate_joint", inputs, options, {**prepared.facts, "ranking": curve.stem})
        write(curve, PRUNED_EVAL, prepared.evaluation.curve(pairs, curve_levels), record, prepared.run)
    options = {"heads": list(head_levels), "ffns": list(ffn_levels), "add_bos": settings.add_bos}
    inputs = {"prompts": prompts, "head_ranking": head_ranking, "ffn_ranking": ffn_ranking}
    record = build_provenance("steps.evaluate_joint", inputs, options, prepared.facts)
    write(out, JOINT_EVAL, prepared.evaluation.grid(heads, ffns, head_levels, ffn_levels), record, prepared.run)
