"""The induction-ablation artifact: a row per set of heads that is taken away."""

import pyarrow as pa

from lm_headroom.artifacts.pruned_eval import EVALUATED
from lm_headroom.artifacts.store import ArtifactSchema, Column

INDUCTION_ABLATION = ArtifactSchema(
    "induction_ablation",
    (
        Column("selection", pa.string(), "what chose the heads: prefix_matching, copying, both; none: the whole model"),
        Column("percent", pa.int32(), "share of heads chosen, in percent of all"),
        Column("control", pa.int32(), "number of the random control, from 1; missing: the chosen heads", nullable=True),
        Column("n_heads", pa.int32(), "heads ablated: floor(percent * heads / 100)"),
        Column("n_shared", pa.int32(), "heads of a control that are chosen ones: their layer has too few others"),
        Column("parameters_removed", pa.int64(), "parameters of these heads"),
        Column("layer", pa.list_(pa.int32()), "per head ablated: its layer, from 0"),
        Column("head", pa.list_(pa.int32()), "per head ablated: its number in that layer, from 0"),
        *EVALUATED,
    ),
)
