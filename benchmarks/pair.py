"""Measure e: a (task, shot) pair. ``python -m benchmarks.pair`` is the rival: one process that loops over masks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contest import Timed, say

if TYPE_CHECKING:
    from benchmarks.measures import Bench

LEVELS = (0, 10, 30, 50, 70, 90)
GRID_HEADS, GRID_FFNS = (0, 30, 60, 90), (0, 20, 40)
SAMPLED = (("own", 0, 0), ("own", 30, 0), ("own", 70, 0), ("ffns", 0, 30), ("joint", 60, 20), ("joint", 90, 40))
"""Evaluations of the rival that are timed: heads and FFNs pruned, in percent. To it, all masks cost the same."""


def run_pair(bench: Bench, task: str, shots: int, n: int) -> tuple[dict[str, Timed], bool, int]:
    """Times of our jobs and of the rival's process, whether outcomes are equal, and how many evaluations it makes.

    The jobs are those of the workflow for one pair, own rankings in place of the aggregate's: head importance; FFN
    importance with its curve; curves under the own and a random ranking; the joint grid with a curve of heads.
    """
    from headroom import anatomy

    layers = anatomy.heads(bench.loaded().model).layers
    # Dense and one per layer; own, random, aggregate and FFN curves; the grid.
    evaluations = 1 + layers + 4 * len(LEVELS) + len(GRID_HEADS) * len(GRID_FFNS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = folder / "prompts.parquet"
        _run("prompts", "--task", task, "--shots", shots, "--data", bench.records, "--limit-importance", n,
             "--limit-evaluation", n, "--out", prompts)  # fmt: skip
        ours, loops, outcomes = [], [], []
        for number in range(bench.rounds):
            if number % 2 == 0:
                ours.append(_jobs(bench, prompts, folder))
                seconds, found = _loops(bench, prompts, folder, evaluations)
            else:
                seconds, found = _loops(bench, prompts, folder, evaluations)
                ours.append(_jobs(bench, prompts, folder))
            loops.append(seconds)
            outcomes.append(found)
            say(f"e {task} round {number}: ours {ours[-1]:.0f} s, loops {loops[-1]:.0f} s")
        same = _equal(folder, outcomes[0])
    return {"ours": Timed(ours, None), "loops": Timed(loops, None)}, same, evaluations


def _jobs(bench: Bench, prompts: Path, folder: Path) -> float:
    """Our jobs one after the other, each a process: seconds."""
    import torch

    model = ["--model", bench.record, "--prompts", prompts, "--device", "cpu", "--threads", torch.get_num_threads()]
    start = time.perf_counter()
    _run("head-importance", *model, "--ranking", folder / "heads.parquet", "--out", folder / "scores.parquet")
    ffns = ["--ranking", folder / "ffns.parquet", "--curve", folder / "ffn_curve.parquet", "--levels", *LEVELS]
    _run("ffn-importance", *model, *ffns, "--out", folder / "ffn_scores.parquet")
    curves = ["--ranking-file", folder / "heads.parquet", "--rankings", "own", "random_1", "--levels", *LEVELS]
    _run("prune", *model, *curves, "--out", folder / "curves")
    rankings = ["--heads-ranking", folder / "heads.parquet", "--ffns-ranking", folder / "ffns.parquet"]
    grid = ["--joint-heads", *GRID_HEADS, "--joint-ffns", *GRID_FFNS]
    curve = ["--curve", folder / "aggregate.parquet", "--curve-ranking", folder / "heads.parquet", "--levels", *LEVELS]
    _run("joint", *model, *rankings, *grid, *curve, "--out", folder / "joint.parquet")
    return time.perf_counter() - start


def _run(*arguments: Any) -> None:
    subprocess.run([sys.executable, "-m", "headroom", *map(str, arguments)], check=True, capture_output=True)


def _loops(bench: Bench, prompts: Path, folder: Path, evaluations: int) -> tuple[float, dict[str, Any]]:
    """The rival's process: seconds, the timed evaluations scaled to all of them; and what it found."""
    command = [sys.executable, "-m", "benchmarks.pair", str(bench.record), str(prompts), str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seconds + found["seconds"] * (evaluations / len(SAMPLED) - 1) - found["search"], found


def _equal(folder: Path, found: dict[str, Any]) -> bool:
    """Whether each document that no rounding could turn is right on both sides, or wrong on both."""
    from headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
    from headroom.artifacts.store import read

    curve = {row["percent"]: row for row in read(folder / "curves" / "own.parquet", PRUNED_EVAL).to_pylist()}
    ffns = {row["percent"]: row for row in read(folder / "ffn_curve.parquet", PRUNED_EVAL).to_pylist()}
    cells = read(folder / "joint.parquet", JOINT_EVAL).to_pylist()
    grid = {(row["percent_heads"], row["percent_ffns"]): row for row in cells}
    same = True
    for (kind, heads, layers), right, sure in zip(SAMPLED, found["right"], found["sure"], strict=True):
        ours = {"own": curve.get(heads), "ffns": ffns.get(layers), "joint": grid.get((heads, layers))}[kind]
        assert ours is not None
        same &= all(a == b for a, b, certain in zip(ours["correct"], right, sure, strict=True) if certain)
    return same


def loop(record: Path, prompts: Path, folder: Path) -> dict[str, Any]:
    """What a user would write: the released way for importance, HFLM in a loop over masks."""
    import numpy as np
    import torch

    from benchmarks.measures import NEAR
    from benchmarks.rivals import Harness, released_importance
    from headroom.artifacts.ffns import read_ffn_ranking
    from headroom.artifacts.heads import read_ranking
    from headroom.artifacts.prompts import EVALUATION, IMPORTANCE
    from headroom.likelihood import encode
    from headroom.ranking import count_at
    from headroom.steps.read_prompts import first_gold, rows

    torch.set_num_threads(2)
    rival = Harness(record, "float32")

    def pairs(table: Any) -> list[tuple[int, str, str]]:
        names = ("doc_id", "context", "continuation")
        return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))

    tokenizer = rival.hflm.tokenizer
    released_importance(rival.model, encode(pairs(first_gold(rows(prompts, IMPORTANCE))), tokenizer, 2048))
    table = rows(prompts, EVALUATION)
    asked, gold = pairs(table), table.column("gold").to_pylist()
    # The search for the best batch size is not counted: a user would know it.
    start = time.perf_counter()
    timed = {}
    for size in (1, 8):
        begin = time.perf_counter()
        rival.log_likelihoods(asked, size)
        timed[size] = time.perf_counter() - begin
    best = min(timed, key=lambda size: timed[size])
    search = time.perf_counter() - start
    heads, layers = read_ranking(folder / "heads.parquet"), read_ffn_ranking(folder / "ffns.parquet")
    right: list[list[bool]] = []
    sure: list[list[bool]] = []
    start = time.perf_counter()
    for _, percent_heads, percent_ffns in SAMPLED:
        gone = heads[: count_at(percent_heads, len(heads))], layers[: count_at(percent_ffns, len(layers))]
        with rival.without(*gone):
            values = rival.log_likelihoods(asked, best)
        ids = [doc_id for doc_id, _, _ in asked]
        right.append([])
        sure.append([])
        for doc_id in dict.fromkeys(ids):
            places = [place for place, other in enumerate(ids) if other == doc_id]
            order = np.argsort(values[places])
            right[-1].append(bool(gold[places[order[-1]]]))
            sure[-1].append(bool(values[places[order[-1]]] - values[places[order[-2]]] > NEAR))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "search": search, "batch": best, "right": right, "sure": sure}


if __name__ == "__main__":
    print(json.dumps(loop(*map(Path, sys.argv[1:]))))
