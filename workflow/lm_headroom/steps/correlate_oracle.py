"""Step: rank correlation of gradient scores with the oracle, of FFNs and, where the oracle removed any, heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lm_headroom.analysis.oracle_agreement import agreement
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import by_column, provenance, reads, write
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.oracle import Compared, read_ffns, read_heads

_NAMES = {"low": "srcc_low", "high": "srcc_high", "within_layer": "srcc_within_layer"}


def run(
    out: Path, results: Path, tasks: Sequence[str], head_tasks: Sequence[str], shots: Sequence[int], seed: int
) -> None:
    """Write an oracle-agreement artifact.

    Args:
        out: the artifact.
        results: the model's results folder.
        tasks: whose FFNs are compared.
        head_tasks: whose heads are.
        shots, seed: of all of them.
    """
    matrix = ResultsMatrix(results, tuple(tasks), tuple(shots), seed)
    with reads() as sources:
        rows = [row for k in shots for task in tasks for row in _rows("ffns", task, k, read_ffns(matrix, k, task))]
        rows += [
            row for k in shots for task in head_tasks for row in _rows("heads", task, k, read_heads(matrix, k, task))
        ]
    inputs = {str(path.relative_to(results)): path for path in sources}
    options = {"tasks": list(tasks), "head_tasks": list(head_tasks), "shots": sorted(shots)}
    facts = cell_provenance(provenance(matrix.path("ffn_importance", shots[0], task=tasks[0])), None, None, seed)
    write(out, ORACLE_AGREEMENT, by_column(rows), build_provenance("steps.correlate_oracle", inputs, options, facts))


def _rows(component: str, task: str, shots: int, found: Compared) -> list[dict[str, Any]]:
    rows = []
    for measure, outcomes in found.outcomes.items():
        of = agreement(found.gradient, outcomes, found.blocks, found.sampled)
        n_components, n_questions = outcomes.shape
        names = {"component": component, "task": task, "shots": shots, "measure": measure}
        counts = {"n_components": n_components, "n_questions": n_questions}
        rows.append({**names, **counts, **{_NAMES.get(name, name): value for name, value in asdict(of).items()}})
    return rows
