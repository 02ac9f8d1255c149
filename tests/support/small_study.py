"""A study's artifacts, written with known values: what figures, tables and findings are tested on."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lm_headroom.analysis.correlation import TaskScores, cross_shot, cross_task
from lm_headroom.analysis.ranking import count_at, rank_heads
from lm_headroom.artifacts.capacity import CAPACITY
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.cross_shot import CROSS_SHOT
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.head_oracle import HEAD_ORACLE
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.artifacts.store import provenance, read, write, write_json
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.steps.correlate_oracle import correlate_oracle
from lm_headroom.study.criteria import criterion_columns
from lm_headroom.study.ranking_names import AGGREGATE, CRITERIA

N = 10
"""Questions per task."""
PERCENTS = [0, 20, 50, 90]
TRANSFER_PERCENTS = [0, 50, 90]
HEADS, FFNS = [0, 50, 70], [0, 20]
"""Levels of the joint grid."""
HEAD_SIZE, FFN_SIZE = 1_000_000, 5_000_000
"""Parameters of a head and of an FFN."""
# Right answers of 10 questions per level: shots -> (component, task, ranking) -> level; what is not here is DEFAULT.
DEFAULT = [8, 8, 7, 5]
RIGHT = {
    0: {
        ("heads", "copa", "own"): [9, 9, 8, 4],
        ("heads", "piqa", "random_1"): [8, 5, 5, 5],
        ("heads", "copa", "random_1"): [9, 6, 4, 5],
        ("heads", "copa", "aggregate"): [9, 9, 9, 5],
        ("heads", "copa", "highest_srcc"): [9, 8, 5],
        ("heads", "copa", "lowest_srcc"): [9, 4, 4],
        ("ffns", "piqa", "own"): [8, 3, 3, 3],
        ("ffns", "copa", "own"): [9, 9, 5, 4],
        ("ffns", "piqa", "random_1"): [8, 3, 2, 2],
        ("ffns", "copa", "random_1"): [9, 5, 5, 4],
    },
    5: {
        ("heads", "piqa", "own"): [7, 7, 7, 4],
        ("heads", "copa", "own"): [8, 8, 3, 4],
        ("heads", "piqa", "random_1"): [7, 4, 5, 5],
        ("heads", "copa", "random_1"): [8, 5, 4, 5],
        ("heads", "copa", "highest_srcc"): [8, 8, 5],
        ("heads", "copa", "lowest_srcc"): [8, 4, 4],
    },
}
# Per layer, right answers of 10 lost without its FFN on copa; on other tasks none but one at layer 1.
LOST = {"copa": [-1, 0, 4, 0]}
# Right answers of 10 in the joint grid: rows heads, columns FFNs.
JOINT = {"piqa": [[8, 8], [8, 2], [7, 2]], "copa": [[9, 9], [9, 3], [4, 3]]}


@dataclass(frozen=True)
class Values:
    """Where a study's numbers come from; the defaults are those above."""

    shape: tuple[int, int] = (4, 5)
    levels: tuple[int, ...] = tuple(PERCENTS)
    transfer_levels: tuple[int, ...] = tuple(TRANSFER_PERCENTS)
    heads: tuple[int, ...] = tuple(HEADS)
    ffns: tuple[int, ...] = tuple(FFNS)
    right: Callable[[int, str, str, str], list[int]] = lambda k, *key: RIGHT.get(k, {}).get(key, DEFAULT)
    lost: Callable[[str], list[int]] = lambda task: LOST.get(task, [1, 0, 0, 0])
    joint: Callable[[str], list[list[int]]] = lambda task: JOINT.get(task, JOINT["piqa"])
    head_oracle: tuple[str, ...] = ("copa",)
    """Tasks whose heads were removed one at a time: the rise of the loss is the score, give or take 45%."""
    offset: int = 0
    """Seeds of head and induction scores begin here: another model has others."""
    repeat: int = 1
    """How often each of the N questions is there, in curves and grids."""
    selection: str = "evaluation"
    """Which documents rank the FFNs."""


def scores(seed: int, shape: tuple[int, int] = (4, 5)) -> Any:
    """Head importances, [layer, head]."""
    return np.random.default_rng(seed).random(shape)


def task_scores(study: ResultsMatrix, shots: int, values: Values) -> dict[str, Any]:
    """Head importances per task."""
    return {task: scores(values.offset + 20 * shots + i, values.shape) for i, task in enumerate(study.tasks)}


def outcomes(right: list[int], repeat: int = 1) -> dict[str, list[Any]]:
    """Columns of an evaluation in which ``right`` of 10 questions, each ``repeat`` times, are answered right."""
    total = N * repeat
    correct = [[i < n * repeat for i in range(total)] for n in right]
    return {
        "accuracy": [n / N for n in right],
        "stderr": [float(np.std(row, ddof=1) / np.sqrt(total)) for row in correct],
        "accuracy_norm": [None] * len(right),
        "stderr_norm": [None] * len(right),
        "n_documents": [total] * len(right),
        "n_truncated": [0] * len(right),
        "doc_id": [list(range(total))] * len(right),
        "correct": correct,
        "correct_norm": [None] * len(right),
        "log_likelihoods": [log_likelihoods(row) for row in correct],
        **answer_key(total, len(right)),
    }


def log_likelihoods(correct: list[bool]) -> list[list[float]]:
    """Of two choices per document, the first of which is right: the likelier one by 1 nat is the answer."""
    return [[-1.0, -2.0] if right else [-2.0, -1.0] for right in correct]


def answer_key(total: int, rows: int) -> dict[str, list[Any]]:
    """Columns that say what these choices are, for so many documents and rows."""
    of_row = {
        "document_question": list(range(total)),
        "gold": [[True, False]] * total,
        "n_bytes": [[4, 5]] * total,
        "n_tokens": [[1, 2]] * total,
    }
    return {name: [values] * rows for name, values in of_row.items()}


def knockout_answers(dense: list[list[bool]], ablated: list[list[bool]]) -> dict[str, list[Any]]:
    """Columns of right answers and log-likelihoods of the whole model and without a component each, per row."""
    return {
        "correct_dense": dense,
        "correct_ablated": ablated,
        "log_likelihoods_dense": [log_likelihoods(row) for row in dense],
        "log_likelihoods": [log_likelihoods(row) for row in ablated],
        **answer_key(len(dense[0]), len(dense)),
    }


def per_head(values: Any) -> dict[str, Any]:
    """Columns that name the heads of [layer, head] values."""
    layers, heads = np.indices(values.shape)
    return {"layer": layers.ravel(), "head": heads.ravel()}


def write_study(study: ResultsMatrix, values: Values | None = None) -> ResultsMatrix:
    """Write all artifacts of a study."""
    values = values or Values()
    for k in study.shots:
        write_scores(study, k, values)
        for task in (*study.tasks, *study.unseen):
            write_curves(study, k, task, values)
            write_prompts(study, k, task)
        for task in study.tasks:
            write_ffns(study, k, task, values)
            if study.joint:
                write_joint(study, k, task, values)
    halves = {k: {t: TaskScores(v, v, v) for t, v in task_scores(study, k, values).items()} for k in study.shots}
    if len(study.shots) > 1:
        path = study.results / "correlation" / "cross_shot" / f"seed{study.seed}.parquet"
        write(path, CROSS_SHOT, cross_shot(halves), made_of(study))
    for name, kind in (("prefix_matching", PREFIX_MATCHING), ("copying", COPYING)):
        induction_scores = induction(name, values.shape, values.offset)
        columns = {
            "mean": induction_scores.ravel(),
            "variance": [0.12] * induction_scores.size,
            "n_sequences": [3] * induction_scores.size,
        }
        write(
            study.results / "induction" / f"{name}.parquet",
            kind,
            {**per_head(induction_scores), **columns},
            {"model": made_of(study)["model"]},
        )
    write_json(study.results / "model.json", made_of(study)["model"])
    write_oracle(study, values)
    return study


def write_oracle(study: ResultsMatrix, values: Values) -> None:
    """The oracle of heads, and how far the gradient agrees with the oracles."""
    tasks = [task for task in study.tasks if task in values.head_oracle]
    for k in study.shots:
        for task in tasks:
            oracle_scores = task_scores(study, k, values)[task].ravel()
            rises = oracle_scores[:, None] * (1 + 0.1 * (np.arange(N) - 4.5))
            columns = {
                **per_head(oracle_scores.reshape(values.shape)),
                **dict.fromkeys(("loss_rise", "loss_stderr", "loss_rise_even", "loss_rise_odd"), oracle_scores),
                **dict.fromkeys(("accuracy_lost", "accuracy_stderr"), [0.0] * len(oracle_scores)),
                "doc_id": [list(range(N))] * len(oracle_scores),
                "loss_rises": rises.tolist(),
                **knockout_answers(*[[[True] * N] * len(oracle_scores)] * 2),
            }
            write(study.path("head_oracle", k, task=task), HEAD_ORACLE, columns, made_of(study, k, task))
    out = study.results / "correlation" / "oracle" / f"seed{study.seed}.parquet"
    arguments = {"results": study.results, "tasks": study.tasks, "shots": study.shots, "seed": study.seed or 0}
    correlate_oracle(**arguments, head_tasks=tasks, out=out)


def made_of(
    study: ResultsMatrix, shots: int | None = None, task: str | None = None, ranking: str | None = None, **more: Any
) -> dict[str, Any]:
    """The provenance that says which cell of the matrix an artifact is."""
    model = {"name": study.model, "family": "opt", "digest": f"{study.model:x>64}"}
    cell = {"shots": shots, "task": task, "ranking": ranking}
    return {
        "model": model,
        "dtype": "float32",
        "seed": study.seed,
        **{name: value for name, value in cell.items() if value is not None},
        **more,
    }


def induction(name: str, shape: tuple[int, int] = (4, 5), offset: int = 0) -> Any:
    """Induction scores [layer, head]: prefix matching highest at layer 3 head 4, copying at layer 4 head 1."""
    induction_scores = scores(offset + (99 if name == "prefix_matching" else 98), shape) / 2
    induction_scores[(2, 3) if name == "prefix_matching" else (3, 0)] = 2.0
    return induction_scores


def write_scores(study: ResultsMatrix, k: int, values: Values) -> None:
    """Head importance, correlations and capacity of one shot."""
    by_task = task_scores(study, k, values)
    mean = np.mean(list(by_task.values()), axis=0)
    for task, head_scores in {**by_task, AGGREGATE: mean}.items():
        columns = {name: head_scores.ravel() for name in ("score", "stderr", "score_even", "score_odd", *CRITERIA)}
        record = made_of(study, k, task, options={"tasks": list(study.tasks)} if task == AGGREGATE else {})
        write(
            study.path("head_importance", k, task=task), HEAD_IMPORTANCE, {**per_head(head_scores), **columns}, record
        )
    halves = {task: TaskScores(v, v, v) for task, v in by_task.items()}
    table = cross_task(halves, TaskScores(mean, mean, mean))
    write(study.path("cross_task", k), CROSS_TASK, table, made_of(study, k))
    rows: dict[str, list[Any]] = {column.name: [] for column in CAPACITY.columns}
    for task, head_scores in {**by_task, AGGREGATE: mean}.items():
        for name in ("prefix_matching", "copying"):
            kept = induction(name, values.shape, values.offset)
            gone = np.cumsum([0.0, *(kept[head] for head in rank_heads(head_scores))]) / kept.sum()
            rows["task"] += [task] * len(gone)
            rows["score"] += [name] * len(gone)
            rows["n_pruned"] += range(len(gone))
            rows["percent"] += [100 * i / kept.size for i in range(len(gone))]
            rows["retained"] += (1 - gone).tolist()
    write(study.path("capacity", k), CAPACITY, rows, made_of(study, k))


def _n_pruned(percent: int, total: int) -> int:
    """One at least, since outcomes change at each level."""
    return max(count_at(percent, total), min(percent, 1))


def write_curves(study: ResultsMatrix, k: int, task: str, values: Values) -> None:
    """Accuracy curves of one task: heads under each ranking, FFNs under the own."""
    layers, total = values.shape[0], values.shape[0] * values.shape[1]
    known = task in study.tasks
    beside = study.beside_own("heads")
    rankings = ["own", "aggregate", *(beside if known else ())]
    curves = [("heads", name, values.levels) for name in rankings]
    if task in study.transfer:
        curves += [("heads", name, values.transfer_levels) for name in ("highest_srcc", "lowest_srcc")]
    if known:
        curves += [("ffns", name, values.levels) for name in ("own", *study.beside_own("ffns"))]
    for component, ranking, levels in curves:
        size, count = (HEAD_SIZE, total) if component == "heads" else (FFN_SIZE, layers)
        pruned = [_n_pruned(percent, count) for percent in levels]
        others = [name for name in study.tasks if name != task] or [task]
        lowest = -0.25 if len(others) > 1 else 0.75
        partner = {"highest_srcc": (others[0], 0.75), "lowest_srcc": (others[-1], lowest)}.get(ranking)
        columns = {
            "percent": list(levels),
            "n_pruned": pruned,
            "parameters_removed": [size * n for n in pruned],
            "partner": [partner[0] if partner else None] * len(levels),
            "correlation": [partner[1] if partner else None] * len(levels),
            **outcomes(values.right(k, component, task, ranking), values.repeat),
        }
        write(study.curve(task, k, ranking, component), PRUNED_EVAL, columns, made_of(study, k, task, ranking))


def write_ffns(study: ResultsMatrix, k: int, task: str, values: Values) -> None:
    """FFN importance of one task."""
    lost = values.lost(task)
    n = len(lost)
    columns = {
        "layer": list(range(n)),
        "score": [x / N for x in lost],
        "stderr": [0.1] * n,
        "accuracy_dense": [0.8] * n,
        "accuracy_ablated": [0.8 - x / N for x in lost],
        "doc_id": [list(range(N))] * n,
        **knockout_answers([[i < 8 for i in range(N)]] * n, [[i < 8 - x for i in range(N)] for x in lost]),
    }
    # The gradient ranks layers from the last to the first.
    names = ("score", "score_even", "score_odd", *criterion_columns("ffns"))
    gradient = {name: [0.1 * (n - i) for i in range(n)] for name in names}
    columns_ = {"layer": list(range(n)), **gradient, "stderr": [0.01] * n}
    write(study.path("ffn_gradient", k, task=task), FFN_GRADIENT, columns_, made_of(study, k, task))
    record = made_of(study, k, task, options={"selection": values.selection})
    write(study.path("ffn_importance", k, task=task), FFN_IMPORTANCE, columns, record)


def write_joint(study: ResultsMatrix, k: int, task: str, values: Values) -> None:
    """The joint grid of one task."""
    layers, total = values.shape[0], values.shape[0] * values.shape[1]
    cells = [(h, f) for h in values.heads for f in values.ffns]
    n_heads, n_ffns = [_n_pruned(h, total) for h, _ in cells], [_n_pruned(f, layers) for _, f in cells]
    columns = {
        "percent_heads": [h for h, _ in cells],
        "percent_ffns": [f for _, f in cells],
        "n_heads": n_heads,
        "n_ffns": n_ffns,
        "parameters_removed": [HEAD_SIZE * h + FFN_SIZE * f for h, f in zip(n_heads, n_ffns, strict=True)],
        **outcomes([n for row in values.joint(task) for n in row], values.repeat),
    }
    write(study.path("joint_eval", k, task=task), JOINT_EVAL, columns, made_of(study, k, task))


def write_prompts(study: ResultsMatrix, k: int, task: str) -> None:
    """Evaluation prompts of one task: piqa has four choices, others two; each is right in its turn."""
    choices = 4 if task == "piqa" else 2
    rows = N * choices
    columns = {
        "doc_id": np.repeat(np.arange(N), choices),
        "question": np.repeat(np.arange(N), choices),
        "purpose": ["evaluation"] * rows,
        "split": ["validation"] * rows,
        "choice": list(range(choices)) * N,
        "context": ["c"] * rows,
        "continuation": [" t"] * rows,
        "turns": [None] * rows,
        "reply": [None] * rows,
        "gold": [choice == document % choices for document in range(N) for choice in range(choices)],
        "metric": ["choice"] * rows,
        "choice_length": [None] * rows,
    }
    path = study.results.parent / "prompts" / task / f"{k}shot-seed{study.seed}.parquet"
    write(path, PROMPTS, columns, {"task": task, "shots": k, "seed": study.seed})


def leave_one_choice(study: ResultsMatrix, *tasks: str) -> None:
    """Make the evaluations of tasks like LAMBADA's: each document has its first choice alone, the right one."""
    kinds = {kind.name: kind for kind in SCHEMAS if "log_likelihoods" in {column.name for column in kind.columns}}
    for path in study.results.rglob("*.parquet"):
        record = provenance(path)
        if record["kind"] in kinds and record.get("task") in tasks:
            table = read(path, kinds[record["kind"]]).to_pydict()
            for name in table.keys() & {"log_likelihoods", "log_likelihoods_dense", "gold", "n_bytes", "n_tokens"}:
                table[name] = [[choices[:1] for choices in row] for row in table[name]]
            write(path, kinds[record["kind"]], table, record)


def small(folder: Path, repeat: int = 1, selection: str = "evaluation") -> ResultsMatrix:
    """Three tasks, one unseen, two shots, one transfer task, 4 x 5 heads; each question ``repeat`` times."""
    shutil.copytree(_written_once(repeat, selection), folder, dirs_exist_ok=True)
    return _small(folder)


def _small(folder: Path) -> ResultsMatrix:
    tasks, unseen, transfer = ("piqa", "copa", "record"), ("mathqa",), ("copa",)
    results = folder / "results" / "model"
    return ResultsMatrix(results, tasks, (0, 5), 7, "spearman", ("random_1",), unseen, transfer, joint=True)


@cache
def _written_once(repeat: int, selection: str) -> Path:
    """A folder with the study, which is copied: writing it takes a second, and hundreds of tests begin with it."""
    folder = Path(tempfile.mkdtemp(prefix="small-study-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_study(_small(folder), Values(repeat=repeat, selection=selection))
    return folder
