"""The FFN-gradient artifact: a row per layer."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column
from lm_headroom.study.criteria import CHOOSING, FFNS, criterion_columns

FFN_GRADIENT = ArtifactSchema(
    "ffn_gradient",
    (
        Column("layer", pa.int32(), "layer, from 0"),
        Column(
            "score",
            pa.float64(),
            "gradient score of its FFN, by eq. 8 in nats for what it adds to the residual, or another criterion",
        ),
        Column("stderr", pa.float64(), "standard error over documents"),
        Column("score_even", pa.float64(), "score on the documents at even places"),
        Column("score_odd", pa.float64(), "score on the documents at odd places"),
        *(
            Column(name, pa.float64(), f"{row.formula}, {row.unit}", nullable=name in CHOOSING)
            for name, row in criterion_columns(FFNS).items()
        ),
    ),
    grids=(("layer",),),
)
