"""Step: induction capacity retained under the rankings of tasks and of their aggregate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.analysis.capacity import capacity
from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.artifacts.capacity import CAPACITY
from lm_headroom.artifacts.catalogue import file_of
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.heads import grid, read_ranking
from lm_headroom.artifacts.model_record import recorded_digest
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.store import digest_of, provenance, read, write


def run(out: Path, results: Path, tasks: Sequence[str], shots: int, seed: int) -> None:
    """Write a capacity artifact.

    Raises:
        ArtifactError: an artifact is missing, damaged, or of another model, task, shot or seed.
    """
    kinds = (PREFIX_MATCHING, COPYING)
    induction = {kind.name: file_of(results, kind.name) for kind in kinds}
    first = provenance(induction[COPYING.name])
    model = recorded_digest(results) or digest_of(first)
    scores = {kind.name: grid(read(induction[kind.name], kind, model=model), "mean") for kind in kinds}
    names = list(dict.fromkeys([*tasks, AGGREGATE]))
    orders = {task: file_of(results, "ranking", task=task, shot=shots, seed=seed) for task in names}
    rankings = {
        task: read_ranking(path, model=model, task=task, shots=shots, seed=seed) for task, path in orders.items()
    }
    facts = cell_provenance(first, None, shots, seed)
    record = build_provenance("steps.retain_capacity", {**induction, **orders}, {"tasks": list(tasks)}, facts)
    write(out, CAPACITY, capacity(scores, rankings), record)
