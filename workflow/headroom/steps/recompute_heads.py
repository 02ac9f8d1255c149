"""Step: a ranking of one task, shot and seed with importance computed again after each step of heads that go."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from headroom.artifacts.prompts import IMPORTANCE
from headroom.artifacts.recomputed_ranking import RECOMPUTED_RANKING
from headroom.artifacts.store import write
from headroom.checkpoints import load
from headroom.importance import LastLayerTokens, Reduction
from headroom.memory import peak, token_budget
from headroom.parts import parts_of
from headroom.progress import Progress
from headroom.provenance import describe, model_facts
from headroom.recomputed import recomputed_ranking, rounds
from headroom.settings import Settings
from headroom.steps.read_prompts import first_gold, label, rows, task_facts, tokenise


def run(
    out: Path,
    model: Path,
    prompts: Path,
    step: int,
    reduction: Reduction,
    last_layer_tokens: LastLayerTokens,
    settings: Settings,
) -> None:
    """Write a recomputed-ranking artifact."""
    table = first_gold(rows(prompts, IMPORTANCE))
    loaded = load(model, settings.dtype, settings.device, settings.threads)
    documents = tokenise(table, loaded, settings.add_bos)
    n_rounds = len(rounds(step, loaded.shape.layers * loaded.shape.heads))
    name = label("recompute", prompts, loaded.record["name"])
    progress = Progress(name, n_rounds * len(documents), "documents")
    # Units of score_heads: all heads are there in the first round.
    parts = parts_of(settings.parts, "importance", loaded.record, settings.dtype)

    @cache
    def budget() -> int:
        return settings.token_budget or token_budget(loaded.model, loaded.device, differentiates=True)

    found = recomputed_ranking(loaded, documents, budget, step, reduction, last_layer_tokens, progress, parts)
    options = {
        "step": step,
        "reduction": reduction,
        "last_layer_tokens": last_layer_tokens,
        "add_bos": settings.add_bos,
    }
    facts = {
        **task_facts(prompts),
        **model_facts(loaded.record, settings.dtype),
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
    took = {**peak(), "token_budget": budget() if loaded.in_memory else None}
    record = describe("steps.recompute_heads", {"prompts": prompts}, options, facts)
    write(out, RECOMPUTED_RANKING, columns, record, took)
