"""The pruned-evaluation artifacts: a row per pruning level of heads or FFNs, and a row per cell of the joint grid."""

import pyarrow as pa

from lm_headroom.artifacts.answers import answer_columns
from lm_headroom.artifacts.store import ArtifactSchema, Column

EVALUATED = (
    Column("accuracy", pa.float64(), "share of questions answered right"),
    Column("stderr", pa.float64(), "its standard error over questions; NaN for one question", undefined=True),
    Column("accuracy_norm", pa.float64(), "acc_norm, where the task defines it", nullable=True),
    Column("stderr_norm", pa.float64(), "its standard error", nullable=True, undefined=True),
    Column("n_documents", pa.int32(), "questions evaluated"),
    Column("n_truncated", pa.int32(), "of these, how many lost context on the left to fit the window"),
    Column("doc_id", pa.list_(pa.int64()), "the questions, in the order of the lists below"),
    Column("correct", pa.list_(pa.bool_()), "per question: answered right"),
    Column("correct_norm", pa.list_(pa.bool_()), "per question: right by acc_norm", nullable=True),
    *answer_columns(),
)
"""What an evaluation of a set of documents yields."""

PRUNED_EVAL = ArtifactSchema(
    "pruned_eval",
    (
        Column("percent", pa.int32(), "share of heads (or FFNs) pruned, in percent of all"),
        Column("n_pruned", pa.int32(), "number of them pruned: floor(percent * total / 100)"),
        Column("parameters_removed", pa.int64(), "parameters that go with them"),
        Column("partner", pa.string(), "transfer: the task whose ranking this is", nullable=True),
        Column("correlation", pa.float64(), "transfer: its correlation with this task's ranking", nullable=True),
        *EVALUATED,
    ),
)

JOINT_EVAL = ArtifactSchema(
    "joint_eval",
    (
        Column("percent_heads", pa.int32(), "share of heads pruned, in percent of all"),
        Column("percent_ffns", pa.int32(), "share of FFNs pruned, in percent of all"),
        Column("n_heads", pa.int32(), "heads pruned: floor(percent_heads * heads / 100)"),
        Column("n_ffns", pa.int32(), "FFNs pruned: floor(percent_ffns * FFNs / 100)"),
        Column("parameters_removed", pa.int64(), "parameters that go with both"),
        *EVALUATED,
    ),
)
