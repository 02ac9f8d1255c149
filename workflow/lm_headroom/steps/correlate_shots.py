"""Step: rank correlations of each task's head scores between numbers of shots, for one seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from lm_headroom.artifacts.cross_shot import CROSS_SHOT
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.errors import HeadroomError
from lm_headroom.options import Counts, OutFile, StudyKey, recorded_options
from lm_headroom.study.ranking_names import AGGREGATE


def correlate_shots(
    *,
    results: Path,
    tasks: Annotated[Sequence[str], StudyKey("tasks")],
    shots: Annotated[Counts, StudyKey("shots", sorted)],
    seed: int = 1234,
    out: OutFile,
) -> None:
    """Correlate each task's head scores between numbers of shots, of which there are two or more.

    Args:
        results: the model's results folder.
        tasks: tasks of the study, in its order.
        shots: numbers of few-shot examples.
        seed: seed of the few-shot sampler.
        out: the cross-shot artifact.

    Raises:
        HeadroomError: fewer than two numbers of shots.

    Example:
        lm-headroom correlate-shots --results results/opt --tasks copa piqa --shots 0 1 5 --out cross_shot.parquet
    """
    from lm_headroom.analysis.correlation import cross_shot
    from lm_headroom.results.matrix import ResultsMatrix
    from lm_headroom.results.scores import read_tasks

    options = recorded_options(correlate_shots, locals())
    if len(set(shots)) < 2:
        raise HeadroomError(f"correlations between shots need at least two numbers of shots, got {list(shots)}")
    matrix = ResultsMatrix(results, tuple(tasks), tuple(shots), seed)
    scores = {k: read_tasks(matrix, k, aggregate=True) for k in shots}
    inputs = {f"{task} {k}-shot": s.artifact.source for k, by_task in scores.items() for task, s in by_task.items()}
    cell = cell_provenance(scores[shots[0]][AGGREGATE].provenance, None, None, seed)
    record = build_provenance("steps.correlate_shots", inputs, options, cell)
    halves = {k: {task: s.by_halves for task, s in by_task.items()} for k, by_task in scores.items()}
    write(out, CROSS_SHOT, cross_shot(halves), record)
