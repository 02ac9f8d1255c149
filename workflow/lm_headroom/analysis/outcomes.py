"""Outcomes: what an evaluation says of a question, from the log-likelihoods of its choices.

Every outcome is a score per question, and higher is better: bits per byte and the loss are negated. ``shown`` turns a
score into what readers expect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from lm_headroom.study.choices import ACCURACY, Outcome

Array = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class OutcomeSpec:
    """A row of the table of outcomes.

    Attributes:
        title: what figures and tables call it.
        unit: of a difference.
        factor: what is shown per 1 of the score: 100 turns shares into points, a negative one a score into a cost.
        formula: of one document, as the documentation prints it.
        source: where it was proposed or is used.
        decimals: of what is shown.
    """

    title: str
    unit: str
    factor: float
    formula: str
    source: str
    decimals: int = 1

    @property
    def is_cost(self) -> bool:
        """Whether less of what is shown is better."""
        return self.factor < 0

    @property
    def is_share(self) -> bool:
        """Whether scores lie between 0 and 1, one scale for all tasks."""
        return self.unit == "points"

    @property
    def loss_title(self) -> str:
        """What figures and tables call a loss: ``accuracy lost``; a cost rises."""
        return f"rise of the {self.title}".replace("the bits", "bits") if self.is_cost else f"{self.title} lost"

    def shown(self, score: Any) -> Any:
        """What readers are shown of a score."""
        return self.factor * score

    def shown_loss(self, loss: Any) -> Any:
        """What readers are shown of a loss, which is positive where the model got worse."""
        return abs(self.factor) * loss


OUTCOMES: dict[Outcome, OutcomeSpec] = {
    "accuracy": OutcomeSpec(
        "accuracy", "points", 100, "1 if the choice of the highest log p is right, else 0", "lm-eval's acc; the paper"
    ),
    "accuracy_norm": OutcomeSpec(
        "normalised accuracy", "points", 100, "the same by log p / characters", "lm-eval's acc_norm"
    ),
    "gold_probability": OutcomeSpec(
        "gold probability",
        "points",
        100,
        "sum over right choices c of p_c / sum over all choices of p",
        "DataDecide, arXiv 2504.11393",
    ),
    "gold_probability_norm": OutcomeSpec(
        "normalised gold probability", "points", 100, "the same with p^(1 / bytes)", "DataDecide, arXiv 2504.11393"
    ),
    "gold_bits_per_byte": OutcomeSpec(
        "bits per byte of the gold continuation",
        "bits per byte",
        -1,
        "-log2 p / bytes of the first right choice",
        "Signal and Noise, arXiv 2508.13144",
        3,
    ),
    "loss": OutcomeSpec(
        "loss of the gold continuation", "nats per token", -1, "-log p / tokens of the first right choice", "eq. 8", 3
    ),
    "margin": OutcomeSpec(
        "margin of the gold continuation",
        "nats per byte",
        1,
        "log p / bytes of the best right choice minus that of the best other",
        "OLMES, arXiv 2406.08446",
        3,
    ),
}
"""All outcomes."""
RIGHT_ANSWERS = ("accuracy", "accuracy_norm")
"""Outcomes that artifacts hold as right or wrong; the others follow from the log-likelihoods."""
MEASURES: dict[str, Outcome] = {
    f"{outcome}_{'rise' if spec.is_cost else 'lost'}": outcome for outcome, spec in OUTCOMES.items()
}
"""Measures of the oracle, as artifacts name losses of an outcome."""
AMONG_CHOICES = ("gold_probability", "gold_probability_norm", "margin")
"""Outcomes that compare choices: not defined where a document has one continuation alone."""


@dataclass(frozen=True)
class AnswerKey:
    """What outcomes need to know of an evaluation's documents, whose choices lie end to end.

    Attributes:
        n_choices: [document].
        question: number of each document's question, from 0 in order of appearance, [document].
        gold: whether a choice is a right one, [choice].
        n_bytes, n_tokens: of the choice's continuation, [choice].
    """

    n_choices: Integers
    question: Integers
    gold: Flags
    n_bytes: Integers
    n_tokens: Integers

    @property
    def starts(self) -> Integers:
        """Where each document's choices begin, [document]."""
        starts: Integers = np.concatenate([[0], np.cumsum(self.n_choices)[:-1]]).astype(int)
        return starts

    def defines(self, outcome: Outcome) -> bool:
        """Whether every document has the choices that an outcome compares."""
        n_right = np.add.reduceat(self.gold.astype(int), self.starts)
        has_other = bool((n_right < self.n_choices).all()) if outcome == "margin" else bool((self.n_choices > 1).all())
        has_right = bool((n_right > 0).all())
        return has_right and (outcome not in AMONG_CHOICES or has_other)

    def scores(self, outcome: Outcome, log_likelihoods: Array) -> Array:
        """Scores of an outcome that follows from log-likelihoods.

        A question of several documents has the mean of theirs.

        Args:
            outcome: one that is not in :data:`RIGHT_ANSWERS`, and that the documents define.
            log_likelihoods: nats, [..., choice].

        Returns:
            [..., question]

        Example:
            >>> key = AnswerKey(*map(np.array, ([2], [0], [True, False], [4, 4], [1, 1])))
            >>> key.scores("gold_probability", np.log([0.3, 0.1])).round(2).tolist()
            [0.75]
        """
        documents = self._by_document(outcome, np.asarray(log_likelihoods, dtype=float))
        n_questions = int(self.question.max()) + 1
        members = np.zeros((len(self.question), n_questions))
        members[np.arange(len(self.question)), self.question] = 1
        scores: Array = documents @ members / members.sum(axis=0)
        return scores

    def _by_document(self, outcome: Outcome, values: Array) -> Array:
        """The same by document, [..., document]."""
        starts = self.starts
        if outcome in ("gold_bits_per_byte", "loss"):
            places = np.arange(len(self.gold))
            first = np.minimum.reduceat(np.where(self.gold, places, len(places)), starts)
            per_unit = self.n_bytes[first] * np.log(2) if outcome == "gold_bits_per_byte" else self.n_tokens[first]
            result: Array = values[..., first] / per_unit
            return result
        if outcome != "gold_probability":
            values = values / self.n_bytes
        if outcome == "margin":
            best, other = (
                np.maximum.reduceat(np.where(chosen, values, -np.inf), starts, axis=-1)
                for chosen in (self.gold, ~self.gold)
            )
            return np.asarray(best - other)
        # The highest of each document is taken away first, so that nothing underflows.
        highest = np.repeat(np.maximum.reduceat(values, starts, axis=-1), self.n_choices, axis=-1)
        weights = np.exp(values - highest)
        right, total = (np.add.reduceat(weights * part, starts, axis=-1) for part in (self.gold, 1.0))
        return np.asarray(right / total)


def in_title(outcome: Outcome) -> str:
    """What a title that does not begin with the outcome ends with: of accuracy, the paper's, nothing."""
    return "" if outcome == ACCURACY else f", by {OUTCOMES[outcome].title}"


def answer_key_of(columns: Mapping[str, Sequence[Any]]) -> AnswerKey:
    """The key of an evaluation.

    Args:
        columns: ``document_question`` per document, and ``gold``, ``n_bytes`` and ``n_tokens`` per document and choice,
            as artifacts hold them of each evaluation.
    """
    gold, n_bytes, n_tokens = (
        np.array(list(chain.from_iterable(columns[name]))) for name in ("gold", "n_bytes", "n_tokens")
    )
    numbers = {question: number for number, question in enumerate(dict.fromkeys(columns["document_question"]))}
    question = np.array([numbers[name] for name in columns["document_question"]])
    return AnswerKey(np.array([len(choices) for choices in columns["gold"]]), question, gold, n_bytes, n_tokens)


def explain_undefined(outcome: Outcome) -> str:
    """Why a task does not define an outcome, as a clause."""
    spec = OUTCOMES[outcome]
    if outcome == "accuracy_norm":
        return f"{spec.title} exists for tasks that define {spec.source}, and not for knockouts of single components"
    if outcome in AMONG_CHOICES:
        return f"{spec.title} compares choices, and some document has one alone, or none that is right or wrong"
    return f"{spec.title} needs a right choice in every document, and some document has none"
