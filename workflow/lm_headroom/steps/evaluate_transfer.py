"""Step: one task under the rankings of the tasks whose head scores correlate most and least with its own.

Which tasks these are depends on the correlations, so this step reads them itself: the files' names are fixed, and the
partner is a column (Figures 9, 16, 17).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.analysis.correlation import STATISTICS, Statistic, partners
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.heads import read_ranking
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import read, write
from lm_headroom.errors import HeadroomError
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_evaluation import check_heads, expected_ranking, prepare
from lm_headroom.steps.read_prompts import task_provenance


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

    def path(partner: str) -> Path:
        return rankings / partner / correlations.name

    expected = expected_ranking(model, prompts, task)
    if (found := task_provenance(prompts).get("task", task)) != task:
        raise HeadroomError(f"{prompts}: these are the prompts of {found}, not of {task}")
    table = read(correlations, CROSS_TASK, **(expected | {"task": None})).to_pylist()
    values = {row["task_b"]: row[STATISTICS[statistic]] for row in table if row["task_a"] == task}
    chosen = partners(task, {name: values[name] for name in tasks if name in values})
    orders = {partner: read_ranking(path(partner), **(expected | {"task": partner})) for partner, _ in chosen.values()}
    prepared = prepare("transfer", model, prompts, settings, len(levels) * len(chosen))
    options = {"levels": list(levels), "correlation": statistic, "add_bos": settings.add_bos}
    for name, (partner, value) in chosen.items():
        pairs = check_heads(path(partner), orders[partner], prepared.loaded)
        columns = prepared.evaluation.curve(pairs, levels)
        columns["partner"] = [partner] * len(levels)
        columns["correlation"] = [value] * len(levels)
        inputs = {"prompts": prompts, "correlations": correlations, "ranking": path(partner)}
        facts = {**prepared.facts, "ranking": name, "partner": partner}
        record = build_provenance("steps.evaluate_transfer", inputs, options, facts)
        write(out / f"{name}.parquet", PRUNED_EVAL, columns, record, prepared.run)
