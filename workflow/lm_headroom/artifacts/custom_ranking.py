"""The custom-ranking artifact: heads or FFNs by scores of the user's own, from least to most important."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column

CUSTOM_RANKING = ArtifactSchema(
    "custom_ranking",
    (
        Column("rank", pa.int32(), "0 = lowest score, pruned first"),
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0; missing for FFNs", nullable=True),
        Column("score", pa.float64(), "the score that was given"),
    ),
    grids=(("rank",),),
)
