"""Measure e: a (task, shot) pair. ``python -m benchmarks.pair`` is the rival: one process that loops over masks."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contest import Timed, say
from lm_headroom.checkout import WARM

if TYPE_CHECKING:
    from benchmarks.bench import Bench

LEVELS = (0, 10, 30, 50, 70, 90)
GRID_HEADS, GRID_FFNS = (0, 30, 60, 90), (0, 20, 40)
SAMPLED = (("own", 0, 0), ("own", 30, 0), ("own", 70, 0), ("ffns", 0, 30), ("joint", 60, 20), ("joint", 90, 40))
"""Evaluations of the rival that are timed: heads and FFNs pruned, in percent. To it, all masks cost the same."""
HEADS_RANKED = {"own": "heads.parquet", "ffns": "heads.parquet", "joint": "aggregate.parquet"}
"""Kind of evaluation to the ranking of heads in it."""
OTHERS = ("piqa", "copa")
"""Tasks of which one makes the aggregate differ from the task's own ranking."""


@dataclass(frozen=True)
class Pair:
    """What became of a pair.

    Attributes:
        times: of our jobs together, and of the rival's process.
        same: whether outcomes are equal.
        evaluations: how many the rival makes.
        jobs: rule to seconds planned and measured, and to bytes planned and measured.
    """

    times: dict[str, Timed]
    same: bool
    evaluations: int
    jobs: dict[str, tuple[float, float, float, float]]


def run_pair(bench: Bench, task: str, shots: int, n: int) -> Pair:
    """Run a pair's jobs and the rival's loop in turns.

    The jobs are those of the workflow for one pair: head importance; FFN importance with curves under the own and a
    random ranking; the same curves of heads; the joint grid with a curve of heads under the aggregate of two tasks (of
    FFNs, the task's own). The other task's scores are there before.
    """
    from lm_headroom.artifacts.store import run_statistics
    from lm_headroom.models import architectures

    evaluations = n_evaluations(architectures.head_layout(bench.loaded().model).layers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = folder / "prompts.parquet"
        _run("render-prompts", "--task", task, "--shots", shots, "--data", bench.records, "--limit-importance", n,
             "--limit-evaluation", n, "--out", prompts)  # fmt: skip
        other = next(name for name in OTHERS if name != task)
        _score_another(bench, folder, other, shots)
        ours: list[float] = []
        loops: list[float] = []
        outcomes: list[dict[str, Any]] = []
        each: list[dict[str, float]] = []
        planned = _planned(bench, prompts, task, shots)
        for number in range(bench.few_rounds):
            # Kept units would be found again.
            shutil.rmtree(folder / "parts", ignore_errors=True)
            if number % 2 == 0:
                each.append(_jobs(bench, prompts, folder, task, other, shots))
                seconds, results = _loops(bench, prompts, folder, evaluations)
            else:
                seconds, results = _loops(bench, prompts, folder, evaluations)
                each.append(_jobs(bench, prompts, folder, task, other, shots))
            ours.append(sum(each[-1].values()))
            loops.append(seconds)
            outcomes.append(results)
            say(f"e {task} round {number}: ours {ours[-1]:.0f} s, loops {loops[-1]:.0f} s")
        same = _equal(folder, outcomes[0])
        jobs = {
            rule: (
                planned[rule].longest,
                statistics.median(seconds[rule] for seconds in each),
                planned[rule].memory,
                run_statistics(folder / artifact)["peak_memory_mib"] * 2**20,
            )
            for rule, artifact in {"score_heads": _scores(folder, task, shots), **ARTIFACTS}.items()
        }
    return Pair({"ours": Timed(ours, None), "loops": Timed(loops, None)}, same, evaluations, jobs)


def n_evaluations(layers: int) -> int:
    """What the rival makes: dense, one per layer; own and random curves of heads and FFNs, an aggregate's; the grid."""
    return 1 + layers + 5 * len(LEVELS) + len(GRID_HEADS) * len(GRID_FFNS)


def study_of(task: str, shots: int) -> Any:
    """The study that has these jobs."""
    from lm_headroom.study.reading import parse_study

    return parse_study(
        {
            "tasks": [task],
            "shots": [shots],
            "pruning": {"levels": list(LEVELS), "controls": ["random_1"]},
            "joint": {"heads": list(GRID_HEADS), "ffns": list(GRID_FFNS)},
        }
    )


def _scores(folder: Path, task: str, shots: int) -> Path:
    return folder / "head_importance" / task / f"{shots}shot-seed1234.parquet"


def _score_another(bench: Bench, folder: Path, task: str, shots: int) -> None:
    """Write another task's head scores, from a few documents."""
    prompts = folder / "other.parquet"
    _run("render-prompts", "--task", task, "--shots", shots, "--data", bench.records, "--limit-importance", 8,
         "--limit-evaluation", 1, "--out", prompts)  # fmt: skip
    _run("score-heads", *_model(bench), "--prompts", prompts, "--ranking", folder / "other_heads.parquet",
         "--out", _scores(folder, task, shots))  # fmt: skip


def _model(bench: Bench) -> list[Any]:
    import torch

    return ["--model", bench.record, "--device", "cpu", "--threads", torch.get_num_threads()]


def _jobs(bench: Bench, prompts: Path, folder: Path, task: str, other: str, shots: int) -> dict[str, float]:
    """Our jobs one after the other, each a process: rule to seconds."""
    model = [*_model(bench), "--prompts", prompts, "--cache", folder / "parts"]
    heads = ["--ranking", folder / "heads.parquet", "--out", _scores(folder, task, shots)]
    ffns = ["--ranking", folder / "ffns.parquet", "--curve", folder / "ffns" / "own.parquet"]
    ffns += ["--controls", "random_1", "--levels", *LEVELS]
    curves = ["--ranking-file", folder / "heads.parquet", "--rankings", "own", "random_1", "--levels", *LEVELS]
    aggregation = [
        "--results",
        folder,
        "--tasks",
        task,
        other,
        "--shots",
        shots,
        "--out",
        folder / "mean.parquet",
    ]
    aggregate = folder / "aggregate.parquet"
    rankings = ["--heads-ranking", aggregate, "--ffns-ranking", folder / "ffns.parquet"]
    grid = ["--joint-heads", *GRID_HEADS, "--joint-ffns", *GRID_FFNS]
    curve = ["--curve", folder / "curve.parquet", "--curve-ranking", aggregate, "--levels", *LEVELS]
    return {
        "score_heads": _run("score-heads", *model, *heads),
        "score_ffns": _run("score-ffns", *model, *ffns, "--out", folder / "ffn_scores.parquet"),
        "evaluate_own": _run("evaluate-pruned", *model, *curves, "--out", folder / "curves"),
        "aggregate_heads": _run("aggregate-heads", *aggregation, "--ranking", aggregate),
        "evaluate_joint": _run("evaluate-joint", *model, *rankings, *grid, *curve, "--out", folder / "joint.parquet"),
    }


ARTIFACTS = {
    "score_ffns": "ffns/own.parquet",
    "evaluate_own": "curves/own.parquet",
    "evaluate_joint": "joint.parquet",
}
"""Rule to an artifact that says what its job took; head importance has its scores."""
JOBS = ("score_heads", *ARTIFACTS)
"""Rules that run the model."""


def _run(*arguments: Any) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "lm_headroom", *map(str, arguments)]
    # As the workflow's jobs run.
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {WARM: "1"})
    return time.perf_counter() - start


def _planned(bench: Bench, prompts: Path, task: str, shots: int) -> dict[str, Any]:
    """What ``lm-headroom plan`` says of the same jobs on this machine: rule to its job."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from lm_headroom.models.location import checkpoint_folder
    from lm_headroom.models.sizes import model_from_config
    from lm_headroom.planning import plan

    path = checkpoint_folder(bench.record)
    config, tokenizer = AutoConfig.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    study = study_of(task, shots)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "prompts" / task / f"{shots}shot-seed1234.parquet"
        place.parent.mkdir(parents=True)
        place.write_bytes(prompts.read_bytes())
        actual = plan.read_prompts(study, Path(name), tokenizer, config.max_position_embeddings, 1000)
    node = plan.measure_hardware(config, "float32", torch.get_num_threads())
    costs = plan.costs_of(model_from_config(config, torch.float32))
    return {job.rule: job for job in plan.jobs(study, [prompts.loads for prompts in actual], costs, node)}


def _loops(bench: Bench, prompts: Path, folder: Path, evaluations: int) -> tuple[float, dict[str, Any]]:
    """The rival's process: seconds, the timed evaluations scaled to all of them; and what it found."""
    command = [sys.executable, "-m", "benchmarks.pair", str(bench.record), str(prompts), str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seconds + results["seconds"] * (evaluations / len(SAMPLED) - 1) - results["search"], results


def _equal(folder: Path, results: dict[str, Any]) -> bool:
    """Whether each document that no rounding could turn is right on both sides, or wrong on both."""
    from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
    from lm_headroom.artifacts.store import read

    curve = {row["percent"]: row for row in read(folder / "curves" / "own.parquet", PRUNED_EVAL).to_pylist()}
    ffns = {row["percent"]: row for row in read(folder / "ffns" / "own.parquet", PRUNED_EVAL).to_pylist()}
    cells = read(folder / "joint.parquet", JOINT_EVAL).to_pylist()
    grid = {(row["percent_heads"], row["percent_ffns"]): row for row in cells}
    same = True
    for (kind, heads, layers), right, sure in zip(SAMPLED, results["right"], results["sure"], strict=True):
        ours = {"own": curve.get(heads), "ffns": ffns.get(layers), "joint": grid.get((heads, layers))}[kind]
        assert ours is not None
        same &= all(a == b for a, b, certain in zip(ours["correct"], right, sure, strict=True) if certain)
    return same


def loop(record: Path, prompts: Path, folder: Path) -> dict[str, Any]:
    """What a user would write: the released way for importance, HFLM in a loop over masks."""
    import numpy as np
    import torch

    from benchmarks.bench import NEAR, Bench, best_batch
    from benchmarks.rivals import Harness, released_importance
    from lm_headroom.analysis.ranking import count_at
    from lm_headroom.artifacts.ordered import read_ffn_ranking, read_ranking
    from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE
    from lm_headroom.engine.likelihood import encode
    from lm_headroom.tasks.prompt_set import first_gold, pairs, read_prompts

    torch.set_num_threads(2)
    rival = Harness(record, "float32")

    tokenizer, prompt_set = rival.hflm.tokenizer, read_prompts(prompts)
    released_importance(rival.model, encode(pairs(first_gold(prompt_set.rows(IMPORTANCE))), tokenizer, 2048))
    table = prompt_set.rows(EVALUATION)
    asked, gold = pairs(table), table.column("gold").to_pylist()
    # The search for the best batch size is not counted: a user would know it.
    start = time.perf_counter()
    best = best_batch(rival, asked, Bench.batches)
    search = time.perf_counter() - start
    heads = {kind: read_ranking(folder / name).order for kind, name in HEADS_RANKED.items()}
    layers = read_ffn_ranking(folder / "ffns.parquet").order
    right: list[list[bool]] = []
    sure: list[list[bool]] = []
    start = time.perf_counter()
    for kind, percent_heads, percent_ffns in SAMPLED:
        ranked = heads[kind]
        gone = ranked[: count_at(percent_heads, len(ranked))], layers[: count_at(percent_ffns, len(layers))]
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
