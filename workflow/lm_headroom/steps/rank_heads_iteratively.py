"""Step: a ranking of one task, shot and seed with importance computed again after each step of heads that go."""

from __future__ import annotations

from pathlib import Path

from lm_headroom.artifacts.iterative_ranking import ITERATIVE_RANKING
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.scoring.gradient import LastLayerTokens, Reduction
from lm_headroom.scoring.iterative import iterative_ranking, rounds
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_scoring import prepare_scoring


def run(
    out: Path,
    model: Path,
    prompts: Path,
    step: int,
    reduction: Reduction,
    last_layer_tokens: LastLayerTokens,
    settings: Settings,
) -> None:
    """Write a iterative-ranking artifact."""
    scoring = prepare_scoring(model, prompts, settings)
    loaded = scoring.loaded
    n_rounds = len(rounds(step, loaded.shape.layers * loaded.shape.heads))
    ranking = iterative_ranking(
        loaded,
        scoring.documents,
        scoring.token_budget,
        step,
        reduction,
        last_layer_tokens,
        scoring.progress("recompute", n_rounds),
        scoring.cache,
    )
    options = {
        "step": step,
        "reduction": reduction,
        "last_layer_tokens": last_layer_tokens,
        "add_bos": settings.add_bos,
    }
    columns = {
        "rank": list(range(len(ranking))),
        "layer": [ranked.head[0] for ranked in ranking],
        "head": [ranked.head[1] for ranked in ranking],
        "score": [ranked.score for ranked in ranking],
        "percent": [ranked.percent for ranked in ranking],
    }
    inputs = {"prompts": scoring.prompts.source}
    record = build_provenance("steps.rank_heads_iteratively", inputs, options, scoring.provenance)
    write(out, ITERATIVE_RANKING, columns, record, scoring.run_statistics)
