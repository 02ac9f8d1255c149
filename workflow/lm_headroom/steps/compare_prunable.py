"""Step: how much of each model's heads and FFNs can be pruned within the margin of each outcome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from lm_headroom.analysis.non_inferiority import Prunable
from lm_headroom.analysis.outcomes import explain_undefined
from lm_headroom.artifacts.comparison import COMPARED_PRUNABLE
from lm_headroom.report.tables.headroom import average_prunable
from lm_headroom.results.chance import ChanceLevel, read_chance_levels
from lm_headroom.results.comparison import Comparison, prunable_row
from lm_headroom.results.matrix import COMPONENTS, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.steps.compare import write_rows
from lm_headroom.study.judged import JudgedOutcome


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per outcome, model, component and number of shots."""
    # All models are given the same prompts.
    chance = read_chance_levels(next(iter(comparison.matrices.values())))
    return [
        row
        for judged in comparison.outcomes
        for matrix in comparison.matrices.values()
        for row in _rows(matrix, judged, chance)
    ]


def _rows(matrix: ResultsMatrix, judged: JudgedOutcome, chance: Mapping[str, ChanceLevel]) -> Iterator[dict[str, Any]]:
    defining, _ = restrict(matrix.changed(outcome=judged.outcome, margin=judged.margin))
    # Where no task defines the outcome, a row says so beside the accuracy.
    shown = defining if defining.tasks else matrix
    for component, shots in product(COMPONENTS, matrix.shots):
        tasks, curve, prunable = average_prunable(shown, shots, component, chance)
        if not defining.tasks:
            prunable = Prunable(None, reason=explain_undefined(judged.outcome))
        row = prunable_row(matrix.model, judged, component, shots, curve, prunable, [chance[task] for task in tasks])
        yield row if defining.tasks else row | {"score": None, "score_stderr": None}


def compare_prunable(out: Path, comparison: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_PRUNABLE, "steps.compare_prunable", comparison, lambda: rows(comparison))
