"""Accuracy of guessing, which accuracies are held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from headroom.artifacts.prompts import EVALUATION, GREEDY, PROMPTS
from headroom.artifacts.store import read
from headroom.figures.study import Study


def guessing(path: Path, **expected: Any) -> float:
    """Accuracy of guessing on a prompts artifact; 0 where an answer is generated rather than chosen.

    A question of several documents is right if all of them are.
    """
    table = read(path, PROMPTS, **expected)
    table = table.filter(pc.equal(table["purpose"], EVALUATION))
    if GREEDY in table.column("metric").unique().to_pylist():
        return 0.0
    question, doc, gold = (table.column(name).to_numpy(zero_copy_only=False) for name in ("question", "doc_id", "gold"))
    _, first, document = np.unique(doc, return_index=True, return_inverse=True)
    share = np.bincount(document, gold) / np.bincount(document)
    _, group = np.unique(question[first], return_inverse=True)
    right = np.ones(group.max() + 1)
    np.multiply.at(right, group, share)
    return float(right.mean())


def chances(study: Study) -> dict[str, float]:
    """Accuracy of guessing per task, unseen ones too; it is the same at any number of shots."""
    shots = min(study.shots)
    folder, name = study.results.parent / "prompts", f"{shots}shot-seed{study.seed}.parquet"
    tasks = (*study.tasks, *study.unseen)
    return {task: guessing(folder / task / name, task=task, shots=shots, seed=study.seed) for task in tasks}
