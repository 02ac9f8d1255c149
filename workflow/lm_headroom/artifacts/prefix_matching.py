"""The prefix-matching artifact: a row per head."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column

PREFIX_MATCHING = ArtifactSchema(
    "prefix_matching",
    (
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0"),
        Column("mean", pa.float64(), "prefix-matching score (Algorithm 1), mean over sequences"),
        Column("variance", pa.float64(), "sample variance over sequences; missing for one sequence", nullable=True),
        Column("n_sequences", pa.int32(), "number of sequences"),
    ),
    grids=(("layer", "head"),),
)
