"""Step: accuracy curves of one task, shot and seed with heads pruned under one or more rankings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_headroom.analysis.ranking import AGGREGATE, ITERATIVE, random_ranking, rank_heads
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import grid, read_ranking
from lm_headroom.artifacts.iterative_ranking import ITERATIVE_RANKING
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import read, write
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.errors import HeadroomError
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_evaluation import check_heads, expected_ranking, prepare
from lm_headroom.study.ranking_names import CRITERIA, REVERSED, drawn_with

Pairs = list[tuple[int, int]]


def run(
    out: Path,
    model: Path,
    prompts: Path,
    ranking: Path | None,
    rankings: Sequence[str],
    levels: Sequence[int],
    settings: Settings,
    scores: Path | None = None,
) -> None:
    """Write ``{out}/{name}.parquet`` for each name in ``rankings``.

    ``reversed`` prunes the most important heads of the ``ranking`` file first, ``random_N`` heads in an order drawn
    with seed N; names of :data:`lm_headroom.study.ranking_names.CRITERIA` rank by that column of the head importances
    ``scores``; any
    other name takes the ranking file as it is. Where two rankings prune the same heads, they are evaluated once.

    Raises:
        HeadroomError: a file that a name needs is missing, or not of this model (and, by its name, of this task).
    """
    # A wrong ranking is found before minutes of loading.
    given = {name: read_given(name, ranking, model, prompts, scores) for name in rankings if drawn_with(name) is None}
    prepared = prepare("prune", model, prompts, settings, len(levels) * len(rankings))
    sources = {name: ("scores", scores) if name in CRITERIA else ("ranking", ranking) for name in rankings}
    for name, pairs in given.items():
        path = sources[name][1]
        assert path is not None
        check_heads(path, pairs, prepared.loaded)
    orders = {name: order(name, given.get(name, []), prepared.loaded) for name in rankings}
    options = {"levels": list(levels), "add_bos": settings.add_bos}
    for name, pairs in orders.items():
        role, path = sources[name]
        inputs = {"prompts": prompts, **({role: path} if path else {})}
        record = build_provenance("steps.evaluate_pruned", inputs, options, {**prepared.facts, "ranking": name})
        write(out / f"{name}.parquet", PRUNED_EVAL, prepared.evaluation.curve(pairs, levels), record, prepared.run)


def read_given(name: str, ranking: Path | None, model: Path, prompts: Path, scores: Path | None = None) -> Pairs:
    """The heads of the ranking file or in the order of a column of the scores, if these are what the name says.

    ``own`` and ``iterative`` are rankings of the prompts' task, ``aggregate`` is the aggregate's, all at the prompts'
    shots and seed; so are the scores.

    Raises:
        HeadroomError: no file is given, or it is of another model, task, shot or seed.
    """
    if name in CRITERIA:
        if scores is None:
            raise HeadroomError(f"ranking {name!r} needs the task's head importances (--scores)")
        return rank_heads(grid(read(scores, HEAD_IMPORTANCE, **expected_ranking(model, prompts)), name))
    if ranking is None:
        raise HeadroomError(f"ranking {name!r} needs a ranking file (--ranking-file)")
    expected = expected_ranking(model, prompts, *([AGGREGATE] if name == AGGREGATE else []))
    if name not in ("own", AGGREGATE, ITERATIVE):
        expected = {"model": expected["model"]}
    return read_ranking(ranking, ITERATIVE_RANKING if name == ITERATIVE else RANKING, **expected)


def order(name: str, given: Pairs, loaded: LoadedModel) -> Pairs:
    """The heads in the order in which a ranking of this name prunes them; ``given`` is the file's."""
    seed = drawn_with(name)
    if seed is not None:
        return random_ranking(loaded.shape.layers, loaded.shape.heads, seed)
    return given[::-1] if name == REVERSED else given
