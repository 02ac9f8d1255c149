"""The FFN-importance artifact: a row per layer."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lm_headroom.artifacts.answers import answer_columns
from lm_headroom.artifacts.store import ArtifactSchema, Column
from lm_headroom.study.choices import ACCURACY, KnockoutOutcome

FFN_IMPORTANCE = ArtifactSchema(
    "ffn_importance",
    (
        Column("layer", pa.int32(), "layer, from 0"),
        Column(
            "score",
            pa.float64(),
            "what the outcome `ffn.metric` loses without this FFN (eq. 7), in its unit; above 0 if the model is worse",
        ),
        Column(
            "stderr",
            pa.float64(),
            "its standard error, questions paired; NaN for one question, missing for mean_rank",
            nullable=True,
            undefined=True,
        ),
        Column("accuracy_dense", pa.float64(), "accuracy of the whole model"),
        Column("accuracy_ablated", pa.float64(), "accuracy without this FFN"),
        Column("doc_id", pa.list_(pa.int64()), "the questions, in the order of the lists below", nullable=True),
        Column("correct_dense", pa.list_(pa.bool_()), "per question: right by the whole model", nullable=True),
        Column("correct_ablated", pa.list_(pa.bool_()), "per question: right without this FFN", nullable=True),
        *answer_columns(has_dense=True, nullable=True),
    ),
    grids=(("layer",),),
)


def metric_of(provenance: Mapping[str, Any]) -> KnockoutOutcome:
    """The outcome whose losses are the scores of an artifact with this provenance."""
    metric: KnockoutOutcome = provenance.get("options", {}).get("metric", ACCURACY)
    return metric


def selection_of(provenance: Mapping[str, Any]) -> str | None:
    """Which documents removed FFNs, `scoring` or `evaluation`, of an artifact with this provenance; None if unknown."""
    selection: str | None = provenance.get("options", {}).get("selection")
    return selection
