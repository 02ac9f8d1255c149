"""The iterative-ranking artifact: heads in the order in which they go, importance computed again in between."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column

ITERATIVE_RANKING = ArtifactSchema(
    "iterative_ranking",
    (
        Column("rank", pa.int32(), "0 = pruned first"),
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0"),
        Column("score", pa.float64(), "score by the criterion when its round began; rounds do not compare"),
        Column("percent", pa.int32(), "percent of all heads that were gone then"),
    ),
    grids=(("layer", "head"), ("rank",)),
)
