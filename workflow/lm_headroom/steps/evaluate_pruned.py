"""Step: accuracy curves of one task, shot and seed with heads pruned under one or more rankings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lm_headroom.analysis.ranking import AGGREGATE, ITERATIVE, random_ranking, rank_heads
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.iterative_ranking import ITERATIVE_RANKING
from lm_headroom.artifacts.ordered import Head, Ranking, read_ranking
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import ArtifactFile, ArtifactSchema, read_artifact, write
from lm_headroom.errors import HeadroomError
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_evaluation import Prepared, prepare
from lm_headroom.study.ranking_names import CRITERIA, REVERSED, drawn_with


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
    prepared = prepare("prune", model, prompts, settings, len(levels) * len(rankings))
    given = read_rankings(rankings, ranking, scores, prepared)
    options = {"levels": list(levels), "add_bos": settings.add_bos}
    for name in rankings:
        seed = drawn_with(name)
        order = given[name].order if seed is None else random_ranking(*prepared.shape, seed)
        inputs = {"prompts": prepared.prompts.source}
        if name in given:
            inputs["scores" if name in CRITERIA else "ranking"] = given[name].artifact.source
        record = build_provenance("steps.evaluate_pruned", inputs, options, {**prepared.provenance, "ranking": name})
        columns = prepared.evaluation.curve(order, levels)
        write(out / f"{name}.parquet", PRUNED_EVAL, columns, record, prepared.run_statistics)


def read_rankings(
    names: Sequence[str], ranking: Path | None, scores: Path | None, prepared: Prepared
) -> dict[str, Ranking[Head]]:
    """The rankings of these names but for those drawn at random; each file is read once.

    ``own`` and ``iterative`` are rankings of the prompts' task, ``aggregate`` is the aggregate's, all at the prompts'
    shots and seed; so are the scores, whose columns rank under their names.

    Raises:
        HeadroomError: a file is not given, or it is of another model, task, shot or seed.
    """

    @cache
    def ranked(kind: ArtifactSchema) -> Ranking[Head]:
        return read_ranking(needed(name, ranking, "a ranking file (--ranking-file)"), kind)

    @cache
    def importances() -> ArtifactFile:
        path = needed(name, scores, "the task's head importances (--scores)")
        return read_artifact(path, HEAD_IMPORTANCE, **prepared.expected())

    orders: dict[str, Ranking[Head]] = {}
    for name in names:
        if drawn_with(name) is not None:
            continue
        if name in CRITERIA:
            orders[name] = Ranking("heads", tuple(rank_heads(grid(importances().table, name))), importances())
        else:
            given = ranked(ITERATIVE_RANKING if name == ITERATIVE else RANKING)
            expected = prepared.expected(*([AGGREGATE] if name == AGGREGATE else []))
            if name == REVERSED:
                expected = {"model": expected["model"]}
            given.artifact.check_origin(**expected)
            orders[name] = given.reversed() if name == REVERSED else given
        orders[name].check_fits(prepared.shape)
    return orders


def needed(name: str, path: Path | None, what: str) -> Path:
    """The file that a ranking of this name is taken from.

    Raises:
        HeadroomError: it is not given.
    """
    if path is None:
        raise HeadroomError(f"ranking {name!r} needs {what}")
    return path
