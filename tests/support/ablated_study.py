"""Induction ablations with known values, beside the study of ``fixture_study``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lm_headroom.analysis.columns import by_column
from lm_headroom.analysis.head_selection import SELECTIONS
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.store import write
from lm_headroom.results.matrix import ResultsMatrix
from tests.support.small_study import made_of, outcomes

PERCENTS = (10, 20)
"""Of 20 heads: 2 and 4."""
Right = Callable[[int, str, str, int, int | None], int]
"""Shots, task, selection, percent and control to right answers of 10 questions."""


def right(shots: int, task: str, selection: str, percent: int, control: int | None) -> int:
    """Whole: 8 at 0 shots, 9 at 5; prefix matching loses 1 and 2, 2 and 5 of these, all else and every control nothing;
    but control 2 loses 1 with 5 shots and 20%."""
    whole = 9 if shots else 8
    if control is not None:
        return whole - (control == 2 and percent == 20 and shots > 0)
    if selection != "prefix_matching":
        return whole
    return whole - ({10: 2, 20: 5} if shots else {10: 1, 20: 2})[percent]


def write_ablation(study: ResultsMatrix, shots: int, task: str, right: Right = right, controls: int = 2) -> None:
    """One task's artifact."""
    sets = [
        ("none", 0, None),
        *((s, p, c) for s in SELECTIONS for p in PERCENTS for c in (None, *range(1, controls + 1))),
    ]
    rows = []
    for selection, percent, control in sets:
        n = percent * 20 // 100
        ablated_outcomes = {
            name: values[0] for name, values in outcomes([right(shots, task, selection, percent, control)]).items()
        }
        rows.append(
            {
                "selection": selection,
                "percent": percent,
                "control": control,
                "n_heads": n,
                "n_shared": int(control == 1 and percent == 20),
                "parameters_removed": n,
                "layer": [0] * n,
                "head": list(range(n)),
                **ablated_outcomes,
            }
        )
    write(
        study.path("induction_ablation", shots, task=task),
        INDUCTION_ABLATION,
        by_column(rows),
        made_of(study, shots, task),
    )


def ablated(study: ResultsMatrix, tasks: tuple[str, ...] = ("piqa", "copa"), right: Right = right) -> ResultsMatrix:
    """The study with ablations of some tasks at all its numbers of shots."""
    for shots in study.shots:
        for task in tasks:
            write_ablation(study, shots, task, right)
    return replace(study, ablated=tasks)
