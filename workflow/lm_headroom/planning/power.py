"""How many documents a study needs to tell small losses from none, by the spread that its own results have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lm_headroom.analysis.non_inferiority import ENOUGH_POWER
from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.margins import margin_in_words
from lm_headroom.results.matrix import COMPONENTS, Component, ResultsMatrix
from lm_headroom.results.power import Judge, judges_of
from lm_headroom.study.config import Study

HEAD = (
    "| model | pruned | shots | outcome, margin | documents of each task | power | more of each |",
    "|---|---|---|---|---|---|---|",
)


def format_power(study: Study, results: Path) -> str:
    """The plan's section on power: a row per model, component, number of shots and outcome that has results.

    Args:
        study: its first seed is planned.
        results: the results folder.

    Raises:
        ArtifactError: a result is damaged, or not the one expected.
    """
    rows = [row for model in study.models for row in _rows(study, results / model)]
    if not rows:
        return (
            "Power: no results of this study yet. Run a small one first, with a few documents of each task: its spread "
            "says how many are needed."
        )
    note = (
        "Power is the probability that the lowest pruning level passes its non-inferiority test if it loses nothing; "
        f"more documents are as many as raise it to {ENOUGH_POWER}. Both follow from the spread in the results."
    )
    return "\n".join(["Power", "", *HEAD, *rows, "", note])


def _rows(study: Study, results: Path) -> Iterator[str]:
    outcomes = tuple(study.judged_outcomes)
    matrix = ResultsMatrix(results, tuple(study.tasks), tuple(study.shots), study.seeds[0], outcomes=outcomes)
    for component, name in COMPONENTS.items():
        for shots in (shots for shots in study.shots if _is_measured(matrix, shots, component)):
            chance = read_chance_levels(matrix.changed(shots=(shots,)))
            for judge in judges_of(matrix.changed(shots=(shots,)), shots, component, chance):
                yield f"| {matrix.model} | {name} | {shots} | {_cells(judge)} |"


def _is_measured(matrix: ResultsMatrix, shots: int, component: Component) -> bool:
    components: tuple[Component, ...] = ("heads", component)
    return all(matrix.curve(task, shots, "own", name).is_file() for task in matrix.tasks for name in components)


def _cells(judge: Judge) -> str:
    """Outcome and margin, documents, power, and how many more."""
    outcome = f"{OUTCOMES[judge.matrix.outcome].title}, {margin_in_words(judge.matrix)}"
    power = "" if judge.power is None else f"{judge.power:.2f}"
    more = "no number suffices" if judge.more is None else f"about {judge.more}" if judge.more else "enough"
    return f"{outcome} | {judge.questions:.0f} | {power} | {more}"
