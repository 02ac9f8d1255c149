"""The learned-ranking artifact: heads or FFNs in the order in which a learned mask closes them."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column

LEARNED_RANKING = ArtifactSchema(
    "learned_ranking",
    (
        Column("rank", pa.int32(), "0 = closed first, pruned first"),
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0; missing for FFNs", nullable=True),
        Column("score", pa.float64(), "share of the path of sparsities on which its gate was open, 0 to 1"),
        Column("log_alpha", pa.float64(), "of its gate in the end, before the shift that holds the open share"),
    ),
    grids=(("rank",),),
)
