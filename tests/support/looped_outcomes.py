"""Outcomes by plain loops over documents and choices, from an artifact's rows or from anyone's log-likelihoods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FROM_LIKELIHOODS = ("gold_probability", "gold_probability_norm", "gold_bits_per_byte", "loss", "margin")


def document_score(
    outcome: str, log_p: Sequence[float], gold: Sequence[bool], n_bytes: Sequence[int], n_tokens: Sequence[int]
) -> float | None:
    """An outcome of one document, higher is better; None where its choices do not define it."""
    right = [choice for choice, is_right in enumerate(gold) if is_right]
    wrong = [choice for choice, is_right in enumerate(gold) if not is_right]
    if outcome == "loss":
        return log_p[right[0]] / n_tokens[right[0]]
    if outcome == "gold_bits_per_byte":
        return log_p[right[0]] / math.log(2) / n_bytes[right[0]]
    per_byte = [value / size for value, size in zip(log_p, n_bytes, strict=True)]
    if outcome == "margin":
        return max(per_byte[choice] for choice in right) - max(per_byte[choice] for choice in wrong) if wrong else None
    values = per_byte if outcome == "gold_probability_norm" else list(log_p)
    p = [math.exp(value - max(values)) for value in values]
    return sum(p[choice] for choice in right) / sum(p) if len(p) > 1 else None


def question_scores(
    outcome: str, row: Mapping[str, Any], column: str = "log_likelihoods", gold: str = "gold"
) -> list[float] | None:
    """An outcome of each question, the mean over its documents; None where some document does not define it."""
    names = (column, gold, "n_bytes", "n_tokens")
    scores = [document_score(outcome, *of_one) for of_one in zip(*(row[name] for name in names), strict=True)]
    if None in scores:
        return None
    by_question: dict[int, list[float]] = {}
    for question, score in zip(row["document_question"], scores, strict=True):
        by_question.setdefault(question, []).append(score)
    return [sum(members) / len(members) for members in by_question.values()]


def right_answers(
    row: Mapping[str, Any], column: str = "log_likelihoods", lengths: Sequence[Sequence[int]] | None = None
) -> list[bool]:
    """Whether each question is answered right: in all of its documents a right choice is the likeliest.

    Args:
        row: of an artifact.
        column: of log-likelihoods.
        lengths: characters of the choices, by document, where likelihoods are per character.
    """
    right: dict[int, bool] = {}
    for number, (question, log_p, gold) in enumerate(
        zip(row["document_question"], row[column], row["gold"], strict=True)
    ):
        values = log_p if lengths is None else [v / n for v, n in zip(log_p, lengths[number], strict=True)]
        right[question] = right.get(question, True) and gold[values.index(max(values))]
    return list(right.values())
