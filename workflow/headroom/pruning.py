"""Evaluation with the least important heads pruned, level by level (Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headroom import anatomy
from headroom.checkpoints import Loaded, gates_without
from headroom.likelihood import Batch, Document, log_likelihoods, rows_of
from headroom.progress import Progress
from headroom.ranking import count_at
from headroom.statistics import Choices, correct, correct_normalised, mean_and_error


class Evaluation:
    """Documents ready to be evaluated under any set of pruned heads; a set is evaluated once."""

    def __init__(
        self,
        loaded: Loaded,
        documents: Sequence[Document],
        choices: Sequence[Choices],
        batches: Sequence[Batch],
        progress: Progress | None = None,
    ) -> None:
        self.loaded, self.documents, self.choices = loaded, documents, choices
        self.batches, self.progress = batches, progress
        self._known: dict[frozenset[tuple[int, int]], dict[str, Any]] = {}

    def outcomes(self, pruned: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Columns ``accuracy`` ... ``correct_norm`` of a pruned-evaluation row, with the heads in ``pruned`` gone."""
        key = frozenset(pruned)
        if key not in self._known:
            self._known[key] = self._evaluate(pruned)
        elif self.progress:
            self.progress.advance(len(self.documents))
        return self._known[key]

    def _evaluate(self, pruned: Sequence[tuple[int, int]]) -> dict[str, Any]:
        gates = gates_without(self.loaded.shape, pruned) if pruned else None
        values = log_likelihoods(self.loaded, self._batches(), sum(len(d.rows) for d in self.documents), gates)
        right, right_norm = [], []
        for (_, rows), choices in zip(rows_of(self.documents), self.choices, strict=True):
            right.append(correct(choices, values[rows]))
            right_norm.append(correct_normalised(choices, values[rows]))
        accuracy, stderr = mean_and_error(right)
        normed = None not in right_norm
        accuracy_norm, stderr_norm = mean_and_error([bool(r) for r in right_norm]) if normed else (None, None)
        return {
            "accuracy": accuracy,
            "stderr": stderr,
            "accuracy_norm": accuracy_norm,
            "stderr_norm": stderr_norm,
            "n_documents": len(self.documents),
            "n_truncated": sum(document.truncated > 0 for document in self.documents),
            "doc_id": [document.doc_id for document in self.documents],
            "correct": right,
            "correct_norm": right_norm if normed else None,
        }

    def _batches(self) -> Any:
        for batch in self.batches:
            yield batch
            if self.progress:
                self.progress.advance(batch.n_documents)

    def curve(self, ranking: Sequence[tuple[int, int]], levels: Sequence[int]) -> dict[str, list[Any]]:
        """Columns of a pruned-evaluation artifact: a row per level, the first heads of ``ranking`` pruned.

        Args:
            ranking: all heads, least important first.
            levels: percents of all heads, each from 0 to 100.
        """
        rows = []
        for percent in levels:
            n_pruned = count_at(percent, self.loaded.shape.total)
            pruned = list(ranking[:n_pruned])
            rows.append(
                {
                    "percent": percent,
                    "n_pruned": n_pruned,
                    "parameters_removed": anatomy.removed_parameters(self.loaded.model, pruned),
                    **self.outcomes(pruned),
                }
            )
        return {name: [row[name] for row in rows] for name in rows[0]}
