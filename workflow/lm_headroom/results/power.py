"""How sharp each outcome of a study is: its power at the first level of pruning, and the questions it would need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lm_headroom.analysis.power import power_at, questions_needed
from lm_headroom.results.chance import ChanceLevel, tasks_above_chance
from lm_headroom.results.curves import pruning_levels, study_curves
from lm_headroom.results.margins import margin_of
from lm_headroom.results.matrix import Component, ResultsMatrix
from lm_headroom.results.outcomes import restrict


@dataclass(frozen=True)
class Judge:
    """An outcome that judges a component at one number of shots, and how sharply.

    Attributes:
        matrix: the study by this outcome, with the tasks that define it.
        left_out: the study's other tasks.
        questions: of each task above chance, on average.
        needed: the same with which the first level that prunes anything would pass with enough power if it lost
            nothing; None where no number suffices.
        power: with the questions that there are; None without such a level.
    """

    matrix: ResultsMatrix
    left_out: tuple[str, ...]
    questions: float
    needed: float | None
    power: float | None

    @property
    def growth(self) -> float:
        """How many times as many questions it needs."""
        return math.inf if self.needed is None else self.needed / self.questions

    @property
    def more(self) -> int | None:
        """Questions of each task that are missing, to two digits, rounded up; 0 where there are enough."""
        if self.needed is None:
            return None
        missing = max(0.0, self.needed - self.questions)
        digit = 10 ** max(0, math.floor(math.log10(missing)) - 1) if missing else 1
        return math.ceil(missing / digit) * digit


def judges_of(
    matrix: ResultsMatrix, shots: int, component: Component, chance: Mapping[str, ChanceLevel]
) -> list[Judge]:
    """A study's outcomes, the sharpest first: the one with the most power at the first level, whatever the losses.

    Args:
        matrix: of one seed, with its outcomes.
        shots: number of few-shot examples.
        component: what is pruned, each task by its own ranking.
        chance: chance levels by task.

    Returns:
        Those that a task of the study defines; of power equal to three digits, the one that needs fewer questions.
    """
    judges = []
    for judged, left_out in map(restrict, matrix.judges):
        if judged.tasks:
            curves = study_curves(judged, shots, component=component)
            tested = tasks_above_chance({task: curve.whole_right for task, curve in curves.items()}, chance)
            scores = [curves[task].scores for task in tested]
            margin = margin_of(judged)
            questions = float(np.mean([values.shape[-1] for values in scores]))
            missing = tuple(task for task in left_out if task in matrix.tasks)
            level = next(iter(pruning_levels(curves[tested[0]])), 0)
            is_tested = level > 0 and min(values.shape[-1] for values in scores) > 1
            power = power_at(scores, margin, level) if is_tested else None
            needed = questions_needed(scores, margin, level=level)
            judges.append(Judge(judged, missing, questions, needed, power))
    return sorted(judges, key=lambda judge: (-round(judge.power or 0, 3), judge.growth))
