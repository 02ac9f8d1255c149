"""``python -m benchmarks``: run the measures and write docs/benchmarks.json and docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import measures
from benchmarks.answers import answers
from benchmarks.bench import TASKS, Bench, Row
from benchmarks.contest import say
from benchmarks.operations import with_operations
from benchmarks.pruned import pruned
from benchmarks.report import stamp, write

ROOT = Path(__file__).resolve().parents[1]
MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "a": measures.evaluation,
    "b": measures.oracle,
    "c": measures.head_importance,
    "d": measures.induction,
    "e": measures.pair,
    "f": measures.start_up,
    "h": pruned,
    "i": answers,
    "j": measures.attention_statistics,
    "m": measures.removed_heads,
}
BESIDE = {"a": "k", "b": "l", "e": "g"}
"""Measures whose runs give the rows of another one, too."""


def main() -> int:
    """Run what is asked for; 1 where results are not equal."""
    p = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    p.add_argument(
        "--measures", nargs="*", choices=sorted(MEASURES), default=sorted(MEASURES), help="none: count operations anew"
    )
    p.add_argument("--tasks", nargs="+", choices=TASKS, help="only these; the rows of others stay")
    p.add_argument("--records", type=Path, required=True, help="folder with {task}/{split}.parquet")
    p.add_argument("--model", type=Path, required=True, help="model.json of a LLaMA in float32")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--short", action="store_true", help="two tasks, two documents, one round: whether it runs")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="path without suffix")
    o = p.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(o.threads)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "workflow")])
    bench = Bench(o.model.resolve(), o.records.resolve(), o.rounds)
    if o.short:
        bench = replace(
            bench, rounds=1, documents={0: 2, 5: 2}, tasks=("copa", "arc_easy"), batches=(1, 4),
            pairs_whole={"copa": 3}, documents_pruned=2,
        )  # fmt: skip
    if o.tasks:
        whole = {task: n for task, n in bench.pairs_whole.items() if task in o.tasks}
        bench = replace(bench, tasks=tuple(task for task in bench.tasks if task in o.tasks), pairs_whole=whole)
    missing = [task for task in bench.tasks if not (bench.records / task).is_dir()]
    if missing:
        say(f"no records of {', '.join(missing)} in {bench.records}: these tasks are left out")
        bench = replace(bench, tasks=tuple(task for task in bench.tasks if task not in missing))
    rows: list[Row] = []
    path = o.out.with_suffix(".json")
    if path.is_file():
        # A run of some measures keeps the others'.
        replaced = {*o.measures, *(BESIDE[name] for name in o.measures if name in BESIDE)}
        before = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for row in before if row["measure"] not in replaced or not _asked(row, o.tasks)]
    provenance = stamp(o.threads)
    for name in o.measures:
        for row in MEASURES[name](bench):
            say(f"  {row['measure']} {row['task']} {row['shots']}: {row['ratio']} {row['spread']} equal {row['equal']}")
            rows.append(row | provenance)
            write(o.out, rows)
    write(o.out, with_operations(bench, rows))
    unequal = [row for row in rows if not row["equal"]]
    for row in unequal:
        say(f"not equal: {row}")
    return bool(unequal)


def _asked(row: Row, tasks: list[str] | None) -> bool:
    """Whether a row is to be made anew; the plan's rows name a rule before the task, those of measure h what went."""
    return tasks is None or row["measure"] == "h" or not row["task"] or row["task"].split(", ")[-1] in tasks


if __name__ == "__main__":
    sys.exit(main())
