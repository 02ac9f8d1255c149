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
from lm_headroom.results.scores import read_tasks


def run(out: Path, results: Path, tasks: Sequence[str], shots: Sequence[int], seed: int) -> None:
    """Write a cross-shot artifact.

    Raises:
        HeadroomError: fewer than two numbers of shots.
    """
    if len(set(shots)) < 2:
        raise HeadroomError(f"correlations between shots need at least two numbers of shots, got {list(shots)}")
    found = {k: read_tasks(results, tasks, k, seed, aggregate=True) for k in shots}
    scores = {k: {task: s.by_halves for task, s in by.items()} for k, by in found.items()}
    inputs = {f"{task} {k}-shot": s.path for k, by in found.items() for task, s in by.items()}
    options = {"tasks": list(tasks), "shots": sorted(shots)}
    facts = cell_provenance(found[shots[0]][AGGREGATE].facts, None, None, seed)
    write(out, CROSS_SHOT, cross_shot(scores), build_provenance("steps.correlate_shots", inputs, options, facts))
