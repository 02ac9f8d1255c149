"""Step: rank correlations between the head scores of all tasks of one shot and seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.options import Count, OutFile, StudyKey, recorded_options
from lm_headroom.study.choices import Aggregation
from lm_headroom.study.ranking_names import AGGREGATE


def correlate_tasks(
    *,
    results: Path,
    tasks: Annotated[Sequence[str], StudyKey("tasks")],
    shots: Count,
    seed: int = 1234,
    aggregate: Annotated[Aggregation, StudyKey("aggregate")] = "mean",
    out: OutFile,
) -> None:
    """Correlate the head scores of all tasks and their aggregate.

    Args:
        results: the model's results folder.
        tasks: tasks to correlate.
        shots: number of few-shot examples.
        seed: seed of the few-shot sampler.
        aggregate: how scores of several tasks become one, for aggregates that leave one task out.
        out: the cross-task artifact.

    Example:
        lm-headroom correlate-tasks --results results/opt --tasks copa piqa --shots 0 --out cross_task.parquet
    """
    from lm_headroom.analysis.correlation import cross_task
    from lm_headroom.results.matrix import ResultsMatrix
    from lm_headroom.results.scores import read_tasks

    options = recorded_options(correlate_tasks, locals())
    scores = read_tasks(ResultsMatrix(results, tuple(tasks), (shots,), seed), shots, aggregate=True)
    halves = {name: s.by_halves for name, s in scores.items()}
    together = halves.pop(AGGREGATE)
    cell = cell_provenance(scores[AGGREGATE].provenance, None, shots, seed)
    inputs = {name: s.artifact.source for name, s in scores.items()}
    record = build_provenance("steps.correlate_tasks", inputs, options, cell)
    write(out, CROSS_TASK, cross_task(halves, together, aggregate), record)
