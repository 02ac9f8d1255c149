"""Step: gradient head importance of one task, shot and seed, the ranking it gives, and the FFNs' gradient scores."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from lm_headroom.analysis.ranking import as_columns, rank_heads
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.options import HeadCriterion, OutFile, Settings, StudyKey, recorded_options
from lm_headroom.study.criteria import FFNS, criteria_of, criterion_columns

if TYPE_CHECKING:
    from lm_headroom.scoring import gradient

UNDERFLOW = 0.01
"""Share of products that are exactly zero from which on underflow is reported."""


def score_heads(
    *,
    settings: Settings,
    prompts: Path,
    criterion: Annotated[HeadCriterion, StudyKey("importance.ranked_by")] = "token",
    out: OutFile,
    ranking: OutFile | None = None,
    ffn_gradient: OutFile | None = None,
) -> None:
    """Score every head by the gradient (eq. 8 and 9), or by another criterion.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        criterion: what scores heads, of docs/criteria.md: `token`, `example` and `target` are the variants of eq. 8.
        out: the head-importance artifact.
        ranking: also write the ranking here.
        ffn_gradient: also write the gradient scores of FFNs here.

    Example:
        lm-headroom score-heads --model results/opt/model.json --prompts results/prompts/copa/0shot-seed1234.parquet
        --out scores.parquet --ranking ranking.parquet
    """
    from lm_headroom.scoring import gradient
    from lm_headroom.steps.prepare_scoring import prepare_scoring

    options = recorded_options(score_heads, locals())
    scoring = prepare_scoring(settings.model, prompts, settings)
    progress = scoring.progress("score-heads")
    products = gradient.contributions(scoring.loaded, scoring.documents, scoring.token_budget, progress, scoring.cache)
    scores = gradient.scores_by(products, criterion)
    layers, heads = np.indices(scores.score.shape)
    columns = {
        "layer": layers.ravel(),
        "head": heads.ravel(),
        **_score_columns(scores),
        **{name: values.ravel() for name, values in gradient.criterion_scores(products).items()},
        "magnitude": gradient.magnitudes(scoring.loaded, scoring.cache).ravel(),
    }
    zeros = gradient.zero_shares(products)
    statistics = {**scoring.run_statistics, "zero_products": round(float(zeros.mean()), 6)}
    if settings.dtype == "float16":
        _warn_of_underflow(progress.label, zeros)
    inputs = {"prompts": scoring.prompts.source}
    record = build_provenance("steps.score_heads", inputs, options, scoring.provenance)
    write(out, HEAD_IMPORTANCE, columns, record, statistics)
    if ranking:
        write(ranking, RANKING, as_columns(rank_heads(scores.score), scores.score), record, statistics)
    if ffn_gradient:
        columns = _ffn_columns(products.ffns, criterion if criterion in criteria_of(FFNS) else "token")
        write(ffn_gradient, FFN_GRADIENT, columns, record, statistics)


def _ffn_columns(products: gradient.GradientProducts, criterion: str) -> dict[str, np.ndarray[Any, Any]]:
    from lm_headroom.scoring import gradient

    scores, by_criterion = gradient.scores_by(products, criterion), gradient.criterion_scores(products)
    columns = {name: by_criterion[name].ravel() for name in criterion_columns(FFNS)}
    return {"layer": np.arange(len(scores.score)), **_score_columns(scores), **columns}


def _score_columns(scores: gradient.Scores) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "score": scores.score.ravel(),
        "stderr": scores.stderr.ravel(),
        "score_even": scores.even.ravel(),
        "score_odd": scores.odd.ravel(),
    }


def _warn_of_underflow(label: str, zeros: np.ndarray[Any, Any]) -> None:
    """Say on standard error if many products of activations and gradients are zero.

    Args:
        label: what progress lines call the step.
        zeros: share of products that are exactly zero, [layer].
    """
    if zeros.mean() > UNDERFLOW:
        print(
            f"{label}: {100 * zeros.mean():.0f}% of the products of activations and gradients are exactly "
            f"zero, most in layer {zeros.argmax()} ({100 * zeros.max():.0f}%): gradients underflow in float16, and "
            "scores come out too small; use dtype bfloat16 or float32",
            file=sys.stderr,
        )
