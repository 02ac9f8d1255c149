"""What pruning loses by what removed heads and FFNs give: zeros, means, or other documents' activations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm_headroom.analysis.outcomes import OUTCOMES, in_title
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import ArtifactError, provenance, reads
from lm_headroom.report.pages import write_table
from lm_headroom.report.tables.by_outcome import notes_on, unit_of, value_of
from lm_headroom.results.curves import Curve, pruning_levels, study_curves
from lm_headroom.results.estimates import Estimate, estimates
from lm_headroom.results.matrix import AVERAGE, COMPONENTS, Component, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.ranking_names import ABLATED_OWN, OWN

COLUMNS = (
    *("shots", "component", "task", "percent", "ablation", "questions", "value", "lost", "lost low", "lost high"),
    *("more lost", "more lost low", "more lost high", "outcome", "unit"),
)
NOTES = (
    "The same heads (FFNs), the first of each task's own ranking, are pruned under each ablation; they differ in what "
    "a pruned one gives. `zero`: zeros. `mean`: its mean over all positions of the scoring documents. `resample`: its "
    "activation at the same position of another scoring document. The first is the study's own, which also ranks FFNs.",
    "Lost: {outcome} of the whole model minus that of the pruned one. More lost: lost beyond what the study's own "
    "ablation loses, on the same questions; below 0 where less is lost. low and high: 95% bootstrap intervals over "
    "questions, paired, none corrected for their number.",
)


@dataclass(frozen=True)
class Loss:
    """A row of the table: one level of an ablation, of a task or the average over tasks.

    Attributes:
        shots: few-shot examples.
        component: what is pruned.
        task: or ``average``.
        percent: percent pruned.
        kind: the ablation.
        n_questions: of the task, or of all.
        value: the outcome's score.
        lost: the whole model's less this one.
        more: the score under the study's own ablation less this one; None for that one itself.
    """

    shots: int
    component: Component
    task: str
    percent: int
    kind: str
    n_questions: int
    value: Estimate
    lost: Estimate
    more: Estimate | None


def measure_losses(matrix: ResultsMatrix, shots: int, component: Component) -> list[Loss]:
    """Losses at each level that prunes anything, of the average over tasks and then of each task.

    Raises:
        ArtifactError: a task's curves have different questions or levels, or tasks have different levels.
    """
    names = [OWN, *(name for name in ABLATED_OWN if name in matrix.beside_own(component))]
    curves = {name: study_curves(matrix, shots, name, component) for name in names}
    own = curves[OWN]
    first = next(iter(own.values()))
    for curve in (curve for by_task in curves.values() for curve in by_task.values()):
        if curve.percent != first.percent:
            raise ArtifactError(f"{curve.path} and {first.path} have different levels; delete both and run again")
    kept = pruning_levels(first)
    kinds = [provenance(first.path)["options"]["ablation"], *(ABLATED_OWN[name] for name in names[1:])]
    scores = {task: np.stack([_compared(own[task], curves[name][task], kept) for name in names]) for task in own}
    rows = []
    for group in (*matrix.averages, *matrix.tasks):
        members = list(scores.values()) if group == AVERAGE else [scores[group]]
        n_questions = sum(member.shape[-1] for member in members)
        # A row per ablation and level.
        measured = estimates([member.reshape(-1, *member.shape[2:]) for member in members])
        for place, level in enumerate(kept):
            for number, kind in enumerate(kinds):
                value, lost, more = measured[number * len(kept) + place]
                percent = first.percent[level]
                compared = more if number else None
                rows.append(Loss(shots, component, group, percent, kind, n_questions, value, lost, compared))
    return rows


def _compared(own: Curve, curve: Curve, levels: list[int]) -> np.ndarray:
    """Score, what is lost of the whole model's, and what is lost beyond the own curve; [level, 3, question].

    Raises:
        ArtifactError: the two were evaluated on different questions.
    """
    if curve.questions != own.questions:
        raise ArtifactError(f"{curve.path} and {own.path} hold different questions; delete both and run again")
    scores = curve.scores[levels]
    return np.stack([scores, curve.scores[:1] - scores, own.scores[levels] - scores], axis=1)


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the table to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        defining, left_out = restrict(matrix)
        shown = defining.shots if defining.tasks else ()
        losses = [
            row for shots in shown for component in COMPONENTS for row in measure_losses(defining, shots, component)
        ]
    rows = [
        [
            *(row.shots, row.component, row.task, row.percent, row.kind, row.n_questions),
            *(value_of(matrix.outcome, row.value.value), *row.lost, *(row.more or ("", "", ""))),
            *(matrix.outcome, unit_of(matrix.outcome)),
        ]
        for row in losses
    ]
    record = describe_drawn("table", "report.tables.ablation_kinds", sources, matrix.options, out)
    notes = [note.format(outcome=OUTCOMES[matrix.outcome].title) for note in NOTES]
    title = f"Kinds of ablation: {matrix.model}{in_title(matrix.outcome)}"
    write_table(out, title, COLUMNS, rows, record, [*notes, *notes_on(matrix, left_out)])
