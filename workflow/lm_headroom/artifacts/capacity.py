"""The capacity artifact: a row per task (and the aggregate), induction score and number of heads pruned."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column

CAPACITY = ArtifactSchema(
    "capacity",
    (
        Column("task", pa.string(), "whose ranking prunes: a task, or 'aggregate'"),
        Column("score", pa.string(), "prefix_matching or copying"),
        Column("n_pruned", pa.int32(), "number of least important heads pruned, 0 to all"),
        Column("percent", pa.float64(), "the same in percent of all heads"),
        Column("retained", pa.float64(), "share of the model's total score that the other heads hold, 1 to 0"),
    ),
)
