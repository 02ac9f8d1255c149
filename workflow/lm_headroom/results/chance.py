"""Accuracy by chance, which accuracies are held against, and whether questions that judge have ranked, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lm_headroom.artifacts.prompts import EVALUATION, GREEDY, IMPORTANCE, PROMPTS
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.results.matrix import Component, ResultsMatrix


class Chance(NamedTuple):
    """What a task's prompts say of it before any model answers.

    Attributes:
        guessing: accuracy of guessing: the share of choices that are right, averaged over questions.
        majority: accuracy of always giving the same choice, the best of them.
        overlaps: whether a question that is evaluated is also one that scores heads.
    """

    guessing: float
    majority: float
    overlaps: bool = False

    @property
    def level(self) -> float:
        """Accuracy that needs no model: the higher of both."""
        return max(self.guessing, self.majority)


def chance(path: Path, **expected: Any) -> Chance:
    """Chance on a prompts artifact; 0 where an answer is generated rather than chosen.

    A question of several documents is right if all of them are.
    """
    table = read(path, PROMPTS, **expected)
    evaluated = table.filter(pc.equal(table["purpose"], EVALUATION))
    overlaps = bool(_questions(evaluated) & _questions(table.filter(pc.equal(table["purpose"], IMPORTANCE))))
    if GREEDY in evaluated.column("metric").unique().to_pylist():
        return Chance(0.0, 0.0, overlaps)
    names = ("question", "doc_id", "gold", "choice")
    question, doc, gold, choice = (evaluated.column(name).to_numpy(zero_copy_only=False) for name in names)
    _, first, document = np.unique(doc, return_index=True, return_inverse=True)
    _, group = np.unique(question[first], return_inverse=True)
    share = np.bincount(document, gold) / np.bincount(document)
    fixed = [np.bincount(document, gold & (choice == number)) for number in np.unique(choice)]
    guessing, *always = (_all_right(group, right) for right in (share, *fixed))
    return Chance(guessing, max(always), overlaps)


def _questions(table: pa.Table) -> set[tuple[str, int]]:
    return set(zip(table.column("split").to_pylist(), table.column("question").to_pylist(), strict=True))


def _all_right(group: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    """Share of questions, the groups of documents, that are right with the probabilities of their documents."""
    probability = np.ones(group.max() + 1)
    np.multiply.at(probability, group, right)
    return float(probability.mean())


def chances(matrix: ResultsMatrix) -> dict[str, Chance]:
    """Chance per task, unseen ones too; it is the same at any number of shots."""
    shots = min(matrix.shots)
    tasks = (*matrix.tasks, *matrix.unseen)
    return {
        task: chance(matrix.path("prompts", shots, task=task), task=task, shots=shots, seed=matrix.seed)
        for task in tasks
    }


def judged_by_rankers(
    matrix: ResultsMatrix,
    shots: int,
    component: Component,
    known: Mapping[str, Chance],
    tasks: Iterable[str] | None = None,
) -> str:
    """Why accuracies are of documents that ranked what is pruned, in words; empty where they are of others.

    What was chosen on the questions that then judge it looks better than it is, and no test on these questions can be
    sure of it.

    Args:
        matrix: of one seed.
        shots: number of few-shot examples.
        component: what is pruned; heads and FFNs together are pruned by the rankings of both, hence as ``ffns``.
        known: chance of each task.
        tasks: whose rankings are taken; the study's where None is given.
    """
    taken = matrix.tasks if tasks is None else tuple(tasks)
    overlapping = [task for task in taken if known[task].overlaps]
    if overlapping:
        return f"questions of {', '.join(overlapping)} that judge are among those that rank"
    if component == "ffns" and any(_selection(matrix, shots, task) != "scoring" for task in taken):
        return "the questions that judge have ranked the FFNs, too (`ffn.selection: evaluation`)"
    return ""


def _selection(matrix: ResultsMatrix, shots: int, task: str) -> object:
    """Which documents ranked a task's FFNs."""
    return provenance(matrix.path("ffn_importance", shots, task=task)).get("options", {}).get("selection")
