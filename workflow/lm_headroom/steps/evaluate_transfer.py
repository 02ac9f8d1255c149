"""Step: one task under the rankings of the tasks whose head scores correlate most and least with its own.

Which tasks these are depends on the correlations, so this step reads them itself: the files' names are fixed, and the
partner is a column (Figures 9, 16, 17).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pyarrow as pa

from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.ordered import read_ranking
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import read_artifact, write
from lm_headroom.errors import HeadroomError
from lm_headroom.options import EvaluationSettings, Levels, OutFolder, StudyKey, recorded_options
from lm_headroom.study.choices import Statistic, with_zero


def evaluate_transfer(
    *,
    settings: EvaluationSettings,
    prompts: Path,
    correlations: Path,
    ranking_folder: Path,
    task: str,
    tasks: Annotated[Sequence[str], StudyKey("tasks")],
    correlation: Annotated[Statistic, StudyKey("correlation")] = "spearman",
    levels: Annotated[Levels, StudyKey("transfer.levels", with_zero)] = (0, 10, 30, 50, 70, 90),
    out: OutFolder,
) -> None:
    """Evaluate a task under the rankings of the tasks most and least correlated with it.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        correlations: cross-task artifact of the same shot and seed.
        ranking_folder: folder with a ranking {task}/{name of the correlations file} for each task.
        task: the task of the prompts.
        tasks: tasks of the study, in its order.
        correlation: the statistic by which tasks are compared.
        levels: percents of heads pruned; 0 is always evaluated.
        out: folder for highest_srcc.parquet and lowest_srcc.parquet.

    Raises:
        HeadroomError: no other task has a correlation with this one; or prompts, correlations or a ranking are of
            another model, task, shot or seed.

    Example:
        lm-headroom evaluate-transfer --model results/opt/model.json --out curves
        --prompts results/prompts/copa/0shot-seed1234.parquet --ranking-folder results/opt/ranking/heads
        --correlations results/opt/correlation/cross_task/0shot-seed1234.parquet --task copa --tasks copa piqa
    """
    from lm_headroom.analysis.correlation import STATISTICS, partners
    from lm_headroom.steps.prepare_evaluation import prepare

    recorded = recorded_options(evaluate_transfer, locals())
    prepared = prepare("evaluate-transfer", settings.model, prompts, settings)
    if prepared.prompts.task not in (None, task):
        raise HeadroomError(f"{prompts}: these are the prompts of {prepared.prompts.task}, not of {task}")
    expected = prepared.expected(task)
    correlated = read_artifact(correlations, CROSS_TASK, **(expected | {"task": None}))
    chosen = partners(task, _correlations(correlated.table, task, tasks, STATISTICS[correlation]))
    rankings = {
        partner: read_ranking(ranking_folder / partner / correlations.name, **(expected | {"task": partner}))
        for partner in dict.fromkeys(partner for partner, _ in chosen.values())
    }
    for ranking in rankings.values():
        prepared.check_fits(ranking)
    prepared.expect(len(levels) * len(chosen))
    options = {name: value for name, value in recorded.items() if name != "tasks"}
    for name, (partner, value) in chosen.items():
        columns = prepared.evaluation.curve(rankings[partner].order, levels)
        columns |= {"partner": [partner] * len(levels), "correlation": [value] * len(levels)}
        source = rankings[partner].artifact.source
        inputs = {"prompts": prepared.prompts.source, "correlations": correlated.source, "ranking": source}
        provenance = {**prepared.provenance, "ranking": name, "partner": partner}
        record = build_provenance("steps.evaluate_transfer", inputs, options, provenance)
        write(out / f"{name}.parquet", PRUNED_EVAL, columns, record, prepared.run_statistics)


def _correlations(table: pa.Table, task: str, tasks: Sequence[str], statistic: str) -> dict[str, float]:
    """The correlation of each of the tasks with a task, as far as there is one."""
    values = {row["task_b"]: row[statistic] for row in table.to_pylist() if row["task_a"] == task}
    return {name: values[name] for name in tasks if name in values}
