"""Step: rank correlation of gradient scores with the oracle, of FFNs and, where the oracle removed any, heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lm_headroom.analysis.columns import by_column
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import reads, write
from lm_headroom.options import Counts, Names, OutFile, StudyKey, recorded_options

if TYPE_CHECKING:
    from lm_headroom.results.oracle import OracleScores

_NAMES = {"low": "srcc_low", "high": "srcc_high", "within_layer": "srcc_within_layer"}


def correlate_oracle(
    *,
    results: Path,
    tasks: Annotated[Sequence[str], StudyKey("tasks")],
    shots: Annotated[Counts, StudyKey("shots", sorted)],
    head_tasks: Annotated[Names, StudyKey("oracle_tasks")] = (),
    seed: int = 1234,
    out: OutFile,
) -> None:
    """Correlate gradient scores of FFNs and heads with the oracle's.

    Args:
        results: the model's results folder.
        tasks: tasks of the study, in its order.
        shots: numbers of few-shot examples.
        head_tasks: tasks whose heads were removed one at a time.
        seed: seed of the few-shot sampler.
        out: the oracle-agreement artifact.

    Example:
        lm-headroom correlate-oracle --results results/opt --tasks copa piqa --shots 0 1 --head-tasks copa
        --out agreement.parquet
    """
    from lm_headroom.results.matrix import ResultsMatrix
    from lm_headroom.results.oracle import read_ffns, read_heads

    options = recorded_options(correlate_oracle, locals())
    matrix = ResultsMatrix(results, tuple(tasks), tuple(shots), seed)
    with reads() as sources:
        ffns = {(k, task): read_ffns(matrix, k, task) for k in shots for task in tasks}
        heads = {(k, task): read_heads(matrix, k, task) for k in shots for task in head_tasks}
    rows = [
        row
        for component, scores in (("ffns", ffns), ("heads", heads))
        for (k, task), oracle in scores.items()
        for row in _rows(component, task, k, oracle)
    ]
    inputs = {str(path.relative_to(results)): source for path, source in sources.items()}
    provenance = cell_provenance(ffns[shots[0], tasks[0]].provenance, None, None, seed)
    record = build_provenance("steps.correlate_oracle", inputs, options, provenance)
    write(out, ORACLE_AGREEMENT, by_column(rows), record)


def _rows(component: str, task: str, shots: int, scores: OracleScores) -> list[dict[str, Any]]:
    """A row per measure of the oracle."""
    from lm_headroom.analysis.oracle_agreement import agreement

    rows = []
    for measure, outcomes in scores.outcomes.items():
        agreed = agreement(scores.gradient, outcomes, scores.blocks, scores.sampled, scores.same_documents)
        statistics = asdict(agreed)
        n_components, n_questions = outcomes.shape
        names = {"component": component, "task": task, "shots": shots, "measure": measure}
        counts = {"n_components": n_components, "n_questions": n_questions}
        rows.append({**names, **counts, **{_NAMES.get(name, name): value for name, value in statistics.items()}})
    return rows
