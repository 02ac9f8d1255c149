"""Step: one task, shot and seed without its model's strongest induction heads, and without random heads beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_headroom.analysis.head_selection import SELECTIONS, WHOLE, Head, control, strongest
from lm_headroom.analysis.ranking import count_at
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import by_column, read, write
from lm_headroom.models import architectures
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_evaluation import check_heads, expected_ranking, prepare


def run(
    out: Path,
    model: Path,
    prompts: Path,
    prefix_matching: Path,
    copying: Path,
    percents: Sequence[int],
    n_controls: int,
    settings: Settings,
) -> None:
    """Write an induction-ablation artifact.

    Args:
        out: the artifact.
        model, prompts: what is evaluated.
        prefix_matching, copying: the model's induction scores.
        percents: of all heads, how many go.
        n_controls: random sets of heads per set of chosen ones.
        settings: how to run the model.

    Raises:
        HeadroomError: the scores are of another model.
    """
    digest = expected_ranking(model, prompts)["model"]
    scores = [
        grid(read(path, kind, model=digest), "mean")
        for path, kind in ((prefix_matching, PREFIX_MATCHING), (copying, COPYING))
    ]
    prepared = prepare("ablate", model, prompts, settings, 1 + len(SELECTIONS) * len(percents) * (1 + n_controls))
    evaluation, shape = prepared.evaluation, prepared.loaded.shape
    for path, found in zip((prefix_matching, copying), scores, strict=True):
        check_heads(path, list(np.ndindex(found.shape)), prepared.loaded)
    orders = {name: strongest(scores[0], scores[1], name) for name in SELECTIONS}

    def row(selection: str, percent: int, number: int | None, heads: Sequence[Head], n_shared: int) -> dict[str, Any]:
        return {
            "selection": selection,
            "percent": percent,
            "control": number,
            "n_heads": len(heads),
            "n_shared": n_shared,
            "parameters_removed": architectures.removed_parameters(prepared.loaded.skeleton, heads),
            "layer": [layer for layer, _ in heads],
            "head": [head for _, head in heads],
            **evaluation.outcomes(heads),
        }

    rows = [row(WHOLE, 0, None, [], 0)]
    for name, order in orders.items():
        for percent in percents:
            chosen = order[: count_at(percent, len(order))]
            rows.append(row(name, percent, None, chosen, 0))
            for number in range(1, n_controls + 1):
                heads = control(chosen, name, shape.heads, number)
                rows.append(row(name, percent, number, heads, len(set(heads) & set(chosen))))
    options = {"percents": list(percents), "random": n_controls, "add_bos": settings.add_bos}
    inputs = {"prompts": prompts, "prefix_matching": prefix_matching, "copying": copying}
    record = build_provenance("steps.ablate_induction", inputs, options, prepared.facts)
    write(out, INDUCTION_ABLATION, by_column(rows), record, prepared.run)
