"""Chance levels, which accuracies are compared with, and whether evaluation questions took part in the ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lm_headroom.analysis.non_inferiority import is_above_chance
from lm_headroom.artifacts.ffn_importance import selection_of
from lm_headroom.artifacts.prompts import EVALUATION, GREEDY, IMPORTANCE, PROMPTS
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.results.matrix import Component, ResultsMatrix
from lm_headroom.study.ranking_names import ORACLES, OWN, REVERSED


class ChanceLevel(NamedTuple):
    """Accuracies on a task that need no model, by its prompts.

    Attributes:
        random_choice: accuracy of a uniform random choice: the share of right choices, averaged over questions.
        majority: accuracy of always giving the same choice, the best of them (the majority baseline).
        overlaps: whether a question that is evaluated is also one that scores heads.
    """

    random_choice: float
    majority: float
    overlaps: bool = False

    @property
    def level(self) -> float:
        """The chance level: the higher of both."""
        return max(self.random_choice, self.majority)


def read_chance_level(path: Path, **expected: Any) -> ChanceLevel:
    """Read the chance level off a prompts artifact; 0 where an answer is generated rather than chosen.

    A question of several documents is right if all of them are.
    """
    table = read(path, PROMPTS, **expected)
    evaluated = table.filter(pc.equal(table["purpose"], EVALUATION))
    overlaps = bool(_questions(evaluated) & _questions(table.filter(pc.equal(table["purpose"], IMPORTANCE))))
    if GREEDY in evaluated.column("metric").unique().to_pylist():
        return ChanceLevel(0.0, 0.0, overlaps)
    names = ("question", "doc_id", "gold", "choice")
    question, doc, gold, choice = (evaluated.column(name).to_numpy(zero_copy_only=False) for name in names)
    _, first, document = np.unique(doc, return_index=True, return_inverse=True)
    _, group = np.unique(question[first], return_inverse=True)
    share = np.bincount(document, gold) / np.bincount(document)
    fixed = [np.bincount(document, gold & (choice == number)) for number in np.unique(choice)]
    random_choice, *always = (_all_right(group, right) for right in (share, *fixed))
    return ChanceLevel(random_choice, max(always), overlaps)


def _questions(table: pa.Table) -> set[tuple[str, int]]:
    return set(zip(table.column("split").to_pylist(), table.column("question").to_pylist(), strict=True))


def _all_right(group: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    """Share of questions, the groups of documents, that are right with the probabilities of their documents."""
    probabilities = np.ones(group.max() + 1)
    np.multiply.at(probabilities, group, right)
    return float(probabilities.mean())


def read_chance_levels(matrix: ResultsMatrix) -> dict[str, ChanceLevel]:
    """Read the chance level of each task, unseen ones too; it is the same at any number of shots."""
    shots = min(matrix.shots)
    tasks = (*matrix.tasks, *matrix.unseen)
    return {
        task: read_chance_level(matrix.path("prompts", shots, task=task), task=task, shots=shots, seed=matrix.seed)
        for task in tasks
    }


def tasks_above_chance(right: Mapping[str, Any], chance: Mapping[str, ChanceLevel]) -> list[str]:
    """The tasks whose average is tested: those above chance; all where none is, which is inconclusive.

    Args:
        right: right (1) or wrong (0) answers of the whole model by task, [question].
        chance: chance levels by task.
    """
    return [task for task in right if is_above_chance(right[task], chance[task].level)] or list(right)


def explain_overlap(
    matrix: ResultsMatrix,
    shots: int,
    component: Component,
    chance: Mapping[str, ChanceLevel],
    tasks: Iterable[str] | None = None,
    ranking: str = OWN,
) -> str:
    """How evaluation questions took part in the ranking of what is pruned, as a clause; empty where they did not.

    A ranking looks better on the questions that made it than it is (selection bias), and no test on these questions can
    correct that.

    Args:
        matrix: of one seed.
        shots: number of few-shot examples.
        component: what is pruned; heads and FFNs together are pruned by the rankings of both, hence as ``ffns``.
        chance: chance level of each task.
        tasks: whose rankings are used; the study's where None is given.
        ranking: by which they are pruned.
    """
    if component == "heads" and ranking in ORACLES:
        return "the evaluation questions also ranked the heads"
    names = matrix.tasks if tasks is None else tuple(tasks)
    overlapping = [task for task in names if chance[task].overlaps]
    if overlapping:
        return f"some evaluation questions of {', '.join(overlapping)} are also scoring questions"
    # Only the oracles of FFNs rank by the documents of `ffn.selection`; others rank by the scoring documents.
    is_selected = component == "ffns" and ranking in (OWN, REVERSED, *ORACLES)
    if is_selected and any(_selection(matrix, shots, task) != "scoring" for task in names):
        return "the evaluation questions also ranked the FFNs (`ffn.selection: evaluation`)"
    return ""


def _selection(matrix: ResultsMatrix, shots: int, task: str) -> object:
    """Which documents ranked a task's FFNs."""
    return selection_of(provenance(matrix.path("ffn_importance", shots, task=task)))
