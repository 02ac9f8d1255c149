"""Step: head scores averaged over few-shot seeds, with the variance that the seed causes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from lm_headroom.artifacts.heads import places
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.seed_scores import SEED_SCORES
from lm_headroom.artifacts.store import Source, write
from lm_headroom.errors import HeadroomError
from lm_headroom.options import Counts, OutFile, StudyKey, recorded_options


def average_seeds(
    *,
    results: Path,
    tasks: Annotated[Sequence[str], StudyKey("tasks")],
    shots: Annotated[Counts, StudyKey("shots", sorted)],
    seeds: Annotated[Counts, StudyKey("seeds", sorted)],
    out: OutFile,
) -> None:
    """Average head scores over few-shot seeds, with the seeds' variance.

    Args:
        results: the model's results folder.
        tasks: tasks of the study, in its order.
        shots: numbers of few-shot examples.
        seeds: few-shot seeds; their variance needs two or more.
        out: the seed-scores artifact.

    Raises:
        HeadroomError: fewer than two seeds.

    Example:
        lm-headroom average-seeds --results results/opt --tasks copa piqa --shots 0 1 --seeds 1 2 3 --out seeds.parquet
    """
    from lm_headroom.analysis.correlation import TaskScores
    from lm_headroom.analysis.variance import head_components
    from lm_headroom.results.matrix import ResultsMatrix
    from lm_headroom.results.scores import read_seeds

    options = recorded_options(average_seeds, locals())
    if len(set(seeds)) < 2:
        raise HeadroomError(f"a variance over seeds needs at least two seeds, got {list(seeds)}")
    matrix = ResultsMatrix(results, tuple(tasks), tuple(shots))
    columns: dict[str, list[Any]] = {column.name: [] for column in SEED_SCORES.columns}
    inputs: dict[str, Source] = {}
    provenance: dict[str, Any] = {}
    for k in shots:
        for task, by_seed in read_seeds(matrix, k, seeds).items():
            components = head_components([TaskScores(s.score, s.even, s.odd) for s in by_seed.values()])
            numbers = places(by_seed[seeds[0]].layers, components.mean.shape[1])
            columns["task"] += [task] * components.mean.size
            columns["shots"] += [k] * components.mean.size
            columns["layer"] += numbers["layer"]
            columns["head"] += numbers["head"]
            columns["score"] += components.mean.ravel().tolist()
            columns["variance"] += components.total.ravel().tolist()
            columns["seed_variance"] += components.seed.ravel().tolist()
            inputs |= {f"{task} {k}-shot seed {seed}": s.artifact.source for seed, s in by_seed.items()}
            provenance = cell_provenance(by_seed[seeds[0]].provenance, None, None)
    write(out, SEED_SCORES, columns, build_provenance("steps.average_seeds", inputs, options, provenance))
