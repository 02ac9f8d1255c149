"""Step: induction capacity retained under the rankings of tasks and of their aggregate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.analysis.capacity import capacity
from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.artifacts.capacity import CAPACITY
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.ordered import read_ranking
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import ArtifactFile, digest_of, read_artifact, write
from lm_headroom.results.matrix import ResultsMatrix


def run(out: Path, results: Path, tasks: Sequence[str], shots: int, seed: int) -> None:
    """Write a capacity artifact.

    Raises:
        ArtifactError: an artifact is missing, damaged, or of another model, task, shot or seed.
    """
    matrix = ResultsMatrix(results, tuple(tasks), (shots,), seed)
    model = matrix.digest
    induction: dict[str, ArtifactFile] = {}
    for kind in (COPYING, PREFIX_MATCHING):
        path = matrix.path(kind.name)
        induction[kind.name] = read_artifact(path, kind, model=model)
        # Without a record, all must be of the model that the first is of.
        model = model or digest_of(induction[kind.name].provenance)
    scores = {name: grid(artifact.table, "mean") for name, artifact in sorted(induction.items(), reverse=True)}
    rankings = {
        task: read_ranking(
            matrix.path("ranking", shots, task=task), **(matrix.expected(shots, task) | {"model": model})
        )
        for task in dict.fromkeys([*tasks, AGGREGATE])
    }
    inputs = {
        **{name: artifact.source for name, artifact in induction.items()},
        **{task: ranking.artifact.source for task, ranking in rankings.items()},
    }
    cell = cell_provenance(induction[COPYING.name].provenance, None, shots, seed)
    record = build_provenance("steps.retain_capacity", inputs, {"tasks": list(tasks)}, cell)
    write(out, CAPACITY, capacity(scores, {task: ranking.order for task, ranking in rankings.items()}), record)
