"""Step: a ranking of one task, shot and seed with importance computed again after each step of heads that go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lm_headroom.artifacts.iterative_ranking import ITERATIVE_RANKING
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.options import HeadCriterion, OutFile, Settings, StepPercent, StudyKey, recorded_options
from lm_headroom.study.criteria import CHOOSING


def rank_heads_iteratively(
    *,
    settings: Settings,
    prompts: Path,
    pruning_step: Annotated[StepPercent, StudyKey("pruning.step")] = 10,
    criterion: Annotated[HeadCriterion, StudyKey("importance.ranked_by")] = "token",
    out: OutFile,
) -> None:
    """Rank heads by importance that is scored again each time some heads have been pruned.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        pruning_step: percent of all heads that are pruned before importance is scored again.
        criterion: what scores heads, of docs/criteria.md: `token`, `example` and `target` are the variants of eq. 8.
        out: the artifact of the iterative ranking.

    Example:
        lm-headroom rank-heads-iteratively --model results/opt/model.json
        --prompts results/prompts/copa/0shot-seed1234.parquet --pruning-step 10 --out ranking.parquet
    """
    from lm_headroom.scoring.iterative import iterative_ranking, rounds
    from lm_headroom.steps.prepare_scoring import prepare_scoring

    options = recorded_options(rank_heads_iteratively, locals())
    scoring = prepare_scoring(settings.model, prompts, settings)
    loaded = scoring.loaded
    documents, right = scoring.choices if criterion in CHOOSING else (scoring.documents, None)
    n_rounds = len(rounds(pruning_step, loaded.shape.total))
    ranking = iterative_ranking(
        loaded,
        documents,
        scoring.token_budget,
        pruning_step,
        criterion,
        scoring.progress("rank-heads-iteratively", n_rounds),
        scoring.cache,
        right,
    )
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
