"""Step: rank correlations of each task's head scores between numbers of shots, for one seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.analysis.correlation import cross_shot
from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.artifacts.cross_shot import CROSS_SHOT
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.errors import HeadroomError
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.scores import read_tasks


def run(out: Path, results: Path, tasks: Sequence[str], shots: Sequence[int], seed: int) -> None:
    """Write a cross-shot artifact.

    Raises:
        HeadroomError: fewer than two numbers of shots.
    """
    if len(set(shots)) < 2:
        raise HeadroomError(f"correlations between shots need at least two numbers of shots, got {list(shots)}")
    matrix = ResultsMatrix(results, tuple(tasks), tuple(shots), seed)
    scores = {k: read_tasks(matrix, k, aggregate=True) for k in shots}
    inputs = {f"{task} {k}-shot": s.artifact.source for k, by_task in scores.items() for task, s in by_task.items()}
    options = {"tasks": list(tasks), "shots": sorted(shots)}
    cell = cell_provenance(scores[shots[0]][AGGREGATE].provenance, None, None, seed)
    record = build_provenance("steps.correlate_shots", inputs, options, cell)
    halves = {k: {task: s.by_halves for task, s in by_task.items()} for k, by_task in scores.items()}
    write(out, CROSS_SHOT, cross_shot(halves), record)
