"""Head importance over few-shot seeds: a row per task (and the aggregate), number of shots and head."""

import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactSchema, Column

SEED_SCORES = ArtifactSchema(
    "seed_scores",
    (
        Column("task", pa.string(), "a task, or 'aggregate'"),
        Column("shots", pa.int32(), "number of few-shot examples"),
        Column("layer", pa.int32(), "layer, from 0"),
        Column("head", pa.int32(), "query head, from 0"),
        Column("score", pa.float64(), "importance, mean over seeds, in the unit of the scores"),
        Column("variance", pa.float64(), "sample variance of the score over seeds, in that unit squared"),
        Column(
            "seed_variance",
            pa.float64(),
            "the part of it that stays with more scoring documents: the seed's variance component, at least 0",
        ),
    ),
)
