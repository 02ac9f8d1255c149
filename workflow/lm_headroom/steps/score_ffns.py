"""Step: oracle FFN importance of one task, shot and seed, the ranking it gives, and the curve under it (Figure 6).

One step, because the curve needs the ranking alone, and begins with an evaluation that the oracle has made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from lm_headroom.analysis.ranking import ffn_columns, random_ffns, rank_ffns
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.heads import check_computed
from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import FFN_RANKING
from lm_headroom.artifacts.store import ArtifactFile, ArtifactSchema, Source, read_artifact, write
from lm_headroom.errors import HeadroomError
from lm_headroom.options import EvaluationSettings, FfnControls, Levels, OutFile, StudyKey, recorded_options
from lm_headroom.study.choices import ACCURACY, LEVELS, KnockoutOutcome, Selection, with_zero
from lm_headroom.study.criteria import CRITERIA, FFNS, criterion_columns
from lm_headroom.study.ranking_names import ABLATED_OWN, REVERSED, drawn_with

if TYPE_CHECKING:
    from lm_headroom.scoring.knockout import Knockouts
    from lm_headroom.steps.prepare_evaluation import Prepared

PURPOSES = {"evaluation": EVALUATION, "scoring": IMPORTANCE}


@dataclass(frozen=True)
class Record:
    """What the artifacts say of themselves: the step that makes them, the schema of the scores, and the options."""

    step: str
    schema: ArtifactSchema
    options: Mapping[str, Any]


def score_ffns(
    *,
    settings: EvaluationSettings,
    prompts: Path,
    metric: Annotated[KnockoutOutcome, StudyKey("ffn.metric")] = ACCURACY,
    selection: Annotated[Selection, StudyKey("ffn.selection")] = "scoring",
    levels: Annotated[Levels, StudyKey("pruning.levels", with_zero)] = LEVELS,
    controls: FfnControls = (),
    gradients: Path | None = None,
    out: OutFile,
    ranking: OutFile | None = None,
    curve: OutFile | None = None,
) -> None:
    """Score every FFN by what is lost without it (eq. 7).

    Args:
        settings: how to run the model.
        prompts: prompts artifact.
        metric: the outcome whose loss without an FFN is its score; accuracy in the paper.
        selection: the documents that score: `scoring`, or `evaluation` as in the paper (the curve then has selection
            bias).
        levels: percents of FFNs pruned, of the curves, which are measured on the evaluation documents; 0 is always
            there.
        controls: also write curves beside that one with FFNs in another order: reversed (most important first),
            random_N (drawn with seed N), or by a criterion of FFNs; or in the same order under another ablation:
            own_zero, own_mean or own_resample.
        gradients: the task's FFN-gradient artifact, for controls by its columns.
        out: the FFN-importance artifact.
        ranking: also write the ranking here.
        curve: also write the accuracy curve under that ranking here.

    Raises:
        HeadroomError: there are controls, and no curve that they could stand beside, or no scores to rank by; or the
            task does not define the metric.

    Example:
        lm-headroom score-ffns --model results/opt/model.json --prompts results/prompts/copa/0shot-seed1234.parquet
        --out scores.parquet --curve own.parquet --controls random_1
    """
    if controls and curve is None:
        raise HeadroomError("--controls are written beside --curve; give both")
    options = recorded_options(score_ffns, locals())
    record = Record("steps.score_ffns", FFN_IMPORTANCE, options)
    score_and_measure(settings, prompts, metric, selection, levels, record, out, ranking, curve, controls, gradients)


def score_and_measure(
    settings: EvaluationSettings,
    prompts: Path,
    metric: KnockoutOutcome,
    selection: Selection,
    levels: Sequence[int],
    wanted: Record,
    out: Path,
    ranking: Path | None,
    curve: Path | None,
    controls: Sequence[str] = (),
    gradients: Path | None = None,
) -> None:
    """Write an artifact of FFN scores and, where asked for, its ranking, the curve under it, and control curves."""
    from lm_headroom.scoring import knockout
    from lm_headroom.steps.prepare_evaluation import prepare, prepare_documents

    purpose = PURPOSES[selection]
    prepared = prepare("score-ffns", settings.model, prompts, settings, purpose=purpose, keeps_layers=True)
    evaluation, loaded = prepared.evaluation, prepared.loaded
    knockout.check_metric(evaluation.documents, evaluation.choices, metric)
    knockout.check_oracles(evaluation.documents, evaluation.choices, controls)
    prepared.expect(loaded.shape.layers)
    knockouts = knockout.knock_out_ffns(
        loaded, evaluation.batches, evaluation.progress, evaluation.cache, evaluation.ablation
    )
    evaluation.keep_whole(knockouts.dense)
    columns = knockout.ffn_importance_columns(evaluation.documents, evaluation.choices, knockouts, metric)
    options = {name: value for name, value in wanted.options.items() if name != "levels"}
    inputs = {"prompts": prepared.prompts.source}
    record = build_provenance(wanted.step, inputs, options, prepared.provenance)
    write(out, wanted.schema, columns, record, prepared.run_statistics)
    scores = np.array(columns["score"])
    order = rank_ffns(scores)
    if ranking:
        write(ranking, FFN_RANKING, ffn_columns(order, scores), record, prepared.run_statistics)
    if curve:
        evaluation.remember(knockouts.dense)
        for layer, ablated in enumerate(knockouts.ablated):
            evaluation.remember(ablated, ffns=[layer])
        judged = prepared
        if purpose != EVALUATION:
            judged = prepare_documents("score-ffns", loaded, prepared.prompts, EVALUATION, settings)
        judged.expect(len(levels) * (1 + len(controls)))
        known = _Orders(order, prepared, knockouts, gradients)
        orders = {curve.stem: order} | {name: known.control(name) for name in controls}
        for name, ranked in orders.items():
            inputs = {"prompts": prepared.prompts.source} | known.inputs(name)
            provenance = {**prepared.provenance, "ranking": name}
            record = build_provenance(wanted.step, inputs, wanted.options, provenance)
            columns = judged.ablating(ABLATED_OWN.get(name, settings.ablation)).ffn_curve(ranked, levels)
            write(curve.with_stem(name), PRUNED_EVAL, columns, record, judged.run_statistics)


@dataclass(frozen=True)
class _Orders:
    """The orders in which control rankings prune FFNs, layer by layer.

    Attributes:
        own: the study's ranking.
        prepared: the documents that rank.
        knockouts: the model without each FFN on these documents.
        gradients: the FFN-gradient artifact; None where no control ranks by its columns.
    """

    own: Sequence[int]
    prepared: Prepared
    knockouts: Knockouts
    gradients: Path | None

    @cached_property
    def _scores(self) -> ArtifactFile:
        if self.gradients is None:
            raise HeadroomError("controls that rank FFNs by gradients need the FFN-gradient artifact (--gradients)")
        return read_artifact(self.gradients, FFN_GRADIENT, **self.prepared.expected())

    def inputs(self, name: str) -> dict[str, Source]:
        """What a curve under this ranking was made from beside the prompts."""
        return {"gradients": self._scores.source} if name in criterion_columns(FFNS) else {}

    def control(self, name: str) -> list[int]:
        """The layers as a control ranking prunes their FFNs."""
        seed = drawn_with(name)
        if seed is not None:
            return random_ffns(len(self.own), seed)
        if name == REVERSED:
            return list(self.own[::-1])
        if name in ABLATED_OWN:
            return list(self.own)
        if name in criterion_columns(FFNS):
            check_computed(self._scores, name)
            return rank_ffns(layers(self._scores.table, name))
        from lm_headroom.scoring.knockout import ffn_importance_columns

        evaluation, outcome = self.prepared.evaluation, CRITERIA[name].knockout or ACCURACY
        columns = ffn_importance_columns(evaluation.documents, evaluation.choices, self.knockouts, outcome)
        return rank_ffns(np.array(columns["score"]))
