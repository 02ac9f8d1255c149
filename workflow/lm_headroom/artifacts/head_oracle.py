"""The head-oracle artifact: a row per head that was removed alone."""

import pyarrow as pa

from lm_headroom.artifacts.answers import answer_columns
from lm_headroom.artifacts.store import ArtifactSchema, Column

HEAD_ORACLE = ArtifactSchema(
    "head_oracle",
    (
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0; all heads, or a sample of them"),
        Column(
            "loss_rise", pa.float64(), "loss without this head minus loss with it, nats per gold token (L of eq. 8)"
        ),
        Column("loss_stderr", pa.float64(), "its standard error, questions paired; NaN for one", undefined=True),
        Column("loss_rise_even", pa.float64(), "the same on the questions at even places", undefined=True),
        Column("loss_rise_odd", pa.float64(), "the same on the questions at odd places", undefined=True),
        Column("accuracy_lost", pa.float64(), "accuracy of the model minus accuracy without this head"),
        Column("accuracy_stderr", pa.float64(), "its standard error, questions paired; NaN for one", undefined=True),
        Column("doc_id", pa.list_(pa.int64()), "the questions, in the order of the lists below"),
        Column("loss_rises", pa.list_(pa.float32()), "per question: rise of the loss, nats"),
        Column("correct_dense", pa.list_(pa.bool_()), "per question: right by the whole model"),
        Column("correct_ablated", pa.list_(pa.bool_()), "per question: right without this head"),
        *answer_columns(has_dense=True),
    ),
)
