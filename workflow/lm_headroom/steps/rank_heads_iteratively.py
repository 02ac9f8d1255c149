"""Step: a ranking of one task, shot and seed with importance computed again after each step of heads that go."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lm_headroom.artifacts.iterative_ranking import ITERATIVE_RANKING
from lm_headroom.artifacts.prompts import IMPORTANCE
from lm_headroom.artifacts.provenance import build_provenance, model_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.engine.loading import load
from lm_headroom.engine.memory import peak_memory, token_budget
from lm_headroom.engine.resume_cache import open_cache
from lm_headroom.progress import Progress
from lm_headroom.scoring.gradient import LastLayerTokens, Reduction
from lm_headroom.scoring.iterative import iterative_ranking, rounds
from lm_headroom.settings import Settings
from lm_headroom.steps.read_prompts import first_gold, label, rows, task_provenance, tokenise


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
    table = first_gold(rows(prompts, IMPORTANCE))
    loaded = load(model, settings.dtype, settings.device, settings.threads)
    documents = tokenise(table, loaded, settings.add_bos)
    n_rounds = len(rounds(step, loaded.shape.layers * loaded.shape.heads))
    name = label("recompute", prompts, loaded.record["name"])
    progress = Progress(name, n_rounds * len(documents), "documents")
    # Units of score_heads: all heads are there in the first round.
    resume_cache = open_cache(settings.cache, "scoring.gradient", loaded.record, settings.dtype)

    @cache
    def budget() -> int:
        return settings.token_budget or token_budget(loaded.model, loaded.device, differentiates=True)

    found = iterative_ranking(loaded, documents, budget, step, reduction, last_layer_tokens, progress, resume_cache)
    options = {
        "step": step,
        "reduction": reduction,
        "last_layer_tokens": last_layer_tokens,
        "add_bos": settings.add_bos,
    }
    facts = {
        **task_provenance(prompts),
        **model_provenance(loaded.record, settings.dtype),
        "n_documents": len(documents),
        "n_truncated": sum(document.truncated > 0 for document in documents),
    }
    columns = {
        "rank": list(range(len(found))),
        "layer": [ranked.head[0] for ranked in found],
        "head": [ranked.head[1] for ranked in found],
        "score": [ranked.score for ranked in found],
        "percent": [ranked.percent for ranked in found],
    }
    took = {**peak_memory(), "token_budget": budget() if loaded.in_memory else None}
    record = build_provenance("steps.rank_heads_iteratively", {"prompts": prompts}, options, facts)
    write(out, ITERATIVE_RANKING, columns, record, took)
