"""The copying artifact: a row per head."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column

COPYING = ArtifactSchema(
    "copying",
    (
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0"),
        Column("mean", pa.float64(), "copying score (Algorithm 2), mean over sequences"),
        Column("variance", pa.float64(), "sample variance over sequences; missing for one sequence", nullable=True),
        Column("n_sequences", pa.int32(), "number of sequences"),
    ),
    grids=(("layer", "head"),),
)
