"""The table of few-shot seeds: accuracy of the whole model and head rankings, and what the seed changes of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm_headroom.analysis.correlation import MIN_RELIABILITY
from lm_headroom.analysis.variance import Components, agreement, average_components, components
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import ArtifactError, reads
from lm_headroom.errors import HeadroomError
from lm_headroom.report.pages import write_table
from lm_headroom.results.curves import Array, read_curve
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.scores import read_seeds
from lm_headroom.study.ranking_names import AGGREGATE

COLUMNS = (
    "shots",
    "task",
    "seeds",
    "questions",
    "accuracy (%)",
    "variance over seeds",
    "due to the seed at any number of questions",
    "sampling variance of questions",
    "SRCC between seeds",
    "noise ceiling",
    "disattenuated SRCC",
    "pairs disattenuated",
)
NOTES = (
    "Accuracy is that of the whole model, mean over seeds; variances are in squared points. All seeds answer the same "
    "questions: their variance is what another seed changes of this number. Seeds that move single questions to and "
    "fro change less with more questions; *due to the seed at any number of questions* is what does not, estimated by "
    "a two-way layout and not below 0. The sampling variance is that of one seed's accuracy over new questions. A "
    "seed's standard error thus has one part for questions and another for examples.",
    "SRCC correlates the head rankings of two seeds, averaged over pairs. Both score the same documents and share "
    "their noise, so SRCC may exceed the noise ceiling; the disattenuated SRCC compares halves of different documents, "
    f"over the pairs whose reliabilities are at least {MIN_RELIABILITY}. Near 1, seeds change no more than noise.",
    f"Rows of {AGGREGATE}: accuracy averaged over tasks, and the ranking of the aggregate.",
)
ZERO_SHOT = (
    "0-shot prompts hold no examples: all seeds give the same prompts, and there is no variance over seeds. (Where "
    "scoring documents are drawn by the seed, `sample: shuffled`, head rankings differ all the same.)"
)


class SeedRow(NamedTuple):
    """Numbers of one task, or of the aggregate; empty where not defined. Variances in squared points."""

    shots: int
    task: str
    seeds: int
    questions: int
    accuracy: float
    variance: float
    seed_variance: float
    sampling_variance: float
    srcc: float
    ceiling: float | str
    corrected: float | str
    n_corrected: str


def rows(matrix: ResultsMatrix, seeds: Sequence[int], same_documents: bool) -> list[SeedRow]:
    """A row per number of shots and task, and one for their average.

    Args:
        matrix: the matrix, of any seed.
        seeds: two or more.
        same_documents: all seeds score heads on the same documents in the same order.

    Raises:
        HeadroomError: fewer than two seeds, or an artifact is not what it should be.
    """
    if len(set(seeds)) < 2:
        raise HeadroomError(f"a table of seeds needs at least two of them, got {list(seeds)}")
    table = []
    for k in matrix.shots:
        outcomes = {task: whole(matrix, seeds, k, task) for task in matrix.tasks}
        scores = read_seeds(matrix, k, seeds)
        total = average_components(list(outcomes.values()))
        parts = {task: components(values) for task, values in outcomes.items()} | {AGGREGATE: total}
        counts = {task: values.shape[1] for task, values in outcomes.items()}
        counts[AGGREGATE] = sum(counts.values())
        for task, variance in parts.items():
            heads = [s.by_halves for s in scores[task].values()]
            agreed = agreement(heads, same_documents)
            known = (
                "" if agreed.ceiling is None else agreed.ceiling,
                "" if agreed.corrected is None else agreed.corrected,
                f"{agreed.n_corrected} of {agreed.n_pairs}",
            )
            table.append(SeedRow(k, task, len(seeds), counts[task], *_points(variance), agreed.srcc, *known))
    return table


def _points(parts: Components) -> tuple[float, float, float, float]:
    variances = (1e4 * float(value) for value in (parts.total, parts.seed, parts.sampling))
    return (100 * float(parts.mean), *variances)  # type: ignore[return-value]


def whole(matrix: ResultsMatrix, seeds: Sequence[int], shots: int, task: str) -> Array:
    """Whether the whole model answers each question right, [seed, question].

    Raises:
        ArtifactError: seeds were evaluated on different questions.
    """
    curves = []
    for seed in seeds:
        seed_matrix = replace(matrix, seed=seed)
        curves.append(read_curve(seed_matrix.curve(task, shots), **seed_matrix.expected(shots, task, "own")))
    if any(curve.questions != curves[0].questions for curve in curves):
        raise ArtifactError(
            f"{', '.join(str(curve.path) for curve in curves)} hold different questions; delete them and run again"
        )
    return np.stack([curve.scores[0] for curve in curves])


def write(matrix: ResultsMatrix, seeds: Sequence[int], same_documents: bool, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        table = rows(matrix, seeds, same_documents)
    options = {**matrix.options, "seeds": sorted(seeds), "same_documents": same_documents}
    notes = [*NOTES, *([ZERO_SHOT] if 0 in matrix.shots else [])]
    provenance = describe_drawn("table", "report.tables.seeds", sources, options, out)
    write_table(out, f"Few-shot seeds: what they change, {matrix.model}", COLUMNS, table, provenance, notes)
