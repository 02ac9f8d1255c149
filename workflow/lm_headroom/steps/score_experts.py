"""Step: importance of the experts of one task, shot and seed, the ranking it gives, and the curves under it and beside.

One step, as for FFNs: the curves need the ranking alone, and controls by other criteria need the same passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from lm_headroom.analysis.ranking import as_columns, check_removable, in_pruning_order, random_ranking, rank_heads
from lm_headroom.artifacts.expert_importance import EXPERT_IMPORTANCE
from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import EXPERT_RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.options import (
    EvaluationSettings,
    ExpertControls,
    ExpertCriterion,
    Levels,
    OutFile,
    Settings,
    StudyKey,
    recorded_options,
)
from lm_headroom.study.choices import ACCURACY, with_zero
from lm_headroom.study.criteria import CRITERIA, EXPERTS, criteria_of
from lm_headroom.study.ranking_names import ORACLES, OWN, REVERSED, drawn_with

if TYPE_CHECKING:
    from lm_headroom.scoring.expert_gradient import ExpertProducts
    from lm_headroom.steps.prepare_scoring import Scoring

Array = np.ndarray[Any, np.dtype[np.float64]]
Expert = tuple[int, int]
STEP = "score-experts"


def score_experts(
    *,
    settings: Settings,
    prompts: Path,
    criterion: Annotated[ExpertCriterion, StudyKey("experts.criterion")] = "token",
    levels: Annotated[Levels, StudyKey("experts.levels", with_zero)],
    controls: ExpertControls = (),
    out: OutFile,
    ranking: OutFile,
    curve: OutFile,
) -> None:
    """Score the experts of a mixture-of-experts model, rank them, and evaluate with the least important pruned.

    Args:
        settings: how to run the model.
        prompts: prompts artifact; its scoring documents score, its evaluation documents measure the curves.
        criterion: what ranks experts, of docs/criteria.md.
        levels: percents of all experts that are pruned; 0 is always there.
        controls: also write curves beside that one with experts in another order: reversed (most important first),
            random_N (drawn with seed N), or by another criterion.
        out: the expert-importance artifact.
        ranking: the ranking.
        curve: the curve under that ranking.

    Raises:
        HeadroomError: the model has no experts, a level prunes more than its layers can lose, or its routers choose
            among groups of experts, which can be scored, but not pruned.

    Example:
        lm-headroom score-experts --model results/olmoe/model.json --prompts results/prompts/copa/0shot-seed1234.parquet
        --levels 0 25 50 --controls random_1 usage --out scores.parquet --ranking ranking.parquet --curve own.parquet
    """
    from lm_headroom.steps.prepare_evaluation import prepare_documents
    from lm_headroom.steps.prepare_scoring import prepare_scoring

    options = recorded_options(score_experts, locals())
    scoring = prepare_scoring(settings.model, prompts, settings)
    layers, number, top_k = _check_prunable(scoring.loaded.skeleton, levels, controls)
    products = _measure(scoring)
    scores = _scores_of(scoring, products, [name for name in controls if name in ORACLES])
    orders = _orders(scores, criterion, controls, layers, partial(in_pruning_order, kept=top_k, number=number))
    inputs = {"prompts": scoring.prompts.source}
    provenance = {**scoring.provenance, "experts_per_token": top_k}
    scored_by = {name: value for name, value in options.items() if name != "levels"}
    record = build_provenance("steps.score_experts", inputs, scored_by, provenance)
    columns = _importance_columns(products, scores, criterion)
    write(out, EXPERT_IMPORTANCE, columns, record, scoring.run_statistics)
    columns = as_columns(orders[OWN], scores[criterion], layers)
    columns["expert"] = columns.pop("head")
    write(ranking, EXPERT_RANKING, columns, record, scoring.run_statistics)
    evaluating = EvaluationSettings(**vars(settings))
    judged = prepare_documents(STEP, scoring.loaded, scoring.prompts, EVALUATION, evaluating)
    judged.expect(1 + (len(levels) - 1) * (1 + len(controls)))
    for name, order in orders.items():
        provenance = {**judged.provenance, "ranking": name}
        record = build_provenance("steps.score_experts", inputs, options, provenance)
        path = curve if name == OWN else curve.with_stem(name)
        write(path, PRUNED_EVAL, judged.evaluation.expert_curve(order, levels), record, judged.run_statistics)


def _check_prunable(model: Any, levels: Sequence[int], controls: Sequence[str]) -> tuple[list[int], int, int]:
    """The model's grid of experts (see ``expert_grid``), once all levels and oracles are known to be possible.

    Raises:
        HeadroomError: see :func:`score_experts`.
    """
    from lm_headroom.models.experts import check_prunable, expert_blocks, expert_grid

    layers, number, top_k = expert_grid(model)
    check_removable("experts.levels", levels, (len(layers), number), top_k)
    if any(levels) or set(controls) & set(ORACLES):
        check_prunable(model.config.model_type, expert_blocks(model).values())
    return layers, number, top_k


def _measure(scoring: Scoring) -> ExpertProducts:
    from lm_headroom.engine.resume_cache import open_cache
    from lm_headroom.scoring.expert_gradient import expert_products

    settings, loaded = scoring.settings, scoring.loaded
    cache = open_cache(settings.cache, "scoring.expert_gradient", loaded.record, settings.dtype)
    return expert_products(loaded, scoring.documents, scoring.token_budget, scoring.progress(STEP), cache)


def _scores_of(scoring: Scoring, products: ExpertProducts, oracles: Sequence[str]) -> dict[str, Array]:
    """Scores [layer, expert] by every criterion that the passes decide, and by some oracles."""
    from lm_headroom.scoring.gradient import criterion_scores

    scores = criterion_scores(products) | {"usage": products.usage}
    by_oracle = _knock_out(scoring, products, oracles) if oracles else {}
    return {name: values for name, values in scores.items() if name in criteria_of(EXPERTS)} | by_oracle


def _knock_out(scoring: Scoring, products: ExpertProducts, oracles: Sequence[str]) -> dict[str, Array]:
    """Scores by what is lost on the scoring documents without each expert alone."""
    from lm_headroom.scoring.knockout import check_oracles, component_losses, knock_out_experts
    from lm_headroom.steps.prepare_evaluation import prepare_documents

    number = products.usage.shape[1]
    ranking = prepare_documents(
        STEP, scoring.loaded, scoring.prompts, IMPORTANCE, EvaluationSettings(**vars(scoring.settings)), True
    )
    experts = [(layer, expert) for layer in products.layers for expert in range(number)]
    ranking.expect(len(experts))
    evaluation = ranking.evaluation
    check_oracles(evaluation.documents, evaluation.choices, oracles)
    knockouts = knock_out_experts(scoring.loaded, evaluation.batches, experts, evaluation.progress, evaluation.cache)
    scores = {}
    for name in oracles:
        metric = CRITERIA[name].knockout or ACCURACY
        losses = component_losses(evaluation.documents, evaluation.choices, knockouts, metric)
        scores[name] = losses.mean(axis=1).reshape(-1, number)
    return scores


def _orders(
    scores: Mapping[str, Array],
    criterion: str,
    controls: Sequence[str],
    layers: Sequence[int],
    keeping: Callable[[list[Expert]], list[Expert]],
) -> dict[str, list[Expert]]:
    """Ranking to all experts, the first to be pruned first; ``keeping`` puts those last that layers must keep."""
    own = keeping(rank_heads(scores[criterion], layers))
    orders = {OWN: own}
    for name in controls:
        seed = drawn_with(name)
        if seed is not None:
            drawn = random_ranking(len(layers), scores[criterion].shape[1], seed)
            order = [(layers[row], expert) for row, expert in drawn]
        else:
            order = own[::-1] if name == REVERSED else rank_heads(scores[name], layers)
        orders[name] = keeping(order)
    return orders


def _importance_columns(products: ExpertProducts, scores: Mapping[str, Array], criterion: str) -> dict[str, Any]:
    from lm_headroom.scoring.expert_gradient import score_experts_by

    number = products.usage.shape[1]
    missing = [None] * products.usage.size
    return {
        "layer": np.repeat(products.layers, number),
        "expert": np.tile(np.arange(number), len(products.layers)),
        **score_experts_by(products, criterion).columns,
        **{name: scores[name].ravel() if name in scores else missing for name in criteria_of(EXPERTS)},
    }
