"""Step: one task under the rankings of the tasks whose head scores correlate most and least with its own.

Which tasks these are depends on the correlations, so this step reads them itself: the files' names are fixed, and the
partner is a column (Figures 9, 16, 17).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.analysis.correlation import STATISTICS, Statistic, partners
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.ordered import read_ranking
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import read_artifact, write
from lm_headroom.errors import HeadroomError
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_evaluation import prepare


def run(
    out: Path,
    model: Path,
    prompts: Path,
    correlations: Path,
    rankings: Path,
    task: str,
    tasks: Sequence[str],
    statistic: Statistic,
    levels: Sequence[int],
    settings: Settings,
) -> None:
    """Write ``highest_srcc.parquet`` and ``lowest_srcc.parquet`` below ``out``.

    Args:
        out: folder.
        model, prompts: what is evaluated.
        correlations: cross-task artifact of the same shot and seed.
        rankings: folder with ``{task}/{name of the correlations file}`` for each task.
        task: the task of the prompts.
        tasks: those whose rankings may be taken.
        statistic: which correlation decides.
        levels: percents of heads.
        settings: how to run the model.

    Raises:
        HeadroomError: no other task has a correlation with this one; or prompts, correlations or a ranking are of
            another model, task, shot or seed.
    """
    prepared = prepare("transfer", model, prompts, settings)
    if prepared.prompts.task not in (None, task):
        raise HeadroomError(f"{prompts}: these are the prompts of {prepared.prompts.task}, not of {task}")
    expected = prepared.expected(task)
    correlated = read_artifact(correlations, CROSS_TASK, **(expected | {"task": None}))
    values = {
        row["task_b"]: row[STATISTICS[statistic]] for row in correlated.table.to_pylist() if row["task_a"] == task
    }
    chosen = partners(task, {name: values[name] for name in tasks if name in values})
    given = {
        partner: read_ranking(rankings / partner / correlations.name, **(expected | {"task": partner}))
        for partner in dict.fromkeys(partner for partner, _ in chosen.values())
    }
    for ranking in given.values():
        ranking.check_fits(prepared.shape)
    prepared.expect(len(levels) * len(chosen))
    options = {"levels": list(levels), "correlation": statistic, "add_bos": settings.add_bos}
    for name, (partner, value) in chosen.items():
        columns = prepared.evaluation.curve(given[partner].order, levels)
        columns["partner"] = [partner] * len(levels)
        columns["correlation"] = [value] * len(levels)
        inputs = {
            "prompts": prepared.prompts.source,
            "correlations": correlated.source,
            "ranking": given[partner].artifact.source,
        }
        provenance = {**prepared.provenance, "ranking": name, "partner": partner}
        record = build_provenance("steps.evaluate_transfer", inputs, options, provenance)
        write(out / f"{name}.parquet", PRUNED_EVAL, columns, record, prepared.run_statistics)
