"""What tasks lose without induction heads, against random heads of the same layers; of outcome and few-shot gain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_headroom.analysis.bootstrap import mcnemar
from lm_headroom.analysis.head_selection import WHOLE, Selection
from lm_headroom.analysis.outcomes import RIGHT_ANSWERS
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.store import ArtifactError, read
from lm_headroom.errors import HeadroomError
from lm_headroom.results.curves import per_question
from lm_headroom.results.estimates import Estimate, estimates
from lm_headroom.results.matrix import AVERAGE, ResultsMatrix
from lm_headroom.study.choices import ACCURACY, Outcome

Array = np.ndarray[Any, np.dtype[np.float64]]
GAIN = "few-shot gain"
_ROW = ("selection", "percent", "control", "n_heads", "n_shared")


class Cell(NamedTuple):
    """What chose the heads, and the percent of all heads that goes."""

    selection: Selection
    percent: int


@dataclass(frozen=True)
class Ablation:
    """One task at one number of shots; outcomes are the matrix's scores, of accuracy 1 for a right answer, else 0.

    Attributes:
        path: the artifact.
        questions: their numbers.
        whole: by the whole model, [question].
        chosen: without the chosen heads, [question] per cell.
        controls: without as many random heads of the same layers, [control, question] per cell.
        n_heads: heads that go, per cell.
        n_shared: of a control's heads, how many are chosen ones, mean over controls.
    """

    path: Path
    questions: list[int]
    whole: Array
    chosen: dict[Cell, Array]
    controls: dict[Cell, Array]
    n_heads: dict[Cell, int]
    n_shared: dict[Cell, float]


@dataclass(frozen=True)
class Effect:
    """An outcome, or its few-shot gain, without heads: of one task or the average over tasks; higher is better.

    Attributes:
        outcome: the matrix's, or few-shot gain: that outcome at ``shots`` minus the same at 0 shots.
        task: or ``average``.
        shots: few-shot examples.
        cell: which heads.
        n_heads: how many.
        n_shared: of a control's heads, how many are chosen ones, mean over controls.
        n_controls: random sets of heads of the same layers, beside.
        n_questions: of the task, or of all.
        whole: of the whole model.
        ablated: without the chosen heads.
        lost: the former minus the latter.
        control: mean over the controls.
        control_lost: what the controls lose on average.
        extra: what the chosen heads' ablation loses beyond that; intervals pair questions, and are of these controls.
        least, most: what a single control loses.
        p_value: McNemar's test of ``lost``; None for averages and gains, which are no pairs of outcomes, and for scores
            other than right and wrong.
    """

    outcome: str
    task: str
    shots: int
    cell: Cell
    n_heads: int
    n_shared: float
    n_controls: int
    n_questions: int
    whole: Estimate
    ablated: Estimate
    lost: Estimate
    control: Estimate
    control_lost: Estimate
    extra: Estimate
    least: float
    most: float
    p_value: float | None

    @property
    def beyond_controls(self) -> bool:
        """Whether more is lost than without random heads: by the interval, and than with each single control."""
        return self.extra.low > 0 and self.lost.value > self.most


def read_ablation(path: Path, outcome: Outcome = ACCURACY, **expected: Any) -> Ablation:
    """Read an induction-ablation artifact.

    Args:
        path: the artifact.
        outcome: whose scores are read.
        expected: see :func:`lm_headroom.artifacts.store.read`.

    Raises:
        ArtifactError: it is none or not the one expected (see :func:`lm_headroom.artifacts.store.read`), does not begin
            with the whole model, or has chosen heads without controls.
    """
    table = read(path, INDUCTION_ABLATION, **expected)
    scores = per_question(table, path, outcome)
    whole, *others = zip(*(table.column(name).to_pylist() for name in _ROW), scores, strict=True)
    chosen, n_heads = {}, {}
    controls: dict[Cell, list[Array]] = {}
    shared: dict[Cell, list[int]] = {}
    for selection, percent, number, heads, n_shared, outcomes in others:
        cell = Cell(selection, percent)
        if number is None:
            chosen[cell], n_heads[cell] = outcomes, heads
        else:
            controls.setdefault(cell, []).append(outcomes)
            shared.setdefault(cell, []).append(n_shared)
    if whole[0] != WHOLE or not chosen or set(controls) != set(chosen) or len(set(map(len, controls.values()))) > 1:
        raise ArtifactError(
            f"{path}: expected the whole model, then sets of heads with as many controls each; delete the file and run "
            "the workflow again"
        )
    return Ablation(
        path,
        table.column("doc_id")[0].as_py(),
        whole[-1],
        chosen,
        {cell: np.array(controls[cell]) for cell in chosen},
        n_heads,
        {cell: float(np.mean(shared[cell])) for cell in chosen},
    )


def study_ablations(matrix: ResultsMatrix, shots: int) -> dict[str, Ablation]:
    """Ablations of the study's tasks at one number of shots.

    Raises:
        HeadroomError: they are of different heads.
    """
    ablations = {
        task: read_ablation(
            matrix.path("induction_ablation", shots, task=task), matrix.outcome, **matrix.expected(shots, task)
        )
        for task in matrix.ablated
    }
    first, *others = ablations.values()
    for other in others:
        if other.n_heads != first.n_heads or _n_controls(other) != _n_controls(first):
            raise HeadroomError(f"{first.path} and {other.path} ablate different sets of heads; run the study again")
    return ablations


def effects(matrix: ResultsMatrix) -> list[Effect]:
    """Effects on the outcome at each number of shots, then on each gain over 0 shots; the average over tasks first.

    Without 0 shots in the study there are no gains.

    Raises:
        HeadroomError: a task's questions at some number of shots are others than at 0 shots, or heads differ.
    """
    ablations = {shots: study_ablations(matrix, shots) for shots in matrix.shots}
    outcomes = [effect for shots in matrix.shots for effect in effects_between(matrix.outcome, shots, ablations[shots])]
    for shots in matrix.shots if 0 in matrix.shots else ():
        if shots:
            outcomes += effects_between(GAIN, shots, ablations[shots], ablations[0])
    return outcomes


def effects_between(
    outcome: str, shots: int, tasks: Mapping[str, Ablation], before: Mapping[str, Ablation] | None = None
) -> Iterator[Effect]:
    """Effects per cell of the average over tasks, then of each task.

    Args:
        outcome: what they are called.
        shots: few-shot examples.
        tasks: ablations at that number of shots, all of the same heads.
        before: the same at 0 shots, for effects on the gain over it.

    Raises:
        HeadroomError: a task's questions are others before.
    """
    # Per task [cell, quantity, question] and [cell, control, question].
    quantities = {task: _quantities(ablation) for task, ablation in tasks.items()}
    losses = {task: _control_losses(ablation) for task, ablation in tasks.items()}
    for task, ablation in (before or {}).items():
        _check_questions(task, shots, tasks[task], ablation)
        quantities[task] = quantities[task] - _quantities(ablation)
        losses[task] = losses[task] - _control_losses(ablation)
    first = next(iter(tasks.values()))
    for group, members in {AVERAGE: list(tasks), **{task: [task] for task in tasks}}.items():
        estimated = estimates([quantities[task] for task in members])
        single = np.mean([losses[task].mean(axis=-1) for task in members], axis=0)
        for i, cell in enumerate(first.chosen):
            tested = group in tasks and outcome in RIGHT_ANSWERS
            p_value = mcnemar(tasks[group].whole, tasks[group].chosen[cell]) if tested else None
            whole, ablated, lost, control, control_lost, extra = estimated[i]
            yield Effect(
                outcome=outcome,
                task=group,
                shots=shots,
                cell=cell,
                n_heads=first.n_heads[cell],
                n_shared=first.n_shared[cell],
                n_controls=_n_controls(first),
                n_questions=sum(len(tasks[task].questions) for task in members),
                whole=whole,
                ablated=ablated,
                lost=lost,
                control=control,
                control_lost=control_lost,
                extra=extra,
                least=float(single[i].min()),
                most=float(single[i].max()),
                p_value=p_value,
            )


def _quantities(ablation: Ablation) -> Array:
    """The same of all cells, [cell, quantity, question]."""
    cells = ablation.chosen
    return np.array([quantities(ablation.whole, cells[cell], ablation.controls[cell]) for cell in cells])


def quantities(whole: Array, chosen: Array, controls: Array) -> Array:
    """``whole`` to ``extra`` of an :class:`Effect` by question, all linear in outcomes; [..., quantity, question].

    Args:
        whole: outcomes by the whole model, [..., question].
        chosen: without the chosen heads, [..., question].
        controls: without random heads, [..., control, question].
    """
    control = controls.mean(axis=-2)
    return np.stack([whole, chosen, whole - chosen, control, whole - control, control - chosen], axis=-2)


def _control_losses(ablation: Ablation) -> Array:
    """What each control loses by question, [cell, control, question]."""
    return np.array([ablation.whole - controls for controls in ablation.controls.values()])


def _check_questions(task: str, shots: int, ablation: Ablation, before: Ablation) -> None:
    if ablation.questions != before.questions:
        raise HeadroomError(
            f"the few-shot gain of {task} compares the same questions at {shots} and 0 shots, but {ablation.path} and "
            f"{before.path} hold different ones; delete both and run the workflow again"
        )


def _n_controls(ablation: Ablation) -> int:
    return len(next(iter(ablation.controls.values())))


def select(effects: Sequence[Effect], outcome: str, shots: int, task: str = AVERAGE) -> dict[Cell, Effect]:
    """The effects of one outcome, number of shots and task, per cell."""
    return {e.cell: e for e in effects if (e.outcome, e.shots, e.task) == (outcome, shots, task)}
