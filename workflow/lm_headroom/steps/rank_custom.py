"""Step: heads or FFNs ranked by the user's own scores, for one task, shot and seed."""

from __future__ import annotations

from pathlib import Path

from lm_headroom.analysis.ranking import as_columns
from lm_headroom.analysis.ranking import rank_heads as rank
from lm_headroom.artifacts.custom_ranking import CUSTOM_RANKING
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.options import OutFile, Settings, recorded_options
from lm_headroom.study.choices import CommonComponent
from lm_headroom.study.criteria import FFNS


def rank_custom(
    *, settings: Settings, prompts: Path, name: str, source: str, component: CommonComponent = "heads", out: OutFile
) -> None:
    """Rank heads or FFNs by scores of your own, from a file or by a function.

    Args:
        settings: how to run the model.
        prompts: prompts artifact, whose scoring documents a function is given.
        name: what the study calls the ranking.
        source: a Parquet or CSV file with the columns layer, head and score (of FFNs layer and score), or
            `module:function` of the working folder, called with the loaded model and the documents.
        component: what it ranks, `heads` or `ffns`.
        out: the custom-ranking artifact.

    Raises:
        HeadroomError: a layer or head is missing or there twice, a score is not finite, or the function fails.

    Example:
        lm-headroom rank-custom --model results/opt/model.json --prompts results/prompts/copa/0shot-seed1234.parquet
        --name mine --source my_ranking.csv --out ranking.parquet
    """
    from lm_headroom.scoring.custom_ranking import custom_scores, describe_source
    from lm_headroom.steps.prepare_scoring import prepare_scoring

    options = recorded_options(rank_custom, locals())
    custom = describe_source(source)
    scoring = prepare_scoring(settings.model, prompts, settings)
    scores = custom_scores(source, component, scoring.loaded, scoring.documents)
    by_head = scores.reshape(len(scores), -1)
    layers = range(len(scores)) if component == FFNS else scoring.loaded.shape.attending
    columns = as_columns(rank(by_head, layers), by_head, layers)
    if component == FFNS:
        columns["head"] = [None] * len(scores)
    details = {**scoring.provenance, "ranking": name, "component": component, "custom": custom}
    record = build_provenance("steps.rank_custom", {"prompts": scoring.prompts.source}, options, details)
    write(out, CUSTOM_RANKING, columns, record)
