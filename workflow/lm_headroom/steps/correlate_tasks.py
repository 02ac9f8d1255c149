"""Step: rank correlations between the head scores of all tasks of one shot and seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.analysis.correlation import cross_task
from lm_headroom.analysis.ranking import AGGREGATE, Aggregation
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.scores import read_tasks


def run(out: Path, results: Path, tasks: Sequence[str], shots: int, seed: int, how: Aggregation) -> None:
    """Write a cross-task artifact; ``how`` is the aggregate's, for its leave-one-out versions."""
    scores = read_tasks(ResultsMatrix(results, tuple(tasks), (shots,), seed), shots, aggregate=True)
    halves = {name: s.by_halves for name, s in scores.items()}
    together = halves.pop(AGGREGATE)
    cell = cell_provenance(scores[AGGREGATE].provenance, None, shots, seed)
    inputs = {name: s.artifact.source for name, s in scores.items()}
    record = build_provenance("steps.correlate_tasks", inputs, {"tasks": list(tasks), "aggregate": how}, cell)
    write(out, CROSS_TASK, cross_task(halves, together, how), record)
