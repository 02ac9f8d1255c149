"""The head-importance artifact: a row per head. The columns from ``token`` on are
:data:`lm_headroom.study.ranking_names.CRITERIA`."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column

HEAD_IMPORTANCE = ArtifactSchema(
    "head_importance",
    (
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0"),
        Column("score", pa.float64(), "importance, nats (eq. 8-9; aggregate: eq. 10)"),
        Column("stderr", pa.float64(), "standard error over documents; missing for mean_rank", nullable=True),
        Column("score_even", pa.float64(), "score on the documents at even places"),
        Column("score_odd", pa.float64(), "score on the documents at odd places"),
        Column("token", pa.float64(), "eq. 8-9 read per token: |A_t . dL/dA_t| over documents and tokens, nats"),
        Column("example", pa.float64(), "read per example: the mean over documents of |sum over tokens|, nats"),
        Column("target", pa.float64(), "token, with the last layer divided by the target tokens alone, nats"),
        Column("magnitude", pa.float64(), "||W_O^h||_F, of the head's slice of the output projection"),
        Column("output_norm", pa.float64(), "mean over input tokens of ||A_t W_O^h||_2, what the head writes"),
    ),
    grids=(("layer", "head"),),
)
