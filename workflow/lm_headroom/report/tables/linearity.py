"""The table of linearity: where a first-order estimate of the rise of the loss fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lm_headroom.analysis.criteria_agreement import Linearity, linearity, thirds
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import reads
from lm_headroom.report.pages import write_table
from lm_headroom.results.criteria import read_estimates
from lm_headroom.results.matrix import COMPONENTS, Component, ResultsMatrix

PAGE = (
    *("shots", "of", "task", "estimates", "components"),
    *("Pearson", "SRCC", "slope", "mean gap", "mean rise", "wrong sign"),
)
NOTES = (
    "*Estimate*: the criterion `loss_rise`, the first-order rise of the loss from gradients on the scoring documents. "
    "*Rise*: what the loss rises by without the head, or FFN, alone, measured on the oracle's documents, which may be "
    "others. Both in nats per token of the gold continuation.",
    "*Slope*: of the rise on the estimate, 1 where the estimate is exact. *Mean gap*: mean absolute difference, to be "
    "held against the *mean rise*, the mean absolute rise. *Wrong sign*: share whose estimate points the other way. "
    "Thirds are by the absolute estimate: a first-order estimate holds where the step is small.",
)


class LinearityRow(NamedTuple):
    """One task's heads or FFNs, all or a third of them by their absolute estimate, and how linear their losses are."""

    shots: int
    component: Component
    task: str
    part: str
    values: Linearity


def rows(matrix: ResultsMatrix) -> Iterator[LinearityRow]:
    """All rows: per shots, component and task those of all, then of thirds.

    Raises:
        ArtifactError: an artifact of the study is missing or not its own.
    """
    for shots in matrix.shots:
        for values in read_estimates(matrix, shots):
            for part, chosen in thirds(values.estimate):
                if chosen.any():
                    compared = linearity(values.estimate[chosen], values.rise[chosen])
                    yield LinearityRow(shots, values.component, values.task, part, compared)


def in_words(row: LinearityRow) -> tuple[object, ...]:
    """A row of the page."""
    compared = row.values
    correlations = (
        "" if value is None else f"{value:z.2f}" for value in (compared.pearson, compared.srcc, compared.slope)
    )
    losses = (f"{compared.gap:z.4f}", f"{compared.rise:z.4f}", f"{100 * compared.wrong_sign:.0f}%")
    cell = (f"{row.shots}-shot", COMPONENTS[row.component], row.task, row.part, compared.components)
    return (*cell, *correlations, *losses)


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        table = list(rows(matrix))
    record = describe_drawn("table", "report.tables.linearity", sources, matrix.options, out)
    title = f"Where first-order estimates hold: {matrix.model}"
    fields = (*LinearityRow._fields[:-1], *Linearity._fields)
    lines = [(*row[:-1], *row.values) for row in table]
    write_table(out, title, fields, lines, record, list(NOTES), (PAGE, [in_words(row) for row in table]))
