"""Step: rank correlations between the head scores of all tasks of one shot and seed."""

from __future__ import annotations

from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import write
from lm_headroom.options import AggregatedCells, OutFile, recorded_options
from lm_headroom.study.ranking_names import AGGREGATE


def correlate_tasks(*, cells: AggregatedCells, out: OutFile) -> None:
    """Correlate the head scores of all tasks and their aggregate.

    Args:
        cells: which results are correlated.
        out: the cross-task artifact.

    Example:
        lm-headroom correlate-tasks --results results/opt --tasks copa piqa --shots 0 --out cross_task.parquet
    """
    from lm_headroom.analysis.correlation import cross_task
    from lm_headroom.results.matrix import ResultsMatrix
    from lm_headroom.results.scores import read_tasks

    options = recorded_options(correlate_tasks, locals())
    matrix = ResultsMatrix(cells.results, tuple(cells.tasks), (cells.shots,), cells.seed)
    scores = read_tasks(matrix, cells.shots, aggregate=True)
    scores[AGGREGATE].artifact.check_origin(aggregate=cells.aggregate)
    halves = {name: s.by_halves for name, s in scores.items()}
    together = halves.pop(AGGREGATE)
    cell = cell_provenance(scores[AGGREGATE].provenance, None, cells.shots, cells.seed)
    inputs = {name: s.artifact.source for name, s in scores.items()}
    record = build_provenance("steps.correlate_tasks", inputs, options, cell)
    write(out, CROSS_TASK, cross_task(halves, together, cells.aggregate), record)
