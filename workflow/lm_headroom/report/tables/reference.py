"""The reference table: each number that the paper prints, ours beside it, and what can be compared.

The paper prints no accuracy; its curves are images. What is here are its counts, the shares it reads off its curves,
losses, correlations and layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_headroom.analysis.non_inferiority import ESTIMATE_ONLY
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.model_record import NAME as RECORD
from lm_headroom.artifacts.model_record import read_record
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import WITHOUT_HEADS, read, reads
from lm_headroom.report.pages import size, write_table
from lm_headroom.report.tables import table1
from lm_headroom.report.tables.headroom import average_prunable, share_in_words
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.curves import AverageCurve, average, average_grid, study_curves, study_grids
from lm_headroom.results.ffns import largest_swing
from lm_headroom.results.induction import SCORES, Score, read_induction
from lm_headroom.results.matrix import COMPONENTS, Component, ResultsMatrix

PAPER = "OPT-66B"
OTHER_MODEL = "another model: the number differs with it"
BY_EYE = (
    "the paper reads it off a curve by eye ('minimal loss'); ours is shown to lose no more than the margin, which "
    f"takes many questions and tasks above chance; {ESTIMATE_ONLY} where the evaluation questions also made the "
    "ranking; the headroom table has the margin and every task"
)
STATISTIC = (
    "the paper calls it SRCC, but its released code correlates argsort permutations, which is not SRCC: most likely "
    "comparable with the argsort statistic alone"
)
NOTES = (
    f"The paper's model is {PAPER} with all questions of 14 tasks; a study of another model, fewer tasks or fewer "
    "questions shows the method, and its agreement says little about the paper. An empty cell is a number that this "
    "study does not have; the last column says why.",
    "The paper prints no accuracy: its curves exist as images only, so this table compares none.",
)


class PaperRow(NamedTuple):
    """A number of the paper: what it is, its value there, ours (empty where the study lacks it), and a note."""

    quantity: str
    paper: str
    ours: str
    note: str


def rows(matrix: ResultsMatrix) -> list[PaperRow]:
    """All rows, in the paper's order."""
    parts = [sizes, prunable, ffns_flat, joint, swings, between_shots, between_tasks]
    if not matrix.without_induction:
        parts.append(induction_layers)
    return [row for part in parts for row in part(matrix)]


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    columns = ("quantity", f"paper ({PAPER})", f"ours ({matrix.model})", "note")
    with reads() as sources:
        table = rows(matrix)
    record = describe_drawn("table", "report.tables.reference", sources, matrix.options, out)
    write_table(out, f"The paper's numbers beside those of {matrix.model}", columns, table, record, NOTES)


def sizes(matrix: ResultsMatrix) -> list[PaperRow]:
    """Heads and parameters of the model."""
    record = _record(matrix)
    if matrix.without_induction:
        layers, heads = record["layers"] - len(record.get(WITHOUT_HEADS, ())), record["heads"]
    else:
        layers, heads = read_induction(matrix, "prefix_matching").scores.shape
    table = [
        PaperRow("heads: layers x heads per layer", "64 x 72 = 4608", f"{layers} x {heads} = {layers * heads}", "")
    ]
    papers: dict[Component, tuple[str, str]] = {
        "heads": ("attention parameters", "21.7 B"),
        "ffns": ("FFN parameters", "43.4 B"),
    }
    for component, (quantity, paper) in papers.items():
        curve = _average(matrix, matrix.shots[0], component)
        pruned, last = curve.percent[-1], curve.removed[-1]
        total = {"heads": layers * heads, "ffns": record.get("layers", layers)}[component]
        count = pruned * total // 100
        note = f"ours scaled up from the {count} of {total} {COMPONENTS[component]} that are pruned at {pruned}%"
        note += "; exact unless query heads share keys and values" if component == "heads" else ""
        ours = size(last * total / count) if count else ""
        table.append(PaperRow(quantity, paper, ours, note if count else "no level of the study prunes one"))
    return [row._replace(note="; ".join(filter(None, (OTHER_MODEL, row.note)))) for row in table]


def prunable(matrix: ResultsMatrix) -> list[PaperRow]:
    """Shares of heads and FFNs that can be pruned, and their parameters."""
    papers: dict[Component, tuple[str, str, str]] = {
        "heads": ("about 70%", "15.7 B", "15.2 B by arithmetic, 70% of 21.7 B"),
        "ffns": ("about 20%", "8.5 B", "8.15 B by arithmetic, 12 of 64 FFNs"),
    }
    table = []
    chance = read_chance_levels(matrix)
    for component, (share, parameters, arithmetic) in papers.items():
        parts = COMPONENTS[component]
        by_shot = {shots: average_prunable(matrix, shots, component, chance)[1:] for shots in matrix.shots}
        ours = _by_shot((shots, share_in_words(result, curve)) for shots, (curve, result) in by_shot.items())
        table.append(PaperRow(f"{parts} prunable with minimal loss", share, ours, BY_EYE))
        ours = _by_shot(
            (shots, result.verdict if result.level is None else size(curve.removed[result.level]))
            for shots, (curve, result) in by_shot.items()
        )
        table.append(PaperRow(f"parameters of these {parts}", parameters, ours, f"paper: {arithmetic}; {OTHER_MODEL}"))
    return table


def ffns_flat(matrix: ResultsMatrix) -> list[PaperRow]:
    """Share of FFNs up to which accuracy stays flat."""
    table = []
    # The paper has one number for "few-shot".
    for shots, paper in ((0, "20%"), (1, "10%"), (5, "10%")):
        ours = _flat(matrix, shots, matrix.tasks) if shots in matrix.shots else ""
        note = BY_EYE if ours else _no_shots(shots)
        table.append(PaperRow(f"FFNs prunable on average, {shots}-shot", paper, ours, note))
    for task in ("piqa", "winogrande", "rte"):
        lacks = _lacks_tasks(matrix, task)
        flat = "" if lacks else _by_shot((k, _flat(matrix, k, [task])) for k in matrix.shots)
        table.append(PaperRow(f"FFNs prunable, {task}", "30%", flat, lacks or BY_EYE))
    return table


def joint(matrix: ResultsMatrix) -> list[PaperRow]:
    """Points of accuracy lost with heads and FFNs pruned together."""
    table = []
    for shots, heads, ffns, paper in ((0, 70, 20, 5), (1, 70, 10, 6), (5, 60, 20, 4)):
        quantity = f"points lost with {heads}% of heads and {ffns}% of FFNs, {shots}-shot"
        ours, note = "", ""
        if shots not in matrix.shots:
            note = _no_shots(shots)
        elif not matrix.joint:
            note = "not computed: the study prunes no heads and FFNs together"
        else:
            grid = average_grid(study_grids(matrix, shots))
            if heads in grid.heads and ffns in grid.ffns:
                cell = grid.heads.index(heads), grid.ffns.index(ffns)
                ours = _points(grid.loss[cell], grid.loss_stderr[cell])
                note = "average over the study's tasks, not the paper's 14; the paper has no error"
            else:
                note = "not computed: the cell is not in the study's joint grid"
        table.append(PaperRow(quantity, str(paper), ours, note))
    return table


def swings(matrix: ResultsMatrix) -> list[PaperRow]:
    """Largest loss from a single FFN."""
    table = []
    for task in ("wsc", "multirc"):
        lacks = _lacks_tasks(matrix, task)
        ours = "" if lacks else _swings(matrix, [task])
        table.append(PaperRow(f"largest loss from one FFN in points, {task}", "up to 20", ours, lacks or OTHER_MODEL))
    note = "over all tasks of the study; the largest of many noisy numbers is too large"
    return [
        *table,
        PaperRow("largest loss from one FFN in points, any task", "up to 20", _swings(matrix, matrix.tasks), note),
    ]


def between_shots(matrix: ResultsMatrix) -> list[PaperRow]:
    """Table 1."""
    path = matrix.path("cross_shot")
    ours = {row.shots: row for row in table1.data(path, **matrix.expected())} if len(matrix.shots) > 1 else {}
    table = []
    for pair, paper in (("0-1", "0.39"), ("0-5", "0.37"), ("1-5", "0.41")):
        row = ours.get(pair)
        absent = f"not computed: the study lacks one of {pair.replace('-', ' and ')} shots"
        mean = _both(row.srcc_mean, row.argsort_mean) if row else ""
        variance = _both(row.srcc_variance, row.argsort_variance, 4) if row else ""
        names = f"between {pair.replace('-', ' and ')} shots, {{}} over tasks (Table 1)"
        table.append(PaperRow(f"correlation {names.format('mean')}", paper, mean, STATISTIC if row else absent))
        table.append(
            PaperRow(f"correlation {names.format('variance')}", "0.001", variance, STATISTIC if row else absent)
        )
    return table


def between_tasks(matrix: ResultsMatrix) -> list[PaperRow]:
    """Correlation and overlap of ReCoRD with COPA and Winogrande."""
    table = []
    for other, overlap in (("copa", "71%"), ("winogrande", "76%")):
        lacks = _lacks_tasks(matrix, "record", other) or ("" if 0 in matrix.shots else _no_shots(0))
        correlation = shared = ""
        if not lacks:
            pairs = read(matrix.path("cross_task", 0), CROSS_TASK, **matrix.expected(0)).to_pylist()
            row = next(row for row in pairs if (row["task_a"], row["task_b"]) == ("record", other))
            correlation = _both(row["srcc"], row["argsort_statistic"])
            shared = f"{100 * row['overlap_top30']:.0f}%"
        table.append(PaperRow(f"correlation of record and {other}, 0-shot", "0.13", correlation, lacks or STATISTIC))
        note = lacks or "same definition; 30% by chance"
        table.append(PaperRow(f"overlap of the top 30% heads of record and {other}, 0-shot", overlap, shared, note))
    return table


def induction_layers(matrix: ResultsMatrix) -> list[PaperRow]:
    """From which layer on heads have high induction scores."""
    papers: dict[Score, str] = {"prefix_matching": "31 of 64", "copying": "41 of 64"}
    note = (
        "the paper reads it off Figure 10 by eye; ours is the lowest layer with a head that reaches half of the "
        "highest score; layers count from 1, and are compared as shares of the depth"
    )
    table = []
    for score, paper in papers.items():
        scores, _, layers = read_induction(matrix, score)
        high = np.flatnonzero((scores >= scores.max() / 2).any(axis=1))
        ours = f"{layers[high[0]] + 1} of {_record(matrix).get('layers', len(scores))}"
        table.append(PaperRow(f"heads with high {SCORES[score]} scores from layer", paper, ours, note))
    return table


def _record(matrix: ResultsMatrix) -> Mapping[str, Any]:
    """The model's record; empty where results were copied without it."""
    path = matrix.results / RECORD
    return read_record(path) if matrix.without_induction or path.is_file() else {}


def _average(matrix: ResultsMatrix, shots: int, component: Component) -> AverageCurve:
    """Average curve under own rankings over all tasks of the study."""
    return average(list(study_curves(matrix, shots, component=component).values()))


def _flat(matrix: ResultsMatrix, shots: int, tasks: Sequence[str]) -> str:
    """Share of FFNs that can be pruned, of some tasks' average."""
    _, curve, prunable = average_prunable(matrix, shots, "ffns", read_chance_levels(matrix), tasks)
    return share_in_words(prunable, curve)


def _swings(matrix: ResultsMatrix, tasks: Sequence[str]) -> str:
    by_shot = {shots: largest_swing(matrix, shots, tasks) for shots in matrix.shots}
    return _by_shot(
        (shots, f"{_points(loss, error)} (layer {layer + 1} on {task})")
        for shots, (task, layer, loss, error) in by_shot.items()
    )


def _by_shot(values: Iterable[tuple[int, str]]) -> str:
    return "; ".join(f"{shots}-shot: {value}" for shots, value in values)


def _both(srcc: float, argsort: float, digits: int = 2) -> str:
    values = ("not defined" if np.isnan(value) else f"{value:z.{digits}f}" for value in (argsort, srcc))
    return "argsort statistic {}; SRCC {}".format(*values)


def _points(loss: float, error: float) -> str:
    return f"{100 * loss:z.1f} ± {100 * error:.1f}"


def _lacks_tasks(matrix: ResultsMatrix, *tasks: str) -> str:
    missing = [task for task in tasks if task not in matrix.tasks]
    return f"not computed: {' and '.join(missing)} not in the study" if missing else ""


def _no_shots(shots: int) -> str:
    return f"not computed: the study has no {shots}-shot"
