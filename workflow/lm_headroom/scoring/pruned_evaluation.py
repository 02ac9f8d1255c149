"""Evaluation with the least important heads, FFNs, or both, pruned level by level (Figures 5 to 7, 9, 16, 17)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from lm_headroom.analysis.columns import by_column
from lm_headroom.analysis.metrics import Choices, by_question, correct, correct_normalised, mean_and_error
from lm_headroom.analysis.ranking import count_at
from lm_headroom.artifacts.prompts import GREEDY
from lm_headroom.engine.ablation import ZERO, Ablation
from lm_headroom.engine.likelihood import Likelihoods, Removal, likelihoods_of, open_unit, sequence_slices
from lm_headroom.engine.loading import LoadedModel, gates_without
from lm_headroom.engine.packing import Batches, Document
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache
from lm_headroom.models import architectures
from lm_headroom.models.experts import expert_parameters
from lm_headroom.progress import Progress

Head = tuple[int, int]
Expert = tuple[int, int]
"""Layer and expert, from 0."""
Pruned = tuple[frozenset[Head], frozenset[int], frozenset[Expert]]
"""Heads, layers of FFNs, and experts that are pruned."""
Columns = dict[str, list[Any]]


def group_choices(table: pa.Table) -> list[Choices]:
    """What is known of the choices of each document, from prompt rows in order."""
    documents: list[Choices] = []
    names = ("doc_id", "gold", "choice_length", "question", "metric", "continuation")
    columns = (table.column(name).to_pylist() for name in names)
    for doc_id, rows in groupby(zip(*columns, strict=True), key=itemgetter(0)):
        _, gold, lengths, questions, metrics, texts = zip(*rows, strict=True)
        known = None if None in lengths else tuple(lengths)
        n_bytes = tuple(len(text.encode()) for text in texts)
        documents.append(Choices(doc_id, tuple(gold), known, questions[0], metrics[0] == GREEDY, n_bytes))
    return documents


def right_documents(documents: Sequence[Document], choices: Sequence[Choices], results: Likelihoods) -> list[bool]:
    """Judge which documents are answered right."""
    values, greedy = results.values, results.greedy
    return [
        bool(greedy[rows][0]) if document.greedy else correct(document, values[rows])
        for (_, rows), document in zip(sequence_slices(documents), choices, strict=True)
    ]


def outcomes(documents: Sequence[Document], choices: Sequence[Choices], results: Likelihoods) -> dict[str, Any]:
    """Compute the columns :data:`lm_headroom.artifacts.pruned_eval.EVALUATED` of an evaluation's row."""
    right = by_question(choices, right_documents(documents, choices, results))
    values = results.values
    normalised = [
        correct_normalised(document, values[rows])
        for (_, rows), document in zip(sequence_slices(documents), choices, strict=True)
    ]
    right_norm = None if None in normalised else list(by_question(choices, [bool(r) for r in normalised]).values())
    cut = by_question(choices, [document.truncated == 0 for document in documents])
    accuracy, stderr = mean_and_error(list(right.values()))
    accuracy_norm, stderr_norm = mean_and_error(right_norm) if right_norm is not None else (None, None)
    return {
        "accuracy": accuracy,
        "stderr": stderr,
        "accuracy_norm": accuracy_norm,
        "stderr_norm": stderr_norm,
        "n_documents": len(right),
        "n_truncated": sum(not whole for whole in cut.values()),
        "doc_id": list(right),
        "correct": list(right.values()),
        "correct_norm": right_norm,
        "log_likelihoods": by_choice(documents, results),
        **answer_key(documents, choices),
    }


def by_choice(documents: Sequence[Document], results: Likelihoods) -> list[list[float]]:
    """Log-likelihoods by document and choice, as artifacts keep them."""
    return [results.values[rows].tolist() for _, rows in sequence_slices(documents)]


def answer_key(documents: Sequence[Document], choices: Sequence[Choices]) -> Columns:
    """What outcomes need beside log-likelihoods, the same of all evaluations of these documents."""
    return {
        "document_question": [choice.doc_id if choice.question is None else choice.question for choice in choices],
        "gold": [list(choice.gold) for choice in choices],
        "n_bytes": [list(choice.n_bytes) for choice in choices],
        "n_tokens": [[sequence.n_target for sequence in document.sequences] for document in documents],
    }


class Evaluation:
    """Evaluates documents under any set of pruned heads, FFNs and experts, each set once."""

    def __init__(
        self,
        loaded: LoadedModel,
        documents: Sequence[Document],
        choices: Sequence[Choices],
        batches: Batches,
        progress: Progress | None = None,
        cache: ResumeCache = NO_CACHE,
        ablation: Ablation = ZERO,
    ) -> None:
        self.loaded, self.documents, self.choices = loaded, documents, choices
        self.batches, self.progress, self.cache, self.ablation = batches, progress, cache, ablation
        self._outcomes: dict[Pruned, dict[str, Any]] = {}

    def ablating(self, ablation: Ablation) -> Evaluation:
        """The evaluation of the same documents where pruned heads and FFNs give something else."""
        batches = self.batches
        if ablation.by_document:
            batches = Batches(
                self.documents, lambda: self.batches.token_budget, lambda: self.loaded.device, share=False
            )
        other = Evaluation(self.loaded, self.documents, self.choices, batches, self.progress, self.cache, ablation)
        other._outcomes = {pruned: known for pruned, known in self._outcomes.items() if not any(pruned)}
        return other

    def remember(
        self, results: Likelihoods, heads: Iterable[Head] = (), ffns: Iterable[int] = (), experts: Iterable[Expert] = ()
    ) -> None:
        """Take the results of an evaluation on the same documents that was made elsewhere."""
        pruned = frozenset(heads), frozenset(ffns), frozenset(experts)
        self._outcomes[pruned] = outcomes(self.documents, self.choices, results)

    def keep_whole(self, results: Likelihoods) -> None:
        """Save the whole model's evaluation in the cache for the task's other jobs, which all begin with it."""
        with open_unit(self.cache, self.batches) as unit:
            for number in range(len(self.documents)):
                if number not in unit.done:
                    unit.add(number, **results.entry(self.batches.sequence_slice(number)))

    def outcomes(
        self, heads: Iterable[Head] = (), ffns: Iterable[int] = (), experts: Iterable[Expert] = ()
    ) -> dict[str, Any]:
        """Compute the columns of :func:`outcomes` with these heads, FFNs of these layers and these experts pruned."""
        return self._outcomes_of([(heads, ffns, experts)])[0]

    def _outcomes_of(
        self, pruned: Iterable[tuple[Iterable[Head], Iterable[int], Iterable[Expert]]]
    ) -> list[dict[str, Any]]:
        """The same of several sets of heads, FFNs and experts. In the order of their levels they cost the least."""
        keys = [(frozenset(heads), frozenset(ffns), frozenset(experts)) for heads, ffns, experts in pruned]
        new = [key for key in dict.fromkeys(keys) if key not in self._outcomes]
        if self.progress:
            self.progress.reuse((len(keys) - len(new)) * len(self.documents))
        if new:
            removals = [
                Removal(
                    gates_without(self.loaded.shape, heads) if heads else None,
                    tuple(sorted(ffns)),
                    tuple(sorted(experts)),
                )
                for heads, ffns, experts in new
            ]
            each = likelihoods_of(self.loaded, self.batches, removals, self.progress, self.cache, self.ablation)
            self._outcomes |= {
                key: outcomes(self.documents, self.choices, results) for key, results in zip(new, each, strict=True)
            }
        return [self._outcomes[key] for key in keys]

    def curve(self, ranking: Sequence[Head], levels: Sequence[int]) -> Columns:
        """Build the columns of a pruned-evaluation artifact: each row prunes the first heads of ``ranking``.

        Args:
            ranking: all heads, least important first.
            levels: percent of all heads, each from 0 to 100.
        """
        return by_column(self._levels(levels, ranking, ()))

    def ffn_curve(self, ranking: Sequence[int], levels: Sequence[int]) -> Columns:
        """Build the same columns for FFNs; ``ranking`` holds all layers, the least important FFN first."""
        return by_column(self._levels(levels, (), ranking))

    def expert_curve(self, ranking: Sequence[Expert], levels: Sequence[int]) -> Columns:
        """Build the same columns for experts; ``ranking`` holds all of them, least important first."""
        return by_column(self._levels(levels, (), (), ranking))

    def _levels(
        self, levels: Sequence[int], heads: Sequence[Head], ffns: Sequence[int], experts: Sequence[Expert] = ()
    ) -> list[dict[str, Any]]:
        """Rows of a curve of heads, FFNs or experts; the other rankings are empty."""
        pruned = [(_first(heads, percent), _first(ffns, percent), _first(experts, percent)) for percent in levels]
        return [
            {
                "percent": percent,
                "n_pruned": sum(map(len, removed)),
                "parameters_removed": self._parameters(*removed),
                "partner": None,
                "correlation": None,
                **evaluated,
            }
            for percent, removed, evaluated in zip(levels, pruned, self._outcomes_of(pruned), strict=True)
        ]

    def grid(
        self, heads: Sequence[Head], ffns: Sequence[int], head_levels: Sequence[int], ffn_levels: Sequence[int]
    ) -> Columns:
        """Build the columns of a joint-evaluation artifact: one row per pair of levels (Figure 7)."""
        rows = []
        for percent_heads in head_levels:
            pruned = [(_first(heads, percent_heads), _first(ffns, percent), ()) for percent in ffn_levels]
            for percent_ffns, removed, evaluated in zip(ffn_levels, pruned, self._outcomes_of(pruned), strict=True):
                rows.append(
                    {
                        "percent_heads": percent_heads,
                        "percent_ffns": percent_ffns,
                        "n_heads": len(removed[0]),
                        "n_ffns": len(removed[1]),
                        "parameters_removed": self._parameters(*removed),
                        **evaluated,
                    }
                )
        return by_column(rows)

    def _parameters(self, heads: Sequence[Head], ffns: Sequence[int], experts: Sequence[Expert] = ()) -> int:
        model = self.loaded.skeleton
        without_ffns = sum(architectures.ffn_parameters(model, layer) for layer in ffns)
        return architectures.removed_parameters(model, heads) + without_ffns + expert_parameters(model, experts)


def _first(ranking: Sequence[Any], percent: int) -> Sequence[Any]:
    """What a level prunes of a ranking."""
    return ranking[: count_at(percent, len(ranking))]
