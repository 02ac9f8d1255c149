"""The expert-importance artifact: a row per expert of each layer that has experts."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column
from lm_headroom.study.criteria import CRITERIA, EXPERTS, criteria_of

EXPERT_IMPORTANCE = ArtifactSchema(
    "expert_importance",
    (
        Column("layer", pa.int32(), "layer, from 0"),
        Column("expert", pa.int32(), "expert of the layer, from 0; shared experts, which see every token, are none"),
        Column("score", pa.float64(), "importance by `experts.criterion`"),
        Column("stderr", pa.float64(), "its standard error over documents"),
        Column("score_even", pa.float64(), "score on the documents at even places"),
        Column("score_odd", pa.float64(), "score on the documents at odd places"),
        *(
            Column(
                name,
                pa.float64(),
                f"{CRITERIA[name].formula}, {CRITERIA[name].unit}",
                nullable=CRITERIA[name].knockout is not None,
            )
            for name in criteria_of(EXPERTS)
        ),
    ),
    grids=(("layer", "expert"),),
)
