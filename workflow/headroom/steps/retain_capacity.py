"""Step: induction capacity retained under the rankings of tasks and of their aggregate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headroom.artifacts.capacity import CAPACITY
from headroom.artifacts.copying import COPYING
from headroom.artifacts.heads import grid, read_ranking
from headroom.artifacts.prefix_matching import PREFIX_MATCHING
from headroom.artifacts.store import provenance, read, write
from headroom.capacity import capacity
from headroom.correlation import AGGREGATE
from headroom.provenance import describe


def run(out: Path, results: Path, tasks: Sequence[str], shots: int, seed: int) -> None:
    """Write a capacity artifact."""
    kinds = (PREFIX_MATCHING, COPYING)
    induction = {kind.name: results / "induction" / f"{kind.name}.parquet" for kind in kinds}
    scores = {kind.name: grid(read(path := induction[kind.name], kind), "mean", path) for kind in kinds}
    names = list(dict.fromkeys([*tasks, AGGREGATE]))
    orders = {task: results / "ranking" / "heads" / task / f"{shots}shot-seed{seed}.parquet" for task in names}
    rankings = {task: read_ranking(path) for task, path in orders.items()}
    facts = {"model": provenance(induction[COPYING.name]).get("model"), "shots": shots, "seed": seed}
    record = describe("steps.retain_capacity", {**induction, **orders}, {"tasks": list(tasks)}, facts)
    write(out, CAPACITY, capacity(scores, rankings), record)
