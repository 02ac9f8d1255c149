"""The headroom table: how much of a model's heads, FFNs and both can go at a loss within a margin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_headroom.analysis.non_inferiority import (
    CERTIFIED,
    CONFIDENCE,
    ENOUGH_POWER,
    ESTIMATE_ONLY,
    NOT_CERTIFIABLE,
    RELATIVE_MARGIN,
    Prunable,
    certify,
    certify_grid,
    is_above_chance,
)
from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import reads
from lm_headroom.report.pages import size, write_table
from lm_headroom.results.chance import Chance, chances, judged_by_rankers
from lm_headroom.results.curves import (
    Average,
    AverageCurve,
    Curve,
    Grid,
    average,
    average_grid,
    study_curves,
    study_grids,
)
from lm_headroom.results.matrix import AVERAGE, COMPONENTS, Component, ResultsMatrix
from lm_headroom.settings import MARGIN

BOTH = "heads and FFNs"
ABOVE_CHANCE = "average above chance"
"""What stands in a task's place for the average over the tasks above chance, where some are not."""
CURVES: tuple[tuple[Component, str], ...] = (("heads", "own"), ("heads", AGGREGATE), ("ffns", "own"))
"""Components and the rankings that they are certified under."""
PAPER = {
    ("heads", AVERAGE): "about 70%",
    ("ffns", AVERAGE): "about 20%",
    **dict.fromkeys([("ffns", task) for task in ("piqa", "winogrande", "rte")], "30%"),
}
"""What the paper reads off its curves of OPT-66B by eye, where accuracy starts to fall."""
NOTES = (
    "*Certified*: the loss of accuracy against the whole model is shown to be less than {margin:g} points, with "
    f"{100 * CONFIDENCE:.0f}% confidence, at that level and at every level before it. *Up to*: there were enough "
    f"questions to show more, a power of at least {ENOUGH_POWER} to certify the next level if it lost nothing, and "
    "they did not; *at least*: more questions or levels could. *Less than*: from there on losses are shown to be more "
    f"than the margin, with the same confidence. Each of the two limits is one-sided, at {100 * CONFIDENCE:.0f}%; "
    f"together they are an interval of {100 * (2 * CONFIDENCE - 1):.0f}%. *Estimate*: no observed loss exceeds the "
    "margin up to there. Limits of the loss are of 95%, from a bootstrap over questions.",
    "*Estimate only*: there is no certificate where the questions that judge have ranked, too (what was chosen on them "
    "looks better there than it is), nor for an average that holds tasks at chance, which have nothing to lose; "
    f"*{ABOVE_CHANCE}* is without these. A task is above chance if the whole model answers it better than the higher "
    "of guessing and of always giving the same choice (exact one-sided binomial test at 5%).",
    "*Not certifiable*: these questions cannot answer. The whole model is itself not told from chance, or nothing is "
    f"certified and the power at the first level, the chance to certify it if it lost nothing, is below "
    f"{ENOUGH_POWER}.",
    f"*{100 * RELATIVE_MARGIN:.0f}% of the accuracy above chance* is the other margin, which takes into account how "
    "much there is to lose: certified with the same confidence, level by level.",
    "Each row has its confidence by itself. The paper reads its shares off the curves of OPT-66B by eye, without a "
    "margin; they are no prediction for another model.",
)


class PrunableRow(NamedTuple):
    """What can go of a component, for one task or on average, at one few-shot seed.

    Percents are of all heads or FFNs, losses and accuracies shares of 1; None where nothing can be said. ``relative``
    is certified by the margin that is a share of the accuracy above chance; ``chance`` is the mean over tasks of the
    higher of ``guessing`` and ``majority``.
    """

    seed: int
    shots: int
    component: str
    ranking: str
    task: str
    tasks: int
    questions: int
    accuracy: float
    stderr: float
    guessing: float
    majority: float
    chance: float
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
        of = replace(matrix, seed=seed)
        known = chances(of)
        for shots in of.shots:
            yield from _shot_rows(of, shots, known)


def groups(tasks: Sequence[str], whole: Mapping[str, Any], known: Mapping[str, Chance]) -> dict[str, list[str]]:
    """Averages to the tasks that they are over: all, and those above chance where these are some, but not all.

    A task alone is its own average.

    Args:
        tasks: all.
        whole: outcomes of the whole model by task, [question].
        known: chance by task.
    """
    able = [task for task in tasks if is_above_chance(whole[task], known[task].level)]
    found = {AVERAGE: list(tasks)} | ({ABOVE_CHANCE: able} if 0 < len(able) < len(tasks) else {})
    return found if len(tasks) > 1 else {}


def certifiable(tasks: Sequence[str], whole: Mapping[str, Any], known: Mapping[str, Chance]) -> list[str]:
    """The tasks whose average is certified: those above chance; all where none is, of which nothing can be said."""
    return groups(tasks, whole, known).get(ABOVE_CHANCE, list(tasks))


def certified_average(
    matrix: ResultsMatrix, shots: int, component: Component, known: Mapping[str, Chance], among: Sequence[str] = ()
) -> tuple[list[str], AverageCurve, Prunable]:
    """What is certified of heads or FFNs under own rankings: the tasks above chance, their average, and the verdict.

    Args:
        matrix: of one seed.
        shots: number of few-shot examples.
        component: what is pruned.
        known: chance by task.
        among: some of the study's tasks; all where none is named.
    """
    curves = study_curves(matrix, shots, component=component)
    tasks = certifiable(list(among or matrix.tasks), whole_of(curves), known)
    curve = average([curves[task] for task in tasks])
    chosen = judged_by_rankers(matrix, shots, component, known, tasks)
    return tasks, curve, certify(curve.correct, [known[task].level for task in tasks], matrix.margin or MARGIN, chosen)


def whole_of(members: Mapping[str, Curve] | Mapping[str, Grid]) -> dict[str, Any]:
    """Outcomes of the whole model by task, [question]."""
    return {task: member.correct.reshape(-1, member.correct.shape[-1])[0] for task, member in members.items()}


def _shot_rows(matrix: ResultsMatrix, shots: int, known: Mapping[str, Chance]) -> Iterator[PrunableRow]:
    for component, ranking in CURVES:
        curves = study_curves(matrix, shots, ranking, component)
        chosen = {task: judged_by_rankers(matrix, shots, component, known, [task]) for task in matrix.tasks}
        if ranking == AGGREGATE:
            chosen = dict.fromkeys(matrix.tasks, judged_by_rankers(matrix, shots, component, known))
        found = groups(matrix.tasks, whole_of(curves), known) | {task: [task] for task in matrix.tasks}
        for name, tasks in found.items():
            curve = average([curves[task] for task in tasks])
            cell = (matrix.seed or 0, shots, component, ranking, name)
            yield _row(matrix, cell, curve, [known[task] for task in tasks], _first(chosen[task] for task in tasks))
    if matrix.joint:
        grids = dict(zip(matrix.tasks, study_grids(matrix, shots), strict=True))
        found = groups(matrix.tasks, whole_of(grids), known) or {task: [task] for task in matrix.tasks}
        # The grid may be pruned by the aggregate of all tasks.
        reason = judged_by_rankers(matrix, shots, "ffns", known)
        for name, tasks in found.items():
            members = [grids[task] for task in tasks]
            yield _joint_row(matrix, shots, name, members, [known[task] for task in tasks], reason)


def _first(reasons: Iterable[str]) -> str:
    return next(filter(None, reasons), "")


def _row(
    matrix: ResultsMatrix,
    cell: tuple[int, int, Component, str, str],
    curve: AverageCurve,
    known: Sequence[Chance],
    chosen: str,
) -> PrunableRow:
    *_, component, ranking, task = cell
    found = certify(curve.correct, [of.level for of in known], matrix.margin or MARGIN, chosen)
    row = PrunableRow(
        *cell,
        **_whole(curve, known),
        verdict=found.verdict,
        below=_percent(curve, found.below),
        relative=_percent(curve, found.relative),
        power=found.power,
        paper=PAPER.get((component, task), "") if ranking == "own" else "",
        reason=found.reason,
    )
    more: dict[str, Any] = {f"estimate_{component}": _percent(curve, found.estimate)}
    if found.level is not None:
        more |= {component: curve.percent[found.level], **_gone(curve, curve.removed, found.level)}
    return row._replace(**more)


def _joint_row(
    matrix: ResultsMatrix, shots: int, name: str, members: Sequence[Grid], known: Sequence[Chance], chosen: str
) -> PrunableRow:
    grid = average_grid(members)
    found = certify_grid(grid.correct, grid.removed, [of.level for of in known], matrix.margin or MARGIN, chosen)
    cell = (matrix.seed or 0, shots, BOTH, "joint grid", name)
    row = PrunableRow(*cell, **_whole(grid, known), verdict=found.verdict, reason=found.reason)
    if found.estimate is not None:
        head, ffn = found.estimate
        row = row._replace(estimate_heads=grid.heads[head], estimate_ffns=grid.ffns[ffn])
    if found.cell is None:
        return row
    head, ffn = found.cell
    return row._replace(heads=grid.heads[head], ffns=grid.ffns[ffn], **_gone(grid, grid.removed, found.cell))


def _whole(found: Average, known: Sequence[Chance]) -> dict[str, Any]:
    """What does not depend on what goes."""
    chance = [(of.guessing, of.majority, of.level) for of in known]
    guessing, majority, level = (float(value) for value in np.mean(chance, axis=0))
    return {
        "tasks": len(known),
        "questions": found.questions,
        "accuracy": float(found.accuracy.flat[0]),
        "stderr": float(found.stderr.flat[0]),
        "guessing": guessing,
        "majority": majority,
        "chance": level,
    }


def _gone(found: Average, removed: Any, at: Any) -> dict[str, Any]:
    """What goes at a level or cell, and what it costs."""
    limits = found.loss_interval
    values = {"parameters": removed, "loss": found.loss, "loss_low": limits.low, "loss_high": limits.high}
    return {name: float(value[at]) for name, value in values.items()}


def _percent(curve: AverageCurve, level: int | None) -> int | None:
    return None if level is None else curve.percent[level]


def what_can_go(found: Prunable, curve: AverageCurve) -> str:
    """In words: ``at least 20% (estimate 40%; less than 70%)``; empty where nothing can be said."""
    if found.verdict == ESTIMATE_ONLY:
        return f"{ESTIMATE_ONLY}, {_percent(curve, found.estimate)}%"
    return _words(found.verdict, *(_percent(curve, level) for level in (found.level, found.estimate, found.below)))


def _words(verdict: str, share: int | None, estimate: int | None, below: int | None) -> str:
    if share is None:
        return ""
    limit = "no level refuted" if below is None else f"less than {below}%"
    return f"{verdict} {share}% (estimate {estimate}%; {limit})"


def in_words(row: PrunableRow) -> tuple[object, ...]:
    """A row of the page, which begins with the seed."""
    component = COMPONENTS.get(row.component, row.component)  # type: ignore[call-overload]
    lost = "" if row.loss is None else _points(row.loss, row.loss_low, row.loss_high)
    parameters = size(row.parameters) if row.parameters else ""
    whole = f"{100 * row.accuracy:.1f} ± {100 * row.stderr:.1f} ({100 * row.guessing:.0f}, {100 * row.majority:.0f})"
    relative = "" if row.relative is None else f"{row.relative}%"
    task = row.task if row.task != ABOVE_CHANCE else f"{ABOVE_CHANCE} ({row.tasks} tasks)"
    return (
        *(row.seed, f"{row.shots}-shot", f"{component}, {row.ranking}", task, _certificate(row), parameters, lost),
        *(relative, whole, row.questions, row.paper),
    )


def _certificate(row: PrunableRow) -> str:
    estimates, shares = (row.estimate_heads, row.estimate_ffns), (row.heads, row.ffns)
    if row.verdict == NOT_CERTIFIABLE:
        return f"{NOT_CERTIFIABLE}: {row.reason}"
    if row.verdict == ESTIMATE_ONLY:
        return f"{ESTIMATE_ONLY}, {_share(estimates)}: {row.reason}"
    if row.verdict == CERTIFIED:
        return f"{_share(shares)} (estimate {_share(estimates)})"
    share, estimate = (next(value for value in values if value is not None) for values in (shares, estimates))
    return _words(row.verdict, share, estimate, row.below)


def _share(percents: tuple[int | None, int | None]) -> str:
    """``30%``, or of both ``30% of heads and 10% of FFNs``."""
    heads, ffns = percents
    if heads is None or ffns is None:
        return f"{ffns if heads is None else heads}%"
    return f"{heads}% of heads and {ffns}% of FFNs"


PAGE = (
    "seed",
    "shots",
    "component, ranking",
    "task",
    "certified to go",
    "parameters",
    "points lost (95%)",
    f"certified by {100 * RELATIVE_MARGIN:.0f}% of the accuracy above chance",
    "accuracy ± SE (guessing, majority), %",
    "questions",
    "paper (OPT-66B)",
)


def _points(value: float, low: float | None, high: float | None) -> str:
    return f"{100 * value:.1f} ({100 * (low or 0):.1f} to {100 * (high or 0):.1f})"


def write(matrix: ResultsMatrix, seeds: Sequence[int], out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html; a page of one seed does not show it."""
    with reads() as sources:
        found: Sequence[PrunableRow] = list(rows(matrix, seeds))
    made = describe_drawn("table", "report.tables.headroom", sources, {**matrix.options, "seeds": sorted(seeds)}, out)
    notes = [note.format(margin=matrix.margin or MARGIN) for note in NOTES]
    first = 0 if len(seeds) > 1 else 1
    page = (PAGE[first:], [in_words(row)[first:] for row in found])
    write_table(out, f"How much of {matrix.model} can go", PrunableRow._fields, found, made, notes, page)
