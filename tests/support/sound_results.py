"""A small results folder that real code has written, all of which is sound."""

import numpy as np

from lm_headroom.analysis.ranking import as_columns, rank_heads
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.model_record import write_record
from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.provenance import build_provenance, model_provenance
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import read_artifact, write
from lm_headroom.options import AggregatedCells
from lm_headroom.report.figures import fig03
from lm_headroom.report.tables import table1
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.steps.aggregate_heads import aggregate_heads
from lm_headroom.steps.correlate_shots import correlate_shots
from lm_headroom.study.ranking_names import CRITERIA

RECORD = {"name": "m", "source": None, "revision": None, "family": "opt", "digest": "d" * 64, "origin": None}
TASKS, SHOTS, SEED = ("copa", "piqa"), (0, 1), 7


def prompts(results, task, shots, text="a"):
    columns = {column.name: [0] for column in PROMPTS.columns}
    columns |= {name: [text] for name in ("purpose", "split", "context", "continuation", "metric")} | {"gold": [True]}
    columns |= {"turns": [None], "reply": [None]}
    provenance = {"task": task, "shots": shots, "seed": SEED, "metric": "question", "data": {"source": "hub"}}
    options = {"limit_importance": 4, "limit_evaluation": 8, "sample": "first"}
    path = results / f"prompts/{task}/{shots}shot-seed{SEED}.parquet"
    write(path, PROMPTS, columns, build_provenance("steps.render_prompts", {}, options, provenance))
    return path


def head_scores(results, task, shots, seed):
    values = np.random.default_rng(seed).random((3, 4))
    layers, heads = np.indices(values.shape)
    columns = {name: values.ravel() for name in ("score", "stderr", "score_even", "score_odd", *CRITERIA)}
    columns |= {"layer": layers.ravel(), "head": heads.ravel()}
    provenance = {"task": task, "shots": shots, "seed": SEED, **model_provenance(RECORD, "float32")}
    options = {"criterion": "token", "add_bos": "auto"}
    source = read_artifact(prompts(results, task, shots), PROMPTS).source
    record = build_provenance("steps.score_heads", {"prompts": source}, options, provenance)
    cell = f"{task}/{shots}shot-seed{SEED}.parquet"
    write(results / "m/head_importance" / cell, HEAD_IMPORTANCE, columns, record)
    write(results / "m/ranking/heads" / cell, RANKING, as_columns(rank_heads(values), values), record)


def write_results(results):
    """Prompts, scores and rankings of two tasks and shots, aggregates, correlations, Figure 3, Table 1."""
    model = results / "m"
    for number, (task, shots) in enumerate((task, shots) for task in TASKS for shots in SHOTS):
        head_scores(results, task, shots, number)
    for shots in SHOTS:
        cell = f"aggregate/{shots}shot-seed{SEED}.parquet"
        paths = {"out": model / "head_importance" / cell, "ranking": model / "ranking/heads" / cell}
        aggregate_heads(cells=AggregatedCells(results=model, tasks=TASKS, shots=shots, seed=SEED), **paths)
    cross_shot = model / f"correlation/cross_shot/seed{SEED}.parquet"
    correlate_shots(results=model, tasks=TASKS, shots=SHOTS, seed=SEED, out=cross_shot)
    table1.write_table(cross_shot, model / f"tables/table1-seed{SEED}")
    fig03.draw(ResultsMatrix(model, TASKS, SHOTS, SEED), model / f"figures/fig03_head_importance-seed{SEED}")
    write_record(model / "model.json", RECORD)
    (results / "matrix").mkdir()
    (results / "matrix" / "tasks.txt").write_text("copa\npiqa\n")
    (results / "report.html").write_text("Snakemake's")
    (model / ".cache").mkdir()
    (model / ".cache" / "unit.parquet").write_bytes(b"half")
    return results
