"""Step: accuracy curves of one task, shot and seed under one or more rankings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from headroom import anatomy
from headroom.artifacts.heads import read_ranking
from headroom.artifacts.prompts import EVALUATION
from headroom.artifacts.pruned_eval import PRUNED_EVAL
from headroom.artifacts.store import write
from headroom.checkpoints import load
from headroom.errors import HeadroomError
from headroom.likelihood import pack
from headroom.progress import Progress
from headroom.provenance import describe, model_facts
from headroom.pruning import Evaluation
from headroom.ranking import random_ranking
from headroom.steps.read_prompts import choices, label, rows, task_facts, tokenise

Pairs = list[tuple[int, int]]


def run(
    out: Path,
    model: Path,
    prompts: Path,
    ranking: Path | None,
    rankings: Sequence[str],
    levels: Sequence[int],
    add_bos: bool,
    dtype: str,
    device: str,
    threads: int | None,
    token_budget: int,
) -> None:
    """Write ``{out}/{name}.parquet`` for each name in ``rankings``.

    ``reversed`` prunes the most important heads of the ``ranking`` file first, ``random_N`` heads in an order drawn
    with seed N; any other name takes the file as it is.
    """
    table = rows(prompts, EVALUATION)
    loaded = load(model, dtype, device, threads)
    orders = {name: order(name, ranking, loaded.shape) for name in rankings}
    documents = tokenise(table, loaded, add_bos)
    progress = Progress(label("prune", prompts), len(documents) * len(levels) * len(orders), "document evaluations")
    batches = pack(documents, token_budget, loaded.device)
    evaluation = Evaluation(loaded, documents, choices(table), batches, progress)
    inputs = {"prompts": prompts, **({"ranking": ranking} if ranking else {})}
    options = {"levels": list(levels), "add_bos": add_bos}
    for name, pairs in orders.items():
        facts = {**task_facts(prompts), **model_facts(loaded.record, dtype), "ranking": name}
        record = describe("steps.evaluate_pruned", inputs, options, facts)
        write(out / f"{name}.parquet", PRUNED_EVAL, evaluation.curve(pairs, levels), record)


def order(name: str, ranking: Path | None, shape: anatomy.Heads) -> Pairs:
    """The heads in the order in which a ranking of this name prunes them.

    Raises:
        HeadroomError: the name needs a ranking file and none is given, or the file is of another model.
    """
    drawn = re.fullmatch(r"random_(\d+)", name)
    if drawn:
        return random_ranking(shape.layers, shape.heads, int(drawn[1]))
    if ranking is None:
        raise HeadroomError(f"ranking {name!r} needs a ranking file (--ranking-file)")
    pairs = read_ranking(ranking)
    found = (max(layer for layer, _ in pairs) + 1, max(head for _, head in pairs) + 1)
    if found != (shape.layers, shape.heads):
        raise HeadroomError(
            f"{ranking}: ranks {found[0]} layers x {found[1]} heads, the model has {shape.layers} x {shape.heads}; "
            "it is a ranking of another model"
        )
    return pairs[::-1] if name == "reversed" else pairs
