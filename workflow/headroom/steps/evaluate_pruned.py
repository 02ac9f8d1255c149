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
from headroom.ranking import AGGREGATE, random_ranking
from headroom.settings import Settings
from headroom.steps.prepare_evaluation import check_heads, expected_ranking, prepare

Pairs = list[tuple[int, int]]
DRAWN = re.compile(r"random_(\d+)")


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

    Raises:
        HeadroomError: the ranking file is missing, or not of this model (and, by its name, of this task).
    """
    # A wrong ranking is found before minutes of loading.
    given = {name: read_given(name, ranking, model, prompts) for name in rankings if not DRAWN.fullmatch(name)}
    prepared = prepare("prune", model, prompts, settings, len(levels) * len(rankings))
    if ranking is not None:
        for pairs in given.values():
            check_heads(ranking, pairs, prepared.loaded)
    orders = {name: order(name, given.get(name, []), prepared.loaded) for name in rankings}
    inputs = {"prompts": prompts, **({"ranking": ranking} if ranking else {})}
    options = {"levels": list(levels), "add_bos": settings.add_bos}
    for name, pairs in orders.items():
        record = describe("steps.evaluate_pruned", inputs, options, {**prepared.facts, "ranking": name})
        write(out / f"{name}.parquet", PRUNED_EVAL, prepared.evaluation.curve(pairs, levels), record, prepared.run)


def read_given(name: str, ranking: Path | None, model: Path, prompts: Path) -> Pairs:
    """The heads of the ranking file, if it is what the name says.

    ``own`` is the ranking of the prompts' task, ``aggregate`` the aggregate's, both at the prompts' shots and seed.

    Raises:
        HeadroomError: no file is given, or it is of another model, task, shot or seed.
    """
    if ranking is None:
        raise HeadroomError(f"ranking {name!r} needs a ranking file (--ranking-file)")
    expected = expected_ranking(model, prompts, *([AGGREGATE] if name == AGGREGATE else []))
    if name not in ("own", AGGREGATE):
        expected = {"model": expected["model"]}
    return read_ranking(ranking, **expected)


def order(name: str, given: Pairs, loaded: Loaded) -> Pairs:
    """The heads in the order in which a ranking of this name prunes them; ``given`` is the file's."""
    drawn = DRAWN.fullmatch(name)
    if drawn:
        return random_ranking(loaded.shape.layers, loaded.shape.heads, int(drawn[1]))
    return given[::-1] if name == "reversed" else given
