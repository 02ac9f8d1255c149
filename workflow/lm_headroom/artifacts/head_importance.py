"""The head-importance artifact: a row per head. The columns from ``token`` on are
:data:`lm_headroom.study.ranking_names.CRITERIA`."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column
from lm_headroom.study.criteria import CHOOSING, HEADS, criterion_columns

HEAD_IMPORTANCE = ArtifactSchema(
    "head_importance",
    (
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0"),
        Column(
            "score", pa.float64(), "importance, nats by eq. 8-9 (aggregate: eq. 10); by another criterion in its unit"
        ),
        Column("stderr", pa.float64(), "standard error over documents; missing for mean_rank", nullable=True),
        Column("score_even", pa.float64(), "score on the documents at even places"),
        Column("score_odd", pa.float64(), "score on the documents at odd places"),
        *(
            Column(name, pa.float64(), f"{row.formula}, {row.unit}", nullable=name in CHOOSING)
            for name, row in criterion_columns(HEADS).items()
        ),
    ),
    grids=(("layer", "head"),),
)
