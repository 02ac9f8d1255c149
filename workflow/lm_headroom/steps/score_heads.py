"""Step: gradient head importance of one task, shot and seed, the ranking it gives, and the FFNs' gradient scores."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np

from lm_headroom.analysis.ranking import as_columns, rank_heads
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.prompts import IMPORTANCE
from lm_headroom.artifacts.provenance import build_provenance, model_provenance
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.engine.loading import load
from lm_headroom.engine.memory import peak_memory, token_budget
from lm_headroom.engine.resume_cache import open_cache
from lm_headroom.progress import Progress
from lm_headroom.scoring import gradient
from lm_headroom.settings import Settings
from lm_headroom.steps.read_prompts import first_gold, label, rows, task_provenance, tokenise

UNDERFLOW = 0.01
"""Share of products that are exactly zero from which on underflow is reported."""


def run(
    out: Path,
    ranking: Path | None,
    model: Path,
    prompts: Path,
    reduction: gradient.Reduction,
    last_layer_tokens: gradient.LastLayerTokens,
    settings: Settings,
    ffn_gradient: Path | None = None,
) -> None:
    """Write a head-importance artifact and, where asked for, its ranking and the FFNs' gradient scores."""
    table = first_gold(rows(prompts, IMPORTANCE))
    loaded = load(model, settings.dtype, settings.device, settings.threads)
    documents = tokenise(table, loaded, settings.add_bos)
    progress = Progress(label("head-importance", prompts, loaded.record["name"]), len(documents), "documents")
    resume_cache = open_cache(settings.cache, "scoring.gradient", loaded.record, settings.dtype)

    @cache
    def budget() -> int:
        return settings.token_budget or token_budget(loaded.model, loaded.device, differentiates=True)

    found = gradient.contributions(loaded, documents, budget, progress, resume_cache)
    scores = gradient.scores(found, reduction, last_layer_tokens)
    layers, heads = np.indices(scores.score.shape)
    options = {"reduction": reduction, "last_layer_tokens": last_layer_tokens, "add_bos": settings.add_bos}
    facts = {
        **task_provenance(prompts),
        **model_provenance(loaded.record, settings.dtype),
        "n_documents": len(documents),
        "n_truncated": sum(document.truncated > 0 for document in documents),
    }
    record = build_provenance("steps.score_heads", {"prompts": prompts}, options, facts)
    columns = {
        "layer": layers.ravel(),
        "head": heads.ravel(),
        "score": scores.score.ravel(),
        "stderr": scores.stderr.ravel(),
        "score_even": scores.even.ravel(),
        "score_odd": scores.odd.ravel(),
        **{name: values.ravel() for name, values in gradient.variant_scores(found).items()},
        "magnitude": gradient.magnitudes(loaded, resume_cache).ravel(),
        "output_norm": gradient.output_norms(found).ravel(),
    }
    zeros = gradient.zero_shares(found)
    took = {
        **peak_memory(),
        "token_budget": budget() if loaded.in_memory else None,
        "zero_products": round(float(zeros.mean()), 6),
    }
    if settings.dtype == "float16" and zeros.mean() > UNDERFLOW:
        print(
            f"{progress.label}: {100 * zeros.mean():.0f}% of the products of activations and gradients are exactly "
            f"zero, most in layer {zeros.argmax()} ({100 * zeros.max():.0f}%): gradients underflow in float16, and "
            "scores come out too small; use dtype bfloat16 or float32",
            file=sys.stderr,
        )
    write(out, HEAD_IMPORTANCE, columns, record, took)
    if ranking:
        write(ranking, RANKING, as_columns(rank_heads(scores.score), scores.score), record, took)
    if ffn_gradient:
        of_ffns = gradient.scores(found.ffns, reduction)
        columns = {"layer": np.arange(len(of_ffns.score)), "score": of_ffns.score, "stderr": of_ffns.stderr}
        columns |= {"score_even": of_ffns.even, "score_odd": of_ffns.odd}
        columns = {name: values.ravel() for name, values in columns.items()}
        del options["last_layer_tokens"]
        record = build_provenance("steps.score_heads", {"prompts": prompts}, options, facts)
        write(ffn_gradient, FFN_GRADIENT, columns, record, took)
