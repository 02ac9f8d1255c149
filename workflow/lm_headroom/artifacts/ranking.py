"""The ranking artifacts: heads, FFNs, and experts, from least to most important."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column

RANKING = ArtifactSchema(
    "ranking",
    (
        Column("rank", pa.int32(), "0 = least important, pruned first"),
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0"),
        Column("score", pa.float64(), "importance that the rank comes from"),
    ),
    grids=(("layer", "head"), ("rank",)),
)

FFN_RANKING = ArtifactSchema(
    "ffn_ranking",
    (
        Column("rank", pa.int32(), "0 = least important, pruned first"),
        Column("layer", pa.int32(), "layer, from 0"),
        Column("score", pa.float64(), "importance that the rank comes from"),
    ),
    grids=(("layer",), ("rank",)),
)

EXPERT_RANKING = ArtifactSchema(
    "expert_ranking",
    (
        Column("rank", pa.int32(), "0 = pruned first: least important, and one that its layer can lose"),
        Column("layer", pa.int32(), "layer, from 0"),
        Column("expert", pa.int32(), "expert, from 0"),
        Column("score", pa.float64(), "importance that the rank comes from"),
    ),
    grids=(("layer", "expert"), ("rank",)),
)
