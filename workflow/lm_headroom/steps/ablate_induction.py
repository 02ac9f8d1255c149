"""Step: one task, shot and seed without its model's strongest induction heads, and without random heads beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lm_headroom.analysis.columns import by_column
from lm_headroom.analysis.head_selection import SELECTIONS, WHOLE, Head, control, strongest
from lm_headroom.analysis.ranking import count_at
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.ordered import check_shape
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import read_artifact, write
from lm_headroom.options import EvaluationSettings, OutFile, Percents, Positive, StudyKey, recorded_options
from lm_headroom.study.choices import ascending

if TYPE_CHECKING:
    from lm_headroom.steps.prepare_evaluation import Prepared


def ablate_induction(
    *,
    settings: EvaluationSettings,
    prompts: Path,
    prefix_matching: Path,
    copying: Path,
    percents: Annotated[Percents, StudyKey("induction.ablate.percents", ascending)],
    random: Annotated[Positive, StudyKey("induction.ablate.random")] = 3,
    out: OutFile,
) -> None:
    """Evaluate without the strongest induction heads, and without random heads of their layers.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        prefix_matching: the model's prefix-matching artifact.
        copying: the model's copying artifact.
        percents: percents of all heads to ablate.
        random: random sets of heads per set of ablated ones.
        out: the induction-ablation artifact.

    Raises:
        HeadroomError: the scores are of another model.

    Example:
        lm-headroom ablate-induction --model results/opt/model.json
        --prompts results/prompts/copa/0shot-seed1234.parquet --prefix-matching induction/prefix_matching.parquet
        --copying induction/copying.parquet --percents 5 10 --out ablation.parquet
    """
    from lm_headroom.steps.prepare_evaluation import prepare

    options = recorded_options(ablate_induction, locals())
    percents = options["percents"]
    n_sets = 1 + len(SELECTIONS) * len(percents) * (1 + random)
    prepared = prepare("ablate-induction", settings.model, prompts, settings, n_sets)
    digest = prepared.loaded.record["digest"]
    artifacts = {
        kind.name: read_artifact(path, kind, model=digest)
        for path, kind in ((prefix_matching, PREFIX_MATCHING), (copying, COPYING))
    }
    scores = [grid(artifact.table, "mean") for artifact in artifacts.values()]
    for artifact, values in zip(artifacts.values(), scores, strict=True):
        check_shape(artifact.path, values.shape, prepared.shape.grid)
    rows = [_row(prepared, WHOLE, 0, None, [], 0)]
    for name in SELECTIONS:
        order = strongest(scores[0], scores[1], name, prepared.shape.attending)
        for percent in percents:
            chosen = order[: count_at(percent, len(order))]
            rows.append(_row(prepared, name, percent, None, chosen, 0))
            for number in range(1, random + 1):
                heads = control(chosen, name, prepared.shape.heads, number)
                rows.append(_row(prepared, name, percent, number, heads, len(set(heads) & set(chosen))))
    inputs = {"prompts": prepared.prompts.source, **{name: artifact.source for name, artifact in artifacts.items()}}
    record = build_provenance("steps.ablate_induction", inputs, options, prepared.provenance)
    write(out, INDUCTION_ABLATION, by_column(rows), record, prepared.run_statistics)


def _row(
    prepared: Prepared, selection: str, percent: int, number: int | None, heads: Sequence[Head], n_shared: int
) -> dict[str, Any]:
    """A row of the artifact: the outcomes without these heads."""
    from lm_headroom.models import architectures

    return {
        "selection": selection,
        "percent": percent,
        "control": number,
        "n_heads": len(heads),
        "n_shared": n_shared,
        "parameters_removed": architectures.removed_parameters(prepared.loaded.skeleton, heads),
        "layer": [layer for layer, _ in heads],
        "head": [head for _, head in heads],
        **prepared.evaluation.outcomes(heads),
    }
