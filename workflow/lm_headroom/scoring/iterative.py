"""A ranking of heads whose importance is computed again each time some of them have gone.

One pass of scores says what a head does while all others are there. Of those that stand in for each other, all look
dispensable then, until some are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lm_headroom.analysis.ranking import count_at, rank_heads
from lm_headroom.engine.loading import LoadedModel, gates_without
from lm_headroom.engine.packing import Document
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache
from lm_headroom.progress import Progress
from lm_headroom.scoring.gradient import LastLayerTokens, Reduction, contributions, scores


@dataclass(frozen=True)
class RankedHead:
    """A head in the order in which heads go.

    Attributes:
        head: (layer, head).
        score: its importance, nats, with the heads of the rounds before it gone.
        percent: of all heads that were gone when it was measured.
    """

    head: tuple[int, int]
    score: float
    percent: int


def rounds(step: int, n_heads: int) -> list[tuple[int, int, int]]:
    """Percent gone, heads gone and heads gone after it, of each round in which any head goes.

    Args:
        step: percent of all heads that go in a round.
        n_heads: all heads.
    """
    bounds = [(p, count_at(p, n_heads), count_at(min(100, p + step), n_heads)) for p in range(0, 100, step)]
    return [(percent, before, after) for percent, before, after in bounds if after > before]


def iterative_ranking(
    loaded: LoadedModel,
    documents: Sequence[Document],
    token_budget: int | Callable[[], int],
    step: int,
    reduction: Reduction = "token",
    last_layer_tokens: LastLayerTokens = "all",
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
) -> list[RankedHead]:
    """All heads, those that go first first; at each level that is a multiple of ``step`` the set is nested in the next.

    Args:
        loaded: the model.
        documents: scoring documents.
        token_budget: tokens per batch.
        step: percent of all heads that go before importance is computed again.
        reduction, last_layer_tokens: see :func:`lm_headroom.scoring.gradient.scores`.
        progress: advanced by documents, once per round.
        cache: where gradients are kept by round, and looked for; the first round's are those of the plain ranking.

    Raises:
        HeadroomError: see :func:`lm_headroom.scoring.gradient.contributions`.
    """
    ranking: list[RankedHead] = []
    for percent, before, after in rounds(step, loaded.shape.layers * loaded.shape.heads):
        pruned = {ranked.head for ranked in ranking}
        gates = gates_without(loaded.shape, pruned) if pruned else None
        products = contributions(loaded, documents, token_budget, progress, cache, gates)
        score = scores(products, reduction, last_layer_tokens).score
        # Closed heads have no output, and a score of zero.
        remaining = [head for head in rank_heads(score) if head not in pruned]
        ranking += [RankedHead(head, float(score[head]), percent) for head in remaining[: after - before]]
    return ranking
