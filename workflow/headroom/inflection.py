"""The headroom table: how much of a model's heads, FFNs and both can go at a loss within a margin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headroom.artifacts.store import reads
from headroom.certify import CONFIDENCE, NOT_CERTIFIABLE, Certified, certify, certify_grid
from headroom.chance import chances
from headroom.figures.accuracy import Average, AverageCurve, average, average_grid, study_curves, study_grids
from headroom.figures.study import AVERAGE, COMPONENTS, Component, Study
from headroom.provenance import describe_drawn
from headroom.ranking import AGGREGATE
from headroom.settings import MARGIN
from headroom.tables import size, write_table

BOTH = "heads and FFNs"
CERTIFIED = "certified"
CURVES: tuple[tuple[Component, str], ...] = (("heads", "own"), ("heads", AGGREGATE), ("ffns", "own"))
"""Components and the rankings that they are certified under."""
PAPER = {
    ("heads", AVERAGE): "about 70 %",
    ("ffns", AVERAGE): "about 20 %",
    **dict.fromkeys([("ffns", task) for task in ("piqa", "winogrande", "rte")], "30 %"),
}
"""What the paper reads off its curves of OPT-66B by eye, where accuracy starts to fall."""
NOTES = (
    "*Certified*: the loss of accuracy against the whole model is shown to be less than {margin:g} points, with "
    f"{100 * CONFIDENCE:.0f} % confidence, at that level and at every level before it. *Up to*: there were enough "
    "questions to show more, and they did not; *at least*: more questions or levels could. *Less than*: from there on "
    "losses are shown to be more than the margin, with the same confidence; the two are the interval. *Estimate*: no "
    "observed loss exceeds the margin up to there. Limits of the loss are of 95 %, from a bootstrap over questions.",
    "*Not certifiable*: these questions cannot answer. The whole model is itself not told from guessing, or nothing is "
    "certified and the power at the first level, the chance to certify it if it lost nothing, is below one half.",
    "Each row has its confidence by itself. The paper reads its shares off the curves of OPT-66B by eye, without a "
    "margin; they are no prediction for another model.",
)


class Row(NamedTuple):
    """What can go of a component, for one task or on average, at one few-shot seed.

    Percents are of all heads or FFNs, losses and accuracies shares of 1; None where nothing can be said.
    """

    seed: int
    shots: int
    component: str
    ranking: str
    task: str
    questions: int
    accuracy: float
    stderr: float
    guessing: float
    verdict: str
    heads: int | None = None
    ffns: int | None = None
    parameters: float | None = None
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    estimate: int | None = None
    below: int | None = None
    power: float | None = None
    paper: str = ""
    reason: str = ""


def rows(study: Study, seeds: Sequence[int]) -> Iterator[Row]:
    """All rows: per few-shot seed and shot heads, FFNs and both; the average, then each task.

    Args:
        study: the matrix, of any seed.
        seeds: of the table.

    Raises:
        ArtifactError: an artifact of the study is missing or not its own.
    """
    for seed in seeds:
        of = replace(study, seed=seed)
        guesses = chances(of)
        guess = float(np.mean([guesses[task] for task in of.tasks]))
        for shots in of.shots:
            yield from _shot_rows(of, seed, shots, guesses, guess)


def _shot_rows(study: Study, seed: int, shots: int, guesses: Mapping[str, float], guess: float) -> Iterator[Row]:
    for component, ranking in CURVES:
        curves = study_curves(study, shots, ranking, component)
        cell = (seed, shots, component, ranking)
        yield _row(study, (*cell, AVERAGE), average(list(curves.values())), guess)
        for task, curve in curves.items():
            yield _row(study, (*cell, task), average([curve]), guesses[task])
    if study.joint:
        yield _joint_row(study, seed, shots, guess)


def _row(study: Study, cell: tuple[int, int, Component, str, str], curve: AverageCurve, guess: float) -> Row:
    *_, component, ranking, task = cell
    found = certify(curve.correct, guess, study.margin or MARGIN)
    row = Row(
        *cell,
        *_whole(curve, guess),
        found.verdict,
        estimate=_percent(curve, found.estimate),
        below=_percent(curve, found.below),
        power=found.power,
        paper=PAPER.get((component, task), "") if ranking == "own" else "",
        reason=found.reason,
    )
    if found.level is None:
        return row
    gone = {component: curve.percent[found.level], **_gone(curve, curve.removed, found.level)}
    return row._replace(**gone)


def _joint_row(study: Study, seed: int, shots: int, guess: float) -> Row:
    grid = average_grid(study_grids(study, shots))
    found = certify_grid(grid.correct, grid.removed, guess, study.margin or MARGIN)
    verdict = NOT_CERTIFIABLE if found.cell is None else CERTIFIED
    whole = _whole(grid, guess)
    row = Row(seed, shots, BOTH, "joint grid", AVERAGE, *whole, verdict, reason=found.reason)
    if found.cell is None:
        return row
    head, ffn = found.cell
    return row._replace(heads=grid.heads[head], ffns=grid.ffns[ffn], **_gone(grid, grid.removed, found.cell))


def _whole(found: Average, guess: float) -> tuple[int, float, float, float]:
    return found.questions, float(found.accuracy.flat[0]), float(found.stderr.flat[0]), guess


def _gone(found: Average, removed: Any, at: Any) -> dict[str, Any]:
    """What goes at a level or cell, and what it costs."""
    limits = found.loss_interval
    values = {"parameters": removed, "loss": found.loss, "loss_low": limits.low, "loss_high": limits.high}
    return {name: float(value[at]) for name, value in values.items()}


def _percent(curve: AverageCurve, level: int | None) -> int | None:
    return None if level is None else curve.percent[level]


def what_can_go(found: Certified, curve: AverageCurve) -> str:
    """In words: ``at least 20 % (estimate 40 %; less than 70 %)``; empty where nothing can be said."""
    return _words(found.verdict, *(_percent(curve, level) for level in (found.level, found.estimate, found.below)))


def _words(verdict: str, share: int | None, estimate: int | None, below: int | None) -> str:
    if share is None:
        return ""
    limit = "no level refuted" if below is None else f"less than {below} %"
    return f"{verdict} {share} % (estimate {estimate} %; {limit})"


def in_words(row: Row) -> tuple[object, ...]:
    """A row of the page, which begins with the seed."""
    component = COMPONENTS.get(row.component, row.component)  # type: ignore[call-overload]
    if row.verdict == NOT_CERTIFIABLE:
        found = f"{NOT_CERTIFIABLE}: {row.reason}"
    elif row.component == BOTH:
        found = f"{row.heads} % of heads and {row.ffns} % of FFNs"
    else:
        found = _words(row.verdict, row.ffns if row.heads is None else row.heads, row.estimate, row.below)
    lost = "" if row.loss is None else _points(row.loss, row.loss_low, row.loss_high)
    parameters = size(row.parameters) if row.parameters else ""
    whole = f"{100 * row.accuracy:.1f} ± {100 * row.stderr:.1f} ({100 * row.guessing:.0f})"
    shown = f"{component}, {row.ranking}"
    return (row.seed, f"{row.shots}-shot", shown, row.task, found, parameters, lost, whole, row.questions, row.paper)


PAGE = (
    "seed",
    "shots",
    "component, ranking",
    "task",
    "certified to go",
    "parameters",
    "points lost (95 %)",
    "accuracy ± SE (guessing), %",
    "questions",
    "paper (OPT-66B)",
)


def _points(value: float, low: float | None, high: float | None) -> str:
    return f"{100 * value:.1f} ({100 * (low or 0):.1f} to {100 * (high or 0):.1f})"


def write(study: Study, seeds: Sequence[int], out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html; a page of one seed does not show it."""
    with reads() as sources:
        found: Sequence[Row] = list(rows(study, seeds))
    made = describe_drawn("table", "inflection", sources, {**study.options, "seeds": sorted(seeds)}, out)
    notes = [note.format(margin=study.margin or MARGIN) for note in NOTES]
    first = 0 if len(seeds) > 1 else 1
    page = (PAGE[first:], [in_words(row)[first:] for row in found])
    write_table(out, f"How much of {study.model} can go", Row._fields, found, made, notes, page)
