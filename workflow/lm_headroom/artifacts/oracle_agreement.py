"""The oracle-agreement artifact: a row per kind of component, task, shot and measure of the oracle."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column


def _maybe(name: str, description: str) -> Column:
    return Column(name, pa.float64(), description, nullable=True)


ORACLE_AGREEMENT = ArtifactSchema(
    "oracle_agreement",
    (
        Column("component", pa.string(), "heads or ffns"),
        Column("task", pa.string(), "task"),
        Column("shots", pa.int32(), "few-shot examples"),
        Column(
            "measure",
            pa.string(),
            "of the oracle; ffns: the loss of `ffn.metric`, such as accuracy_lost; heads: loss_rise (of eq. 8's loss), "
            "loss_change (its size, question by question), accuracy_lost and, where defined, gold_probability_lost",
        ),
        Column("n_components", pa.int32(), "heads or FFNs that the oracle removed, each alone"),
        Column("n_questions", pa.int32(), "questions that it was measured on"),
        _maybe("srcc", "Spearman's rank correlation of gradient scores and oracle; missing where one is constant"),
        _maybe("srcc_low", "lower 95% limit of it, over questions (and heads, where they are a sample)"),
        _maybe("srcc_high", "upper limit"),
        _maybe("srcc_within_layer", "heads: mean of the SRCC inside layers, or inside their key-value groups"),
        _maybe("reliability_gradient", "split-half reliability of the gradient scores, Spearman-Brown"),
        _maybe("reliability_oracle", "of the oracle"),
        _maybe("noise_ceiling", "root of their product: the SRCC of equal rankings that are measured as noisily"),
        _maybe(
            "corrected",
            "srcc / noise_ceiling, of scores of the same documents (FFNs under `ffn.selection: scoring`) the SRCC of "
            "halves that share none over the root of both reliabilities of a half; may exceed 1; missing where there "
            "is too much noise to say",
        ),
        _maybe("corrected_low", "lower 95% limit of it"),
        _maybe("corrected_high", "upper limit"),
    ),
)
