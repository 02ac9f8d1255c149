"""Step: rank correlations between the head scores of all tasks of one shot and seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.analysis.correlation import cross_task
from lm_headroom.analysis.ranking import AGGREGATE, Aggregation
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.results.scores import read_tasks


def run(out: Path, results: Path, tasks: Sequence[str], shots: int, seed: int, how: Aggregation) -> None:
    """Write a cross-task artifact; ``how`` is the aggregate's, for its leave-one-out versions."""
    found = read_tasks(results, tasks, shots, seed, aggregate=True)
    scores = {name: s.by_halves for name, s in found.items()}
    together = scores.pop(AGGREGATE)
    facts = cell_provenance(found[AGGREGATE].facts, None, shots, seed)
    inputs = {name: s.path for name, s in found.items()}
    record = build_provenance("steps.correlate_tasks", inputs, {"tasks": list(tasks), "aggregate": how}, facts)
    write(out, CROSS_TASK, cross_task(scores, together, how), record)
