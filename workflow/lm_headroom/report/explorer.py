"""The explorer: one page on which a model's heads, FFNs and experts can be pointed at, with scores and pruning curves.

The page is one file, which needs neither server nor network: it holds its numbers, and plotly's bundle, compressed.
"""

from __future__ import annotations

import html
import json
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm_headroom.analysis.bootstrap import Interval
from lm_headroom.analysis.correlation import key_value_groups
from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE, metric_of
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.file_provenance import vouching
from lm_headroom.artifacts.heads import computed
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import atomic, provenance, read, reads
from lm_headroom.report.explorer_page import PAGE
from lm_headroom.report.page_parts import fill, packed, packed_plotly
from lm_headroom.results.curves import average, band, study_curves
from lm_headroom.results.experts import ExpertScores, read_experts
from lm_headroom.results.ffns import read_ffns
from lm_headroom.results.induction import SCORES, read_induction
from lm_headroom.results.matrix import Component, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.results.scores import HeadScores, read_tasks
from lm_headroom.study.choices import Outcome
from lm_headroom.study.criteria import CRITERIA as ROWS
from lm_headroom.study.criteria import FFNS, HEADS, criterion_columns
from lm_headroom.study.ranking_names import AGGREGATE, OWN

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
        ``cells`` by number of shots and seed, each with scores of heads, FFNs and experts by task and criterion, the
        ranking of each criterion that is not called as it, and the curves of all these rankings by component, task and
        outcome; ``induction`` scores of heads; and the model's shape.

    Raises:
        ArtifactError: an artifact is missing, or not the one expected.
    """
    cells: dict[str, dict[str, Any]] = {}
    for shots in matrix.shots:
        for seed in seeds:
            cells[f"{shots}-shot, seed {seed}"], heads, experts = _cell(matrix.changed(seed=seed), shots)
    n_layers = max(len(values) for cell in cells.values() for by in cell["ffns"].values() for values in by.values())
    induction = (
        {}
        if matrix.without_induction
        else {name: _rounded(read_induction(matrix, name).scores.ravel()) for name in SCORES}
    )
    return {
        "model": matrix.model,
        "layers": n_layers,
        "heads": heads.score.shape[1],
        "experts": experts and experts.own.shape[1],
        # A layer keeps at least as many.
        "per_token": experts and experts.per_token,
        # Of the layers that have them, from 1.
        "rows": {
            "heads": [number + 1 for number in heads.layers],
            "ffns": list(range(1, n_layers + 1)),
            "experts": [number + 1 for number in experts.layers] if experts else [],
        },
        "groups": _groups(heads.provenance),
        "cells": cells,
        "induction": induction,
        "units": {name: row.unit for name, row in ROWS.items()}
        | {_oracle(name): spec.unit for name, spec in OUTCOMES.items()},
        "outcomes": {name: _described(name) for name in _outcomes(matrix)},
    }


def _cell(matrix: ResultsMatrix, shots: int) -> tuple[dict[str, Any], HeadScores, ExpertScores | None]:
    """One number of shots and seed: what the page shows of it, and the scores of heads and of a task's experts."""
    scores = read_tasks(matrix, shots, aggregate=True)
    together = scores[AGGREGATE]
    keep_all = sum(len(s.others) for s in scores.values()) * together.score.size
    columns = {task: {OWN: s.score} | (dict(s.others) if keep_all <= MOST_SCORES else {}) for task, s in scores.items()}
    ffns, oracles = _ffn_scores(matrix, shots)
    cell: dict[str, Any] = {
        "heads": {task: {name: _rounded(v.ravel()) for name, v in by.items()} for task, by in columns.items()},
        "ffns": ffns,
        "units": {"heads": {task: s.unit for task, s in scores.items()}},
        "rankings": {"heads": {together.criterion: OWN}, "ffns": oracles},
        # By ranks or shares of tasks, whichever criterion.
        "is_rescaled": together.unit != ROWS[together.criterion].unit,
    }
    experts = _add_experts(cell, read_experts(matrix, shots)) if matrix.experts else None
    cell["curves"] = {name: _curves(matrix, shots, name, _selectable(cell, name)) for name in matrix.components}
    return cell, together, experts


def _groups(provenance: Mapping[str, Any]) -> int:
    """Key-value groups of each layer; 1, for none to show, where layers differ in them."""
    differ = isinstance((provenance.get("model") or {}).get("key_value_heads"), list)
    return 1 if differ else key_value_groups(provenance)


def _add_experts(cell: dict[str, Any], scores: Mapping[str, ExpertScores]) -> ExpertScores:
    """Add the scores of experts to a cell; return those of some task, which say how many there are."""
    cell["experts"] = {
        task: {OWN: _rounded(s.own.ravel())} | {name: _rounded(v.ravel()) for name, v in s.by_criterion.items()}
        for task, s in scores.items()
    }
    some = next(iter(scores.values()))
    cell["units"]["experts"] = {task: s.unit for task, s in scores.items()}
    cell["rankings"]["experts"] = {some.criterion: OWN}
    return some


def _selectable(cell: Mapping[str, Any], component: Component) -> set[str]:
    """The rankings of all criteria by which a map of the component can be shown."""
    rankings = cell["rankings"][component]
    return {rankings.get(name, name) for by_task in cell[component].values() for name in by_task} | {OWN, AGGREGATE}


def _oracle(outcome: Outcome) -> str:
    """What the page calls the oracle of an outcome."""
    return f"oracle, {OUTCOMES[outcome].title}"


def _described(outcome: Outcome) -> dict[str, Any]:
    spec = OUTCOMES[outcome]
    return {"title": spec.title, "unit": "%" if spec.unit == "points" else spec.unit, "decimals": spec.decimals}


def _outcomes(matrix: ResultsMatrix) -> list[Outcome]:
    return [one.outcome for one in matrix.outcomes] or [matrix.outcome]


def _rounded(values: Any) -> list[float | None]:
    """Numbers with few digits; None where there is none."""
    return [float(f"{x:.{DIGITS}g}") if np.isfinite(x) else None for x in np.asarray(values, float)]


def _ffn_scores(matrix: ResultsMatrix, shots: int) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Task to criterion to scores, [layer]: the oracle of each outcome, then gradient scores; and oracle to ranking.

    The first oracle is that of the outcome which ranks FFNs, be the study judged by it or not: the own ranking.
    """
    by_task: dict[str, dict[str, Any]] = {task: {} for task in matrix.tasks}
    metric = metric_of(provenance(matrix.path("ffn_importance", shots, task=matrix.tasks[0])))
    rankings = {_oracle(row.knockout): name for name, row in ROWS.items() if row.knockout} | {_oracle(metric): OWN}
    for outcome in dict.fromkeys((metric, *_outcomes(matrix))):
        defining, _ = restrict(matrix.changed(outcome=outcome), FFN_IMPORTANCE)
        for task, scores in (read_ffns(defining, shots).tasks if defining.tasks else {}).items():
            by_task[task][_oracle(outcome)] = _rounded(OUTCOMES[outcome].shown_loss(scores))
    for task, columns in by_task.items():
        table = read(matrix.path("ffn_gradient", shots, task=task), FFN_GRADIENT, **matrix.expected(shots, task))
        for name in computed(table, tuple(criterion_columns(FFNS))):
            columns[name] = _rounded(layers(table, name))
    return by_task, rankings


def _curves(matrix: ResultsMatrix, shots: int, component: Component, selectable: Container[str]) -> dict[str, Any]:
    """Selectable ranking to task to outcome to a curve: the aggregate stands for the average over tasks."""
    aggregate = [AGGREGATE] if component == HEADS else []
    judged = [restrict(matrix.changed(outcome=outcome), component=component)[0] for outcome in _outcomes(matrix)]
    curves: dict[str, Any] = {}
    for ranking in (OWN, *aggregate, *(name for name in matrix.beside_own(component) if name in selectable)):
        by_task: dict[str, dict[str, Any]] = {}
        for defining in judged:
            read_now = study_curves(defining, shots, ranking, component)
            if not read_now:
                continue
            for task, curve in read_now.items():
                of_task = _curve(curve, curve.mean, band(curve), defining.outcome)
                by_task.setdefault(task, {})[defining.outcome] = of_task
            mean = average(list(read_now.values()))
            by_task.setdefault(AGGREGATE, {})[defining.outcome] = _curve(mean, mean.mean, mean.band, defining.outcome)
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
