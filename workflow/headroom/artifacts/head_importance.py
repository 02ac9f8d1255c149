"""The head-importance artifact: a row per head."""

import pyarrow as pa

from headroom.artifacts.store import Column, Kind

HEAD_IMPORTANCE = Kind(
    "head_importance",
    "{model}/head_importance/{task or aggregate}/{k}shot-seed{s}.parquet",
    (
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0"),
        Column("score", pa.float64(), "importance, nats (eq. 8-9; aggregate: eq. 10)"),
        Column("stderr", pa.float64(), "standard error over documents; missing for mean_rank", nullable=True),
        Column("score_even", pa.float64(), "score on the documents at even places"),
        Column("score_odd", pa.float64(), "score on the documents at odd places"),
    ),
    grids=(("layer", "head"),),
)
