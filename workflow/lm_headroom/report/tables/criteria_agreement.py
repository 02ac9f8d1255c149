"""The table of agreement: how far two criteria rank heads, or FFNs, alike, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_headroom.analysis.correlation import srcc
from lm_headroom.analysis.criteria_agreement import lowest, mean_depth, overlap
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import reads
from lm_headroom.report.pages import write_table
from lm_headroom.results.criteria import read_criteria
from lm_headroom.results.induction import read_induction
from lm_headroom.results.matrix import AVERAGE, COMPONENTS, Component, ResultsMatrix

Array = np.ndarray[Any, np.dtype[np.float64]]
PERCENTS = (10, 30, 50)
"""Of the components that a criterion prunes first, which overlaps are shown."""
SINK = "bos_sink"
"""The criterion that says how much heads attend to the first token."""
DIFFERENCE = 30
"""The percent at which the table says where two criteria differ."""
PAGE = (
    "shots",
    "of",
    "criteria",
    "SRCC",
    *(f"overlap at {percent}%" for percent in PERCENTS),
    "depth of each one's own",
)
NOTES = (
    "*SRCC*: Spearman's rank correlation of the two criteria's scores. *Overlap*: of the 10, 30 or 50% that one "
    "criterion prunes first, the share that the other prunes, too; unrelated criteria overlap by that percent itself.",
    f"*Depth of each one's own*: of the {DIFFERENCE}% pruned first, those that one criterion prunes and the other "
    "keeps: their mean depth, from 0 (first layer) to 1 (last). Of heads, the CSV also has their mean prefix-matching "
    "score, high for induction heads, and their mean attention to the first token, high for attention sinks.",
    "The page has means over tasks; the CSV has every task. A study's own criterion is among the columns. An oracle is "
    "there where each component was removed alone: of FFNs always, of heads under `head_oracle` for all heads.",
)


class AgreementRow(NamedTuple):
    """Two criteria on one task, or the mean over tasks; None where not defined.

    ``a_only`` are heads, or FFNs, that the first criterion prunes at 30% and the second keeps, ``b_only`` the reverse.
    """

    shots: int
    component: Component
    task: str
    a: str
    b: str
    srcc: float | None
    overlap_10: float | None
    overlap_30: float | None
    overlap_50: float | None
    a_only_depth: float | None
    b_only_depth: float | None
    a_only_prefix_matching: float | None = None
    b_only_prefix_matching: float | None = None
    a_only_sink: float | None = None
    b_only_sink: float | None = None


def rows(matrix: ResultsMatrix) -> Iterator[AgreementRow]:
    """All rows: per shots and component the means over tasks, then each task; a row per pair of criteria.

    Raises:
        ArtifactError: an artifact of the study is missing or not its own.
    """
    matching = None if matrix.without_induction else read_induction(matrix, "prefix_matching")[0]
    for shots in matrix.shots:
        for component in COMPONENTS:
            prefix = matching if component == "heads" else None
            by_task = {
                task: {row[:2]: row for row in _pairs(read_criteria(matrix, shots, component, task), prefix)}
                for task in matrix.tasks
            }
            # An oracle may be of some tasks alone.
            shared = [pair for pair in by_task[matrix.tasks[0]] if all(pair in pairs for pairs in by_task.values())]
            for name in matrix.averages:
                for pair in shared:
                    means = map(_mean, zip(*(pairs[pair][2:] for pairs in by_task.values()), strict=True))
                    yield AgreementRow(shots, component, name, *pair, *means)
            for task, pairs_of_task in by_task.items():
                for row in pairs_of_task.values():
                    yield AgreementRow(shots, component, task, *row)


def _pairs(scores: Mapping[str, Array], matching: Array | None) -> Iterator[tuple[Any, ...]]:
    """A row for each pair; ``matching`` is of heads alone."""
    # The score ranks heads of the highest attention lowest.
    sink = 1 - scores[SINK] if SINK in scores else None
    pruned = {name: {n: lowest(values, n) for n in (*PERCENTS, DIFFERENCE)} for name, values in scores.items()}
    for a, b in combinations(scores, 2):
        value = srcc(scores[a], scores[b])[0]
        overlaps = (overlap(pruned[a][percent], pruned[b][percent]) for percent in PERCENTS)
        first, second = pruned[a][DIFFERENCE], pruned[b][DIFFERENCE]
        own = (first & ~second, second & ~first)
        where = [_mean_of(values, chosen) for values in (matching, sink) for chosen in own]
        yield (a, b, None if np.isnan(value) else value, *overlaps, *map(mean_depth, own), *where)


def _mean_of(values: Array | None, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> float | None:
    return None if values is None or not chosen.any() else float(values[chosen].mean())


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def in_words(row: AgreementRow) -> tuple[object, ...]:
    """A row of the page."""
    depths = "" if row.a_only_depth is None else f"{row.a_only_depth:z.2f} and {_number(row.b_only_depth)}"
    numbers = (row.srcc, row.overlap_10, row.overlap_30, row.overlap_50)
    criteria = f"{row.a}, {row.b}"
    return (f"{row.shots}-shot", COMPONENTS[row.component], criteria, *map(_number, numbers), depths)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:z.2f}"


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        table = list(rows(matrix))
    record = describe_drawn("table", "report.tables.criteria_agreement", sources, matrix.options, out)
    shown = [row for row in table if row.task == AVERAGE or not matrix.averages]
    page = (PAGE, [in_words(row) for row in shown])
    write_table(out, f"How criteria agree: {matrix.model}", AgreementRow._fields, table, record, list(NOTES), page)
