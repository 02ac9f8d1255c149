"""The criteria by which heads, FFNs and experts can be ranked, a row each: configuration, documentation, controls and
artifacts take them from here.

g_d is the product A . dL/dA of a head (F . dL/dF of an FFN, or of what an expert adds to its FFN), summed over the
tokens of document d: the derivative of the document's loss by a gate on its output. Removing the component closes the
gate, so -g_d estimates the rise of the loss to first order. c_d is the same product of the loss of choosing, the cross
entropy over the answer choices: -log of the sum of softmax(l)_k over the right choices k, with l_k the log-likelihood
of choice k, summed over its tokens and not normalised by length, as `acc` compares them. Lower scores are pruned first.
Standard library only: the Snakefile imports this module at every parse.
"""

from __future__ import annotations

from dataclasses import dataclass

from lm_headroom.study.choices import KnockoutOutcome

HEADS, FFNS, EXPERTS = "heads", "ffns", "experts"
ALL = (HEADS, FFNS, EXPERTS)


@dataclass(frozen=True)
class Criterion:
    """A row of the table.

    Attributes:
        formula: of the score, as the documentation prints it.
        unit: of the score.
        source: where it was proposed.
        passes: what it costs per scoring document.
        needs_gradients: whether it comes from a backward pass.
        components: what it ranks.
        knockout: the outcome whose loss without the component is the score; empty where no component is removed.
        choosing_form_of: the criterion that is the same of g_d, where this one is of c_d.
    """

    formula: str
    unit: str
    source: str
    passes: str
    needs_gradients: bool = True
    components: tuple[str, ...] = (HEADS, FFNS)
    knockout: KnockoutOutcome | None = None
    choosing_form_of: str = ""


def _oracle(outcome: KnockoutOutcome, loss: str) -> Criterion:
    passes = "half a forward pass per head (`head_oracle`), FFN or expert, shared by all oracles"
    formula = f"{loss} without the component (eq. 7)"
    return Criterion(formula, "see the outcome", "arXiv 2212.09095", passes, False, ALL, outcome)


def _of_choosing(name: str, formula: str, unit: str) -> Criterion:
    passes = (
        "one forward and one backward pass over all choices of the document, shared by all criteria of choosing, "
        "beside those of `token`; only where a study names one of them"
    )
    return Criterion(formula, unit, f"this project: {name} of another loss", passes, choosing_form_of=name)


HIES_ALPHA = 0.5
"""Weight of importance in `hies`; the paper tunes it by task and level."""
_ONE = "one forward and one backward pass, shared by all criteria of gradients"
_FORWARD = "one forward pass, shared with the gradients"
CRITERIA: dict[str, Criterion] = {
    "token": Criterion(
        "eq. 8-9 read per token: |A_t . dL/dA_t| over documents and tokens",
        "nats",
        "arXiv 2212.09095, its code",
        _ONE,
        components=ALL,
    ),
    "example": Criterion("eq. 8 read literally: mean of |g_d|", "nats", "arXiv 2212.09095", _ONE, components=ALL),
    "target": Criterion(
        "token, with the last layer divided by the target tokens alone",
        "nats",
        "arXiv 2212.09095, its code",
        _ONE,
        components=(HEADS,),
    ),
    "loss_rise": Criterion(
        "-mean of g_d: first-order rise of the loss", "nats", "arXiv 1611.06440, signed", _ONE, components=ALL
    ),
    "fisher": Criterion(
        "mean of g_d^2: empirical Fisher information of the gate",
        "nats^2",
        "arXiv 1801.05787",
        _ONE,
        components=ALL,
    ),
    "second_order": Criterion(
        "mean of -g_d + g_d^2 / 2: second-order rise of the loss, with the empirical Fisher in the Hessian's place",
        "nats",
        "arXiv 1801.05787, with the linear term",
        _ONE,
        components=ALL,
    ),
    "trusted_loss_rise": Criterion(
        "loss_rise where example is at most its median, and example, which is larger, elsewhere",
        "nats",
        "this project: signs count where the step is small",
        _ONE,
        components=ALL,
    ),
    "trusted_second_order": Criterion(
        "second_order where example is at most its median; elsewhere example, above all of these",
        "nats",
        "this project: signs count where the step is small",
        _ONE,
        components=ALL,
    ),
    "choosing_loss_rise": _of_choosing(
        "loss_rise",
        "-mean of c_d: first-order rise of the loss of choosing, -log softmax(l) of the right choice over all choices, "
        "with l the log-likelihoods as `acc` compares them: summed over tokens, not normalised by length",
        "nats",
    ),
    "choosing_fisher": _of_choosing(
        "fisher", "mean of c_d^2: empirical Fisher information of the gate, by the loss of choosing", "nats^2"
    ),
    "choosing_second_order": _of_choosing(
        "second_order",
        "mean of -c_d + c_d^2 / 2: second-order rise of the loss of choosing, with the empirical Fisher in the "
        "Hessian's place",
        "nats",
    ),
    "trusted_choosing_loss_rise": _of_choosing(
        "trusted_loss_rise",
        "choosing_loss_rise where the mean of |c_d| is at most its median, and that mean, which is larger, elsewhere",
        "nats",
    ),
    "trusted_choosing_second_order": _of_choosing(
        "trusted_second_order",
        "choosing_second_order where the mean of |c_d| is at most its median; elsewhere that mean, above all of these",
        "nats",
    ),
    "magnitude": Criterion(
        "||W_O^h||_F, of the head's slice of the output projection",
        "weights",
        "arXiv 1608.08710",
        "none",
        False,
        (HEADS,),
    ),
    "output_norm": Criterion(
        "mean over input tokens of ||A_t W_O^h||_2, what the head writes",
        "activations",
        "arXiv 2004.10102",
        _FORWARD,
        False,
        (HEADS,),
    ),
    "attention_entropy": Criterion(
        "-mean over query positions of the entropy of the head's attention, where the first position counts with 0: "
        "heads that attend most evenly are pruned first",
        "nats",
        "arXiv 2510.13832, its entropy alone",
        _FORWARD,
        False,
        (HEADS,),
    ),
    "hies": Criterion(
        f"Head Importance-Entropy Score: a I + (1 - a) (1 - E) with a = {HIES_ALPHA:g}, where I is example and E the "
        "mean over documents of n tokens of their mean attention entropy over log n, both min-max normalised over all "
        "heads",
        "share",
        "arXiv 2510.13832, eq. 1, with one fixed a",
        _ONE,
        components=(HEADS,),
    ),
    "bos_sink": Criterion(
        "1 - mean over query positions, the first included, of the attention to the first token: heads of the highest "
        "sink are pruned first",
        "attention",
        "arXiv 2601.06787",
        _FORWARD,
        False,
        (HEADS,),
    ),
    "depth": Criterion(
        "number of layers above: upper layers are pruned first", "layers", "arXiv 2403.17887", "none", False, ALL
    ),
    "usage": Criterion(
        "share of the scoring documents' tokens that the router sends to the expert",
        "share",
        "arXiv 2206.00277",
        _FORWARD,
        False,
        (EXPERTS,),
    ),
    "oracle_accuracy": _oracle("accuracy", "accuracy lost"),
    "oracle_loss": _oracle("loss", "rise of the gold continuation's loss"),
    "oracle_gold_probability": _oracle("gold_probability", "gold probability lost"),
}
"""All criteria. Scores of those without a knockout are columns of the head-importance artifact, for FFNs of the
FFN-gradient artifact. Those of choosing are missing there unless the study names one."""
CHOOSING = {name: row.choosing_form_of for name, row in CRITERIA.items() if row.choosing_form_of}
"""Criteria by the loss of choosing, each with the one that is the same by the loss of eq. 9."""


def criteria_of(component: str) -> tuple[str, ...]:
    """Names of the criteria that rank heads, FFNs or experts."""
    return tuple(name for name, criterion in CRITERIA.items() if component in criterion.components)


def criterion_columns(component: str) -> dict[str, Criterion]:
    """The criteria of heads, FFNs or experts whose scores are columns of an artifact."""
    return {name: row for name, row in CRITERIA.items() if component in row.components and row.knockout is None}


def expert_criteria() -> tuple[str, ...]:
    """Criteria by which a task's own ranking of experts can rank: those that the passes over its documents decide."""
    return tuple(name for name, row in criterion_columns(EXPERTS).items() if row.passes != "none")


def task_criteria() -> tuple[str, ...]:
    """Criteria by which a task's own ranking of heads can rank: the passes over its scoring documents decide them."""
    return tuple(name for name, row in criterion_columns(HEADS).items() if row.passes != "none")
