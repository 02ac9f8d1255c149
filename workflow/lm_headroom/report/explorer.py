"""The explorer: one page on which a model's heads, FFNs and experts can be pointed at, with scores and pruning curves.

The page is one file, which needs neither server nor network: it holds its numbers, and plotly's bundle, compressed.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm_headroom.analysis.bootstrap import Interval
from lm_headroom.analysis.correlation import key_value_groups
from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.file_provenance import vouching
from lm_headroom.artifacts.heads import computed
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import atomic, read, reads
from lm_headroom.report.explorer_page import PAGE
from lm_headroom.report.page_parts import fill, packed, packed_plotly
from lm_headroom.results.curves import UndefinedOutcomeError, average, band, study_curves
from lm_headroom.results.experts import ExpertScores, read_experts
from lm_headroom.results.ffns import read_ffns
from lm_headroom.results.induction import SCORES, read_induction
from lm_headroom.results.matrix import Component, ResultsMatrix
from lm_headroom.results.scores import read_tasks
from lm_headroom.study.choices import Outcome
from lm_headroom.study.criteria import CRITERIA as ROWS
from lm_headroom.study.criteria import FFNS, HEADS, criterion_columns
from lm_headroom.study.ranking_names import AGGREGATE, ITERATIVE, OWN

DIGITS = 4
"""Significant digits of a score: more cannot be seen, and would make the page larger."""
MOST_SCORES = 1_000_000
"""Scores of heads in a page. A larger study's page has those of its own criterion alone."""


def data(matrix: ResultsMatrix, seeds: Iterable[int]) -> dict[str, Any]:
    """What the page shows, as JSON has it.

    Args:
        matrix: one model's part of a study; its outcomes are those to choose from.
        seeds: few-shot seeds.

    Returns:
        ``cells`` by number of shots and seed, each with scores of heads, FFNs and experts by task and criterion and
        curves by component, ranking, task and outcome; ``induction`` scores of heads; and the model's shape.

    Raises:
        ArtifactError: an artifact is missing, or not the one expected.
    """
    cells: dict[str, dict[str, Any]] = {}
    groups, n_heads, numbers, n_layers, experts = 1, 0, [0], 0, None
    for shots in matrix.shots:
        for seed in seeds:
            part = matrix.changed(seed=seed)
            scores = read_tasks(part, shots, aggregate=True)
            keep_all = sum(len(s.others) for s in scores.values()) * next(iter(scores.values())).score.size
            columns = {
                task: {OWN: s.score} | (dict(s.others) if keep_all <= MOST_SCORES else {}) for task, s in scores.items()
            }
            groups, n_heads = _groups(scores[AGGREGATE].provenance), scores[AGGREGATE].score.shape[1]
            numbers, ffns = scores[AGGREGATE].layers, _ffn_scores(part, shots)
            n_layers = max(len(values) for by in ffns.values() for values in by.values())
            cells[f"{shots}-shot, seed {seed}"] = {
                "heads": {task: {name: _rounded(v.ravel()) for name, v in by.items()} for task, by in columns.items()},
                "ffns": ffns,
                "units": {"heads": {task: s.unit for task, s in scores.items()}},
                "curves": {component: _curves(part, shots, component) for component in matrix.components},
            }
            if matrix.experts:
                experts = _experts(cells[f"{shots}-shot, seed {seed}"], read_experts(part, shots))
    induction = (
        {}
        if matrix.without_induction
        else {name: _rounded(read_induction(matrix, name).scores.ravel()) for name in SCORES}
    )
    return {
        "model": matrix.model,
        "layers": n_layers,
        "heads": n_heads,
        "experts": experts and experts.own.shape[1],
        # A layer keeps at least as many.
        "per_token": experts and experts.per_token,
        # Of the layers that have them, from 1.
        "rows": {
            "heads": [number + 1 for number in numbers],
            "ffns": list(range(1, n_layers + 1)),
            "experts": [number + 1 for number in experts.layers] if experts else [],
        },
        "groups": groups,
        "cells": cells,
        "induction": induction,
        "criteria": {name: {"unit": row.unit, "formula": row.formula} for name, row in ROWS.items()},
        "outcomes": {name: _described(name) for name in _outcomes(matrix)},
    }


def _groups(provenance: Mapping[str, Any]) -> int:
    """Key-value groups of each layer; 1, for none to show, where layers differ in them."""
    differ = isinstance((provenance.get("model") or {}).get("key_value_heads"), list)
    return 1 if differ else key_value_groups(provenance)


def _experts(cell: dict[str, Any], scores: Mapping[str, ExpertScores]) -> ExpertScores:
    """Add the scores of experts to a cell; return those of some task, which say how many there are."""
    cell["experts"] = {
        task: {OWN: _rounded(s.own.ravel())} | {name: _rounded(v.ravel()) for name, v in s.by_criterion.items()}
        for task, s in scores.items()
    }
    cell["units"]["experts"] = {task: s.unit for task, s in scores.items()}
    return next(iter(scores.values()))


def _described(outcome: Outcome) -> dict[str, Any]:
    spec = OUTCOMES[outcome]
    return {"title": spec.title, "unit": "%" if spec.unit == "points" else spec.unit, "decimals": spec.decimals}


def _outcomes(matrix: ResultsMatrix) -> list[Outcome]:
    return [one.outcome for one in matrix.outcomes] or [matrix.outcome]


def _rounded(values: Any) -> list[float | None]:
    """Numbers with few digits; None where there is none."""
    return [float(f"{x:.{DIGITS}g}") if np.isfinite(x) else None for x in np.asarray(values, float)]


def _ffn_scores(matrix: ResultsMatrix, shots: int) -> dict[str, dict[str, Any]]:
    """Task to criterion to scores, [layer]: the oracle of each outcome, then gradient scores by their columns."""
    by_task: dict[str, dict[str, Any]] = {task: {} for task in matrix.tasks}
    for outcome in _outcomes(matrix):
        try:
            importance = read_ffns(matrix.changed(outcome=outcome), shots)
        except UndefinedOutcomeError:
            continue
        for task, scores in importance.tasks.items():
            by_task[task][f"oracle, {OUTCOMES[outcome].title}"] = _rounded(OUTCOMES[outcome].shown_loss(scores))
    for task, columns in by_task.items():
        table = read(matrix.path("ffn_gradient", shots, task=task), FFN_GRADIENT, **matrix.expected(shots, task))
        for name in computed(table, tuple(criterion_columns(FFNS))):
            columns[name] = _rounded(layers(table, name))
    return by_task


def _curves(matrix: ResultsMatrix, shots: int, component: Component) -> dict[str, Any]:
    """Ranking to task to outcome to a curve: the aggregate stands for the average over tasks."""
    again = [ITERATIVE] if component == HEADS and matrix.iterative else []
    aggregate = [AGGREGATE] if component == HEADS else []
    curves: dict[str, Any] = {}
    for ranking in (OWN, *aggregate, *again, *matrix.beside_own(component)):
        by_task: dict[str, dict[str, Any]] = {}
        for outcome in _outcomes(matrix):
            try:
                read_now = study_curves(matrix.changed(outcome=outcome), shots, ranking, component)
            except UndefinedOutcomeError:
                continue
            for task, curve in read_now.items():
                by_task.setdefault(task, {})[outcome] = _curve(curve, curve.mean, band(curve), outcome)
            mean = average(list(read_now.values()))
            by_task.setdefault(AGGREGATE, {})[outcome] = _curve(mean, mean.mean, mean.band, outcome)
        curves[ranking] = by_task
    return curves


def _curve(curve: Any, mean: Any, limits: Interval, outcome: Outcome) -> dict[str, Any]:
    """Percents, values and 95% limits as they are shown, and the parameters removed."""
    shown = OUTCOMES[outcome].shown
    low, high = np.sort([shown(limits.low), shown(limits.high)], axis=0)
    return {
        "percent": list(curve.percent),
        "value": _rounded(shown(mean)),
        "low": _rounded(low),
        "high": _rounded(high),
        "removed": [int(n) for n in curve.removed],
    }


def render(values: Mapping[str, Any]) -> str:
    """The page of :func:`data`."""
    numbers = json.dumps(values, separators=(",", ":")).encode()
    replaced = {
        "@MODEL@": html.escape(str(values["model"])),
        "@DATA@": packed(numbers),
        "@PLOTLY@": packed_plotly(),
    }
    return fill(PAGE, replaced)


def write(matrix: ResultsMatrix, out: Path, seeds: tuple[int, ...]) -> None:
    """Write the explorer of a model to ``out``.html.

    Args:
        matrix: the model's part of a study.
        out: path without suffix.
        seeds: few-shot seeds.

    Raises:
        ArtifactError: see :func:`data`.
    """
    with reads() as sources:
        page = render(data(matrix, seeds))
    record = describe_drawn("page", "report.explorer", sources, {**matrix.options, "seeds": list(seeds)}, out)
    with atomic(out.with_name(f"{out.name}.html")) as partial:
        partial.write_bytes(vouching(".html", page.encode(), record, {}))
