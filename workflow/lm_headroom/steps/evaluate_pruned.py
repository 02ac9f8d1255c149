"""Step: accuracy curves of one task, shot and seed with heads pruned under one or more rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lm_headroom.analysis.ranking import even_ranking, random_ranking, rank_heads
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.head_oracle import HEAD_ORACLE
from lm_headroom.artifacts.heads import check_computed, grid, layers_of
from lm_headroom.artifacts.iterative_ranking import ITERATIVE_RANKING
from lm_headroom.artifacts.ordered import Head, Ranking, read_ranking
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import ArtifactFile, ArtifactSchema, read_artifact, write
from lm_headroom.errors import HeadroomError
from lm_headroom.options import EvaluationSettings, Levels, OutFolder, RankingNames, StudyKey, recorded_options
from lm_headroom.scoring.oracle_scores import oracle_scores
from lm_headroom.study.choices import ACCURACY, LEVELS, with_zero
from lm_headroom.study.criteria import CRITERIA as ROWS
from lm_headroom.study.ranking_names import (
    ABLATED_OWN,
    AGGREGATE,
    CRITERIA,
    EVEN,
    ITERATIVE,
    ORACLES,
    REVERSED,
    drawn_with,
)

if TYPE_CHECKING:
    from lm_headroom.steps.prepare_evaluation import Prepared


def evaluate_pruned(
    *,
    settings: EvaluationSettings,
    prompts: Path,
    rankings: RankingNames,
    ranking_file: Path | None = None,
    scores: Path | None = None,
    oracle: Path | None = None,
    levels: Annotated[Levels, StudyKey("pruning.levels", with_zero)] = LEVELS,
    out: OutFolder,
) -> None:
    """Evaluate with the least important heads pruned, level by level.

    Where two rankings prune the same heads, they are evaluated once.

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        rankings: names of rankings: own, aggregate or iterative (the ranking file as it is), reversed (the file's most
            important heads first), own_even (the file's heads in rounds that prune as many in each layer), random_N
            (an order drawn with seed N), own_zero, own_mean or own_resample (the file as it is, under that ablation),
            or a criterion of docs/criteria.md.
        ranking_file: the ranking artifact for own, own_even, aggregate, iterative and reversed.
        scores: the task's head-importance artifact, for rankings by its columns.
        oracle: the task's head-oracle artifact of all heads, for rankings by the oracles.
        levels: percents of heads pruned; 0 is always evaluated.
        out: folder for {NAME}.parquet.

    Raises:
        HeadroomError: a file that a name needs is missing, or not of this model (and, by its name, of this task).

    Example:
        lm-headroom evaluate-pruned --model results/opt/model.json
        --prompts results/prompts/copa/0shot-seed1234.parquet --rankings own random_1 --ranking-file ranking.parquet
        --levels 10 30 50 --out curves
    """
    from lm_headroom.steps.prepare_evaluation import prepare

    options = recorded_options(evaluate_pruned, locals())
    prepared = prepare("evaluate-pruned", settings.model, prompts, settings, len(levels) * len(rankings))
    orders = read_rankings(rankings, ranking_file, scores, oracle, prepared)
    for name in rankings:
        seed = drawn_with(name)
        order = orders[name].order if seed is None else _draw(prepared, seed)
        inputs = {"prompts": prepared.prompts.source}
        if name in orders:
            kind = "scores" if name in CRITERIA else "oracle" if name in ORACLES else "ranking"
            inputs[kind] = orders[name].artifact.source
        record = build_provenance("steps.evaluate_pruned", inputs, options, {**prepared.provenance, "ranking": name})
        columns = prepared.ablating(ABLATED_OWN.get(name, settings.ablation)).curve(order, levels)
        write(out / f"{name}.parquet", PRUNED_EVAL, columns, record, prepared.run_statistics)


def read_rankings(
    names: Sequence[str], ranking: Path | None, scores: Path | None, oracle: Path | None, prepared: Prepared
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

    @cache
    def knockouts() -> ArtifactFile:
        path = needed(name, oracle, "the task's head oracle (--oracle)")
        return read_artifact(path, HEAD_ORACLE, **prepared.expected())

    orders: dict[str, Ranking[Head]] = {}
    for name in names:
        if drawn_with(name) is not None:
            continue
        if name in CRITERIA:
            check_computed(importances(), name)
            order = rank_heads(grid(importances().table, name), layers_of(importances().table))
            orders[name] = Ranking("heads", tuple(order), importances())
        elif name in ORACLES:
            lost = oracle_scores(knockouts(), ROWS[name].knockout or ACCURACY, prepared.shape.grid)
            orders[name] = Ranking("heads", tuple(rank_heads(lost, prepared.shape.attending)), knockouts())
        else:
            read = ranked(ITERATIVE_RANKING if name == ITERATIVE else RANKING)
            expected = prepared.expected(*([AGGREGATE] if name == AGGREGATE else []))
            if name == REVERSED:
                expected = {"model": expected["model"]}
            read.artifact.check_origin(**expected)
            orders[name] = read.reversed() if name == REVERSED else read
            if name == EVEN:
                orders[name] = replace(read, order=tuple(even_ranking(read.order, prepared.shape.group)))
        prepared.check_fits(orders[name])
    return orders


def _draw(prepared: Prepared, seed: int) -> list[Head]:
    """All heads of a model in an order drawn at random."""
    layers = prepared.shape.attending
    return [(layers[row], head) for row, head in random_ranking(*prepared.shape.grid, seed)]


def needed(name: str, path: Path | None, what: str) -> Path:
    """The file that a ranking of this name is taken from.

    Raises:
        HeadroomError: it is not given.
    """
    if path is None:
        raise HeadroomError(f"ranking {name!r} needs {what}")
    return path
