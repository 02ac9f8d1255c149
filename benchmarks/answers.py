"""Measure i: the cost of keeping log-likelihoods, in turns with the same curve that keeps right answers alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.bench import Bench, Row
from benchmarks.contest import contest, ratio
from lm_headroom.analysis.ranking import random_ranking
from lm_headroom.artifacts.answers import answer_columns
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import ArtifactSchema, read, write
from lm_headroom.options import EvaluationSettings
from lm_headroom.scoring import pruned_evaluation
from lm_headroom.scoring.pruned_evaluation import Evaluation
from lm_headroom.steps.prepare_evaluation import prepare
from lm_headroom.steps.render_prompts import render_prompts

ANSWERS = {column.name for column in answer_columns()}
RIGHT_ALONE = ArtifactSchema(
    PRUNED_EVAL.name, tuple(column for column in PRUNED_EVAL.columns if column.name not in ANSWERS)
)


def answers(bench: Bench, shots: int = 0, levels: Sequence[int] = (0, 30)) -> Iterator[Row]:
    """i: a curve of heads and its file, with and without what outcomes other than accuracy need."""
    settings = EvaluationSettings(model=bench.record, device="cpu", threads=torch.get_num_threads())
    for task in bench.tasks:
        with tempfile.TemporaryDirectory() as folder:
            prompts, limit = Path(folder) / "prompts.parquet", bench.documents[shots]
            limits = {"limit_importance": 2, "limit_evaluation": limit}
            render_prompts(task=task, shots=shots, data=str(bench.records), **limits, metric="answer", out=prompts)
            prepared = prepare("bench", bench.record, prompts, settings).evaluation
            files = {schema: Path(folder) / f"{len(schema.columns)}.parquet" for schema in (PRUNED_EVAL, RIGHT_ALONE)}
            times = contest(
                {
                    "kept": partial(_evaluate, prepared, levels, PRUNED_EVAL, files[PRUNED_EVAL]),
                    "right alone": partial(_evaluate_right_alone, prepared, levels, files[RIGHT_ALONE]),
                },
                bench.rounds,
            )
            right = [read(path, schema).column("correct").to_pylist() for schema, path in files.items()]
        yield {
            "measure": "i",
            "what": "a curve with its log-likelihoods against the same with right answers alone",
            "task": task,
            "shots": shots,
            **ratio(times["kept"], times["right alone"]),
            "documents": limit,
            "equal": right[0] == right[1],
        }


def _evaluate(prepared: Evaluation, levels: Sequence[int], schema: ArtifactSchema, out: Path) -> None:
    # An evaluation of its own, since each keeps what it has computed.
    evaluation = Evaluation(prepared.loaded, prepared.documents, prepared.choices, prepared.batches)
    shape = prepared.loaded.shape
    columns = evaluation.curve(random_ranking(shape.layers, shape.heads, 1), levels)
    write(out, schema, {column.name: columns[column.name] for column in schema.columns}, {})


def _evaluate_right_alone(prepared: Evaluation, levels: Sequence[int], out: Path) -> None:
    def nothing(*_: Any) -> dict[str, Any]:
        return {}

    with patch.multiple(pruned_evaluation, by_choice=nothing, answer_key=nothing):
        _evaluate(prepared, levels, RIGHT_ALONE, out)
