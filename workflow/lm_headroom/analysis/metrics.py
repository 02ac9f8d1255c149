"""Accuracies and their standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Choices:
    """What is known of a document's choices.

    Attributes:
        doc_id: number of the document.
        gold: which choices are right.
        lengths: their lengths in characters where acc_norm counts.
        question: which question the document belongs to; None where it is one of its own.
        greedy: right if greedy decoding gives its one continuation, as lm-eval's loglikelihood tasks.
        n_bytes: bytes of their continuations in UTF-8.
    """

    doc_id: int
    gold: tuple[bool, ...]
    lengths: tuple[int, ...] | None
    question: int | None = None
    greedy: bool = False
    n_bytes: tuple[int, ...] = ()


def correct(choices: Choices, log_likelihoods: Array) -> bool:
    """Whether the most likely choice (the first of equals, as lm-eval's acc) is a right one."""
    return choices.gold[int(np.argmax(log_likelihoods))]


def correct_normalised(choices: Choices, log_likelihoods: Array) -> bool | None:
    """lm-eval's acc_norm: log-likelihood per character of the choice. None where the task does not define it."""
    if choices.lengths is None:
        return None
    return choices.gold[int(np.argmax(log_likelihoods / np.array(choices.lengths, dtype=float)))]


def mean_and_error(outcomes: Sequence[float] | Array) -> tuple[float, float]:
    """Mean of outcomes and its standard error, from the sample variance as lm-eval's mean_stderr.

    The error of a single outcome is not known: NaN.
    """
    values = np.array(outcomes, dtype=float)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(values.mean()), error


def by_question(choices: Sequence[Choices], right: Sequence[bool]) -> dict[int, bool]:
    """Outcome of each question, in order of appearance: right if all of its documents are."""
    outcomes: dict[int, bool] = {}
    for document, outcome in zip(choices, right, strict=True):
        question = document.doc_id if document.question is None else document.question
        outcomes[question] = outcomes.get(question, True) and outcome
    return outcomes
