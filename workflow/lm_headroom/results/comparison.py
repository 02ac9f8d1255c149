"""Comparisons between the models of a study: prunable shares, rankings, induction scores, layer profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lm_headroom.analysis.correlation import TaskScores, compare_pairs
from lm_headroom.analysis.non_inferiority import Prunable
from lm_headroom.artifacts.catalogue import path_of
from lm_headroom.results.chance import ChanceLevel
from lm_headroom.results.curves import AverageCurve
from lm_headroom.results.matrix import Component, ResultsMatrix
from lm_headroom.study.choices import Statistic
from lm_headroom.study.compared import ComparedModel
from lm_headroom.study.judged import JudgedOutcome

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Comparison:
    """The models of a study and the matrix that they are compared on.

    Attributes:
        results: the results folder, which has a folder per model.
        models: in the order of the study.
        tasks, shots: in the order of the figures.
        seed: few-shot seed; None for what does not depend on it.
        correlation: which statistic a figure of rankings shows, ``spearman`` or ``argsort``; None elsewhere.
        outcomes: what evaluations are judged by, with margins; none for what does not depend on them.
    """

    results: Path
    models: tuple[ComparedModel, ...]
    tasks: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    seed: int | None = None
    correlation: Statistic | None = None
    outcomes: tuple[JudgedOutcome, ...] = ()

    @cached_property
    def matrices(self) -> dict[str, ResultsMatrix]:
        """Each model's part, by its name."""
        return {
            model.name: ResultsMatrix(self.results / model.name, self.tasks, self.shots, self.seed)
            for model in self.models
        }

    @property
    def labels(self) -> list[str]:
        """Each model with its group and training step, as studies have them and no model's record does."""
        return list(map(str, self.models))

    def artifact(self, what: str) -> Path:
        """The artifact of a comparison."""
        return self.results / path_of(f"compared_{what}", seed=self.seed)

    @property
    def recorded_options(self) -> dict[str, Any]:
        """The compared models and cells, which artifacts that a figure reads must have been made with."""
        others = ("labels", "correlation", "outcomes")
        return {name: value for name, value in self.options.items() if name not in others}

    @property
    def options(self) -> dict[str, Any]:
        """The compared models and cells and how they are shown, for the provenance."""
        options = {
            "models": [model.name for model in self.models],
            "labels": self.labels,
            "tasks": list(self.tasks),
            "shots": list(self.shots),
            "seed": self.seed,
            "correlation": self.correlation,
            "outcomes": list(map(str, self.outcomes)),
        }
        return {name: value for name, value in options.items() if value not in (None, [])}


def prunable_row(
    model: str,
    judged: JudgedOutcome,
    component: Component,
    shots: int,
    curve: AverageCurve,
    prunable: Prunable,
    chance: Sequence[ChanceLevel],
) -> dict[str, Any]:
    """A row of the artifact: the prunable share of one model's heads or FFNs at one number of shots.

    Args:
        model: its name.
        judged: the outcome and its margin.
        component: what is pruned.
        shots: number of few-shot examples.
        curve: the outcome averaged over the tasks above chance, each under its own ranking.
        prunable: the share of it that can be pruned.
        chance: chance levels of the same tasks.
    """
    at = prunable.level
    return {
        "model": model,
        "component": component,
        "shots": shots,
        "outcome": judged.outcome,
        "margin": judged.margin,
        "verdict": prunable.verdict,
        "percent": None if at is None else curve.percent[at],
        "estimate": None if prunable.estimate is None else curve.percent[prunable.estimate],
        "below": None if prunable.below is None else curve.percent[prunable.below],
        "parameters_removed": None if at is None else float(curve.removed[at]),
        "loss": None if at is None else float(curve.loss[at]),
        "loss_low": None if at is None else float(curve.loss_interval.low[at]),
        "loss_high": None if at is None else float(curve.loss_interval.high[at]),
        "power": prunable.power,
        "score": float(curve.mean[0]),
        "score_stderr": float(curve.stderr[0]),
        "accuracy": curve.accuracy,
        "stderr": curve.accuracy_stderr,
        "random_choice": float(np.mean([task.random_choice for task in chance])),
        "majority": float(np.mean([task.majority for task in chance])),
        "chance_level": float(np.mean([task.level for task in chance])),
        "n_tasks": len(chance),
        "n_questions": curve.questions,
        "reason": prunable.reason or None,
    }


def ranking_rows(scores: Mapping[str, Mapping[str, TaskScores]], shots: int) -> list[dict[str, Any]]:
    """A row per pair of models with as many layers and heads, and task; none where no two models are alike.

    Heads are compared number by number: of models that did not start from the same weights, only the
    layer-wise trend can agree.

    Args:
        scores: model to task to its head scores, the same tasks for each.
        shots: number of few-shot examples.
    """
    shapes = {model: next(iter(by_task.values())).score.shape for model, by_task in scores.items()}
    rows = []
    for shape in dict.fromkeys(shapes.values()):
        alike = [model for model in scores if shapes[model] == shape]
        pairs = list(combinations(alike, 2))
        by_task = {
            # Models are scored on the same documents.
            task: compare_pairs({model: scores[model][task] for model in alike}, pairs, same_documents=True)
            for task in scores[alike[0]]
        }
        rows += [
            {"model_a": a, "model_b": b, "task": task, "shots": shots, **statistics[i]}
            for i, (a, b) in enumerate(pairs)
            for task, statistics in by_task.items()
        ]
    return rows


def induction_row(
    model: str, score: str, mean: Array, variance: Array, n_sequences: int, layers: Sequence[int] | None = None
) -> dict[str, Any]:
    """A row of the artifact: one induction score of one model's heads.

    Args:
        model: its name.
        score: ``prefix_matching`` or ``copying``.
        mean, variance: over sequences, each [layer, head]; the variance NaN for one sequence.
        n_sequences: number of sequences.
        layers: number of each row's layer; None for 0, 1, ...
    """
    row, head = (int(index) for index in np.unravel_index(int(np.argmax(mean)), mean.shape))
    n_top = max(1, mean.size // 10)
    spread = float(variance[row, head])
    return {
        "model": model,
        "score": score,
        "maximum": float(mean[row, head]),
        "layer": row if layers is None else layers[row],
        "head": head,
        "stderr": None if np.isnan(spread) else float(np.sqrt(spread / n_sequences)),
        "top_mean": float(np.sort(mean, axis=None)[-n_top:].mean()),
        "n_top": n_top,
        "median": float(np.median(mean)),
        "n_sequences": n_sequences,
    }


def profile_rows(
    model: str, component: Component, shots: int, by_layer: Mapping[int, float], n_layers: int
) -> list[dict[str, Any]]:
    """Rows of the artifact: one model's importance by layer.

    Args:
        model: its name.
        component: ``heads`` (compared as multiples of the mean size of the layers' scores) or ``ffns``.
        shots: number of few-shot examples.
        by_layer: importance by the layer's number; layers without heads have none.
        n_layers: layers of the model.
    """
    # Of scores that are not negative the mean; that of signed ones may be near 0.
    size = float(np.mean(np.abs(list(by_layer.values()))))
    is_relative = component == "heads" and size > 0
    return [
        {
            "model": model,
            "component": component,
            "shots": shots,
            "layer": layer,
            "depth": (layer + 0.5) / n_layers,
            "importance": float(value),
            "relative": float(value) / size if is_relative else None,
        }
        for layer, value in by_layer.items()
    ]
