"""Step: induction capacity retained under the rankings of tasks and of their aggregate."""

from __future__ import annotations

from lm_headroom.analysis.capacity import capacity
from lm_headroom.artifacts.capacity import CAPACITY
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.ordered import read_ranking
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import ArtifactFile, digest_of, read_artifact, write
from lm_headroom.options import Cells, OutFile, recorded_options
from lm_headroom.study.ranking_names import AGGREGATE


def retain_capacity(*, cells: Cells, out: OutFile) -> None:
    """Count the induction capacity that pruning retains.

    Args:
        cells: which results are read.
        out: the capacity artifact.

    Raises:
        ArtifactError: an artifact is missing, damaged, or of another model, task, shot or seed.

    Example:
        lm-headroom retain-capacity --results results/opt --tasks copa piqa --shots 0 --out capacity.parquet
    """
    from lm_headroom.results.matrix import ResultsMatrix

    options = recorded_options(retain_capacity, locals())
    matrix = ResultsMatrix(cells.results, tuple(cells.tasks), (cells.shots,), cells.seed)
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
            matrix.path("ranking", cells.shots, task=task), **(matrix.expected(cells.shots, task) | {"model": model})
        )
        for task in dict.fromkeys([*cells.tasks, AGGREGATE])
    }
    inputs = {
        **{name: artifact.source for name, artifact in induction.items()},
        **{task: ranking.artifact.source for task, ranking in rankings.items()},
    }
    cell = cell_provenance(induction[COPYING.name].provenance, None, cells.shots, cells.seed)
    record = build_provenance("steps.retain_capacity", inputs, options, cell)
    write(out, CAPACITY, capacity(scores, {task: ranking.order for task, ranking in rankings.items()}), record)
