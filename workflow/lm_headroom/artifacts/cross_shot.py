"""The cross-shot correlation artifact: a row per task (and the aggregate) and pair of shots."""

import pyarrow as pa

from lm_headroom.artifacts.ceilings import CEILINGS
from lm_headroom.artifacts.store import ArtifactSchema, Column

CROSS_SHOT = ArtifactSchema(
    "cross_shot",
    (
        Column("task", pa.string(), "a task, or 'aggregate'"),
        Column("shots_a", pa.int32(), "the smaller number of shots"),
        Column("shots_b", pa.int32(), "the larger number of shots"),
        Column("srcc", pa.float64(), "Spearman's rank correlation of the task's two score vectors", undefined=True),
        Column("p_value", pa.float64(), "its two-sided p-value (assumes independent heads)", undefined=True),
        Column("argsort_statistic", pa.float64(), "the released code's statistic: Pearson of the argsort permutations"),
        Column("overlap_top30", pa.float64(), "share of the top 30% heads that the two have in common"),
        Column("srcc_within_layer", pa.float64(), "mean SRCC inside layers, or their key-value groups", nullable=True),
        *CEILINGS,
    ),
)
