"""The cross-task correlation artifact: a row per ordered pair of tasks (the aggregate counts as one)."""

import pyarrow as pa

from lm_headroom.artifacts.ceilings import CEILINGS
from lm_headroom.artifacts.store import ArtifactSchema, Column

CROSS_TASK = ArtifactSchema(
    "cross_task",
    (
        Column("task_a", pa.string(), "a task, or 'aggregate'"),
        Column("task_b", pa.string(), "a task, or 'aggregate'"),
        Column("srcc", pa.float64(), "Spearman's rank correlation of the two score vectors", undefined=True),
        Column("p_value", pa.float64(), "its two-sided p-value (assumes independent heads)", undefined=True),
        Column("argsort_statistic", pa.float64(), "the released code's statistic: Pearson of the argsort permutations"),
        Column("overlap_top30", pa.float64(), "share of the top 30% heads that the two have in common"),
        Column("srcc_within_layer", pa.float64(), "mean SRCC inside layers, or their key-value groups", nullable=True),
        *CEILINGS,
        Column(
            "srcc_leave_one_out",
            pa.float64(),
            "task against the aggregate of the others; only in rows that pair a task with the aggregate",
            nullable=True,
            undefined=True,
        ),
        Column(
            "srcc_leave_one_out_corrected",
            pa.float64(),
            "the same, corrected for attenuation; missing where a reliability is too low",
            nullable=True,
        ),
        Column(
            "p_permutation_leave_one_out",
            pa.float64(),
            "its one-sided p-value against shuffles within layers and key-value groups",
            nullable=True,
            undefined=True,
        ),
        Column(
            "reliability_leave_one_out",
            pa.float64(),
            "split-half reliability of the aggregate of the others; missing where its halves do not agree at all",
            nullable=True,
        ),
    ),
)
