"""Iterative re-scoring: a ranking of heads whose importance is measured again after each pruning round.

Scores that are measured once describe each head while all others are present. Heads that can replace each other then
all look dispensable, until some of them are pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lm_headroom.analysis.ranking import count_at, rank_heads
from lm_headroom.engine.loading import LoadedModel, gates_without
from lm_headroom.engine.packing import Document
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache
from lm_headroom.progress import Progress
from lm_headroom.scoring.choosing import Right, choosing_products
from lm_headroom.scoring.gradient import contributions, scores_by, signed_scores
from lm_headroom.study.criteria import CHOOSING


@dataclass(frozen=True)
class RankedHead:
    """A head at its place in the pruning order.

    Attributes:
        head: (layer, head).
        score: its score by the criterion, with the heads of all earlier rounds pruned.
        percent: percent of all heads that were pruned when the score was measured.
    """

    head: tuple[int, int]
    score: float
    percent: int


def rounds(step: int, n_heads: int) -> list[tuple[int, int, int]]:
    """List the rounds that prune any head: percent pruned before, heads pruned before, heads pruned after.

    Args:
        step: percent of all heads that a round prunes.
        n_heads: number of all heads.
    """
    bounds = [(p, count_at(p, n_heads), count_at(min(100, p + step), n_heads)) for p in range(0, 100, step)]
    return [(percent, before, after) for percent, before, after in bounds if after > before]


def iterative_ranking(
    loaded: LoadedModel,
    documents: Sequence[Document],
    token_budget: int | Callable[[], int],
    step: int,
    criterion: str = "token",
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
    right: Right | None = None,
) -> list[RankedHead]:
    """Rank all heads, the first to be pruned first; the sets at multiples of ``step`` are nested.

    Args:
        loaded: the model.
        documents: scoring documents.
        token_budget: tokens per batch.
        step: percent of all heads to prune before importance is measured again.
        criterion: see :func:`lm_headroom.scoring.gradient.scores_by`; or one of choosing.
        progress: advanced by documents, once per round.
        cache: holds the gradients of each round; those of the first round are shared with the one-shot ranking.
        right: which choices are right, for a criterion of choosing; documents then have a sequence for each choice.

    Raises:
        HeadroomError: see :func:`lm_headroom.scoring.gradient.contributions`.
    """
    ranking: list[RankedHead] = []
    layers = loaded.shape.attending
    for percent, before, after in rounds(step, loaded.shape.total):
        pruned = {ranked.head for ranked in ranking}
        gates = gates_without(loaded.shape, pruned) if pruned else None
        if right is not None:
            chosen = choosing_products(loaded, documents, right, token_budget, progress, cache, gates)
            score = signed_scores(chosen.heads, CHOOSING[criterion]).score
        else:
            products = contributions(loaded, documents, token_budget, progress, cache, gates)
            score = scores_by(products, criterion).score
        # Heads with a closed gate have no output; their score of zero would rank above a negative one.
        remaining = [head for head in rank_heads(score, layers) if head not in pruned]
        ranking += [
            RankedHead((layer, head), float(score[layers.index(layer), head]), percent)
            for layer, head in remaining[: after - before]
        ]
    return ranking
