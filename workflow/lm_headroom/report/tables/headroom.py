"""The headroom table: the share of a model's heads, FFNs and both that can be pruned within a margin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_headroom.analysis.non_inferiority import (
    CONFIDENCE,
    ENOUGH_POWER,
    ESTIMATE_ONLY,
    INCONCLUSIVE,
    PRUNABLE,
    RELATIVE_MARGIN,
    Prunable,
    find_prunable,
    find_prunable_cell,
    is_above_chance,
)
from lm_headroom.analysis.outcomes import OUTCOMES, explain_undefined, in_title
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import reads
from lm_headroom.report.pages import size, write_table
from lm_headroom.report.tables.by_outcome import (
    in_unit,
    loss_interval_in_words,
    notes_on,
    unit_of,
    value_of,
    value_title,
    with_interval,
)
from lm_headroom.results.chance import ChanceLevel, explain_overlap, read_chance_levels, tasks_above_chance
from lm_headroom.results.curves import (
    Average,
    AverageCurve,
    Curve,
    Grid,
    average,
    average_grid,
    pruning_levels,
    study_curves,
    study_grids,
)
from lm_headroom.results.margins import margin_in_words, margin_of
from lm_headroom.results.matrix import AVERAGE, COMPONENTS, Component, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.choices import ACCURACY, Outcome
from lm_headroom.study.ranking_names import AGGREGATE

BOTH = "heads and FFNs"
ABOVE_CHANCE = "average above chance"
"""The name in a task's place of the average over the tasks above chance, where some are not."""
CURVES: tuple[tuple[Component, str], ...] = (("heads", "own"), ("heads", AGGREGATE), ("ffns", "own"))
"""Components and the rankings that they are tested under."""
PAPER = {
    ("heads", AVERAGE): "about 70%",
    ("ffns", AVERAGE): "about 20%",
    **dict.fromkeys([("ffns", task) for task in ("piqa", "winogrande", "rte")], "30%"),
}
"""Shares that the paper reads off its curves of OPT-66B by eye, where accuracy starts to fall."""
NOTES = (
    "*Prunable within the margin*: non-inferiority tests show, with "
    f"{100 * CONFIDENCE:.0f}% confidence, that the loss of {{outcome}} against the whole model is less than {{margin}} "
    "at that level and at every level before it. *Up to*: the study had enough questions to show more, a power "
    f"of at least {ENOUGH_POWER} to pass at the next level if it lost nothing, and did not; *at least*: more questions "
    "or levels could. *Upper bound*: from there on, losses are shown to exceed the margin, with the same confidence. "
    f"Each of the two bounds is one-sided, at {100 * CONFIDENCE:.0f}%; together they are an interval of "
    f"{100 * (2 * CONFIDENCE - 1):.0f}%. *Point estimate*: no observed loss exceeds the margin up to there. Intervals "
    "of the loss are of 95%, from {test}.",
    "*Estimate only*: no test is valid where the evaluation questions also made the ranking (its curve is then biased "
    "upward), nor for an average that holds tasks at chance level, which have nothing to lose; "
    f"*{ABOVE_CHANCE}* leaves these out. A task is above chance if the whole model answers it better than its chance "
    "level, the higher of a uniform random choice and of always giving the same choice (exact one-sided binomial test "
    "at 5%).",
    "*Inconclusive*: the whole model is itself not significantly better than chance, or no level passes and the study "
    "is underpowered: the power at the lowest pruning level, the probability to pass if nothing is lost there, is "
    f"below {ENOUGH_POWER}.",
    "Each row has its confidence by itself. The paper reads its shares off the curves of OPT-66B by eye, without a "
    "margin; they do not predict those of another model.",
)
NOTE_ON_ACCURACY = (
    f"*{100 * RELATIVE_MARGIN:.0f}% of the accuracy above chance* is the other margin, which takes into account how "
    "much there is to lose: tested with the same confidence, level by level."
)


class PrunableRow(NamedTuple):
    """The prunable share of a component, for one task or on average, at one few-shot seed.

    Percents are of all heads or FFNs, accuracies shares of 1; None where not defined. ``value`` is the outcome of the
    whole model, which like losses is in ``unit``. ``relative`` is the share by the margin that is a share of the
    accuracy above chance; ``chance_level`` is the mean over tasks of the higher of ``random_choice`` and ``majority``.
    """

    seed: int
    shots: int
    component: str
    ranking: str
    task: str
    outcome: str
    unit: str
    tasks: int
    questions: int
    value: float | None
    value_stderr: float | None
    accuracy: float
    stderr: float
    random_choice: float
    majority: float
    chance_level: float
    verdict: str
    heads: int | None = None
    ffns: int | None = None
    parameters: float | None = None
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    estimate_heads: int | None = None
    estimate_ffns: int | None = None
    below: int | None = None
    relative: int | None = None
    power: float | None = None
    paper: str = ""
    reason: str = ""


def rows(matrix: ResultsMatrix, seeds: Sequence[int]) -> Iterator[PrunableRow]:
    """All rows: per few-shot seed and shot heads, FFNs and both; averages over tasks, then each task.

    Args:
        matrix: the matrix, of any seed.
        seeds: of the table.

    Raises:
        ArtifactError: an artifact of the study is missing or not its own.
    """
    for seed in seeds:
        of_seed = replace(matrix, seed=seed)
        chance = read_chance_levels(of_seed)
        for shots in of_seed.shots:
            yield from _shot_rows(of_seed, shots, chance)


def prunable_of(matrix: ResultsMatrix, curve: AverageCurve, chance: Sequence[ChanceLevel], overlap: str) -> Prunable:
    """The share of a curve that can be pruned within the margin of the matrix's outcome."""
    kept = [0, *pruning_levels(curve)]
    scores, levels = [values[kept] for values in curve.scores], [task.level for task in chance]
    return find_prunable(scores, levels, margin_of(matrix), overlap, _right(matrix, curve)).among(kept)


def _right(matrix: ResultsMatrix, averaged: Average) -> Sequence[Any] | None:
    """Right answers of the whole model per task, where scores are other than these."""
    return None if matrix.outcome == ACCURACY else averaged.whole_right


def groups(tasks: Sequence[str], whole: Mapping[str, Any], chance: Mapping[str, ChanceLevel]) -> dict[str, list[str]]:
    """Averages to the tasks that they are over: all, and those above chance where these are some, but not all.

    A task alone is its own average.

    Args:
        tasks: all.
        whole: right answers of the whole model by task, [question].
        chance: chance levels by task.
    """
    above = [task for task in tasks if is_above_chance(whole[task], chance[task].level)]
    averages = {AVERAGE: list(tasks)} | ({ABOVE_CHANCE: above} if 0 < len(above) < len(tasks) else {})
    return averages if len(tasks) > 1 else {}


def average_prunable(
    matrix: ResultsMatrix,
    shots: int,
    component: Component,
    chance: Mapping[str, ChanceLevel],
    among: Sequence[str] = (),
) -> tuple[list[str], AverageCurve, Prunable]:
    """The prunable share under own rankings, averaged over the tasks above chance: these, their curve, and the share.

    Args:
        matrix: of one seed; its tasks define its outcome.
        shots: number of few-shot examples.
        component: what is pruned.
        chance: chance levels by task.
        among: some of the study's tasks; all where none is named.
    """
    curves = study_curves(matrix, shots, component=component)
    right = whole_of(curves)
    tasks = tasks_above_chance({task: right[task] for task in among or matrix.tasks}, chance)
    curve = average([curves[task] for task in tasks])
    overlap = explain_overlap(matrix, shots, component, chance, tasks)
    return tasks, curve, prunable_of(matrix, curve, [chance[task] for task in tasks], overlap)


def whole_of(members: Mapping[str, Curve] | Mapping[str, Grid]) -> dict[str, Any]:
    """Right answers of the whole model by task, [question]."""
    return {task: member.whole_right for task, member in members.items()}


def _shot_rows(study: ResultsMatrix, shots: int, chance: Mapping[str, ChanceLevel]) -> Iterator[PrunableRow]:
    matrix, left_out = restrict(study)
    for component, ranking in CURVES:
        curves = study_curves(matrix, shots, ranking, component)
        overlap = {task: explain_overlap(matrix, shots, component, chance, [task]) for task in matrix.tasks}
        if ranking == AGGREGATE:
            overlap = dict.fromkeys(matrix.tasks, explain_overlap(study, shots, component, chance))
        members_of = groups(matrix.tasks, whole_of(curves), chance) | {task: [task] for task in matrix.tasks}
        for name, tasks in members_of.items():
            curve = average([curves[task] for task in tasks])
            cell = (matrix.seed or 0, shots, component, ranking, name)
            yield _row(matrix, cell, curve, [chance[task] for task in tasks], _first(overlap[task] for task in tasks))
        for task in left_out:
            if task in study.tasks:
                yield _undefined_row(study, (study.seed or 0, shots, component, ranking, task), chance[task])
    if matrix.joint and matrix.tasks:
        grids = dict(zip(matrix.tasks, study_grids(matrix, shots), strict=True))
        members_of = groups(matrix.tasks, whole_of(grids), chance) or {task: [task] for task in matrix.tasks}
        # The grid may be pruned by the aggregate of all tasks.
        reason = explain_overlap(study, shots, "ffns", chance)
        for name, tasks in members_of.items():
            members = [grids[task] for task in tasks]
            yield _joint_row(matrix, shots, name, members, [chance[task] for task in tasks], reason)


def _first(reasons: Iterable[str]) -> str:
    return next(filter(None, reasons), "")


def _row(
    matrix: ResultsMatrix,
    cell: tuple[int, int, Component, str, str],
    curve: AverageCurve,
    chance: Sequence[ChanceLevel],
    overlap: str,
) -> PrunableRow:
    *_, component, ranking, name = cell
    prunable = prunable_of(matrix, curve, chance, overlap)
    row = PrunableRow(
        *cell,
        **_whole(matrix, curve, chance),
        verdict=prunable.verdict,
        below=percent_at(curve, prunable.below),
        relative=percent_at(curve, prunable.relative),
        power=prunable.power,
        paper=PAPER.get((component, name), "") if ranking == "own" else "",
        reason=prunable.reason,
    )
    more: dict[str, Any] = {f"estimate_{component}": percent_at(curve, prunable.estimate)}
    if prunable.level is not None:
        more |= {component: curve.percent[prunable.level], **_pruned(curve, curve.removed, prunable.level)}
    return row._replace(**more)


def _undefined_row(
    matrix: ResultsMatrix, cell: tuple[int, int, Component, str, str], chance: ChanceLevel
) -> PrunableRow:
    """The row of a task that does not define the outcome: its accuracy, and why there is no verdict."""
    _, shots, component, ranking, task = cell
    of_task = matrix.changed(tasks=(task,), outcome=ACCURACY)
    whole = _whole(matrix, average([*study_curves(of_task, shots, ranking, component).values()]), [chance])
    whole |= {"value": None, "value_stderr": None}
    return PrunableRow(*cell, **whole, verdict=INCONCLUSIVE, reason=explain_undefined(matrix.outcome))


def _joint_row(
    matrix: ResultsMatrix, shots: int, name: str, members: Sequence[Grid], chance: Sequence[ChanceLevel], overlap: str
) -> PrunableRow:
    grid = average_grid(members)
    levels = [task.level for task in chance]
    right = _right(matrix, grid)
    prunable = find_prunable_cell(grid.scores, grid.removed, levels, margin_of(matrix), overlap, right)
    cell = (matrix.seed or 0, shots, BOTH, "joint grid", name)
    row = PrunableRow(*cell, **_whole(matrix, grid, chance), verdict=prunable.verdict, reason=prunable.reason)
    if prunable.estimate is not None:
        head, ffn = prunable.estimate
        row = row._replace(estimate_heads=grid.heads[head], estimate_ffns=grid.ffns[ffn])
    if prunable.cell is None:
        return row
    head, ffn = prunable.cell
    return row._replace(heads=grid.heads[head], ffns=grid.ffns[ffn], **_pruned(grid, grid.removed, prunable.cell))


def _whole(matrix: ResultsMatrix, averaged: Average, chance: Sequence[ChanceLevel]) -> dict[str, Any]:
    """Columns of the whole model."""
    levels = [(task.random_choice, task.majority, task.level) for task in chance]
    random_choice, majority, level = (float(value) for value in np.mean(levels, axis=0))
    return {
        "outcome": matrix.outcome,
        "unit": unit_of(matrix.outcome),
        "tasks": len(chance),
        "questions": averaged.questions,
        "value": value_of(matrix.outcome, float(averaged.mean.flat[0])),
        "value_stderr": float(averaged.stderr.flat[0]),
        "accuracy": averaged.accuracy,
        "stderr": averaged.accuracy_stderr,
        "random_choice": random_choice,
        "majority": majority,
        "chance_level": level,
    }


def _pruned(averaged: Average, removed: Any, at: Any) -> dict[str, Any]:
    """Columns of a level or cell: the parameters that are pruned, and the loss."""
    limits = averaged.loss_interval
    values = {"parameters": removed, "loss": averaged.loss, "loss_low": limits.low, "loss_high": limits.high}
    return {name: float(value[at]) for name, value in values.items()}


def percent_at(curve: AverageCurve, level: int | None) -> int | None:
    """The percent of a level; None of none."""
    return None if level is None else curve.percent[level]


def share_in_words(prunable: Prunable, curve: AverageCurve) -> str:
    """``at least 20% (point estimate 40%, upper bound 70%)``, or the verdict alone where there is no share."""
    levels = (prunable.level, prunable.estimate, prunable.below)
    return levels_in_words(prunable.verdict, *(percent_at(curve, level) for level in levels))


def limits_in_words(prunable: Prunable, curve: AverageCurve) -> str:
    """``point estimate 40%, upper bound 70%, 95% confidence``."""
    estimate, below = (percent_at(curve, level) for level in (prunable.estimate, prunable.below))
    return f"{_limits(estimate, below)}, {100 * CONFIDENCE:.0f}% confidence"


def _limits(estimate: int | None, below: int | None) -> str:
    return f"point estimate {estimate}%, " + ("no upper bound" if below is None else f"upper bound {below}%")


def levels_in_words(verdict: str, share: int | None, estimate: int | None, below: int | None) -> str:
    """The same of levels in percent."""
    if verdict == ESTIMATE_ONLY:
        return f"{ESTIMATE_ONLY}, {estimate}%"
    return verdict if share is None else f"{verdict} {share}% ({_limits(estimate, below)})"


def in_words(row: PrunableRow) -> tuple[object, ...]:
    """A row of the page, which begins with the seed."""
    component = COMPONENTS.get(row.component, row.component)  # type: ignore[call-overload]
    outcome: Outcome = row.outcome  # type: ignore[assignment]
    lost = "" if row.loss is None else with_interval(outcome, row.loss, row.loss_low, row.loss_high)
    parameters = size(row.parameters) if row.parameters else ""
    accuracy = f"{100 * row.accuracy:.1f} ± {100 * row.stderr:.1f}"
    baselines = f"({100 * row.random_choice:.0f}, {100 * row.majority:.0f})"
    beside: str | None = "" if row.relative is None else f"{row.relative}%"
    if outcome != ACCURACY:
        beside = "" if row.value is None else " ± ".join(in_unit(outcome, row.value, row.value_stderr))
    task = row.task if row.task != ABOVE_CHANCE else f"{ABOVE_CHANCE} ({row.tasks} tasks)"
    return (
        *(row.seed, f"{row.shots}-shot", f"{component}, {row.ranking}", task, _verdict(row), parameters, lost),
        *(beside, f"{accuracy} {baselines}", row.questions, row.paper),
    )


def _verdict(row: PrunableRow) -> str:
    estimates, shares = (row.estimate_heads, row.estimate_ffns), (row.heads, row.ffns)
    if row.verdict == INCONCLUSIVE:
        return f"{INCONCLUSIVE}: {row.reason}"
    if row.verdict == ESTIMATE_ONLY:
        return f"{ESTIMATE_ONLY}, {_share(estimates)}: {row.reason}"
    if row.verdict == PRUNABLE:
        return f"{_share(shares)} (point estimate {_share(estimates)})"
    share, estimate = (next(value for value in values if value is not None) for values in (shares, estimates))
    return levels_in_words(row.verdict, share, estimate, row.below)


def _share(percents: tuple[int | None, int | None]) -> str:
    """``30%``, or of both ``30% of heads and 10% of FFNs``."""
    heads, ffns = percents
    if heads is None or ffns is None:
        return f"{ffns if heads is None else heads}%"
    return f"{heads}% of heads and {ffns}% of FFNs"


def page_columns(outcome: Outcome) -> tuple[str, ...]:
    """Columns of the page: of accuracy the share by the other margin, of others their own value."""
    spec = OUTCOMES[outcome]
    beside = f"{value_title(outcome)} ± SE"
    if outcome == ACCURACY:
        beside = f"prunable within {100 * RELATIVE_MARGIN:.0f}% of the accuracy above chance"
    return (
        *("seed", "shots", "component, ranking", "task", "prunable within the margin", "parameters"),
        *(f"{spec.unit} lost (95%)", beside, "accuracy ± SE (random choice, majority), %", "questions"),
        "paper (OPT-66B)",
    )


def write(matrix: ResultsMatrix, seeds: Sequence[int], out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html; a page of one seed does not show it."""
    with reads() as sources:
        _, left_out = restrict(replace(matrix, seed=seeds[0]))
        table: Sequence[PrunableRow] = list(rows(matrix, seeds))
    record = describe_drawn("table", "report.tables.headroom", sources, {**matrix.options, "seeds": sorted(seeds)}, out)
    spec = OUTCOMES[matrix.outcome]
    names = {"margin": margin_in_words(matrix), "outcome": spec.title, "test": loss_interval_in_words(matrix.outcome)}
    notes = [note.format(**names) for note in NOTES]
    notes += [NOTE_ON_ACCURACY] if matrix.outcome == ACCURACY else []
    notes += notes_on(matrix, left_out, is_tested=True)
    first = 0 if len(seeds) > 1 else 1
    page = (page_columns(matrix.outcome)[first:], [in_words(row)[first:] for row in table])
    title = f"How much of {matrix.model} can be pruned{in_title(matrix.outcome)}"
    write_table(out, title, PrunableRow._fields, table, record, notes, page)
