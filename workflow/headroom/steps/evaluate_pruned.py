"""Step: accuracy curves of one task, shot and seed with heads pruned under one or more rankings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from headroom.artifacts.heads import read_ranking
from headroom.artifacts.pruned_eval import PRUNED_EVAL
from headroom.artifacts.store import write
from headroom.checkpoints import Loaded
from headroom.errors import HeadroomError
from headroom.provenance import describe
from headroom.ranking import random_ranking
from headroom.settings import Settings
from headroom.steps.prepare_evaluation import check_heads, prepare

Pairs = list[tuple[int, int]]


def run(
    out: Path,
    model: Path,
    prompts: Path,
    ranking: Path | None,
    rankings: Sequence[str],
    levels: Sequence[int],
    settings: Settings,
) -> None:
    """Write ``{out}/{name}.parquet`` for each name in ``rankings``.

    ``reversed`` prunes the most important heads of the ``ranking`` file first, ``random_N`` heads in an order drawn
    with seed N; any other name takes the file as it is.
    """
    prepared = prepare("prune", model, prompts, settings, len(levels) * len(rankings))
    orders = {name: order(name, ranking, prepared.loaded) for name in rankings}
    inputs = {"prompts": prompts, **({"ranking": ranking} if ranking else {})}
    options = {"levels": list(levels), "add_bos": settings.add_bos}
    for name, pairs in orders.items():
        record = describe("steps.evaluate_pruned", inputs, options, {**prepared.facts, "ranking": name})
        write(out / f"{name}.parquet", PRUNED_EVAL, prepared.evaluation.curve(pairs, levels), record, prepared.run)


def order(name: str, ranking: Path | None, loaded: Loaded) -> Pairs:
    """The heads in the order in which a ranking of this name prunes them.

    Raises:
        HeadroomError: the name needs a ranking file and none is given, or the file is of another model.
    """
    drawn = re.fullmatch(r"random_(\d+)", name)
    if drawn:
        return random_ranking(loaded.shape.layers, loaded.shape.heads, int(drawn[1]))
    if ranking is None:
        raise HeadroomError(f"ranking {name!r} needs a ranking file (--ranking-file)")
    pairs = check_heads(ranking, read_ranking(ranking), loaded)
    return pairs[::-1] if name == "reversed" else pairs
