"""Step: gradient head importance of one task, shot and seed, the ranking it gives, and the FFNs' gradient scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from lm_headroom.analysis.criteria import signed_criteria
from lm_headroom.analysis.ranking import as_columns, rank_heads
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import places
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.options import HeadCriterion, OutFile, Settings, StudyKey, recorded_options
from lm_headroom.study.criteria import CHOOSING, FFNS, criteria_of, criterion_columns

if TYPE_CHECKING:
    from lm_headroom.progress import Progress
    from lm_headroom.scoring import gradient
    from lm_headroom.steps.prepare_scoring import Scoring

Array = np.ndarray[Any, np.dtype[np.float64]]
UNDERFLOW = 0.01
"""Share of products that are exactly zero from which on underflow is reported."""


def score_heads(
    *,
    settings: Settings,
    prompts: Path,
    criterion: Annotated[HeadCriterion, StudyKey("importance.ranked_by")] = "token",
    choosing: Annotated[bool, StudyKey("scores_choosing")] = False,
    out: OutFile,
    ranking: OutFile | None = None,
    ffn_gradient: OutFile | None = None,
) -> None:
    """Score every head by the gradient (eq. 8 and 9), or by another criterion.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        criterion: what scores heads, of docs/criteria.md: `token`, `example` and `target` are the variants of eq. 8.
        choosing: also score by the criteria of choosing, which takes a pass over all choices of each document; a
            criterion of these asks for it, too.
        out: the head-importance artifact.
        ranking: also write the ranking here.
        ffn_gradient: also write the gradient scores of FFNs here.

    Raises:
        HeadroomError: criteria of choosing are asked for, and the task has no choices.

    Example:
        lm-headroom score-heads --model results/opt/model.json --prompts results/prompts/copa/0shot-seed1234.parquet
        --out scores.parquet --ranking ranking.parquet
    """
    from lm_headroom.scoring import gradient
    from lm_headroom.steps.prepare_scoring import prepare_scoring

    choosing = choosing or criterion in CHOOSING
    options = recorded_options(score_heads, locals())
    scoring = prepare_scoring(settings.model, prompts, settings)
    progress = scoring.progress("score-heads", 1 + choosing)
    # First, since a task without choices is refused.
    by_choice = _products_by_choice(scoring, progress) if choosing else (None, None)
    products = gradient.contributions(scoring.loaded, scoring.documents, scoring.token_budget, progress, scoring.cache)
    scores = _scores(products, by_choice[0], criterion)
    layers = scoring.loaded.shape.attending
    columns = {
        **places(layers, scoring.loaded.shape.heads),
        **scores.columns,
        **_criterion_columns(products, by_choice[0]),
        "magnitude": gradient.magnitudes(scoring.loaded, scoring.cache).ravel(),
    }
    zeros = gradient.zero_shares(products)
    statistics = {**scoring.run_statistics, "zero_products": round(float(zeros.mean()), 6)}
    if settings.dtype == "float16":
        _warn_of_underflow(progress.label, zeros, layers)
    inputs = {"prompts": scoring.prompts.source}
    record = build_provenance("steps.score_heads", inputs, options, scoring.provenance)
    write(out, HEAD_IMPORTANCE, columns, record, statistics)
    if ranking:
        write(ranking, RANKING, as_columns(rank_heads(scores.score, layers), scores.score, layers), record, statistics)
    if ffn_gradient:
        columns = _ffn_columns(products.ffns, by_choice[1], criterion if criterion in criteria_of(FFNS) else "token")
        write(ffn_gradient, FFN_GRADIENT, columns, record, statistics)


def _products_by_choice(scoring: Scoring, progress: Progress) -> tuple[Array, Array]:
    """Products of heads and FFNs by the loss of choosing, [document, layer, head] and [document, layer, 1]."""
    from lm_headroom.scoring.choosing import choosing_products

    return choosing_products(scoring.loaded, *scoring.choices, scoring.token_budget, progress, scoring.cache)


def _ffn_columns(products: gradient.GradientProducts, by_choice: Array | None, criterion: str) -> dict[str, Any]:
    scores, by_criterion = _scores(products, by_choice, criterion), _criterion_columns(products, by_choice)
    columns = {name: by_criterion[name] for name in criterion_columns(FFNS)}
    return {"layer": np.arange(len(scores.score)), **scores.columns, **columns}


def _scores(products: gradient.GradientProducts, by_choice: Array | None, criterion: str) -> gradient.Scores:
    """Scores by a criterion; ``by_choice`` are the products of the loss of choosing, [document, layer, head]."""
    from lm_headroom.scoring import gradient

    if criterion in CHOOSING and by_choice is not None:
        return gradient.signed_scores(by_choice, CHOOSING[criterion])
    return gradient.scores_by(products, criterion)


def _criterion_columns(products: gradient.GradientProducts, by_choice: Array | None) -> dict[str, Any]:
    """Columns of scores by each criterion that the passes decide; those of choosing are missing without its pass."""
    from lm_headroom.scoring import gradient

    columns: dict[str, Any] = {name: values.ravel() for name, values in gradient.criterion_scores(products).items()}
    if by_choice is None:
        return columns | dict.fromkeys(CHOOSING, [None] * products.signed[0].size)
    scored = signed_criteria(by_choice)
    return columns | {name: scored[form].ravel() for name, form in CHOOSING.items()}


def _warn_of_underflow(label: str, zeros: Array, layers: Sequence[int]) -> None:
    """Say on standard error if many products of activations and gradients are zero.

    Args:
        label: what progress lines call the step.
        zeros: share of products that are exactly zero, [layer].
        layers: numbers of these layers.
    """
    if zeros.mean() > UNDERFLOW:
        print(
            f"{label}: {100 * zeros.mean():.0f}% of the products of activations and gradients are exactly zero, most "
            f"in layer {layers[int(zeros.argmax())]} ({100 * zeros.max():.0f}%): gradients underflow in float16, and "
            "scores come out too small; use dtype bfloat16 or float32",
            file=sys.stderr,
        )
