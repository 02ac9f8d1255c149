"""Step: heads or FFNs ranked by a mask that is learned, for one task, shot and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lm_headroom.artifacts.learned_ranking import LEARNED_RANKING
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.options import Count, OutFile, Positive, Rate, Settings, StudyKey, recorded_options
from lm_headroom.study.choices import CommonComponent
from lm_headroom.study.criteria import HEADS
from lm_headroom.study.ranking_names import LEARNED


def learn_mask(
    *,
    settings: Settings,
    prompts: Path,
    component: CommonComponent = "heads",
    passes: Annotated[Positive, StudyKey("learned_mask.passes")] = 40,
    batch: Annotated[Positive, StudyKey("learned_mask.batch")] = 4,
    learning_rate: Annotated[Rate, StudyKey("learned_mask.learning_rate")] = 0.1,
    mask_seed: Annotated[Count, StudyKey("learned_mask.seed")] = 1,
    out: OutFile,
) -> None:
    """Rank heads or FFNs by gates that are trained on the scoring documents while fewer and fewer may open.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        component: what it ranks, `heads` or `ffns`.
        passes: how often training uses each document: its cost in forward and backward passes.
        batch: documents of a training step, which share one draw of the gates.
        learning_rate: of Adam on the gates' log_alphas.
        mask_seed: seed of the gates' noise and the order of documents.
        out: the learned-ranking artifact.

    Example:
        lm-headroom learn-mask --model results/opt/model.json --prompts results/prompts/copa/0shot-seed1234.parquet
        --component heads --out ranking.parquet
    """
    import numpy as np

    from lm_headroom.engine.resume_cache import open_cache
    from lm_headroom.scoring.learned_mask import Training
    from lm_headroom.scoring.learned_mask import learn_mask as learn
    from lm_headroom.steps.prepare_scoring import prepare_scoring

    options = recorded_options(learn_mask, locals())
    scoring = prepare_scoring(settings.model, prompts, settings)
    mask = learn(
        scoring.loaded,
        scoring.documents,
        scoring.token_budget,
        component,
        Training(passes, batch, learning_rate, mask_seed),
        scoring.progress(f"learn-mask {component}", passes),
        open_cache(settings.cache, "scoring.learned_mask", scoring.loaded.record, settings.dtype),
    )
    # By the score, then by the gate's log_alpha; numbered by layer and head.
    order = np.lexsort((mask.log_alpha.ravel(), mask.score.ravel()))
    n_heads, shape = scoring.loaded.shape.heads if component == HEADS else 1, scoring.loaded.shape
    layers = np.array(shape.attending if component == HEADS else range(shape.layers))
    columns = {
        "rank": list(range(len(order))),
        "layer": layers[order // n_heads].tolist(),
        "head": (order % n_heads).tolist() if component == HEADS else [None] * len(order),
        "score": mask.score.ravel()[order].tolist(),
        "log_alpha": mask.log_alpha.ravel()[order].tolist(),
    }
    details = {**scoring.provenance, "ranking": LEARNED, "component": component}
    record = build_provenance("steps.learn_mask", {"prompts": scoring.prompts.source}, options, details)
    write(out, LEARNED_RANKING, columns, record, scoring.run_statistics)
