"""Floating-point operations of both sides: what a ratio would be if both computed at one rate, without any overhead.

Counted on the prompts that were timed. What lm-headroom does is counted as ``lm-headroom plan`` does; what lm-eval's
HFLM
does, as its sources have it: requests of equal inputs once, the longest first, padded within batches, the vocabulary's
logits at every place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from benchmarks.bench import Bench, Row
from benchmarks.measures import oracle_documents
from benchmarks.pair import JOBS, n_evaluations, study_of
from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE
from lm_headroom.engine.batch_size import MAX_TOKENS
from lm_headroom.engine.likelihood import encode
from lm_headroom.engine.packing import Batches, Document
from lm_headroom.models.location import checkpoint_folder
from lm_headroom.models.sizes import model_from_config
from lm_headroom.planning.costs import BACKWARD_ATTENTION, BACKWARD_LINEAR, Costs, Load
from lm_headroom.planning.plan import costs_of, load_of
from lm_headroom.planning.workload import Prompts, operations


def with_operations(bench: Bench, rows: Sequence[Row]) -> list[Row]:
    """Rows with ``operations``, the other's over ours, where precisions are equal and a model is run over prompts.

    Rows of tasks whose records are not there stay as they are.
    """
    path = checkpoint_folder(bench.record)
    config, tokenizer = AutoConfig.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    costs = costs_of(model_from_config(config, torch.float32))
    by_name: dict[tuple[str, str, int], float] = {}
    result = []
    for row in rows:
        key = row["measure"], row["task"], row["shots"]
        counted = row["measure"] in "abce" and "bfloat16 against HFLM in float32" not in row["what"]
        if counted and (bench.records / row["task"]).is_dir():
            if key not in by_name:
                by_name[key] = _ratio(bench, costs, tokenizer, config.max_position_embeddings, row)
            row = row | {"operations": round(by_name[key], 3)}
        result.append(row)
    return result


def _ratio(bench: Bench, costs: Costs, tokenizer: Any, max_positions: int, row: Row) -> float:
    measure, task, shots = row["measure"], row["task"], row["shots"]

    def documents(purpose: str = EVALUATION, n: int | None = None) -> list[Document]:
        return encode([pair[:3] for pair in bench.pairs(task, shots, purpose, n)], tokenizer, max_positions)

    def gold(n: int | None = None) -> list[Document]:
        return encode(bench.gold(task, shots, n), tokenizer, max_positions)

    if measure == "a":
        asked = documents()
        return harness(costs, asked, bench.batches) / costs.forward(load(asked))
    if measure == "b":
        asked = documents(n=oracle_documents(bench, task, shots)[1])
        return costs.layers * harness(costs, asked, bench.batches) / costs.oracle(load(asked))
    if measure == "c":
        asked = gold()
        scored = load(asked, share=False)
        return released(costs, asked) / (costs.forward(scored) + costs.backward(scored))
    n = row["documents"]
    asked, scored = documents(n=n), gold(n)
    prompts = Prompts(task, shots, load(scored, share=False), load(documents(IMPORTANCE, n)), load(asked))
    study = study_of(task, shots)
    # The whole model's evaluation is kept by the first of the three jobs that count it.
    ours = sum(sum(operations(rule, study, costs, prompts)) for rule in JOBS) - 2 * costs.forward(prompts.evaluation)
    loops = n_evaluations(costs.layers) * harness(costs, asked, bench.batches)
    return (loops + released(costs, scored)) / ours


def load(documents: Sequence[Document], share: bool = True) -> Load:
    """What documents ask of lm-headroom."""
    return load_of(Batches(documents, MAX_TOKENS["cpu"], share=share))


def harness(costs: Costs, documents: Sequence[Document], sizes: Sequence[int]) -> float:
    """Operations of HFLM over documents, at the batch size of ``sizes`` that takes fewest."""
    inputs = {row.inputs for document in documents for row in document.sequences}
    lengths = sorted(map(len, inputs), reverse=True)

    def total(size: int) -> float:
        return sum(costs.forward(_padded(lengths[at : at + size])) for at in range(0, len(lengths), size))

    return min(map(total, sizes))


def released(costs: Costs, documents: Sequence[Document]) -> float:
    """Operations of the released importance: batches of one, logits everywhere, gradients of weights, too."""
    total = 0.0
    for document in documents:
        (row,) = document.sequences
        whole = costs.forward(_padded([len(row.tokens)]))
        attention = whole - costs.forward(Load(len(row.tokens), 0, len(row.tokens)))
        total += whole + 2 * BACKWARD_LINEAR * (whole - attention) + BACKWARD_ATTENTION * attention
    return total


def _padded(lengths: Sequence[int]) -> Load:
    """Rows in one batch, logits everywhere."""
    n = max(lengths)
    return Load(n, n * (n + 1) / 2, n).times(len(lengths))
